r"""The whole law of a product of independent random factors, as brackets of its distribution function and quantiles.

After k steps on a quadratic θ is ``f_1 ⋯ f_k θ_0`` (`support.exact.mixtures`), and `log_products` is the law of
``log|f_1 ⋯ f_k|`` with a bound for its error. Nothing here is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

from support.errors import Refused, array, instance, integer, real
from support.exact.mixtures import Mixture, compositions

_RARE = 1e-13  # probability of what a bracket may leave out


@dataclass(frozen=True)
class LogProduct:
    """The law of ``log|f_1 ⋯ f_k|``, known up to a bracket.

    The mass at ``values[i]`` lies, in truth, somewhere in ``[values[i], values[i] + width]``; at most ``lost`` of the
    probability is misplaced beyond that. vanished: probability that the product is 0. Made by `log_products`.

    >>> law = LogProduct(2, np.array([-1.0, 0.0, 1.0]), np.array([0.25, 0.5, 0.25]), width=0.1)
    >>> [float(end) for end in law.cdf(0.05)]  # the mass at 0 may lie on either side of 0.05
    [0.25, 0.75]
    >>> law.quantile(0.5)
    (0.0, 0.1)
    """

    steps: int
    values: np.ndarray
    masses: np.ndarray
    width: float
    vanished: float = 0.0
    lost: float = 0.0

    def cdf(self, x) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bound of ``P(log|f_1 ⋯ f_k| ≤ x)`` for an array x. Raises WrongType for another type."""
        x = array("x", x, infinite=True)
        below = np.concatenate([[0.0], np.cumsum(self.masses)]) + self.vanished
        low, high = (below[np.searchsorted(self.values, x - shift, side="right")] for shift in (self.width, 0.0))
        return np.clip(low - self.lost, 0, 1), np.clip(high + self.lost, 0, 1)

    def quantile(self, probability: float) -> tuple[float, float]:
        """Lower and upper bound of the quantile of a probability between 0 and 1; −∞ where the product is 0.

        Raises WrongType for what is no number, Refused for a probability within ``lost`` of 0 or 1.
        """
        probability = real("probability", probability)
        if not self.lost < probability < 1 - self.lost:
            raise Refused(
                f"probability = {probability} cannot be resolved: choose one between {self.lost:.3g} and 1 − "
                f"{self.lost:.3g}"
            )
        below = np.cumsum(self.masses) + self.vanished
        ends = []
        for wanted in (probability - self.lost, probability + self.lost):
            at = int(np.searchsorted(below, wanted - 1e-15))
            ends.append(-math.inf if wanted <= self.vanished else float(self.values[min(at, len(below) - 1)]))
        return ends[0], float(ends[1] + self.width)


def log_products(factor: Mixture, counts: Iterable[int], points: int = 2**18) -> list[LogProduct]:
    """The laws of ``log|f_1 ⋯ f_k|`` for every k in counts, f_1, f_2, … independent with the law ``factor``.

    A law of few atoms is counted (width: rounding). Any other is rounded down to a grid of ``points`` cells and
    convolved by one Fourier transform: k factors are rounded by at most ``width = k · cell`` in total, so that cdf and
    quantiles come as brackets. What lies outside the grid has a probability below 1e-13, by Chernoff's bound with Λ;
    what the transform misplaces is estimated by the negative masses it makes. Both are in ``lost``. Raises WrongType
    for another type, Refused for counts below 1, no counts, or too few points.

    >>> from fractions import Fraction
    >>> halves = Mixture(((Fraction(1, 2), 2, 0), (Fraction(1, 2), Fraction(1, 2), 0)))
    >>> law, = log_products(halves, [3])
    >>> [round(end / math.log(2), 6) for end in law.quantile(0.4)]  # −3, −1, 1 or 3 doublings
    [-1.0, -1.0]
    """
    instance(
        "factor", factor, Mixture, "give the law of a factor, such as online_noise(kind, squares, b).affine(1, -lr)"
    )
    instance("counts", counts, Iterable, "give numbers of steps, such as [10, 100]")
    counts = [integer("count", k, 1) for k in counts]
    if not counts:
        raise Refused("counts are empty: give numbers of steps, each at least 1")
    points = integer("points", points, 1)
    zero = factor.zero
    if zero == 1:
        return [LogProduct(k, np.zeros(1), np.zeros(1), 0.0, vanished=1.0) for k in counts]
    alive = Mixture(tuple((p / (1 - zero), m, s) for p, m, s in factor.parts if m != 0 or s != 0))
    vanished = [float(1 - (1 - zero) ** k) for k in counts]
    atoms: dict = {}
    for p, m, s in alive.parts:
        place = math.log(abs(m)) if s == 0 else math.nan
        atoms[place] = atoms.get(place, 0.0) + float(p)
    few = all(s == 0 for *_, s in alive.parts) and math.comb(max(counts) + len(atoms) - 1, len(atoms) - 1) <= points
    laws = _by_counting(atoms, counts) if few else _by_fourier(alive, counts, points)
    return [
        LogProduct(k, values, (1 - gone) * masses, width, gone, lost)
        for k, gone, (values, masses, width, lost) in zip(counts, vanished, laws, strict=True)
    ]


def _by_counting(atoms: dict, counts):
    """How often each atom occurred decides the product: multinomial probabilities."""
    logs, p = np.array(list(atoms)), np.array(list(atoms.values()))
    for k in counts:
        hits = np.array(list(compositions(k, len(p))))
        masses = np.exp(special.gammaln(k + 1) + (special.xlogy(hits, p) - special.gammaln(hits + 1)).sum(1))
        values = hits @ logs
        order = np.argsort(values)
        # the few roundings of logs and sums are covered by the width
        slack = 1e-14 * k * (1 + np.abs(logs).max())
        yield values[order] - slack / 2, masses[order] / masses.sum(), slack, 1e-12


def _reach(factor: Mixture, k: int, rare: float) -> tuple[float, float]:
    """The sum of k logarithms lies outside with a probability below ``rare``: Chernoff's bounds."""
    powers = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
    budget = -math.log(rare / 2)
    high = min((k * factor.exponent(q) + budget) / q for q in powers)
    low = -min((k * factor.exponent(-q) + budget) / q for q in powers)
    return low, high


def _by_fourier(factor: Mixture, counts, points: int):
    ends = [_reach(factor, k, _RARE) for k in counts]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if points < 64 + 4 * max(counts):
        raise Refused(f"points = {points} are too few for {max(counts)} steps: give at least {64 + 4 * max(counts)}")
    cell = (high - low) / (points - max(counts) - 4)
    # one step, rounded down to cells first … last; indices of sums are known modulo points, and that is enough
    bottom, top = _reach(factor, 1, _RARE / max(counts))
    cells = np.arange(math.floor(bottom / cell), math.ceil(top / cell) + 1)
    single = np.diff(factor.within(np.exp(np.append(cells, cells[-1] + 1) * cell)))
    spectrum = np.fft.rfft(np.bincount(cells % points, weights=single, minlength=points))
    first = math.floor(low / cell) - max(counts) - 1
    for k in counts:
        masses = np.roll(np.fft.irfft(spectrum**k, points), -(first % points))
        misplaced = -2 * masses[masses < 0].sum() + abs(
            masses.sum() - 1
        )  # rounding makes as much too much as too little
        yield (first + np.arange(points)) * cell, np.maximum(masses, 0), k * cell, misplaced + _RARE
