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
`arrival_along`); the rest is simulated in `support.exact.two_basins_runs`. Settings and the criterion of success are
those of the authors' experiment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from support.errors import Refused, array, choice, integer, real

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
NORM, CENTRE, RADIUS = np.array([99.0, 9.0]), 101 * ROOT2 / 99, math.sqrt(800 / 99)

# along : across, in the sharp and in the flat bowl
_SHAPES = {
    "GLD const": ((1, 1), (1, 1)),
    "GLD diag": ((1, 1), (1, 1)),
    "GLD leading": ((10, 1), (1, 10)),
    "GLD Hessian": ((10, 1), (1, 1)),
}
_SHAPES["GLD 1st eigvec(H)"] = ((1, 0), (1, 0))


def _known(dynamics: str, steps: int, trace) -> tuple[str, int, float]:
    return choice("dynamics", dynamics, DYNAMICS), integer("steps", steps, 1), real("trace", trace, above=0)


def plane(points):
    """(w₁, w₂) to (u, s), or back: the change of coordinates is its own inverse. The last axis has length 2.
    Raises WrongType or Refused for anything else.

    >>> plane(plane([1.0, 0.5])).round(12).tolist()
    [1.0, 0.5]
    """
    points = _pairs("points", points)
    return np.stack([points[..., 0] + points[..., 1], points[..., 0] - points[..., 1]], axis=-1) / ROOT2


def bowls(w, x):
    """Losses of the sharp and of the flat bowl at w for the sample x, both in (w₁, w₂); shapes broadcast, the last axis
    has length 2.

    >>> [round(float(loss), 12) for loss in bowls([1.0, 1.0], [0.0, 0.0])]
    [0.0, 8.0]
    """
    gap = plane(w) - plane(x)
    return (SHARP / 2 * (gap - BOTTOM) ** 2).sum(-1), (FLAT / 2 * (gap + BOTTOM) ** 2).sum(-1)


def loss(w, data):
    """Training loss: the mean over the data, shape (n, 2), of the lower bowl at w, shape (…, 2).

    >>> round(float(loss([-1.0, -1.0], [[0.0, 0.0], [-0.1, -0.1]])), 12)  # 0 and 0.1² + 0.1², both in the flat bowl
    0.01
    """
    data = array("data", data, ("n", 2))
    return np.minimum(*bowls(_pairs("w", w)[..., None, :], data)).mean(-1)


def _pairs(name, value) -> np.ndarray:
    value = array(name, value)
    if value.shape[-1:] != (2,):
        raise Refused(
            f"{name} of shape {value.shape} are no points of the plane: give pairs of numbers in the last axis"
        )
    return value


def expected_loss(w, *, spread: float = 1.0, nodes: int = 40):
    """Expectation of the loss at w, shape (…, 2), over the data, whose standard deviations are multiplied by
    ``spread``: Gauss-Hermite quadrature.

    Exact to rounding where one bowl is the lower one for practically all data, as at both minima; on the ridge as good
    as its nodes. Raises WrongType for another type, Refused for a negative spread or no nodes.

    >>> expected_loss([[1.0, 1.0], [-1.0, -1.0]]).round(12).tolist()  # ½ Tr(H Var x) of the two bowls
    [0.02, 0.0011]
    """
    w, spread, nodes = _pairs("w", w), real("spread", spread, 0), integer("nodes", nodes, 1, 180)
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.stack(np.meshgrid(*(spread * SPREAD[:, None] * points), indexing="ij"), axis=-1).reshape(-1, 2)
    mass = np.outer(weights, weights).ravel() / (2 * math.pi)
    return np.minimum(*bowls(w[..., None, :], plane(grid))) @ mass


def edges(s):
    """The values of u between which the sharp bowl is the lower one for the sample x = 0 at s; empty (inf, −inf) beyond
    the tips of the ellipse. Raises WrongType for what are no numbers.

    >>> [round(float(edge), 6) for edge in edges(0.0)] == [round(ROOT2 - NEAR, 6), round(ROOT2 + FAR, 6)]
    True
    """
    s = array("s", s)
    square = (RADIUS**2 - NORM[1] * np.square(s)) / NORM[0]
    half = np.sqrt(np.maximum(square, 0))
    return np.where(square > 0, CENTRE - half, np.inf), np.where(square > 0, CENTRE + half, -np.inf)


