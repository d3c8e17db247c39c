r"""A discrete path beside its diffusion, without a draw: the exact strong error on least squares, its leading constant,
and bounds.

The diffusion of MSGD with Gaussian weights of covariance A = aI + c11ᵀ is ``dΘ = −∇L(Θ) dt + √η ∇𝓛(Θ) dB``, where B is
a Brownian motion in R^n of covariance A per unit of time (Wu et al. 2020, Theorem 2, where A = I/(bn)). The step k →
k+1 driven by the *same* path uses the sampling noise ``V_k = (B_{(k+1)η} − B_{kη}) / √η``. On least squares both
processes are linear in (θ, 1), and the second moments of the pair close. Paths that are drawn: `support.coupling`.
"""

from __future__ import annotations

import math

import numpy as np

from support.errors import Refused, boolean, real
from support.exact.batch_noise import a_law
from support.exact.least_squares import regression_arrays
from support.sampling import Law


def whole_steps(time: float, lr: float) -> int:
    """How many steps of length ``lr`` = η make up ``time`` = T. Raises WrongType for what is no number, Refused for
    η ≤ 0, T < 0, or T that is no multiple of η.

    >>> whole_steps(1.0, 0.125)
    8
    """
    time, lr = real("time", time, 0), real("lr", lr, above=0)
    steps = round(time / lr)
    if abs(time / lr - steps) > 1e-9 * max(1, steps):
        raise Refused(
            f"time = {time} is no multiple of lr = {lr}: give lr = time/K with a whole number K, such as "
            f"{time / max(1, steps):.6g}"
        )
    return steps


def strong_error(
    features, targets, law: Law, lr: float, theta, time: float, *, correlation: float = 1.0, modified: bool = False
) -> np.ndarray:
    r"""Exact ``E|Θ_{kη} − θ_k|²`` on least squares, ``ℓ_i = ½(x_iᵀθ − y_i)²``, for k = 0 … T/η: shape (T/η + 1,), units
    of θ squared.

    features (n, d), targets (n,), theta (d,) the common start; law: its covariance is that of the Gaussian weights.
    ``correlation`` of the two noises: 1 on the same Brownian path, 0 independent, −1 where the steps use −B, as
    Equation (13) of Wu et al. (2020) prints. ``modified=True`` gives the diffusion the drift ``−(H + ηH²/2)(Θ − θ*)``,
    whose flow gradient descent follows to second order.

    In the eigenbasis of H, about the minimiser θ*, with z = (θ−θ*, 1), the residual rows ρ_i = (x_i, −e_i), γ_i = (x_i,
    0), D = diag(h, 0) and ``𝒩(M) = a Σ_i (ρ_iᵀMρ_i) γ_iγ_iᵀ + c n² DMD``: the moments of the discrete process are
    ``P ← (I−ηD)P(I−ηD) + η²𝒩(P)``, those of the diffusion solve ``Q' = −DQ − QD + η𝒩(Q)``, and, with the correlation r,
    ``R ← (I−ηD) R e^{−ηD} + rη ∫₀^η 𝒩(R e^{−Ds}) e^{−D(η−s)} ds``, the integral in closed form. O(nd²) a step. Raises
    WrongType for another type, Refused for shapes that do not fit, a law of another n, a correlation outside [−1, 1],
    or as `whole_steps`.

    >>> from support.sampling import FullBatch
    >>> error = strong_error([[1.0], [1.0]], [0.0, 0.0], FullBatch(2, 1), 0.5, [1.0], 0.5)[-1]
    >>> round(float(error), 9) == round((math.exp(-0.5) - 0.5) ** 2, 9)  # of Euler's method for the flow
    True
    """
    features, targets, theta = regression_arrays(features, targets, theta, rational=False)
    if a_law(law).n != len(features):
        raise Refused(
            f"the law is for n = {law.n} samples, the data has {len(features)}: give the law this number of samples"
        )
    correlation, steps = real("correlation", correlation, -1, 1), whole_steps(time, lr)
    boolean("modified", modified)
    pair = _Pair(features, targets, law, lr, modified)
    start = np.append(pair.axes.T @ (theta - pair.best), 1.0)
    discrete = cross = diffusion = np.outer(start, start)
    errors = np.zeros(steps + 1)
    for k in range(1, steps + 1):
        discrete, cross, diffusion = (
            pair.discrete_step(discrete),
            pair.cross_step(cross, correlation),
            pair.diffusion_step(diffusion),
        )
        errors[k] = np.trace(discrete - 2 * cross + diffusion)
    return np.maximum(errors, 0.0)


