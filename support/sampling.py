r"""Laws of the sampling vector W: exact mean, exact covariance, sampler.

One step of stochastic gradient descent on n samples is ``θ ← θ − η ∇𝓛(θ) W`` with the d x n gradient matrix ``∇𝓛(θ)``
(columns ∇ℓ_i) and a random *sampling vector* W in R^n of mean 1/n. The *sampling noise* is V = W − 1/n. A law of W is
all that separates mini-batch SGD from Gaussian, Bernoulli or sparse noise; this module holds the laws of Wu et al.
(2020).

Every law takes ``(n, b)``: n samples, and the batch size b of the SGD it is compared with. ``replace`` says how batches
are drawn, and with it which SGD covariance ``K = k (I − 11ᵀ/n)`` is meant: ``k = 1/(bn)`` with replacement,
``k = (n−b)/(bn(n−1))`` without (Wu et al. 2020, Proposition 1). All moments are rational numbers
(`fractions.Fraction`); samplers are vectorised for numpy and torch generators.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from support._random import source
from support.errors import Refused, WrongType

Atom = tuple[Fraction, tuple[Fraction, ...]]
_WU = "Wu et al. (2020), On the Noisy Gradient Descent that Generalizes as SGD"


@dataclass(frozen=True)
class Exchangeable:
    """The n x n matrix ``a·I + c·11ᵀ``: what the covariance of any exchangeable law looks like.

    ``a`` and ``c`` are Fractions (or floats, if a scale was given as a float); ``matrix @ x`` takes x of shape (n,) or
    (n, m) in O(nm).
    """

    n: int
    a: Any
    c: Any

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
        matrix = np.full((self.n, self.n), self.c if exact else float(self.c))
        np.fill_diagonal(matrix, self.diagonal if exact else float(self.diagonal))
        return matrix

    def __matmul__(self, x):
        """Product with a numpy array or torch tensor x whose first axis has length n."""
        shape = tuple(getattr(x, "shape", ()))
        if shape[:1] != (self.n,):
            raise Refused(
                f"cannot multiply a {self.n} x {self.n} matrix with an array of shape {shape}: its first axis must be "
                f"n = {self.n}"
            )
        return float(self.a) * x + float(self.c) * x.sum(0)


def _integer(name: str, value, low: int, high: int | None, why: str) -> int:
    """The value as Python's own integer, whose products cannot overflow."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise WrongType(f"{name} = {value!r} is not an integer: give a whole number of samples")
    if value < low or (high is not None and value > high):
        raise Refused(f"{name} = {value} is out of range: {why}")
    return int(value)


@dataclass(frozen=True)
class Law:
    """A law of the sampling vector W in R^n with mean 1/n.

    n: number of samples, at least 2.  b: batch size of the SGD to be matched, 1 ≤ b ≤ n.  replace: batches drawn with
    replacement.
    Raises TypeError for a count that is no integer, ValueError for one that is out of range.
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
        if not isinstance(self.replace, (bool, np.bool_)):
            raise WrongType(f"replace = {self.replace!r} is not a boolean: give True or False")

    def _count(self, name: str, low: int, high: int | None, why: str) -> None:
        object.__setattr__(self, name, _integer(name, getattr(self, name), low, high, why))

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
        Raises TypeError for another generator or a size that is no integer, ValueError for a negative size.
        """
        weights = self._draw(_size(size), source(generator))
        return weights[0] if size is None else weights

    def _draw(self, size: int, random):
        raise WrongType(f"{type(self).__name__} has no sampler: use one of the laws that by_name knows")

    def slot_weights(self, size: int | None, generator):
        """The weights of a batch that a loader draws; only `Compensated` has them. Raises TypeError for every other
        law.
        """
        raise WrongType(
            f"{self.name} weighs the whole data set, not a loader's batch: use support.msgd.MSGD, or a law such as "
            f"[MSGD-Cov]-500"
        )

    @property
    def sgd_covariance(self) -> Exchangeable:
        """``K = k(I − 11ᵀ/n)``: covariance of mini-batch SGD with this n, b and ``replace`` (Wu et al. 2020,
        Proposition 1).
        """
        return _centred(self.n, sgd_scale(self.n, self.b, self.replace))


def _size(size: int | None) -> int:
    return 1 if size is None else _integer("size", size, 0, None, "give a number of draws ≥ 0, or None for one vector")


