r"""Averaged least squares, exactly: the risk of θ_n and of the average θ̄_n for SGD and MSGD, with no sample drawn;
Theorem 1's bounds beside it.

The problem is to minimise ``f(θ) = ½ E (xᵀθ − y)²`` over a law of (x, y), a population. A step is ``θ ← θ − η g̃`` with
a weighted gradient ``g̃ = Σ_r w_r x_r (x_rᵀθ − y_r)``, of which second moments see the strength p and the jitter j of a
`BatchNoise`.
The mean m and the second moment M of δ = θ − θ*, and its moment with the sum of the past iterates, obey a closed linear
recursion:

    M ← M − η(ΣM + MΣ) + η² [ p (E xxᵀMxxᵀ − 2 E ε(xᵀm)xxᵀ + E ε²xxᵀ) + (1 + j − p) ΣMΣ ],   m ← (I − ηΣ) m,   Σ = E
    xxᵀ,  ε = y − xᵀθ*

It runs in the eigenbasis of Σ: O(m d²) a step for m atoms, O(d) for Gaussian x, where the diagonal of M suffices.
Source: Wu et al. (2020), Section 3 and Appendix A.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from support.errors import NotFinite, Refused, array, choice, instance, integer, numpy_generator, real
from support.exact.batch_noise import BatchNoise, a_law
from support.exact.least_squares import stability_limit
from support.exact.populations import FinitePopulation, Population, a_noise, a_population
from support.sampling import Law

FORMS = ("corrected", "additive", "minkowski", "printed")


class Risks(NamedTuple):
    """For k = 0 … steps, arrays of shape (steps + 1,): excess risks ``E f − f(θ*)`` of θ_k and of the average of θ_0 …
    θ_k, and ``E ‖θ_k − θ*‖²``.

    >>> from support.exact.batch_noise import matched
    >>> found = risks(FinitePopulation([[1.0]], [0.0]), matched(1), 0.5, [1.0], 2)  # every step halves θ
    >>> found.last.round(6).tolist(), found.averaged[:2].round(6).tolist(), found.distance.round(6).tolist()
    ([0.5, 0.125, 0.03125], [0.5, 0.28125], [1.0, 0.25, 0.0625])
    """

    last: np.ndarray
    averaged: np.ndarray
    distance: np.ndarray


def risks(population: Population, noise: BatchNoise, lr, theta, steps: int) -> Risks:
    """Exact excess risks of the last and of the averaged iterate, started at theta (d,). The loss itself is the excess
    and ``population.least_loss``.

    Rational for a rational population, noise, lr and theta. A fixed training set is a `FinitePopulation` with
    `fixed(law)`. Raises WrongType for another type, Refused for a bad shape, lr ≤ 0 or steps < 0, NotFinite where the
    risk grows beyond floating point.

    >>> from fractions import Fraction
    >>> from support.exact.batch_noise import matched
    >>> population = FinitePopulation(np.array([[Fraction(1)], [Fraction(2)]]), [0, 1])
    >>> risks(population, matched(2), Fraction(1, 5), [1], 1).last.tolist()
    [Fraction(9, 20), Fraction(19, 160)]
    """
    _problem(population, noise, lr)
    steps = integer("steps", steps, 0)
    frame, (p, q) = population.frame, _numbers(population, noise)
    left, trace, keep, contract = frame.left, frame.trace, frame.keep, frame.contraction(lr, q)
    mean = frame.into(population.error_of(theta))
    second = frame.outer(mean)
    own = cross = keep(second)  # cross: E of θ_k − θ* times the sum of all θ_i − θ*, i ≤ k
    total, rows = trace(left(own)), []
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(steps + 1):
            rows.append((trace(left(own)) / 2, total / (2 * (k + 1) ** 2), trace(own)))
            second = contract(second) + lr * lr * p * (frame.spread(second, mean) + frame.noise)
            mean, own, cross = mean - lr * left(mean), keep(second), cross - lr * left(cross)
            total = total + 2 * trace(left(cross)) + trace(left(own))
            cross = cross + own
    return Risks(*_finite(np.array(rows), lr).T)


def last_moment(population: Population, noise: BatchNoise, lr, theta, steps: int) -> np.ndarray:
    """Exact second moment ``E (θ_k − θ*)(θ_k − θ*)ᵀ`` of the last iterate after k = ``steps`` steps from theta: shape
    (d, d), whose trace and whose product with Σ/2 are the last entries of `risks`; zero in directions without data.

    The recursion above in full matrices, O(d³) a step and O(m d²) for m atoms. Arguments and errors as `risks`.

    >>> from support.exact.batch_noise import matched
    >>> population = FinitePopulation([[1.0, 0.0], [0.0, 1.0]], [0.0, 1.0])
    >>> last_moment(population, matched(1), 1.0, [1.0, 0.0], 1).tolist()  # (0, −1) or (1, 0), by a coin
    [[0.5, 0.0], [0.0, 0.5]]
    """
    _problem(population, noise, lr)
    steps = integer("steps", steps, 0)
    sigma, (p, q) = population.second_moment, _numbers(population, noise)
    mean = population.error_of(theta)
    second = np.outer(mean, mean)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            pull = sigma @ second
            spread = population.fourth(second) - 2 * population.third(mean) + population.noise_moment
            second = second - lr * (pull + pull.T) + lr * lr * (p * spread + q * pull @ sigma)
            mean = mean - lr * sigma @ mean
    return _finite(second, lr)


def _finite(rows, lr):
    """The rows, unless one of them has left floating point."""
    good = np.isfinite(rows.astype(float)).all(1)
    if not good.all():
        raise NotFinite(
            f"the risk exceeds floating point at step {int(np.argmin(good))}: lr = {lr} is unstable; lower it, or take "
            f"fewer steps"
        )
    return rows


def simulated(
    population: FinitePopulation, law: Law, lr: float, theta, stops, runs: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Excess risk of the averaged iterate after each number of steps in ``stops``, estimated: mean over the runs and
    its standard error, (len(stops),) each.

    Every step draws law.n fresh samples and the law's weights. Beside `risks` as a check that knows nothing of the
    recursion. Raises WrongType for another type, Refused for runs < 2, no stops or a bad shape.

    >>> from support.sampling import MiniBatch
    >>> flat = FinitePopulation([[1.0], [1.0]], [0.0, 0.0])
    >>> simulated(flat, MiniBatch(2, 1), 0.5, [2.0], [1], 3, np.random.default_rng(1))  # every step halves θ
    (array([1.125]), array([0.]))
    """
    instance("population", population, FinitePopulation, "give FinitePopulation(inputs, targets)")
    a_law(law)
    real("lr", lr, above=0)
    stops = [integer("stops", stop, 0) for stop in array("stops", stops, ("stops",), rational=True).tolist()]
    if not stops:
        raise Refused("stops are empty: give the numbers of steps to look at")
    runs = integer("runs", runs, 2, why="a standard error needs at least 2 runs")
    numpy_generator(generator)
    x, y, sigma = (array.astype(float) for array in (population.inputs, population.targets, population.second_moment))
    now, seen = np.tile(array("theta", theta, population.optimum.shape), (runs, 1)), {}
    total = now.copy()
    for k in range(max(stops) + 1):
        if k in stops:
            error = total / (k + 1) - population.optimum.astype(float)
            values = np.einsum("rd,de,re->r", error, sigma, error) / 2
            seen[k] = values.mean(), values.std(ddof=1) / math.sqrt(runs)
        picked = generator.choice(len(x), (runs, law.n), p=population.probabilities.astype(float))
        slopes = law.sample(runs, generator) * (np.einsum("rbd,rd->rb", x[picked], now) - y[picked])
        now = now - lr * np.einsum("rb,rbd->rd", slopes, x[picked])
        total += now
    mean, error = np.array([seen[k] for k in stops]).T
    return mean, error


