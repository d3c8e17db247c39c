"""A pack of data: small, the same images on the other side, refused where it is too large."""

import errno
from dataclasses import replace

import numpy as np
import pytest

from support import files
from support.__main__ import main
from support.experiments import data, data_pack
from support.experiments.data_pack import PackError, Part
from support.experiments.presets.setting import Setting
from support.experiments.readers import DataError

CIFAR = Setting(dataset="cifar10")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder with a small FashionMNIST, and CIFAR-10 of which 20,000 training images are there."""
    folder, random = tmp_path / "source", np.random.default_rng(0)
    folder.mkdir()

    def images(count, *shape):
        coarse = random.integers(0, 256, (count, *shape), dtype=np.uint8)
        return np.repeat(np.repeat(coarse, 4, 1), 4, 2), (np.arange(count) % 10).astype(np.uint8)

    fashion, small = data.SOURCES["fashion_mnist"], replace(data.SOURCES["cifar10"], shape=(4, 4, 3))
    monkeypatch.setitem(data.SOURCES, "fashion_mnist", replace(fashion, counts=(60, 40)))
    monkeypatch.setitem(data.SOURCES, "cifar10", small)
    for name, count, tests, shape in (("fashion_mnist", 60, 40, (7, 7)), ("cifar10", 20_000, 10_000, (1, 1, 3))):
        train, test = images(count, *shape), images(tests, *shape)
        np.savez(folder / f"{name}.npz", x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
    yield at(monkeypatch, folder)
    forget()


def forget():
    data._load.cache_clear(), data._load_half.cache_clear()


def at(monkeypatch, folder):
    forget()
    monkeypatch.setenv("SUPPORT_DATA", str(folder))
    return folder


def same(one, other):
    return one.name == other.name and all(
        np.array_equal(a, b) for a, b in zip((*one.train, *one.test), (*other.train, *other.test), strict=True)
    )


def test_a_pack_gives_the_same_images_and_is_smaller(source, tmp_path, monkeypatch):
    half = replace(CIFAR, halved=True)
    before = data.load("fashion_mnist"), data.load("cifar10", half=True), data.load("digits")
    sizes = data_pack.write(data_pack.needed([Setting(), half, half, Setting(dataset="digits")]), tmp_path / "pack")
    assert {path.name: path.stat().st_size for path in (tmp_path / "pack").iterdir()} == sizes
    assert sizes.keys() == {"fashion_mnist.npz", "cifar10_halved.npz", "digits.npz"}
    assert sum(sizes.values()) < sum(path.stat().st_size for path in source.iterdir()) / 2
    at(monkeypatch, tmp_path / "pack")
    after = data.load("fashion_mnist"), data.load("cifar10", half=True), data.load("digits")
    assert all(map(same, before, after)) and after[1].train[0].shape == (20_000, 2, 2, 3)
    with pytest.raises(DataError, match="cifar10 is not in SUPPORT_DATA"):
        data.load("cifar10")  # which is not there at its full size


def test_a_pack_keeps_the_first_images_of_a_data_set(source, tmp_path, monkeypatch):
    before = data.load("cifar10")
    parts = data_pack.needed([CIFAR], {"cifar10": (10_000, 2000)})
    assert list(data_pack.write(parts, tmp_path / "pack")) == ["cifar10.npz (10,000 training, 2,000 test images)"]
    at(monkeypatch, tmp_path / "pack")
    after = data.load("cifar10")
    assert np.array_equal(after.train[0], before.train[0][:10_000])
    assert np.array_equal(after.test[1], before.test[1][:2000])
    with pytest.raises(PackError, match=r"has 10,000 training images, not 20,000: keep fewer"):
        data_pack.content(Part("cifar10", False, 20_000, 1000))


def test_a_data_set_of_which_one_run_needs_the_whole_is_packed_whole():
    assert [part.halved for part in data_pack.needed([CIFAR, replace(CIFAR, halved=True)])] == [False]
    with pytest.raises(PackError, match="no run needs mnist: the data sets are cifar10"):
        data_pack.needed([CIFAR], {"mnist": (10, 10)})


def test_the_same_data_is_the_same_file():
    assert data_pack.npz(x=np.arange(9)) == data_pack.npz(x=np.arange(9))


def test_what_cannot_be_packed_is_one_line_and_nothing_written(source, tmp_path, monkeypatch):
    parts, folder = data_pack.needed([Setting(), CIFAR]), tmp_path / "pack"
    with pytest.raises(PackError, match=r"MiB, more than 0\.0: .*\.npz .*; name fewer plans") as refused:
        data_pack.write(parts, folder, limit=100)
    assert "cifar10.npz" in str(refused.value) and "\n" not in str(refused.value) and not folder.exists()
    folder.mkdir()
    (folder / "mnist.npz").touch()
    with pytest.raises(PackError, match=r"holds mnist\.npz: name an empty one"):
        data_pack.write(parts, folder)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_whole", full)
    with pytest.raises(PackError, match="No space left on device"):
        data_pack.write(parts, tmp_path / "other")
    with pytest.raises(PackError, match="no run needs any data"):
        data_pack.write([], tmp_path / "other")


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch")
    (tmp_path / "cache").touch()
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    forget()
    with pytest.raises(DataError, match="could not be had from"):
        data.load("mnist")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "cifar10"], "--keep 'cifar10' is malformed: write NAME=TRAINING+TEST"),
        (["--plans", "none"], "there is no plan 'none'"),
        (["-o", " "], "--output is empty"),
        (["--limit", "0"], "limit = 0 is out of range"),
    ],
)
def test_bad_requests_are_refused_before_any_work(tmp_path, capsys, arguments, message):
    assert main(["experiments", "pack", "-o", str(tmp_path / "pack"), *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1 and not (tmp_path / "pack").exists()