def sgd_scale(n: int, b: int, replace: bool = True) -> Fraction:
    """The number k in ``Var W = k (I − 11ᵀ/n)`` of mini-batch SGD: 1/(bn) with replacement, (n−b)/(bn(n−1)) without (Wu
    et al. 2020, Proposition 1).
    """
    return Fraction(1, b * n) if replace else Fraction(n - b, b * n * (n - 1))


def _centred(n: int, k) -> Exchangeable:
    return Exchangeable(n, k, -k / n)


@dataclass(frozen=True)
class MiniBatch(Law):
    """Mini-batch SGD: W = (how often each sample is in the batch) / b. Covariance K (Wu et al. 2020, Proposition 1)."""

    name = "SGD"
    sparse = True
    citation = f"{_WU}, Proposition 1"
    covariance = Law.sgd_covariance

    def _draw(self, size, random):
        draw = random.indices if self.replace else random.subsets
        return random.scatter(draw(size, self.n, self.b), 1 / self.b, self.n)

    def atoms(self) -> Iterator[Atom]:
        """Every batch as (probability, W), in rationals: n^b ordered draws with replacement, C(n, b) subsets without.
        For small n.
        """
        batches = (
            itertools.product(range(self.n), repeat=self.b)
            if self.replace
            else itertools.combinations(range(self.n), self.b)
        )
        probability = Fraction(1, self.n**self.b if self.replace else math.comb(self.n, self.b))
        for batch in batches:
            yield probability, tuple(Fraction(batch.count(i), self.b) for i in range(self.n))


@dataclass(frozen=True)
class FullBatch(Law):
    """Gradient descent: W = 1/n always. Covariance 0."""

    name = "GD"
    citation = f"{_WU}, Section 2"

    @property
    def covariance(self):
        return Exchangeable(self.n, Fraction(0), Fraction(0))

    def _draw(self, size, random):
        return random.full((size, self.n), 1 / self.n)

    def atoms(self) -> Iterator[Atom]:
        """The one value of W, with probability 1."""
        yield Fraction(1), (Fraction(1, self.n),) * self.n


@dataclass(frozen=True)
class GaussianCovariance(Law):
    """MSGD-Cov: ``W = 1/n + √k (I − 11ᵀ/n) ε`` with ε white Gaussian. Covariance K, because I − 11ᵀ/n is a projection
    (Wu et al. 2020, Section 4.1).
    """

    name = "MSGD-Cov"
    citation = f"{_WU}, Section 4.1"
    covariance = Law.sgd_covariance

    def _draw(self, size, random):
        noise = random.normal((size, self.n))
        scale = math.sqrt(sgd_scale(self.n, self.b, self.replace))
        return 1 / self.n + scale * (noise - noise.mean(1)[:, None])


@dataclass(frozen=True)
class GaussianFisher(Law):
    """MSGD-Fisher: ``W = 1/n + ε/√(bn)``, ε white Gaussian. Covariance I/(bn): the gradient noise has covariance F/b
    (Wu et al. 2020, Section 4.2).
    """

    name = "MSGD-Fisher"
    citation = f"{_WU}, Section 4.2"

    @property
    def covariance(self):
        return Exchangeable(self.n, Fraction(1, self.b * self.n), Fraction(0))

    def _draw(self, size, random):
        return 1 / self.n + random.normal((size, self.n)) / math.sqrt(self.b * self.n)


@dataclass(frozen=True)
class Rademacher(Law):
    """M-SGD with signs: ``W = 1/n ± 1/√(bn)``, independent fair signs. Covariance I/(bn) (the talk's GD-Rademacher,
    without its supremum).
    """

    name = "M-SGD-Rademacher"
    citation = "Wu (2019), talk on the noise of SGD, GD-Rademacher"
    covariance = GaussianFisher.covariance

    def _draw(self, size, random):
        return 1 / self.n + random.signs((size, self.n)) / math.sqrt(self.b * self.n)

    def atoms(self) -> Iterator[Atom]:
        """The 2^n sign patterns, in rationals; needs 1/√(bn) rational, so bn a perfect square. Raises ValueError
        otherwise.
        """
        root = math.isqrt(self.b * self.n)
        if root * root != self.b * self.n:
            raise Refused(
                f"1/sqrt(bn) is irrational for b = {self.b}, n = {self.n}: choose b·n a perfect square to enumerate "
                f"in rationals"
            )
        for signs in itertools.product((-1, 1), repeat=self.n):
            yield Fraction(1, 2**self.n), tuple(Fraction(1, self.n) + Fraction(s, root) for s in signs)


