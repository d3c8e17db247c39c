r"""Discrete paths beside their diffusion: strong error, exact and sampled; its constants; mini-batches carried by
Gaussian noise.

The diffusion of MSGD with Gaussian weights of covariance A = aI + c11ᵀ is ``dΘ = −∇L(Θ) dt + √η ∇𝓛(Θ) dB``, where B is
a Brownian motion in R^n of covariance A per unit of time (Wu et al. 2020, Theorem 2, where A = I/(bn)). The step k →
k+1 driven by the *same* path uses the sampling noise ``V_k = (B_{(k+1)η} − B_{kη}) / √η``. Cut a step into r pieces,
and Euler's method for the diffusion is MSGD again: learning rate η/r and weights ``1/n + √r V'`` with V' of covariance
A. The weights of the large step are the *mean* of those of its r pieces. So one loop, `descend`, runs everything.

`strong_error` needs no draw: on least squares both processes are linear in (θ, 1), and the second moments of the pair
close.
`mini_batches` goes beyond Theorem 2: it turns Gaussian noise into mini-batches of SGD that stay close to it, by
conditional quantiles on a dyadic tree.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

from support.errors import Refused, WrongType
from support.intervals import Interval, student
from support.sampling import GaussianCovariance, GaussianFisher, Law

Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


def whole_steps(time: float, lr: float) -> int:
    """How many steps of length ``lr`` = η make up ``time`` = T. Raises ValueError for η ≤ 0, T < 0, or T that is no
    multiple of η.
    """
    if not (math.isfinite(lr) and lr > 0):
        raise Refused(f"lr = {lr} is no learning rate: give a finite number above 0")
    if not (math.isfinite(time) and time >= 0):
        raise Refused(f"time = {time} is no horizon: give a finite number ≥ 0")
    steps = round(time / lr)
    if abs(time / lr - steps) > 1e-9 * max(1, steps):
        raise Refused(
            f"time = {time} is no multiple of lr = {lr}: give lr = time/K with a whole number K, such as "
            f"{time / max(1, steps):.6g}"
        )
    return steps


# --- exact


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
    ValueError for shapes that do not fit, a law of another n, a correlation outside [−1, 1], or as `whole_steps`.
    """
    features, targets, theta = (np.asarray(array, dtype=float) for array in (features, targets, theta))
    if features.ndim != 2:
        raise Refused(f"features have shape {features.shape}: give an array of shape (n, d)")
    n, d = features.shape
    if targets.shape != (n,) or theta.shape != (d,):
        raise Refused(
            f"features of shape {features.shape} came with targets {targets.shape} and theta {theta.shape}: they must "
            f"be ({n},) and ({d},)"
        )
    if not all(np.isfinite(array).all() for array in (features, targets, theta)):
        raise Refused("features, targets or theta hold numbers that are not finite: clean the data first")
    if law.n != n:
        raise Refused(f"the law is for n = {law.n} samples, the data has {n}: give the law this number of samples")
    if not -1 <= correlation <= 1:
        raise Refused(f"correlation = {correlation}: give a number between −1 and 1")
    steps = whole_steps(time, lr)
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

    features (n, d), targets (n,), theta (d,).
    """
    features, targets, theta = (np.asarray(array, dtype=float) for array in (features, targets, theta))
    best = np.linalg.lstsq(features, targets, rcond=None)[0]
    h, axes = np.linalg.eigh(features.T @ features / len(features))
    return float(np.sum((time / 2 * h**2 * np.exp(-h * time) * (axes.T @ (theta - best))) ** 2))


# --- bounds


def gronwall_bound(lr: float, time: float, lipschitz: float, bound: float, *, printed: bool = False) -> float:
    r"""Explicit bound on ``E|Θ_t − θ̂_t|²``, t ≤ T, by the paper's proof: ``16 (T+η) T L² η² M² e^{4(T+η)L²T}``;
    ``printed=True``: 1+η for T+η.

    lipschitz: L, Lipschitz constant of the per-sample gradients; bound: M, their largest length. The printed line,
    Equation (23) of Wu et al. (2020), lost a factor t in Equation (18); it is a true bound for T ≤ 1 and not beyond.
    Raises ValueError for lr ≤ 0 or a negative time, L or M.
    """
    _refuse_negative(lr, time, lipschitz, bound)
    factor = 1 + lr if printed else time + lr
    return 16 * factor * time * (lipschitz * lr * bound) ** 2 * _exp(4 * factor * lipschitz**2 * time)


def sharper_bound(lr: float, time: float, lipschitz: float, bound: float, b: float = 1.0) -> float:
    r"""The same from Itô's formula for |θ̂ − Θ|²: ``(1+1/b) η² M² (L + κ)/(3L + κ) (e^{(3L+κ)T} − 1)`` with
    ``κ = 2ηL²/b``; its exponent is linear in T.

    Arguments and errors as `gronwall_bound`; b: the batch size in the noise, at least 1.
    """
    _refuse_negative(lr, time, lipschitz, bound)
    if b < 1:
        raise Refused(f"b = {b} is no batch size: give a number ≥ 1")
    if lipschitz == 0:
        return 0.0
    extra = 2 * lr * lipschitz**2 / b
    rate = 3 * lipschitz + extra
    return (1 + 1 / b) * (lr * bound) ** 2 * (lipschitz + extra) / rate * (_exp(rate * time) - 1)


def _exp(x):
    return math.exp(x) if x < 700 else math.inf


def _refuse_negative(lr, time, lipschitz, bound):
    if not lr > 0:
        raise Refused(f"lr = {lr} is no learning rate: give a number above 0")
    for name, value in (("time", time), ("lipschitz", lipschitz), ("bound", bound)):
        if not value >= 0:
            raise Refused(f"{name} = {value} is negative: give a number ≥ 0")


# --- sampled


def regression(features, targets, slope: Callable | None = None) -> Gradient:
    """Gradient of the weighted loss ``Σ_i w_i φ(x_iᵀθ − y_i)``: a function of theta (paths, d) and weights (paths, n)
    with values (paths, d).

    slope: φ', applied to an array of residuals; None for squares, φ' = residual. `huber` is a slope whose gradients are
    bounded.
    Raises ValueError for shapes that do not fit.
    """
    features, targets = np.asarray(features, dtype=float), np.asarray(targets, dtype=float)
    if features.ndim != 2 or targets.shape != features.shape[:1]:
        raise Refused(
            f"features of shape {features.shape} came with targets {targets.shape}: they must be (n, d) and (n,)"
        )

    def gradient(theta, weights):
        residuals = theta @ features.T - targets
        return (weights * (residuals if slope is None else slope(residuals))) @ features

    return gradient


def huber(residual):
    """Slope of the pseudo-Huber loss ``√(1+r²) − 1``: ``r/√(1+r²)``, at most 1 in size and in slope."""
    return residual / np.sqrt(1 + residual**2)


def descend(gradient: Gradient, theta, lr: float, weights) -> np.ndarray:
    """MSGD, ``θ ← θ − η ∇𝓛(θ) w``, for many paths at once: weights (paths, K, n) give θ_0 … θ_K, shape (paths, K+1, d).

    theta: the start, (d,), or (paths, d). Raises ValueError for lr ≤ 0 or shapes that do not fit.
    """
    weights = np.asarray(weights)
    if weights.ndim != 3:
        raise Refused(f"weights have shape {weights.shape}: give (paths, steps, n)")
    paths, steps, _ = weights.shape
    whole_steps(lr, lr)
    theta = np.broadcast_to(np.asarray(theta, dtype=float), (paths, np.shape(theta)[-1]))
    out = np.empty((paths, steps + 1, theta.shape[1]))
    out[:, 0] = theta
    for k in range(steps):
        theta = theta - lr * gradient(theta, weights[:, k])
        out[:, k + 1] = theta
    return out


def brownian_weights(law: Law, paths: int, steps: int, substeps: int, generator: np.random.Generator) -> np.ndarray:
    """Weights for Euler's method with ``substeps`` = r pieces a step, shape (paths, steps·r, n): ``1/n + √r (W − 1/n)``
    with W of the Gaussian law.

    With `descend` at learning rate η/r they give the diffusion; their means over r pieces (`coarse`) give the step of
    learning rate η on the same path. Raises TypeError for a law that is not Gaussian, ValueError for a count below 1.
    """
    if not isinstance(law, (GaussianCovariance, GaussianFisher)):
        raise WrongType(
            f"the law {law.name} is not Gaussian, so no Brownian path carries it: use GaussianCovariance or "
            f"GaussianFisher, or mini_batches"
        )
    for name, value in (("paths", paths), ("steps", steps), ("substeps", substeps)):
        if value < 1:
            raise Refused(f"{name} = {value}: give at least 1")
    weights = law.sample(paths * steps * substeps, generator).reshape(paths, steps * substeps, law.n)
    return 1 / law.n + math.sqrt(substeps) * (weights - 1 / law.n)


def coarse(weights, substeps: int) -> np.ndarray:
    """Means of the weights over blocks of ``substeps`` steps, (paths, K·r, n) → (paths, K, n): one step of learning
    rate rη on the same Brownian path.

    Raises ValueError if the number of steps is no multiple of ``substeps``.
    """
    weights = np.asarray(weights)
    if weights.ndim != 3 or substeps < 1 or weights.shape[1] % substeps:
        raise Refused(
            f"weights of shape {weights.shape} cannot be averaged over substeps = {substeps}: give (paths, "
            f"steps·substeps, n)"
        )
    paths, steps, n = weights.shape
    return weights.reshape(paths, steps // substeps, substeps, n).mean(2)


def paired_paths(
    gradient: Gradient,
    law: Law,
    lr: float,
    theta,
    time: float,
    *,
    paths: int,
    substeps: int,
    generator: np.random.Generator,
):
    """Discrete process and diffusion on the same Brownian paths, at 0, η, …, T: two arrays of shape (paths, T/η + 1,
    d), and the weights of the large steps.

    The diffusion is Euler's method with ``substeps`` pieces a step. Raises as `whole_steps` and `brownian_weights`.
    """
    fine = brownian_weights(law, paths, whole_steps(time, lr), substeps, generator)
    weights = coarse(fine, substeps)
    return descend(gradient, theta, lr, weights), descend(gradient, theta, lr / substeps, fine)[:, ::substeps], weights


def fit_powers(lrs, errors, powers=(2, 3), confidence: float = 0.95) -> Interval:
    """Coefficients c_p of ``E(η) ≈ Σ_p c_p η^p``, by least squares of *relative* errors. errors: (len(lrs),) exact, or
    (groups, len(lrs)), a row a group.

    Raises ValueError for fewer learning rates than powers, errors that are not positive, or shapes that do not fit.
    """
    lrs, errors = _rows(lrs, errors, len(powers))
    scale = errors.mean(0)
    design = np.stack([lrs**p / scale for p in powers], axis=1)
    return _mean(np.linalg.lstsq(design, (errors / scale).T, rcond=None)[0].T, confidence)


def fit_order(lrs, errors, confidence: float = 0.95) -> Interval:
    """Exponent p of ``E(η) ∝ η^p``, slope of the log-log line; arguments and errors as `fit_powers`, with at least two
    learning rates.
    """
    lrs, errors = _rows(lrs, errors, 2)
    x = np.log(lrs) - np.log(lrs).mean()
    return _mean(np.log(errors) @ x / (x @ x), confidence)


def _rows(lrs, errors, least):
    lrs, errors = np.asarray(lrs, dtype=float), np.atleast_2d(np.asarray(errors, dtype=float))
    if lrs.ndim != 1 or errors.ndim != 2 or errors.shape[1] != len(lrs):
        raise Refused(
            f"errors have shape {errors.shape} for {lrs.size} learning rates: give one row a group, one number a "
            f"learning rate"
        )
    if len(lrs) < least:
        raise Refused(f"{len(lrs)} learning rates do not determine {least} numbers: give at least {least}")
    if not (errors > 0).all() or not (lrs > 0).all():
        raise Refused("learning rates and errors must be above 0: leave out what is zero")
    return lrs, errors


def _mean(rows, confidence) -> Interval:
    return student(rows, confidence) if len(rows) > 1 else Interval.exact(rows[0])


# --- mini-batches of SGD


def mini_batches(weights, b: int, block: int | None = None) -> np.ndarray:
    r"""Mini-batches of SGD as a function of Gaussian noise: weights of `GaussianCovariance(n, b)`, (paths, K, n), to
    counts over b, of the same shape.

    The result has *exactly* the law of K independent steps of `MiniBatch(n, b)`, and its running sums stay close to
    those of the Gaussian weights. Blocks of ``block`` steps (a power of two that divides K; None: K itself) are coupled
    as Komlós, Major and Tusnády (1975) do it. How often each sample is drawn in a block is multinomial, and is taken
    from the block's Gaussian sum by conditional quantiles, sample after sample. Given these counts, those of the
    block's first half are multivariate hypergeometric, and are taken in the same way from the difference of the
    Gaussian sums of both halves, which is independent of all that came before; and so on down to single steps.
    ``block=1`` couples step by step.

    Raises ValueError for another shape, weights that do not sum to one, b < 1, or a block that is no power of two or
    does not divide K; TypeError for counts that are no integers.
    """
    weights = np.asarray(weights, dtype=float)
    if weights.ndim != 3 or weights.shape[2] < 2:
        raise Refused(f"weights have shape {weights.shape}: give (paths, steps, n) with n ≥ 2 samples")
    _, steps, n = weights.shape
    block = steps if block is None else block
    for name, value in (("b", b), ("block", block)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise WrongType(f"{name} = {value!r} is not an integer: give a whole number")
        if value < 1:
            raise Refused(f"{name} = {value}: give at least 1")
    if block & (block - 1) or steps % block:
        raise Refused(
            f"block = {block} must be a power of two that divides the {steps} steps: the largest is {steps & -steps}"
        )
    if not np.abs(weights.sum(-1) - 1).max(initial=0) < 1e-6:
        raise Refused(
            "the weights of a step do not sum to one: draw them from GaussianCovariance, whose covariance is that of "
            "SGD with replacement"
        )
    sums = [
        _innovations(weights) * math.sqrt(b * n)
    ]  # sums over blocks of 1, 2, 4, … steps, each coordinate of variance one
    while 1 << (len(sums) - 1) < block:
        pairs = sums[-1][:, ::2] + sums[-1][:, 1::2]
        pairs /= math.sqrt(2)
        sums.append(pairs)
    counts = _multinomial(ndtr(sums[-1]), b * block)
    for level, finer in enumerate(reversed(sums[:-1]), start=1):
        halves = finer[:, ::2] - finer[:, 1::2]
        halves /= math.sqrt(2)
        counts = _halve(counts, ndtr(halves, out=halves), b * (block >> level))
    return counts / b


def _innovations(weights):
    """Coordinates of the noise in n weights that sum to one: what entry i has that entries before i do not tell. (…, n)
    → (…, n−1), orthonormal.
    """
    n = weights.shape[-1]
    basis = np.zeros((n, n - 1))
    for i in range(n - 1):
        left = n - i - 1
        basis[i:, i] = np.append(left, -np.ones(left)) / math.sqrt(left * (left + 1))
    return weights @ basis


def _multinomial(uniforms, draws):
    """Counts of `draws` draws from n equal cells, (…, n), by the quantile of each count given those before; uniforms
    (…, n−1).
    """
    from scipy import stats

    n = uniforms.shape[-1] + 1
    counts = np.empty((*uniforms.shape[:-1], n))
    left = np.full(uniforms.shape[:-1], float(draws))
    for i in range(n - 1):
        counts[..., i] = stats.binom.ppf(uniforms[..., i], left, 1 / (n - i))
        left -= counts[..., i]
    counts[..., -1] = left
    return counts


def _halve(counts, uniforms, draws):
    """Counts of the first and the second `draws` of 2·draws draws, (paths, 2·blocks, n) from (paths, blocks, n): each
    by its quantile given those before.
    """
    paths, blocks, n = counts.shape
    both = np.empty((paths, blocks, 2, n))
    rest, needed = counts.sum(-1), np.full((paths, blocks), float(draws))
    for i in range(n - 1):
        marked = counts[..., i]
        rest -= marked
        first = hypergeometric_quantile(uniforms[..., i], marked, rest, needed)
        both[:, :, 0, i], both[:, :, 1, i] = first, marked - first
        needed -= first
    both[:, :, 0, -1], both[:, :, 1, -1] = needed, counts[..., -1] - needed
    return both.reshape(paths, 2 * blocks, n)


_CHUNK = 1 << 14


def hypergeometric_quantile(u, marked, unmarked, draws) -> np.ndarray:
    r"""Smallest x with ``P(X ≤ x) ≥ u``, X the marked among ``draws`` draws without replacement from an urn; arrays of
    one shape, whole numbers as floats.

    The probabilities are products of their ratios ``(marked−x)(draws−x) / ((x+1)(unmarked−draws+x+1))``, over the
    values that Bernstein's inequality leaves with more than 10⁻¹⁶. Raises ValueError for u outside [0, 1] or more draws
    than balls.
    """
    u, marked, unmarked, draws = (np.asarray(a, dtype=float) for a in np.broadcast_arrays(u, marked, unmarked, draws))
    if not ((u >= 0) & (u <= 1)).all():
        raise Refused("u holds numbers outside [0, 1]: give probabilities")
    if (np.minimum(np.minimum(marked, unmarked), draws) < 0).any() or (draws > marked + unmarked).any():
        raise Refused(
            "an urn holds fewer balls than are drawn, or a negative number: give 0 ≤ draws ≤ marked + unmarked"
        )
    out = np.empty(u.size)
    flat = [a.ravel() for a in (u, marked, unmarked, draws)]
    for start in range(0, u.size, _CHUNK):
        out[start : start + _CHUNK] = _quantile(*(a[start : start + _CHUNK] for a in flat))
    return out.reshape(u.shape)


def _quantile(u, marked, unmarked, draws):
    total = np.maximum(marked + unmarked, 1)
    mean = draws * marked / total
    spread = 12.5 + np.sqrt(
        156 + 75 * mean * (1 - marked / total)
    )  # Bernstein: exp(−t²/(2σ² + 2t/3)) < 10⁻¹⁶ with the binomial variance σ²
    lowest = np.maximum(np.maximum(0, draws - unmarked), np.floor(mean - spread))
    width = int(np.max(np.minimum(np.minimum(marked, draws), np.ceil(mean + spread)) - lowest))
    # rows are values, columns are urns: each operation below runs along contiguous memory
    probability = np.empty((width + 1, u.size))
    probability[0] = 1.0
    for j in range(width):
        x = lowest + j
        probability[j + 1] = probability[j] * ((marked - x) * (draws - x)) / ((x + 1) * (unmarked - draws + x + 1))
    np.cumsum(probability, axis=0, out=probability)
    return lowest + (probability[:-1] < u * probability[-1]).sum(0)
