r"""Averaged least squares, exactly: the risk of θ_n and of the average θ̄_n for SGD and MSGD, with no sample drawn;
Theorem 1's bounds beside it.

The problem is to minimise ``f(θ) = ½ E (xᵀθ − y)²`` over a law of (x, y), a population. A step is ``θ ← θ − η g̃`` with
a weighted gradient ``g̃ = Σ_r w_r x_r (x_rᵀθ − y_r)``. Whatever the class of the exchangeable weights, two numbers of
their covariance say all that second moments see:

    E g̃g̃ᵀ = p E ggᵀ + (1 + j − p) ∇f∇fᵀ        g: gradient of one sample;  p = 1/b_eff, the strength;  j = Var Σ_r
    w_r, the jitter

So the mean m and the second moment M of δ = θ − θ*, and its moment with the sum of the past iterates, obey a closed
linear recursion:

    M ← M − η(ΣM + MΣ) + η² [ p (E xxᵀMxxᵀ − 2 E ε(xᵀm)xxᵀ + E ε²xxᵀ) + (1 + j − p) ΣMΣ ],   m ← (I − ηΣ) m,   Σ = E
    xxᵀ,  ε = y − xᵀθ*

It runs in the eigenbasis of Σ: O(m d²) a step for m atoms, O(d) for Gaussian x, where the diagonal of M suffices.
Source: Wu et al. (2020), Section 3 and Appendix A.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from support.errors import NotFinite, Refused
from support.exact.populations import FinitePopulation, Population
from support.sampling import Law, MiniBatch

FORMS = ("corrected", "additive", "minkowski", "printed")


@dataclass(frozen=True)
class BatchNoise:
    """How noisy a step is: ``strength`` p = 1/b_eff, the share of one sample's noise, and ``jitter`` j, the variance of
    the sum of the weights (no units).

    SGD on b fresh samples: p = 1/b, j = 0. Raises ValueError for a negative or non-finite number.
    """

    strength: Any
    jitter: Any = 0

    def __post_init__(self):
        for name in ("strength", "jitter"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 <= value < math.inf):
                raise Refused(f"{name} = {value!r} is no variance: give a finite number ≥ 0")

    @property
    def pairs(self):
        """Coefficient of ∇f∇fᵀ, ``1 + j − p``: what products of two different samples contribute to E g̃g̃ᵀ."""
        return 1 + self.jitter - self.strength


def fresh(law: Law) -> BatchNoise:
    """Noise of a step on n *fresh* samples with weights of this law: ``p = n E w_r²``, the online setting of Theorem 1,
    where the law's n is the paper's B.

    The Theorem's covariance is that of b drawn from B without replacement: ``fresh(MiniBatch(B, b, replace=False))``
    has p = 1/b and j = 0 whatever B.
    """
    covariance = law.covariance
    return BatchNoise(law.n * (covariance.diagonal + law.mean**2), covariance.total_variance)


def fixed(law: Law) -> BatchNoise:
    """Noise of a step on a *fixed* training set, the population, of n samples with weights of this law: ``p = n a`` for
    Var W = aI + c11ᵀ.
    """
    return BatchNoise(law.n * law.covariance.a, law.covariance.total_variance)


def matched(b: int, B: int | None = None) -> BatchNoise:
    """Noise of a step on B fresh samples with Theorem 1's covariance ``(B−b)/(bB(B−1)) (I − 11ᵀ/B)``; without B, of SGD
    on b fresh samples.

    Raises ValueError for B < b, and for B = 1, where the covariance is 0/0.
    """
    if b < 1:
        raise Refused(f"b = {b} is no batch size: give b ≥ 1")
    if B is None:
        return BatchNoise(Fraction(1, b))
    if B == 1:
        raise Refused("B = 1 makes the covariance (B−b)/(bB(B−1)) 0/0: give B ≥ 2, or leave B out for plain SGD")
    if b > B:
        raise Refused(
            f"b = {b} exceeds B = {B}: noise can be added to a large batch, not taken from a small one; choose B ≥ b"
        )
    return fresh(MiniBatch(B, b, replace=False))


class Risks(NamedTuple):
    """For k = 0 … steps, arrays of shape (steps + 1,): excess risks ``E f − f(θ*)`` of θ_k and of the average of θ_0 …
    θ_k, and ``E ‖θ_k − θ*‖²``.
    """

    last: np.ndarray
    averaged: np.ndarray
    distance: np.ndarray


def risks(population: Population, noise: BatchNoise, lr, theta, steps: int) -> Risks:
    """Exact excess risks of the last and of the averaged iterate, started at theta (d,).

    Rational for a rational population, noise, lr and theta. A fixed training set is a `FinitePopulation` with
    `fixed(law)`.
    Raises ValueError for a bad shape, lr ≤ 0 or steps < 0, FloatingPointError where the risk grows beyond floating
    point.
    """
    _learning_rate(lr)
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 0:
        raise Refused(f"steps = {steps!r}: give a whole number of steps ≥ 0")
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
    result = np.array(rows).T
    if not np.isfinite(result.astype(float)).all():
        step = int(np.argmin(np.isfinite(result.astype(float)).all(0)))
        raise NotFinite(
            f"the risk exceeds floating point at step {step}: lr = {lr} is unstable; lower it, or take fewer steps"
        )
    return Risks(*result)


def simulated(
    population: FinitePopulation, law: Law, lr: float, theta, stops, runs: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Excess risk of the averaged iterate after each number of steps in ``stops``, estimated: mean over the runs and
    its standard error, (len(stops),) each.

    Every step draws law.n fresh samples and the law's weights. Beside `risks` as a check that knows nothing of the
    recursion. Raises ValueError for runs < 2.
    """
    if runs < 2:
        raise Refused(f"runs = {runs}: a standard error needs at least 2 runs")
    x, y, sigma = (array.astype(float) for array in (population.inputs, population.targets, population.second_moment))
    now, seen = np.tile(np.asarray(theta, dtype=float), (runs, 1)), {}
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


