r"""Populations: laws of (x, y) for least squares, as far as the second moments of SGD see them, by their exact moments
up to the fourth.

Finitely many atoms (in rationals if wanted; a training set is one) or Gaussian inputs, whose fourth moments Isserlis'
formula gives. The second moment of the inputs is ``Σ = E xxᵀ``, the minimiser of ``½ E (xᵀθ − y)²`` is
``θ* = Σ⁺ E yx``, its residual ``ε = y − xᵀθ*``. Directions without data are left out of every constant, so that a
singular Σ means its pseudo-inverse and its rank. Source: Wu et al. (2020), Section 3, whose assumptions (A1)-(A3) are
computed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np

from support.errors import Refused


@dataclass(frozen=True)
class Frame:
    """Coordinates in which the recursion runs. Second moments are d x d matrices; for Gaussian x the vector of their
    diagonals in the eigenbasis of Σ.

    left(A) = ΣA;  outer(v) = vvᵀ;  keep(A): the diagonal of a moment, where Σ is diagonal, else all of it;
    spread(M, m) = E (xᵀMx − 2ε xᵀm) xxᵀ, the second term left out without m;  noise = E ε²xxᵀ;  identity;
    sums = h_i + h_j of the eigenvalues of Σ (None for rational populations);  into(v): a vector in these coordinates.
    """

    left: Callable
    outer: Callable
    keep: Callable
    spread: Callable
    noise: Any
    identity: Any
    sums: Any
    into: Callable

    @staticmethod
    def trace(moment):
        """The trace of a matrix, or the sum of its diagonal."""
        return np.trace(moment) if np.ndim(moment) == 2 else np.sum(moment)

    def contraction(self, lr, q) -> Callable:
        """The map ``A ↦ A − η(ΣA + AΣ) + η² q ΣAΣ`` of symmetric moments."""
        left = self.left
        if self.sums is None:
            return lambda moment: moment - lr * (left(moment) + left(moment).T) + lr * lr * q * left(left(moment).T)
        factor = 1 - lr * self.sums + lr * lr * q * left(left(np.ones_like(self.sums)).T)
        return lambda moment: (
            factor * moment
        )  # a bound factor.__mul__ may write its result into factor, which numpy takes for a temporary


class Population:
    """A law of (x, y): what `FinitePopulation` and `GaussianPopulation` share.

    second_moment: Σ = E xxᵀ, (d, d).  optimum: θ* = Σ⁺ E yx, (d,).  noise_moment: E ε²xxᵀ, (d, d).  fourth(A): E
    xxᵀAxxᵀ for symmetric A, (d, d). third(m): E ε(xᵀm)xxᵀ, (d, d).  frame: the coordinates of the recursion.
    """

    exact = False
    second_moment: Any
    optimum: Any
    noise_moment: Any

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
        """δ = θ − θ* without its part in directions that have no data, (d,). Raises ValueError for another shape."""
        if np.shape(theta) != self.optimum.shape:
            raise Refused(
                f"theta has shape {np.shape(theta)}, the population's x has {len(self.optimum)} entries: give theta "
                f"of shape {self.optimum.shape}"
            )
        if not np.isfinite(np.asarray(theta, dtype=float)).all():
            raise Refused(f"theta = {theta} is not finite: give finite numbers")
        return self.pseudo_solve(self.second_moment @ (np.asarray(theta) - self.optimum))

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

    Raises ValueError for shapes that do not fit, numbers that are not finite, probabilities that are negative or do not
    sum to one, inputs that are all zero.
    """

    def __init__(self, inputs, targets, probabilities=None):
        inputs, targets = np.asarray(inputs), np.asarray(targets)
        if inputs.ndim != 2 or targets.shape != inputs.shape[:1] or not inputs.size:
            raise Refused(
                f"inputs of shape {inputs.shape} came with targets of shape {targets.shape}: give (m, d) and (m,)"
            )
        m, self.exact = len(inputs), inputs.dtype == object
        if probabilities is None:
            probabilities = [Fraction(1, m)] * m
        kind = (
            (lambda a: np.asarray(a, dtype=object) * Fraction(1))
            if self.exact
            else (lambda a: np.asarray(a, dtype=float))
        )
        self.inputs, self.targets, self.probabilities = kind(inputs), kind(targets), kind(probabilities)
        for name in ("inputs", "targets", "probabilities"):
            bad = ~np.isfinite(getattr(self, name).astype(float))
            if bad.any():
                raise Refused(
                    f"{bad.sum()} of {bad.size} {name} are not finite, so the law has no moments: clean the data first"
                )
        total = self.probabilities.sum()
        if (
            self.probabilities.shape != (m,)
            or (self.probabilities < 0).any()
            or abs(total - 1) > (0 if self.exact else 1e-9)
        ):
            raise Refused(
                f"probabilities of shape {self.probabilities.shape} sum to {total}: give {m} numbers ≥ 0 with sum 1"
            )
        self.second_moment = self._moment(1)
        _ = self.spectrum  # refuses inputs that are all zero
        self.optimum = self.pseudo_solve(self.inputs.T @ (self.probabilities * self.targets))
        self.residuals = self.targets - self.inputs @ self.optimum
        self.noise_moment = self._moment(self.residuals**2)

    def _moment(self, factor, inputs=None):
        """E[factor · xxᵀ] for a factor per atom."""
        x = self.inputs if inputs is None else inputs
        return (x.T * (self.probabilities * factor)) @ x

    def noiseless(self) -> FinitePopulation:
        """The same inputs without residuals, y = xᵀθ*: what the noiseless term of the proof is about."""
        return FinitePopulation(self.inputs, self.inputs @ self.optimum, self.probabilities)

    def fourth(self, matrix):
        return self._moment(((self.inputs @ matrix) * self.inputs).sum(1))

    def third(self, vector):
        return self._moment(self.residuals * (self.inputs @ vector))

    @cached_property
    def frame(self) -> Frame:
        if self.exact:
            x, sums, into, keep = self.inputs, None, lambda v: v, lambda a: a
            identity = np.diag([Fraction(1)] * len(self.optimum))
            left = self.second_moment.__matmul__
        else:
            values, axes = self.spectrum
            x, sums, into, keep = self.inputs @ axes, np.add.outer(values, values), axes.T.__matmul__, np.diagonal
            identity = np.eye(len(values))

            def left(matrix):
                return (values * matrix.T).T

        def spread(second, mean=None):
            squares = np.einsum("md,md->m", x @ second, x)
            return self._moment(squares if mean is None else squares - 2 * self.residuals * (x @ mean), x)

        return Frame(
            left, lambda v: np.outer(v, v), keep, spread, self._moment(self.residuals**2, x), identity, sums, into
        )


