"""Do two methods do equally well? Tests of a margin, their power, several of them at once, and the speed of a curve.

Runs with the same seed start from the same parameters, so methods are compared by their differences D_s within seeds,
s = 1 … S. "No difference was found" and "there is no difference that counts" are two statements. The second takes a
margin δ, fixed beforehand, and two one-sided tests (Schuirmann 1987): of "worse by δ or more" and of "better by δ or
more". All quantiles are scipy's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from support.errors import Refused, WrongType, array, integer, probability, real
from support.intervals import observed


@dataclass(frozen=True)
class Equivalence:
    """p values of "worse by the margin or more" and "better by the margin or more", and the level they are held
    against.

    >>> Equivalence(p_worse=0.01, p_better=0.2, level=0.05).verdict
    'not worse'
    """

    p_worse: float
    p_better: float
    level: float

    @property
    def verdict(self) -> str:
        """What is shown: "equivalent" (both are rejected), "not worse", "not better", or "open" (neither is)."""
        worse, better = self.p_worse < self.level, self.p_better < self.level
        return "equivalent" if worse and better else "not worse" if worse else "not better" if better else "open"


def equivalence(differences, margin: float, level: float = 0.05) -> Equivalence:
    """The two one-sided Student tests of |mean difference| ≥ margin, each at ``level``; a method that is not equivalent
    passes with probability ≤ level.

    Both reject exactly when the Student interval of confidence 1 − 2·level lies inside (−margin, margin).
    Raises Refused for fewer than two differences, a margin ≤ 0, or a level outside (0, 1/2).

    >>> equivalence([0.1, -0.2, 0.05, 0.1], margin=0.5).verdict
    'equivalent'
    """
    from scipy import stats

    differences = np.asarray(observed(differences))
    if differences.ndim != 1:
        raise Refused(f"differences of shape {differences.shape}: give one number a seed")
    margin, level = _margin_and_level(margin, level)
    error = max(differences.std(ddof=1), np.finfo(float).tiny) / math.sqrt(len(differences))
    below, above = (stats.t.sf((margin + sign * differences.mean()) / error, len(differences) - 1) for sign in (1, -1))
    return Equivalence(float(below), float(above), level)


def power(count: int, sigma: float, margin: float, level: float = 0.05, truth: float = 0.0) -> float:
    """Probability that `equivalence` passes ``count`` normal differences of mean ``truth`` and standard deviation
    ``sigma``.

    Given σ̂, a method passes if |D̄| < δ − t σ̂/√S; the normal probability of that is averaged over the χ law of σ̂ by
    its quantiles (error below 1e-3). Raises Refused for count < 2 or sigma ≤ 0, and as `equivalence`.

    >>> round(power(10, sigma=1.0, margin=1.0), 2)
    0.8
    """
    from scipy import stats

    count, sigma, truth = integer("count", count, low=2), real("sigma", sigma, above=0), real("truth", truth)
    margin, level = _margin_and_level(margin, level)
    chance = (np.arange(2000) + 0.5) / 2000
    error = sigma * np.sqrt(stats.chi2.ppf(chance, count - 1) / (count - 1) / count)
    room, spread = margin - stats.t.ppf(1 - level, count - 1) * error, sigma / math.sqrt(count)
    passes = stats.norm.cdf((room - truth) / spread) - stats.norm.cdf((-room - truth) / spread)
    return float(np.where(room > 0, passes, 0).mean())


def sample_size(sigma: float, margin: float, power: float = 0.8, level: float = 0.05, truth: float = 0.0) -> int:
    """The smallest count of differences with which `equivalence` passes with probability ``power``.

    Raises Refused for a truth not within the margin, more than 10⁶ differences, and as `power`.

    >>> sample_size(sigma=1.0, margin=1.0, power=0.8)
    11
    """
    wanted, truth = probability("power", power), real("truth", truth)
    margin, level = _margin_and_level(margin, level)
    if abs(truth) >= margin:
        raise Refused(f"truth = {truth:g} lies not within the margin {margin:g}: no count of runs shows equivalence")
    enough = 2
    while _power(enough, sigma, margin, level, truth) < wanted:
        enough *= 2
        if enough > 1e6:
            raise Refused(f"a power of {wanted:g} takes over {enough // 2} differences: widen the margin {margin:g}")
    short = enough // 2
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if _power(middle, sigma, margin, level, truth) >= wanted else (middle, enough)
    return enough


_power = power  # by another name, for `sample_size` has an argument called power


def holm(p_values) -> np.ndarray:
    """p values adjusted for their number m (Holm 1979): the j-th smallest times m − j + 1, made monotone, at most 1.

    Those at or below a level are rejected; the chance of any false rejection is then at most that level, whatever the
    tests have to do with each other. Raises Refused for no value, or one outside [0, 1].

    >>> holm([0.04, 0.01, 0.03])
    array([0.06, 0.03, 0.06])
    """
    p = array("p_values", p_values)
    if p.ndim != 1 or not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise Refused(f"p_values of shape {p.shape}: give one or more numbers between 0 and 1")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def reached(x, y, goal: float) -> float:
    """The place from which a falling curve y(x) stays below the goal, between points on a straight line; the last x if
    it does not stay there.

    Staying counts, for the first crossing favours the curve that wobbles most; what is not a number does not stay.
    Raises Refused for shapes that differ, WrongType.

    >>> reached([0, 1, 2, 3], [4, 1, 3, 0], goal=2.0)
    2.3333333333333335
    """
    x, goal = array("x", x), real("goal", goal)
    try:
        y = np.asarray(y, dtype=float)
    except (TypeError, ValueError):
        raise WrongType(f"y of type {type(y).__name__} are no numbers: give a list or an array") from None
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise Refused(f"a curve of shapes {x.shape} and {y.shape}: give one y for each x")
    above = np.flatnonzero(~(y < goal))
    if not len(above):
        return float(x[0])
    k = above[-1]
    return float(x[-1] if k == len(y) - 1 else np.interp(goal, [y[k + 1], y[k]], [x[k + 1], x[k]]))


def _margin_and_level(margin, level) -> tuple[float, float]:
    margin, level = real("margin", margin, above=0), probability("level", level)
    if level >= 0.5:
        raise Refused(f"level = {level:g} makes no equivalence test: give a level below 1/2, such as 0.05")
    return margin, level
