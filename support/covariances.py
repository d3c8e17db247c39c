"""Covariance matrices Σ that noise of chosen shape is drawn from, d x d without storing d² numbers: products, trace,
one draw of N(0, Σ).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from support.errors import NotFinite, Refused


@dataclass(frozen=True)
class Diagonal:
    """``diag(variances)``, d x d, as an operator with a sampler. variances: shape (d,), not negative."""

    variances: torch.Tensor

    def __post_init__(self):
        _refuse_negative(self.variances)

    @property
    def shape(self) -> tuple[int, int]:
        """(d, d)."""
        return len(self.variances), len(self.variances)

    def __matmul__(self, u: torch.Tensor) -> torch.Tensor:
        """The product with u of shape (d,) or (d, m)."""
        return _row_by_row(self.variances, u)

    def trace(self) -> torch.Tensor:
        """The trace, E|ε|² of a draw."""
        return self.variances.sum()

    def dense(self, limit_bytes: float = 2**31) -> torch.Tensor:
        """The matrix itself. Raises ValueError where its d² numbers exceed ``limit_bytes``."""
        return self @ _identity(self.variances, len(self.variances), limit_bytes)

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One vector from N(0, Σ), shape (d,). generator: a torch generator on the CPU."""
        return self.variances.sqrt() * _white(len(self.variances), self.variances, generator)

    def of_trace(self, trace) -> Diagonal:
        """The same structure with another trace."""
        return Diagonal(self.variances * _factor(trace, self.trace()))


@dataclass(frozen=True)
class LowRank:
    """``V diag(values) Vᵀ``, d x d of rank k, as an operator with a sampler. values: (k,), not negative; vectors V: (d,
    k), orthonormal columns.
    """

    values: torch.Tensor
    vectors: torch.Tensor

    def __post_init__(self):
        _refuse_negative(self.values)

    @property
    def shape(self) -> tuple[int, int]:
        """(d, d)."""
        return len(self.vectors), len(self.vectors)

    def __matmul__(self, u: torch.Tensor) -> torch.Tensor:
        """The product with u of shape (d,) or (d, m)."""
        return self.vectors @ _row_by_row(self.values, self.vectors.T @ u)

    def trace(self) -> torch.Tensor:
        """The trace, E|ε|² of a draw."""
        return self.values.sum()

    def dense(self, limit_bytes: float = 2**31) -> torch.Tensor:
        """The matrix itself. Raises ValueError where its d² numbers exceed ``limit_bytes``."""
        return self @ _identity(self.values, len(self.vectors), limit_bytes)

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One vector from N(0, Σ), shape (d,). generator: a torch generator on the CPU."""
        return self.vectors @ (self.values.sqrt() * _white(len(self.values), self.values, generator))

    def of_trace(self, trace) -> LowRank:
        """The same structure with another trace."""
        return LowRank(self.values * _factor(trace, self.trace()), self.vectors)


def _factor(wanted, own) -> torch.Tensor | float:
    """What brings a trace to the wanted one; zero stays zero. Raises ValueError where nothing but zero is there to be
    scaled.
    """
    if wanted > 0 and not own > 0:
        raise Refused(
            f"a covariance of trace {float(own):g} cannot be scaled to trace {float(wanted):g}: make it anew where "
            f"the noise is not zero"
        )
    return wanted / own if own > 0 else 1.0


def _refuse_negative(variances: torch.Tensor) -> None:
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


def _row_by_row(factors: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return factors.reshape(-1, *(1,) * (u.ndim - 1)) * u


def _identity(like: torch.Tensor, d: int, limit_bytes: float) -> torch.Tensor:
    size = d**2 * like.element_size()
    if size > limit_bytes:
        raise Refused(
            f"a dense {d} x {d} matrix takes {size / 2**30:.1f} GiB: use products (covariance @ u), or raise "
            f"limit_bytes"
        )
    return torch.eye(d, dtype=like.dtype, device=like.device)


def _white(size: int, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(size, generator=generator, dtype=like.dtype).to(like.device)