@dataclass(frozen=True)
class Bernoulli(Law):
    """MSGD-Bernoulli: weights independent, 1/b with probability b/n, else 0. Covariance (n−b)/(bn²) I (Wu et al. 2020,
    Section 4.3, as on the slides).
    """

    name = "MSGD-Bernoulli"
    sparse = True
    citation = f"{_WU}, Section 4.3"

    @property
    def covariance(self):
        return Exchangeable(self.n, Fraction(self.n - self.b, self.b * self.n**2), Fraction(0))

    def _draw(self, size, random):
        return random.coins((size, self.n), self.b / self.n) / self.b

    def atoms(self) -> Iterator[Atom]:
        """The 2^n on/off patterns, in rationals."""
        p = Fraction(self.b, self.n)
        for on in itertools.product((0, 1), repeat=self.n):
            yield p ** sum(on) * (1 - p) ** (self.n - sum(on)), tuple(Fraction(x, self.b) for x in on)


@dataclass(frozen=True)
class _LargeBatch(Law):
    """A law that also has a batch of B samples on which its noise lives."""

    B: int

    _least_B: ClassVar[int] = 1

    def __post_init__(self):
        super().__post_init__()
        self._count(
            "B",
            self._least_B,
            self.n,
            f"{type(self).__name__} draws between {self._least_B} and n = {self.n} samples for its noise",
        )


@dataclass(frozen=True)
class SparseFisher(_LargeBatch):
    """MSGD-[Fisher-B]: ``W = 1/n + 1_S ⊙ ε/√(bB)``, S a uniform B-subset drawn without replacement. Covariance I/(bn).

    Wu et al. (2020), Section 4.4, corrected: the printed formula puts the noise on a vector that is not sparse and
    misses this covariance.
    """

    name = "MSGD-[Fisher-B]"
    citation = f"{_WU}, Section 4.4, corrected"
    covariance = GaussianFisher.covariance

    def _draw(self, size, random):
        noise = random.normal((size, self.B)) / math.sqrt(self.b * self.B)
        return 1 / self.n + random.scatter(random.subsets(size, self.n, self.B), noise, self.n)


@dataclass(frozen=True)
class SparseCovariance(_LargeBatch):
    """MSGD-[Cov-B]: ``W = 1/n +`` Gaussian noise on a uniform B-subset S, centred within S, of variance
    ``k(n−1)/(B−1)`` before centring. Covariance K.

    Needs B ≥ 2: the noise of a single sample, centred, is zero. Wu et al. (2020), Appendix C and Figure 3.
    """

    name = "MSGD-[Cov-B]"
    citation = f"{_WU}, Figure 3"
    _least_B = 2
    covariance = Law.sgd_covariance

    def _draw(self, size, random):
        noise = random.normal((size, self.B)) * math.sqrt(
            sgd_scale(self.n, self.b, self.replace) * Fraction(self.n - 1, self.B - 1)
        )
        return 1 / self.n + random.scatter(random.subsets(size, self.n, self.B), noise - noise.mean(1)[:, None], self.n)


