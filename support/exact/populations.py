r"""Populations: laws of (x, y) for least squares, as far as the second moments of SGD see them, by their exact moments
up to the fourth.

Finitely many atoms (in rationals if wanted; a training set is one) or Gaussian inputs, whose fourth moments Isserlis'
formula gives. The second moment of the inputs is ``Σ = E xxᵀ``, the minimiser of ``½ E (xᵀθ − y)²`` is
``θ* = Σ⁺ E yx``, its residual ``ε = y − xᵀθ*``. Directions without data are left out of every constant, so that a
singular Σ means its pseudo-inverse and its rank. Source: Wu et al. (2020), Section 3, whose assumptions (A1)-(A3) are
computed here.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from support.errors import Refused, array, instance, real
from support.exact.batch_noise import BatchNoise
from support.exact.frames import Diagonal, Frame, Standing, Turned, weighted_outer


class Population:
    """A law of (x, y): what `FinitePopulation` and `GaussianPopulation` share.

    second_moment: Σ = E xxᵀ, (d, d).  optimum: θ* = Σ⁺ E yx, (d,).  noise_moment: E ε²xxᵀ, (d, d).  least_loss: ½ E ε²,
    what a loss has more than its excess risk.  fourth(A): E xxᵀAxxᵀ for symmetric A, (d, d). third(m): E ε(xᵀm)xxᵀ,
    (d, d).  frame: the coordinates of the recursion.  samples: how many there are, if it is a training set, all equally
    likely; else None.  averaged: whether labels have been averaged over, so that the optimum is a mean, too.

    >>> signs, normal = FinitePopulation([[1.0], [-1.0]], [0.0, 0.0]), GaussianPopulation([[1.0]])
    >>> heavy = GaussianPopulation([[1.0]], degrees=6)
    >>> [round(population.radius, 6) for population in (signs, normal, heavy)]  # E x⁴/E x²
    [1.0, 3.0, 6.0]
    """

    exact = averaged = False
    samples: int | None = None
    second_moment: Any
    optimum: Any
    noise_moment: Any
    least_loss: Any
    frame: Frame

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Positive eigenvalues of Σ and their eigenvectors, (r,) and (d, r): the directions that have data."""
        values, axes = np.linalg.eigh(self.second_moment.astype(float))
        if not values[-1] > 0:
            raise Refused("all inputs are zero: there is no direction in which anything could be learnt")
        seen = values > values[-1] * len(values) * np.finfo(float).eps
        return values[seen], axes[:, seen]

    def _largest_share(self, moment) -> float:
        """The smallest s with moment ⪯ s Σ."""
        values, axes = self.spectrum
        scaled = axes / np.sqrt(values)
        return float(np.linalg.eigvalsh(scaled.T @ moment.astype(float) @ scaled)[-1])

    @property
    def rank(self) -> int:
        """Rank of Σ, the d of the bounds."""
        return len(self.spectrum[0])

    @property
    def top(self) -> float:
        """λ, the smallest number in (A3) Σ ⪯ λI."""
        return float(self.spectrum[0][-1])

    @cached_property
    def radius(self) -> float:
        """R², the smallest number in (A1) ``E ‖x‖²xxᵀ ⪯ R² Σ``; at least Tr Σ."""
        return self._largest_share(self.fourth(np.eye(len(self.optimum), dtype=self.second_moment.dtype)))

    @cached_property
    def variance(self) -> float:
        """σ², the smallest number in (A2) ``E ε²xxᵀ ⪯ σ² Σ``."""
        return max(0.0, self._largest_share(self.noise_moment))

    @cached_property
    def well_specified(self) -> bool:
        """Whether all ``E ε x_i x_j x_k`` vanish (to rounding), so that the errors of bias and noise add up. Asked of
        one random direction: linear in it.
        """
        m = np.random.default_rng(0).standard_normal(len(self.optimum))
        scale = math.sqrt(self.variance * np.trace(self.fourth(np.outer(m, m)).astype(float)))
        return bool(np.abs(self.third(m).astype(float)).max() <= 1e-9 * max(scale, 1e-300))

    def error_of(self, theta) -> np.ndarray:
        """δ = θ − θ* without its part in directions that have no data, (d,). Raises Refused for another shape."""
        theta = array("theta", theta, self.optimum.shape, rational=self.exact)
        return self.pseudo_solve(self.second_moment @ (theta - self.optimum))

    def pseudo_solve(self, vector) -> np.ndarray:
        """Σ⁺ times a vector; rational for rational populations."""
        if self.exact:  # Σ⁺c = Σz for any z with Σ²z = c, if c is in the range of Σ
            return self.second_moment @ _some_solution(self.second_moment @ self.second_moment, vector)
        values, axes = self.spectrum
        return axes @ ((axes.T @ vector) / values)


