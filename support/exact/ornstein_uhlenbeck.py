r"""Climbing out of a quadratic minimum, exactly: the Ornstein-Uhlenbeck process of Zhu et al. (2019), Section 3.1, and
the noisy descent it stands for.

The loss is ``L(θ) = ½ θᵀHθ`` with any symmetric H: singular, indefinite, not commuting with the noise. The process
starts at θ = 0,

    dθ = −Hθ dt + Q^{1/2} dW,    Q = ηC,

with C the covariance of the gradient noise of one step and η the learning rate; Q is what the paper's Eq. (12) calls Σ.
Time t is η times the number of steps. In H's eigenbasis every expected loss is a sum over the directions, and needs
only the curvatures h_i and the noise ``q_i = u_iᵀ Q u_i`` along them.

Matrices are given as arrays of shape (d, d), or (d,) for a diagonal one: for a network, pass curvatures and noise along
the eigenvectors. What a dense decomposition cannot tell from zero (d·ε relative to the largest value, ε the float64
precision) counts as zero; a diagonal matrix is taken as given.
"""

from __future__ import annotations

import math

import numpy as np

from support.errors import NotFinite, Refused, array, real

DENSE_LIMIT = 10_000
_TAYLOR = np.array([0.0, 0.0, *((-1.0) ** k / math.factorial(k) for k in range(2, 18))])


class OrnsteinUhlenbeck:
    """The process ``dθ = −Hθ dt + Q^{1/2} dW`` from θ = 0, its expected loss ``E L(θ_t) − L(θ_0)`` with ``L = ½ θᵀHθ``,
    and its covariance.

    hessian: H, symmetric; diffusion: Q = ηC, symmetric positive semi-definite (Zhu et al., Eq. 12: Σ); each of shape
    (d, d), or (d,) if diagonal. Attributes: ``curvature``, the h_i in H's eigenbasis (falling for a dense H, as given
    for a diagonal one); ``along``, the noise q_i in these directions. Raises WrongType for what is no array of numbers,
    Refused for matrices of another shape, not finite or not symmetric, a Q that is not positive semi-definite, and a
    dense d above 10,000.

    >>> process = OrnsteinUhlenbeck([2.0, 1.0], [1.0, 1.0])
    >>> [float(climb) for climb in (process.efficiency(math.inf), process.linear(0.5))]  # Tr Q/4, t Tr(HQ)/2
    [0.5, 0.75]
    """

    def __init__(self, hessian, diffusion):
        self.curvature, self._basis, self._diffusion = _decompose(hessian, diffusion, "diffusion")
        self.along = _along(self._diffusion)

    def efficiency(self, t):
        """Escaping efficiency ``¼ Tr((I − e^{−2Ht}) Q)`` (Zhu et al., Eq. 13), exact for every symmetric H.

        t: a time ≥ 0 or an array of times; infinity gives the limit, ``¼ Tr(P Q)`` with P the projector on the range of
        H if H ⪰ 0. A negative curvature that receives noise makes the loss fall without end: −inf where the value
        leaves float64, and in the limit. Raises WrongType, or Refused for t < 0 or nan.
        """
        with np.errstate(over="ignore"):
            return _sum(self.along, -np.expm1(-self._exponent(t))) / 4

    def linear(self, t):
        """Its short-time form ``(t/2) Tr(HQ)`` (Zhu et al., Eq. 13, the approximation). At infinite t the sign of the
        trace decides.
        """
        t, indicator = _times(t), self.curvature @ self.along
        return t * indicator / 2 if indicator else np.zeros_like(t)[()]

    def ito(self, t):
        """The two integrals of Zhu et al., Eq. (11): ``(−∫₀ᵗ E|∇L|² ds, ½ ∫₀ᵗ Tr(HQ) ds)``, the descent and the lift;
        they sum to the efficiency.

        The lift is the linear form; the descent, ``−¼ Σ q_i (2h_i t − (1 − e^{−2h_i t}))``, is what the linear form
        leaves out. Each keeps full relative precision at every t; their sum would cancel at large t: `efficiency`
        computes it directly.
        """
        return -_sum(self.along, _convex(self._exponent(t))) / 4, self.linear(t)

    def excess(self, t):
        """By how much the linear form overstates the efficiency, relative to the latter: ``linear/efficiency − 1``,
        without cancellation at small t.

        0 where both are 0; −1 where the efficiency is −inf; infinite where the efficiency vanishes and the linear form
        does not.
        """
        descent, _ = self.ito(t)
        exact = self.efficiency(t)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.isinf(exact), -1.0, np.where(descent == 0, 0.0, -descent / exact))[()]

    def covariance(self, t: float) -> np.ndarray:
        """``E θ_t θ_tᵀ = ∫₀ᵗ e^{−Hs} Q e^{−Hs} ds``, shape (d, d); (d,), its diagonal, if H and Q were given as
        diagonals.

        t: one time ≥ 0; infinity gives the stationary covariance. Raises Refused for t < 0 or nan, NotFinite where an
        entry is infinite (a curvature ≤ 0 that receives noise, in the limit) or leaves float64.
        """
        t = float(_times(t, ()))
        diagonal = self._diffusion.ndim == 1
        rates = 2 * self.curvature if diagonal else np.add.outer(self.curvature, self.curvature)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            grown = np.where(rates == 0, t, -np.expm1(-rates * t) / np.where(rates == 0, 1.0, rates))
            moment = np.where(self._diffusion == 0, 0.0, self._diffusion * grown)
        if not np.isfinite(moment).all():
            lowest = float(self.curvature.min())
            raise NotFinite(
                f"the covariance at t = {t:g} is infinite or leaves float64: the lowest curvature is {lowest:.3g}; "
                f"choose a smaller t"
            )
        return moment if self._basis is None else self._basis @ moment @ self._basis.T

    def _exponent(self, t) -> np.ndarray:
        """2 h_i t, shape (..., d); a flat direction has 0 at infinite t too."""
        t = _times(t)[..., None]
        with np.errstate(invalid="ignore", over="ignore"):
            return np.where(self.curvature == 0, 0.0, 2 * self.curvature * t)


