"""Readers on small files made in the official formats, refusals of damaged data, and what a run is given."""

import gzip
import hashlib
import io
import logging
import os
import struct
import sys
import tarfile
import types
from dataclasses import replace

import numpy as np
import pytest

from support.errors import WrongType
from support.experiments import data, readers
from support.experiments.readers import DataError
from support.experiments.seeding import stream

CIFAR_FILES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
REAL = os.environ.get("SUPPORT_DATA", "")
RANDOM = np.random.default_rng(0)


def pictures(m, shape=(28, 28)):
    images = RANDOM.integers(0, 256, (m, *shape), dtype=np.uint8)
    return images, (np.arange(m) % 10).astype(np.uint8)


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def cifar(images, labels):
    return b"".join(
        bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(images, labels, strict=True)
    )


@pytest.fixture
def small(monkeypatch):
    """The data sets with 60 + 40 images, so that whole folders of official files can be made here."""
    for name, source in data.SOURCES.items():
        counts = (50, 20) if name == "cifar10" else (60, 40)
        monkeypatch.setitem(data.SOURCES, name, replace(source, counts=counts))
    data._load.cache_clear()
    yield
    data._load.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPPORT_DATA", str(tmp_path))
    data._load.cache_clear()
    return tmp_path


def write_mnist(folder, gz=True, parts=None):
    folder.mkdir(parents=True, exist_ok=True)
    parts = parts or {"train": pictures(60), "t10k": pictures(40)}
    for kind, arrays in parts.items():
        for what, array in zip(("images-idx3", "labels-idx1"), arrays, strict=True):
            content = idx(array)
            (folder / f"{kind}-{what}-ubyte{'.gz' if gz else ''}").write_bytes(
                gzip.compress(content) if gz else content
            )
    return parts


def same(part, arrays):
    return all(np.array_equal(a, b) for a, b in zip(part, arrays, strict=True))


# --- readers


@pytest.mark.parametrize("gz", [True, False])
def test_idx_gives_back_what_was_written(tmp_path, gz):
    images, _ = pictures(7, (3, 5))
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx(images)) if gz else idx(images))
    assert np.array_equal(readers.read_idx(path), images)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c[:-1], "holds 120 bytes, not the 121"),
        (lambda c: c + b"x", "not the 121"),
        (lambda c: c[:9], "it is damaged"),
        (lambda c: b"\0\0\x0d" + c[3:], "no idx file of bytes"),
        (lambda c: b"", "no idx file"),
        (lambda c: gzip.compress(c)[:-9], "cannot be read"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, spoil, message):
    path = tmp_path / "file"
    path.write_bytes(spoil(idx(pictures(7, (3, 5))[0])))
    with pytest.raises(DataError, match=message):
        readers.read_idx(path)


def test_a_bit_of_a_packed_file_is_noticed(small, tmp_path):
    """In the middle of each file, where it is data, and at its end, where its checksum stands."""
    images, labels = pictures(20, (32, 32, 3))
    gz, npz, folder = tmp_path / "file.gz", tmp_path / "file.npz", tmp_path / "cifar"
    gz.write_bytes(gzip.compress(idx(images)))
    np.savez(npz, x=images, y=labels)
    folder.mkdir()
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name in CIFAR_FILES:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(cifar(images, labels))
            tar.addfile(member, io.BytesIO(cifar(images, labels)))
    calls = {
        gz: lambda: readers.read_idx(gz),
        npz: lambda: readers.read_npz(npz, "x", "y"),
        folder / "cifar-10-binary.tar.gz": lambda: data.SOURCES["cifar10"].read(folder),
    }
    for path, call in calls.items():
        whole = path.read_bytes()
        call()
        for byte in (*range(len(whole) // 3, 2 * len(whole) // 3, len(whole) // 20), len(whole) - 6):
            spoiled = bytearray(whole)
            spoiled[byte] ^= 1
            path.write_bytes(spoiled)
            with pytest.raises(DataError, match=r"it is damaged|lacks"):
                call()


def test_a_damaged_header_of_an_array_is_refused_or_does_not_matter(tmp_path):
    path, refused = tmp_path / "file.npz", 0
    images, _ = pictures(3)
    np.savez(path, x=images)
    whole = path.read_bytes()
    for byte in range(160):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 64]) + whole[byte + 1 :])
        try:
            assert np.array_equal(readers.read_npz(path, "x")[0], images)
        except DataError:
            refused += 1
    assert refused > 100


