"""Covariance matrices Σ that noise of chosen shape is drawn from, d x d without storing d² numbers: operators with a
trace at hand and a draw of N(0, Σ).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from support.errors import NotFinite, Refused, WrongType, real, tensor, torch_generator
from support.operators import Operator


class Covariance(Operator):
    """What the covariances share: an `Operator` that can be drawn from and scaled to a trace.

    >>> for sigma in (Diagonal(torch.tensor([1.0, 3.0])), LowRank(torch.tensor([4.0]), torch.tensor([[0.6], [0.8]]))):
    ...     print(sigma.trace(), sigma.of_trace(1.0).trace(), sigma.draw(torch.Generator()).shape)
    tensor(4.) tensor(1.) torch.Size([2])
    tensor(4.) tensor(1.) torch.Size([2])
    """

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One vector from N(0, Σ), shape (d,)."""
        raise WrongType(f"{type(self).__name__} has no draws: use Diagonal or LowRank")

    def of_trace(self, trace) -> Covariance:
        """The same structure with another trace. Raises Refused where the trace is 0 and the wanted one is not."""
        raise WrongType(f"{type(self).__name__} cannot be scaled: use Diagonal or LowRank")


@dataclass(eq=False, repr=False)
class Diagonal(Covariance):
    """``diag(variances)``, d x d. variances: shape (d,), not negative; else Refused, NotFinite or WrongType.

    >>> covariance = Diagonal(torch.tensor([1.0, 3.0]))
    >>> covariance @ torch.ones(2), covariance.of_trace(8.0).diagonal()
    (tensor([1., 3.]), tensor([2., 6.]))
    """

    variances: torch.Tensor

    def __post_init__(self):
        _refuse_negative(tensor("variances", self.variances, (None,)))
        super().__init__((len(self.variances),) * 2, self.variances.dtype, self.variances.device)

    def _times(self, columns):
        return self.variances[:, None] * columns

    def diagonal(self) -> torch.Tensor:
        """The variances."""
        return self.variances

    def trace(self) -> torch.Tensor:
        """The trace, E|ε|² of a draw."""
        return self.variances.sum()

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One vector from N(0, Σ), shape (d,)."""
        return self.variances.sqrt() * _white(len(self.variances), self.variances, generator)

    def of_trace(self, trace) -> Diagonal:
        """The same structure with another trace. Raises Refused where the trace is 0 and the wanted one is not."""
        return Diagonal(self.variances * _factor(trace, self.trace()))


@dataclass(eq=False, repr=False)
class LowRank(Covariance):
    """``V diag(values) Vᵀ``, d x d of rank k. values: (k,), not negative; vectors V: (d, k), orthonormal columns.

    Raises Refused for columns that are not orthonormal (to a thousandth, where their values count), NotFinite,
    WrongType.

    >>> covariance = LowRank(torch.tensor([4.0]), torch.tensor([[0.6], [0.8]]))
    >>> print(covariance.trace(), covariance @ torch.tensor([1.0, 0.0]))
    tensor(4.) tensor([1.4400, 1.9200])
    """

    values: torch.Tensor
    vectors: torch.Tensor

    def __post_init__(self):
        _refuse_negative(tensor("values", self.values, (None,)))
        tensor("vectors", self.vectors, (None, len(self.values)))
        roots = self.values.sqrt()
        off = roots[:, None] * (self.vectors.T @ self.vectors) * roots - torch.diag(self.values)
        if not bool((off.abs() <= 1e-3 * self.values.sum()).all()):
            raise Refused(
                f"the vectors of a covariance are not orthonormal (variances are off by {float(off.abs().max()):.2g}): "
                f"give those of leading(...), or torch.linalg.qr(vectors)[0]"
            )
        super().__init__((len(self.vectors),) * 2, self.vectors.dtype, self.vectors.device)

    @property
    def rank(self) -> int:
        """The largest rank that the matrix can have, k."""
        return len(self.values)

    def _times(self, columns):
        return self.vectors @ (self.values[:, None] * (self.vectors.T @ columns))

    def diagonal(self) -> torch.Tensor:
        """The diagonal, shape (d,)."""
        return self.vectors.square() @ self.values

    def trace(self) -> torch.Tensor:
        """The trace, E|ε|² of a draw."""
        return self.values.sum()

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One vector from N(0, Σ), shape (d,)."""
        return self.vectors @ (self.values.sqrt() * _white(len(self.values), self.values, generator))

    def of_trace(self, trace) -> LowRank:
        """The same structure with another trace. Raises Refused where the trace is 0 and the wanted one is not."""
        return LowRank(self.values * _factor(trace, self.trace()), self.vectors)


def _factor(wanted, own) -> torch.Tensor | float:
    """What brings a trace to the wanted one; zero stays zero."""
    real("trace", wanted.item() if isinstance(wanted, torch.Tensor) and wanted.ndim == 0 else wanted, low=0)
    if wanted > 0 and not own > 0:
        raise Refused(
            f"a covariance of trace {float(own):g} cannot be scaled to trace {float(wanted):g}: make it anew where "
            f"the noise is not zero"
        )
    return wanted / own if own > 0 else 1.0


def _refuse_negative(variances: torch.Tensor) -> None:
    if not variances.is_floating_point():
        raise WrongType(f"variances of type {variances.dtype}: give floats")
    if not bool(torch.isfinite(variances).all()):
        raise NotFinite(
            "the variances of a noise are not finite: look for infinite gradients, or lower the learning rate"
        )
    if not bool((variances >= 0).all()):
        worst = float(variances.min())
        raise Refused(
            f"a covariance cannot have the eigenvalue {worst:g}: keep the positive eigenvalues of a matrix that has "
            f"both signs"
        )


def _white(size: int, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    device = torch_generator(generator).device
    return torch.randn(size, generator=generator, dtype=like.dtype, device=device).to(like.device)
