r"""Between which ends the tail index of SGD on least squares lies: a number where one direction is alone and has no
momentum, else what can be proved.

E‖θ − θ*‖^q is finite below the index β and not above it. In one direction `support.exact.tails` solves for it. With
momentum a step multiplies (θ − θ*, λm) by a random matrix M of order two, and an even moment q exists if and only if
the mean of its q-th symmetric power has spectral radius below 1. In many directions with Gaussian inputs every
direction alone gives an upper end: average a product of steps over the signs of the inputs of all samples, direction by
direction, and what is left is that direction's own product; averaging lowers a norm's power q ≥ 1 (Jensen). Since
``E|1 − η(q + γ)|^β`` is convex in the curvature, the least of these ends is that of the sharpest or of the flattest
direction. A second moment says β > 2. Source: Kesten (1973); Ziyin et al. (2022), Section 6.6.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import linalg, special

from support.errors import Refused, boolean, integer, real
from support.exact.batch_noise import matched
from support.exact.matrices import a_momentum
from support.exact.populations import FinitePopulation, GaussianPopulation
from support.exact.second_moments import Descent, a_descent
from support.exact.stationary import gain
from support.exact.tails import GaussianFactor, bounded_below, data_factor, tail_index

HIGHEST = 32  # the largest moment that is looked at with momentum: beyond, rounding decides


def tail_range(descent: Descent, b: int, replace: bool = True) -> tuple[float, float]:
    """The ends between which β lies: equal where it is known; ∞ where the law is bounded or does not fluctuate; (0, ∞)
    where nothing is known. b, replace: how batches are drawn, which must be the noise of the descent.

    Raises WrongType, Refused for another batch.

    >>> one = Descent(GaussianPopulation([[1.0]]), matched(2), 0.5)
    >>> [round(end, 6) for end in tail_range(one, 2)] == [round(tail_index(GaussianFactor(0.5, 2)), 6)] * 2
    True
    >>> tail_range(one.changed(momentum=0.5), 2)  # the second moment exists, the fourth does not
    (2.0, 4.0)
    """
    a_descent(descent)
    b, replace, population = integer("b", b, 1), boolean("replace", replace), descent.population
    _same_batch(descent, b, replace)
    if not gain(descent) < 1:
        return 0.0, math.inf
    if not fluctuates(descent):
        return math.inf, math.inf
    if isinstance(population, GaussianPopulation) and population.factor == 1 and descent.modes is not None:
        return _gaussian(descent, b)
    if isinstance(population, FinitePopulation) and not descent.momentum:
        return _finite(descent, b, replace)
    return 2.0, math.inf


def fluctuates(descent: Descent) -> bool:
    """Whether a step at θ* has any noise beyond rounding: not where the labels are met exactly. Raises WrongType.

    >>> met = FinitePopulation([[1.0], [2.0]], [0.3, 0.6])
    >>> fluctuates(Descent(met, matched(2), 0.1)), fluctuates(Descent(met, matched(2), 0.1, decay=0.1))
    (False, True)
    """
    law = a_descent(descent).population
    labels = 2 * law.least_loss + law.optimum @ law.second_moment @ law.optimum  # E y²
    unit = float(descent.noise.strength) * float(labels) * np.trace(law.second_moment)
    return bool(np.trace(descent.forcing) > 1e-24 * unit)


def even_moment_growth(order: int, scale: float, b: int, momentum: float = 0.0, keep: float = 1.0) -> float:
    """The factor by which a step multiplies the moments of this even order of (θ, λm) in one direction with Gaussian
    inputs: the spectral radius of ``E Sym^order M``, M = [[keep − s, −μ], [1 − keep + s, μ]], s = scale · χ²_b/b, keep
    = 1 − ηγ. Moments of that order exist where it is below 1. Raises WrongType, Refused for an odd or too large order.

    >>> round(even_moment_growth(2, 0.5, 1), 12)  # (1 − s)² + 2s², as without momentum
    0.75
    """
    order, scale, b = integer("order", order, 2, HIGHEST), real("scale", scale, above=0), integer("b", b, 1)
    if order % 2:
        raise Refused(f"order = {order} is odd: give an even one, whose moments have no absolute value")
    mu, keep = a_momentum(momentum), real("keep", keep)
    mean = np.zeros((order + 1, order + 1))
    for node, weight in zip(*_gamma_nodes(b / 2, order // 2 + 1), strict=True):
        pull = 1 - keep + scale * 2 * node / b
        mean += weight * _symmetric_power(np.array([[1 - pull, -mu], [pull, mu]]), order)
    return float(np.abs(np.linalg.eigvals(mean)).max())


def _same_batch(descent, b, replace):
    finite = isinstance(descent.population, FinitePopulation)
    n = len(descent.population.inputs) if finite and not replace else None
    if n is not None:
        integer("b", b, 1, n, why=f"a batch without replacement holds 1 to n = {n} samples")
    wanted = float(matched(b).strength) if n is None else (n - b) / (b * max(n - 1, 1))
    if not math.isclose(float(descent.noise.strength), wanted, rel_tol=1e-12) or descent.noise.jitter:
        raise Refused(f"b = {b} has the strength {wanted:.6g}, the descent {float(descent.noise.strength):.6g}: match")


def _gaussian(descent, b):
    modes, mu = descent.modes, descent.momentum
    ends = [
        _one_direction(modes.rate[i] * modes.a[i], b, mu, 1 - modes.rate[i] * (modes.k[i] - modes.a[i]))
        for i in {int(np.argmax(modes.a)), int(np.argmin(modes.a))}
        if modes.a[i] > 1e-12 * modes.a.max()
    ]
    return ends[0] if len(modes.a) == 1 else (2.0, min(high for _, high in ends))


def _one_direction(scale, b, mu, keep):
    if not mu:
        return (tail_index(GaussianFactor(float(scale), b, float(keep))),) * 2 if keep > 0 else (2.0, math.inf)
    low, high = 2, HIGHEST + 2  # the second moment exists; the search keeps: low exists, high does not
    while high - low > 2:
        middle = (low + high) // 4 * 2
        if even_moment_growth(middle, float(scale), b, mu, float(keep)) < 1:
            low = middle
        else:
            high = middle
    return float(low), float(high) if high <= HIGHEST else math.inf


def _finite(descent, b, replace):
    """Without momentum: no step expands where η times a batch's largest curvature and the decay stay below 2."""
    squares = (descent.population.inputs**2).sum(1)
    rates, decays = (np.linalg.eigvalsh(m) for m in (descent.lr, descent.decay))
    if not np.ptp(rates) and not np.ptp(decays):
        rate, decay = float(rates[0]), float(decays[0])
        if decay >= 0 and rate * (2 / bounded_below(squares, b, replace) + decay) <= 2:
            return math.inf, math.inf
        if len(descent.lr) == 1:
            try:
                return (tail_index(data_factor(squares, rate, b, replace, decay)),) * 2
            except Refused:  # too many batches to count
                pass
    return 2.0, math.inf


def _gamma_nodes(shape, count):
    """Nodes and weights, summing to one, that integrate polynomials of degree 2·count − 1 against the Gamma law: Golub
    and Welsch for Laguerre's polynomials, whose own weights would overflow.
    """
    k = np.arange(count)
    nodes, vectors = linalg.eigh_tridiagonal(2 * k + shape, np.sqrt(k[1:] * (k[1:] + shape - 1)))
    return nodes, vectors[0] ** 2


def _symmetric_power(matrix, order):
    """How a 2 × 2 matrix acts on the monomials of this order, scaled so that a rotation stays one."""
    powers = [[np.ones(1)], [np.ones(1)]]
    for row, found in zip(matrix, powers, strict=True):
        for _ in range(order):
            found.append(np.convolve(found[-1], row))
    scale = np.sqrt(special.comb(order, np.arange(order + 1)))
    rows = [np.convolve(powers[0][order - j], powers[1][j]) for j in range(order + 1)]
    return scale[:, None] * np.array(rows) / scale
