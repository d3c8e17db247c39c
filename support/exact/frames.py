r"""Coordinates in which the second moments of averaged least squares run: as many numbers as the recursion needs.

A second moment ``M = E δδᵀ`` is a d x d matrix. For rational populations it stays one (`Standing`); otherwise it is
turned into the eigenbasis of Σ, without the directions that have no data (`Turned`), and for Gaussian inputs the vector
of its diagonal is enough there (`Diagonal`): the recursion never mixes the rest into it. A moment A of a frame is an
array of that frame; ``into`` and ``back`` lead in and out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction

import numpy as np


def weighted_outer(x, weights):
    """``Σ_k w_k x_k x_kᵀ`` for rows x_k, (m, d), and weights (m,): shape (d, d), rational where both are.

    >>> weighted_outer(np.array([[1.0, 2.0]]), np.array([3.0])).tolist()
    [[3.0, 6.0], [6.0, 12.0]]
    """
    return (x.T * weights) @ x


class Frame(ABC):
    """What the recursion asks of its coordinates; A is a moment in them, v a vector.

    Attributes: ``noise`` = E ε²xxᵀ; ``identity``; ``sums`` = h_i + h_j of the eigenvalues of Σ (None where Σ stands as
    it is).

    >>> from support.exact.populations import GaussianPopulation
    >>> frame = GaussianPopulation([[2.0, 1.0], [1.0, 2.0]]).frame
    >>> round(float(frame.trace(frame.left(frame.identity))), 6)  # Tr Σ
    4.0
    """

    noise: np.ndarray
    identity: np.ndarray
    sums: np.ndarray | None = None

    @abstractmethod
    def left(self, moment):
        """ΣA."""

    @abstractmethod
    def spread(self, second, mean=None):
        """``E (xᵀMx − 2ε xᵀm) xxᵀ``, the second term left out without m."""

    @abstractmethod
    def back(self, moment):
        """The matrix of a moment, (d, d): zero in directions without data and, where a frame keeps diagonals alone, off
        the diagonal of Σ's eigenbasis.
        """

    def into(self, vector):
        """A vector (d,) in these coordinates."""
        return vector

    def outer(self, vector):
        """vvᵀ, as far as the frame keeps it."""
        return np.outer(vector, vector)

    def keep(self, moment):
        """What is kept of moments that never meet ``spread``: the diagonal where Σ is diagonal, else all of it."""
        return moment

    @staticmethod
    def trace(moment):
        """The trace of a matrix, or the sum of its diagonal."""
        return np.trace(moment) if np.ndim(moment) == 2 else np.sum(moment)

    def contraction(self, lr, pairs) -> Callable:
        """The map ``A ↦ A − η(ΣA + AΣ) + η² q ΣAΣ`` of symmetric moments, q = ``pairs``."""
        left = self.left
        if self.sums is None:
            return lambda moment: moment - lr * (left(moment) + left(moment).T) + lr * lr * pairs * left(left(moment).T)
        factor = 1 - lr * self.sums + lr * lr * pairs * left(left(np.ones_like(self.sums)).T)
        return lambda moment: (
            factor * moment
        )  # a bound factor.__mul__ may write its result into factor, which numpy takes for a temporary


class _Atoms(Frame):
    """Moments of finitely many atoms: rows x (m, d) in the frame's coordinates, residuals and probabilities (m,)."""

    def __init__(self, x, residuals, probabilities, identity):
        self._x, self._residuals, self._probabilities, self.identity = x, residuals, probabilities, identity
        self.noise = weighted_outer(x, probabilities * residuals**2)

    def spread(self, second, mean=None):
        x = self._x
        factor = np.einsum("md,md->m", x @ second, x)
        if mean is not None:
            factor = factor - 2 * self._residuals * (x @ mean)
        return weighted_outer(x, self._probabilities * factor)


class Standing(_Atoms):
    """Σ as it stands: for rational populations, whose eigenvalues are not rational.

    >>> from support.exact.populations import FinitePopulation
    >>> frame = FinitePopulation([[Fraction(1)], [Fraction(2)]], [0, 0]).frame
    >>> frame.left(frame.identity).tolist(), frame.spread(frame.identity).tolist()  # E x² and E x⁴
    ([[Fraction(5, 2)]], [[Fraction(17, 2)]])
    """

    def __init__(self, second_moment, inputs, residuals, probabilities):
        super().__init__(inputs, residuals, probabilities, np.diag([Fraction(1)] * len(second_moment)))
        self._sigma = second_moment

    def left(self, moment):
        return self._sigma @ moment

    def back(self, moment):
        return moment


class Turned(_Atoms):
    """The eigenbasis of Σ; spectrum: its positive eigenvalues (r,) and their eigenvectors (d, r).

    >>> from support.exact.populations import FinitePopulation
    >>> frame = FinitePopulation([[1.0, 1.0], [2.0, 2.0]], [0.0, 0.0]).frame  # data along one direction of two
    >>> frame.sums.round(6).tolist(), frame.back(frame.identity).round(6).tolist()
    ([[10.0]], [[0.5, 0.5], [0.5, 0.5]])
    """

    def __init__(self, spectrum, inputs, residuals, probabilities):
        self._values, self._axes = spectrum
        super().__init__(inputs @ self._axes, residuals, probabilities, np.eye(len(self._values)))
        self.sums = np.add.outer(self._values, self._values)

    def left(self, moment):
        return (self._values * moment.T).T

    def into(self, vector):
        return self._axes.T @ vector

    def back(self, moment):
        return self._axes @ moment @ self._axes.T

    def keep(self, moment):
        return np.diagonal(moment)


class Diagonal(Frame):
    """Diagonals in the eigenbasis of Σ, for inputs with ``E xxᵀAxxᵀ = τ (2ΣAΣ + Tr(AΣ) Σ)``, τ = ``factor``, and
    residuals of this variance that do not depend on them.

    >>> frame = Diagonal((np.array([2.0, 1.0]), np.eye(2)), factor=1.0, variance=0.5)
    >>> frame.spread(frame.identity).tolist()  # E |x|² xxᵀ = 2Σ² + Tr(Σ) Σ
    [14.0, 5.0]
    """

    def __init__(self, spectrum, factor: float, variance: float):
        self._values, self._axes = spectrum
        self._factor = factor
        self.noise, self.identity, self.sums = (
            variance * self._values,
            np.ones_like(self._values),
            2 * self._values,
        )

    def left(self, moment):
        return self._values * moment

    def spread(self, second, mean=None):
        h = self._values
        return self._factor * (2 * h * h * second + (h @ second) * h)

    def into(self, vector):
        return self._axes.T @ vector

    def back(self, moment):
        return (self._axes * moment) @ self._axes.T

    def outer(self, vector):
        return np.square(vector)
