r"""The two-dimensional toy of Zhu et al. (2019, Section 5.1, Figure 2): a sharp and a flat bowl, six dynamics that
leave the one for the other.

The loss is a mean over n samples x of the minimum of two bowls, taken sample by sample. In the coordinates *along* and
*across* the diagonal, ``u = (w₁+w₂)/√2`` and ``s = (w₁−w₂)/√2``, with ``(x_u, x_s)`` the sample in the same
coordinates,

    ℓ(w; x) = min{ 100 (u − x_u − √2)² + 10 (s − x_s)²,  (u − x_u + √2)² + (s − x_s)² },     x_u ~ N(0, 10⁻⁴),  x_s ~
    N(0, 10⁻³).

The sharp minimum w = (1, 1) has the Hessian eigenvalues 200 and 20, the flat one (−1, −1) twice the eigenvalue 2. For
one sample the sharp bowl is the lower one inside an ellipse about the sharp minimum (`edges`). The learning rate is
1/200: a step takes a run in the sharp bowl to its bottom, u = √2, whatever u was.

What can be known without drawing anything is computed so (`crossing_closed_form`, `crossing`, `arrival`,
`arrival_along`), the rest is `simulate`. Settings and the criterion of success are those of the authors' experiment;
`protocol` chooses between their paper and their code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from support.errors import Refused, WrongType

DYNAMICS = ("GD", "GLD const", "GLD diag", "GLD leading", "GLD Hessian", "GLD 1st eigvec(H)")
ROOT2 = math.sqrt(2.0)
SHARP, FLAT = np.array([200.0, 20.0]), np.array([2.0, 2.0])  # Hessian eigenvalues, along and across
BOTTOM = np.array([ROOT2, 0.0])  # the sharp minimum; the flat one is −BOTTOM
SPREAD = np.array([0.01, math.sqrt(10) * 0.01])  # standard deviations of the data, along and across
LR, STEPS, TRACE, SAMPLES = 0.005, 500, 0.01, 100
NEAR, FAR = (
    2 * ROOT2 / 11,
    2 * ROOT2 / 9,
)  # the ridge on the diagonal: distances from the sharp minimum towards the flat one and away from it
REACHED = -0.5  # a run has arrived if both coordinates of w are below
# the ridge of one sample: the ellipse 99 (u − CENTRE)² + 9 s² = RADIUS²
_NORM, _CENTRE, _RADIUS = np.array([99.0, 9.0]), 101 * ROOT2 / 99, math.sqrt(800 / 99)

# along : across, in the sharp and in the flat bowl
_SHAPES = {
    "GLD const": ((1, 1), (1, 1)),
    "GLD diag": ((1, 1), (1, 1)),
    "GLD leading": ((10, 1), (1, 10)),
    "GLD Hessian": ((10, 1), (1, 1)),
}
_SHAPES["GLD 1st eigvec(H)"] = ((1, 0), (1, 0))


def _known(dynamics: str, steps: int, trace) -> None:
    if dynamics not in DYNAMICS:
        raise Refused(f"dynamics = {dynamics!r} is unknown: choose from {', '.join(DYNAMICS)}")
    if steps < 1:
        raise Refused(f"steps = {steps}: take at least 1")
    if not trace > 0:
        raise Refused(f"trace = {trace}: the expected squared norm of the noise must be positive")


def plane(points):
    """(w₁, w₂) to (u, s), or back: the change of coordinates is its own inverse. The last axis has length 2."""
    points = np.asarray(points, dtype=float)
    return np.stack([points[..., 0] + points[..., 1], points[..., 0] - points[..., 1]], axis=-1) / ROOT2


def bowls(w, x):
    """Losses of the sharp and of the flat bowl at w for the sample x, both in (w₁, w₂); shapes broadcast, the last axis
    has length 2.
    """
    gap = plane(w) - plane(x)
    return (SHARP / 2 * (gap - BOTTOM) ** 2).sum(-1), (FLAT / 2 * (gap + BOTTOM) ** 2).sum(-1)


def loss(w, data):
    """Training loss: the mean over the data, shape (n, 2), of the lower bowl at w, shape (…, 2)."""
    return np.minimum(*bowls(np.asarray(w)[..., None, :], data)).mean(-1)


def expected_loss(w, *, spread: float = 1.0, nodes: int = 40):
    """Expectation of the loss at w, shape (…, 2), over the data, whose standard deviations are multiplied by
    ``spread``: Gauss-Hermite quadrature.

    Exact to rounding where one bowl is the lower one for practically all data, as at both minima; on the ridge as good
    as its nodes.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(*(spread * SPREAD[:, None] * points), indexing="ij"), axis=-1).reshape(-1, 2)
    mass = np.outer(weights, weights).ravel() / (2 * math.pi)
    return np.minimum(*bowls(np.asarray(w)[..., None, :], plane(grid))) @ mass


