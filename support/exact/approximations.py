r"""Ten approximations of SGD's stationary covariance Σ on least squares: what the literature uses in place of
`support.exact.stationary`, which judges them. Continuous time comes before discrete, known noise before growing noise.

Each makes two choices. **Time**: with ``P = ΛK``, K = A + Γ the Hessian, the covariance solves Theorem 1 of Ziyin et
al. (2022) (discrete) or, without its terms of second order in Λ, ``(1−μ)(PΣ + ΣPᵀ) = ΛCΛᵀ`` (continuous). **Noise**: C,
the covariance of a step's gradient, is a matrix known beforehand, or grows with Σ. b = 1/p for a noise of strength p;
θ* is where the mean settles, L_0 its loss without the penalty, C_0 its noise, all exact.

A function takes a `Descent` and gives Σ (d, d), also where the second moment of that descent does not exist; or None
where it was not made for such a descent, or has no stationary covariance itself. Raises WrongType for another type,
Refused for a singular K.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_continuous_lyapunov

from support.errors import Refused, array
from support.exact import ziyin
from support.exact.batch_noise import matched
from support.exact.matrices import shared_axes, symmetric
from support.exact.populations import GaussianPopulation
from support.exact.second_moments import Descent, Lyapunov, a_descent

EXAMPLE = Descent(GaussianPopulation([[1.5]], variance=0.25), matched(12), 1.0)  # Ziyin et al., Figure 3, left


class Approximation(NamedTuple):
    """name; formula, in LaTeX; source; evaluate: a `Descent` to Σ (d, d), or None where it does not apply; assumes: its
    conditions in words.

    >>> APPROXIMATIONS[0].name, APPROXIMATIONS[0].assumes
    ('small rate', 'noise C = 2L₀A/b of a constant loss L₀, continuous time')
    """

    name: str
    formula: str
    source: str
    evaluate: Callable[[Descent], np.ndarray | None]
    assumes: str


class Miss(NamedTuple):
    """Relative errors, positive for too much: of Tr(AΣ), twice what the fluctuation adds to the loss, and of vᵀΣv in
    the direction v where it is largest.

    >>> Miss(-0.5, 2.0).worst
    2.0
    """

    loss: float
    worst: float


def small_rate(descent: Descent) -> np.ndarray | None:
    """``C = (2L_0/b) A``, continuous time: ``Σ = L_0/(b(1−μ)) Λ`` where Γ = 0 and Λ is symmetric. Ziyin et al.,
    Eq. (7); with 2L_0 for an unknown constant, Jastrzebski et al. (2018), Zhu et al. (2019), Xie et al. (2021). For
    batches.

    >>> round(float(small_rate(EXAMPLE)[0, 0]), 6)
    0.010417
    """
    return _of_noise(descent, lambda p: p * _loss(descent) * descent.hessian, _continuous)


def isotropic(descent: Descent) -> np.ndarray | None:
    """``C = cI`` with ``c = Tr[C_0]/d``, the most generous choice, continuous time: ``Σ = c/(2(1−μ)) ΛK⁻¹`` where Λ and
    K commute. Sato and Nakagawa (2014) and Mandt et al. (2017), as Ziyin et al., Section 3, describe them.

    >>> round(float(isotropic(EXAMPLE)[0, 0]), 6)
    0.010417
    """
    noise = a_descent(descent).forcing
    return _outside(descent, _continuous(descent, np.trace(noise) / len(noise) * np.eye(len(noise))))


def ornstein_uhlenbeck(descent: Descent) -> np.ndarray | None:
    """``C = C_0``, continuous time: ``(1−μ)(PΣ + ΣPᵀ) = ΛC_0Λᵀ``. Mandt et al. (2017): an Ornstein-Uhlenbeck process
    with the noise of the minimum; exact for η → 0 at a fixed b.

    >>> round(float(ornstein_uhlenbeck(EXAMPLE)[0, 0]), 6)
    0.010417
    """
    return _outside(descent, _continuous(a_descent(descent), descent.forcing))


def loss_proportional(descent: Descent) -> np.ndarray | None:
    """``C = (2L/b) A`` with the mean loss ``2L = 2L_0 + Tr[AΣ]``, continuous time: the noise falls with the loss. Mori
    et al. (2021), whose decoupling it is; where Γ = 0 and Λ is symmetric ``Σ = (L_0/(b(1−μ)))/(1−s) Λ``,
    ``s = Tr[ΛA]/(2b(1−μ))``; no covariance for s ≥ 1. For batches.

    >>> round(float(loss_proportional(EXAMPLE)[0, 0]), 6)  # 0.010417/(1 − 1/16)
    0.011111
    """
    unit = _of_noise(descent, lambda p: p * descent.hessian, _continuous)
    grown = 1.0 if unit is None else np.sum(descent.population.second_moment * unit)
    return _loss(descent) / (1 - grown) * unit if grown < 1 else None


def bare_hessian(descent: Descent) -> np.ndarray | None:
    """``C = K/b``, discrete time: ``Σ = (Λ/b) [2(1−μ)I − (1−μ)/(1+μ) ΛK]⁻¹`` where Λ and K commute. The Hessian
    approximation as Table 2 prints it (Liu et al., 2021): without the loss, so that it has the units of Σ only where
    labels have none. For batches (no jitter).

    >>> round(float(bare_hessian(EXAMPLE)[0, 0]), 6)  # 1/(12 (2 − 1.5)), the exact one is 0.083333
    0.166667
    """
    return _of_noise(descent, lambda p: p * descent.curvature)


def general_minimum(descent: Descent) -> np.ndarray | None:
    """``C = (2L_0A − Γθ*θ*ᵀΓ)/b``, discrete time: Ziyin et al., Corollaries 2 and 3, for any model near a minimum of
    positive loss, in large batches and where the losses of the samples are alike. For batches.

    >>> round(float(general_minimum(EXAMPLE)[0, 0]), 6)  # 0.25/12/(2 − 1.5)
    0.041667
    """

    def noise(p):
        pull = descent.axes.T @ descent.decay @ descent.centre
        return p * (_loss(descent) * descent.hessian - np.outer(pull, pull))

    return _of_noise(descent, noise)


def constant_noise(descent: Descent) -> np.ndarray | None:
    """``C = C_0``, discrete time: Theorem 1 of Ziyin et al. (Liu et al., 2021) with the noise of the minimum, by their
    Proposition 1; exact for b → ∞ at a fixed η.

    >>> round(float(constant_noise(EXAMPLE)[0, 0]), 6)
    0.041667
    """
    return _outside(descent, _discrete(a_descent(descent), descent.forcing))


def many_dimensions(descent: Descent) -> np.ndarray | None:
    """``C = (2L_0A + Tr[AΣ]A − AΣA)/b``, discrete time: Ziyin et al., Proposition 4 and Theorem 6, ``Σ = (2L_0/b)/(1−s)
    ΛG⁻¹``, ``s = Tr[ΛAG⁻¹]/b``, ``G = 2(1−μ)I − ((1−μ)/(1+μ) − 1/b)ΛA``; the paper has μ = 0 and 2L_0 = σ²(1 − d/n).
    For batches without decay, Λ commuting with A.

    >>> round(float(many_dimensions(EXAMPLE)[0, 0]), 6)  # with one dimension the terms with Σ cancel
    0.041667
    """
    if not _plain(descent) or descent.decay.any():
        return None
    a, rate, mu, p = descent.hessian, descent.rate, descent.momentum, float(descent.noise.strength)
    g = 2 * (1 - mu) * np.eye(len(a)) - ((1 - mu) / (1 + mu) - p) * rate @ a
    if not np.linalg.eigvals(g).real.min() > 0:
        return None
    unit = p * rate @ np.linalg.inv(g)
    grown = np.sum(a * unit)
    return _outside(descent, _loss(descent) / (1 - grown) * unit if grown < 1 else None)


def printed_formula(descent: Descent) -> np.ndarray | None:
    """``C = (AΣA + Tr[AΣ]A + …)/b`` of Gaussian inputs, discrete time, as printed: Ziyin et al., Theorems 2 and 9
    (label or input noise, Λ commuting with A) or, with decay and exact labels, Eq. (12) of Theorem 4 (Λ a number, Γ
    commuting with A), which is not symmetric in general. Other inputs are taken as Gaussian of the same A and L_0. For
    batches.

    >>> round(float(printed_formula(EXAMPLE)[0, 0]), 6)
    0.083333
    """
    return _closed(descent, printed=True)


def corrected_formula(descent: Descent) -> np.ndarray | None:
    """`printed_formula` as it is true: exact for Gaussian inputs.

    >>> round(float(corrected_formula(EXAMPLE)[0, 0]), 6)
    0.083333
    """
    return _closed(descent, printed=False)


_CONSTANT = "noise C = {} of a constant loss L₀, {} time"
_BATCHES = r"\Sigma=\frac{2L_0}{b}\,\frac{\Lambda G^{-1}}{1-\frac1b\operatorname{Tr}[\Lambda AG^{-1}]},\ G=2(1-\mu)-"
APPROXIMATIONS = (
    Approximation(
        "small rate",
        r"\Sigma=\frac{L_0}{b(1-\mu)}\Lambda",
        "Eq. (7) of Ziyin et al. (2022); up to a constant Jastrzebski et al. (2018), Zhu et al. (2019)",
        small_rate,
        _CONSTANT.format("2L₀A/b", "continuous"),
    ),
    Approximation(
        "isotropic noise",
        r"\Sigma=\frac{\operatorname{Tr}C_0}{2d(1-\mu)}\Lambda K^{-1}",
        "Sato and Nakagawa (2014), Mandt et al. (2017), as described by Ziyin et al. (2022), Section 3",
        isotropic,
        "noise C = cI, here of the right trace, continuous time",
    ),
    Approximation(
        "Ornstein-Uhlenbeck",
        r"(1-\mu)(\Lambda K\Sigma+\Sigma K\Lambda^T)=\Lambda C_0\Lambda^T",
        "Mandt et al. (2017)",
        ornstein_uhlenbeck,
        "the noise C₀ of the minimum everywhere, continuous time",
    ),
    Approximation(
        "loss-proportional",
        r"\Sigma=\frac{L_0}{b(1-\mu)}\,\frac{\Lambda}{1-\operatorname{Tr}[\Lambda A]/2b(1-\mu)}",
        "Mori et al. (2021)",
        loss_proportional,
        "noise C = 2LA/b that follows the loss L, continuous time",
    ),
    Approximation(
        "bare Hessian",
        r"\Sigma=\frac1b\Lambda\bigl[2(1-\mu)-\tfrac{1-\mu}{1+\mu}\Lambda K\bigr]^{-1}",
        "Table 2, middle column, of Ziyin et al. (2022), there for Liu et al. (2021)",
        bare_hessian,
        "noise C = K/b whatever the loss, discrete time",
    ),
    Approximation(
        "general minimum",
        r"\Sigma=\frac{2L_0}{b}\Lambda\bigl[2(1-\mu)-\tfrac{1-\mu}{1+\mu}\Lambda K\bigr]^{-1}",
        "Corollary 3 of Ziyin et al. (2022)",
        general_minimum,
        "noise C = (2L₀A − Γθ*θ*ᵀΓ)/b of a constant loss L₀, discrete time",
    ),
    Approximation(
        "constant noise",
        r"\text{Theorem 1 with }C=C_0",
        "Liu et al. (2021), Theorem 1 of Ziyin et al. (2022) with Proposition 1 at the minimum",
        constant_noise,
        "the noise C₀ of the minimum everywhere, discrete time",
    ),
    Approximation(
        "many dimensions",
        _BATCHES + r"\bigl(\tfrac{1-\mu}{1+\mu}-\tfrac1b\bigr)\Lambda A",
        "Theorem 6 of Ziyin et al. (2022)",
        many_dimensions,
        "noise C = (2LA − AΣA)/b, discrete time, no decay, Λ commuting with A",
    ),
    Approximation(
        "Gaussian, printed",
        r"\text{Theorems 2, 9; with decay Equation (12)}",
        "Theorems 2, 4 and 9 of Ziyin et al. (2022), as printed",
        printed_formula,
        "noise C = (2LA + AΣA)/b of Gaussian inputs, discrete time; decay only with exact labels",
    ),
    Approximation(
        "Gaussian, corrected",
        _BATCHES + r"\bigl(\tfrac{1-\mu}{1+\mu}+\tfrac1b\bigr)\Lambda A",
        "Theorems 2, 4 and 9 of Ziyin et al. (2022), corrected",
        corrected_formula,
        "noise C = (2LA + AΣA)/b of Gaussian inputs, discrete time; decay only with exact labels",
    ),
)


def miss(covariance, exact, features) -> Miss:
    """How far a covariance (d, d) is from the exact one (d, d) for inputs of second moment A (d, d):
    ``Tr(AΣ̂)/Tr(AΣ) − 1`` and the eigenvalue of ``Σ^{−½}Σ̂Σ^{−½} − I`` largest in size; infinite where Σ̂ has a direction
    that Σ has not. Raises WrongType, Refused for matrices that do not fit or ``Tr(AΣ) ≤ 0``.

    >>> miss(np.diag([1.0, 3.0]), np.eye(2), np.eye(2))
    Miss(loss=1.0, worst=2.0)
    """
    exact, features = symmetric("exact", exact), array("features", features, np.shape(exact))
    covariance = array("covariance", covariance, exact.shape)
    values, axes = np.linalg.eigh(exact)
    kept = values > 1e-11 * values[-1]
    if not (level := float(np.sum(features * exact))) > 0:
        raise Refused(f"Tr(AΣ) = {level:.6g}: errors are relative to it; give a Σ that is not zero")
    loss, turned = float(np.sum(features * covariance)) / level - 1, axes.T @ (covariance + covariance.T) @ axes / 2
    if np.abs(turned[~kept]).max(initial=0) > 1e-9 * np.abs(turned).max():
        return Miss(loss, np.inf)
    scale = np.sqrt(values[kept])
    ratios = np.linalg.eigvalsh(turned[np.ix_(kept, kept)] / np.outer(scale, scale)) - 1
    return Miss(loss, float(ratios[np.argmax(np.abs(ratios))]))


def bracket(descent: Descent) -> tuple[float, float]:
    """Bounds on Tr(AΣ) for every law of x, from moments of x alone: ``ℓ/(1 − η/η_mean)`` and ``ℓ/(1 − η/η_safe)``, the
    latter infinite for η ≥ η_safe, with ℓ the trace by `small_rate` and

        2/η_mean = ((1 − 1/b) Tr A² + E|x|⁴/b)/Tr A,    2/η_safe = (1 − 1/b) top + radius/b

    with top and radius of the population. The largest stable rate lies between η_safe and η_mean. For a number η, no
    momentum, no decay, and noise ``C_0 = (2L_0/b) A``, such as that of labels with one variance; raises WrongType, and
    Refused otherwise or for η ≥ η_mean.

    >>> [round(end, 6) for end in bracket(EXAMPLE)]  # one dimension: both are exact
    [0.125, 0.125]
    """
    law, eta, p = a_descent(descent).population, descent.lr[0, 0], float(descent.noise.strength)
    if descent.momentum or descent.decay.any() or not np.array_equal(descent.lr, eta * np.eye(len(descent.lr))):
        raise Refused("the bracket is for a number lr, without momentum and decay: solve with support.exact.stationary")
    if descent.noise.jitter or not np.allclose(descent.forcing, p * _loss(descent) * descent.hessian, rtol=1e-6):
        raise Refused("the noise at the minimum is not 2L₀A/b, which the bracket needs: solve for Σ instead")
    a, fourth = law.second_moment, float(np.trace(law.fourth(np.eye(len(law.optimum)))))
    mean = eta * ((1 - p) * np.sum(a * a) + p * fourth) / 2 / np.trace(a)
    safe = eta * ((1 - p) * law.top + p * law.radius) / 2
    if not mean < 1:
        raise Refused(f"lr = {eta:.6g} is unstable: the second moment ends below {eta / mean:.6g}; lower it")
    small = eta * p * _loss(descent) * np.trace(a) / 2
    return float(small / (1 - mean)), float(small / (1 - safe)) if safe < 1 else np.inf


def _loss(descent):
    """2L_0: twice the loss at θ*, without the penalty."""
    shift = descent.shift
    return float(2 * descent.population.least_loss + shift @ descent.population.second_moment @ shift)


def _batches(descent):
    """Whether the noise is one of batches, whose weights sum to one: what the literature's C/b is about."""
    return not a_descent(descent).noise.jitter