def _numbers(population, noise):
    """p and 1 + j − p in the population's numbers."""
    return (noise.strength, noise.pairs) if population.exact else (float(noise.strength), float(noise.pairs))


def _problem(population, noise, lr=1):
    """Refuse what is no population, no batch noise or no learning rate."""
    a_noise(noise, a_population(population))
    real("lr", lr, above=0)


def kappa(population: Population, noise: BatchNoise) -> float:
    """κ in ``E L² ⪯ κΣ`` for L = Σ_r w_r x_r x_rᵀ: ``p R² + max(1+j−p, 0) λ``; with Theorem 1's covariance
    ``(R² + (b−1)λ)/b`` (units of ‖x‖²). Raises WrongType for another type.

    >>> from support.exact.batch_noise import matched
    >>> kappa(FinitePopulation([[1.0], [2.0]], [0.0, 0.0]), matched(2))  # (17/5 + 5/2)/2
    2.95
    """
    _problem(population, noise)
    return float(noise.strength) * population.radius + max(float(noise.pairs), 0.0) * population.top


def lr_limit(population: Population, noise: BatchNoise) -> float:
    """The learning rate below which the bounds hold, ``2/κ``; with Theorem 1's covariance ``2b/(R² + (b−1)λ)``. At most
    `least_squares.stability_limit`, below which the risks stay bounded. Raises WrongType for another type.

    >>> from support.exact.batch_noise import matched
    >>> round(lr_limit(FinitePopulation([[1.0], [2.0]], [0.0, 0.0]), matched(2)), 6)
    0.677966
    """
    return 2 / kappa(population, noise)


