"""Trials: methods compared within a seed, from the records of a plan, and each test at the level that Holm leaves it.

Runs of one seed start from the same parameters and learn from the same images, so what is compared is the difference
D_s of two methods within a seed, s = 1 … S. A verdict takes Student's interval of its mean at the confidence that
belongs to the test: 1 − 2·level for two one-sided tests, 1 − level for a two-sided one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from support.equivalence import holm, power, reached
from support.errors import Refused, array, integer, probability, real
from support.intervals import Interval, observed, student

_NONE = 1e-9  # in place of no scatter, where methods differ by the same in every seed, and of a power too small to sum


@dataclass(frozen=True, eq=False)
class Trial:
    """A number of each run, by method: ``values[method]`` has one of each of the ``seeds``.

    >>> trial = Trial((1, 2, 3), {"GD": np.array([1.0, 2.0, 3.0]), "SGD": np.array([2.0, 3.5, 3.5])})
    >>> trial.gap("SGD", "GD")
    array([1. , 1.5, 0.5])
    >>> f"{trial.mean('SGD', 'GD'):+.2f}"
    '+1.00 [-0.24, +2.24]'
    """

    seeds: tuple[int, ...]
    values: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, planned, number: Callable[[dict], float], *partners) -> Trial:
        """``number`` of every run of a plan (`recorded.planned`), on its complete seeds, and of the ``partners`` that
        are complete there: other plans with runs of the same seeds. Raises Refused where fewer than two are complete.
        """
        seeds = tuple(planned.seeds)
        if len(seeds) < 2:
            raise Refused(
                f"plan {planned.plan.name} has {len(seeds)} complete seeds, and an interval needs 2: make its records "
                f"with `python -m support experiments queue`"
            )
        values = {}
        for one in (planned, *partners):
            for method in one.plan.methods:
                if all((method, seed) in one.runs for seed in seeds):
                    values[method] = np.array([number(one.runs[method, seed]) for seed in seeds], dtype=float)
        return cls(seeds, values)

    def gap(self, method: str, other: str) -> np.ndarray:
        """The differences within seeds, ``method`` minus ``other``. Raises Refused for a method that is not there."""
        for name in (method, other):
            if name not in self.values:
                raise Refused(f"the trial has no method {name!r}: it has {', '.join(self.values)}")
        return self.values[method] - self.values[other]

    def mean(self, method: str, other: str, confidence: float = 0.95) -> Interval:
        """The mean difference and its Student interval."""
        return student(self.gap(method, other), confidence)

    def about(self, method: str, other: str, margin: float, level: float = 0.05) -> Tested:
        """Two one-sided tests of |mean difference| ≥ margin: equivalent where the interval lies within the margin. The
        power is that for methods of equal means, which scatter as these do.
        """
        d = self.gap(method, other)
        chance = power(len(d), max(d.std(ddof=1), _NONE), margin, level)
        return Tested(student(d, 1 - 2 * level), max(chance, _NONE))

    def above(self, method: str, other: str, gap: float, level: float = 0.05) -> Tested:
        """A one-sided test: the mean difference is above a bound where the interval lies above it. The power is that
        for a mean difference ``gap`` above the bound.
        """
        d = self.gap(method, other)
        return Tested(student(d, 1 - 2 * level), detection(len(d), d.std(ddof=1), gap, level))


@dataclass(frozen=True)
class Tested:
    """The interval of a mean difference that decides a test, and the power of the test."""

    interval: Interval
    power: float


def evidence(tests: Mapping[str, Tested]) -> dict:
    """What `support.claims.check` takes of several tests by name, all of which a claim needs: measured, interval, and
    as the power the least of theirs, which that of all together does not exceed.

    >>> evidence({"A": Tested(Interval(0.5, 0.0, 1.0, 0.9, 9, "Student"), 0.8)})
    {'measured': {'A': 0.5}, 'interval': {'A': (0.0, 1.0)}, 'power': 0.8}
    """
    return {
        "measured": {name: float(test.interval.value) for name, test in tests.items()},
        "interval": {name: tuple(map(float, test.interval.ends)) for name, test in tests.items()},
        "power": min(test.power for test in tests.values()),
    }


def points(run: dict) -> float:
    """Tested accuracy of a record at its end, in percent.

    >>> points({"final": {"test_accuracy": 0.75}})
    75.0
    """
    return 100 * run["final"]["test_accuracy"]


def steps_below(run: dict, goal: float) -> float:
    """The step from which a record's training loss stays below ``goal``, each point of the curve being the mean loss of
    the steps since the last; all its steps where it does not.

    >>> steps_below({"curves": {"step": [0, 10, 20, 30], "step_loss": [2.0, 1.0, 0.5, 0.25]}}, 0.5)
    15.0
    >>> steps_below({"curves": {"step": [0, 10, 20, 30], "step_loss": [2.0, 1.0, 0.5, 0.25]}}, 0.1)
    30.0
    """
    step = np.asarray(run["curves"]["step"], dtype=float)
    loss = np.asarray(run["curves"]["step_loss"][1:], dtype=float)
    if not loss[-1] < goal:
        return float(step[-1])
    return reached((step[1:] + step[:-1]) / 2, np.log(loss), math.log(real("goal", goal, above=0)))


def holm_levels(p_values, level: float = 0.05) -> np.ndarray:
    """The level at which each of m tests is held in Holm's steps (1979): level/m for the smallest p value, then
    level/(m − 1), and so on; from the first that is not rejected, the level at which it was not.

    A test rejects in Holm's procedure exactly when its p value is at most this level, and so exactly when the interval
    that belongs to this level excludes what is tested. Raises as `support.equivalence.holm`.

    >>> holm_levels([0.04, 0.01, 0.03], 0.05).round(4)
    array([0.025 , 0.0167, 0.025 ])
    """
    p, rejected = array("p_values", p_values), holm(p_values) <= probability("level", level)
    steps = level / np.arange(len(p), 0, -1)
    order = np.argsort(p, kind="stable")
    steps[rejected.sum() :] = steps[min(rejected.sum(), len(p) - 1)]
    levels = np.empty_like(p)
    levels[order] = steps
    return levels


def one_sided(differences, bound: float = 0.0) -> float:
    """The p value of Student's test of "the mean is ``bound`` or less". Raises as `support.intervals.student`.

    >>> round(one_sided([0.5, 1.5, 1.0]), 3)
    0.037
    """
    from scipy import stats

    d = np.asarray(observed(differences))
    error = max(d.std(ddof=1), np.finfo(float).tiny) / math.sqrt(len(d))
    return float(stats.t.sf((d.mean() - real("bound", bound)) / error, len(d) - 1))


def detection(count: int, sigma: float, gap: float, level: float = 0.05) -> float:
    """The power of that test: the probability that it rejects, of ``count`` normal differences of standard deviation
    ``sigma`` whose mean lies ``gap`` above the bound. T then has the noncentral law of ``gap √count/sigma``.

    Raises Refused for count < 2, sigma < 0 or a level outside (0, 1).

    >>> round(detection(27, sigma=1.0, gap=0.5), 2)
    0.81
    """
    from scipy import stats

    count, sigma = integer("count", count, low=2), max(real("sigma", sigma, 0), _NONE)
    edge = stats.t.isf(probability("level", level), count - 1)
    away = min(real("gap", gap) * math.sqrt(count) / sigma, 1e3)  # beyond it scipy gives nan, and the power is 1
    return float(stats.nct.sf(edge, count - 1, away))
