r"""A finite data set whose inputs and labels get fresh noise whenever they are drawn: what augmenting data by Gaussian
noise does to the second moments of SGD.

The population of ``(x + ν, y + ε')``: (x, y) one of the atoms, ν ~ N(0, B), ε' of mean 0 and variance σ², drawn anew in
every step, so that batches are fresh ones, `batch_noise.matched`. Its moments up to the fourth are written down. For
Gaussian x there is `support.exact.stationary.input_noise`.
"""

from __future__ import annotations

import numpy as np

from support.errors import Refused, array, instance, real
from support.exact.frames import Frame
from support.exact.populations import FinitePopulation, Population


class BlurredPopulation(Population):
    """population: the atoms, a `FinitePopulation`; blur B (d, d), symmetric and positive semidefinite; variance σ² ≥ 0
    (units of y²). With A = E xxᵀ, K = A + B, ``θ* = K⁻¹ E yx``, e = y − xᵀθ*, g = Bθ*:

        E ε²x̃x̃ᵀ = E e²xxᵀ + (E e²) B + (σ² + θ*ᵀg) K − 2ggᵀ
        E ε(x̃ᵀm)x̃x̃ᵀ = E e(xᵀm)xxᵀ − Am gᵀ − g(Am)ᵀ − (gᵀm) A
        E x̃x̃ᵀMx̃x̃ᵀ = E xxᵀMxxᵀ + 2(AMB + BMA + BMB) + Tr(MB) K + Tr(MA) B

    Raises WrongType for another type, Refused for a blur of another shape or with a negative eigenvalue.

    >>> blurred = BlurredPopulation(FinitePopulation([[1.0], [-1.0]], [1.0, -1.0]), [[1.0]])
    >>> blurred.optimum.tolist(), blurred.least_loss  # y = x, seen through noise as large as x
    ([0.5], 0.25)
    """

    def __init__(self, population: FinitePopulation, blur, variance: float = 0.0):
        instance("population", population, FinitePopulation, "give FinitePopulation(inputs, targets)")
        x, y, p = (a.astype(float) for a in (population.inputs, population.targets, population.probabilities))
        blur = array("blur", blur, (x.shape[1],) * 2)
        if not np.allclose(blur, blur.T) or np.linalg.eigvalsh(blur)[0] < -1e-10 * np.abs(blur).max():
            raise Refused("blur is no covariance: give a symmetric matrix (d, d) without negative eigenvalues")
        self._blur, variance = blur, real("variance", variance, 0)
        self._atoms = FinitePopulation(x, y, p)
        self.second_moment = self._atoms.second_moment + blur
        self.optimum = self.pseudo_solve(x.T @ (p * y))
        self._errors, self._pull = y - x @ self.optimum, blur @ self.optimum
        squared, level = float(p @ self._errors**2), variance + float(self.optimum @ self._pull)
        self.least_loss = (squared + level) / 2
        self.noise_moment = self._of(self._errors**2) + squared * blur + level * self.second_moment
        self.noise_moment = self.noise_moment - 2 * np.outer(self._pull, self._pull)

    def _of(self, factor):
        """E[factor · xxᵀ] over the atoms."""
        x = self._atoms.inputs
        return (x.T * (self._atoms.probabilities * factor)) @ x

    def fourth(self, matrix):
        a, b = self._atoms.second_moment, self._blur
        mixed = a @ matrix @ b
        mixed = 2 * (mixed + mixed.T + b @ matrix @ b)
        return self._atoms.fourth(matrix) + mixed + np.sum(matrix * b) * self.second_moment + np.sum(matrix * a) * b

    def third(self, vector):
        moved = np.outer(self._atoms.second_moment @ vector, self._pull)
        own = self._of(self._errors * (self._atoms.inputs @ vector))
        return own - moved - moved.T - self._pull @ vector * self._atoms.second_moment

    @property
    def frame(self) -> Frame:
        """None: `averaged` and `least_squares` take atoms or Gaussian inputs. Raises Refused."""
        raise Refused("a BlurredPopulation has no frame: give it to support.exact.second_moments.Descent")
