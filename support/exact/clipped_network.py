r"""Regression with a clipped network of one hidden layer: gradient, Hessian, Fisher and covariance in closed form (Zhu
et al. 2019, Section 4, Eqs. (19)-(20)).

A network of m hidden units with fixed output weights ``o`` and trained hidden weights θ, one row a unit, k numbers each
(a bias is a constant input):

    f(x; θ) = Σ_j o_j relu(θ_j · x)        L(θ) = (1/n) Σ_i (φ(f_i) − y_i)²        φ(f) = min(max(f, δ), 1 − δ)

Away from its kinks f is linear in θ and φ has slope 1 or 0. With residuals r = φ(f) − y and sums over the *unsaturated*
samples, δ < f < 1 − δ, therefore

    ∇L = (2/n) Σ r ∇f        H = (2/n) Σ ∇f ∇fᵀ        F = (4/n) Σ r² ∇f ∇fᵀ        C₁ = F − ∇L ∇Lᵀ

All traces and the first eigenpair follow from the Gram matrix of the ∇f, whose size is the number of unsaturated
samples, whatever the width. Arrays of Fractions stay rational. Where a sample stands exactly on a kink the slope there
is taken as 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from support.alignment import Alignment
from support.errors import Refused


@dataclass(frozen=True)
class ClippedNetwork:
    """The loss of a clipped network on data.

    inputs: (n, k), with a column of ones where units have a bias.  labels: (n,), zeros and ones.  output: (m,), the
    fixed output weights. delta: the threshold δ, 0 < δ < ½.
    θ is an array of shape (m, k) everywhere; matrices are d x d with d = m·k, θ flattened row by row.
    Raises ValueError for shapes that do not fit, labels other than 0 and 1, or another δ.
    """

    inputs: np.ndarray
    labels: np.ndarray
    output: np.ndarray
    delta: float | Fraction

    def __post_init__(self):
        if np.ndim(self.inputs) != 2 or np.shape(self.labels) != (len(self.inputs),) or np.ndim(self.output) != 1:
            shapes = [np.shape(array) for array in (self.inputs, self.labels, self.output)]
            raise Refused(
                f"inputs, labels and output have shapes {', '.join(map(str, shapes))}: give (n, k), (n,) and (m,)"
            )
        if not np.isin(self.labels.astype(float), (0, 1)).all():
            raise Refused(f"labels take the values {sorted(set(self.labels.astype(float)))[:5]}: give zeros and ones")
        if not 0 < self.delta < 0.5:
            raise Refused(f"delta = {self.delta} leaves no room between δ and 1 − δ: give 0 < delta < 1/2")

    @property
    def n(self) -> int:
        """Samples."""
        return len(self.inputs)

    @property
    def d(self) -> int:
        """Trained parameters."""
        return len(self.output) * self.inputs.shape[1]

    def outputs(self, theta) -> np.ndarray:
        """f(x_i; θ) before clipping, shape (n,)."""
        before = self.inputs @ self._checked(theta).T
        return np.maximum(before, 0, out=before) @ self.output

    def unsaturated(self, outputs) -> np.ndarray:
        """Which samples have δ < f < 1 − δ and so take part in gradient and curvature, shape (n,)."""
        return (outputs > self.delta) & (outputs < 1 - self.delta)

    def residuals(self, outputs) -> np.ndarray:
        """r_i = φ(f_i) − y_i, shape (n,). Never smaller than δ in size."""
        return np.minimum(np.maximum(outputs, self.delta), 1 - self.delta) - self.labels

    def loss(self, theta):
        """L(θ) = mean of r². Never smaller than δ²."""
        return (self.residuals(self.outputs(theta)) ** 2).sum() / self.n

    def accuracy(self, theta) -> float:
        """Fraction of the samples on the right side of one half."""
        return float(((self.outputs(theta) > 0.5) == (self.labels == 1)).mean())

    def slopes(self, theta) -> tuple[np.ndarray, np.ndarray]:
        """The a unsaturated samples: ∇f, shape (a, d), and residuals, shape (a,)."""
        x, on, r = self._parts(theta)
        return ((on * self.output)[:, :, None] * x[:, None, :]).reshape(len(x), self.d), r

    def gradient(self, theta) -> np.ndarray:
        """∇L(θ), shape (m, k)."""
        x, on, r = self._parts(theta)
        return (on.T @ (r[:, None] * x)) * (self.output[:, None] * self._over_n(2))

    def hessian(self, theta) -> np.ndarray:
        """H(θ) away from kinks, shape (d, d): twice the mean of ∇f ∇fᵀ over the unsaturated samples. Positive
        semidefinite.
        """
        slopes, _ = self.slopes(theta)
        return slopes.T @ slopes * self._over_n(2)

    def fisher(self, theta) -> np.ndarray:
        """The empirical Fisher F(θ), second moment of the per-sample gradients, shape (d, d)."""
        slopes, r = self.slopes(theta)
        return (slopes.T * r**2) @ slopes * self._over_n(4)

    def covariance(self, theta) -> np.ndarray:
        """C₁(θ) = F − ∇L ∇Lᵀ, the gradient covariance of one sample, shape (d, d). A mini-batch of b has a multiple of
        it.
        """
        gradient = self.gradient(theta).reshape(-1)
        return self.fisher(theta) - np.multiply.outer(gradient, gradient)

    def alignment(self, theta) -> Alignment:
        """Traces of H, C₁ and HC₁ and the noise along the first eigenvector of H, from the Gram matrix of the slopes:
        O(a²(m + k) + a³), no d x d.

        In floats (the eigenpair is irrational). Raises ValueError where every sample is saturated, so that H = C₁ = 0.
        """
        gram, r = self._gram(theta)
        n, squares = self.n, r**2
        if not gram.any():
            raise Refused("every sample is saturated, so that H = C = 0 and nothing can align: give another theta")
        values, vectors = np.linalg.eigh(gram)
        top, v = values[-1], vectors[:, -1]  # u₁ = Σ v_i ∇f_i / √top, so that ∇f_i · u₁ = √top v_i
        pull = gram @ r  # ∇f_i · ∇L = (2/n) pull
        return Alignment(
            d=self.d,
            trace_hessian=2 / n * gram.trace(),
            trace_covariance=4 / n * squares @ gram.diagonal() - 4 / n**2 * r @ pull,
            trace_product=8 / n**2 * squares @ (gram**2).sum(0) - 8 / n**3 * pull @ pull,
            largest=2 / n * top,
            along=top * (4 / n * squares @ v**2 - 4 / n**2 * (v @ r) ** 2),
        )

    def curvatures(self, theta) -> np.ndarray:
        """Eigenvalues of H(θ) in falling order, shape (a,) for a unsaturated samples; of the d they are all that can
        differ from zero. In floats.
        """
        gram, _ = self._gram(theta)
        return 2 / self.n * np.linalg.eigvalsh(gram)[::-1]

    def _gram(self, theta):
        """Inner products ∇f_i · ∇f_j of the unsaturated samples, shape (a, a), and their residuals, in floats."""
        x, on, r = (array.astype(float) for array in self._parts(theta))
        return ((on * self.output.astype(float) ** 2) @ on.T) * (x @ x.T), r

    def _parts(self, theta):
        """Of the unsaturated samples: inputs (a, k), which units are on (a, m), residuals (a,)."""
        outputs = self.outputs(theta)
        chosen = self.unsaturated(outputs)
        x = self.inputs[chosen]
        return x, (x @ theta.T > 0).astype(self.inputs.dtype), self.residuals(outputs)[chosen]

    def _over_n(self, number):
        return Fraction(number, self.n) if self.inputs.dtype == object else number / self.n

    def _checked(self, theta):
        if np.shape(theta) != (shape := (len(self.output), self.inputs.shape[1])):
            raise Refused(f"theta has shape {np.shape(theta)}: give {shape}, a row a hidden unit")
        return theta


def descend(network: ClippedNetwork, theta, rates: Iterable[float], *, adam: bool = True) -> Iterator[np.ndarray]:
    """θ after 0, 1, 2, … full-batch steps, one for each learning rate: Adam (β = 0.9, 0.999, ε = 1e-8) or gradient
    descent.

    Raises ValueError for a rate that is not positive.
    """
    theta, first, second = theta.copy(), 0.0, 0.0
    yield theta
    for step, rate in enumerate(rates, 1):
        if not rate > 0:
            raise Refused(f"the learning rate of step {step} is {rate}: give positive rates")
        gradient = network.gradient(theta)
        if adam:
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            gradient = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        theta = theta - rate * gradient
        yield theta


def loewner_at_least(larger, smaller) -> bool:
    """Whether ``larger − smaller`` is positive semidefinite, decided exactly for symmetric matrices of Fractions by
    elimination.

    Raises ValueError for matrices that are not symmetric, not of one shape, or not exact.
    """
    rest = np.array(larger - smaller, dtype=object)
    if rest.ndim != 2 or rest.shape[0] != rest.shape[1] or (rest != rest.T).any():
        raise Refused(
            f"the difference, of shape {rest.shape}, is no symmetric matrix: give two symmetric matrices of one size"
        )
    if not all(isinstance(entry, (int, Fraction)) for entry in rest.flat):
        raise Refused("an entry is no Fraction: for floats look at the eigenvalues of the difference, within rounding")
    while len(rest):
        pivot = max(range(len(rest)), key=lambda i: rest[i, i])
        if rest[pivot, pivot] <= 0:
            return bool((rest == 0).all())  # a zero diagonal forces zero rows, a negative entry is a counterexample
        others = [i for i in range(len(rest)) if i != pivot]
        column = rest[others, pivot]
        rest = rest[np.ix_(others, others)] - np.multiply.outer(column, column) / rest[pivot, pivot]
    return True
