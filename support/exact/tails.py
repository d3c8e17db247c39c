r"""Heavy tails of SGD on least squares in one dimension, exactly: the tail index, which moments exist, and what has no
power law at all.

A step is ``δ ← f δ + noise`` with a random factor ``f = 1 − η(mean of x² in the batch + γ)``. Its stationary law has
``E|δ|^q < ∞`` exactly for q below the tail index β, the positive root of the moment exponent

    Λ(β) = log E|f|^β = 0

which is convex with Λ(0) = 0 (Kesten 1973, Goldie 1991; the noise must not hold one point fixed). There is no
stationary law where ``Λ'(0) = E log|f| ≥ 0`` (β = 0), and no power law where |f| never exceeds 1 (β = ∞). Gaussian
inputs are a `GaussianFactor`, a law with atoms is a `support.exact.mixtures.Mixture`. In the formulas s = aη, a = E x².
Source: Ziyin et al. (2022), Section 6.6 and Appendix D.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special, stats
from scipy.optimize import brentq

from support.errors import Refused, array, boolean, instance, integer, probability, real
from support.exact.mixtures import Mixture
from support.intervals import Interval


@dataclass(frozen=True)
class GaussianFactor:
    """The law of ``f = keep − s χ²_b/b``: inputs x ~ N(0, a), b fresh samples, scale s = aη > 0, keep = 1 − ηγ > 0 for
    a weight decay γ. Raises WrongType, Refused for another scale, keep or b < 1.

    >>> one = GaussianFactor(0.5, 1)
    >>> round(math.exp(one.exponent(2)), 12)  # E f² = (1 − s)² + 2s²/b
    0.75
    """

    scale: float
    b: int
    keep: float = 1.0

    def __post_init__(self):
        real("scale", self.scale, above=0), real("keep", self.keep, above=0)
        integer("b", self.b, 1)

    def exponent(self, q: float) -> float:
        """``Λ(q) = log E|f|^q`` for q > −1, by double-exponential quadrature on the two sides of f = 0; error below
        1e-11.
        """
        return self._tilt(q)[0]

    def slope(self, q: float) -> float:
        """``Λ'(q) = E[|f|^q log|f|] / E|f|^q``; ``Λ'(0)`` is the rate of a typical run."""
        return self._tilt(q)[1]

    def _tilt(self, q):
        q = real("q", q, above=-1)
        half, rate = self.b / 2, self.b * self.keep / (2 * self.scale)
        step = 1 / (40 + 2 * math.sqrt(self.b + abs(q)))
        x = np.arange(-4.5, 4.5, step)
        stretch = math.pi * np.sinh(x)
        below, left = special.log_expit(stretch), special.log_expit(-stretch)  # log t and log(1 − t), t = s χ²/(b keep)
        above = stretch / 2  # log(t − 1)
        log_t = np.concatenate([below, np.logaddexp(0, above)])
        log_f = np.concatenate([left, above])
        jacobian = np.log(math.pi * np.cosh(x)) + np.stack([below + left, above - math.log(2)])
        terms = (half - 1) * log_t + q * log_f - rate * np.exp(log_t) + jacobian.ravel()
        total = special.logsumexp(terms)
        value = total + math.log(step) + half * math.log(rate) - special.gammaln(half)
        share = np.exp(terms - total)
        keep = math.log(self.keep)
        return float(value + q * keep), float(share @ log_f + keep)


def data_factor(squares, lr: float, b: int, replace: bool = True, decay: float = 0.0) -> Mixture:
    """The law of ``f = 1 − η(mean of x² in the batch + γ)`` for a finite data set with these x² (n,), b drawn with or
    without replacement: a Mixture of atoms, in the numbers given. For few values of x²: at most 100000 batches.

    Raises WrongType for another type, Refused for negative squares, b < 1, b > n without replacement, or too many
    batches.

    >>> data_factor([1.0, 3.0], 0.5, 2, replace=False).parts
    ((1.0, 0.0, 0.0),)
    """
    squares, b, lr, decay = _squares(squares), integer("b", b, 1), real("lr", lr, above=0), real("decay", decay)
    values, counts = np.unique(squares, return_counts=True)
    open_laws, whole = {(0, 0.0): 1.0}, {}  # number, sum of what was drawn: probability (with) or ways (without)
    if not boolean("replace", replace):
        integer("b", b, 1, len(squares), why=f"a batch without replacement holds 1 to n = {len(squares)} samples")
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        after = dict(open_laws)
        for (drawn, total), ways in open_laws.items():
            for k in range(1, min(b - drawn, b if replace else count) + 1):
                times = count**k / math.factorial(k) if replace else math.comb(count, k)
                place, to = (drawn + k, total + k * value), after if drawn + k < b else whole
                to[place] = to.get(place, 0.0) + ways * times
        if len(open_laws := after) + len(whole) > 100_000:
            raise Refused(f"{len(values)} values of x² make too many batches of {b}: choose fewer of either")
    norm = sum(whole.values())
    return Mixture(tuple((ways / norm, 1 - lr * (total / b + decay), 0.0) for (_, total), ways in whole.items()))


def bounded_below(squares, b: int, replace: bool = True) -> float:
    """The learning rate up to which no step expands, |f| ≤ 1, so that a finite data set with these x² (n,) has a
    bounded stationary law and no power law: 2 over the largest mean of x² in a batch.

    With replacement, whatever b, that is ``2/max x²``. Raises as `data_factor`.

    >>> bounded_below([1.0, 3.0, 4.0], 2), bounded_below([1.0, 3.0, 5.0], 2, replace=False)
    (0.5, 0.5)
    """
    squares, b = _squares(squares), integer("b", b, 1)
    if boolean("replace", replace):
        return float(2 / squares.max())
    integer("b", b, 1, len(squares), why=f"a batch without replacement holds 1 to n = {len(squares)} samples")
    return float(2 / np.sort(squares)[-b:].mean())


def tail_index(factor) -> float:
    """β, the positive root of Λ: moments of order below β exist, others do not. ∞ where |f| ≤ 1, 0 where there is no
    stationary law. factor: a `GaussianFactor` or a `Mixture`. Raises WrongType for another type.

    >>> round(tail_index(GaussianFactor(1.0, 2)), 9)  # where the formula 2b/s − b is right
    2.0
    >>> tail_index(data_factor([1.0, 3.0], 0.5, 1))  # f = ½ or −½
    inf
    """
    _factor(factor)
    if not _grows(factor):
        return math.inf
    if not factor.slope(0) < 0:
        return 0.0
    high = 1.0
    while not factor.exponent(high) > 0:
        high *= 2
    low = high / 2
    while not factor.exponent(low) < 0:
        low /= 2
    return float(brentq(factor.exponent, low, high, xtol=1e-14 * low, rtol=1e-14))


def moment_exists(factor, order: float) -> bool:
    """Whether the stationary law has ``E|δ|^order < ∞``, order > 0: Λ(order) < 0, or |f| ≤ 1 and not always 1. Raises
    WrongType, Refused for another order.

    >>> moment_exists(GaussianFactor(0.4, 1), 2), moment_exists(GaussianFactor(0.4, 1), 4)
    (True, False)
    """
    return bool(_factor(factor).exponent(real("order", order, above=0)) < 0)


def edge(order: float, b: int) -> float:
    """The scale s = aη from which on ``E|δ|^order`` diverges for Gaussian inputs; order 0: from which on nothing is
    stationary, ``E log|1 − s χ²_b/b| = 0``. Raises WrongType, Refused for order < 0 or b < 1.

    >>> round(edge(2, 4), 9), round(edge(0, 1), 4)  # 2b/(b + 2), and far beyond it
    (1.333333333, 2.4212)
    """
    order, b = real("order", order, 0), integer("b", b, 1)

    def excess(scale):
        factor = GaussianFactor(scale, b)
        return factor.exponent(order) if order else factor.slope(0)

    high = 0.1 * b / (b + order)
    while not excess(high) > 0:
        high *= 1.5
    return float(brentq(excess, high / 1.5, high, xtol=1e-14, rtol=1e-13))


def printed_index(scale: float, b: float) -> float:
    """Proposition 7's ``2b/s − b``: the index of a Student law with the variance of Theorem 2; right at β = 2 only.

    >>> printed_index(1.0, 4)
    4.0
    """
    return 2 * real("b", b, above=0) / real("scale", scale, above=0) - b


def continuous_index(scale: float, b: float, gaussian: bool = False) -> float:
    """Continuous time: ``2b/s + 1`` of the diffusion coefficient ∝ σ² + aδ² (Mori et al. 2021); ``b/s + 1`` with the
    ∝ σ² + 2aδ² of Gaussian inputs.

    >>> continuous_index(1.0, 4), continuous_index(1.0, 4, gaussian=True)
    (9.0, 5.0)
    """
    share = 1 if boolean("gaussian", gaussian) else 2
    return share * real("b", b, above=0) / real("scale", scale, above=0) + 1


def small_rate_index() -> float:
    """The limit of βs/b as s → 0 for Gaussian inputs, c/2 with ``c (log c − 1) = 1``; 2 in the formulas.

    >>> round(small_rate_index(), 6)
    1.795561
    """
    return float(math.exp(1 + special.lambertw(math.exp(-1)).real) / 2)


def large_batch_index(scale: float) -> float:
    """The limit of β/b as b → ∞ at a fixed scale 0 < s < 2 for Gaussian inputs: the slope β_1 at which
    ``max_q β_1 log|1 − sq| − (q − 1 − log q)/2`` is 0, by Cramér's theorem for χ²_b/b. Raises WrongType, Refused.

    >>> round(large_batch_index(1.0), 3)
    0.65
    """
    scale = real("scale", scale, above=0)
    if not scale < 2:
        raise Refused(f"scale = {scale} is unstable at large batches: choose scale < 2")

    def best(slope):  # where sq > 1 the derivative β s/(sq − 1) − (1 − 1/q)/2 vanishes at the root of a quadratic
        half = (1 + scale + 2 * slope * scale) / 2
        q = (half + math.sqrt(half * half - scale)) / scale
        return slope * math.log(scale * q - 1) - (q - 1 - math.log(q)) / 2

    high = 1.0
    while not best(high) > 0:
        high *= 2
    return float(brentq(best, 1e-9, high, rtol=1e-13))


def hill(samples, k: int, confidence: float = 0.95) -> Interval:
    """Hill's estimate of the tail index from the k largest of |samples| (n,), 1 ≤ k < n, which must be independent:
    ``1/mean log(X_(i)/X_(k+1))``.

    Where the law is a power law beyond X_(k+1), 2kβ over the estimate is χ² with 2k degrees, which is the interval; it
    leaves out the bias of a law that is not yet one there. Raises WrongType, Refused for k out of range or samples that
    are 0.

    >>> hill(np.random.default_rng(1).random(4000) ** (-1 / 3), 400)
    Interval(3.067 [2.774, 3.375], 95 %, Hill, count=400)
    """
    sizes = np.sort(np.abs(array("samples", samples, ("n",))))[::-1]
    k = integer("k", k, 1, len(sizes) - 1)
    level = probability("confidence", confidence)
    if not sizes[k] > 0:
        raise Refused(f"the {k + 1} largest samples hold a 0: choose k below {int((sizes > 0).sum())}")
    mean = float(np.log(sizes[:k] / sizes[k]).mean())
    if not mean > 0:
        raise Refused(f"the {k + 1} largest samples are equal: there is no tail to measure")
    low, high = stats.chi2.ppf([(1 - level) / 2, (1 + level) / 2], 2 * k) / (2 * k)
    return Interval(1 / mean, float(low / mean), float(high / mean), level, k, "Hill")


def _squares(squares):
    squares = array("squares", squares, ("n",))
    if not len(squares) or squares.min() < 0 or not squares.max() > 0:
        raise Refused("squares are the x² of the data: give numbers ≥ 0, one of them > 0")
    return squares


def _factor(factor):
    return instance("factor", factor, (GaussianFactor, Mixture), "give GaussianFactor(scale, b) or a Mixture")


def _grows(factor):
    """Whether |f| > 1 has a positive probability."""
    return isinstance(factor, GaussianFactor) or any(s > 0 or abs(m) > 1 for _, m, s in factor.parts)
