r"""Local Rademacher, Gaussian and SGD complexity of classes of losses whose largest weighted sum is known exactly.

The complexity of N samples near θ, at radius δ, for random multipliers V (Wu's talk, Section 3; units of the loss) is

    R(V, θ, δ, N) = E_x E_V (1/N) sup |Σ v_i ℓ(x_i; θ')|,    the supremum over |θ' − θ| ≤ δ

V has entries of the size of signs: ``v_i = ±1`` (Rademacher, A), ``v_i ~ N(0, 1)`` (Gaussian, G), and for SGD
``V = N W − 1``, with W the sampling vector of a mini-batch: ``v_i = c_i N/b − 1``, c_i how often sample i is in it.
`given_data` leaves out E_x, `over_data` takes it over a finite population. Three kinds of classes have their supremum
in closed form, for many values of V at once: `Finite` (with `kinked`, losses of one parameter), `Linear`, `Quadratic`.
What relates the three complexities is in `support.exact.multipliers`, where V is counted out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from support.errors import NotFinite, Refused, array, boolean, instance, real
from support.exact.multipliers import LIMIT, Gaussian, Multipliers, combinations, multinomial, shares
from support.intervals import Interval, student

_BLOCK = 2**22  # numbers held at once


@dataclass(frozen=True, eq=False)
class Losses:
    """N losses as functions of θ' in a ball: what `Finite`, `Linear` and `Quadratic` share.

    >>> Finite([[1.0, 0.0, 2.0]]).take([2, 2]).losses
    array([[2., 2.]])
    """

    @property
    def n(self) -> int:
        """N, the number of samples."""
        return getattr(self, fields(self)[0].name).shape[self._axis]

    _axis = 0  # of every array, the one that counts samples

    def take(self, index) -> Losses:
        """The losses of some samples, with repetitions, in this order. Raises Refused for an index of no sample."""
        index = array("index", index, ("m",), rational=True)
        if index.dtype.kind not in "iu" or not len(index) or index.min() < 0 or index.max() >= self.n:
            raise Refused(f"index {index.tolist()} names no samples: give integers from 0 to {self.n - 1}")
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            self, **{k: a.take(index, axis=self._axis) for k, a in given.items() if isinstance(a, np.ndarray)}
        )

    def suprema(self, values, absolute: bool = True) -> np.ndarray:
        """``(1/N) sup |Σ v_i ℓ_i(θ')|`` for each row of values of V, (m, N), as (m,); absolute=False: without |·|.
        Raises Refused for rows of another length, NotFinite (also for sums that overflow), WrongType.
        """
        counted = isinstance(values, np.ndarray) and values.dtype == np.int8 and values.shape[1:] == (self.n,)
        values = values if counted else array("values", values, ("m", self.n))  # patterns of signs are kept small
        largest, absolute = np.empty(len(values)), boolean("absolute", absolute)
        step = max(1, _BLOCK // self._held)
        with np.errstate(over="ignore", invalid="ignore"):  # found below
            for start in range(0, len(values), step):
                block = slice(start, start + step)
                largest[block] = self._largest(values[block].astype(float), absolute)
        if bad := int((~np.isfinite(largest)).sum()):
            raise NotFinite(f"{bad} of {len(largest)} weighted losses are not finite: give smaller losses or values")
        return largest / self.n

    @property
    def _held(self) -> int:
        """Numbers that one row needs."""
        return self.n

    def _largest(self, values, absolute: bool) -> np.ndarray:
        """The suprema, times N."""
        raise NotImplementedError

    def _gaussian(self, absolute: bool) -> float:
        """E of the suprema for Gaussian multipliers, times N, where there is a formula."""
        raise Refused(
            f"{type(self).__name__} losses have no formula for Gaussian multipliers here: give draws, such as "
            f"numpy.random.default_rng(1).standard_normal((10_000, {self.n})), for an interval"
        )


@dataclass(frozen=True, eq=False)
class Finite(Losses):
    """Finitely many functions: losses[j, i] = ℓ_j(x_i), shape (functions, N).

    Gaussian multipliers have a formula where the functions (with their negatives, if |·| is taken) span a plane at
    most, such as for N = 2: their hull there has perimeter p, and the mean of the largest g·ℓ_j is p/(2√(2π)) (Cauchy's
    formula for the mean width). Raises WrongType, Refused for no functions or samples, NotFinite.

    >>> from support.exact.multipliers import Gaussian, signs
    >>> unit_vectors = Finite(np.eye(2))
    >>> [round(given_data(unit_vectors, V).value, 6) for V in (signs(2), Gaussian(2))]  # ½ and 1/√π
    [0.5, 0.56419]
    """

    losses: Any
    _axis = 1

    def __post_init__(self):
        losses = array("losses", self.losses, ("functions", "N"))
        if not losses.size:
            raise Refused(f"losses of shape {losses.shape}: give at least one function and one sample")
        object.__setattr__(self, "losses", losses)

    @property
    def _held(self) -> int:
        return sum(self.losses.shape)

    def _largest(self, values, absolute):
        sums = values @ self.losses.T
        return np.maximum(sums.max(1), -sums.min(1)) if absolute else sums.max(1)

    def _gaussian(self, absolute):
        points = np.concatenate([self.losses, -self.losses]) if absolute else self.losses
        points = points - points.mean(0)
        _, widths, axes = np.linalg.svd(points, full_matrices=False)
        rank = int((widths > widths[0] * max(points.shape) * np.finfo(float).eps).sum())
        if rank > 2:
            return super()._gaussian(absolute)
        flat = points @ axes[:rank].T
        return _perimeter(flat) / (2 * math.sqrt(2 * math.pi))


def _perimeter(points) -> float:
    """Of the hull of points in at most two dimensions, (m, rank); a segment counts twice."""
    from scipy.spatial import ConvexHull

    if points.shape[1] < 2:
        return 2 * float(np.ptp(points)) if points.size else 0.0
    return float(ConvexHull(points).area)  # in the plane scipy's area is the perimeter


def kinked(knots, losses, centre: float, delta: float) -> Finite:
    """Losses of one parameter, linear between knots: weighted sums are largest at a knot or at an end of the ball.

    knots: θ' in rising order, (k,); losses: ℓ_i there, (k, N); centre: θ, delta: δ > 0, in the units of θ. Hinges,
    absolute errors and rectified units are such; the ball must lie within the knots. Exact. Raises WrongType,
    NotFinite, Refused for knots that do not rise, a ball outside them, or δ ≤ 0.

    >>> kinked([0.0, 1.0, 2.0], [[1.0], [0.0], [1.0]], 1.0, 0.5).losses.ravel()  # |θ' − 1|
    array([0.5, 0. , 0.5])
    """
    knots = array("knots", knots, ("k",))
    losses = array("losses", losses, (len(knots), "N"))
    centre, delta = real("centre", centre), radius(delta)
    if len(knots) < 2 or not (np.diff(knots) > 0).all():
        raise Refused(f"{len(knots)} knots do not rise: give at least two, in rising order")
    ends = np.array([centre - delta, centre + delta])
    if ends[0] < knots[0] or ends[1] > knots[-1]:
        raise Refused(
            f"the ball [{ends[0]:g}, {ends[1]:g}] leaves the knots: give losses at its ends, or a smaller delta"
        )
    inside = knots[(knots > ends[0]) & (knots < ends[1])]
    at = np.sort(np.concatenate([ends, inside]))
    return Finite(np.stack([np.interp(at, knots, column) for column in losses.T], axis=1))


@dataclass(frozen=True, eq=False)
class Linear(Losses):
    """``ℓ_i(θ') = c_i + x_i·(θ' − θ)`` in the ball: c (N,), slopes x (N, d), delta δ > 0.

    The supremum is ``|v·c| + δ|Σ v_i x_i|``, without |·| ``v·c + δ|Σ v_i x_i|``; for Gaussian multipliers its mean is
    an integral of one dimension (`mean_norm`). Raises WrongType, NotFinite, Refused for shapes that do not fit, δ ≤ 0.

    >>> Linear([0.0, 1.0], [[3.0], [4.0]], 0.5).suprema([[1.0, 1.0], [1.0, -1.0]])
    array([2.25, 0.75])
    """

    at_centre: Any
    slopes: Any
    delta: float

    def __post_init__(self):
        c = array("at_centre", self.at_centre, ("N",))
        if not len(c):
            raise Refused("at_centre is empty: give at least one sample")
        object.__setattr__(self, "at_centre", c)
        object.__setattr__(self, "slopes", array("slopes", self.slopes, (len(c), "d")))
        object.__setattr__(self, "delta", radius(self.delta))

    def _largest(self, values, absolute):
        middle = values @ self.at_centre
        return (abs(middle) if absolute else middle) + self.delta * np.linalg.norm(values @ self.slopes, axis=1)

    def _gaussian(self, absolute):
        middle = math.sqrt(2 / math.pi) * float(np.linalg.norm(self.at_centre)) if absolute else 0.0
        return middle + self.delta * mean_norm(np.linalg.svd(self.slopes, compute_uv=False) ** 2)


@dataclass(frozen=True, eq=False)
class Quadratic(Losses):
    """``ℓ_i(θ') = c_i + x_i·u + ½ uᵀH_i u``, u = θ' − θ, in the ball: c (N,), slopes x (N, d), curvatures H (N, d, d)
    symmetric, delta δ > 0.

    A weighted sum of them may curve either way; its maximum over the ball is that of a trust region (`ball_maximum`).
    Raises WrongType, NotFinite, Refused for shapes that do not fit, an H_i that is not symmetric, or δ ≤ 0.

    >>> saddle = Quadratic([0.0], [[0.0, 1.0]], [[[2.0, 0.0], [0.0, -2.0]]], 1.0)  # u₁² − u₂² + u₂, largest at u₂ = ¼
    >>> saddle.suprema([[1.0], [-1.0]], absolute=False)
    array([1.125, 2.   ])
    """

    at_centre: Any
    slopes: Any
    curvatures: Any
    delta: float

    def __post_init__(self):
        line = Linear(self.at_centre, self.slopes, self.delta)
        d = line.slopes.shape[1]
        curvatures = _symmetric(self.curvatures, line.n, d)
        for name, value in {**vars(line), "curvatures": curvatures}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def least_squares(cls, features, targets, theta, delta: float) -> Quadratic:
        """The losses ``½(x_i·θ' − y_i)²``: features (N, d), targets (N,), theta (d,). Raises as the class."""
        features = array("features", features, ("N", "d"))
        targets, theta = array("targets", targets, features.shape[:1]), array("theta", theta, features.shape[1:])
        residual = features @ theta - targets
        return cls(residual**2 / 2, residual[:, None] * features, features[:, :, None] * features[:, None], delta)

    @property
    def _held(self) -> int:
        return self.n + 4 * self.slopes.shape[1] ** 2

    def _largest(self, values, absolute):
        middle, slope = values @ self.at_centre, values @ self.slopes
        curvature = np.tensordot(values, self.curvatures, axes=1)
        up = middle + ball_maximum(slope, curvature, self.delta)
        return np.maximum(up, ball_maximum(-slope, -curvature, self.delta) - middle) if absolute else up


def ball_maximum(slopes, curvatures, delta: float) -> np.ndarray:
    """The largest ``g·u + ½ uᵀHu`` over |u| ≤ δ for many pairs: slopes g (m, d), curvatures H (m, d, d), as (m,).

    By the dual, which has no gap for one ball: the least of ``½λδ² + ½ Σ q_k²/(λ − h_k)`` over ``λ ≥ max(h_1, 0)``, q
    the slope in H's eigenbasis. The dual is convex and lies above the maximum at every λ, so that the value is never
    too small, and it is right in the "hard case" of a slope without a part along the top eigenvector (Conn, Gould and
    Toint 2000, Trust Region Methods, Chapter 7). Raises as `Quadratic`.

    >>> ball_maximum([[1.0, 0.0]], [[[0.0, 0.0], [0.0, 4.0]]], 1.0)  # the hard case: u = (¼, ±√15/4)
    array([2.125])
    """
    slopes = array("slopes", slopes, ("m", "d"))
    m, d = slopes.shape
    h, axes = np.linalg.eigh(_symmetric(curvatures, m, d))
    delta, squares = radius(delta), np.einsum("mij,mi->mj", axes, slopes) ** 2
    least = np.maximum(h.max(1, initial=0.0), 0.0)
    gaps = least[:, None] - h

    def terms(t, power):  # 0/0 is 0: a direction without slope costs nothing
        beyond = t[:, None] + gaps
        return np.divide(squares, beyond**power, out=np.zeros_like(squares), where=squares > 0).sum(1)

    low, high = np.zeros(m), np.sqrt(squares.sum(1)) / delta
    with np.errstate(divide="ignore", over="ignore"):
        for _ in range(60):  # |u(λ)| falls in λ and is δ at the dual's least
            middle = (low + high) / 2
            outside = terms(middle, 2) > delta**2
            low, high = np.where(outside, middle, low), np.where(outside, high, middle)
        return ((least + high) * delta**2 + terms(high, 1)) / 2


def _symmetric(curvatures, m: int, d: int) -> np.ndarray:
    curvatures = array("curvatures", curvatures, (m, d, d))
    if not np.allclose(curvatures, curvatures.transpose(0, 2, 1)):
        raise Refused("curvatures are not symmetric: give (H + Hᵀ)/2 for each")
    return curvatures


def mean_norm(variances) -> float:
    """``E √(Σ λ_k z_k²)`` for independent standard normal z_k: the mean length of a Gaussian vector of variances λ,
    (d,), by ``(1/√π) ∫ (1 − Π (1 + 2s²λ_k)^{−½}) s⁻² ds``. Raises WrongType, NotFinite, Refused for a negative one.

    >>> round(mean_norm([1.0, 1.0]) / math.sqrt(math.pi / 2), 12)
    1.0
    """
    from scipy.integrate import quad

    variances = array("variances", variances, ("d",))
    if (variances < 0).any():
        raise Refused(f"the least variance is {variances.min():g}: give numbers ≥ 0")
    total = float(variances.sum())
    if not total:
        return 0.0
    shares = variances / total

    def missing(s):
        return -math.expm1(-0.5 * float(np.log1p(2 * s * s * shares).sum())) / s**2

    pieces = ((1e-9, 1.0), (1.0, math.inf))  # near 0 the integrand is Σ shares = 1
    tight = {"epsabs": 1e-13, "epsrel": 1e-12, "limit": 200}
    return math.sqrt(total / math.pi) * (1e-9 + sum(quad(missing, *ends, **tight)[0] for ends in pieces))


def given_data(losses: Losses, multipliers, absolute: bool = True, confidence: float = 0.95) -> Interval:
    """``E_V (1/N) sup |Σ v_i ℓ_i(θ')|`` for these N samples, in units of the loss; absolute=False: without |·|.

    multipliers: `Multipliers` (all values of V) or `Gaussian`, whose answer is exact, an interval of width 0; or draws
    of V, (draws, N), whose mean has a Student interval. Raises WrongType, NotFinite, Refused for another N, a Gaussian
    without a formula, or fewer than 2 draws.

    >>> from support.exact.multipliers import Gaussian, batches, signs
    >>> line = Linear([0.0, 0.0], [[1.0], [1.0]], 1.0)
    >>> [round(given_data(line, V).value, 6) for V in (signs(2), Gaussian(2), batches(2, 1))]
    [0.5, 0.56419, 0.0]
    """
    instance("losses", losses, Losses, "give Finite, Linear or Quadratic losses")
    absolute = boolean("absolute", absolute)
    if not isinstance(multipliers, (Multipliers, Gaussian)):
        return student(losses.suprema(multipliers, absolute), confidence)
    if multipliers.n != losses.n:
        raise Refused(f"multipliers of N = {multipliers.n} samples came with {losses.n} losses: give one each")
    if isinstance(multipliers, Gaussian):
        return Interval.exact(losses._gaussian(absolute) / losses.n)
    return Interval.exact(float(multipliers.probabilities @ losses.suprema(multipliers.values, absolute)))


def over_data(losses: Losses, probabilities, multipliers: Multipliers | Gaussian, absolute: bool = True) -> float:
    """``R(V, θ, δ, N)`` with N independent samples of a finite population: `given_data`, weighted by the probability of
    each multiset of N atoms.

    losses: of the atoms; probabilities: of the atoms, (atoms,), sum 1. V must not change in law when its entries change
    places, as with `signs`, `batches` and `Gaussian`. Raises as `given_data`, and Refused for too many multisets.

    >>> from support.exact.multipliers import batches, signs
    >>> p, spike = 1e-6, Finite([[1e6, 0.0]])  # a loss that is 1/p with probability p, else 0
    >>> sgd, rademacher = (over_data(spike, [p, 1 - p], V) for V in (batches(4, 2), signs(2)))
    >>> round(sgd / (2 * (1 - 1 / 2) * rademacher), 5)  # with replacement the talk's bound, 1, fails
    1.125
    """
    instance("losses", losses, Losses, "give Finite, Linear or Quadratic losses of the atoms")
    instance("multipliers", multipliers, (Multipliers, Gaussian), "give signs(N), batches(N, b) or Gaussian(N)")
    probabilities = shares(probabilities, losses.n)
    count, words = combinations(losses.n + multipliers.n - 1, multipliers.n)
    if count * getattr(multipliers, "values", np.zeros(1)).shape[0] > 2**10 * LIMIT:
        raise Refused(f"N = {multipliers.n} of {losses.n} atoms are {words} multisets: give fewer samples or atoms")
    return math.fsum(
        p * given_data(losses.take(index), multipliers, absolute).value
        for index, p in _multisets(probabilities, multipliers.n)
    )


def _multisets(probabilities, size: int) -> Iterator[tuple[np.ndarray, float]]:
    """Every multiset of atoms, and how likely it is drawn in any order."""
    for index in itertools.combinations_with_replacement(range(len(probabilities)), size):
        counts = np.bincount(index, minlength=len(probabilities))
        yield np.array(index), float(multinomial(counts[None])[0] * np.prod(probabilities**counts))


def radius(value) -> float:
    """δ > 0 of a ball. Raises WrongType or Refused.

    >>> radius(1)
    1.0
    """
    return real("delta", value, above=0)
