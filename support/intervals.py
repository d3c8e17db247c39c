r"""Do two training methods do equally well? Paired differences, their Student interval, the equivalence test, its
power, and the speed of a curve.

Runs with the same seed start from the same parameters, so methods are compared by their differences D_s within seeds, s
= 1 … S. With mean D̄, sample standard deviation σ̂ and Student's quantile t of S − 1 degrees of freedom, the interval
of the mean is ``D̄ ± t σ̂/√S``.

"No difference was found" and "there is no difference that counts" are two statements. The second takes a margin δ,
fixed beforehand, and two one-sided tests (Schuirmann 1987): of "worse by δ or more" and of "better by δ or more".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from support.errors import Refused


@dataclass(frozen=True)
class Equivalence:
    """p values of "worse by the margin or more" and "better by the margin or more", and the level they are held
    against.
    """

    p_worse: float
    p_better: float
    level: float

    @property
    def verdict(self) -> str:
        """What is shown: "equivalent" (both are rejected), "not worse", "not better", or "open" (neither is)."""
        worse, better = self.p_worse < self.level, self.p_better < self.level
        return "equivalent" if worse and better else "not worse" if worse else "not better" if better else "open"


def student(values, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values, shape (S,), and the ends of its Student interval: (mean, low, high).

    Raises ValueError for S < 2, a value that is not finite, or a confidence outside (0, 1).
    """
    from scipy import stats

    values = _differences(values)
    if not 0 < confidence < 1:
        raise Refused(f"confidence = {confidence} is no probability between 0 and 1: give one such as 0.95")
    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean(), values.mean() - half, values.mean() + half


def equivalence(differences, margin: float, level: float = 0.05) -> Equivalence:
    """The two one-sided Student tests of |mean difference| ≥ margin, each at ``level``; a method that is not equivalent
    passes with probability ≤ level.

    Both reject exactly when the Student interval of confidence 1 − 2·level lies inside (−margin, margin).
    Raises ValueError for fewer than two differences, a margin ≤ 0, or a level outside (0, 1/2).
    """
    from scipy import stats

    differences = _differences(differences)
    _check_test(margin, level)
    error = max(differences.std(ddof=1), np.finfo(float).tiny) / math.sqrt(len(differences))
    below, above = (stats.t.sf((margin + sign * differences.mean()) / error, len(differences) - 1) for sign in (1, -1))
    return Equivalence(float(below), float(above), level)


def power(count: int, sigma: float, margin: float, level: float = 0.05, truth: float = 0.0) -> float:
    """Probability that `equivalence` passes ``count`` normal differences of mean ``truth`` and standard deviation
    ``sigma``.

    Given σ̂, a method passes if |D̄| < δ − t σ̂/√S; the normal probability of that is averaged over the χ law of σ̂ by
    its quantiles (error below 1e-3). Raises ValueError for count < 2 or sigma ≤ 0, and as `equivalence`.
    """
    from scipy import stats

    if count < 2 or not sigma > 0:
        raise Refused(f"count = {count} and sigma = {sigma}: give at least 2 seeds and a positive scatter")
    _check_test(margin, level)
    chance = (np.arange(2000) + 0.5) / 2000
    error = sigma * np.sqrt(stats.chi2.ppf(chance, count - 1) / (count - 1) / count)
    room, spread = margin - stats.t.ppf(1 - level, count - 1) * error, sigma / math.sqrt(count)
    passes = stats.norm.cdf((room - truth) / spread) - stats.norm.cdf((-room - truth) / spread)
    return float(np.where(room > 0, passes, 0).mean())


def reached(x, y, goal: float) -> float:
    """The place from which a falling curve y(x) stays below the goal, between points on a straight line; the last x if
    it does not stay there.

    Staying counts, for the first crossing favours the curve that wobbles most.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    above = np.flatnonzero(~(y < goal))
    if not len(above):
        return float(x[0])
    k = above[-1]
    return float(x[-1] if k == len(y) - 1 else np.interp(goal, [y[k + 1], y[k]], [x[k + 1], x[k]]))


def _differences(values) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise Refused(f"values of shape {values.shape} give no interval: give at least two finite numbers, one a seed")
    return values


def _check_test(margin: float, level: float) -> None:
    if not (margin > 0 and 0 < level < 0.5):
        raise Refused(
            f"margin = {margin} and level = {level} make no equivalence test: give margin > 0 and a level below 1/2"
        )