def variances(dynamics: str, bowl: str, trace=TRACE):
    """Expected variances (along, across) of one step's noise inside the "sharp" or the "flat" bowl, of sum ``trace`` (a
    Fraction gives Fractions); GD has none.

    Within a bowl of Hessian A a sample's gradient is A(w − x) and a constant, so C₁ = A Var[x] A: (4, 0.4) in the sharp
    bowl, that is 0.02 times its Hessian, and 4·(10⁻⁴, 10⁻³) in the flat one. The diagonal of C₁ in (w₁, w₂) is a
    multiple of the identity in both. In the flat bowl H = 2I has no first eigenvector; here the noise keeps the
    direction it had. Raises WrongType for what is no number, Refused for an unknown name or a trace ≤ 0.

    >>> variances("GLD leading", "sharp", 11)
    (10.0, 1.0)
    """
    dynamics, *_ = _known(dynamics, 1, trace)
    bowl = choice("bowl", bowl, ("sharp", "flat"))
    if dynamics == "GD":
        return 0 * trace, 0 * trace
    along, across = _SHAPES[dynamics][bowl == "flat"]
    return trace * along / (along + across), trace * across / (along + across)


def crossing_closed_form(dynamics: str, steps: int = STEPS, trace: float = TRACE) -> float:
    """``1 − (1 − p)^steps``, p = P(N(0, C_vv) > 2√2/11): the chance to pass the ridge on the diagonal, on the near
    side, if nothing but u is looked at.

    C_vv is the variance along. As η h₁ = 1, each step forgets u, whose values are independent. Exact for noise along u
    alone, samples without scatter and the near side; otherwise the leading order. Raises as `arrival`.

    >>> round(crossing_closed_form("GLD 1st eigvec(H)"), 4)
    0.9211
    """
    dynamics, steps, trace = _known(dynamics, steps, trace)
    along = variances(dynamics, "sharp", trace)[0]
    return 0.0 if along == 0 else -math.expm1(steps * math.log1p(-float(ndtr(-NEAR / math.sqrt(along)))))


def _kernel(means, sd, nodes, weights):
    """Matrix from a function's values at the nodes to its Gaussian means: ``weights_j N(nodes_j; means_i, sd²)``."""
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
    one dimension: quadrature, to a relative 10⁻⁵, however small it is. Raises as `arrival`.

    >>> crossing("GLD Hessian", 100) > crossing_closed_form("GLD Hessian", 100)
    True
    """
    dynamics, steps, trace = _known(dynamics, steps, trace)
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

    The ridge is its point on the diagonal on the near side; a run there sees the flat bowl. Made by `arrival` and
    `arrival_along`.

    >>> chance = arrival_along(200, 0.02, spread=0.0)
    >>> round(float(chance.start[-1]), 2), round(float(chance.ridge[-1]), 2)
    (0.42, 0.47)
    """

    start: np.ndarray
    ridge: np.ndarray


class _Plane:
    """The Markov chain w in the plane, without scatter: one step of its backward equation.

    Values are functions of s inside the sharp bowl, since a step forgets u there, and of (u, s) where the flat bowl
    rules; the last row of the latter belongs to the point of the ridge on the diagonal. The ridge is cut into cells.
    """

    def __init__(self, along, across, along_flat, across_flat, cell):
        self._sd, self._sd_flat = sd, sd_flat = math.sqrt(along), math.sqrt(along_flat)
        self._s, self._across, self._across_flat = _across(across, across_flat)
        low, high = edges(self._s)
        u, weights, cells = _nodes(low[0], sd, sd_flat, cell)
        first, last = u[cells, None] - cell / 2, u[cells, None] + cell / 2
        cut = np.maximum(first, low), np.minimum(last, high)  # the part of a cell that sees the sharp bowl
        self._outside = np.ones((len(u), len(self._s)))
        self._outside[cells] -= np.maximum(cut[1] - cut[0], 0) / cell
        self._leave = np.repeat(_kernel(np.array([ROOT2]), sd, u, weights).T, len(self._s), axis=1)
        self._leave[cells] = _between(first, last, ROOT2, sd) - _between(*cut, ROOT2, sd)
        # a step in the flat bowl, from every node and from the ridge
        self._mean = 0.99 * np.append(u, ROOT2 - NEAR) - 0.01 * ROOT2
        self._roam = _kernel(self._mean, sd_flat, u, weights)
        self._stay, self._back = _between(low, high, ROOT2, sd), _between(low, high, self._mean[:, None], sd_flat)

    def first(self):
        """The chances to be in the flat basin after one step."""
        goal = ROOT2 * REACHED - self._s
        sharp = self._across @ ndtr((goal - ROOT2) / self._sd)
        return sharp, ndtr((goal - self._mean[:, None]) / self._sd_flat) @ self._across_flat.T

    def before(self, sharp, flat):
        """The values one step earlier."""
        fled = (self._leave * flat[:-1]).sum(0)
        roaming = self._roam @ (self._outside * flat[:-1]) + self._back * sharp
        return self._across @ (fled + self._stay * sharp), roaming @ self._across_flat.T


