r"""The closed forms of Ziyin et al. (2022) for linear regression: Theorems 1 to 4, 8 and 9, the rows of Table 2 and the
limits of Appendix B, as printed and as they are true.

Gaussian inputs of covariance A, n → ∞, b samples a batch, learning rate η (or a matrix Λ), momentum μ. A function
takes the setting and gives `Forms`: Σ, the training and the test loss (on clean inputs and labels). Its ``column`` is

    exact        the result of the paper              large batch  its limit b → ∞ at a fixed η/b
    discrete     Hessian approximation, C ≈ H/b       small rate   the same for η → 0, too
    continuous   the same in continuous time

and ``printed=True`` gives the formula as printed where that is another. Where a column has no stationary moment it
refuses, with the edge of the rate, `largest_factor`. What judges all of them, without a closed form of the paper, is
`support.exact.stationary`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from support.errors import Refused, array, boolean, choice, integer, real
from support.exact.matrices import a_momentum, commuting, first_edge, multiple, positive, ridge, symmetric

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
    a = positive("features", features)
    covariance, b = symmetric("covariance", covariance, len(a)), real("b", b, 1)
    return (a @ covariance @ a + (np.sum(a * covariance) + real("variance", variance, 0)) * a) / b


def proposition_3(features, decay, target, covariance, b: float) -> np.ndarray:
    """Proposition 3, Eq. (10): with weight decay ``C = (AΣA + Tr[AΣ]A + Tr[Γ'ᵀAΓ'U]A + AΓ'UΓ'ᵀA)/b``, Γ' = K⁻¹Γ; the
    printed last term ΓA'UA'Γ is the same where A and Γ commute, and this one holds where they do not.

    >>> proposition_3([[1.0]], [[1.0]], [2.0], [[0.0]], 1).tolist()  # c = −1: C = 2c²
    [[2.0]]
    """
    a, gamma, u, k = ridge(positive("features", features), decay, target)
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
    ``½Tr[AΣ]``. Raises WrongType, Refused for bad shapes, b < 1, an A that is singular or indefinite, matrices that do
    not commute, and a rate beyond `largest_factor`.

    >>> label_noise([[1.5]], 1.0, 12, 0.25, column="discrete").covariance.round(6).tolist()  # half of the exact one
    [[0.041667]]
    """
    a, variance, printed = (
        positive("features", features, strictly=True),
        real("variance", variance, 0),
        boolean("printed", printed),
    )
    rate, column = stable_rate(a, lr, b, momentum, column=column), choice("column", column, COLUMNS)
    b, mu = float(b), float(momentum)
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


def largest_factor(features, lr, b: float, momentum: float = 0.0, decay=0.0, column: str = "exact") -> float:
    """The factor by which lr may grow before the second moment ceases to exist, for a positive Λ that commutes with A
    and Γ. With ``ℓ = λk``, ``s = λa`` and ``k = a + γ`` in their eigenbasis it is the f where, first of the two,

        g = 2(1−μ) − f [(1−μ)/(1+μ) ℓ + s²/(bℓ)] has a zero,      (f/b) Σ s²/(ℓg) = 1

    discrete, large batch: the first without 1/b; continuous, small rate: ∞. `support.exact.stationary.headroom` finds
    it without a formula. Raises WrongType, Refused where K is not positive, so that no factor will do.

    >>> largest_factor([[1.5]], 1.0, 12)  # 2b/(a(b + 2))
    1.1428571428571428
    >>> round(0.1 * largest_factor([[4.0]], 0.1, 64, decay=-2.53069), 6)  # 2k/(k² + 2a²/b), Figure 5
    1.105213
    """
    a = positive("features", features)
    rate, gamma = _rate(lr, len(a)), symmetric("decay", multiple("decay", decay, len(a)))
    axes = commuting(features=a, lr=rate, decay=gamma)
    b, mu, column = real("b", b, 1), a_momentum(momentum), choice("column", column, COLUMNS)
    s, pull = (np.einsum("ij,ij->j", axes, m @ axes) for m in (rate @ a, rate @ (a + gamma)))
    if not pull.min() > 0:
        raise Refused("no lr is stable: K = A + Γ has an eigenvalue that does not pull back; raise the decay")
    if column in ("continuous", "small rate"):
        return math.inf
    noise = s * s / (b * pull) * (column == "exact")
    return first_edge((1 - mu) / (1 + mu) * pull + noise, noise, 2 * (1 - mu))