def discrete_efficiency(hessian, covariance, lr: float, steps):
    """Exact ``E L(θ_k) − L(θ_0)`` of ``θ ← θ − η(Hθ − ε)``, ``ε`` of mean 0 and covariance C, from θ = 0: Zhu et al.,
    Eq. (7), in the loss ``½ θᵀHθ``.

    ``(η/2) Tr((I − (I − ηH)^{2k}) (2I − ηH)^{-1} C)``, read by continuity where ηh = 2 (the loss then rises by
    ``η²hc/2`` a step for ever) and 0 where h = 0.

    hessian, covariance: H and C (without η), of shape (d, d), or (d,) if diagonal; lr: η > 0; steps: k, a whole number
    ≥ 0 or an array of them; infinity gives the limit. Above ηh = 2 the loss grows without end, below h = 0 it falls:
    ±inf where it leaves float64. Raises WrongType for what are no numbers, Refused for bad matrices (as
    `OrnsteinUhlenbeck`), an lr that is not positive and finite, or steps that are negative or no whole number;
    NotFinite where +inf and −inf meet.

    >>> discrete_efficiency([1.0], [1.0], 1.0, [0, 1, 2])  # every step forgets θ: η²hc/2
    array([0. , 0.5, 0.5])
    """
    lr, k = real("lr", lr, above=0), array("steps", steps, infinite=True)
    if not ((k >= 0) & ((k == np.floor(k)) | np.isinf(k))).all():
        raise Refused(f"steps = {steps!r}: give whole numbers of steps ≥ 0")
    h, _, noise = _decompose(hessian, covariance, "covariance")
    a = lr * h
    # the sum of (1 − a)^{2j} over j < k is (1 − (1 − u)^k)/u with u = a(2 − a), which is formed without cancellation
    u, k = np.minimum(a * (2 - a), 1.0), k[..., None]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        shrunk = np.where(k == 0, 0.0, -np.expm1(k * np.log1p(-u)))
        summed = np.where(u == 0, k, shrunk / np.where(u == 0, 1.0, u))
        value = _sum(_along(noise), np.where(h == 0, 0.0, h * summed)) * lr**2 / 2
    if np.isnan(value).any():
        raise NotFinite(
            "the loss leaves float64 upwards (ηh > 2) and downwards (h < 0) at once: choose fewer steps or a smaller lr"
        )
    return value


