r"""Least squares on a finite sample, exactly: expected loss and stability of SGD and MSGD under any law of the sampling
vector.

The losses are ``ℓ_i(θ) = ½ (x_iᵀθ − y_i)²``, so a step ``θ ← θ − η Σ_i W_i x_i (x_iᵀθ − y_i)`` is linear in θ, and the
second moment of (θ, 1) after a step depends on the law of W only through its mean 1/n and its covariance aI + c11ᵀ. It
is propagated here; no sample is drawn. Arrays of Fractions stay rational. Averaged iterates, fresh samples and Gaussian
inputs are in `support.exact.averaged`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from support.errors import Refused
from support.sampling import Law


def _moment_step(features, targets, law: Law, lr):
    """The map of the second moment M of z = (θ, 1) under one step, and the rows ρ_i = (x_i, −y_i) that give the
    residuals ``ρ_iᵀ z``.

    With γ_i = (x_i, 0), the direction of the i-th gradient, and ``T = Σ_i γ_i ρ_iᵀ``:
    ``M' = A M Aᵀ + η² (a Σ_i (ρ_iᵀ M ρ_i) γ_i γ_iᵀ + c T M Tᵀ)``, where A = I − η T/n is the mean step.
    """
    n, d = _sizes(features, law)
    exact = features.dtype == object
    covariance = law.covariance
    a, c, mean = (x if exact else float(x) for x in (covariance.a, covariance.c, law.mean))
    # row i of residual gives the residual x_iᵀθ − y_i from z; row i of gradient is the direction in z-space along which
    # its gradient moves
    residual = np.concatenate([features, -targets[:, None]], axis=1)
    gradient = np.concatenate([features, np.zeros((n, 1), dtype=features.dtype)], axis=1)
    total = gradient.T @ residual
    drift = (
        np.array([[int(i == j) for j in range(d + 1)] for i in range(d + 1)], dtype=features.dtype) - lr * mean * total
    )

    def step(moment):
        squared_residual = ((residual @ moment) * residual).sum(1)
        noise = a * (gradient.T * squared_residual) @ gradient + c * total @ moment @ total.T
        return drift @ moment @ drift.T + lr * lr * noise

    return step, residual


def _sizes(features, law: Law) -> tuple[int, int]:
    if not isinstance(features, np.ndarray) or features.ndim != 2:
        raise Refused(f"features have shape {np.shape(features)}: give an array of shape (n, d)")
    if law.n != len(features):
        raise Refused(
            f"the law is for n = {law.n} samples, the data has {len(features)}: give the law this number of samples"
        )
    return features.shape


def expected_losses(features, targets, law: Law, lr, theta, steps: int) -> Iterator:
    """Exact ``E L(θ_k)``, L the mean of the n losses, for k = 0 … steps, started at theta.

    features: (n, d); targets: (n,); theta: (d,); arrays of Fractions with a Fraction ``lr`` give Fractions, O(n d²) a
    step.
    Raises ValueError for a law of another n, shapes that do not fit, or steps < 0.
    """
    n, d = _sizes(features, law)
    if targets.shape != (n,) or np.shape(theta) != (d,):
        raise Refused(
            f"features of shape {features.shape} came with targets {targets.shape} and theta {np.shape(theta)}: they "
            f"must be ({n},) and ({d},)"
        )
    if steps < 0:
        raise Refused(f"steps = {steps} is negative: give a number of steps ≥ 0")
    step, residual = _moment_step(features, targets, law, lr)

    def losses():
        start = np.append(theta, 1)
        moment = np.outer(start, start)
        for k in range(steps + 1):
            yield ((residual @ moment) * residual).sum() / (2 * n)
            if k < steps:
                moment = step(moment)

    return losses()  # a generator of its own, so that bad input is refused at the call and not at the first loss


def growth(features, law: Law, lr: float) -> float:
    """Spectral radius of the map of the second moment of θ − θ*, where all residuals vanish at θ*: the factor by which
    E|θ − θ*|² grows a step in the long run.

    features: (n, d). Needs a d(d+1)/2-dimensional eigenproblem; for small d. Raises ValueError for a law of another n.
    """
    features = np.asarray(features, dtype=float)
    d = features.shape[1]
    step, _ = _moment_step(features, np.zeros(len(features)), law, lr)
    pairs = [(i, j) for i in range(d) for j in range(i, d)]
    columns = []
    for i, j in pairs:
        basis = np.zeros((d + 1, d + 1))
        basis[i, j] = basis[j, i] = 1.0
        after = step(basis)
        columns.append([after[r, s] for r, s in pairs])
    return float(np.abs(np.linalg.eigvals(np.array(columns).T)).max())


def stability_limit(features, law: Law) -> float:
    """The largest learning rate at which second moments stay bounded, one eigenproblem in O(n d²) a product:
    ``1 / ρ(𝓛⁻¹𝒩)``.

    A step takes M = E (θ−θ*)(θ−θ*)ᵀ to ``M − η 𝓛(M) + η² 𝒩(M)``, with ``𝓛(M) = HM + MH`` and
    ``𝒩(M) = (1 + c n²) HMH + a Σ_i x_i x_iᵀ (x_iᵀ M x_i)``. Both preserve positivity (𝓛 in its inverse), so the step
    contracts if and only if η 𝓛⁻¹𝒩 has spectral radius ρ below 1. Directions without data do not count. In one
    dimension, with m₂, m₄ the means of x² and x⁴: ``2m₂ / (m₂² + a n m₄ + c n² m₂²)``. Raises ValueError for a law of
    another n and for data that is all zero or not finite.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    features = np.asarray(features, dtype=float)
    n, d = _sizes(features, law)
    if not np.isfinite(features).all():
        raise Refused(
            f"{(~np.isfinite(features)).sum()} of {features.size} features are not finite: clean the data first"
        )
    curvature, axes = np.linalg.eigh(features.T @ features / n)
    if not curvature[-1] > 0:
        raise Refused("all features are zero: there is no learning rate at which anything happens")
    seen = curvature > curvature[-1] * d * np.finfo(float).eps
    h, x = curvature[seen], features @ axes[:, seen]
    a, c = float(law.covariance.a), float(law.covariance.c)
    # in the eigenbasis of H, 𝓛 multiplies entry ij by h_i + h_j; dividing by its root on both sides leaves a symmetric
    # operator
    root = np.sqrt(np.add.outer(h, h))

    def product(vector):
        moment = vector.reshape(root.shape) / root
        along = ((x @ moment) * x).sum(1)
        return (((1 + c * n * n) * np.outer(h, h) * moment + a * (x.T * along) @ x) / root).ravel()

    if root.size <= 16:  # too small for Lanczos
        return float(1 / np.linalg.eigvalsh(np.array([product(unit) for unit in np.eye(root.size)])).max())
    operator = LinearOperator((root.size, root.size), matvec=product, dtype=float)
    return float(1 / eigsh(operator, k=1, which="LA", v0=np.eye(len(h)).ravel(), return_eigenvectors=False)[0])