def _in_range(population, noise, lr):
    _problem(population, noise, lr)
    if not lr < lr_limit(population, noise):
        raise Refused(
            f"lr = {lr} is outside the theorem's range: choose 0 < lr < 2/κ = {lr_limit(population, noise):.6g}"
        )


@dataclass(frozen=True)
class Bound:
    """A bound on the excess risk of the average after n steps: ``C1/(n+1) + C2/(n+1)²``, or with ``minkowski``
    ``(√(C1/(n+1)) + √C2/(n+1))²``.

    >>> float(Bound(2.0, 0.0)(1))
    1.0
    """

    C1: float
    C2: float
    minkowski: bool = False

    def __call__(self, n):
        variance, bias = self.C1 / (np.asarray(n) + 1.0), self.C2 / (np.asarray(n) + 1.0) ** 2
        return (np.sqrt(variance) + np.sqrt(bias)) ** 2 if self.minkowski else variance + bias


def bound(population: Population, noise: BatchNoise, lr: float, theta, form: str = "corrected") -> Bound:
    """Theorem 1's bound on ``E f(θ̄_n) − f(θ*)``, with d the rank of Σ, q = δᵀΣ⁺δ, δ = θ − θ* in the range of Σ, and
    the smallest R², σ², λ in (A1)-(A3).

    form "additive": ``C1 = pσ²d/(2−ηκ)``, ``C2 = q/(2η²) · (1 + ηκd/(2−ηκ))``, for populations with E ε x_i x_j x_k =
    0;
    "minkowski": the same constants, their roots added, for any population; "corrected": whichever of the two applies;
    "printed": as in Appendix A.2, halved because it speaks of 2(f − f*): ``C1 = σ²d/(2−ηκ)``, ``C2 = ½ q (1 + ηκd/2)``.
    It does not hold. Raises WrongType for another type, Refused for an unknown form, a bad theta, or lr outside
    0 < lr < 2/κ.

    >>> from support.exact.batch_noise import matched
    >>> from support.exact.populations import GaussianPopulation
    >>> float(bound(GaussianPopulation([[1.0]]), matched(1), 0.25, [0.0]).C1)  # σ²d/(2−ηκ), κ = 3
    0.8
    """
    form = choice("form", form, FORMS)
    _in_range(population, noise, lr)
    delta = population.error_of(theta)
    lr, k, d = float(lr), kappa(population, noise), population.rank
    q, c1 = float(delta @ population.pseudo_solve(delta)), population.variance * d / (2 - lr * k)
    if form == "printed":
        return Bound(c1, q * (1 + lr * k * d / 2) / 2)
    together = form == "minkowski" or (form == "corrected" and not population.well_specified)
    return Bound(float(noise.strength) * c1, q * (1 + lr * k * d / (2 - lr * k)) / (2 * lr * lr), together)