def _decompose(hessian, noise, name: str):
    """Curvatures, eigenbasis (None: the coordinate axes), and the noise in that basis; what dense rounding cannot tell
    from zero is zero.
    """
    hessian, noise = _symmetric(hessian, "hessian"), _symmetric(noise, name)
    if len(hessian) != len(noise):
        raise Refused(f"hessian has shape {hessian.shape}, {name} {noise.shape}: give matrices of the same size")
    lowest = noise.min() if noise.ndim == 1 else np.linalg.eigvalsh(noise)[0]
    if lowest < -1e-9 * np.abs(noise).max():
        raise Refused(
            f"{name} has the negative eigenvalue {lowest:.3g}: a covariance is positive semi-definite; drop its "
            f"negative part"
        )
    if hessian.ndim == 1:
        return hessian, None, np.maximum(noise, 0.0) if noise.ndim == 1 else noise
    values, vectors = np.linalg.eigh(hessian)
    h, basis = values[::-1], vectors[:, ::-1]
    turned = (basis.T * noise) @ basis if noise.ndim == 1 else basis.T @ noise @ basis
    return _without_rounding(h), basis, _without_rounding(turned)


def _symmetric(matrix, name: str) -> np.ndarray:
    matrix = array(name, matrix)
    if matrix.ndim not in (1, 2) or matrix.size == 0 or (matrix.ndim == 2 and matrix.shape[0] != matrix.shape[1]):
        raise Refused(f"{name} has shape {matrix.shape}: give (d, d), or (d,) for a diagonal matrix")
    if matrix.ndim == 1:
        return matrix
    if len(matrix) > DENSE_LIMIT:
        raise Refused(
            f"{name} is dense with d = {len(matrix)} > {DENSE_LIMIT}: give curvatures and noise along H's "
            f"eigenvectors, two arrays of shape (d,)"
        )
    if (gap := np.abs(matrix - matrix.T).max()) > 1e-9 * np.abs(matrix).max():
        raise Refused(
            f"{name} is not symmetric, entries differ from their mirror image by up to {gap:.3g}: pass (A + A.T) / 2 "
            f"if that is rounding"
        )
    return (matrix + matrix.T) / 2


def _without_rounding(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) <= len(values) * np.finfo(float).eps * np.abs(values).max(), 0.0, values)


def _along(noise: np.ndarray) -> np.ndarray:
    """The noise along each direction; never negative, so that rounding cannot change a sign."""
    return np.maximum(noise if noise.ndim == 1 else noise.diagonal(), 0.0)


def _times(t, shape: tuple | None = None) -> np.ndarray:
    t = array("t", t, shape, infinite=True)
    if not (t >= 0).all():
        raise Refused(f"t = {np.min(t):g} is no time: give t ≥ 0")
    return t


def _sum(along: np.ndarray, values: np.ndarray):
    """``Σ_i q_i f_i`` over the last axis; a direction without noise gives 0 even where f is infinite."""
    seen = along > 0
    return (along[seen] * values[..., seen]).sum(-1)


def _convex(x: np.ndarray) -> np.ndarray:
    """``x − (1 − e^{−x})`` ≥ 0, by its series where the difference would cancel; +inf at both infinities."""
    small = np.abs(x) < 0.5
    with np.errstate(over="ignore", invalid="ignore"):
        direct = np.where(np.isinf(x), np.inf, x + np.expm1(-x))
    return np.where(small, np.polynomial.polynomial.polyval(np.where(small, x, 0.0), _TAYLOR), direct)
