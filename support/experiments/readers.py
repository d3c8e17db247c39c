"""Readers of the official files: idx (the MNIST family), the binary CIFAR, SVHN's mat, and numpy's npz.

What a file holds is compared with what its format promises, checksums included, before it is used: a file that was cut
or changed is refused by name.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from support.errors import Refused, instance, integer

Part = tuple[np.ndarray, np.ndarray]


class DataError(Refused):
    """Data that is missing, damaged or of another form; the message names the file and the remedy."""


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in the idx format of the MNIST family (big-endian sizes, then the values), gzipped or not.
    Raises DataError for a damaged file.
    """
    content = _bytes(_path(path))
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"{path} is no idx file of bytes: replace it by the official file")
    axes = content[3]
    start = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", content[4:start]) if len(content) >= start else ()
    if len(content) != start + math.prod(shape) or not shape:
        raise DataError(
            f"{path} holds {len(content)} bytes, not the {start + math.prod(shape)} that its header promises: it is "
            f"damaged, replace it"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_cifar(content: bytes, where: Path | str, label_bytes: int = 1) -> Part:
    """Images (m, 32, 32, 3) and labels (m,) from records of the binary CIFAR: label bytes, the last of which is kept,
    then 3 x 32 x 32 bytes. CIFAR-10 has one label byte, CIFAR-100 two: the coarse label, then the fine one.

    Raises DataError for bytes that are no whole records.

    >>> images, labels = read_cifar(bytes([4, 7] + [0] * 3072), "here", label_bytes=2)
    >>> images.shape, labels
    ((1, 32, 32, 3), array([7], dtype=uint8))
    """
    instance("content", content, bytes, "give the bytes of a file")
    size = integer("label_bytes", label_bytes, 1) + 3072
    if not content or len(content) % size:
        raise DataError(
            f"{where} holds {len(content)} bytes, no multiple of the {size:,} of a record: it is damaged, replace it"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, label_bytes - 1].copy()


def read_mat(path: Path) -> Part:
    """Images (m, 32, 32, 3) and labels (m,) from a mat file of SVHN, whose arrays are X (32, 32, 3, m) and y (m, 1).

    The file has labels 1 to 10 and means the digit 0 by 10: a digit's label is the digit here, ``y mod 10``. (The
    released code of Wu et al. takes ``y − 1``: the same classes under other numbers.)
    Raises DataError for a damaged file, and for one without these arrays.

    >>> import tempfile
    >>> from scipy.io import savemat
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     savemat(f"{folder}/two.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.uint8([[7], [10]])})
    ...     read_mat(f"{folder}/two.mat")[1]
    array([7, 0], dtype=uint8)
    """
    from scipy.io import loadmat

    content = _bytes(_path(path))
    try:
        _check_mat(content)
        arrays = loadmat(io.BytesIO(content), variable_names=("X", "y"))
    except Exception as error:  # a damaged file raises what the readers of its layers raise
        raise DataError(f"{path} cannot be read ({error}): it is damaged, replace it") from error
    images, labels = (arrays.get(name, np.zeros(0)) for name in ("X", "y"))
    if images.ndim != 4 or images.dtype != np.uint8 or labels.dtype != np.uint8 or labels.size != images.shape[3]:
        raise DataError(f"{path} lacks images X (32, 32, 3, m) or labels y (m, 1), both bytes: replace the file")
    if labels.min(initial=1) < 1 or labels.max(initial=1) > 10:
        raise DataError(f"{path} holds labels {labels.min()} to {labels.max()}, not 1 to 10: replace the file")
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels.ravel() % 10


def _check_mat(content: bytes) -> None:
    """Unpack every packed element of a mat file of version 5, so that the checksum at its end is compared."""
    at, size = 128, 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, at)
        if kind == 15:
            zlib.decompress(content[at + 8 : at + 8 + size])
        at += 8 + size
    if at != len(content):
        raise ValueError(f"{len(content)} bytes, not the {at} that its elements promise")


def read_npz(path: Path, *names: str) -> list[np.ndarray]:
    """Named arrays of a numpy .npz file, never unpickled. Raises DataError for a damaged file or a missing name."""
    path = _path(path)
    try:
        with zipfile.ZipFile(path) as file:
            # whole members: numpy stops where an array ends, and only their last byte brings their checksum
            members = [io.BytesIO(file.read(f"{name}.npy")) for name in names]
        return [np.lib.format.read_array(member, allow_pickle=False) for member in members]
    except KeyError:
        raise DataError(f"{path} lacks one of the arrays {', '.join(names)}: replace the file") from None
    except Exception as error:  # a damaged file raises what the readers of its layers raise
        raise DataError(f"{path} cannot be read ({error}): it is damaged, replace it") from error


# --- folders with the official files ----------------------------------------------------------------------------------


def mnist_folder(folder: Path) -> tuple[Part, Part]:
    """Training and test part of MNIST or FashionMNIST, from four idx files, gzipped or not. Raises DataError."""

    def part(kind: str) -> Part:
        return tuple(read_idx(_plain_or_gz(folder, f"{kind}-{what}-ubyte")) for what in ("images-idx3", "labels-idx1"))

    return part("train"), part("t10k")


def _plain_or_gz(folder: Path, name: str) -> Path:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise DataError(f"{folder} lacks {name}(.gz): put the official file there")
    return found[0]


def cifar_folder(
    folder: Path, archive: str, train: Sequence[str], test: str, label_bytes: int = 1
) -> tuple[Part, Part]:
    """Training and test part of CIFAR-10 or CIFAR-100, from the files of these names: in their archive, or unpacked.

    Raises DataError for an archive that is damaged, and for files that are missing or cut.
    """
    names, packed = (*train, test), folder / archive
    if packed.is_file():
        try:
            # the whole archive first: its checksum stands at its end, where tarfile does not look
            with tarfile.open(fileobj=io.BytesIO(_bytes(packed))) as tar:
                contents = {
                    Path(m.name).name: tar.extractfile(m).read()
                    for m in tar.getmembers()
                    if Path(m.name).name in names and m.isfile()
                }
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise DataError(f"{packed} cannot be read ({error}): it is damaged, replace it") from error
    else:
        contents = {name: _bytes(folder / name) for name in names if (folder / name).is_file()}
    if missing := [name for name in names if name not in contents]:
        raise DataError(f"{folder} lacks {', '.join(missing)}: put the official files there")
    parts = [read_cifar(contents[name], folder / name, label_bytes) for name in names]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True)), parts[-1]


def svhn_folder(folder: Path) -> tuple[Part, Part]:
    """Training and test part of SVHN, from its two mat files of cropped digits. Raises DataError."""
    return read_mat(folder / "train_32x32.mat"), read_mat(folder / "test_32x32.mat")


# --- bytes of a file --------------------------------------------------------------------------------------------------


def _path(path) -> Path:
    return Path(instance("path", path, (str, Path), "give the file's path"))


def _bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): it is damaged, replace it") from error