def edges(s):
    """The values of u between which the sharp bowl is the lower one for the sample x = 0 at s; empty (inf, −inf) beyond
    the tips of the ellipse.
    """
    square = (_RADIUS**2 - _NORM[1] * np.square(s)) / _NORM[0]
    half = np.sqrt(np.maximum(square, 0))
    return np.where(square > 0, _CENTRE - half, np.inf), np.where(square > 0, _CENTRE + half, -np.inf)


def variances(dynamics: str, bowl: str, trace=TRACE):
    """Expected variances (along, across) of one step's noise inside the "sharp" or the "flat" bowl, of sum ``trace`` (a
    Fraction gives Fractions); GD has none.

    Within a bowl of Hessian A a sample's gradient is A(w − x) and a constant, so C₁ = A Var[x] A: (4, 0.4) in the sharp
    bowl, that is 0.02 times its Hessian, and 4·(10⁻⁴, 10⁻³) in the flat one. The diagonal of C₁ in (w₁, w₂) is a
    multiple of the identity in both. In the flat bowl H = 2I has no first eigenvector; here the noise keeps the
    direction it had.
    """
    _known(dynamics, 1, trace)
    if bowl not in ("sharp", "flat"):
        raise Refused(f"bowl = {bowl!r} is unknown: choose sharp or flat")
    if dynamics == "GD":
        return 0 * trace, 0 * trace
    along, across = _SHAPES[dynamics][bowl == "flat"]
    return trace * along / (along + across), trace * across / (along + across)


def crossing_closed_form(dynamics: str, steps: int = STEPS, trace: float = TRACE) -> float:
    """``1 − (1 − p)^steps``, p = P(N(0, C_vv) > 2√2/11): the chance to pass the ridge on the diagonal, on the near
    side, if nothing but u is looked at.

    C_vv is the variance along. As η h₁ = 1, each step forgets u, whose values are independent. Exact for noise along u
    alone, samples without scatter and the near side; otherwise the leading order.
    """
    _known(dynamics, steps, trace)
    along = variances(dynamics, "sharp", trace)[0]
    return 0.0 if along == 0 else -math.expm1(steps * math.log1p(-float(ndtr(-NEAR / math.sqrt(along)))))


def _kernel(means, sd, nodes, weights):
    """Matrix that takes a function's values at the nodes to its Gaussian means: ``weights_j N(nodes_j; means_i, sd²)``."""
    z = (nodes - means[:, None]) / sd
    return weights * np.exp(-0.5 * z * z) / (sd * math.sqrt(2 * math.pi))


def _across(sharp: float, flat: float, width: float = 1.1):
    """Half a grid for s ≥ 0 (values are even in s), and the two kernels of a step across: contraction 0.9 and 0.99. One
    point if there is no noise across.
    """
    if sharp == 0:
        return np.zeros(1), np.ones((1, 1)), np.ones((1, 1))
    h = width * math.sqrt(min(sharp, flat))  # the trapezoidal rule on a Gaussian errs by 2 exp(−2π²/width²)
    s = h * np.arange(max(9, int(4.7 * math.sqrt(max(sharp / (1 - 0.9**2), flat / (1 - 0.99**2))) / h) + 1))
    weights = np.full(len(s), h)
    weights[0] = h / 2

    def kernel(contraction, variance):
        sd = math.sqrt(variance)
        return _kernel(contraction * s, sd, s, weights) + _kernel(contraction * s, sd, -s, weights)

    return s, kernel(0.9, sharp), kernel(0.99, flat)


