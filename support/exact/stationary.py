r"""SGD on least squares in the long run, exactly: the second moment of (θ, m) that a step leaves as it is, whether it
exists, and how far the learning rate, the batch and the weight decay are from where it ends.

The equation is ``M = F M Fᵀ + B (𝒞(S) + C_0) Bᵀ`` of `support.exact.second_moments`. Written for the step's noise
``C = 𝒞(S) + C_0`` it is ``C = 𝒢(C) + C_0``, 𝒢 = 𝒞 after the solution of a Lyapunov equation; 𝒢 is positive, so the
second moment exists if and only if F and 𝒢 have spectral radius below 1. For Gaussian inputs and commuting A, Λ, Γ
the entries in the common eigenbasis are coupled through ``Tr(AS)`` alone and the solution is written down, O(d³);
otherwise a Krylov method solves for C, with a Lyapunov solution O(d³) and a fourth moment, O(nd²) for n atoms, an
iteration. No matrix is larger than (2d, 2d). Source: Ziyin et al. (2022), Theorems 1, 2, 4 and 9, which it judges.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.sparse.linalg import ArpackError, LinearOperator, eigs, gmres

from support.errors import NotFinite, Refused, array, real
from support.exact.populations import GaussianPopulation
from support.exact.second_moments import Descent, a_descent


class Stationary(NamedTuple):
    """What stays the same from step to step. covariance: Σ = E (θ−θ*)(θ−θ*)ᵀ, (d, d), zero in directions that stand
    still; centre: θ*, (d,), up to where those started; cross, velocity: E (θ−θ*)mᵀ and E mmᵀ after a step; noise: C,
    the mean covariance of a step's gradient; loss: ½ E (xᵀθ − y)²; penalised: with ½ E θᵀΓθ; method: "direct" or
    "krylov"; iterations of the latter; residual: the largest change of an entry by one more step, relative to the
    largest entry of its block.

    >>> from support.exact.batch_noise import matched
    >>> from support.exact.populations import GaussianPopulation
    >>> found = stationary(Descent(GaussianPopulation([[1.5]], variance=0.25), matched(12), 1.0))
    >>> round(float(found.covariance[0, 0]), 6), found.method  # 0.25/(12/2 − 3)
    (0.083333, 'direct')
    """

    covariance: np.ndarray
    centre: np.ndarray
    cross: np.ndarray
    velocity: np.ndarray
    noise: np.ndarray
    loss: float
    penalised: float
    method: str
    iterations: int
    residual: float


def stationary(descent: Descent, method: str | None = None) -> Stationary:
    """The stationary second moment. method "krylov" uses no eigenbasis even where there is one. Raises WrongType for
    another type, Refused where the second moment does not exist, with the edge, and for an unknown method, NotFinite
    where the iteration does not converge.

    >>> from support.exact.batch_noise import fixed
    >>> from support.exact.populations import FinitePopulation
    >>> from support.sampling import MiniBatch
    >>> signs = FinitePopulation([[1.0], [-1.0]], [1.0, 1.0])  # θ ← θ/2 ± 1/2, by a coin
    >>> stationary(Descent(signs, fixed(MiniBatch(2, 1)), 0.5)).covariance.round(6).tolist()
    [[0.333333]]
    """
    a_descent(descent)
    if method not in (None, "direct", "krylov"):
        raise Refused(f"method = {method!r} is unknown: choose direct, krylov, or leave it out")
    if method == "direct" and descent.modes is None:
        raise Refused("the direct solution needs Gaussian inputs and commuting A, lr and decay: leave method out")
    if not (found := gain(descent)) < 1:
        raise Refused(_unstable(descent, found))
    direct = descent.modes is not None and method != "krylov"
    inner, iterations = (_by_modes(descent), 0) if direct else _by_krylov(descent)
    joint = _joint(descent, inner)
    r, again = len(inner), descent.step(joint)
    corners = [(slice(None, r), slice(None, r)), (slice(None, r), slice(r, None)), (slice(r, None), slice(r, None))]
    residual = max(np.abs(again[c] - joint[c]).max() / max(np.abs(joint[c]).max(), 1e-300) for c in corners)
    covariance, cross, velocity = joint[:r, :r], joint[:r, r:], descent.outside(joint[r:, r:])
    lift = descent.lift
    covariance, cross = lift @ covariance @ lift.T, lift @ cross @ descent.axes.T
    noise = descent.outside(descent.spread(inner) + descent.forcing)
    population, shift, centre = descent.population, descent.shift, descent.centre
    excess = np.sum(population.second_moment * (covariance + np.outer(shift, shift))) / 2
    loss = float(population.least_loss + excess)
    penalised = float(loss + np.sum(descent.decay * (covariance + np.outer(centre, centre))) / 2)
    name = "direct" if direct else "krylov"
    return Stationary(covariance, centre, cross, velocity, noise, loss, penalised, name, iterations, float(residual))


def gain(descent: Descent) -> float:
    """Spectral radius of 𝒢: by how much the noise that θ's fluctuation makes exceeds the noise that made it. The second
    moment exists if and only if it is below 1; infinite where already the mean of θ does not settle.

    It is proportional to the batch noise: ``gain · b`` is the smallest stable batch (a real number) on fresh samples
    or with replacement, and strength and jitter may grow by 1/gain. Raises WrongType for another type.

    >>> from support.exact.batch_noise import matched
    >>> from support.exact.populations import GaussianPopulation
    >>> round(12 * gain(Descent(GaussianPopulation([[1.5]]), matched(12), 1.0)), 6)  # diverges at b = 6
    6.0
    """
    a_descent(descent)
    if not _mean_radius(descent) < 1:
        return math.inf
    if not descent.noise.strength and not descent.noise.jitter:
        return 0.0
    if (modes := descent.modes) is not None:
        pair, trace, _ = _numbers(descent)
        weight = (modes.rate * modes.a) ** 2 / np.diag(_resistance(descent))
        low, high = pair * weight.max(), (pair + trace * len(weight)) * weight.max()
        if not trace:
            return float(low)  # 𝒢 is diagonal; else the root of its secular equation
        return float(brentq(lambda g: 1 - trace * np.sum(weight / (g - pair * weight)), low * (1 + 1e-12), high + low))
    return _top(_loop(descent), descent.hessian, 20)


def growth(descent: Descent) -> float:
    """Spectral radius of a step on the joint second moments of (θ − θ*, m): the factor by which E|θ − θ*|² grows a step
    in the long run; below 1 if and only if `gain` is. Raises WrongType for another type.

    >>> from support.exact.batch_noise import matched
    >>> from support.exact.populations import GaussianPopulation
    >>> growth(Descent(GaussianPopulation([[1.0]]), matched(1), 0.5))  # (1 − η)² + 2η²
    0.75
    """
    a_descent(descent)
    r = len(descent.rate)
    if descent.modes is not None:
        return _top_vector(_entries(descent), np.repeat([1.0, 0.0, 1.0], r), 64)
    if descent.momentum:
        return _top(lambda joint: descent.carry(joint, descent.spread(joint[:r, :r])), np.eye(2 * r), 64)
    transition, kick = descent.transition
    return _top(lambda s: transition @ s @ transition.T + kick @ descent.spread(s) @ kick.T, np.eye(r), 64)


def headroom(descent: Descent) -> float:
    """The factor by which lr, number or matrix, may grow before the second moment ceases to exist; below 1 where it
    does not exist. Raises WrongType for another type, Refused where no factor makes it exist.

    >>> from support.exact.batch_noise import matched
    >>> from support.exact.populations import GaussianPopulation
    >>> round(0.1 * headroom(Descent(GaussianPopulation([[1.0]]), matched(2), 0.1)), 6)  # 2b/(b + 2)
    1.0
    """
    a_descent(descent)
    pull = np.linalg.eigvals(descent.rate @ descent.curvature)
    if not pull.real.min() > 0:
        raise Refused("no factor makes lr stable: ΛK has an eigenvalue that does not pull back; raise the decay")
    top = 2 * (1 + descent.momentum) / np.abs(pull).max()

    def slack(factor):
        return 1 / (1 + gain(descent.changed(lr=factor * descent.lr))) - 0.5

    low = top / 2
    while not slack(low) > 0:
        low /= 2
    return _edge(slack, low, top)


def decay_window(descent: Descent) -> tuple[float, float]:
    """The numbers γ for which ``Γ + γI`` in place of Γ lets the second moment exist, an open interval; lr must be
    symmetric and positive. Raises WrongType for another type, Refused for another lr or where the window is empty.

    There is one interval where A, Λ and Γ commute, and for ``μ(r−1)² ≤ (1−μ)²r``, r the ratio of Λ's extreme
    eigenvalues: without momentum, and for a number. Proof: let ``K̃ = Λ^½KΛ^½``, X = K̃⊗I, Y = I⊗K̃. `gain` is at most g
    if and only if ``(1−μ)(X+Y) − [(1−μ)²XY − μ(X−Y)²]/(1−μ²)`` is at least 𝒞/g in these coordinates; in γ the left side
    is a quadratic whose leading term ``−[(1−μ)²Λ⊗Λ − μ(Λ⊗I − I⊗Λ)²]/(1−μ²)`` is then nowhere positive, so that these γ
    are an interval for every g. Otherwise there can be several; the one with the smallest gain on a grid is given.

    >>> from support.exact.batch_noise import matched
    >>> from support.exact.populations import GaussianPopulation
    >>> [round(end, 5) for end in decay_window(Descent(GaussianPopulation([[4.0]]), matched(64), 1.0))]  # Figure 5
    [-3.70711, -2.29289]
    """
    a_descent(descent)
    lr, curvature = descent.lr, descent.population.second_moment + descent.decay
    if not np.allclose(lr, lr.T) or not np.linalg.eigvalsh(lr)[0] > 0:
        raise Refused("lr is not symmetric and positive: the window of decays is known for such rates only")
    low = -np.linalg.eigvalsh(curvature)[0]
    high = np.linalg.eigvalsh(2 * (1 + descent.momentum) * np.linalg.inv(lr) - curvature)[0]

    def slack(decay):
        return 1 / (1 + gain(descent.changed(decay=descent.decay + decay * np.eye(len(lr))))) - 0.5

    if high > low:
        points = np.linspace(low, high, 3 if _one_valley(descent) else 129)
        values = np.array([slack(point) for point in points[1:-1]])
        k, unstable = 1 + values.argmax(), np.flatnonzero(np.r_[True, values <= 0, True])
        ends, tight = (points[k - 1], points[k + 1]), {"xatol": 1e-10 * (high - low)}
        best = minimize_scalar(lambda decay: -slack(decay), bounds=ends, method="bounded", options=tight).x
        low, high = points[unstable[unstable < k][-1]], points[unstable[unstable > k][0]]
        if slack(best) > 0:
            return _edge(slack, best, low), _edge(slack, best, high)
    raise Refused("no decay makes the second moment exist at this lr and batch: lower lr or take a larger batch")


def input_noise(covariance, blur, target, variance: float = 0.0):
    """The population ``(x + ν, uᵀx + ε)`` of Gaussian inputs x of covariance A (d, d) seen through Gaussian noise ν of
    covariance B (d, d), labels of u (d,) and label noise: a `GaussianPopulation` of covariance ``K = A + B``, optimum
    ``K⁻¹Au`` and noise ``σ² + uᵀAK⁻¹Bu``. Exact, since the residual of jointly Gaussian numbers is independent.

    The test loss on clean inputs is ``½ Tr(A(Σ + (θ*−u)(θ*−u)ᵀ))``. Raises as `GaussianPopulation`, and Refused for
    shapes that do not fit.

    >>> blurred = input_noise([[1.0]], [[1.0]], [2.0])
    >>> blurred.optimum.tolist(), round(blurred.variance, 6)
    ([1.0], 2.0)
    """
    covariance = array("covariance", covariance, ("d", "d"))
    blur = array("blur", blur, covariance.shape)
    target = array("target", target, covariance.shape[:1])
    clean, noisy = GaussianPopulation(covariance), GaussianPopulation(covariance + blur)
    optimum = noisy.pseudo_solve(clean.second_moment @ target)
    left = float(target @ covariance @ (target - optimum))  # uᵀAu − uᵀAK⁻¹Au
    return GaussianPopulation(covariance + blur, optimum, real("variance", variance, 0) + max(left, 0.0))


def _edge(slack, inside, end):
    """Where slack ceases to be positive between a point inside and the end of the mean's own stability."""
    near = end + 1e-9 * (inside - end)
    if slack(near) > 0:
        return float(end)
    return float(brentq(slack, inside, near, xtol=1e-13 * abs(end - inside), rtol=1e-13))