def test_cifar_records_give_back_what_was_written():
    images, labels = pictures(20, (32, 32, 3))
    assert same(readers.read_cifar(cifar(images, labels), "here"), (images, labels))
    with pytest.raises(DataError, match="61459 bytes, no multiple of the 3,073"):
        readers.read_cifar(cifar(images, labels)[:-1], "here")


# --- folders


@pytest.mark.parametrize(("name", "inner"), [("fashion_mnist", "FashionMNIST/raw"), ("mnist", "mnist")])
@pytest.mark.parametrize("gz", [True, False])
def test_official_files_of_the_mnist_family(small, folder, name, inner, gz):
    parts = write_mnist(folder / inner, gz)
    images = data.load(name)
    assert same(images.train, parts["train"]) and same(images.test, parts["t10k"])


@pytest.mark.parametrize("packed", [True, False])
def test_official_files_of_cifar(small, folder, packed):
    batches = {name: pictures(10 if "data" in name else 20, (32, 32, 3)) for name in CIFAR_FILES}
    if packed:
        with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
            for name, batch in batches.items():
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = len(cifar(*batch))
                tar.addfile(member, io.BytesIO(cifar(*batch)))
    else:
        (folder / "cifar-10-batches-bin").mkdir()
        for name, batch in batches.items():
            (folder / "cifar-10-batches-bin" / name).write_bytes(cifar(*batch))
    images = data.load("cifar10")
    train = [
        np.concatenate(arrays) for arrays in zip(*(batches[f"data_batch_{k}.bin"] for k in range(1, 6)), strict=True)
    ]
    assert same(images.train, train) and same(images.test, batches["test_batch.bin"])


def test_npz_files(small, folder):
    (xs, ys), (xt, yt) = pictures(60), pictures(40)
    np.savez_compressed(folder / "mnist.npz", x_train=xs, y_train=ys, x_test=xt, y_test=yt)
    images = data.load("mnist")
    assert same(images.train, (xs, ys)) and same(images.test, (xt, yt)) and images.brightest == 255


def test_a_damaged_npz_file_is_never_used(small, folder):
    (xs, ys), (xt, yt) = pictures(60), pictures(40)
    path = folder / "mnist.npz"
    np.savez_compressed(path, x_train=xs, y_train=ys, x_test=xt, y_test=yt)
    content = path.read_bytes()
    for bad in (content[: len(content) // 2], content[:2000] + bytes([content[2000] ^ 255]) + content[2001:]):
        path.write_bytes(bad)
        data._load.cache_clear()
        with pytest.raises(DataError, match=r"mnist.npz cannot be read .* replace it"):
            data.load("mnist")
    np.savez_compressed(path, x_train=xs, y_train=ys, x_test=xt)
    with pytest.raises(DataError, match="lacks one of the arrays"):
        data.load("mnist")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x[:-1], y[:-1]), "59 images, not 60"),
        (lambda x, y: (x, y[:-1]), "labels of shape"),
        (lambda x, y: (x, y + 1), "labels other than 0 to 9"),
        (lambda x, y: (x[:, :27], y), r"images of shape \(27, 28\)"),
        (lambda x, y: (x // 4, y), "all dark"),
    ],
)
def test_files_that_are_whole_but_wrong_are_refused(small, folder, spoil, message):
    train, test = pictures(60), pictures(40)
    write_mnist(folder / "mnist", parts={"train": spoil(*train), "t10k": test})
    with pytest.raises(DataError, match=f"train files of mnist hold .*{message}.*: replace them"):
        data.load("mnist")


def test_a_wrong_folder_is_named_with_what_was_looked_for(small, folder, monkeypatch):
    with pytest.raises(
        DataError,
        match=r"is not in SUPPORT_DATA = .*: looked for fashion_mnist.npz, .* train-images-idx3-ubyte.gz in "
        r"fashion_mnist",
    ):
        data.load("fashion_mnist")
    # MNIST and FashionMNIST have the same file names: files outside a folder that bears the name could be either
    write_mnist(folder)
    with pytest.raises(DataError, match="is not in SUPPORT_DATA"):
        data.load("mnist")
    monkeypatch.setenv("SUPPORT_DATA", str(folder / "nowhere"))
    with pytest.raises(DataError, match="nowhere is no folder"):
        data.load("mnist")
    with pytest.raises(DataError, match="no data set 'imagenet': choose one of digits, fashion_mnist"):
        data.load("imagenet")