def crossing(dynamics: str, steps: int = STEPS, trace: float = TRACE) -> float:
    """Exact probability to leave the sharp bowl within ``steps``, on either side, without scatter of the data.

    u is independent from step to step; s is a Gaussian Markov chain, s′ = 0.9 s + noise, and decides where the ridge
    is. So the chance to stay is the expectation of a product over the steps of P(u between the edges | s), a chain of
    one dimension: quadrature, to a relative 10⁻⁵, however small it is.
    """
    _known(dynamics, steps, trace)
    along, across = variances(dynamics, "sharp", trace)
    if along == 0:
        return 0.0
    s, step, _ = _across(across, across, 0.8)
    low, high = edges(s)
    outside = np.minimum(
        ndtr((low - ROOT2) / math.sqrt(along)) + ndtr((ROOT2 - high) / math.sqrt(along)), 1.0
    )  # 1 beyond the tips, where low > high
    gone = np.zeros(len(s))
    for _ in range(steps):
        gone = step @ (outside + (1 - outside) * gone)
    return float(gone[0])


def _between(low, high, mean, sd):
    """P(low < N(mean, sd²) < high), zero where the interval is empty."""
    return np.maximum(ndtr((high - mean) / sd) - ndtr((low - mean) / sd), 0.0)


def _panels(low, high, width, breaks=(), nodes: int = 6):
    """Composite Gauss-Legendre rule on (low, high), in panels of at most ``width`` and with further breaks where they
    are inside: nodes and weights.
    """
    points, weights = np.polynomial.legendre.leggauss(nodes)
    breaks = np.unique(
        np.append(np.linspace(low, high, 1 + math.ceil((high - low) / width)), [b for b in breaks if low < b < high])
    )
    half = np.diff(breaks)[:, None] / 2
    return (breaks[:-1, None] + half * (1 + points)).ravel(), (half * weights).ravel()


@dataclass(frozen=True)
class Arrival:
    """Probabilities to be in the flat basin (both coordinates below −½) after k = 1, 2, … more steps: from the sharp
    minimum, and from the ridge.

    The ridge is its point on the diagonal on the near side; a run there sees the flat bowl.
    """

    start: np.ndarray
    ridge: np.ndarray


def arrival(dynamics: str, steps: int = STEPS, trace: float = TRACE, *, cell: float = 0.02) -> Arrival:
    """Exact probability of success without scatter of the data: the backward equation of the Markov chain w in the
    plane, two matrix products a step.

    Inside the ellipse a step takes (u, s) to (√2, 0.9 s), outside to (0.99 u − 0.01√2, 0.99 s); then comes Gaussian
    noise of the bowl's `variances`. The ridge is cut into cells of width ``cell`` along u; at 0.02 the error is below
    10⁻³.
    """
    _known(dynamics, steps, trace)
    (along, across), (along_flat, across_flat) = variances(dynamics, "sharp", trace), variances(dynamics, "flat", trace)
    if along == 0:
        return Arrival(np.zeros(steps), np.zeros(steps))
    if across == 0:
        return arrival_along(steps, trace, spread=0.0)
    sd, sd_flat = math.sqrt(along), math.sqrt(along_flat)
    s, across_step, across_step_flat = _across(across, across_flat)
    low, high = edges(s)
    zone = low[0] + cell * (0.5 + np.arange(-math.ceil(0.06 / cell), math.ceil(0.64 / cell)))
    u_left, w_left = _panels(-ROOT2 - 5 * sd_flat / math.sqrt(1 - 0.99**2), zone[0] - cell / 2, 2 * min(sd, sd_flat))
    u_right, w_right = _panels(zone[-1] + cell / 2, zone[-1] + 6 * max(sd, sd_flat), 2 * min(sd, sd_flat))
    u, weights = np.concatenate([u_left, zone, u_right]), np.concatenate([w_left, np.full(len(zone), cell), w_right])
    cells = slice(len(u_left), len(u_left) + len(zone))
    first, last = zone[:, None] - cell / 2, zone[:, None] + cell / 2
    cut = np.maximum(first, low), np.minimum(last, high)  # the part of a cell that sees the sharp bowl
    outside = np.ones((len(u), len(s)))
    outside[cells] -= np.maximum(cut[1] - cut[0], 0) / cell
    leave = np.repeat(_kernel(np.array([ROOT2]), sd, u, weights).T, len(s), axis=1)
    leave[cells] = _between(first, last, ROOT2, sd) - _between(*cut, ROOT2, sd)
    mean = (
        0.99 * np.append(u, ROOT2 - NEAR) - 0.01 * ROOT2
    )  # a step in the flat bowl, from every node and from the ridge
    roam = _kernel(mean, sd_flat, u, weights)
    stay, back = _between(low, high, ROOT2, sd), _between(low, high, mean[:, None], sd_flat)
    goal = ROOT2 * REACHED - s
    sharp = across_step @ ndtr((goal - ROOT2) / sd)  # value inside the sharp bowl, at s
    flat = ndtr((goal - mean[:, None]) / sd_flat) @ across_step_flat.T  # value where the flat bowl rules, at (u, s)
    values = [(sharp[0], flat[-1, 0])]
    for _ in range(steps - 1):
        fled = (leave * flat[:-1]).sum(0)
        sharp, flat = (
            across_step @ (fled + stay * sharp),
            (roam @ (outside * flat[:-1]) + back * sharp) @ across_step_flat.T,
        )
        values.append((sharp[0], flat[-1, 0]))
    return Arrival(*np.array(values).T)