class _Pair:
    """The three second moments of (discrete process, diffusion), each with its map over a step; the letters are those
    of `strong_error`.
    """

    def __init__(self, features, targets, law, lr, modified):
        n = len(features)
        self.best = np.linalg.lstsq(features, targets, rcond=None)[0]
        curvature, self.axes = np.linalg.eigh(features.T @ features / n)
        self.x = np.column_stack([features @ self.axes, np.zeros(n)])
        self.residual = np.column_stack([features @ self.axes, features @ self.best - targets])
        self.h, self.lr = np.append(curvature, 0.0), lr
        self.drift = self.h + lr / 2 * self.h**2 if modified else self.h
        self.a, self.c = float(law.covariance.a), float(law.covariance.c) * n * n
        difference, total = (op(self.drift, self.drift) * lr / 2 for op in (np.subtract.outer, np.add.outer))
        # ∫₀^η e^{−h_l s − h_m (η−s)} ds, with sinh(x)/x written so that equal eigenvalues do no harm
        self.overlap = (
            lr
            * np.exp(-total)
            * np.where(difference == 0, 1.0, np.sinh(difference) / np.where(difference == 0, 1.0, difference))
        )

    def noise(self, moment, overlap=None):
        """𝒩 of the moment; with `overlap`, of one that decays within the step, before the noise comes in and after,
        summed over its time.
        """
        slopes = (self.residual @ moment) * self.residual
        own = slopes.sum(1, keepdims=True) if overlap is None else slopes @ overlap
        shared = 1.0 if overlap is None else np.diagonal(overlap)
        return self.a * self.x.T @ (own * self.x) + self.c * np.outer(self.h, self.h) * moment * shared

    def discrete_step(self, moment):
        kept = 1 - self.lr * self.h
        return np.outer(kept, kept) * moment + self.lr**2 * self.noise(moment)

    def cross_step(self, moment, correlation):
        return np.outer(
            1 - self.lr * self.h, np.exp(-self.lr * self.drift)
        ) * moment + correlation * self.lr * self.noise(moment, self.overlap)

    def diffusion_step(self, moment):
        """The exponential of the linear equation of the diffusion's moments, by its Taylor series in pieces of a step
        that are short enough for it.
        """
        size = self.a * ((self.x**2).sum(1) * (self.residual**2).sum(1)).sum() + abs(self.c) * self.h.max() ** 2
        pieces = math.ceil(self.lr * (2 * self.drift.max() + self.lr * size) / 2)
        decay, length = np.add.outer(self.drift, self.drift), self.lr / max(1, pieces)
        for _ in range(max(1, pieces)):
            term, order = moment, 0
            while np.abs(term).max() > 1e-17 * np.abs(moment).max():
                order += 1
                term = length / order * (self.lr * self.noise(term) - decay * term)
                moment = moment + term
        return moment


def first_order(features, targets, theta, time: float) -> float:
    """``c₁ = |½ T H² e^{−HT} (θ₀ − θ*)|²``: the limit of the strong error over η² on least squares. It is Euler's error
    of the flow; noise has no part in it.

    features (n, d), targets (n,), theta (d,). Raises WrongType for another type, Refused for shapes that do not fit or
    a negative time.

    >>> round(first_order([[1.0], [1.0]], [0.0, 0.0], [1.0], 1.0), 6)  # (½ e⁻¹)²
    0.033834
    """
    features, targets, theta = regression_arrays(features, targets, theta, rational=False)
    time = real("time", time, 0)
    best = np.linalg.lstsq(features, targets, rcond=None)[0]
    h, axes = np.linalg.eigh(features.T @ features / len(features))
    return float(np.sum((time / 2 * h**2 * np.exp(-h * time) * (axes.T @ (theta - best))) ** 2))


def gronwall_bound(lr: float, time: float, lipschitz: float, bound: float, *, printed: bool = False) -> float:
    r"""Explicit bound on ``E|Θ_t − θ̂_t|²``, t ≤ T, by the paper's proof: ``16 (T+η) T L² η² M² e^{4(T+η)L²T}``;
    ``printed=True``: 1+η for T+η.

    lipschitz: L, Lipschitz constant of the per-sample gradients; bound: M, their largest length. The printed line,
    Equation (23) of Wu et al. (2020), lost a factor t in Equation (18); it is a true bound for T ≤ 1 and not beyond.
    Raises WrongType for what is no number, Refused for lr ≤ 0 or a negative time, L or M.

    >>> gronwall_bound(1.0, 1.0, 0.5, 1.0, printed=True) == gronwall_bound(1.0, 1.0, 0.5, 1.0)
    True
    """
    _bound_arguments(lr, time, lipschitz, bound)
    boolean("printed", printed)
    factor = 1 + lr if printed else time + lr
    return 16 * factor * time * (lipschitz * lr * bound) ** 2 * _exp(4 * factor * lipschitz**2 * time)


def sharper_bound(lr: float, time: float, lipschitz: float, bound: float, b: float = 1.0) -> float:
    r"""The same from Itô's formula for |θ̂ − Θ|²: ``(1+1/b) η² M² (L + κ)/(3L + κ) (e^{(3L+κ)T} − 1)`` with
    ``κ = 2ηL²/b``; its exponent is linear in T.

    Arguments and errors as `gronwall_bound`; b: the batch size in the noise, at least 1.

    >>> sharper_bound(0.5, 1.0, 1.0, 1.0) < gronwall_bound(0.5, 1.0, 1.0, 1.0)
    True
    """
    _bound_arguments(lr, time, lipschitz, bound)
    real("b", b, 1)
    if lipschitz == 0:
        return 0.0
    extra = 2 * lr * lipschitz**2 / b
    rate = 3 * lipschitz + extra
    return (1 + 1 / b) * (lr * bound) ** 2 * (lipschitz + extra) / rate * (_exp(rate * time) - 1)


def _exp(x):
    return math.exp(x) if x < 700 else math.inf


def _bound_arguments(lr, time, lipschitz, bound):
    real("lr", lr, above=0)
    for name, value in (("time", time), ("lipschitz", lipschitz), ("bound", bound)):
        real(name, value, 0)
