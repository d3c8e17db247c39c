r"""Paths of MSGD beside their diffusion: both drawn from one Brownian path; and mini-batches carried by Gaussian noise.

Cut a step of learning rate η into r pieces, and Euler's method for the diffusion (`support.exact.diffusion`, which has
the exact error on least squares) is MSGD again: learning rate η/r and weights ``1/n + √r V'`` with V' of the law's
covariance. The weights of the large step are the *mean* of those of its r pieces. So one loop, `descend`, runs
everything.

`mini_batches` goes beyond Theorem 2 of Wu et al. (2020): it turns Gaussian noise into mini-batches of SGD that stay
close to it, by conditional quantiles on a dyadic tree.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

from support.errors import Refused, WrongType, array, instance, integer, numpy_generator, real
from support.exact.batch_noise import a_law
from support.exact.diffusion import whole_steps
from support.sampling import GaussianCovariance, GaussianFisher, Law

Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


def regression(features, targets, slope: Callable | None = None) -> Gradient:
    """Gradient of the weighted loss ``Σ_i w_i φ(x_iᵀθ − y_i)``: a function of theta (paths, d) and weights (paths, n)
    with values (paths, d).

    slope: φ', applied to an array of residuals; None for squares, φ' = residual. `huber` is a slope whose gradients are
    bounded. Raises WrongType for another type, Refused for shapes that do not fit.

    >>> regression([[1.0], [2.0]], [0.0, 0.0])(np.array([[3.0]]), np.array([[0.5, 0.5]])).tolist()
    [[7.5]]
    """
    features = array("features", features, ("n", "d"))
    targets = array("targets", targets, features.shape[:1])
    if slope is not None:
        instance("slope", slope, Callable, "give a function of an array of residuals, such as huber, or None")

    def gradient(theta, weights):
        residuals = theta @ features.T - targets
        return (weights * (residuals if slope is None else slope(residuals))) @ features

    return gradient


def huber(residual):
    """Slope of the pseudo-Huber loss ``√(1+r²) − 1``: ``r/√(1+r²)``, at most 1 in size and in slope. Raises WrongType
    for what are no numbers.

    >>> huber([0.0, 0.75]).tolist()
    [0.0, 0.6]
    """
    residual = array("residual", residual)
    return residual / np.sqrt(1 + residual**2)


def descend(gradient: Gradient, theta, lr: float, weights) -> np.ndarray:
    """MSGD, ``θ ← θ − η ∇𝓛(θ) w``, for many paths at once: weights (paths, K, n) give θ_0 … θ_K, shape (paths, K+1, d).

    theta: the start, (d,), or (paths, d). Raises WrongType for another type, Refused for lr ≤ 0 or shapes that do not
    fit.

    >>> descend(regression([[1.0]], [0.0]), [1.0], 0.5, np.ones((1, 2, 1)))[0, :, 0].tolist()
    [1.0, 0.5, 0.25]
    """
    instance(
        "gradient", gradient, Callable, "give a function of theta and weights, such as regression(features, targets)"
    )
    weights = array("weights", weights, ("paths", "steps", "n"))
    paths, steps, _ = weights.shape
    real("lr", lr, above=0)
    theta = array("theta", theta)
    theta = array("theta", theta, (paths, "d")) if theta.ndim > 1 else array("theta", theta, ("d",))
    theta = np.broadcast_to(theta, (paths, theta.shape[-1]))
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
    learning rate η on the same path. Raises WrongType for a law that is not Gaussian and for another type,
    Refused for a count below 1.

    >>> brownian_weights(GaussianCovariance(4, 2), 2, 3, 5, np.random.default_rng(1)).shape
    (2, 15, 4)
    """
    if not isinstance(a_law(law), (GaussianCovariance, GaussianFisher)):
        raise WrongType(
            f"the law {law.name} is not Gaussian, so no Brownian path carries it: use GaussianCovariance or "
            f"GaussianFisher, or mini_batches"
        )
    paths, steps, substeps = (
        integer(name, value, 1) for name, value in (("paths", paths), ("steps", steps), ("substeps", substeps))
    )
    numpy_generator(generator)
    weights = law.sample(paths * steps * substeps, generator).reshape(paths, steps * substeps, law.n)
    return 1 / law.n + math.sqrt(substeps) * (weights - 1 / law.n)


