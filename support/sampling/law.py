r"""What every law of the sampling vector has: counts, mean, covariance, sampler, and the weighted loss of one step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Rational
from typing import Any, ClassVar

import numpy as np

from support._random import source
from support.errors import Refused, WrongType, boolean, instance, integer, real, tensor, torch_generator

Atom = tuple[Fraction, tuple[Fraction, ...]]
WU = "Wu et al. (2020), On the Noisy Gradient Descent that Generalizes as SGD"


@dataclass(frozen=True)
class Exchangeable:
    """The n x n matrix ``a·I + c·11ᵀ``: what the covariance of any exchangeable law looks like.

    ``a`` and ``c`` are Fractions (or floats, if a scale was given as a float); ``matrix @ x`` takes x of shape (n,) or
    (n, m) in O(nm).

    >>> Exchangeable(2, Fraction(1, 2), Fraction(-1, 4)).dense()
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """

    n: int
    a: Any
    c: Any

    def __post_init__(self):
        object.__setattr__(self, "n", integer("n", self.n, 1))
        real("a", self.a), real("c", self.c)

    @property
    def diagonal(self):
        """The value of every diagonal entry, a + c."""
        return self.a + self.c

    @property
    def off_diagonal(self):
        """The value of every off-diagonal entry, c."""
        return self.c

    @property
    def total_variance(self):
        """Variance of the sum of the weights, ``1ᵀ(aI + c11ᵀ)1 = n(a + nc)``: the variance of the step-size factor (no
        units); 0 if weights sum to one.
        """
        return self.n * (self.a + self.n * self.c)

    def dense(self, exact: bool = False) -> np.ndarray:
        """The whole matrix, shape (n, n): float64, or an object array of Fractions with ``exact=True``."""
        exact = boolean("exact", exact)
        matrix = np.full((self.n, self.n), self.c if exact else float(self.c))
        np.fill_diagonal(matrix, self.diagonal if exact else float(self.diagonal))
        return matrix

    def __matmul__(self, x):
        """Product with a numpy array or torch tensor x whose first axis has length n."""
        if not hasattr(x, "shape"):
            raise WrongType(f"x is of type {type(x).__name__}: give a numpy array or a torch tensor")
        if tuple(x.shape)[:1] != (self.n,):
            raise Refused(
                f"cannot multiply a {self.n} x {self.n} matrix with an array of shape {tuple(x.shape)}: its first axis "
                f"must be n = {self.n}"
            )
        return float(self.a) * x + float(self.c) * x.sum(0)


@dataclass(frozen=True)
class Law:
    """A law of the sampling vector W in R^n with mean 1/n.

    n: number of samples, at least 2.  b: batch size of the SGD to be matched, 1 ≤ b ≤ n.  replace: batches drawn with
    replacement.  A subclass is a frozen dataclass with ``name``, ``citation``, `covariance` and ``_draw(size, random)``
    (`support._random`), which gives weights of shape (size, n).
    Raises WrongType for a count that is no integer, Refused for one that is out of range.
    """

    n: int
    b: int
    replace: bool = field(default=True, kw_only=True)

    name: ClassVar[str]
    citation: ClassVar[str]
    sparse: ClassVar[bool] = False  # whether W has exact zeros, so that only the other samples need to be evaluated

    def __post_init__(self):
        self._count("n", 2, None, "a sampling noise needs at least n = 2 samples")
        self._count("b", 1, self.n, f"a batch holds between 1 and n = {self.n} samples")
        object.__setattr__(self, "replace", boolean("replace", self.replace))

    def _count(self, name: str, low: int, high: int | None, why: str) -> None:
        object.__setattr__(self, name, integer(name, getattr(self, name), low, high, why))

    @property
    def mean(self) -> Fraction:
        """Mean of every weight, 1/n: the stochastic gradient is unbiased."""
        return Fraction(1, self.n)

    @property
    def covariance(self) -> Exchangeable:
        """Exact covariance matrix of W, shape (n, n)."""
        raise WrongType(f"{type(self).__name__} names no covariance: use one of the laws that by_name knows")

    def sample(self, size: int | None, generator):
        """Draw sampling vectors: shape (size, n), or (n,) for ``size=None``.

        A numpy Generator gives float64 arrays, a torch Generator gives tensors of torch's default type on the
        generator's device.
        Raises WrongType for another generator or a size that is no integer, Refused for a negative size.
        """
        count = (
            1 if size is None else integer("size", size, 0, None, "give a number of draws ≥ 0, or None for one vector")
        )
        weights = self._draw(count, source(generator))
        return weights[0] if size is None else weights

    def weigh(self, losses, generator):
        """The weighted loss ``Σ_i W_i ℓ_i`` of one step, with W drawn here: it takes the place of the mean loss.

        losses: a torch tensor of shape (`slots`,), one number a sample: all n samples; for `Compensated` the B of a
        batch.  generator: a torch generator on any device, from which W goes to that of the losses; one on the CPU has
        the same noise for every device. The sum is in float32 or better, whatever type the losses have.
        Raises WrongType for anything else, Refused for losses of another shape, such as (m, 1), a mean, or a last batch
        that is smaller.

        >>> import torch
        >>> from support.sampling import FullBatch, by_name
        >>> losses, generator = torch.tensor([1.0, 2.0, 6.0]), torch.Generator().manual_seed(1)
        >>> FullBatch(n=3, b=1).weigh(losses, generator)
        tensor(3.)
        >>> by_name("[MSGD-Cov]-2", n=3, b=1).weigh(losses, generator)
        Traceback (most recent call last):
        ...
        support.errors.Refused: [MSGD-Cov]-B weighs 2 losses but 3 came: give batches of exactly 2 (drop_last=True)
        """
        import torch

        losses = per_sample(losses)
        if len(losses) != self.slots:
            one = "all samples" if self.slots == self.n else f"batches of exactly {self.slots} (drop_last=True)"
            raise Refused(f"{self.name} weighs {self.slots} losses but {len(losses)} came: give {one}")
        weights = self._slots(1, source(torch_generator(generator)))[0]
        return (weights.to(losses.device, torch.promote_types(losses.dtype, torch.float32)) * losses).sum()

    @property
    def slots(self) -> int:
        """The number of losses that `weigh` takes: n, or the size B of a loader's batch for `Compensated`."""
        return self.n

    def _draw(self, size: int, random):
        raise WrongType(f"{type(self).__name__} has no sampler: use one of the laws that by_name knows")

    def _slots(self, size: int, random):
        """The weights of `slots` losses, shape (size, slots)."""
        return self._draw(size, random)

    @property
    def sgd_covariance(self) -> Exchangeable:
        """``K = k(I − 11ᵀ/n)``: covariance of mini-batch SGD with this n, b and ``replace`` (Wu et al. 2020,
        Proposition 1).
        """
        return centred(self.n, sgd_scale(self.n, self.b, self.replace))