@pytest.mark.skipif(not REAL, reason="SUPPORT_DATA names no folder with the real files")
@pytest.mark.parametrize(
    ("name", "first", "counts"),
    [
        ("fashion_mnist", [9, 2, 1, 1, 6, 1, 4, 6, 5, 7], [1000] * 10),
        ("mnist", [7, 2, 1, 0, 4, 1, 4, 9, 5, 9], [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    ],
)
def test_the_real_files_are_the_official_ones_in_their_order(monkeypatch, name, first, counts):
    monkeypatch.setenv("SUPPORT_DATA", REAL)
    try:
        images = data.load(name)
    except DataError as error:
        if "is not in SUPPORT_DATA" not in str(error):
            raise
        pytest.skip(f"SUPPORT_DATA = {REAL} has no {name}")
    assert images.test[1][:10].tolist() == first and np.bincount(images.test[1]).tolist() == counts


# --- downloads


@pytest.fixture
def pooch(tmp_path, monkeypatch):
    """A pooch whose server is a folder: it hands out the file, or raises if the checksum is not the asked one."""
    server = tmp_path / "server"
    write_mnist(server)

    def retrieve(url, known_hash, fname, path, progressbar):
        content = (server / fname).read_bytes()
        if known_hash != f"md5:{hashlib.md5(content).hexdigest()}":
            raise ValueError(f"MD5 hash of downloaded file ({fname}) does not match")
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_bytes(content)

    fake = types.SimpleNamespace(
        retrieve=retrieve, os_cache=lambda name: tmp_path / "cache" / name, get_logger=lambda: logging.getLogger("fake")
    )
    monkeypatch.setitem(sys.modules, "pooch", fake)
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in server.iterdir()}
    return server, sums


def test_downloads_are_used_if_their_checksums_are_the_published_ones(small, pooch, monkeypatch):
    _, sums = pooch
    monkeypatch.setitem(data.SOURCES, "mnist", replace(data.SOURCES["mnist"], files=sums))
    assert data.load("mnist").train[0].shape == (60, 28, 28)


def test_a_download_with_another_checksum_is_refused(small, pooch):
    with pytest.raises(
        DataError,
        match=r"train-images-idx3-ubyte.gz of mnist could not be had from https://.*does not match.*SUPPORT_DATA",
    ):
        data.load("mnist")


def test_without_pooch_the_remedy_is_named(small, monkeypatch):
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match="without pooch: `pip install pooch`, or set SUPPORT_DATA"):
        data.load("mnist")


# --- digits and splits


@pytest.fixture
def digits(monkeypatch):
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    return data.load()


def test_digits_are_the_default(digits):
    assert (
        digits.name == "digits"
        and digits.test[0].shape == (1000, 8, 8)
        and digits.train[0].shape == (797, 8, 8)
        and digits.brightest == 16
    )


def test_digits_without_scikit_learn(digits, folder, monkeypatch):
    whole = [np.concatenate([b, a]) for a, b in zip(digits.train, digits.test, strict=True)]
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="scikit-learn, which is not installed"):
        data.load("digits")
    np.savez(folder / "digits.npz", images=whole[0].astype(float), labels=whole[1])
    assert same(data.load("digits").train, digits.train)


def test_the_code_takes_the_first_images_of_the_test_file(digits):
    for seed in (1, 2):
        found = data.split(digits, 300, protocol="code", seed=seed)
        assert np.array_equal(found.train[0][:, 0], digits.test[0][:300]) and np.array_equal(
            found.train[1], digits.test[1][:300]
        )
        assert np.array_equal(found.test[0][:, 0], digits.train[0]) and found.train[0].dtype == np.float32


def test_the_paper_draws_by_seed(digits):
    first, again, other = (data.split(digits, 300, protocol="paper", seed=seed, pixels="unit") for seed in (1, 1, 2))
    assert np.array_equal(first.chosen, again.chosen) and len(set(first.chosen)) == 300
    assert not np.array_equal(np.sort(first.chosen), np.sort(other.chosen))
    assert np.array_equal(first.train[1], digits.test[1][first.chosen])
    assert first.train[0].max() == 1 and np.allclose(first.train[0][:, 0] * 16, digits.test[0][first.chosen])