def _one_valley(descent):
    """Whether `gain` is known to have one valley in γ."""
    rates, mu = np.linalg.eigvalsh(descent.lr), descent.momentum
    spread = rates[-1] / rates[0]
    return descent.modes is not None or mu * (spread - 1) ** 2 <= (1 - mu) ** 2 * spread


def _mean_radius(descent):
    """Spectral radius of F. In modes φ² − (1 + μ − ℓ)φ + μ = 0 has its roots inside the circle for 0 < ℓ < 2(1 + μ)."""
    if (modes := descent.modes) is not None:
        half, mu = (1 + descent.momentum - modes.rate * modes.k) / 2, descent.momentum
        root = np.emath.sqrt(half * half - mu)
        return float(np.maximum(np.abs(half + root), np.abs(half - root)).max())
    return float(np.abs(np.linalg.eigvals(descent.transition[0])).max())


def _numbers(descent):
    """For Gaussian inputs 𝒞(S) = pair · ASA + trace · Tr(AS) A, and the label noise p σ² A beside it."""
    p, tau = float(descent.noise.strength), descent.population.factor
    ground = p * 2 * descent.population.least_loss
    return (2 * tau - 1) * p + float(descent.noise.jitter), p * tau, ground


def _resistance(descent):
    """D_ij with ``D_ij S_ij = λ_i λ_j C_ij``: Theorem 1 in modes."""
    modes, mu = descent.modes, descent.momentum
    pull = modes.rate * modes.k
    sums, products = np.add.outer(pull, pull), np.multiply.outer(pull, pull)
    squares = np.add.outer(pull**2, pull**2)
    return (1 - mu) * sums - ((1 + mu * mu) * products - mu * squares) / (1 - mu * mu)