@dataclass(frozen=True)
class Compensated(_LargeBatch):
    """Algorithm 2, [MSGD-Fisher]-B and [MSGD-Cov]-B: a batch of B whose weights 1/B carry Gaussian noise, so that B ≥ b
    samples are as noisy as b.

    A batch has B slots; slot r has weight ``1/B + τ ε_r`` (kind "fisher") or ``1/B + τ (ε_r − mean(ε))`` (kind
    "covariance"): one ε per slot, not per distinct sample. W sums the weights of the slots that hold a sample.
    ``scale`` is τ² (units of a squared weight); None is the exact match:

    * "covariance": ``τ² = (B−b)/(bB(B−1))`` gives K exactly, with and without replacement (needs B ≥ 2);
    * "fisher": ``τ² = (B−b)/(bB²)``, times n/(n−1) without replacement, gives K on 1⊥ and adds a jitter of the learning
    rate, `covariance.total_variance`.

    Wu et al. (2020), Section 4.5 and Algorithm 2 (which tunes τ by hand); the covariance of "covariance" is that of
    Theorem 1.
    Raises ValueError for B < b, an unknown kind, or a negative or non-finite scale.
    """

    kind: str = "covariance"
    scale: Any = None

    citation = f"{_WU}, Algorithm 2"
    sparse = True

    def __post_init__(self):
        if self.kind not in ("covariance", "fisher"):
            raise Refused(f"kind = {self.kind!r} is unknown: choose 'covariance' or 'fisher'")
        super().__post_init__()
        if self.kind == "covariance":
            self._count("B", 2, self.n, "noise centred within the batch needs B ≥ 2")
        if self.b > self.B:
            raise Refused(
                f"B = {self.B} is smaller than b = {self.b}: noise can be added to a large batch, not taken from a "
                f"small one; choose B ≥ b"
            )
        if self.scale is not None and not (isinstance(self.scale, Real) and 0 <= self.scale < math.inf):
            raise Refused(f"scale = {self.scale!r} is no variance: give a finite τ² ≥ 0, or None for the exact match")

    @property
    def name(self) -> str:
        return "[MSGD-Cov]-B" if self.kind == "covariance" else "[MSGD-Fisher]-B"

    @property
    def tau_squared(self):
        """Variance τ² of the white noise on one slot's weight: `scale`, or the exact match."""
        if self.scale is not None:
            return self.scale
        missing = Fraction(self.B - self.b, self.b * self.B)
        if self.kind == "covariance":
            return missing / (self.B - 1)
        return missing / self.B * (1 if self.replace else Fraction(self.n, self.n - 1))

    @property
    def covariance(self):
        base, n, B, tau2 = sgd_scale(self.n, self.B, self.replace), self.n, self.B, self.tau_squared
        if self.kind == "covariance":
            return _centred(n, base + tau2 * (B - 1) / (n if self.replace else n - 1))
        return Exchangeable(n, base + B * tau2 / n, -base / n)

    def slot_weights(self, size: int | None, generator):
        """The weights of a batch's slots alone, shape (size, B) or (B,), for a loop whose loader draws the batch:
        multiply per-sample losses and sum.

        The noise is that of `covariance` if the loader draws as ``replace`` says; one that shuffles draws without
        replacement. Types and errors as in `sample`.
        """
        weights = self._slots(_size(size), source(generator))
        return weights[0] if size is None else weights

    def _slots(self, size, random):
        noise = random.normal((size, self.B)) * math.sqrt(self.tau_squared)
        return 1 / self.B + (noise - noise.mean(1)[:, None] if self.kind == "covariance" else noise)

    def _draw(self, size, random):
        draw = random.indices if self.replace else random.subsets
        return random.scatter(draw(size, self.n, self.B), self._slots(size, random), self.n)


_PLAIN = {
    law.name.lower(): law for law in (MiniBatch, FullBatch, GaussianCovariance, GaussianFisher, Rademacher, Bernoulli)
}
_SIZED = (
    (re.compile(r"msgd-\[fisher-(\d+)\]"), SparseFisher, {}),
    (re.compile(r"msgd-\[cov-(\d+)\]"), SparseCovariance, {}),
    (re.compile(r"\[msgd-fisher\]-(\d+)"), Compensated, {"kind": "fisher"}),
    (re.compile(r"\[msgd-cov\]-(\d+)"), Compensated, {"kind": "covariance"}),
)
NAMES = (
    *(law.name for law in _PLAIN.values()),
    SparseFisher.name,
    SparseCovariance.name,
    "[MSGD-Fisher]-B",
    "[MSGD-Cov]-B",
)


def by_name(name: str, n: int, b: int, *, replace: bool = True) -> Law:
    """The law that the papers call ``name``, such as "SGD", "MSGD-Cov", "MSGD-[Fisher-100]" or "[MSGD-Cov]-1000" (the
    number is B; case does not matter).

    Raises ValueError for an unknown name, naming the closest one, and what the law raises for its counts.
    """
    if not isinstance(name, str):
        raise WrongType(f"name = {name!r} is no text: give the name of a noise class, such as 'MSGD-Cov'")
    wanted = name.strip().lower()
    if wanted in _PLAIN:
        return _PLAIN[wanted](n, b, replace=replace)
    for pattern, law, options in _SIZED:
        if match := pattern.fullmatch(wanted):
            return law(n, b, int(match.group(1)), replace=replace, **options)
    known = {known.lower(): known for known in NAMES}
    close = difflib.get_close_matches(re.sub(r"\d+", "b", wanted), known, 1)
    hint = f"did you mean {known[close[0]]!r}? " if close else ""
    raise Refused(f"unknown noise class {name!r}: {hint}Known are {', '.join(NAMES)}, with a number for B")