def stable_rate(features, lr, b: float, momentum: float = 0.0, decay=0.0, column: str = "exact") -> np.ndarray:
    """Λ as a matrix (d, d). Raises as `largest_factor`, and Refused beyond it, where the second moment does not exist.

    >>> stable_rate([[1.5]], 1.0, 12).tolist()
    [[1.0]]
    """
    if not (edge := largest_factor(features, lr, b, momentum, decay, column)) > 1:
        limit = f"{edge * lr:.6g}" if np.ndim(lr) == 0 else f"{edge:.6g} times the given one"
        raise Refused(f"lr is unstable, the second moment does not exist: take it below {limit}, or a larger batch")
    return _rate(lr, len(features))


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
    a, variance = positive("features", features, strictly=True), real("variance", variance, 0)
    rate = stable_rate(a, lr, b, momentum)
    kappa, g = kappa_mu(a, rate, b, momentum)
    share = np.linalg.solve(g, rate @ a)
    return variance / b * (a + (1 + kappa / b) / b * (share + np.trace(share) * np.eye(len(a))) @ a)


def input_noise(
    features, blur, target, lr: float, b: float, momentum: float = 0.0, *, column: str = "exact", printed: bool = False
) -> Forms:
    """Theorem 9, Table 2: inputs seen through Gaussian noise of covariance B, labels uᵀx, K = A + B,
    ``s = Tr[AK⁻¹BU]``, ``G' = 2I − η(1 + 1/b)K``, ``κ' = t/(1 − ηt/b)``, ``t = Tr[KG'⁻¹]``. A, B need not commute.

    exact: ``Σ = (ηs/b)(1 + ηκ'/b) G'⁻¹``, ``L_train = (s/2)(1 + ηκ'/b)``, ``L_test = ½Tr[AΣ] + ½Tr[B'ᵀAB'U]``,
    B' = K⁻¹B; printed has ``(ηs/2b) κ'`` for ½Tr[AΣ]. discrete, continuous: Σ without s where printed. The losses of
    these are ``½Tr[KΣ] + s/2`` and ``½Tr[AΣ] + ½Tr[B'ᵀAB'U]``. The paper has μ = 0; momentum makes it Theorem 2 with K
    for A and s for σ². Raises as `label_noise`.

    >>> [round(input_noise([[1.0]], [[1.0]], [1.0], 0.2, 2, printed=p).test, 6) for p in (False, True)]
    [0.145833, 0.166667]
    """
    a = positive("features", features)
    noise, u = positive("blur", blur, len(a)), array("target", target, a.shape[:1])
    lr, b, k = real("lr", lr, above=0), real("b", b, 1), a + noise
    missed = np.linalg.solve(k, noise @ u)  # B'u = u − θ*
    s, bias = float(u @ a @ missed), float(missed @ a @ missed) / 2
    own = label_noise(k, lr, b, s, momentum, column=column, printed=printed)
    test = np.sum(a * own.covariance) / 2
    if printed and column == "exact":
        test = s / 2 * kappa_mu(k, lr, b, momentum)[0] / b
    return Forms(own.covariance, own.train, float(test) + bias)