def expected_gradient_along(u, spread: float = 1.0):
    """Derivative along the diagonal of the expected loss at (u, 0): a closed form in x_u, Gauss-Hermite quadrature in
    x_s. Without spread, of the one bowl.
    """
    u = np.asarray(u, dtype=float)
    sharp, flat = SHARP[0] * (u - ROOT2), FLAT[0] * (u + ROOT2)
    if spread == 0:
        low, high = edges(0.0)
        return np.where((low < u) & (u < high), sharp, flat)
    q, weights = np.polynomial.hermite_e.hermegauss(40)
    low, high = edges(spread * SPREAD[1] * q)
    sd = spread * SPREAD[0]
    above, below = (u[..., None] - high) / sd, (u[..., None] - low) / sd
    mass = weights / weights.sum()
    share = np.maximum(ndtr(below) - ndtr(above), 0.0) @ mass  # of the samples that see the sharp bowl
    moment = (
        sd / math.sqrt(2 * math.pi) * (np.exp(-0.5 * above**2) - np.exp(-0.5 * below**2)) @ mass
    )  # E x_u over these samples
    return share * sharp + (1 - share) * flat - (SHARP[0] - FLAT[0]) * moment


def arrival_along(steps: int = STEPS, trace: float = TRACE, *, spread: float = 1.0) -> Arrival:
    """`arrival` for noise along the diagonal at every place (the first eigenvector of H, kept in the flat bowl),
    scatter of the data included.

    With the expected gradient the run stays on the diagonal: a chain of one dimension, Gauss-Legendre panels that break
    at the ridge; exact to 10⁻⁶. ``spread`` multiplies the data's standard deviations; the limit is that of infinitely
    many samples.
    """
    _known(DYNAMICS[-1], steps, trace)
    if spread < 0:
        raise Refused(f"spread = {spread}: a standard deviation is multiplied by it, give a number ≥ 0")
    sd, (low, high) = math.sqrt(trace), edges(0.0)
    fine = spread * SPREAD[0] * np.array([-16, -8, -4, -3, -2, -1, 0, 1, 2, 3, 4, 8, 16])
    breaks = np.concatenate([low + fine, high + fine])
    u, weights = _panels(-ROOT2 - 6 * sd / math.sqrt(1 - 0.99**2), ROOT2 + max(8 * sd, 2 * FAR), sd, breaks)
    past = np.append(u, [ROOT2, low])
    mean = past - LR * expected_gradient_along(past, spread)
    step = _kernel(mean, sd, u, weights)
    value = ndtr((ROOT2 * REACHED - mean) / sd)
    values = [value[-2:]]
    for _ in range(steps - 1):
        value = step @ value[:-2]
        values.append(value[-2:])
    return Arrival(*np.array(values).T)


