r"""The closed forms of Ziyin et al. (2022) for linear regression: Theorems 1 to 4, 8 and 9, the rows of Table 2 and the
limits of Appendix B, as printed and as they are true.

Gaussian inputs of covariance A, n → ∞, b samples a batch, learning rate η (or a matrix Λ), momentum μ. A function
takes the setting and gives `Forms`: Σ, the training and the test loss (on clean inputs and labels). Its ``column`` is

    exact        the result of the paper              large batch  its limit b → ∞ at a fixed η/b
    discrete     Hessian approximation, C ≈ H/b       small rate   the same for η → 0, too
    continuous   the same in continuous time

and ``printed=True`` gives the formula as printed where that is another. Outside of the stable region the formulas are
numbers without a meaning; `label_noise_stable` knows it. What judges them, without a closed form of the paper, is
`support.exact.stationary`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from support.errors import Refused, array, boolean, choice, real
from support.exact.matrices import a_momentum, commuting, multiple, ridge, symmetric

COLUMNS = ("exact", "discrete", "continuous", "large batch", "small rate")


class Forms(NamedTuple):
    """covariance Σ (d, d), training loss and test loss, each with its factor ½.

    >>> [round(value, 6) for value in label_noise([[1.5]], 1.0, 12, 0.25)[1:]]
    [0.1875, 0.0625]
    """

    covariance: np.ndarray
    train: float
    test: float


def theorem_1(lr, hessian, covariance, noise, momentum: float = 0.0) -> np.ndarray:
    """Left minus right side of Theorem 1, Eq. (3): ``(1−μ)(ΛHΣ + ΣHΛ) − (1+μ²)/(1−μ²) ΛHΣHΛ + μ/(1−μ²) (ΛHΛHΣ +
    ΣHΛHΛ) − ΛCΛ``, (d, d); zero for the stationary Σ and C. Λ and H symmetric, they need not commute.

    >>> theorem_1([[0.5]], [[1.0]], [[1.0]], [[3.0]]).tolist()  # 2ηh − η²h² = η² C
    [[0.0]]
    """
    hessian = symmetric("hessian", hessian)
    lr, covariance, noise = (
        symmetric(n, v, len(hessian)) for n, v in zip(_NAMES, (lr, covariance, noise), strict=True)
    )
    mu, one, pull = a_momentum(momentum), 1 - momentum**2, lr @ hessian
    first, second = pull @ covariance, pull @ pull @ covariance
    left = (1 - mu) * (first + first.T) - (1 + mu**2) / one * first @ pull.T + mu / one * (second + second.T)
    return left - lr @ noise @ lr


def lemma_1(features, covariance, b: float, variance: float) -> np.ndarray:
    """Lemma 1, Eq. (5): the step noise ``C = (AΣA + Tr[AΣ]A + σ²A)/b``; Proposition 9 with K for A and Tr[AK⁻¹BU] for
    σ².

    >>> lemma_1([[2.0]], [[0.5]], 4, 1.0).tolist()
    [[1.5]]
    """
    a = symmetric("features", features)
    covariance, b = symmetric("covariance", covariance, len(a)), real("b", b, 1)
    return (a @ covariance @ a + (np.sum(a * covariance) + real("variance", variance, 0)) * a) / b


def proposition_3(features, decay, target, covariance, b: float) -> np.ndarray:
    """Proposition 3, Eq. (10): with weight decay ``C = (AΣA + Tr[AΣ]A + Tr[Γ'ᵀAΓ'U]A + AΓ'UΓ'ᵀA)/b``, Γ' = K⁻¹Γ; the
    printed last term ΓA'UA'Γ is the same where A and Γ commute, and this one holds where they do not.

    >>> proposition_3([[1.0]], [[1.0]], [2.0], [[0.0]], 1).tolist()  # c = −1: C = 2c²
    [[2.0]]
    """
    a, gamma, u, k = ridge(features, decay, target)
    covariance, b = symmetric("covariance", covariance, len(a)), real("b", b, 1)
    moved = np.linalg.solve(k, gamma @ u)
    level = np.sum(a * covariance) + moved @ a @ moved
    return (a @ covariance @ a + level * a + np.outer(a @ moved, a @ moved)) / b


def label_noise(
    features, lr, b: float, variance: float, momentum: float = 0.0, *, column: str = "exact", printed: bool = False
) -> Forms:
    """Theorems 2 and 8, Table 2: label noise of variance σ², lr a number or a matrix that commutes with A.

    exact: ``Σ = (σ²/b)(1 + κ_μ/b) ΛG⁻¹``, ``G = 2(1−μ)I − ((1−μ)/(1+μ) + 1/b) ΛA``, ``κ_μ = t/(1 − t/b)``,
    ``t = Tr[ΛAG⁻¹]``. discrete and continuous leave σ² out of Σ (as in the paper) where printed, and have it in
    otherwise; discrete with μ is Corollary 3, ``G = 2(1−μ)I − (1−μ)/(1+μ) ΛA``. Losses: ``½Tr[AΣ] + ½σ²`` and
    ``½Tr[AΣ]``. Raises WrongType, Refused for bad shapes, b < 1, or matrices that do not commute.

    >>> label_noise([[1.5]], 1.0, 12, 0.25, column="discrete").covariance.round(6).tolist()  # half of the exact one
    [[0.041667]]
    """
    a = symmetric("features", features)
    rate, b, variance, mu = _rate(lr, len(a)), real("b", b, 1), real("variance", variance, 0), a_momentum(momentum)
    commuting(features=a, lr=rate)
    column, printed = choice("column", column, COLUMNS), boolean("printed", printed)
    kappa, g = 0.0, 2 * (1 - mu) * np.eye(len(a))
    if column in ("discrete", "large batch"):
        g = g - (1 - mu) / (1 + mu) * rate @ a
    elif column == "exact":
        kappa, g = kappa_mu(a, rate, b, mu)
    level = 1.0 if printed and column in ("discrete", "continuous") else variance
    covariance = level / b * (1 + kappa / b) * rate @ np.linalg.inv(g)
    test = float(np.sum(a * covariance) / 2)
    return Forms(covariance, test + variance / 2, test)


def kappa_mu(features, lr, b: float, momentum: float = 0.0) -> tuple[float, np.ndarray]:
    """κ_μ and G_μ of Theorem 2; the κ of Theorem 8 is κ_μ/η.

    >>> kappa, g = kappa_mu([[1.0]], 1.0, 3.0)
    >>> round(kappa, 6), g.round(6).tolist()  # t = 3/2
    (3.0, [[0.666667]])
    """
    g, t, b = _drag(features, lr, b, momentum)
    if t == b:
        raise Refused("Tr[ΛAG⁻¹] = b: this is the edge, where the fluctuation is infinite; lower lr")
    return t / (1 - t / b), g


def label_noise_stable(features, lr, b: float, momentum: float = 0.0) -> bool:
    """Whether the second moment exists: ``G_μ ≻ 0`` and ``Tr[ΛAG_μ⁻¹] < b``, for a positive rate that commutes with A.
    Section 6.2's "κ ≥ 0" alone is not enough.

    >>> label_noise_stable([[1.5]], 1.0, 7), label_noise_stable([[1.5]], 1.0, 6)
    (True, False)
    """
    g, t, b = _drag(features, lr, b, momentum)
    return bool(np.linalg.eigvalsh(g)[0] > 0 and t < b)


def theorem_3(features, lr, b: float, variance: float, momentum: float = 0.0) -> np.ndarray:
    """Theorem 3, Eq. (8): ``C = σ²A/b + (σ²/b²)(1 + κ_μ/b)(ΛAG⁻¹ + Tr[ΛAG⁻¹]I)A`` with label noise.

    >>> theorem_3([[1.0]], 1.0, 3.0, 1.0).round(6).tolist()  # Σ = 1: (2Σ + σ²)/3
    [[1.0]]
    """
    variance, (kappa, g) = real("variance", variance, 0), kappa_mu(features, lr, b, momentum)
    a = symmetric("features", features)
    rate = _rate(lr, len(a))
    share = np.linalg.solve(g, rate @ a)
    return variance / b * (a + (1 + kappa / b) / b * (share + np.trace(share) * np.eye(len(a))) @ a)


def input_noise(features, blur, target, lr: float, b: float, *, column: str = "exact", printed: bool = False) -> Forms:
    """Theorem 9, Table 2: inputs seen through Gaussian noise of covariance B, labels uᵀx, μ = 0, K = A + B,
    ``s = Tr[AK⁻¹BU]``, ``G' = 2I − η(1 + 1/b)K``, ``κ' = t/(1 − ηt/b)``, ``t = Tr[KG'⁻¹]``. A, B need not commute.

    exact: ``Σ = (ηs/b)(1 + ηκ'/b) G'⁻¹``, ``L_train = (s/2)(1 + ηκ'/b)``, ``L_test = ½Tr[AΣ] + ½Tr[B'ᵀAB'U]``,
    B' = K⁻¹B; printed has ``(ηs/2b) κ'`` for ½Tr[AΣ]. discrete, continuous: Σ without s where printed. The losses of
    these are ``½Tr[KΣ] + s/2`` and ``½Tr[AΣ] + ½Tr[B'ᵀAB'U]``. Raises as `label_noise`.

    >>> [round(input_noise([[1.0]], [[1.0]], [1.0], 0.2, 2, printed=p).test, 6) for p in (False, True)]
    [0.145833, 0.166667]
    """
    a = symmetric("features", features)
    noise, u = symmetric("blur", blur, len(a)), array("target", target, a.shape[:1])
    lr, b, k = real("lr", lr, above=0), real("b", b, 1), a + noise
    column, printed = choice("column", column, COLUMNS), boolean("printed", printed)
    missed = np.linalg.solve(k, noise @ u)  # B'u = u − θ*
    s, bias = float(u @ a @ missed), float(missed @ a @ missed) / 2
    own = label_noise(k, lr, b, s, column=column, printed=printed)
    test = np.sum(a * own.covariance) / 2
    if printed and column == "exact":
        test = s / 2 * kappa_mu(k, lr, b)[0] / b
    return Forms(own.covariance, own.train, float(test) + bias)


def weight_decay(
    features, decay, target, lr: float, b: float, *, column: str = "exact", printed: bool = False
) -> Forms:
    """Theorem 4, Table 2 and Appendix B.3: penalty ½ θᵀΓθ, labels uᵀx, μ = 0, K = A + Γ, [A, Γ] = 0. The training loss
    counts the penalty. Γ a number or a matrix, of any sign as long as SGD is stable.

    exact: ``G = 2I − η(K + K⁻¹A²/b)``, ``v = Tr[AK⁻²Γ²U]``, ``q = 1 − (η/b)Tr[A²K⁻¹G⁻¹]``, ``κ = Tr[A²K⁻¹G⁻¹]/q``,
    ``r = Tr[A³K⁻³Γ²G⁻¹U]/q``; ``L_test = (η/2b)(vκ + r) + v/2`` and L_train by Eq. (151). Σ in the eigenbasis of A, Γ:

        Σ_ij = (η/b) [c_i c_j a_i a_j + (Tr[AΣ] + v) a_i δ_ij] / (k_i + k_j − ηk_ik_j − (η/b)a_ia_j),   c = K⁻¹Γu

    printed: Eq. (12), true where [A, U] = 0, else not even symmetric. large batch, small rate: Eq. (39)-(41) and
    (45)-(47); printed has Tr[A(2I − ηK)⁻¹] in L_test for Tr[A²K⁻¹(2I − ηK)⁻¹], and Eq. (39), (45). discrete,
    continuous: C ≈ K/b. Raises as `label_noise`.

    >>> round(weight_decay([[4.0]], -2.53069, [1.0], 1.0, 64).test, 4)  # Figure 5
    16.5374
    """
    a, gamma, u, k = ridge(features, decay, target)
    axes = commuting(features=a, decay=gamma)
    lr, b = real("lr", lr, above=0), real("b", b, 1)
    column, printed = choice("column", column, COLUMNS), boolean("printed", printed)
    inverse, one, shift = np.linalg.inv(k), np.eye(len(a)), np.linalg.solve(k, gamma @ u)
    v, floor = float(shift @ a @ shift), float(u @ a @ inverse @ gamma @ u) / 2
    if column in ("discrete", "continuous"):
        g = 2 * one - lr * k if column == "discrete" else 2 * one
        covariance = lr / b * np.linalg.inv(g)
        return Forms(covariance, float(np.sum(k * covariance)) / 2 + floor, float(np.sum(a * covariance) + v) / 2)
    small = column == "small rate"
    g = 2 * one - (0 if small else lr) * k - (lr / b * inverse @ a @ a if column == "exact" else 0)
    solve, level = np.linalg.inv(g), lr / b
    gain = level * np.trace(a @ a @ inverse @ solve) if column == "exact" else 0.0
    kappa = np.trace(a @ a @ inverse @ solve) / (1 - gain)
    r = shift @ a @ a @ a @ inverse @ solve @ shift / (1 - gain)
    spread, lift = np.trace(a @ solve), (1 + level * kappa, level * r) if column == "exact" else (1.0, 0.0)
    train = level / 2 * (v * spread * lift[0] + shift @ a @ a @ solve @ shift + lift[1] * spread) + floor
    mean = level * (v * (spread if printed and column != "exact" else kappa) + r)
    if printed:
        rank = a @ a @ inverse @ inverse @ gamma @ gamma @ np.outer(u, u)
        covariance = level * (v * lift[0] * a + rank + lift[1] * a) @ inverse @ solve
    else:
        covariance = _entries(axes, a, k, shift, level, lr, v, lift, column)
    return Forms(covariance, float(train), float(mean + v) / 2)


def _entries(axes, a, k, shift, level, lr, v, lift, column):
    """Eq. (154) solved entry by entry in the eigenbasis of A and Γ; without what the column drops."""
    eigen, stiff = (np.diag(axes.T @ m @ axes) for m in (a, k))
    moved = eigen * (axes.T @ shift)
    below = np.add.outer(stiff, stiff)
    if column != "small rate":
        below = below - lr * np.outer(stiff, stiff)
    if column == "exact":
        below = below - level * np.outer(eigen, eigen)
    return axes @ (level * (np.outer(moved, moved) + np.diag((v * lift[0] + lift[1]) * eigen)) / below) @ axes.T


_NAMES = ("lr", "covariance", "noise")


def _rate(lr, d):
    """Λ, symmetric."""
    return symmetric("lr", multiple("lr", lr, d, above=0))


def _drag(features, lr, b, momentum):
    """G_μ, Tr[ΛAG_μ⁻¹] and b."""
    a = symmetric("features", features)
    rate, b, mu = _rate(lr, len(a)), real("b", b, 1), a_momentum(momentum)
    commuting(features=a, lr=rate)
    g = 2 * (1 - mu) * np.eye(len(a)) - ((1 - mu) / (1 + mu) + 1 / b) * rate @ a
    if not np.linalg.cond(g, 1) < 1e14:
        raise Refused("G = 2(1−μ)I − ((1−μ)/(1+μ) + 1/b)ΛA is singular: the formula ends here; lower lr")
    return g, float(np.trace(np.linalg.solve(g, rate @ a))), b