def inverse_T(population: Population, noise: BatchNoise, lr: float, matrix):
    """``T⁻¹A`` with ``TA = ΣA + AΣ − η E LAL``, in the population's `frame`, by conjugate gradients: T is positive
    wherever second moments stay bounded, below `least_squares.stability_limit`.

    A: an array of the frame; ``frame.back`` makes matrices (d, d) of it and of the result. Raises WrongType for another
    type, Refused for another shape, a rational population or lr beyond the limit.

    >>> from support.exact.batch_noise import matched
    >>> from support.exact.populations import GaussianPopulation
    >>> one = GaussianPopulation([[1.0]])
    >>> inverse_T(one, matched(1), 0.25, one.frame.identity).round(6)  # 1/(2 − 3η)
    array([0.8])
    """
    from scipy.sparse.linalg import LinearOperator, cg

    _problem(population, noise, lr)
    if population.exact:
        raise Refused("T⁻¹ is computed in floating point: give the population as an array of floats")
    # 2/κ is at most the limit, and is cheaper
    if not lr < lr_limit(population, noise) and not lr < (limit := stability_limit(population, noise)):
        raise Refused(f"lr = {lr} is not stable: second moments stay bounded below lr = {limit:.6g}")
    frame, (p, q), lr = population.frame, _numbers(population, noise), float(lr)
    matrix = array("matrix", matrix, frame.sums.shape)
    root = np.sqrt(
        frame.sums
    )  # Σ · + · Σ multiplies by its square; dividing by it on both sides leaves the identity minus something small

    def product(vector):
        moment = vector.reshape(root.shape) / root
        return vector - lr * ((p * frame.spread(moment) + q * frame.left(frame.left(moment).T)) / root).ravel()

    operator = LinearOperator((root.size, root.size), matvec=product, dtype=float)
    solution, failed = cg(operator, (matrix / root).ravel(), rtol=1e-13, maxiter=20 * root.size)
    if failed:
        raise NotFinite(
            f"T⁻¹ did not converge at lr = {lr}: choose it further below {stability_limit(population, noise):.6g}"
        )
    return solution.reshape(root.shape) / root


def exact_constants(population: Population, noise: BatchNoise, lr: float, theta) -> Bound:
    """What the risk is instead of what bounds it: ``E f(θ̄_n) − f(θ*) = C1/(n+1) + C2/(n+1)²`` up to a term that decays
    exponentially in n. C2 may be negative.

    With P = ηp T⁻¹ E ε²xxᵀ, the second moment in the long run: ``2 C1 = Tr (2/η − Σ) P`` and
    ``2 C2 = Tr (2/η − Σ) T⁻¹(δδᵀ − P − 2ηp E ε(xᵀΣ⁺δ)xxᵀ)/η − (2/η²) Tr (Σ⁺ − η) P``. Holds below
    `least_squares.stability_limit`, beyond the theorem's range too. Raises as `inverse_T`, and Refused for a bad theta.

    >>> from support.exact.batch_noise import matched
    >>> from support.exact.populations import GaussianPopulation
    >>> round(exact_constants(GaussianPopulation([[1.0]]), matched(1), 0.25, [0.0]).C1, 6)  # (2 − η)/(2(2 − 3η))
    0.7
    """
    _problem(population, noise, lr)
    frame, p, lr = population.frame, float(noise.strength), float(lr)
    delta = population.error_of(theta)
    start, summed = frame.into(delta), frame.into(population.pseudo_solve(delta))
    stationary = lr * p * inverse_T(population, noise, lr, frame.noise)
    mixed = frame.spread(0 * stationary, summed)  # −2 E ε(xᵀΣ⁺δ)xxᵀ
    transient = inverse_T(population, noise, lr, frame.outer(start) - stationary + lr * p * mixed) / lr
    overlap = 2 * frame.trace(stationary / frame.sums) - lr * frame.trace(stationary)

    def weighted(moment):
        return 2 / lr * frame.trace(moment) - frame.trace(frame.left(moment))

    return Bound(float(weighted(stationary) / 2), float(weighted(transient) / 2 - overlap / lr**2))