def _some_solution(matrix, vector):
    """A solution of a consistent system in rationals, by elimination; free unknowns are zero."""
    rows, d, pivots = np.column_stack([matrix, vector]), len(vector), []
    for column in range(d):
        row = next((i for i in range(len(pivots), d) if rows[i, column] != 0), None)
        if row is None:
            continue
        rows[[len(pivots), row]] = rows[[row, len(pivots)]]
        pivot = rows[len(pivots)] / rows[len(pivots), column]
        rows = rows - np.outer(rows[:, column], pivot)
        rows[len(pivots)] = pivot
        pivots.append(column)
    solution = np.array([Fraction(0)] * d)
    solution[pivots] = rows[: len(pivots), -1]
    return solution


class FinitePopulation(Population):
    """Finitely many (x, y): inputs (m, d), targets (m,), probabilities (m,), equal if left out. A training set is one.
    Arrays of Fractions stay rational.

    Raises WrongType for what is no array of numbers, Refused for shapes that do not fit, numbers that are not finite,
    probabilities that are negative or do not sum to one, inputs that are all zero.

    >>> FinitePopulation([[1.0], [1.0]], [0.0, 2.0]).optimum
    array([1.])
    """

    def __init__(self, inputs, targets, probabilities=None):
        inputs = array("inputs", inputs, ("m", "d"), rational=True)
        m, self.exact = len(inputs), inputs.dtype == object
        inputs = inputs if self.exact else inputs.astype(float)
        targets = array("targets", targets, (m,), rational=self.exact)
        if probabilities is None:
            probabilities = np.array([Fraction(1, m)] * m if m else [])
        probabilities = array("probabilities", probabilities, (m,), rational=self.exact)
        self.inputs, self.targets, self.probabilities = (
            a * Fraction(1) if self.exact else a for a in (inputs, targets, probabilities)
        )
        total = self.probabilities.sum()
        if (self.probabilities < 0).any() or abs(total - 1) > (0 if self.exact else 1e-9):
            least = min(probabilities, default=0)
            raise Refused(f"probabilities sum to {total}, the least is {least}: give {m} numbers ≥ 0 with sum 1")
        self.samples = m if (self.probabilities == self.probabilities[0]).all() else None
        self.second_moment = self._moment(1)
        _ = self.spectrum  # refuses inputs that are all zero
        self.optimum = self.pseudo_solve(self.inputs.T @ (self.probabilities * self.targets))
        self.residuals = self.targets - self.inputs @ self.optimum
        self.noise_moment = self._moment(self.residuals**2)
        self.least_loss = self.probabilities @ self.residuals**2 / 2

    def _moment(self, factor):
        """E[factor · xxᵀ] for a factor per atom."""
        return weighted_outer(self.inputs, self.probabilities * factor)

    def noiseless(self) -> FinitePopulation:
        """The same inputs without residuals, y = xᵀθ*: what the noiseless term of the proof is about."""
        return FinitePopulation(self.inputs, self.inputs @ self.optimum, self.probabilities)

    def fourth(self, matrix):
        return self._moment(((self.inputs @ matrix) * self.inputs).sum(1))

    def third(self, vector):
        return self._moment(self.residuals * (self.inputs @ vector))

    @cached_property
    def frame(self) -> Frame:
        atoms = self.inputs, self.residuals, self.probabilities
        return Standing(self.second_moment, *atoms) if self.exact else Turned(self.spectrum, *atoms)


class GaussianPopulation(Population):
    """x ~ N(0, Σ), y = xᵀθ* + ε with independent ε of mean 0: covariance Σ (d, d), optimum θ* (d,), zero if left out,
    variance σ² of ε (units of y²).

    Isserlis: ``E xxᵀAxxᵀ = τ (2ΣAΣ + Tr(AΣ) Σ)`` with τ = 1. ``degrees`` ν < ∞ makes x multivariate Student t of second
    moment Σ: τ = (ν−2)/(ν−4). Raises WrongType for what is no array or number, Refused for a covariance that is not
    symmetric, finite and positive semidefinite, for ν ≤ 4, where fourth moments do not exist, and for σ² < 0.

    >>> GaussianPopulation([[2.0, 0.0], [0.0, 1.0]]).top
    2.0
    """

    def __init__(self, covariance, optimum=None, variance: float = 1.0, degrees: float = math.inf):
        covariance = array("covariance", covariance, ("d", "d"))
        if covariance.shape[0] != covariance.shape[1] or not np.allclose(covariance, covariance.T):
            raise Refused(f"covariance of shape {covariance.shape} is not a symmetric matrix: give E xxᵀ, (d, d)")
        if not covariance.any():
            raise Refused("covariance is zero: there is no direction in which anything could be learnt")
        if np.linalg.eigvalsh(covariance)[0] < -1e-10 * np.abs(covariance).max():
            raise Refused(
                f"covariance has the negative eigenvalue {np.linalg.eigvalsh(covariance)[0]:.3g}: a second moment E "
                f"xxᵀ has none"
            )
        if degrees != math.inf:
            degrees = real("degrees", degrees)
        if not degrees > 4:
            raise Refused(
                f"degrees = {degrees}: fourth moments of Student's t exist only for more than 4 degrees of freedom; "
                f"choose degrees > 4"
            )
        self.second_moment, self.factor = covariance, 1.0 if math.isinf(degrees) else (degrees - 2) / (degrees - 4)
        self.optimum = np.zeros(len(covariance)) if optimum is None else array("optimum", optimum, covariance.shape[:1])
        variance, self.degrees = real("variance", variance, 0), degrees
        _ = self.spectrum
        self.noise_moment, self.least_loss = variance * covariance, variance / 2

    def noiseless(self) -> GaussianPopulation:
        """The same inputs without residuals, y = xᵀθ*: what the noiseless term of the proof is about."""
        return GaussianPopulation(self.second_moment, self.optimum, 0.0, self.degrees)

    def fourth(self, matrix):
        product = self.second_moment @ matrix
        return self.factor * (2 * product @ self.second_moment + product.trace() * self.second_moment)

    def third(self, vector):
        return np.zeros_like(self.second_moment)

    @cached_property
    def frame(self) -> Frame:
        return Diagonal(self.spectrum, self.factor, self.variance)