def weight_decay(
    features, decay, target, lr: float, b: float, momentum: float = 0.0, *, column: str = "exact", printed: bool = False
) -> Forms:
    """Theorem 4, Table 2 and Appendix B.3: penalty ½ θᵀΓθ, labels uᵀx, K = A + Γ, [A, Γ] = 0. The training loss counts
    the penalty. Γ a number or a matrix, of any sign as long as SGD is stable.

    exact: ``G = 2I − η(K + K⁻¹A²/b)``, ``v = Tr[AK⁻²Γ²U]``, ``q = 1 − (η/b)Tr[A²K⁻¹G⁻¹]``, ``κ = Tr[A²K⁻¹G⁻¹]/q``,
    ``r = Tr[A³K⁻³Γ²G⁻¹U]/q``; ``L_test = (η/2b)(vκ + r) + v/2`` and L_train by Eq. (151). Σ in the eigenbasis of A, Γ:

        Σ_ij = (η/b) [c_i c_j a_i a_j + (Tr[AΣ] + v) a_i δ_ij] / (k_i + k_j − ηk_ik_j − (η/b)a_ia_j),   c = K⁻¹Γu

    printed: Eq. (12), true where [A, U] = 0, else not even symmetric. large batch, small rate: Eq. (39)-(41) and
    (45)-(47), without 1/b in G and q, and without η; printed has Tr[AG⁻¹] for Tr[A²K⁻¹G⁻¹] in L_test. discrete,
    continuous: C ≈ K/b. The paper has μ = 0; with momentum ``2I − ηK`` is ``2(1−μ)I − η(1−μ)/(1+μ) K`` and
    ``k_i + k_j − ηk_ik_j`` is ``(1−μ)(k_i+k_j) − η[(1+μ²)k_ik_j − μ(k_i²+k_j²)]/(1−μ²)``. Raises as `label_noise`.

    >>> round(weight_decay([[4.0]], -2.53069, [1.0], 1.0, 64).test, 4)  # Figure 5
    16.5374
    """
    a, gamma, u, k = ridge(positive("features", features), decay, target)
    axes, lr, printed = commuting(features=a, decay=gamma), real("lr", lr, above=0), boolean("printed", printed)
    b, mu, column = real("b", b, 1), a_momentum(momentum), choice("column", column, COLUMNS)
    stable_rate(a, lr, b, mu, gamma, column)
    level, inverse, shift = lr / b, np.linalg.inv(k), np.linalg.solve(k, gamma @ u)
    time = lr if column in ("exact", "discrete", "large batch") else 0.0  # what the column keeps of η and of 1/b
    again = level if column == "exact" else 0.0
    g = 2 * (1 - mu) * np.eye(len(a)) - time * (1 - mu) / (1 + mu) * k - again * inverse @ a @ a
    solve = np.linalg.inv(g)
    v, floor = float(shift @ a @ shift), float(u @ a @ inverse @ gamma @ u) / 2
    if column in ("discrete", "continuous"):
        covariance = level * solve
        return Forms(covariance, float(np.sum(k * covariance)) / 2 + floor, float(np.sum(a * covariance) + v) / 2)
    stiff = np.trace(a @ a @ inverse @ solve)
    q = 1 - again * stiff
    kappa, r = stiff / q, shift @ a @ a @ a @ inverse @ solve @ shift / q
    spread, lifted = np.trace(a @ solve), v * (1 + again * kappa) + again * r
    train = level / 2 * (lifted * spread + shift @ a @ a @ solve @ shift) + floor
    test = level / 2 * (v * (spread if printed and column != "exact" else kappa) + r) + v / 2
    if printed:
        rank = a @ a @ inverse @ inverse @ gamma @ gamma @ np.outer(u, u)
        return Forms(level * (lifted * a + rank) @ inverse @ solve, float(train), float(test))
    eigen, pull = (np.diag(axes.T @ m @ axes) for m in (a, k))
    moved = eigen * (axes.T @ shift)
    sums, squares = np.add.outer(pull, pull), np.add.outer(pull**2, pull**2)
    below = (1 - mu) * sums - time * ((1 + mu * mu) * np.outer(pull, pull) - mu * squares) / (1 - mu * mu)
    entries = level * (np.outer(moved, moved) + np.diag(lifted * eigen)) / (below - again * np.outer(eigen, eigen))
    return Forms(axes @ entries @ axes.T, float(train), float(test))


def proposition_8(gradients, b: int, replace: bool = True) -> np.ndarray:
    """Propositions 1 and 8: the covariance of the mean of b of n gradients (n, d), ``C_1/b`` with replacement and
    ``(n−b)/(b(n−1)) C_1`` without, ``C_1 = Σ_i g_i g_iᵀ/n − ḡḡᵀ``, at every n. Raises WrongType, Refused for b out of
    range.

    >>> [proposition_8([[1.0], [3.0]], 2, replace).tolist() for replace in (True, False)]
    [[[0.5]], [[0.0]]]
    """
    gradients = array("gradients", gradients, ("n", "d"))
    n, replace = len(gradients), boolean("replace", replace)
    b = integer("b", b, 1, None if replace else n)
    mean = gradients.mean(0)
    one = gradients.T @ gradients / n - np.outer(mean, mean)
    return one / b if replace else one * (n - b) / (b * max(n - 1, 1))


_NAMES = ("lr", "covariance", "noise")


def _rate(lr, d):
    """Λ, symmetric and positive."""
    return positive("lr", multiple("lr", lr, d, above=0), strictly=True)


def _drag(features, lr, b, momentum):
    """G_μ, Tr[ΛAG_μ⁻¹] and b."""
    a = symmetric("features", features)
    rate, b, mu = _rate(lr, len(a)), real("b", b, 1), a_momentum(momentum)
    commuting(features=a, lr=rate)
    g = 2 * (1 - mu) * np.eye(len(a)) - ((1 - mu) / (1 + mu) + 1 / b) * rate @ a
    if not np.linalg.cond(g, 1) < 1e14:
        raise Refused("G = 2(1−μ)I − ((1−μ)/(1+μ) + 1/b)ΛA is singular: the formula ends here; lower lr")
    return g, float(np.trace(np.linalg.solve(g, rate @ a))), b
