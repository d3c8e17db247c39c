"""Readers of the official files: what was written comes back, and what is damaged is refused."""

import gzip

import numpy as np
import pytest
from official_files import CIFAR_FILES, cifar, idx, packed, pictures, same, svhn
from scipy.io import savemat

from support.errors import WrongType
from support.experiments import readers
from support.experiments.data import SOURCES
from support.experiments.readers import DataError


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


def test_a_bit_of_a_packed_file_is_noticed(tmp_path):
    """In the middle of each file, where it is data, and at its end, where its checksum stands."""
    images, labels = pictures(20, (32, 32, 3))
    gz, npz, mat, tar = (tmp_path / name for name in ("file.gz", "file.npz", "file.mat", "cifar-10-binary.tar.gz"))
    gz.write_bytes(gzip.compress(idx(images)))
    np.savez(npz, x=images, y=labels)
    svhn(mat, images, labels)
    packed(tar, {name: cifar(images, labels) for name in CIFAR_FILES})
    calls = {
        gz: lambda: readers.read_idx(gz),
        npz: lambda: readers.read_npz(npz, "x", "y"),
        mat: lambda: readers.read_mat(mat),
        tar: lambda: SOURCES["cifar10"].read(tmp_path),
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


def test_records_of_cifar_100_have_a_coarse_label_before_the_fine_one():
    images, labels = pictures(20, (32, 32, 3), classes=100)
    content = cifar(images, labels, coarse=labels // 5)
    assert len(content) == 20 * 3074 and same(readers.read_cifar(content, "here", 2), (images, labels))
    with pytest.raises(DataError, match="61480 bytes, no multiple of the 3,073 of a record"):
        readers.read_cifar(content, "here")


def test_svhn_gives_back_images_and_digits(tmp_path):
    images, labels = pictures(23, (32, 32, 3))
    for compressed in (True, False):
        svhn(tmp_path / "file.mat", images, labels, compressed)
        assert same(readers.read_mat(tmp_path / "file.mat"), (images, labels))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((2, 2, 3, 4), np.uint8)}, "lacks images X .* or labels y"),
        ({"X": np.zeros((2, 2, 3, 4), np.uint8), "y": np.ones((3, 1), np.uint8)}, "lacks images X"),
        ({"X": np.zeros((2, 2, 3, 4)), "y": np.ones((4, 1), np.uint8)}, "both bytes"),
        ({"X": np.zeros((2, 2, 3, 4), np.uint8), "y": np.zeros((4, 1), np.uint8)}, "holds labels 0 to 0, not 1 to 10"),
    ],
)
def test_a_mat_file_of_something_else_is_refused(tmp_path, arrays, message):
    savemat(tmp_path / "file.mat", arrays)
    with pytest.raises(DataError, match=message):
        readers.read_mat(tmp_path / "file.mat")


@pytest.mark.parametrize("compressed", [True, False])
def test_a_mat_file_that_is_cut_is_refused(tmp_path, compressed):
    path = tmp_path / "file.mat"
    svhn(path, *pictures(5, (32, 32, 3)), compressed)
    whole = path.read_bytes()
    for length in (0, 100, 130, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"file.mat (cannot be read|lacks)"):
            readers.read_mat(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"lacks train.bin, test.bin: put the official files there"):
        readers.cifar_folder(tmp_path, "cifar-100-binary.tar.gz", ("train.bin",), "test.bin", 2)
    with pytest.raises(DataError, match=r"lacks train-images-idx3-ubyte\(.gz\)"):
        readers.mnist_folder(tmp_path)
    with pytest.raises(DataError, match=r"train_32x32.mat cannot be read"):
        readers.svhn_folder(tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: readers.read_idx(None), "path = None is of type NoneType"),
        (lambda: readers.read_npz(3, "x"), "path = 3 is of type int"),
        (lambda: readers.read_cifar("text", "here"), "content = 'text' is of type str"),
        (lambda: readers.read_cifar(b"", "here", 1.0), "label_bytes = 1.0 is not an integer"),
        (lambda: readers.read_mat(None), "path = None is of type NoneType"),
    ],
)
def test_other_types_are_refused(call, message):
    with pytest.raises(WrongType, match=message):
        call()
