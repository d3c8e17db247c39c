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
from support.errors import Refused, array, boolean, instance, real


@dataclass(frozen=True)
class ClippedNetwork:
    """The loss of a clipped network on data.

    inputs: (n, k), with a column of ones where units have a bias.  labels: (n,), zeros and ones.  output: (m,), the
    fixed output weights. delta: the threshold δ, 0 < δ < ½.
    θ is an array of shape (m, k) everywhere; matrices are d x d with d = m·k, θ flattened row by row.
    Raises WrongType for what is no array of numbers, Refused for shapes that do not fit, labels other than 0 and 1, or
    another δ; its methods for a θ of another shape.

    >>> network = ClippedNetwork([[1.0]], [0.0], [1.0], 0.1)
    >>> theta = np.array([[0.5]])  # f = ½, residual ½, ∇f = 1
    >>> network.loss(theta).item(), network.hessian(theta).item(), network.fisher(theta).item()
    (0.25, 2.0, 1.0)
    """

    inputs: np.ndarray
    labels: np.ndarray
    output: np.ndarray
    delta: float | Fraction

    def __post_init__(self):
        inputs = array("inputs", self.inputs, ("n", "k"), rational=True)
        exact = inputs.dtype == object
        given = {
            "inputs": inputs if exact else inputs.astype(float, copy=False),
            "labels": array("labels", self.labels, (len(inputs),), rational=exact),
            "output": array("output", self.output, ("m",), rational=exact),
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)
        if not np.isin(self.labels.astype(float), (0, 1)).all():
            raise Refused(f"labels take the values {sorted(set(self.labels.astype(float)))[:5]}: give zeros and ones")
        if not 0 < real("delta", self.delta) < 0.5:
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

        In floats (the eigenpair is irrational). Raises Refused where every sample is saturated, so that H = C₁ = 0.
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
        return x, (x @ np.transpose(theta) > 0).astype(self.inputs.dtype), self.residuals(outputs)[chosen]

    def _over_n(self, number):
        return Fraction(number, self.n) if self.inputs.dtype == object else number / self.n

    def _checked(self, theta):
        return array("theta", theta, (len(self.output), self.inputs.shape[1]), rational=True)


def descend(network: ClippedNetwork, theta, rates: Iterable[float], *, adam: bool = True) -> Iterator[np.ndarray]:
    """θ after 0, 1, 2, … full-batch steps, one for each learning rate: Adam (β = 0.9, 0.999, ε = 1e-8) or gradient
    descent.

    Raises WrongType for another type, Refused for another shape of θ or a rate that is not positive.

    >>> *_, last = descend(ClippedNetwork([[1.0]], [0.0], [1.0], 0.1), [[0.5]], [0.25], adam=False)
    >>> last.item()  # ½ − ¼ · 2 · ½
    0.25
    """
    theta = instance("network", network, ClippedNetwork, "give ClippedNetwork(inputs, labels, output, delta)")._checked(
        theta
    )
    boolean("adam", adam)
    rates = [real(f"the learning rate of step {k}", rate, above=0) for k, rate in enumerate(_iterable(rates), 1)]
    return _path(network, theta, rates, adam)


def _iterable(rates):
    return instance("rates", rates, Iterable, "give a learning rate for each step")


def _path(network, theta, rates, adam) -> Iterator[np.ndarray]:
    theta, first, second = theta.copy(), 0.0, 0.0
    yield theta
    for step, rate in enumerate(rates, 1):
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

    Raises WrongType for what is no array of numbers, Refused for matrices that are not symmetric, not of one shape, or
    not exact.

    >>> loewner_at_least([[2, 1], [1, 2]], [[1, 0], [0, 1]]), loewner_at_least([[2, 2], [2, 1]], [[1, 0], [0, 1]])
    (True, False)
    """
    larger = array("larger", larger, ("d", "d"), rational=True)
    smaller = array("smaller", smaller, larger.shape, rational=True)
    rest = np.array(larger.astype(object) - smaller.astype(object), dtype=object)
    if rest.shape[0] != rest.shape[1] or (rest != rest.T).any():
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
