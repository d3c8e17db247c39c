r"""One step of SGD on least squares, seen by second moments: momentum, a learning rate that is a number or a matrix,
weight decay, any population and any batch noise.

A step is ``m ← μm + g̃ + Γθ``, ``θ ← θ − Λm`` with the weighted gradient g̃ of `support.exact.batch_noise`. Around the
mean ``θ* = K⁻¹Aθ_0``, ``A = E xxᵀ``, ``K = A + Γ``, θ_0 the population's optimum, the joint moment M of (θ − θ*, m)
takes the positive linear step

    M ← F M Fᵀ + B (𝒞(S) + C_0) Bᵀ,   F = [[I − ΛK, −μΛ], [K, μI]],   B = (−Λ, I),   S the block of θ in M
    𝒞(S) = p E xxᵀSxxᵀ + (j − p) ASA,   C_0 = 𝒞(ccᵀ) + p (E ε²xxᵀ − 2 E ε(xᵀc)xxᵀ),   c = θ* − θ_0

so that 𝒞(S) + C_0 is the mean covariance of a step's gradient. In the long run `support.exact.stationary` solves it.
Source: Ziyin et al. (2022), Sections 3 and 4, Appendix E.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import linalg

from support.errors import Refused, array, instance
from support.exact.batch_noise import BatchNoise
from support.exact.matrices import a_momentum, multiple, shared_axes, symmetric
from support.exact.populations import FinitePopulation, GaussianPopulation, Population, a_noise, a_population


class Modes(NamedTuple):
    """A, Λ and K in their common eigenbasis: a, rate, k (r,) each, and the axes (d, r).

    >>> one = Descent(GaussianPopulation([[2.0]]), BatchNoise(1), 0.1, decay=0.5).modes
    >>> one.a.tolist(), one.rate.tolist(), one.k.tolist()
    ([2.0], [0.1], [2.5])
    """

    a: np.ndarray
    rate: np.ndarray
    k: np.ndarray
    axes: np.ndarray


class Descent:
    """SGD on a population: noise of the batch, learning rate Λ (a number > 0 or a matrix (d, d)), momentum 0 ≤ μ < 1,
    weight decay Γ (a number or a symmetric matrix (d, d), of any sign).

    A preconditioned step is one with Λ = η P, damped Newton with ``Λ = η A⁻¹``. Directions without data stand still
    where Γ = 0, and are left out. Raises WrongType for another type, Refused for a bad shape or sign.

    >>> from support.exact.batch_noise import matched
    >>> descent = Descent(GaussianPopulation([[2.0]], [3.0]), matched(4), 0.1, decay=1.0)
    >>> descent.centre.tolist()  # θ* = 2·3/(2 + 1)
    [2.0]
    """

    def __init__(self, population: Population, noise: BatchNoise, lr, momentum: float = 0.0, decay=0.0):
        a_noise(noise, a_population(population))
        self.momentum = a_momentum(momentum)
        if population.exact:
            population = FinitePopulation(
                *(a.astype(float) for a in (population.inputs, population.targets, population.probabilities))
            )
        d = len(population.optimum)
        self.population, self.noise = population, noise
        self.lr = multiple("lr", lr, d, above=0)
        self.decay = symmetric("decay", multiple("decay", decay, d))
        self._strength, self._jitter = float(noise.strength), float(noise.jitter)

    def changed(self, **values) -> Descent:
        """The same descent with other arguments of these names."""
        kept = {"population": self.population, "noise": self.noise, "lr": self.lr}
        return Descent(**{**kept, "momentum": self.momentum, "decay": self.decay, **values})

    @cached_property
    def axes(self) -> np.ndarray:
        """Orthonormal directions that move, (d, r): those with data where Γ = 0, else all."""
        d = len(self.lr)
        return self.population.spectrum[1] if self.population.rank < d and not self.decay.any() else np.eye(d)

    def inside(self, matrix):
        """A matrix (d, d) on the directions that move, (r, r)."""
        return matrix if len(self.axes.T) == len(matrix) else self.axes.T @ matrix @ self.axes

    def outside(self, matrix):
        """A matrix (r, r) on the directions that move as one (d, d), zero on the others."""
        return matrix if len(self.axes) == len(matrix) else self.axes @ matrix @ self.axes.T

    @cached_property
    def lift(self) -> np.ndarray:
        """How θ follows the directions that move, (d, r): ``ΛV(VᵀΛV)⁻¹``, V the axes. V itself where Λ keeps them."""
        if len(self.axes.T) == len(self.lr):
            return self.axes
        return np.linalg.solve(self.rate.T, (self.lr @ self.axes).T).T

    @cached_property
    def hessian(self) -> np.ndarray:
        """A on the directions that move, (r, r)."""
        return self.inside(self.population.second_moment)

    @cached_property
    def curvature(self) -> np.ndarray:
        """K = A + Γ, (r, r)."""
        return self.hessian + self.inside(self.decay)

    @cached_property
    def rate(self) -> np.ndarray:
        """Λ, (r, r)."""
        return self.inside(self.lr)

    @cached_property
    def centre(self) -> np.ndarray:
        """θ* = K⁻¹Aθ_0, the mean in the long run, (d,). Raises Refused where K is singular, and for a decay of averaged
        labels, since θ* depends on each of them.
        """
        if self.population.averaged and self.decay.any():
            raise Refused("labels are averaged over, and where the decay holds θ depends on them: choose decay = 0")
        pull = self.decay @ self.population.optimum
        if not pull.any():
            return self.population.optimum
        curvature = self.population.second_moment + self.decay
        if not np.linalg.cond(curvature, 1) < 1e14:
            raise Refused("K = A + Γ is singular: the mean does not settle; choose another decay")
        return self.population.optimum - np.linalg.solve(curvature, pull)

    @property
    def shift(self) -> np.ndarray:
        """c = θ* − θ_0, what the decay moves the minimum by, (d,)."""
        return self.centre - self.population.optimum

    def spread(self, moment) -> np.ndarray:
        """𝒞(S) for S (r, r), the part of the gradient's covariance that grows with S."""
        fourth = self.inside(self.population.fourth(self.outside(moment)))
        return self._strength * fourth + (self._jitter - self._strength) * self.hessian @ moment @ self.hessian

    @cached_property
    def forcing(self) -> np.ndarray:
        """C_0, the covariance of the gradient at θ*, (r, r)."""
        c, population = self.shift, self.population
        own = self.inside(population.noise_moment - 2 * population.third(c))
        moved = self.axes.T @ c
        return self._strength * own + self.spread(np.outer(moved, moved))

    @cached_property
    def transition(self) -> tuple[np.ndarray, np.ndarray]:
        """F (2r, 2r) and B (2r, r); without momentum those of θ alone, (r, r) each."""
        pull, one = self.rate @ self.curvature, np.eye(len(self.rate))
        if not self.momentum:
            return one - pull, -self.rate
        return (
            np.block([[one - pull, -self.momentum * self.rate], [self.curvature, self.momentum * one]]),
            np.vstack([-self.rate, one]),
        )

    @cached_property
    def past(self) -> Lyapunov:
        """``X = F X Fᵀ + Q`` for many Q. Raises Refused where the mean of θ does not settle."""
        return Lyapunov(self.transition[0])

    @cached_property
    def modes(self) -> Modes | None:
        """Common eigenbasis of A, Λ and Γ for a `GaussianPopulation`, where second moments need no more than their
        entries one by one and one trace; None where there is none.
        """
        if not isinstance(self.population, GaussianPopulation):
            return None
        matrices = self.hessian, self.rate, self.curvature
        if (turn := shared_axes(matrices)) is None:
            return None
        return Modes(*(np.einsum("ij,ij->j", turn, m @ turn) for m in matrices), self.axes @ turn)

    def step(self, joint) -> np.ndarray:
        """The joint moment of (θ − θ*, m) after a step from one of this value, (2r, 2r), literally as above.

        >>> from support.exact.batch_noise import matched
        >>> descent = Descent(GaussianPopulation([[1.0]]), matched(1), 0.5)
        >>> descent.step(np.diag([1.0, 0.0])).tolist()  # g̃ = x(xδ − ε): E g̃² = 3 + 1, E δg̃ = 1, η = ½
        [[1.0, -1.0], [-1.0, 4.0]]
        """
        r = len(self.rate)
        joint = array("joint", joint, (2 * r, 2 * r))
        return self.carry(joint, self.spread(joint[:r, :r]) + self.forcing)

    def carry(self, joint, kick) -> np.ndarray:
        """The joint moment, (2r, 2r) and symmetric, after a step whose gradient has this covariance (r, r)."""
        r, mu, rate, curvature = len(self.rate), self.momentum, self.rate, self.curvature
        own, cross, square = joint[:r, :r], joint[:r, r:], joint[r:, r:]
        pulled = own @ curvature + mu * cross  # E zmᵀ with the new m and the old z
        square = curvature @ pulled + mu * cross.T @ curvature + mu * mu * square + kick
        cross = pulled - rate @ square
        return np.block([[own - pulled @ rate.T - rate @ cross.T, cross], [cross.T, square]])


