"""One folder with the data that planned runs need, small enough to travel to a lent machine.

The folder holds numpy ``.npz`` files with bytes, compressed by LZMA, in the forms that `support.experiments.data`
reads: ``SUPPORT_DATA`` names it there. A data set that all of its runs take at half its size is stored at that size.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from support import files
from support.errors import Refused, integer
from support.experiments import data
from support.experiments.presets import Setting

LIMIT = 30 * 2**20  # bytes: what a lent machine takes in one piece, with room beside it for the package
_FIXED = (1980, 1, 1, 0, 0, 0)  # the date of a member, so that the same data is the same file


class PackError(Refused):
    """Data that cannot be packed; the message names it and the remedy."""


@dataclass(frozen=True)
class Part:
    """A data set of a pack. halved: stored at half its size.  train, test: the first images that are kept; None for
    all.
    """

    dataset: str
    halved: bool = False
    train: int | None = None
    test: int | None = None

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.dataset}{data.HALF if self.halved else ''}.npz"

    @property
    def title(self) -> str:
        """What a message calls it."""
        kept = [f"{count:,} {kind}" for kind, count in (("training", self.train), ("test", self.test)) if count]
        return self.file + (f" ({', '.join(kept)} images)" if kept else "")


def needed(settings: Iterable[Setting], keep: dict[str, tuple[int, int]] | None = None) -> list[Part]:
    """What runs at these settings need, each data set once.

    keep: the first images to keep of a data set, {name: (training, test)}. Raises PackError for one that no run needs.

    >>> [part.file for part in needed([Setting(), Setting(dataset="cifar10", halved=True)])]
    ['fashion_mnist.npz', 'cifar10_halved.npz']
    """
    keep, sizes = keep or {}, {}
    for setting in settings:
        sizes.setdefault(setting.dataset, set()).add(setting.halved)
    if unused := sorted(set(keep) - set(sizes)):
        raise PackError(f"no run needs {', '.join(unused)}: the data sets are {', '.join(sizes) or 'none'}")
    return [Part(name, halved == {True} and name != "digits", *keep.get(name, ())) for name, halved in sizes.items()]


def content(part: Part) -> bytes:
    """The file of a data set. Raises DataError where it is not at hand, PackError for more images than it has."""
    images = data.load(part.dataset, half=part.halved)
    kept = []
    for kind, count, (pixels, labels) in (("training", part.train, images.train), ("test", part.test, images.test)):
        if count is not None and count > len(pixels):
            raise PackError(f"{part.dataset} has {len(pixels):,} {kind} images, not {count:,}: keep fewer")
        kept += [pixels[:count], labels[:count]]
    if part.dataset == "digits":  # one file, of which `data` makes two
        whole = [np.concatenate(pair) for pair in (kept[2::-2], kept[3::-2])]
        return npz(images=whole[0], labels=whole[1])
    return npz(**dict(zip(("x_train", "y_train", "x_test", "y_test"), kept, strict=True)))


def npz(**arrays: np.ndarray) -> bytes:
    """Arrays as the bytes of a ``.npz`` file, compressed by LZMA: a sixth smaller than numpy makes it.

    >>> np.load(io.BytesIO(npz(x=np.arange(3))))["x"]
    array([0, 1, 2])
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as file:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", _FIXED)
            member.compress_type = zipfile.ZIP_LZMA
            inner = io.BytesIO()
            np.lib.format.write_array(inner, np.ascontiguousarray(array), allow_pickle=False)
            file.writestr(member, inner.getvalue())
    return buffer.getvalue()


def write(parts: Iterable[Part], folder: Path, limit: int = LIMIT) -> dict[str, int]:
    """Write the files into a folder, all or none; their sizes in bytes by title, the largest first.

    Raises PackError for a folder that holds something else, a pack above the limit (saying what to leave out), and a
    folder that cannot be written; DataError for data that is not at hand.
    """
    integer("limit", limit, 1)
    made = {part: content(part) for part in parts}
    if not made:
        raise PackError("no run needs any data: name plans whose records are missing")
    sizes = {part.title: len(made[part]) for part in sorted(made, key=lambda part: -len(made[part]))}
    if (total := sum(sizes.values())) > limit:
        said = ", ".join(f"{title} {size / 2**20:.1f}" for title, size in sizes.items())
        raise PackError(
            f"the pack holds {total / 2**20:.1f} MiB, more than {limit / 2**20:.1f}: {said}; name fewer plans, or keep "
            f"fewer images (cifar10=10000+2000)"
        )
    if others := sorted({path.name for path in folder.glob("*")} - {part.file for part in made}):
        raise PackError(f"folder {folder} holds {others[0]}: name an empty one, so that the pack is all that is in it")
    try:
        for part, bytes_ in made.items():
            files.write_whole(folder / part.file, bytes_)
    except OSError as error:
        raise PackError(f"folder {folder} cannot be written ({error.strerror}): name another, with room") from error
    return sizes