def _by_modes(descent):
    """Σ on the directions that move: one scalar equation for t = Tr(AS)."""
    modes, (pair, trace, ground) = descent.modes, _numbers(descent)
    scale, shift = modes.rate * modes.a, modes.axes.T @ descent.shift
    weight = _resistance(descent) - pair * np.multiply.outer(scale, scale)
    level = trace * (modes.a * shift) @ shift + ground
    pulled = scale * shift
    own = np.diag(weight)
    t = np.sum(modes.a * (pair * pulled**2 + level * scale * modes.rate) / own) / (1 - trace * np.sum(scale**2 / own))
    moment = (pair * np.multiply.outer(pulled, pulled) + np.diag((level + trace * t) * scale * modes.rate)) / weight
    turn = descent.axes.T @ modes.axes
    return turn @ moment @ turn.T


def _joint(descent, inner):
    """The joint moment of (θ − θ*, m) from Σ: with P = E (θ_t − θ*)(θ_{t−1} − θ*)ᵀ, P = ((1+μ)I − ΛK) Σ − μPᵀ and
    θ_t − θ_{t−1} = −Λm_t.
    """
    mu = descent.momentum
    forward = (1 + mu) * inner - descent.rate @ descent.curvature @ inner
    lagged = (forward - mu * forward.T) / (1 - mu * mu)
    cross = -np.linalg.solve(descent.rate, (inner - lagged).T).T
    velocity = np.linalg.solve(descent.rate, np.linalg.solve(descent.rate, 2 * inner - lagged - lagged.T).T)
    return np.block([[inner, cross], [cross.T, velocity]])