def a_descent(value) -> Descent:
    """The descent, or a refusal of what is none (WrongType).

    >>> a_descent(Descent(GaussianPopulation([[1.0]]), BatchNoise(1), 0.5)).momentum
    0.0
    """
    return instance("descent", value, Descent, "give Descent(population, noise, lr)")


class Lyapunov:
    """``X = F X Fᵀ + Q`` for many Q, F (n, n) of spectral radius below 1: O(n³) for each Q.

    With N = (F + I)⁻¹ and W = N(F − I) it reads ``WX + XWᵀ = −2NQNᵀ``, which a Schur form of W solves.

    >>> Lyapunov(np.array([[0.5]]))(np.array([[3.0]])).round(12).tolist()
    [[4.0]]
    """

    def __init__(self, transition):
        transition = array("transition", transition, ("n", "n"))
        one = np.eye(len(transition))
        self.radius = float(np.abs(np.linalg.eigvals(transition)).max())
        if not self.radius < 1:
            raise Refused(f"the transition has spectral radius {self.radius:.6g}: the sum over the past needs one < 1")
        inverse = np.linalg.inv(transition + one)
        self._triangle, turn = linalg.schur(inverse @ (transition - one))
        self._in, self._turn = turn.T @ inverse, turn
        self._solve = linalg.lapack.dtrsyl

    def __call__(self, forcing):
        right = -2 * self._in @ forcing @ self._in.T
        solution, scale, _ = self._solve(self._triangle, self._triangle, right, tranb="T")
        return self._turn @ (scale * solution) @ self._turn.T
