"""The images of the experiments: FashionMNIST, MNIST, CIFAR-10, and the small digits of scikit-learn.

`load` looks in the folder that the environment variable ``SUPPORT_DATA`` names; without it, the official files are
downloaded once, compared with their published checksums, and kept in a cache. What a file holds is checked before it is
used: format, shape, labels, counts. `split` then takes a training set and an evaluation set as the papers do, or as
their code does.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from support.errors import Refused, instance, integer
from support.experiments.seeding import stream

Part = tuple[np.ndarray, np.ndarray]


class DataError(Refused):
    """Data that is missing, damaged or of another form; the message names the file and the remedy."""


@dataclass(frozen=True)
class Images:
    """A data set. train, test: the official files as (images, labels), uint8 of shape (m, height, width[, 3]) and (m,).
    brightest: largest pixel value.
    """

    name: str
    train: Part
    test: Part
    brightest: int = 255


@dataclass(frozen=True)
class Source:
    """What a data set is: shape of an image, images of the training and test files, the official files (name: md5) at
    ``url``, their reader.

    folders: where the official files may stand inside ``SUPPORT_DATA``.
    """

    shape: tuple[int, ...]
    counts: tuple[int, int]
    url: str
    files: dict[str, str]
    read: Callable[[Path], tuple[Part, Part]]
    folders: tuple[str, ...]


# --- readers ----------------------------------------------------------------------------------------------------------


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


def read_cifar(content: bytes, where: Path | str) -> Part:
    """Images (m, 32, 32, 3) and labels (m,) from records of CIFAR-10's binary version: a label byte, then 3 x 32 x 32
    bytes. Raises DataError if cut.
    """
    instance("content", content, bytes, "give the bytes of a file")
    if not content or len(content) % 3073:
        raise DataError(
            f"{where} holds {len(content)} bytes, no multiple of the 3,073 of a CIFAR-10 record: it is damaged, "
            f"replace it"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), records[:, 0].copy()


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


def _path(path) -> Path:
    return Path(instance("path", path, (str, Path), "give the file's path"))


def _bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): it is damaged, replace it") from error


def _idx_folder(folder: Path) -> tuple[Part, Part]:
    def part(kind: str) -> Part:
        return tuple(read_idx(_plain_or_gz(folder, f"{kind}-{what}-ubyte")) for what in ("images-idx3", "labels-idx1"))

    return part("train"), part("t10k")


def _plain_or_gz(folder: Path, name: str) -> Path:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise DataError(f"{folder} lacks {name}(.gz): put the official file there")
    return found[0]


_CIFAR_FILES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")


def _cifar_folder(folder: Path) -> tuple[Part, Part]:
    archive = folder / "cifar-10-binary.tar.gz"
    if archive.is_file():
        try:
            # the whole archive first: its checksum stands at its end, where tarfile does not look
            with tarfile.open(fileobj=io.BytesIO(_bytes(archive))) as tar:
                contents = {
                    Path(m.name).name: tar.extractfile(m).read()
                    for m in tar.getmembers()
                    if Path(m.name).name in _CIFAR_FILES and m.isfile()
                }
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise DataError(f"{archive} cannot be read ({error}): it is damaged, replace it") from error
    else:
        contents = {name: _bytes(folder / name) for name in _CIFAR_FILES if (folder / name).is_file()}
    if missing := [name for name in _CIFAR_FILES if name not in contents]:
        raise DataError(f"{folder} lacks {', '.join(missing)}: put the official files there")
    parts = [read_cifar(contents[name], folder / name) for name in _CIFAR_FILES]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts[:5], strict=True)), parts[5]


# --- where they are ---------------------------------------------------------------------------------------------------

_IDX = tuple(f"{kind}-{what}-ubyte.gz" for kind in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
_FASHION = (
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)
_MNIST = (
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
SOURCES = {
    "fashion_mnist": Source(
        shape=(28, 28),
        counts=(60_000, 10_000),
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        files=dict(zip(_IDX, _FASHION, strict=True)),
        read=_idx_folder,
        folders=("fashion_mnist", "FashionMNIST/raw", "FashionMNIST"),
    ),
    "mnist": Source(
        shape=(28, 28),
        counts=(60_000, 10_000),
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        files=dict(zip(_IDX, _MNIST, strict=True)),
        read=_idx_folder,
        folders=("mnist", "MNIST/raw", "MNIST"),
    ),
    "cifar10": Source(
        shape=(32, 32, 3),
        counts=(50_000, 10_000),
        url="https://www.cs.toronto.edu/~kriz/",
        files={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        read=_cifar_folder,
        folders=("cifar10", "cifar-10-batches-bin", "."),
    ),
}
NAMES = ("digits", *SOURCES)


def load(name: str = "digits") -> Images:
    """The data set ``name``: "digits", "fashion_mnist", "mnist" or "cifar10".

    Raises DataError for an unknown name, a folder ``SUPPORT_DATA`` that is missing or lacks the files, and for files
    that are damaged.

    >>> load("digits").train[0].shape
    (797, 8, 8)
    """
    if instance("name", name, str, "give a data set's name such as 'digits'") not in NAMES:
        raise DataError(f"there is no data set {name!r}: choose one of {', '.join(NAMES)}")
    folder = os.environ.get("SUPPORT_DATA")
    return _load(name, Path(folder).expanduser() if folder else None)


@lru_cache(maxsize=2)
def _load(name: str, folder: Path | None) -> Images:
    if folder is not None and not folder.is_dir():
        raise DataError(
            f"SUPPORT_DATA = {folder} is no folder: set it to the folder with the data files, or unset it to download "
            f"them"
        )
    if name == "digits":
        return _digits(folder)
    source = SOURCES[name]
    train, test = _from_folder(name, source, folder) if folder else source.read(_download(name, source))
    return Images(name, _checked(name, "train", train, source), _checked(name, "test", test, source))


def _from_folder(name: str, source: Source, folder: Path) -> tuple[Part, Part]:
    """The npz files of the data set, or else its official files in a folder that bears its name (MNIST and FashionMNIST
    have the same file names).
    """
    whole, parts = folder / f"{name}.npz", sorted(folder.glob(f"{name}_train*.npz"))
    if whole.is_file():
        arrays = read_npz(whole, "x_train", "y_train", "x_test", "y_test")
        return tuple(arrays[:2]), tuple(arrays[2:])
    if parts and (folder / f"{name}_test.npz").is_file():
        loaded = [read_npz(path, "x", "y") for path in parts]
        return tuple(np.concatenate(arrays) for arrays in zip(*loaded, strict=True)), tuple(
            read_npz(folder / f"{name}_test.npz", "x", "y")
        )
    official = next(iter(source.files))
    for inner in source.folders:
        if any((folder / inner / file).is_file() for file in (official, official.removesuffix(".gz"), _CIFAR_FILES[0])):
            return source.read(folder / inner)
    wanted = (
        f"{name}.npz, {name}_train*.npz with {name}_test.npz, or the official {official} in {', '.join(source.folders)}"
    )
    raise DataError(f"{name} is not in SUPPORT_DATA = {folder}: looked for {wanted}")


def _checked(name: str, kind: str, part: Part, source: Source) -> Part:
    """Refuse images and labels that are not what the data set is made of. CIFAR-10 may come with fewer training images,
    in whole thousands a class.
    """
    images, labels = part
    expected = source.counts[kind == "test"]
    problem = None
    if images.dtype != np.uint8 or images.shape[1:] != source.shape:
        problem = f"images of shape {images.shape[1:]} and type {images.dtype}, not {source.shape} and uint8"
    elif labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        problem = f"labels of shape {labels.shape} and type {labels.dtype} for {len(images)} images"
    elif len(images) != expected and not (
        name == "cifar10" and kind == "train" and 0 < len(images) < expected and len(images) % 10_000 == 0
    ):
        problem = f"{len(images)} images, not {expected}"
    elif set(np.unique(labels)) != set(range(10)):
        problem = "labels other than 0 to 9, or not all of them"
    elif images.max() < 128:
        problem = "pixels that are all dark: a part of the file is missing"
    if problem:
        raise DataError(f"the {kind} files of {name} hold {problem}: replace them by the official files")
    return images, labels.astype(np.uint8)


def _download(name: str, source: Source) -> Path:
    """The folder of the cache with the official files; a file is kept only if its checksum is the published one."""
    try:
        import pooch
    except ImportError:
        raise DataError(
            f"{name} cannot be downloaded without pooch: `pip install pooch`, or set SUPPORT_DATA to a folder with "
            f"its files"
        ) from None
    pooch.get_logger().setLevel("ERROR")
    folder = Path(pooch.os_cache("sgd-noise")) / name
    for file, md5 in source.files.items():
        try:
            pooch.retrieve(source.url + file, known_hash=f"md5:{md5}", fname=file, path=folder, progressbar=True)
        except Exception as error:  # pooch raises what its transports raise; a wrong checksum is a ValueError
            raise DataError(
                f"{file} of {name} could not be had from {source.url} ({error}): try again, or set SUPPORT_DATA to a "
                f"folder with it"
            ) from error
    return folder


def _digits(folder: Path | None) -> Images:
    """1,797 digits of 8 x 8 pixels with values 0 to 16. They come in one file: its first 1,000 play the test file, from
    which Wu et al. train.
    """
    stored = folder / "digits.npz" if folder else None
    if stored is not None and stored.is_file():
        images, labels = read_npz(stored, "images", "labels")
    else:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            wanted = (
                "put digits.npz (arrays images, labels, as sklearn.datasets.load_digits gives them) into SUPPORT_DATA"
            )
            raise DataError(
                f"the digits come with scikit-learn, which is not installed: `pip install scikit-learn`, or {wanted}"
            ) from None
        digits = load_digits()
        images, labels = digits.images, digits.target
    if (
        images.shape != (1797, 8, 8)
        or labels.shape != (1797,)
        or images.max() != 16
        or set(np.unique(labels)) != set(range(10))
    ):
        raise DataError(
            f"{stored or 'scikit-learn'} holds no digits: expected images (1797, 8, 8) of values 0 to 16 and labels 0 "
            f"to 9"
        )
    images, labels = images.astype(np.uint8), labels.astype(np.uint8)
    return Images("digits", (images[1000:], labels[1000:]), (images[:1000], labels[:1000]), brightest=16)


# --- what is trained on -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """What a run learns from and what it is judged on: float32 images (m, channels, height, width), int64 labels;
    ``chosen`` numbers the training images.
    """

    train: Part
    test: Part
    chosen: np.ndarray


def split(
    images: Images,
    n: int,
    *,
    protocol: str,
    seed: int,
    pixels: str = "raw",
    draw_from: str = "test",
    corrupted: tuple[int, int] | None = None,
) -> Split:
    """A training set of n images from one official file and, for evaluation, the whole other file.

    Wu et al. (2020, C.1) train on 1,000 images of the test file and evaluate on the 60,000 of the training file:
    ``draw_from="test"``.
    protocol: "paper" draws the n images by ``seed``, without replacement; "code" takes the first n, whatever the seed.
    pixels: "raw" keeps 0 to 255 (digits: 0 to 16), "unit" divides by the brightest value, "centred" maps them to [−1,
    1].
    corrupted: the chosen images from the first number on and before the second get labels drawn anew by ``seed``,
    uniform over the 10 classes, so that a tenth of them stays right (Zhu et al. 2019, Section 5.3: (1000, 1200)).
    Raises DataError for a choice that does not exist, WrongType for what is no data set or no whole number.

    >>> found = split(load("digits"), 100, protocol="paper", seed=1, pixels="unit")
    >>> found.train[0].shape, found.test[0].shape
    ((100, 1, 8, 8), (797, 1, 8, 8))
    """
    instance("images", images, Images, "give what load(name) gives")
    n, seed = integer("n", n), integer("seed", seed)
    if corrupted is not None:
        first, last = instance("corrupted", corrupted, (tuple, list), "give (first, last)")
        corrupted = integer("the first corrupted label", first), integer("the last corrupted label", last)
    choices = (
        ("protocol", protocol, ("paper", "code")),
        ("pixels", pixels, ("raw", "unit", "centred")),
        ("draw_from", draw_from, ("train", "test")),
    )
    for name, value, known in choices:
        if value not in known:
            raise DataError(f"{name} = {value!r} is unknown: choose {' or '.join(map(repr, known))}")
    if corrupted is not None and not 0 <= corrupted[0] < corrupted[1] <= n:
        raise DataError(
            f"corrupted = {tuple(corrupted)} is no range among n = {n} training images: choose 0 ≤ first < last ≤ {n}"
        )
    source, other = (images.test, images.train) if draw_from == "test" else (images.train, images.test)
    if not 1 <= n <= len(source[0]):
        raise DataError(
            f"n = {n} training images cannot be taken from the {draw_from} file of {images.name}: choose 1 to "
            f"{len(source[0])}"
        )
    chosen = np.arange(n)
    if protocol == "paper":
        chosen = np.random.default_rng(stream(seed, "subset")).permutation(len(source[0]))[:n]
    scale = np.float32({"raw": 1, "unit": 1 / images.brightest, "centred": 2 / images.brightest}[pixels])

    def ready(part: Part) -> Part:
        pictures, labels = part
        pictures = pictures[:, None] if pictures.ndim == 3 else pictures.transpose(0, 3, 1, 2)
        scaled = np.ascontiguousarray(pictures, np.float32) * scale
        return scaled - np.float32(1) if pixels == "centred" else scaled, labels.astype(np.int64)

    labels = source[1][chosen]
    if corrupted is not None:
        labels[slice(*corrupted)] = np.random.default_rng(stream(seed, "labels")).integers(
            0, 10, corrupted[1] - corrupted[0]
        )
    return Split(ready((source[0][chosen], labels)), ready(other), chosen)