class _Data:
    """The samples of every run, and what the bowls need of them: where all see one bowl their moments do, and only a
    run near the ridge looks at each.
    """

    def __init__(self, runs, n, spread, cumulative, generator):
        self.x = spread * SPREAD[:, None, None] * generator.standard_normal((2, runs, n))
        self.mean = self.x.mean(2)
        self.reach = np.sqrt(
            np.einsum("c,crn->rn", _NORM, self.x**2).max(1)
        )  # by the triangle inequality no sample sees the ridge from farther away
        self.cumulative = cumulative
        # the gradients are A (T d − X) with T = 1 and X = x, their partial sums with T = 1 … n and X the partial sums
        # of x
        count = np.arange(1.0, n + 1) if cumulative else np.ones(n)
        sums = self.x.cumsum(2) if cumulative else self.x
        centred = sums - sums.mean(2, keepdims=True)
        self.count_variance = count.var()
        self.count_moment = centred @ (count - count.mean()) / n
        self.moments = np.einsum("arn,brn->abr", centred, centred, optimize=True) / n

    def look(self, w, covariance: bool):
        """At w, shape (2, runs): the share of samples in the sharp bowl, the mean gradient, and the covariance of the
        gradients, (2, 2, runs), if wanted.
        """
        radius = np.sqrt(_NORM[0] * (w[0] - _CENTRE) ** 2 + _NORM[1] * w[1] ** 2)
        share = (radius < _RADIUS).astype(float)
        near = np.flatnonzero(np.abs(radius - _RADIUS) <= self.reach)
        curvature = np.where(share > 0, SHARP[:, None], FLAT[:, None])
        gap = w - np.where(share > 0, 1.0, -1.0) * BOTTOM[:, None]
        gradient, C = curvature * (gap - self.mean), None
        if covariance:
            C = self.moments
            if self.cumulative:
                product = gap[:, None] * self.count_moment
                C = C + self.count_variance * gap[:, None] * gap - product - product.swapaxes(0, 1)
            C = curvature[:, None] * curvature * C
        if len(near):
            away = w[:, near, None] - self.x[:, near]
            sees = _NORM[0] * (away[0] - _CENTRE) ** 2 + _NORM[1] * away[1] ** 2 < _RADIUS**2
            each = np.where(
                sees,
                SHARP[:, None, None] * (away - BOTTOM[:, None, None]),
                FLAT[:, None, None] * (away + BOTTOM[:, None, None]),
            )
            share[near], gradient[:, near] = sees.mean(1), each.mean(2)
            if covariance:
                each = each.cumsum(2) if self.cumulative else each
                each = each - each.mean(2, keepdims=True)
                C[:, :, near] = np.einsum("arn,brn->abr", each, each, optimize=True) / each.shape[2]
        return share, gradient, C


def _noise(dynamics, z, share, C, tie):
    """Noise of unit trace in (u, s) from white noise z, shape (2, runs)."""
    if dynamics == "GLD const":
        return z / ROOT2
    if dynamics == "GLD Hessian":
        hessian = share * SHARP[:, None] + (1 - share) * FLAT[:, None]
        return np.sqrt(hessian / hessian.sum(0)) * z
    if dynamics == "GLD 1st eigvec(H)":
        on_axis = (share == 0) & (tie == "axis")
        return z[0] * np.where(on_axis, np.array([[1.0], [-1.0]]) / ROOT2, np.array([[1.0], [0.0]]))
    trace = C[0, 0] + C[1, 1]
    if dynamics == "GLD diag":  # the diagonal in (w₁, w₂)
        first, second = np.sqrt(0.5 + np.array([1, -1])[:, None] * C[0, 1] / trace) * z
        return np.stack([first + second, first - second]) / ROOT2
    root = np.sqrt(C[0, 0] / trace)
    mixed = C[0, 1] / (trace * root)
    return np.stack([root * z[0], mixed * z[0] + np.sqrt(np.maximum(C[1, 1] / trace - mixed**2, 0.0)) * z[1]])