def _loop(descent):
    """𝒢 as a function of C (r, r), and S."""
    (_, kick), solve, r = descent.transition, descent.past, len(descent.rate)

    def loop(noise):
        return descent.spread(solve(kick @ noise @ kick.T)[:r, :r])

    loop.moment = lambda noise: solve(kick @ noise @ kick.T)[:r, :r]
    return loop


def _by_krylov(descent):
    loop, r, count = _loop(descent), len(descent.rate), [0]

    def short(vector):
        count[0] += 1
        return vector - loop(vector.reshape(r, r)).ravel()

    forcing = descent.forcing.ravel()
    operator = LinearOperator((r * r, r * r), matvec=short, dtype=float)
    noise, _ = gmres(operator, forcing, rtol=1e-13, atol=0, restart=min(r * r, 60), maxiter=4)
    left = np.linalg.norm(short(noise) - forcing) / max(np.linalg.norm(forcing), 1e-300)
    if not left < 1e-9:  # rounding alone ends far below it
        raise NotFinite(f"the stationary noise is left with an error of {left:.1g}: too close to the edge; lower lr")
    noise = noise.reshape(r, r)
    return loop.moment((noise + noise.T) / 2), count[0]


def _entries(descent):
    """A step of the homogeneous recursion on the diagonals of E zzᵀ, E zmᵀ, E mmᵀ in modes, one after the other: the
    entries off the diagonal do not grow faster.
    """
    (a, rate, k, _), mu, (pair, trace, _) = descent.modes, descent.momentum, _numbers(descent)

    def step(vector):
        own, cross, square = vector.reshape(3, -1)
        after = k * own + mu * cross
        square = k * k * own + 2 * mu * k * cross + mu * mu * square + pair * a * a * own + trace * (a @ own) * a
        return np.concatenate([own - 2 * rate * after + rate * rate * square, after - rate * square, square])

    return step


