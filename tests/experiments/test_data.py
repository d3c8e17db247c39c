"""Readers on small files made in the official formats, refusals of damaged data, and what a run is given."""

import gzip
import hashlib
import logging
import os
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from official_files import CIFAR_FILES, cifar, idx, packed, pictures, same, svhn

from support.errors import WrongType
from support.experiments import data
from support.experiments.readers import DataError
from support.experiments.seeding import stream

REAL = os.environ.get("SUPPORT_DATA", "")


@pytest.fixture
def small(monkeypatch):
    """The data sets with 60 + 40 images, so that whole folders of official files can be made here."""
    counts_of = {"cifar10": (50, 20), "cifar100": (200, 100)}
    for name, source in data.SOURCES.items():
        counts = counts_of.get(name, (60, 40))
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


# --- folders


@pytest.mark.parametrize(("name", "inner"), [("fashion_mnist", "FashionMNIST/raw"), ("mnist", "mnist")])
@pytest.mark.parametrize("gz", [True, False])
def test_official_files_of_the_mnist_family(small, folder, name, inner, gz):
    parts = write_mnist(folder / inner, gz)
    images = data.load(name)
    assert same(images.train, parts["train"]) and same(images.test, parts["t10k"])


@pytest.mark.parametrize("archive", [True, False])
def test_official_files_of_cifar(small, folder, archive):
    batches = {name: pictures(10 if "data" in name else 20, (32, 32, 3)) for name in CIFAR_FILES}
    if archive:
        packed(folder / "cifar-10-binary.tar.gz", {name: cifar(*batch) for name, batch in batches.items()})
    else:
        (folder / "cifar-10-batches-bin").mkdir()
        for name, batch in batches.items():
            (folder / "cifar-10-batches-bin" / name).write_bytes(cifar(*batch))
    images = data.load("cifar10")
    train = [
        np.concatenate(arrays) for arrays in zip(*(batches[f"data_batch_{k}.bin"] for k in range(1, 6)), strict=True)
    ]
    assert same(images.train, train) and same(images.test, batches["test_batch.bin"])


@pytest.mark.parametrize("archive", [True, False])
def test_official_files_of_cifar_100(small, folder, archive):
    """Its fine labels, of which there are 100; files whose coarse ones were read instead would lack most."""
    parts = {name: pictures(m, (32, 32, 3), classes=100) for name, m in (("train.bin", 200), ("test.bin", 100))}
    files = {name: cifar(*part, coarse=part[1] // 5) for name, part in parts.items()}
    if archive:
        packed(folder / "cifar-100-binary.tar.gz", files | {"fine_label_names.txt": b"apple"})
    else:
        for name, content in files.items():
            (folder / "cifar-100-binary").mkdir(exist_ok=True)
            (folder / "cifar-100-binary" / name).write_bytes(content)
    images = data.load("cifar100")
    assert same(images.train, parts["train.bin"]) and same(images.test, parts["test.bin"]) and images.classes == 100


def test_labels_that_a_hundred_classes_lack_are_refused(small, folder):
    for name, m in (("train.bin", 200), ("test.bin", 100)):
        (folder / name).write_bytes(cifar(*pictures(m, (32, 32, 3), classes=99), coarse=np.zeros(m, int)))
    with pytest.raises(DataError, match="train files of cifar100 hold labels other than 0 to 99, or not all of them"):
        data.load("cifar100")


@pytest.mark.parametrize("compressed", [True, False])
def test_official_files_of_svhn(small, folder, compressed):
    """The digit 0, which the files call 10, has the label 0."""
    parts = {"train": pictures(60, (32, 32, 3)), "test": pictures(40, (32, 32, 3))}
    (folder / "svhn").mkdir()
    for kind, part in parts.items():
        svhn(folder / "svhn" / f"{kind}_32x32.mat", *part, compressed)
    images = data.load("svhn")
    assert same(images.train, parts["train"]) and same(images.test, parts["test"]) and images.classes == 10


def test_the_sizes_of_the_official_files():
    counts = {name: source.counts for name, source in data.SOURCES.items()}
    assert counts["svhn"] == (73_257, 26_032) and counts["cifar100"] == counts["cifar10"] == (50_000, 10_000)
    assert {len(md5) for source in data.SOURCES.values() for md5 in source.files.values()} == {32}


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


def test_bytes_are_the_images_as_they_are_stored(digits):
    options = {"protocol": "paper", "seed": 1, "pixels": "centred"}
    stored, scaled = data.split(digits, 30, as_bytes=True, **options), data.split(digits, 30, **options)
    assert stored.train[0].dtype == stored.test[0].dtype == np.uint8 and stored.train[0].shape == (30, 1, 8, 8)
    assert np.array_equal(stored.train[0][:, 0], digits.test[0][stored.chosen])
    assert np.array_equal(stored.train[0] / 8 - 1, scaled.train[0]) and same(stored.train[1:], scaled.train[1:])


def test_labels_are_drawn_anew_among_all_classes():
    part = pictures(400, (2, 2), classes=100)
    images = data.Images("some", part, part, classes=100)
    found = data.split(images, 400, protocol="code", seed=1, corrupted=(0, 400)).train[1]
    assert found.max() > 90 and len(set(found)) > 90  # 100 · (1 − 0.99^400) = 98.2 of them in the mean


# --- images of half the side


def test_half_the_side_is_the_rounded_mean_of_four_pixels():
    train, test = pictures(6, (4, 6, 3)), pictures(5, (4, 6, 3))
    small = data.halved(data.Images("cifar10", train, test, classes=7))
    assert small.name == "cifar10 at 2 x 3" and small.classes == 7 and same(small.train[1:], train[1:])
    for k in range(6):
        for i in range(2):
            for j in range(3):
                four = train[0][k, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(4, 3).astype(float)
                assert (small.train[0][k, i, j] == np.floor(four.mean(0) + 0.5)).all()
    assert small.test[0].shape == (5, 2, 3, 3) and small.test[0].dtype == np.uint8


def test_halving_twice_names_the_last_size_and_white_stays_white():
    white = np.full((2, 8, 8), 255, np.uint8), np.zeros(2, np.uint8)
    small = data.halved(data.halved(data.Images("mnist", white, white)))
    assert small.name == "mnist at 2 x 2" and (small.train[0] == 255).all()
    with pytest.raises(DataError, match="mnist has 7 x 8 pixels: only even sides can be halved"):
        data.halved(data.Images("mnist", (white[0][:, 1:], white[1]), white))


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
        (lambda: data.split(data.load(), 10, protocol="code", seed=1, as_bytes=1), "as_bytes = 1 is not a boolean"),
        (lambda: data.halved("digits"), "images = 'digits' is of type str"),
        (lambda: data.scaling(["unit"]), "pixels = .* is unknown"),
        (lambda: data.scaling("unit", 1.5), "brightest = 1.5 is not an integer"),
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