def _learning_rate(lr):
    if not (isinstance(lr, Real) and 0 < lr < math.inf):
        raise Refused(f"lr = {lr!r} is no learning rate: give a finite number > 0")


def kappa(population: Population, noise: BatchNoise) -> float:
    """κ in ``E L² ⪯ κΣ`` for L = Σ_r w_r x_r x_rᵀ: ``p R² + max(1+j−p, 0) λ``; with Theorem 1's covariance
    ``(R² + (b−1)λ)/b`` (units of ‖x‖²).
    """
    return float(noise.strength) * population.radius + max(float(noise.pairs), 0.0) * population.top


def lr_limit(population: Population, noise: BatchNoise) -> float:
    """The learning rate below which the bounds hold, ``2/κ``; with Theorem 1's covariance ``2b/(R² + (b−1)λ)``."""
    return 2 / kappa(population, noise)


def _in_range(population, noise, lr):
    _learning_rate(lr)
    if not lr < lr_limit(population, noise):
        raise Refused(
            f"lr = {lr} is outside the theorem's range: choose 0 < lr < 2/κ = {lr_limit(population, noise):.6g}"
        )


@dataclass(frozen=True)
class Bound:
    """A bound on the excess risk of the average after n steps: ``C1/(n+1) + C2/(n+1)²``, or with ``minkowski``
    ``(√(C1/(n+1)) + √C2/(n+1))²``.
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
    It does not hold. Raises ValueError for an unknown form, a bad theta, or lr outside 0 < lr < 2/κ.
    """
    if form not in FORMS:
        raise Refused(f"form = {form!r} is unknown: choose from {', '.join(FORMS)}")
    delta = population.error_of(theta)
    _in_range(population, noise, lr)
    lr, k, d = float(lr), kappa(population, noise), population.rank
    q, c1 = float(delta @ population.pseudo_solve(delta)), population.variance * d / (2 - lr * k)
    if form == "printed":
        return Bound(c1, q * (1 + lr * k * d / 2) / 2)
    together = form == "minkowski" or (form == "corrected" and not population.well_specified)
    return Bound(float(noise.strength) * c1, q * (1 + lr * k * d / (2 - lr * k)) / (2 * lr * lr), together)


def inverse_T(population: Population, noise: BatchNoise, lr: float, matrix):
    """``T⁻¹A`` with ``TA = ΣA + AΣ − η E LAL``, in the population's `frame`, by conjugate gradients: T is positive
    where η is in the theorem's range.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    _in_range(population, noise, lr)
    if population.exact:
        raise Refused("T⁻¹ is computed in floating point: give the population as an array of floats")
    frame, (p, q) = population.frame, _numbers(population, noise)
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
            f"T⁻¹ did not converge at lr = {lr}: choose it further below 2/κ = {lr_limit(population, noise):.6g}"
        )
    return solution.reshape(root.shape) / root


def exact_constants(population: Population, noise: BatchNoise, lr: float, theta) -> Bound:
    """What the risk is instead of what bounds it: ``E f(θ̄_n) − f(θ*) = C1/(n+1) + C2/(n+1)²`` up to a term that decays
    exponentially in n. C2 may be negative.

    With P = ηp T⁻¹ E ε²xxᵀ, the second moment in the long run: ``2 C1 = Tr (2/η − Σ) P`` and
    ``2 C2 = Tr (2/η − Σ) T⁻¹(δδᵀ − P − 2ηp E ε(xᵀΣ⁺δ)xxᵀ)/η − (2/η²) Tr (Σ⁺ − η) P``. Raises ValueError for lr outside
    the theorem's range.
    """
    frame, p = population.frame, float(noise.strength)
    delta = population.error_of(theta)
    start, summed = frame.into(delta), frame.into(population.pseudo_solve(delta))
    stationary = lr * p * inverse_T(population, noise, lr, frame.noise)
    mixed = frame.spread(0 * stationary, summed)  # −2 E ε(xᵀΣ⁺δ)xxᵀ
    transient = inverse_T(population, noise, lr, frame.outer(start) - stationary + lr * p * mixed) / lr
    overlap = 2 * frame.trace(stationary / frame.sums) - lr * frame.trace(stationary)

    def weighted(moment):
        return 2 / lr * frame.trace(moment) - frame.trace(frame.left(moment))

    return Bound(float(weighted(stationary) / 2), float(weighted(transient) / 2 - overlap / lr**2))