def _nodes(ridge, sd, sd_flat, cell):
    """Nodes and weights along u: cells about the ridge, where the bowls change, and panels on both sides; and which of
    them are the cells.
    """
    zone = ridge + cell * (0.5 + np.arange(-math.ceil(0.06 / cell), math.ceil(0.64 / cell)))
    width = 2 * min(sd, sd_flat)
    left, w_left = _panels(-ROOT2 - 5 * sd_flat / math.sqrt(1 - 0.99**2), zone[0] - cell / 2, width)
    right, w_right = _panels(zone[-1] + cell / 2, zone[-1] + 6 * max(sd, sd_flat), width)
    weights = np.concatenate([w_left, np.full(len(zone), cell), w_right])
    return np.concatenate([left, zone, right]), weights, slice(len(left), len(left) + len(zone))


def arrival(dynamics: str, steps: int = STEPS, trace: float = TRACE, *, cell: float = 0.02) -> Arrival:
    """Exact probability of success without scatter of the data: the backward equation of the Markov chain w in the
    plane, two matrix products a step.

    Inside the ellipse a step takes (u, s) to (√2, 0.9 s), outside to (0.99 u − 0.01√2, 0.99 s); then comes Gaussian
    noise of the bowl's `variances`. The ridge is cut into cells of width ``cell`` along u, at most 0.1; at 0.02 the
    error is below 10⁻³. Raises WrongType for another type, Refused for an unknown name or numbers out of range.

    >>> chance = arrival("GLD 1st eigvec(H)", 100)
    >>> bool(chance.ridge[-1] > chance.start[-1] > 0)
    True
    """
    dynamics, steps, _ = _known(dynamics, steps, trace)
    cell = real("cell", cell, high=0.1, above=0)
    sharp, flat = variances(dynamics, "sharp", trace), variances(dynamics, "flat", trace)
    if sharp[0] == 0:  # no noise: the start is a rest point, and from the ridge a run slides into the flat bowl
        u = -ROOT2 + 0.99 ** np.arange(1, steps + 1) * (edges(0.0)[0] + ROOT2)
        return Arrival(np.zeros(steps), (u < ROOT2 * REACHED).astype(float))
    if sharp[1] == 0:
        return arrival_along(steps, trace, spread=0.0)
    chain = _Plane(*sharp, *flat, cell)
    inside, outside = chain.first()
    values = [(inside[0], outside[-1, 0])]
    for _ in range(steps - 1):
        inside, outside = chain.before(inside, outside)
        values.append((inside[0], outside[-1, 0]))
    values = np.array(values)
    if values.max() > 1 + 1e-3:
        raise Refused(f"cell = {cell:g} is too coarse for noise of trace {trace:g}: give a smaller one")
    return Arrival(*values.T)


def expected_gradient_along(u, spread: float = 1.0):
    """Derivative along the diagonal of the expected loss at (u, 0): a closed form in x_u, Gauss-Hermite quadrature in
    x_s. Without spread, of the one bowl. Raises WrongType for what are no numbers, Refused for a negative spread.

    >>> float(expected_gradient_along(2.0, 0.0)) == 2 * (2 + ROOT2)  # beyond the ridge: of the flat bowl
    True
    """
    u, spread = array("u", u), real("spread", spread, 0)
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
    many samples. Raises as `arrival`, and Refused for a negative spread.

    >>> bool(arrival_along(50, 0.02, spread=1.0).start[-1] < arrival_along(50, 0.02, spread=0.0).start[-1])
    True
    """
    _, steps, trace = _known(DYNAMICS[-1], steps, trace)
    spread = real("spread", spread, 0)
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