def gaussian_points(covariance) -> tuple[np.ndarray, np.ndarray]:
    """Points (3^r, d) and probabilities (3^r,) with the moments of N(0, A) up to the fifth, A (d, d) of rank r: a
    finite law that second moments of SGD cannot tell from the Gaussian one, since they see four.

    With ``A = RRᵀ`` they are Rz, every entry of z being −√3, 0, √3 with probabilities 1/6, 2/3, 1/6 (Gauss and
    Hermite). Raises WrongType, Refused for a matrix that is no covariance, or for r > 8.

    >>> points, weights = gaussian_points([[2.0]])
    >>> [round(float(weights @ points[:, 0] ** power), 12) for power in (2, 4)]  # A and 3A²
    [2.0, 12.0]
    """
    values, axes = GaussianPopulation(covariance).spectrum
    if (r := len(values)) > 8:
        raise Refused(f"covariance of rank {r} needs 3^{r} points: take one of rank 8 at most")
    nodes = np.array(list(itertools.product((-1, 0, 1), repeat=r)))
    weights = np.prod(np.where(nodes, 1 / 6, 2 / 3), axis=1)
    return math.sqrt(3) * nodes * np.sqrt(values) @ axes.T, weights


def gaussian_regression(covariance, target, variance: float = 0.0, blur=None) -> FinitePopulation:
    """The points of `gaussian_points` as a regression: inputs of covariance A (d, d), labels ``uᵀx ± σ`` of u (d,) and
    noise of variance σ² (units of y²). blur: covariance B (d, d) of a noise ν on the inputs, ``(x + ν, uᵀx ± σ)``.

    What Gaussian formulas for SGD are judged by: its expectations are sums. Raises as `gaussian_points`, with A and B
    of ranks that sum to 8 at most, and Refused for shapes that do not fit or σ² < 0.

    >>> law = gaussian_regression([[1.0]], [2.0], 0.5, [[1.0]])
    >>> law.optimum.round(6).tolist(), round(float(2 * law.least_loss), 6)  # Au/(A + B), σ² + uAB/(A + B) u
    ([1.0], 2.5)
    """
    covariance = array("covariance", covariance, ("d", "d"))
    d = len(covariance)
    target, variance = array("target", target, (d,)), real("variance", variance, 0)
    blur = np.zeros((d, d)) if blur is None else array("blur", blur, (d, d))
    points, weights = gaussian_points(np.block([[covariance, np.zeros((d, d))], [np.zeros((d, d)), blur]]))
    inputs, labels, error = points[:, :d] + points[:, d:], points[:, :d] @ target, math.sqrt(variance)
    both = np.concatenate([labels + error, labels - error])
    return FinitePopulation(np.vstack([inputs, inputs]), both, np.tile(weights / 2, 2))


def a_population(value) -> Population:
    """The population, or a refusal of what is none (WrongType).

    >>> a_population(GaussianPopulation([[1.0]])).rank
    1
    """
    remedy = "give FinitePopulation(inputs, targets) or GaussianPopulation(covariance)"
    return instance("population", value, Population, remedy)


def a_noise(value, population: Population) -> BatchNoise:
    """A batch noise, or a refusal of what is none (WrongType), or of the noise of a fixed training set on a population
    that is not that set (Refused).

    >>> a_noise(BatchNoise(0.5), GaussianPopulation([[1.0]])).strength
    0.5
    """
    noise = instance(
        "noise", value, BatchNoise, "give matched(b), fresh(law), fixed(law) or BatchNoise(strength, jitter)"
    )
    if noise.samples not in (None, a_population(population).samples):
        found = f"{population.samples} equally likely ones" if population.samples else "no training set"
        raise Refused(
            f"noise is that of steps on {noise.samples} fixed samples, the population has {found}: give its own, or "
            f"that of fresh samples, matched(b) or fresh(law)"
        )
    return noise