def coarse(weights, substeps: int) -> np.ndarray:
    """Means of the weights over blocks of ``substeps`` steps, (paths, K·r, n) → (paths, K, n): one step of learning
    rate rη on the same Brownian path.

    Raises WrongType for another type, Refused if the number of steps is no multiple of ``substeps``.

    >>> coarse([[[0.0, 1.0], [0.5, 0.5]]], 2).tolist()
    [[[0.25, 0.75]]]
    """
    weights, substeps = array("weights", weights, ("paths", "steps", "n")), integer("substeps", substeps, 1)
    if weights.shape[1] % substeps:
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

    >>> options = {"paths": 3, "substeps": 8, "generator": np.random.default_rng(1)}
    >>> gradient = regression(np.eye(2), [0, 0])
    >>> steps, diffusion, _ = paired_paths(gradient, GaussianFisher(2, 1), 0.5, [1, 1], 1.0, **options)
    >>> steps.shape, diffusion.shape
    ((3, 3, 2), (3, 3, 2))
    """
    fine = brownian_weights(law, paths, whole_steps(time, lr), substeps, generator)
    weights = coarse(fine, substeps)
    return descend(gradient, theta, lr, weights), descend(gradient, theta, lr / substeps, fine)[:, ::substeps], weights


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

    Raises WrongType for another type, Refused for another shape, weights that do not sum to one, b < 1, or a block that
    is no power of two or does not divide K.

    >>> weights = GaussianCovariance(3, 2).sample(4, np.random.default_rng(1))[None]
    >>> mini_batches(weights, 2).sum(-1).tolist()  # halves of two draws a step
    [[1.0, 1.0, 1.0, 1.0]]
    """
    weights = array("weights", weights, ("paths", "steps", "n"))
    _, steps, n = weights.shape
    if n < 2 or steps < 1:
        raise Refused(
            f"weights of shape {weights.shape} are no noise: give (paths, steps, n) with n ≥ 2 samples, a step"
        )
    b, block = integer("b", b, 1), integer("block", steps if block is None else block, 1)
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
        first = _quantiles(uniforms[..., i], marked, rest, needed)
        both[:, :, 0, i], both[:, :, 1, i] = first, marked - first
        needed -= first
    both[:, :, 0, -1], both[:, :, 1, -1] = needed, counts[..., -1] - needed
    return both.reshape(paths, 2 * blocks, n)


_CHUNK = 1 << 14


def hypergeometric_quantile(u, marked, unmarked, draws) -> np.ndarray:
    r"""Smallest x with ``P(X ≤ x) ≥ u``, X the marked among ``draws`` draws without replacement from an urn; arrays of
    one shape, whole numbers as floats.

    The probabilities are products of their ratios ``(marked−x)(draws−x) / ((x+1)(unmarked−draws+x+1))``, over the
    values that Bernstein's inequality leaves with more than 10⁻¹⁶. Raises WrongType for what are no numbers, Refused
    for u outside [0, 1] or more draws than balls.

    >>> hypergeometric_quantile([0.1, 0.5, 0.95], 2, 2, 2).tolist()  # 0, 1 or 2 with chances 1/6, 2/3, 1/6
    [0.0, 1.0, 2.0]
    """
    given = {"u": u, "marked": marked, "unmarked": unmarked, "draws": draws}
    try:
        u, marked, unmarked, draws = np.broadcast_arrays(*(array(name, value) for name, value in given.items()))
    except ValueError as error:
        raise error if isinstance(error, Refused) else Refused(f"{error}: give arrays of one shape") from None
    if not ((u >= 0) & (u <= 1)).all():
        raise Refused("u holds numbers outside [0, 1]: give probabilities")
    if (np.minimum(np.minimum(marked, unmarked), draws) < 0).any() or (draws > marked + unmarked).any():
        raise Refused(
            "an urn holds fewer balls than are drawn, or a negative number: give 0 ≤ draws ≤ marked + unmarked"
        )
    return _quantiles(u, marked, unmarked, draws)


def _quantiles(u, marked, unmarked, draws):
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