class GaussianPopulation(Population):
    """x ~ N(0, Σ), y = xᵀθ* + ε with independent ε of mean 0: covariance Σ (d, d), optimum θ* (d,), zero if left out,
    variance σ² of ε (units of y²).

    Isserlis: ``E xxᵀAxxᵀ = τ (2ΣAΣ + Tr(AΣ) Σ)`` with τ = 1. ``degrees`` ν < ∞ makes x multivariate Student t of second
    moment Σ: τ = (ν−2)/(ν−4). Raises ValueError for a covariance that is not symmetric, finite and positive
    semidefinite, for ν ≤ 4, where fourth moments do not exist, and for σ² < 0.
    """

    def __init__(self, covariance, optimum=None, variance: float = 1.0, degrees: float = math.inf):
        covariance = np.asarray(covariance, dtype=float)
        if (
            covariance.ndim != 2
            or covariance.shape[0] != covariance.shape[1]
            or not np.isfinite(covariance).all()
            or not np.allclose(covariance, covariance.T)
        ):
            raise Refused(
                f"covariance of shape {covariance.shape} is not a finite symmetric matrix: give E xxᵀ of shape (d, d)"
            )
        if np.linalg.eigvalsh(covariance)[0] < -1e-10 * np.abs(covariance).max():
            raise Refused(
                f"covariance has the negative eigenvalue {np.linalg.eigvalsh(covariance)[0]:.3g}: a second moment E "
                f"xxᵀ has none"
            )
        if not degrees > 4:
            raise Refused(
                f"degrees = {degrees}: fourth moments of Student's t exist only for more than 4 degrees of freedom; "
                f"choose degrees > 4"
            )
        if not (isinstance(variance, Real) and 0 <= variance < math.inf):
            raise Refused(f"variance = {variance!r} is none: give a finite σ² ≥ 0")
        self.second_moment, self.factor = covariance, 1.0 if math.isinf(degrees) else (degrees - 2) / (degrees - 4)
        self.optimum = np.zeros(len(covariance)) if optimum is None else np.asarray(optimum, dtype=float)
        if self.optimum.shape != covariance.shape[:1]:
            raise Refused(f"optimum has shape {self.optimum.shape}: give {covariance.shape[:1]}")
        _ = self.spectrum
        self.degrees, self.noise_moment = degrees, variance * covariance

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
        h, axes = self.spectrum

        def spread(second, mean=None):
            return self.factor * (2 * h * h * second + (h @ second) * h)

        return Frame(
            lambda a: h * a,
            np.square,
            lambda a: a,
            spread,
            self.variance * h,
            np.ones_like(h),
            2 * h,
            axes.T.__matmul__,
        )
