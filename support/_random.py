"""One small face for numpy's and torch's random generators, so that a law is written once. Torch is imported only if a
torch generator comes in.
"""

from __future__ import annotations

import sys

import numpy as np

from support.errors import WrongType


class _Numpy:
    def __init__(self, generator: np.random.Generator):
        self._g = generator

    def full(self, shape, value):
        return np.full(shape, value)

    def normal(self, shape):
        return self._g.standard_normal(shape)

    def signs(self, shape):
        return 2.0 * self._g.integers(0, 2, shape) - 1

    def coins(self, shape, p):
        return (self._g.random(shape) < p).astype(float)

    def indices(self, size, n, b):
        return self._g.integers(0, n, (size, b))

    def subsets(self, size, n, b):
        return self._g.random((size, n)).argpartition(b - 1, axis=1)[:, :b]

    def scatter(self, index, value, n):
        out = np.zeros((len(index), n))
        np.add.at(out, (np.arange(len(index))[:, None], index), value)
        return out


class _Torch:
    def __init__(self, generator):
        import torch

        self._torch, self._g = torch, generator
        self._on = {"device": generator.device}

    def full(self, shape, value):
        return self._torch.full(shape, value, **self._on)

    def normal(self, shape):
        return self._torch.randn(shape, generator=self._g, **self._on)

    def signs(self, shape):
        return (
            2 * self._torch.randint(0, 2, shape, generator=self._g, **self._on).to(self._torch.get_default_dtype()) - 1
        )

    def coins(self, shape, p):
        return (self._torch.rand(shape, generator=self._g, **self._on) < p).to(self._torch.get_default_dtype())

    def indices(self, size, n, b):
        return self._torch.randint(0, n, (size, b), generator=self._g, **self._on)

    def subsets(self, size, n, b):
        # float64: in float32 two of a thousand numbers may tie, and a tie is not broken at random
        return (
            self._torch.rand((size, n), generator=self._g, dtype=self._torch.float64, **self._on)
            .topk(b, dim=1, largest=False, sorted=False)
            .indices
        )

    def scatter(self, index, value, n):
        out = self._torch.zeros((len(index), n), **self._on)
        value = value if self._torch.is_tensor(value) else self._torch.full(index.shape, value, **self._on)
        return out.scatter_add_(1, index, value)


def source(generator):
    """Wrap a numpy.random.Generator or a torch.Generator. Raises WrongType for anything else, a seed included.

    >>> source(np.random.default_rng(0)).normal((2, 3)).shape
    (2, 3)
    """
    if isinstance(generator, np.random.Generator):
        return _Numpy(generator)
    torch = sys.modules.get("torch")  # whoever has a torch generator has imported it
    if torch is not None and isinstance(generator, torch.Generator):
        return _Torch(generator)
    raise WrongType(
        f"generator = {generator!r} is no random generator: give numpy.random.default_rng(seed) or "
        f"torch.Generator().manual_seed(seed)"
    )