def _top(positive, start, width):
    """The largest eigenvalue of a positive map of symmetric matrices, from one inside of the cone."""
    size = len(start)
    rows, columns = np.triu_indices(size)
    scale = np.where(rows == columns, 1.0, math.sqrt(0.5))  # an isometry to symmetric matrices

    def product(vector):
        matrix = np.zeros((size, size))
        matrix[rows, columns] = scale * vector
        after = positive(matrix + np.triu(matrix, 1).T)
        return after[rows, columns] / scale

    return _top_vector(product, start[rows, columns] / scale, width)


def _top_vector(product, start, width):
    """The eigenvalue of largest real part, by Arnoldi: for a positive map it is the spectral radius. width: vectors
    kept; 𝒢 needs few, a step of momentum, which has many eigenvalues near the circle, needs more.
    """
    count = len(start)
    if count <= 16:  # too small for Arnoldi
        dense = np.array([product(unit) for unit in np.eye(count)]).T
        return float(np.linalg.eigvals(dense).real.max())
    operator = LinearOperator((count, count), matvec=lambda vector: product(vector.ravel()), dtype=float)
    try:
        kept = {"ncv": min(count, width), "maxiter": 2000}
        found = eigs(operator, k=1, which="LR", v0=start, return_eigenvectors=False, tol=1e-11, **kept)
    except ArpackError as error:
        raise NotFinite(f"the spectral radius was not found: {error}; take a smaller problem") from None
    return float(found[0].real)


def _unstable(descent, found):
    """Why, and what would help."""
    text = "the mean of θ does not settle" if math.isinf(found) else f"the second moment diverges, gain {found:.6g} ≥ 1"
    try:
        edge, lr = headroom(descent), descent.lr[0, 0]
        one = np.array_equal(descent.lr, lr * np.eye(len(descent.lr)))
        text += f"; take lr below {edge * lr:.6g}" if one else f"; take lr below {edge:.6g} times the given one"
    except Refused as refusal:
        return f"{text}: {refusal}"
    return text if math.isinf(found) else f"{text}, or a batch above {found:.6g} times the given one"
