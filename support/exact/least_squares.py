r"""Least squares under any noise of the step, exactly: expected losses on a training set, and the learning rates at
which second moments stay bounded.

The losses are ``ℓ_i(θ) = ½ (x_iᵀθ − y_i)²``, so a step ``θ ← θ − η Σ_i W_i x_i (x_iᵀθ − y_i)`` is linear in θ, and the
second moment of (θ, 1) after a step depends on the law of W only through its mean 1/n and its covariance aI + c11ᵀ. It
is propagated here; no sample is drawn. Arrays of Fractions stay rational. Averaged iterates and their excess risks, on
any population, are in `support.exact.averaged`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from support.errors import Refused, array, integer, real
from support.exact.batch_noise import a_law, fixed
from support.exact.populations import FinitePopulation, Population, a_noise
from support.sampling import Law


def expected_losses(features, targets, law: Law, lr, theta, steps: int) -> Iterator:
    """Exact ``E L(θ_k)``, L the mean of the n losses, for k = 0 … steps, started at theta.

    This is the loss; `averaged.risks` of ``FinitePopulation(features, targets)`` under ``fixed(law)`` is its excess
    over the smallest loss, ``population.least_loss``. With γ_i = (x_i, 0), the direction of the i-th gradient,
    ρ_i = (x_i, −y_i), whose product with z = (θ, 1) is the i-th residual, and ``T = Σ_i γ_i ρ_iᵀ``, a step takes the
    second moment M of z to ``AMAᵀ + η² (a Σ_i (ρ_iᵀ M ρ_i) γ_i γ_iᵀ + c T M Tᵀ)``, A = I − η T/n.

    features: (n, d); targets: (n,); theta: (d,); arrays of Fractions with a Fraction ``lr`` give Fractions, O(n d²) a
    step. Raises WrongType for another type, Refused for a law of another n, shapes that do not fit, lr ≤ 0, or
    steps < 0.

    >>> from support.sampling import MiniBatch
    >>> [float(loss) for loss in expected_losses([[1.0], [1.0]], [0.0, 2.0], MiniBatch(2, 1), 0.5, [1.0], 1)]
    [0.5, 0.625]
    """
    features, targets, theta = regression_arrays(features, targets, theta)
    n, d = _samples(features, law)
    real("lr", lr, above=0)
    steps = integer("steps", steps, 0)
    exact = features.dtype == object
    a, c, mean = (x if exact else float(x) for x in (law.covariance.a, law.covariance.c, law.mean))
    residual = np.concatenate([features, -targets[:, None]], axis=1)
    gradient = np.concatenate([features, np.zeros((n, 1), dtype=features.dtype)], axis=1)
    total = gradient.T @ residual
    unit = np.array([[int(i == j) for j in range(d + 1)] for i in range(d + 1)], dtype=features.dtype)
    drift = unit - lr * mean * total

    def losses():
        start = np.append(theta, 1)
        moment = np.outer(start, start)
        for k in range(steps + 1):
            squared = ((residual @ moment) * residual).sum(1)
            yield squared.sum() / (2 * n)
            if k < steps:
                noise = a * (gradient.T * squared) @ gradient + c * total @ moment @ total.T
                moment = drift @ moment @ drift.T + lr * lr * noise

    return losses()  # a generator of its own, so that bad input is refused at the call and not at the first loss


def regression_arrays(features, targets, theta, *, rational: bool = True):
    """A training set and a start as arrays of shapes (n, d), (n,) and (d,): floats, or rational where the features are.

    Raises WrongType or Refused for what does not fit.

    >>> [a.shape for a in regression_arrays([[1, 0], [0, 1], [1, 1]], [0, 1, 2], [0, 0])]
    [(3, 2), (3,), (2,)]
    """
    features = array("features", features, ("n", "d"), rational=rational)
    n, d = features.shape
    exact = features.dtype == object
    targets, theta = array("targets", targets, (n,), rational=exact), array("theta", theta, (d,), rational=exact)
    return (features, targets, theta) if exact else tuple(a.astype(float) for a in (features, targets, theta))


def _samples(features, law: Law) -> tuple[int, int]:
    if a_law(law).n != len(features):
        raise Refused(
            f"the law is for n = {law.n} samples, the data has {len(features)}: give the law this number of samples"
        )
    return features.shape


def growth(data, noise, lr: float) -> float:
    """Spectral radius of the map of the second moment of θ − θ*, where all residuals vanish at θ*: the factor by which
    E|θ − θ*|² grows a step in the long run. Directions without data do not count.

    data and noise as in `stability_limit`. Needs an eigenproblem of as many dimensions as the population's frame has,
    r² for atoms and r for Gaussian inputs, r the rank of Σ; for small r. Raises as `stability_limit`, and Refused for
    lr ≤ 0.

    >>> from support.sampling import MiniBatch
    >>> growth([[1.0], [1.0]], MiniBatch(2, 1), 0.5)  # (1 − η)²
    0.25
    """
    frame, p, q = _steps(data, noise)
    lr = real("lr", lr, above=0)
    contract = frame.contraction(lr, q)
    units = np.eye(frame.sums.size).reshape(-1, *frame.sums.shape)
    columns = [(contract(unit) + lr * lr * p * frame.spread(unit)).ravel() for unit in units]
    return float(np.abs(np.linalg.eigvals(np.array(columns).T)).max())


def stability_limit(data, noise) -> float:
    """The largest learning rate at which second moments stay bounded: ``1 / ρ(𝓛⁻¹𝒩)``, one eigenproblem.

    data, noise: features (n, d) of a training set and a law of the weights of its n samples; or a `Population` and a
    `BatchNoise`, of fresh samples or of fixed ones. A step takes M = E (θ−θ*)(θ−θ*)ᵀ to ``M − η 𝓛(M) + η² 𝒩(M)``, with
    ``𝓛(M) = ΣM + MΣ`` and ``𝒩(M) = p E xxᵀMxxᵀ + (1 + j − p) ΣMΣ``. Both preserve positivity (𝓛 in its inverse), so the
    step contracts if and only if η 𝓛⁻¹𝒩 has spectral radius ρ below 1. Directions without data do not count. In one
    dimension, with m₂, m₄ the means of x² and x⁴: ``2m₂ / (p m₄ + (1 + j − p) m₂²)``.

    Raises WrongType for another type, Refused for a law of another n and for data that is all zero, NotFinite for data
    that is not finite.

    >>> from support.sampling import MiniBatch
    >>> round(stability_limit([[1.0], [2.0]], MiniBatch(2, 1)), 6)  # 2m₂/m₄ = 2·2.5/8.5
    0.588235
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    frame, p, q = _steps(data, noise)
    # 𝓛 multiplies an entry by h_i + h_j; dividing by its root on both sides leaves a symmetric operator
    root = np.sqrt(frame.sums)

    def product(vector):
        moment = vector.reshape(root.shape) / root
        return ((p * frame.spread(moment) + q * frame.left(frame.left(moment).T)) / root).ravel()

    if root.size <= 16:  # too small for Lanczos
        return float(1 / np.linalg.eigvalsh(np.array([product(unit) for unit in np.eye(root.size)])).max())
    operator = LinearOperator((root.size, root.size), matvec=product, dtype=float)
    start = frame.identity.ravel()
    return float(1 / eigsh(operator, k=1, which="LA", v0=start, return_eigenvectors=False)[0])


def _steps(data, noise):
    """Frame and the two numbers p, q = 1 + j − p of the steps, in floats."""
    if isinstance(data, Population):
        a_noise(noise, data)
        if data.exact:
            data = FinitePopulation(*(a.astype(float) for a in (data.inputs, data.targets, data.probabilities)))
    else:
        features = array("features", data, ("n", "d"))
        n, _ = _samples(features, noise)
        if not features.any():
            raise Refused("all features are zero: there is no learning rate at which anything happens")
        data, noise = FinitePopulation(features, np.zeros(n)), fixed(noise)
    return data.frame, float(noise.strength), float(noise.pairs)
