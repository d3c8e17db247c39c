r"""Runs of the six dynamics of `support.exact.two_basins`, all at once: each with samples of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from support.errors import Refused, boolean, choice, instance, integer, numpy_generator, real
from support.exact.two_basins import (
    BOTTOM,
    CENTRE,
    DYNAMICS,
    FLAT,
    LR,
    NORM,
    RADIUS,
    REACHED,
    ROOT2,
    SAMPLES,
    SHARP,
    SPREAD,
    STEPS,
    TRACE,
    plane,
)


@dataclass(frozen=True)
class Setting:
    """What a run of the toy has besides its dynamics, the authors' experiment by default.

    trace: Tr Σ of the noise.  lr: η.  n: samples of a run.  spread: multiplies the data's standard deviations.
    protocol: "code" adds noise of covariance Σ to the parameters, ``w ← w − η∇L + ξ``; "paper" is Equation (7),
    ``w ← w − η(∇L + ξ)``.  tie: where H = 2I exactly, the first eigenvector is that which LAPACK returns, (0, 1)
    ("axis", as in the authors' code), or stays (1, 1)/√2 ("keep").  cumulative: take the covariance of partial sums of
    the samples' gradients instead of the gradients, a slip of the authors' code (diag and leading alone).

    Raises WrongType for another type, Refused for an unknown option or a number out of range.

    >>> Setting(trace=0.02, protocol="paper").scale == math.sqrt(0.02) * 0.005
    True
    """

    trace: Any = TRACE
    lr: float = LR
    n: int = SAMPLES
    spread: float = 1.0
    protocol: str = "code"
    tie: str = "axis"
    cumulative: bool = False

    def __post_init__(self):
        real("trace", self.trace, above=0), real("lr", self.lr, above=0), real("spread", self.spread, 0)
        integer("n", self.n, 1), boolean("cumulative", self.cumulative)
        choice("protocol", self.protocol, ("code", "paper")), choice("tie", self.tie, ("axis", "keep"))

    @property
    def scale(self) -> float:
        """What noise of unit trace is multiplied by in a step."""
        return math.sqrt(self.trace) * (self.lr if self.protocol == "paper" else 1.0)


class _Data:
    """The samples of every run, and what the bowls need of them: where all see one bowl their moments do, and only a
    run near the ridge looks at each.
    """

    def __init__(self, runs: int, setting: Setting, generator):
        n, cumulative = setting.n, setting.cumulative
        self.x = setting.spread * SPREAD[:, None, None] * generator.standard_normal((2, runs, n))
        self.mean = self.x.mean(2)
        self.reach = np.sqrt(
            np.einsum("c,crn->rn", NORM, self.x**2).max(1)
        )  # by the triangle inequality no sample sees the ridge from farther away
        self.cumulative = cumulative
        # the gradients are A (T d − X) with T = 1 and X = x, their partial sums with T = 1 … n and X the partial sums
        # of x
        count = np.arange(1.0, n + 1) if cumulative else np.ones(n)
        sums = self.x.cumsum(2) if cumulative else self.x
        centred = sums - sums.mean(2, keepdims=True)
        self.count_variance = count.var()
        self.count_moment = centred @ (count - count.mean()) / n
        self.moments = np.einsum("arn,brn->abr", centred, centred, optimize=True) / n

    def look(self, w, covariance: bool):
        """At w, shape (2, runs): the share of samples in the sharp bowl, the mean gradient, and the covariance of the
        gradients, (2, 2, runs), if wanted.
        """
        radius = np.sqrt(NORM[0] * (w[0] - CENTRE) ** 2 + NORM[1] * w[1] ** 2)
        share = (radius < RADIUS).astype(float)
        near = np.flatnonzero(np.abs(radius - RADIUS) <= self.reach)
        curvature = np.where(share > 0, SHARP[:, None], FLAT[:, None])
        gap = w - np.where(share > 0, 1.0, -1.0) * BOTTOM[:, None]
        gradient, C = curvature * (gap - self.mean), None
        if covariance:
            C = self.moments
            if self.cumulative:
                product = gap[:, None] * self.count_moment
                C = C + self.count_variance * gap[:, None] * gap - product - product.swapaxes(0, 1)
            C = curvature[:, None] * curvature * C
        if len(near):
            away = w[:, near, None] - self.x[:, near]
            sees = NORM[0] * (away[0] - CENTRE) ** 2 + NORM[1] * away[1] ** 2 < RADIUS**2
            each = np.where(
                sees,
                SHARP[:, None, None] * (away - BOTTOM[:, None, None]),
                FLAT[:, None, None] * (away + BOTTOM[:, None, None]),
            )
            share[near], gradient[:, near] = sees.mean(1), each.mean(2)
            if covariance:
                each = each.cumsum(2) if self.cumulative else each
                each = each - each.mean(2, keepdims=True)
                C[:, :, near] = np.einsum("arn,brn->abr", each, each, optimize=True) / each.shape[2]
        return share, gradient, C


def _noise(dynamics, z, share, C, tie):
    """Noise of unit trace in (u, s) from white noise z, shape (2, runs)."""
    if dynamics == "GLD const":
        return z / ROOT2
    if dynamics == "GLD Hessian":
        hessian = share * SHARP[:, None] + (1 - share) * FLAT[:, None]
        return np.sqrt(hessian / hessian.sum(0)) * z
    if dynamics == "GLD 1st eigvec(H)":
        on_axis = (share == 0) & (tie == "axis")
        return z[0] * np.where(on_axis, np.array([[1.0], [-1.0]]) / ROOT2, np.array([[1.0], [0.0]]))
    trace = C[0, 0] + C[1, 1]
    if dynamics == "GLD diag":  # the diagonal in (w₁, w₂)
        first, second = np.sqrt(0.5 + np.array([1, -1])[:, None] * C[0, 1] / trace) * z
        return np.stack([first + second, first - second]) / ROOT2
    root = np.sqrt(C[0, 0] / trace)
    mixed = C[0, 1] / (trace * root)
    return np.stack([root * z[0], mixed * z[0] + np.sqrt(np.maximum(C[1, 1] / trace - mixed**2, 0.0)) * z[1]])


@dataclass(frozen=True)
class Runs:
    """Simulated runs of one dynamics.

    final: where they end, (runs, 2), in (w₁, w₂).   left: the first step after which most samples see the flat bowl, 0
    for a run that stays. returned: whether a run that had left on the near side was back in the sharp bowl later.
    flat: whether it ends on the near side outside the sharp bowl. path: positions every so many steps, (records, runs,
    2), if asked for.

    >>> final, never = np.array([[-1.0, -1.0], [-1.0, 0.5], [1.0, 1.0]]), np.zeros(3, dtype=bool)
    >>> Runs(final, np.array([40, 7, 0]), never, np.array([True, True, False]), None).arrived.tolist()
    [True, False, False]
    """

    final: np.ndarray
    left: np.ndarray
    returned: np.ndarray
    flat: np.ndarray
    path: np.ndarray | None

    @property
    def arrived(self) -> np.ndarray:
        """Success by the authors' criterion: both coordinates of the last point below −½."""
        return (self.final < REACHED).all(1)


def simulate(
    dynamics: str,
    runs: int = 2000,
    steps: int = STEPS,
    setting: Setting = Setting(),
    *,
    generator: np.random.Generator,
    every: int = 0,
) -> Runs:
    """Runs of one of the six dynamics from the sharp minimum, each with its own n samples; all runs at once.

    every: record the path every so many steps. Raises WrongType for another type, Refused for an unknown name, counts
    out of range, and where the covariance would be zero.

    >>> still = simulate("GD", 3, 5, generator=np.random.default_rng(1))
    >>> still.left.tolist(), still.final.round(1).tolist()
    ([0, 0, 0], [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    """
    dynamics = choice("dynamics", dynamics, DYNAMICS)
    runs, steps, every = integer("runs", runs, 1), integer("steps", steps, 1), integer("every", every, 0)
    instance("setting", setting, Setting, "give Setting(trace=…, lr=…, …)")
    numpy_generator(generator)
    estimates = dynamics in ("GLD diag", "GLD leading")
    if estimates and (setting.n < 2 or setting.spread == 0):
        raise Refused(
            f"n = {setting.n}, spread = {setting.spread}: {dynamics} needs samples that differ, n >= 2 and spread > 0"
        )
    if setting.cumulative and not estimates:
        raise Refused(
            f"cumulative = True has no meaning for {dynamics}: only GLD diag and GLD leading estimate a covariance"
        )
    data = _Data(runs, setting, generator)
    w = np.repeat(BOTTOM[:, None], runs, axis=1)
    left, out_near, returned = np.zeros(runs, dtype=int), np.zeros(runs, dtype=bool), np.zeros(runs, dtype=bool)
    path = []
    for k in range(steps + 1):
        share, gradient, C = data.look(w, estimates)
        outside = share < 0.5
        left[outside & (left == 0)] = k
        returned |= out_near & ~outside
        out_near |= outside & (w[0] < ROOT2)
        if every and k % every == 0:
            path.append(plane(w.T))
        if k == steps:
            break
        w = w - setting.lr * gradient
        if dynamics != "GD":
            w += setting.scale * _noise(dynamics, generator.standard_normal((2, runs)), share, C, setting.tie)
    return Runs(plane(w.T), left, returned, outside & (w[0] < ROOT2), np.array(path) if every else None)