def test_a_subset_stays_what_the_records_were_made_with(digits):
    assert stream(1, "subset") == int(hashlib.sha256(b"1/subset").hexdigest()[:16], 16) // 2
    assert data.split(digits, 5, protocol="paper", seed=1).chosen.tolist() == [777, 401, 982, 616, 935]


def test_images_of_the_training_file_may_be_drawn(digits):
    found = data.split(digits, 797, protocol="code", seed=1, draw_from="train")
    assert np.array_equal(found.train[0][:, 0], digits.train[0]) and len(found.test[1]) == 1000


def test_some_labels_may_be_drawn_anew(digits):
    before = [part[1].copy() for part in (digits.train, digits.test)]
    options = {"protocol": "paper", "draw_from": "train"}
    clean, found, again, other = (
        data.split(digits, 700, seed=seed, corrupted=at, **options)
        for seed, at in ((1, None), (1, (300, 700)), (1, (300, 700)), (2, (300, 700)))
    )
    assert np.array_equal(found.train[0], clean.train[0]) and np.array_equal(found.train[1], again.train[1])
    assert np.array_equal(found.train[1][:300], clean.train[1][:300]) and not np.array_equal(
        found.train[1][300:], other.train[1][300:]
    )
    assert set(found.train[1][300:]) == set(range(10))
    right = (found.train[1][300:] == clean.train[1][300:]).mean()
    assert 0.04 < right < 0.16, "a tenth of the drawn labels is right: four standard deviations of 400 coins"
    assert np.array_equal(found.test[1], clean.test[1]) and all(
        map(np.array_equal, before, (digits.train[1], digits.test[1]))
    )


def test_centred_pixels_lie_between_minus_one_and_one(digits):
    found = data.split(digits, 300, protocol="code", seed=1, pixels="centred")
    assert (found.train[0].min(), found.train[0].max()) == (-1, 1) and found.train[0].dtype == np.float32
    assert np.allclose((found.train[0][:, 0] + 1) * 8, digits.test[0][:300], atol=1e-5)


def test_colours_come_first():
    images = data.Images("cifar10", pictures(6, (32, 32, 3)), pictures(4, (32, 32, 3)))
    found = data.split(images, 4, protocol="code", seed=1)
    assert found.train[0].shape == (4, 3, 32, 32) and np.array_equal(found.train[0][:, 2], images.test[0][..., 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 1001}, "n = 1001 .* choose 1 to 1000"),
        ({"protocol": "both"}, "protocol = 'both'"),
        ({"pixels": "grey"}, "pixels = 'grey'"),
        ({"corrupted": (5, 11)}, r"corrupted = \(5, 11\) is no range among n = 10"),
    ],
)
def test_choices_that_do_not_exist_are_refused(digits, change, message):
    with pytest.raises(DataError, match=message):
        data.split(digits, **({"n": 10, "protocol": "code", "seed": 1} | change))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.split("digits", 10, protocol="code", seed=1), "images = 'digits' is of type str"),
        (lambda: data.split(data.load(), 10.0, protocol="code", seed=1), "n = 10.0 is not an integer"),
        (lambda: data.split(data.load(), 10, protocol="paper", seed="1"), "seed = '1' is not an integer"),
        (lambda: data.split(data.load(), 10, protocol="code", seed=1, corrupted=3), "corrupted = 3 is of type int"),
        (lambda: readers.read_idx(None), "path = None is of type NoneType"),
        (lambda: readers.read_npz(3, "x"), "path = 3 is of type int"),
        (lambda: readers.read_cifar("text", "here"), "content = 'text' is of type str"),
        (lambda: stream("1", "subset"), "seed = '1' is not an integer"),
        (lambda: stream(True), "seed = True is not an integer"),
        (lambda: stream(1, 2), "purpose = 2 is of type int"),
    ],
)
def test_other_types_are_refused(digits, call, message):
    with pytest.raises(WrongType, match=message):
        call()


def test_a_seed_of_numpy_is_the_same_seed():
    assert stream(np.int64(7), "noise", "SGD") == stream(7, "noise", "SGD") != stream(8, "noise", "SGD")