@dataclass(frozen=True)
class Runs:
    """Simulated runs of one dynamics.

    final: where they end, (runs, 2), in (w₁, w₂).   left: the first step after which most samples see the flat bowl, 0
    for a run that stays. returned: whether a run that had left on the near side was back in the sharp bowl later.
    flat: whether it ends on the near side outside the sharp bowl. path: positions every so many steps, (records, runs,
    2), if asked for.
    """

    final: np.ndarray
    left: np.ndarray
    returned: np.ndarray
    flat: np.ndarray
    path: np.ndarray | None

    @property
    def arrived(self) -> np.ndarray:
        """Success by the authors' criterion: both coordinates of the last point below −½."""
        return (self.final < REACHED).all(1)


def simulate(
    dynamics: str,
    runs: int = 2000,
    steps: int = STEPS,
    *,
    generator: np.random.Generator,
    lr: float = LR,
    trace: float = TRACE,
    n: int = SAMPLES,
    spread: float = 1.0,
    protocol: str = "code",
    tie: str = "axis",
    cumulative: bool = False,
    every: int = 0,
) -> Runs:
    """Runs of one of the six dynamics from the sharp minimum, each with its own n samples; all runs at once.

    protocol: "code" adds noise of covariance Σ, Tr Σ = ``trace``, to the parameters, ``w ← w − η∇L + ξ``; "paper" is
    Equation (7), ``w ← w − η(∇L + ξ)``. tie: where H = 2I exactly, the first eigenvector is that which LAPACK returns,
    (0, 1) ("axis", as in the authors' code), or stays (1, 1)/√2 ("keep"). cumulative: take the covariance of partial
    sums of the samples' gradients instead of the gradients, a slip of the authors' code (diag and leading alone).
    spread multiplies the data's standard deviations; every: record the path every so many steps.

    Raises ValueError for an unknown name or option, for runs, steps or trace that are not positive, and where the
    covariance would be zero; TypeError for a generator that is none.
    """
    if not isinstance(generator, np.random.Generator):
        raise WrongType(f"generator = {generator!r} is no random generator: give numpy.random.default_rng(seed)")
    _known(dynamics, steps, trace)
    estimates = dynamics in ("GLD diag", "GLD leading")
    if protocol not in ("code", "paper") or tie not in ("axis", "keep"):
        raise Refused(f"protocol = {protocol!r}, tie = {tie!r}: choose protocol code or paper, tie axis or keep")
    if runs < 1 or n < 1 or lr <= 0 or spread < 0 or every < 0:
        raise Refused(
            f"runs = {runs}, n = {n}, lr = {lr}, spread = {spread}, every = {every}: take runs, n >= 1, lr > 0, "
            f"spread, every >= 0"
        )
    if estimates and (n < 2 or spread == 0):
        raise Refused(f"n = {n}, spread = {spread}: {dynamics} needs samples that differ, n >= 2 and spread > 0")
    if cumulative and not estimates:
        raise Refused(
            f"cumulative = True has no meaning for {dynamics}: only GLD diag and GLD leading estimate a covariance"
        )
    data = _Data(runs, n, spread, cumulative, generator)
    scale = math.sqrt(trace) * (lr if protocol == "paper" else 1.0)
    w = np.repeat(BOTTOM[:, None], runs, axis=1)
    left, out_near, returned = np.zeros(runs, dtype=int), np.zeros(runs, dtype=bool), np.zeros(runs, dtype=bool)
    path = []
    for k in range(steps + 1):
        share, gradient, C = data.look(w, estimates)
        outside = share < 0.5
        left[outside & (left == 0)] = k
        returned |= out_near & ~outside
        out_near |= outside & (w[0] < ROOT2)
        if every and k % every == 0:
            path.append(plane(w.T))
        if k == steps:
            break
        w = w - lr * gradient
        if dynamics != "GD":
            w += scale * _noise(dynamics, generator.standard_normal((2, runs)), share, C, tie)
    return Runs(plane(w.T), left, returned, outside & (w[0] < ROOT2), np.array(path) if every else None)
