r"""What Ziyin et al. (2022) make of their theorems, as printed and as it is true: weight decay in one dimension
(Corollary 4), noise at general minima (Theorem 5, Corollaries 2 and 3), many dimensions (Proposition 4, Theorem 6),
second-order methods (Propositions 5 and 6), the scaling of rate and batch (Section 6.5).

Symbols and shapes as in `support.exact.ziyin`; a: variance of the inputs in one dimension. The tail index is in
`support.exact.tails`.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special
from scipy.optimize import brentq

from support.errors import Refused, array, boolean, choice, integer, real
from support.exact.matrices import a_momentum, commuting, first_edge, positive, ridge, symmetric
from support.exact.populations import FinitePopulation
from support.exact.ziyin import stable_rate


def decay_losses(decay: float, a: float, lr: float, b: float, target: float = 1.0) -> tuple[float, float]:
    """Corollary 4, Eq. (159), (160): training loss with the penalty and test loss, for labels ux, with k = a + γ and
    ``D = 2k − η[k² + 2a²/b]``: ``aγ/(2k) (2k − η[k² + 2a(a−γ)/b])/D u²`` and ``aγ²/(2k) (2 − ηk)/D u²``.
    Raises Refused outside of `decay_ends`, where they are infinite.

    >>> [round(loss, 4) for loss in decay_losses(-2.53069, 4.0, 1.0, 64)]  # Figure 5
    [0.4505, 16.5374]
    """
    decay, a, lr, b = real("decay", decay), real("a", a, above=0), real("lr", lr, above=0), real("b", b, 1)
    k, scale = a + decay, real("target", target) ** 2
    stable_rate([[a]], lr, b, decay=decay)
    below = 2 * k - lr * (k * k + 2 * a * a / b)
    train = a * decay / (2 * k) * (2 * k - lr * (k * k + 2 * a * (a - decay) / b)) / below
    return train * scale, a * decay**2 / (2 * k) * (2 - lr * k) / below * scale


def decay_ends(a: float, lr: float, b: float) -> tuple[float, float]:
    """Eq. (163): SGD is stable for γ strictly between ``(1 − aη ∓ √(1 − 2a²η²/b))/η``. Raises Refused where
    ``aη ≥ √(b/2)``, Eq. (164): no decay is stable.

    >>> [round(end, 5) for end in decay_ends(1.0, 0.5, 1)]  # Figure 3, right
    [-0.41421, 2.41421]
    """
    a, lr, b = real("a", a, above=0), real("lr", lr, above=0), real("b", b, 1)
    root = 1 - 2 * (a * lr) ** 2 / b
    if not root > 0:
        raise Refused(f"aη = {a * lr:.6g} is not below √(b/2) = {math.sqrt(b / 2):.6g}: no decay is stable; lower lr")
    return (1 - a * lr - math.sqrt(root)) / lr, (1 - a * lr + math.sqrt(root)) / lr


def best_decay(a: float, lr: float, b: float) -> float:
    """The γ in the stable window with the smallest test loss, Eq. (160): 0 where 0 is stable, else the root of the
    derivative. Raises as `decay_ends`.

    >>> round(best_decay(4.0, 1.0, 64), 5), best_decay(1.0, 0.5, 1)
    (-2.53069, 0.0)
    """
    low, high = decay_ends(a, lr, b)
    if low < 0 < high:
        return 0.0

    def slope(decay):
        """Derivative of log(γ²(2 − ηk)/(kD)), up to the factor γ that keeps it finite."""
        k = a + decay
        below = 2 * k - lr * (k * k + 2 * a * a / b)
        return 2 / decay - lr / (2 - lr * k) - 1 / k - (2 - 2 * lr * k) / below

    inside = 1e-9 * (high - low)
    return float(brentq(slope, low + inside, high - inside, xtol=1e-13 * (high - low), rtol=1e-13))


def negative_decay(scale: float, b: int, printed: bool = False) -> bool:
    """Eq. (168): whether the best decay is negative, from aη = scale: ``2b/(b+2) < aη < √(b/2)`` and b ≥ 3; printed:
    b ≠ 2.

    >>> negative_decay(0.69, 1), negative_decay(0.69, 1, printed=True), negative_decay(1.2124, 3)
    (False, True, True)
    """
    scale, b = real("scale", scale, above=0), integer("b", b, 1)
    allowed = b != 2 if boolean("printed", printed) else b >= 3
    return 2 * b / (b + 2) < scale < math.sqrt(b / 2) and allowed


def decay_quotient(features, decay: float, target, lr: float, b: float) -> tuple[float, float]:
    """Eq. (170), (171): f and g with test loss ½f/g for Γ = γI: ``f = γ² Tr[AK⁻²(I + (η/b)A²K⁻¹G⁻¹)U]``,
    ``g = 1 − (η/b)Tr[A²K⁻¹G⁻¹]``, ``G = 2I − η(K + K⁻¹A²/b)``. At the best γ f'/f = g'/g.

    >>> f, g = decay_quotient([[4.0]], -2.53069, [1.0], 1.0, 64)
    >>> round(f / g / 2, 4)
    16.5374
    """
    a, _, u, k = ridge(positive("features", features), real("decay", decay), target)
    lr, b, one = real("lr", lr, above=0), real("b", b, 1), np.eye(len(a))
    stable_rate(a, lr, b, decay=decay)
    inverse = np.linalg.inv(k)
    share = lr / b * a @ a @ inverse @ np.linalg.inv(2 * one - lr * (k + inverse @ a @ a / b))
    return float(decay**2 * u @ a @ inverse @ inverse @ (one + share) @ u), float(1 - np.trace(share))


def theorem_5(loss: float, hessian, gradient, penalty, b: float, printed: bool = False) -> np.ndarray:
    """Theorem 5, Eq. (14): ``C = 2L_0H_0/b − vvᵀ/b`` with v = ∇L_0, (d,); printed: v = ∇L_Γ = ∇L_0 + Γθ, with the
    penalty's gradient Γθ, (d,).

    >>> [theorem_5(0.5, [[1.0]], [1.0], [-1.0], 2, printed=p).tolist() for p in (False, True)]
    [[[0.0]], [[0.5]]]
    """
    h, b, loss = symmetric("hessian", hessian), real("b", b, 1), real("loss", loss, 0)
    v, pull = (array(n, x, h.shape[:1]) for n, x in (("gradient", gradient), ("penalty", penalty)))
    v = v + pull if boolean("printed", printed) else v
    return (2 * loss * h - np.outer(v, v)) / b


def corollary_2(hessian, b: float, loss: float, penalty=None, gaussian: bool = False) -> np.ndarray:
    """Corollary 2, Eq. (15), (16): at a minimum of loss L_0 ``C = 2L_0H_0/b − (Γθ*)(Γθ*)ᵀ/b``, penalty Γθ* (d,) left
    out without regularisation. gaussian: the + that Gaussian linear regression has, where Assumption 2 fails.

    >>> a, gamma, u = 1.0, 0.5, 1.0  # one dimension: L_0 = ½a(θ* − u)², θ* = au/(a + γ)
    >>> [corollary_2([[a]], 1, a / 18, [gamma * 2 / 3], g).round(6).tolist() for g in (False, True)]
    [[[0.0]], [[0.222222]]]
    """
    h, b, loss = symmetric("hessian", hessian), real("b", b, 1), real("loss", loss, 0)
    pull = np.zeros(len(h)) if penalty is None else array("penalty", penalty, h.shape[:1])
    return (2 * loss * h + _sign(gaussian) * np.outer(pull, pull)) / b


def corollary_2_zero(hessian, covariance, b: float, gaussian: bool = False) -> np.ndarray:
    """Corollary 2, Eq. (17): at a minimum of loss 0 ``C = (Tr[H_0Σ]I − H_0Σ)H_0/b``. gaussian: with the + of Lemma 1.

    >>> [corollary_2_zero(np.eye(3), np.eye(3), 1, g)[0, 0].item() for g in (False, True)]  # d ∓ 1
    [2.0, 4.0]
    """
    h, b = symmetric("hessian", hessian), real("b", b, 1)
    covariance = symmetric("covariance", covariance, len(h))
    return (np.sum(h * covariance) * h + _sign(gaussian) * h @ covariance @ h) / b


def corollary_3(
    hessian, decay, minimum, loss: float, lr: float, b: float, momentum: float = 0.0, *, printed=False, gaussian=False
) -> np.ndarray:
    """Corollary 3 with regularisation, scalar rate, [H_0, Γ] = 0, θ* the minimum (d,), K = H_0 + Γ nonsingular. With
    ``N = 2L_0H_0 − Γθ*θ*ᵀΓ`` printed: ``Σ = η/(b(1−μ)) N K⁻¹[2I − ηK/(1+μ)]⁻¹``, true where θ* is a common eigenvector.
    Otherwise entry by entry in the common eigenbasis, ℓ = ηk:

        Σ_ij = (η²/b) N_ij / [(1−μ)(ℓ_i+ℓ_j) − ((1+μ²)ℓ_iℓ_j − μ(ℓ_i²+ℓ_j²))/(1−μ²)]

    gaussian: + in N. Raises WrongType, Refused for matrices that do not commute, a singular K, a rate at which the mean
    does not settle.

    >>> corollary_3([[1.0]], 0.5, [2 / 3], 1 / 18, 0.3, 1, gaussian=True).round(4).tolist()
    [[0.0287]]
    """
    h, gamma, theta, k = ridge(hessian, decay, minimum)
    axes = commuting(hessian=h, decay=gamma)
    lr, mu, noise = real("lr", lr, above=0), a_momentum(momentum), corollary_2(h, b, loss, gamma @ theta, gaussian)
    pull = lr * np.diag(axes.T @ k @ axes)
    if not 0 < pull.min() <= pull.max() < 2 * (1 + mu):
        raise Refused(
            f"lr K has eigenvalues from {pull.min():.3g} to {pull.max():.3g}, the mean settles for 0 to 2(1 + μ) only: "
            f"take K positive and lr below {2 * (1 + mu) / np.abs(pull).max() * lr:.6g}"
        )
    if boolean("printed", printed):
        return lr / (1 - mu) * noise @ np.linalg.inv(k @ (2 * np.eye(len(h)) - lr / (1 + mu) * k))
    squares, products = np.add.outer(pull**2, pull**2), np.outer(pull, pull)
    below = (1 - mu) * np.add.outer(pull, pull) - ((1 + mu * mu) * products - mu * squares) / (1 - mu * mu)
    return axes @ (lr * lr * (axes.T @ noise @ axes) / below) @ axes.T


def proposition_4(hessian, covariance, b: float, variance: float, alpha: float) -> np.ndarray:
    """Proposition 4, Eq. (79): ``C = (Tr[ÂΣ]I − ÂΣ)Â/b + max(0, 1 − 1/α) σ²Â/b``, α = n/d, Â = XᵀX/n.

    >>> proposition_4(np.eye(2), np.zeros((2, 2)), 4, 1.0, 2.0)[0, 0].item()
    0.125
    """
    own = real("variance", variance, 0) * max(0.0, 1 - 1 / real("alpha", alpha, above=0))
    return corollary_2_zero(hessian, covariance, b) + own / b * np.asarray(hessian, float)


def theorem_6(hessian, lr: float, b: float, variance: float, alpha: float, fixed_dimension: bool = False) -> np.ndarray:
    """Theorem 6, Eq. (81), (82): ``Σ = (ησ²/b)(1 − 1/α)₊ (1 + ηκ/b) G⁻¹``, ``κ = t/(1 − ηt/b)``, ``t = Tr[G⁻¹Â]``,
    ``G = 2I − η(1 − 1/b)Â``, in many dimensions; fixed_dimension: with Theorem 2's 1 + 1/b, the better choice for the
    edge at finite d. Raises WrongType, Refused where it is no covariance: G ≻ 0 and ηt < b are both needed.

    >>> theorem_6(np.eye(2), 0.5, 4, 1.0, 2.0).round(6).tolist()  # G = 1.625, t = 2/G
    [[0.045455, 0.0], [0.0, 0.045455]]
    """
    h = positive("hessian", hessian)
    lr, b, alpha = real("lr", lr, above=0), real("b", b, 1), real("alpha", alpha, above=0)
    drag = 1 + 1 / b if boolean("fixed_dimension", fixed_dimension) else 1 - 1 / b
    g = 2 * np.eye(len(h)) - lr * drag * h
    share = lr / b * float(np.trace(np.linalg.solve(g, h))) if np.linalg.eigvalsh(g)[0] > 0 else math.inf
    if not share < 1:
        values = np.maximum(np.linalg.eigvalsh(h), 0)
        edge = first_edge(drag * values, values / b, 2.0)
        raise Refused(
            f"no stationary covariance, since G ≻ 0 and (η/b)Tr[G⁻¹Â] < 1 are needed: lower lr below {edge:.6g}"
        )
    own = real("variance", variance, 0) * max(0.0, 1 - 1 / alpha)
    return lr * own / b / (1 - share) * np.linalg.inv(g)


def many_dimensions_edge(a: float, d: int, b: float, form: str = "theorem 6") -> float:
    """Section 6.2: the largest rate for d equal eigenvalues a: "theorem 6" ``2b/(a(d+b−1))``, "theorem 2"
    ``2b/(a(d+b+1))``, which is exact for Gaussian inputs and n → ∞, "printed" the order ``2b/(ad)``.

    >>> [round(many_dimensions_edge(1.0, 60, 60, f), 4) for f in ("printed", "theorem 6", "theorem 2")]
    [2.0, 1.0084, 0.9917]
    """
    a, d, b = real("a", a, above=0), integer("d", d, 1), real("b", b, 1)
    form = choice("form", form, ("theorem 6", "theorem 2", "printed"))
    return 2 * b / (a * (d + {"theorem 6": b - 1, "theorem 2": b + 1, "printed": 0}[form]))


def averaged_labels(inputs, variance: float) -> FinitePopulation:
    """A data set (n, d) with labels of independent noise, averaged over that noise: the noise moment is
    ``σ²/n Σ_i (1 − h_i) x_i x_iᵀ``, h_i the leverages, and the least loss ``½σ²(1 − rank/n)``, Eq. (75)-(78).

    Its stationary second moment without weight decay is the mean over the labels, since it is linear in the noise
    moment; with one it is refused. Raises as `FinitePopulation`.

    >>> averaged_labels([[1.0], [1.0]], 1.0).noise_moment.tolist()
    [[0.5]]
    """
    inputs = array("inputs", inputs, ("n", "d"))
    population, variance = FinitePopulation(inputs, np.zeros(len(inputs))), real("variance", variance, 0)
    values, axes = population.spectrum
    leverage = np.sum((inputs @ axes) ** 2 / values, axis=1) / len(inputs)
    population.noise_moment = variance * (inputs.T * np.maximum(1 - leverage, 0)) @ inputs / len(inputs)
    population.least_loss = variance / 2 * (1 - population.rank / len(inputs))
    population.averaged = True
    return population


def newton(features, lr: float, b: float, variance: float, momentum: float = 0.0) -> np.ndarray:
    """Proposition 5: damped Newton, Λ = ηA⁻¹: ``Σ = ησ²/(gb − ηd) A⁻¹``, ``g = 2(1−μ) − ((1−μ)/(1+μ) + 1/b)η``. Stable
    for ``gb > ηd`` and g > 0, that is ``b(2(1−μ) − η(1−μ)/(1+μ)) > η(d+1)``; raises Refused beyond.

    >>> newton([[2.0]], 0.5, 4, 1.0).round(6).tolist()
    [[0.05]]
    """
    a, lr = positive("features", features, strictly=True), real("lr", lr, above=0)
    b, mu, variance = real("b", b, 1), a_momentum(momentum), real("variance", variance, 0)
    g = 2 * (1 - mu) - ((1 - mu) / (1 + mu) + 1 / b) * lr
    if not (g > 0 and g * b > lr * len(a)):
        edge = 2 * (1 - mu) * b / (b * (1 - mu) / (1 + mu) + len(a) + 1)
        raise Refused(f"lr = {lr} is unstable, b(2(1−μ) − η(1−μ)/(1+μ)) > η(d+1) is needed: take it below {edge:.6g}")
    return lr * variance / (g * b - lr * len(a)) * np.linalg.inv(a)


def natural_gradient(features, lr: float, b: float, variance: float, momentum: float = 0.0) -> np.ndarray:
    """Proposition 6: natural gradient, Λ = (η/b)C⁻¹ with the averaged noise C: ``Σ = xA⁻¹``,
    ``x = ¼[ηg − 2s + √(η²g² + 4η(g − 2/((1+d)(1+μ)))s + 4s²)]``, ``s = σ²/(1+d)``,
    ``g = 1/((1+d)(1+μ)) + 1/(b(1−μ))``; at σ = 0 ``x = ηg/2``, which is marginal. Its Λ is `natural_rate` times A⁻¹.

    >>> natural_gradient(np.eye(5), 0.1, 4, 0.0)[0, 0].round(6).item()
    0.020833
    """
    a, lr = positive("features", features, strictly=True), real("lr", lr, above=0)
    return _natural(len(a), lr, b, variance, momentum) * np.linalg.inv(a)


def natural_rate(d: int, lr: float, b: float, variance: float, momentum: float = 0.0) -> float:
    """ℓ with Λ = ℓA⁻¹ for natural gradient descent at Proposition 6: ``ℓ = η/((1+d)x + σ²)``; Newton's method at this
    rate, stable for every η, b and d as long as σ > 0.

    >>> round(natural_rate(5, 0.1, 4, 1.0), 6)
    0.092709
    """
    d, x = integer("d", d, 1), _natural(integer("d", d, 1), real("lr", lr, above=0), b, variance, momentum)
    return lr / ((1 + d) * x + variance)


def _natural(d, lr, b, variance, momentum):
    b, mu, s = real("b", b, 1), a_momentum(momentum), real("variance", variance, 0) / (1 + d)
    own = 1 / ((1 + d) * (1 + mu))
    g = own + 1 / (b * (1 - mu))
    return (lr * g - 2 * s + math.sqrt((lr * g) ** 2 + 4 * lr * (g - 2 * own) * s + 4 * s * s)) / 4


def at_fixed_ratio(features, ratio: float, lr: float, variance: float, momentum: float = 0.0) -> np.ndarray:
    """Section 6.5 with ρ = η/b: ``Σ = ρσ²/(1 − ρTr[AG⁻¹]) G⁻¹``, ``G = 2(1−μ)I − ρA − η(1−μ)/(1+μ) A``. At a fixed ρ
    the batch enters through η = ρb alone, so that the rule of scaling η with b gets better at small b; lr = 0 is its
    limit. Raises WrongType, Refused where it is no covariance.

    >>> at_fixed_ratio([[1.0]], 0.25, 1.0, 1.0).round(6).tolist()  # b = 4
    [[0.5]]
    """
    a, ratio, lr, mu = (
        positive("features", features, strictly=True),
        real("ratio", ratio, above=0),
        real("lr", lr, 0),
        a_momentum(momentum),
    )
    g = 2 * (1 - mu) * np.eye(len(a)) - (ratio + lr * (1 - mu) / (1 + mu)) * a
    share = ratio * float(np.trace(np.linalg.solve(g, a))) if np.linalg.eigvalsh(g)[0] > 0 else math.inf
    if not share < 1:
        raise Refused(f"lr = {lr} at ratio = {ratio} is unstable: lower one of them")
    return ratio * real("variance", variance, 0) / (1 - share) * np.linalg.inv(g)


def student(beta: float, a: float, variance: float) -> tuple[float, float]:
    """Eq. (95), (96): ``∫(σ² + aθ²)^(−(1+β)/2) dθ = σ^(−β) √(π/a) Γ(β/2)/Γ((1+β)/2)`` for β > 0 and the law's variance
    ``σ²/(a(β−2))``, ∞ for β ≤ 2.

    >>> [round(value, 6) for value in student(3.0, 1.0, 1.0)]  # π/2
    [1.570796, 1.0]
    """
    beta, a, variance = real("beta", beta, above=0), real("a", a, above=0), real("variance", variance, above=0)
    norm = math.sqrt(math.pi / a) * math.exp(special.gammaln(beta / 2) - special.gammaln((1 + beta) / 2))
    return norm * variance ** (-beta / 2), variance / (a * (beta - 2)) if beta > 2 else math.inf


def _sign(gaussian):
    return 1 if boolean("gaussian", gaussian) else -1
