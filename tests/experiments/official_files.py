"""Small files in the official formats of the data sets."""

import io
import struct
import tarfile

import numpy as np
from scipy.io import savemat

CIFAR_FILES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
RANDOM = np.random.default_rng(0)


def pictures(m, shape=(28, 28), classes=10):
    """Random images, and labels that go round."""
    images = RANDOM.integers(0, 256, (m, *shape), dtype=np.uint8)
    return images, (np.arange(m) % classes).astype(np.uint8)


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def cifar(images, labels, coarse=()):
    """Records of CIFAR-10; with a coarse label before each fine one, of CIFAR-100."""
    heads = zip(coarse, labels, strict=True) if len(coarse) else labels[:, None]
    return b"".join(
        bytes(map(int, head)) + image.transpose(2, 0, 1).tobytes() for head, image in zip(heads, images, strict=True)
    )


def packed(path, files):
    """A gzipped archive of files, each in a folder."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"some-folder/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def svhn(path, images, labels, compressed=True):
    """A file of SVHN: the digit 0 has the label 10."""
    labels = np.where(labels == 0, 10, labels).astype(np.uint8)
    savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]}, do_compression=compressed)


def same(part, arrays):
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(part, arrays, strict=True))
