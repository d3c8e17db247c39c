"""The images of the experiments: FashionMNIST, MNIST, CIFAR-10, CIFAR-100, SVHN, and scikit-learn's small digits.

`load` looks in the folder that the environment variable ``SUPPORT_DATA`` names; without it, the official files are
downloaded once, compared with their published checksums, and kept in a cache. What a file holds is checked before it is
used: format, shape, labels, counts. `halved` makes small images of large ones. `split` then takes a training set and an
evaluation set as the papers do, or as their code does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from support.errors import boolean, choice, instance, integer
from support.experiments.readers import DataError, Part, cifar_folder, mnist_folder, read_npz, svhn_folder
from support.experiments.seeding import stream


@dataclass(frozen=True)
class Images:
    """A data set. train, test: the official files as (images, labels), uint8 of shape (m, height, width[, 3]) and (m,).
    brightest: largest pixel value.  classes: number of labels.
    """

    name: str
    train: Part
    test: Part
    brightest: int = 255
    classes: int = 10


@dataclass(frozen=True)
class Source:
    """What a data set is: shape of an image, images of the training and test files, the official files (name: md5) at
    ``url``, their reader.

    folders: where the official files may stand inside ``SUPPORT_DATA``.  unpacked: what stands there of an archive that
    was unpacked.  classes: number of labels.
    """

    shape: tuple[int, ...]
    counts: tuple[int, int]
    url: str
    files: dict[str, str]
    read: Callable[[Path], tuple[Part, Part]]
    folders: tuple[str, ...]
    unpacked: tuple[str, ...] = ()
    classes: int = 10


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
_CIFAR_10 = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
SOURCES = {
    "fashion_mnist": Source(
        shape=(28, 28),
        counts=(60_000, 10_000),
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        files=dict(zip(_IDX, _FASHION, strict=True)),
        read=mnist_folder,
        folders=("fashion_mnist", "FashionMNIST/raw", "FashionMNIST"),
    ),
    "mnist": Source(
        shape=(28, 28),
        counts=(60_000, 10_000),
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        files=dict(zip(_IDX, _MNIST, strict=True)),
        read=mnist_folder,
        folders=("mnist", "MNIST/raw", "MNIST"),
    ),
    "cifar10": Source(
        shape=(32, 32, 3),
        counts=(50_000, 10_000),
        url="https://www.cs.toronto.edu/~kriz/",
        files={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        read=partial(cifar_folder, archive="cifar-10-binary.tar.gz", train=_CIFAR_10, test="test_batch.bin"),
        folders=("cifar10", "cifar-10-batches-bin", "."),
        unpacked=_CIFAR_10,
    ),
    "cifar100": Source(
        shape=(32, 32, 3),
        counts=(50_000, 10_000),
        url="https://www.cs.toronto.edu/~kriz/",
        files={"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
        read=partial(
            cifar_folder, archive="cifar-100-binary.tar.gz", train=("train.bin",), test="test.bin", label_bytes=2
        ),
        folders=("cifar100", "cifar-100-binary", "."),
        unpacked=("train.bin",),
        classes=100,
    ),
    "svhn": Source(
        shape=(32, 32, 3),
        counts=(73_257, 26_032),
        url="http://ufldl.stanford.edu/housenumbers/",
        files={
            "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        },
        read=svhn_folder,
        folders=("svhn", "SVHN", "."),
    ),
}
NAMES = ("digits", *SOURCES)
HALF = "_halved"  # in the name of a file that holds a data set at half its size


def load(name: str = "digits", *, half: bool = False) -> Images:
    """The data set ``name``: "digits", "fashion_mnist", "mnist", "cifar10", "cifar100" or "svhn"; with ``half``, what
    `halved` makes of it, for which ``SUPPORT_DATA`` may hold that alone (`support.experiments.data_pack` writes it).

    Raises DataError for an unknown name, a folder ``SUPPORT_DATA`` that is missing or lacks the files, and for files
    that are damaged.

    >>> load("digits").train[0].shape
    (797, 8, 8)
    """
    if instance("name", name, str, "give a data set's name such as 'digits'") not in NAMES:
        raise DataError(f"there is no data set {name!r}: choose one of {', '.join(NAMES)}")
    read = _load_half if boolean("half", half) else _load
    folder = os.environ.get("SUPPORT_DATA")
    if not folder:
        return read(name, None)
    if not (folder := Path(folder).expanduser()).is_dir():
        raise DataError(
            f"SUPPORT_DATA = {folder} is no folder: set it to the folder with the data files, or unset it to download "
            f"them"
        )
    return read(name, folder)


@lru_cache(maxsize=2)
def _load_half(name: str, folder: Path | None) -> Images:
    path = folder / f"{name}{HALF}.npz" if folder else None
    if path is None or not path.is_file():
        return halved(_load(name, folder))
    height, width, *colours = SOURCES[name].shape
    source = replace(SOURCES[name], shape=(height // 2, width // 2, *colours))
    arrays = read_npz(path, "x_train", "y_train", "x_test", "y_test")
    parts = _checked(name, "train", tuple(arrays[:2]), source), _checked(name, "test", tuple(arrays[2:]), source)
    return Images(f"{name} at {height // 2} x {width // 2}", *parts, classes=source.classes)


@lru_cache(maxsize=2)
def _load(name: str, folder: Path | None) -> Images:
    if name == "digits":
        return _digits(folder)
    source = SOURCES[name]
    train, test = _from_folder(name, source, folder) if folder else source.read(_download(name, source))
    parts = (_checked(name, kind, part, source) for kind, part in (("train", train), ("test", test)))
    return Images(name, *parts, classes=source.classes)


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
    marks = (official, official.removesuffix(".gz"), *source.unpacked)
    for inner in source.folders:
        if any((folder / inner / file).is_file() for file in marks):
            return source.read(folder / inner)
    wanted = (
        f"{name}.npz, {name}_train*.npz with {name}_test.npz, or the official {official} in {', '.join(source.folders)}"
    )
    raise DataError(f"{name} is not in SUPPORT_DATA = {folder}: looked for {wanted}")


def _checked(name: str, kind: str, part: Part, source: Source) -> Part:
    """Refuse images and labels that are not what the data set is made of. CIFAR-10 may come with fewer images: training
    images in whole thousands a class, test images in whole hundreds a class.
    """
    images, labels = part
    expected = source.counts[kind == "test"]
    problem = None
    if images.dtype != np.uint8 or images.shape[1:] != source.shape:
        problem = f"images of shape {images.shape[1:]} and type {images.dtype}, not {source.shape} and uint8"
    elif labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        problem = f"labels of shape {labels.shape} and type {labels.dtype} for {len(images)} images"
    elif len(images) != expected and not (
        name == "cifar10" and 0 < len(images) < expected and len(images) % (10_000 if kind == "train" else 1000) == 0
    ):
        problem = f"{len(images)} images, not {expected}"
    elif set(np.unique(labels)) != set(range(source.classes)):
        problem = f"labels other than 0 to {source.classes - 1}, or not all of them"
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


def halved(images: Images) -> Images:
    """Images of half the side: means of 2 x 2 pixels, rounded to bytes (halves up), named "cifar10 at 16 x 16".

    Raises DataError for a side that is odd.

    >>> small = halved(load("digits"))
    >>> small.name, small.train[0].shape
    ('digits at 4 x 4', (797, 4, 4))
    """

    def half(part: Part) -> Part:
        pixels = part[0].astype(np.uint16)
        rows = pixels[:, ::2] + pixels[:, 1::2]
        return ((rows[:, :, ::2] + rows[:, :, 1::2] + 2) // 4).astype(np.uint8), part[1]

    height, width = instance("images", images, Images, "give what load(name) gives").train[0].shape[1:3]
    if height % 2 or width % 2:
        raise DataError(f"{images.name} has {height} x {width} pixels: only even sides can be halved")
    name = f"{images.name.partition(' at ')[0]} at {height // 2} x {width // 2}"
    return replace(images, name=name, train=half(images.train), test=half(images.test))


def scaling(pixels: str, brightest: int = 255) -> tuple[float, float]:
    """(scale, shift) of pixels that a network sees: "raw" (1, 0), "unit" (1/brightest, 0), "centred" (2/brightest, −1).
    Raises Refused for another word.

    >>> scaling("centred", brightest=16)
    (0.125, -1.0)
    """
    brightest = integer("brightest", brightest, 1)
    known = {"raw": (1.0, 0.0), "unit": (1 / brightest, 0.0), "centred": (2 / brightest, -1.0)}
    return known[choice("pixels", pixels, known)]


@dataclass(frozen=True)
class Split:
    """What a run learns from and what it is judged on: images (m, channels, height, width), float32 or uint8, int64
    labels; ``chosen`` numbers the training images.
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
    as_bytes: bool = False,
) -> Split:
    """A training set of n images from one official file and, for evaluation, the whole other file.

    Wu et al. (2020, C.1) train on 1,000 images of the test file and evaluate on the 60,000 of the training file:
    ``draw_from="test"``.
    protocol: "paper" draws the n images by ``seed``, without replacement; "code" takes the first n, whatever the seed.
    pixels: "raw" keeps 0 to 255 (digits: 0 to 16), "unit" divides by the brightest value, "centred" maps them to [−1,
    1].
    corrupted: the chosen images from the first number on and before the second get labels drawn anew by ``seed``,
    uniform over the classes, so that a tenth of them stays right where there are 10 (Zhu et al. 2019, Section 5.3:
    (1000, 1200)).
    as_bytes: leave the images uint8, a quarter of the memory; `support.experiments.inputs.Pixels` with the `scaling` of
    ``pixels`` then stands before the network.
    Raises DataError for a choice that does not exist, WrongType for what is no data set or no whole number.

    >>> found = split(load("digits"), 100, protocol="paper", seed=1, pixels="unit")
    >>> found.train[0].shape, found.test[0].shape
    ((100, 1, 8, 8), (797, 1, 8, 8))
    """
    instance("images", images, Images, "give what load(name) gives")
    n, seed, as_bytes = integer("n", n), integer("seed", seed), boolean("as_bytes", as_bytes)
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
    scale, shift = map(np.float32, scaling(pixels, images.brightest))

    def ready(part: Part) -> Part:
        pictures, labels = part
        pictures = pictures[:, None] if pictures.ndim == 3 else pictures.transpose(0, 3, 1, 2)
        pictures = np.ascontiguousarray(pictures, np.uint8 if as_bytes else np.float32)
        if not as_bytes:
            pictures = pictures * scale + shift if shift else pictures * scale
        return pictures, labels.astype(np.int64)

    labels = source[1][chosen]
    if corrupted is not None:
        labels[slice(*corrupted)] = np.random.default_rng(stream(seed, "labels")).integers(
            0, images.classes, corrupted[1] - corrupted[0]
        )
    return Split(ready((source[0][chosen], labels)), ready(other), chosen)
