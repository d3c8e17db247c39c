r"""Mean and second moment of the loss on any small regression under any recipe of weights, by propagating the tensor of
fourth moments.

With z = (θ, 1) a step on losses ``ℓ_i = ½(x_iᵀθ − y_i)²`` is ``z ← (T + N) z``; given what was picked (a `Recipe`), T
is fixed and N Gaussian. The fourth moments of z follow from ``E (T+N)^{⊗4}``, which has three kinds of terms:
T⊗T⊗T⊗T, T⊗T⊗K and K⊗K with K = E N⊗N. So the classes that share mean and covariance part here. Nothing is sampled.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from support.errors import Refused, integer, real
from support.exact.batch_noise import a_law
from support.exact.least_squares import regression_arrays
from support.exact.recipes import Recipe, recipe
from support.sampling import Law


def loss_moments(features, targets, law: Law, lr, theta, steps: int) -> Iterator[tuple]:
    """Exact ``(E L(θ_k), E L(θ_k)²)`` for k = 0 … steps on a regression, L the mean of the n losses, started at theta.

    features: (n, d), d ≤ 4; targets: (n,); theta: (d,); Fractions stay rational. Cost: O((d+1)⁸) a pick once, and as
    much a step. Raises WrongType for another type, Refused for shapes that do not fit, d > 4, lr ≤ 0, steps < 0, and
    for noise made of signs, whose fourth moments are not those of a Gaussian.

    >>> from support.sampling import MiniBatch
    >>> means, squares = zip(*loss_moments([[1.0], [1.0]], [0.0, 2.0], MiniBatch(2, 1), 0.5, [1.0], 1))
    >>> [float(mean) for mean in means], [float(square) for square in squares]  # θ₁ is ½ or 3/2, the loss 5/8 for both
    ([0.5, 0.625], [0.25, 0.390625])
    """
    features, targets, theta = regression_arrays(features, targets, theta)
    (n, d), made = features.shape, recipe(a_law(law))
    if law.n != n:
        raise Refused(f"the law is for n = {law.n} samples, the data has {n}: give the law this number of samples")
    real("lr", lr, above=0)
    steps = integer("steps", steps, 0)
    if d > 4 or made.noise == "signs":
        raise Refused(f"d = {d}, noise of {made.noise}: give d ≤ 4, and a class whose noise is none or Gaussian")
    number = Fraction if features.dtype == object else float
    residual = np.concatenate([features, -targets[:, None]], axis=1)
    start = np.append(theta, number(1))
    return _moments(_power(made, residual, lr, number), residual, start, steps)


def _power(made: Recipe, residual, lr, number) -> np.ndarray:
    """The map of the fourth moments of z, ((d+1)⁴, (d+1)⁴), up to the order of the factors of z⊗z⊗z⊗z."""
    D = residual.shape[1]
    gradient = np.concatenate([residual[:, :-1], np.full((len(residual), 1), number(0))], axis=1)
    pulls = [
        np.outer(g, rho) for g, rho in zip(gradient, residual, strict=True)
    ]  # sample i moves z by −η W_i γ_i ρ_iᵀ z
    twice = [np.kron(pull, pull) for pull in pulls]
    unit = np.array([[number(i == j) for j in range(D)] for i in range(D)])

    def total(weights, matrices):
        return sum(number(w) * matrix for w, matrix in zip(weights, matrices, strict=True))

    power = np.zeros((D**4, D**4), dtype=residual.dtype)
    for p, counts in made.picks():
        mean = unit - lr * total([made.floor + count * made.slot for count in counts], pulls)
        T, K = np.kron(mean, mean), total(counts, twice)
        if made.centred:
            summed = total(counts, pulls)
            K = K - np.kron(summed, summed) / number(made.size)
        K = number(made.variance) * lr * lr * K
        power = power + number(p) * (np.kron(T, T) + 6 * np.kron(T, K) + 3 * np.kron(K, K))
    return power


def _moments(power, residual, z, steps: int) -> Iterator[tuple]:
    D, n = len(z), len(residual)
    quadratic = (residual.T @ residual / (2 * n)).ravel()
    lift = np.array([int(i == D * D - 1) for i in range(D * D)])  # picks 1·1 from z⊗z
    moment = np.kron(np.kron(z, z), np.kron(z, z))
    for k in range(steps + 1):
        table = moment.reshape(D * D, D * D)
        yield quadratic @ table @ lift, quadratic @ table @ quadratic
        if k < steps:
            cube = (power @ moment).reshape((D,) * 4)
            # the tensor of z⊗z⊗z⊗z is symmetric: averaging over the 24 orders replaces the terms left out of TTKK and
            # KKKK
            moment = sum(cube.transpose(order) for order in itertools.permutations(range(4))).ravel() / 24