@dataclass(frozen=True)
class LargeBatch(Law):
    """A law that also has a batch of B samples on which its noise lives.

    >>> from support.sampling import by_name
    >>> law = by_name("MSGD-[Cov-3]", n=6, b=2)
    >>> isinstance(law, LargeBatch), law.B, law.covariance == law.sgd_covariance
    (True, 3, True)
    """

    B: int

    _least_B: ClassVar[int] = 1

    def __post_init__(self):
        super().__post_init__()
        why = f"{type(self).__name__} draws between {self._least_B} and n = {self.n} samples for its noise"
        self._count("B", self._least_B, self.n, why)


def counted_moments(atoms) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``m = Σ p·w`` and covariance ``Σ p·(w − m)(w − m)ᵀ`` of finitely many values w with probabilities p: object
    arrays of shape (k,) and (k, k), exact where all numbers are Fractions.

    atoms: pairs (p, w), such as ``law.atoms()``, or ``((p, A @ w) for p, w in law.atoms())`` for a noise A·W. Raises
    WrongType for what are no pairs, Refused for probabilities that do not sum to one or values of unequal length.

    >>> from support.sampling import MiniBatch
    >>> mean, covariance = counted_moments(MiniBatch(n=2, b=1).atoms())
    >>> [str(entry) for entry in (*mean, *covariance.flat)]
    ['1/2', '1/2', '1/4', '-1/4', '-1/4', '1/4']
    """
    pairs = list(instance("atoms", atoms, Iterable, "give pairs (p, w), such as law.atoms()"))
    if wrong := [atom for atom in pairs if not isinstance(atom, tuple) or len(atom) != 2]:
        raise WrongType(f"an atom is {wrong[0]!r}: give pairs (p, w), such as law.atoms()")
    p, w = np.array([p for p, _ in pairs], dtype=object), np.array([list(w) for _, w in pairs], dtype=object)
    if abs(sum(p) - 1) > 1e-9 * (not isinstance(sum(p), Rational)):
        raise Refused(f"the probabilities sum to {sum(p)}: they must sum to 1")
    if w.ndim != 2:
        raise Refused("the values are no vectors of one length: give each with one number a coordinate")
    mean = p @ w
    return mean, (p[:, None] * (w - mean)).T @ (w - mean)


def sgd_scale(n: int, b: int, replace: bool = True) -> Fraction:
    """The number k in ``Var W = k (I − 11ᵀ/n)`` of mini-batch SGD: 1/(bn) with replacement, (n−b)/(bn(n−1)) without (Wu
    et al. 2020, Proposition 1). Raises WrongType or Refused for counts that no batch has.

    >>> sgd_scale(7, 3), sgd_scale(7, 3, replace=False)
    (Fraction(1, 21), Fraction(2, 63))
    """
    n, replace = integer("n", n, 2), boolean("replace", replace)
    b = integer("b", b, 1, None if replace else n, f"without replacement a batch holds between 1 and n = {n} samples")
    return Fraction(1, b * n) if replace else Fraction(n - b, b * n * (n - 1))


def checked(law) -> Law:
    """A law as it came. Raises WrongType for anything else, such as its name.

    >>> checked("SGD")
    Traceback (most recent call last):
    ...
    support.errors.WrongType: law = 'SGD' is of type str: give one such as support.sampling.by_name('MSGD-Cov', n, b)
    """
    return instance("law", law, Law, "give one such as support.sampling.by_name('MSGD-Cov', n, b)")


def centred(n: int, k) -> Exchangeable:
    """The matrix ``k (I − 11ᵀ/n)``.

    >>> centred(4, Fraction(1, 2)).total_variance
    Fraction(0, 1)
    """
    return Exchangeable(n, k, -k / n)


def per_sample(losses):
    """Losses as one number a sample: a real torch tensor of shape (m,). Raises WrongType, or Refused with the remedy.

    >>> import torch
    >>> per_sample(torch.ones(3, 1))
    Traceback (most recent call last):
    ...
    support.errors.Refused: the losses have shape (3, 1): give one number a sample, shape (m,), by losses.squeeze(1)
    """
    losses, remedy = tensor("losses", losses), "not their mean (in torch: reduction='none')"
    if not losses.is_floating_point():
        raise WrongType(f"the losses are of type {losses.dtype}: give real numbers, such as float32")
    if losses.ndim != 1:
        remedy = "by losses.squeeze(1)" if losses.ndim == 2 and losses.shape[1] == 1 else remedy
        raise Refused(f"the losses have shape {tuple(losses.shape)}: give one number a sample, shape (m,), {remedy}")
    return losses