def _plain(descent):
    """Whether the noise is one of batches and Λ is symmetric and commutes with A, on the directions that move."""
    return (
        _batches(descent)
        and 0 < descent.noise.strength <= 1
        and shared_axes([descent.hessian, descent.rate]) is not None
    )


def _outside(descent, inner):
    """Σ (r, r) on the directions that move as one (d, d); None stays None."""
    return None if inner is None else descent.lift @ inner @ descent.lift.T


def _discrete(descent, noise):
    """Theorem 1: Σ (r, r) of a noise C (r, r) that does not change; None where the mean does not settle."""
    transition, kick = descent.transition
    if not np.abs(np.linalg.eigvals(transition)).max() < 1:
        return None
    r = len(noise)
    return Lyapunov(transition)(kick @ noise @ kick.T)[:r, :r]


def _continuous(descent, noise):
    """The same without the terms of second order in Λ."""
    pull = descent.rate @ descent.curvature
    if not np.linalg.eigvals(pull).real.min() > 0:
        return None
    return solve_continuous_lyapunov((1 - descent.momentum) * pull, descent.rate @ noise @ descent.rate.T)


def _of_noise(descent, noise, solve=_discrete):
    """Σ (d, d) of a noise that is a function of 1/b."""
    return _outside(descent, solve(descent, noise(float(descent.noise.strength)))) if _batches(descent) else None


def _closed(descent, printed):
    """Theorems 2 and 9, or with decay Theorem 4; None where they do not apply, or have no stationary moment."""
    if not _plain(descent):
        return None
    a, rate, mu, b = descent.hessian, descent.rate, descent.momentum, 1 / float(descent.noise.strength)
    lr, decay, loss = rate[0, 0], descent.decay, _loss(descent)
    try:
        if not decay.any():
            return _outside(descent, ziyin.label_noise(a, rate, b, loss, mu, printed=printed).covariance)
        exact_labels = descent.population.least_loss <= 1e-12 * loss
        if not exact_labels or not np.allclose(rate, lr * np.eye(len(a))) or shared_axes([a, decay]) is None:
            return None
        return ziyin.weight_decay(a, decay, descent.population.optimum, lr, b, mu, printed=printed).covariance
    except Refused:
        return None
