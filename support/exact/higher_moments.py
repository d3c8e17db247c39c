r"""What a noise class changes when mean and covariance are given: all moments, typical runs and the whole law of the
risk on least squares, exactly.

One parameter, losses ``½ x² θ²``: a step is ``θ ← f θ`` with a random factor ``f = 1 − η s``, where
``s = Σ_r w_r x_r²`` sums over fresh samples (Wu et al. 2020, Section 3). Given what was picked, s is Gaussian or a
number, so f is a finite `Mixture`, with moments in fractions. Its *moment exponent* ``Λ(q) = log E|f|^q`` holds the
rest: ``E|θ_k|^q = e^{kΛ(q)} |θ_0|^q``; the slope ``Λ'(0) = E log|f|``, the Lyapunov exponent, is the rate of a typical
run; and `log_products` is the law of ``log|f_1 ⋯ f_k|`` with a bracket for its error. `loss_moments` has mean and
second moment of the loss on any small regression, by propagating the tensor of fourth moments. Nothing here is sampled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy import special

from support.errors import Refused
from support.exact.recipes import recipe
from support.sampling import Law

KINDS = ("SGD", "MSGD-Cov", "signs", "MSGD-[Cov-B]", "[MSGD-Cov]-B")
_RARE = 1e-13  # probability of what a bracket may leave out


@dataclass(frozen=True)
class Mixture:
    """The law ``Σ_j p_j N(m_j, s_j)`` of a real number: a finite mixture of Gaussians, a part of variance s = 0 being
    an atom.

    parts: triples (probability p, mean m, variance s), in fractions for exact moments; equal parts are put together.
    Raises ValueError for probabilities that do not sum to one, negative ones, negative variances and numbers that are
    not finite.
    """

    parts: tuple[tuple, ...]

    def __post_init__(self):
        together: dict[tuple, object] = {}
        for p, m, s in self.parts:
            if not all(math.isfinite(x) for x in (p, m, s)) or p < 0 or s < 0:
                raise Refused(
                    f"part (p, mean, variance) = ({p}, {m}, {s}) is none: give finite numbers with p ≥ 0 and variance "
                    f"≥ 0"
                )
            if p > 0:
                together[m, s] = together.get((m, s), 0) + p
        total = sum(together.values())
        if abs(total - 1) > 1e-9:
            raise Refused(f"the probabilities sum to {float(total):.6g}: they must sum to 1")
        object.__setattr__(self, "parts", tuple((p, m, s) for (m, s), p in together.items()))

    @property
    def zero(self):
        """Probability of the value 0, exact."""
        return sum((p for p, m, s in self.parts if m == 0 and s == 0), Fraction(0))

    def affine(self, shift, scale) -> Mixture:
        """The law of ``shift + scale · X``."""
        return Mixture(tuple((p, shift + scale * m, scale * scale * s) for p, m, s in self.parts))

    def moment(self, order: int):
        """``E X^order`` for a whole number order ≥ 0, exact for parts in fractions:
        ``Σ_i C(order, 2i) (2i−1)!! m^(order−2i) s^i`` in every part.
        """
        if isinstance(order, bool) or not isinstance(order, (int, np.integer)) or order < 0:
            raise Refused(
                f"order = {order!r} is none: give a whole number ≥ 0, or use exponent for other powers of |X|"
            )
        ways = [math.comb(order, 2 * i) * math.prod(range(1, 2 * i, 2)) for i in range(order // 2 + 1)]
        return sum(p * sum(way * m ** (order - 2 * i) * s**i for i, way in enumerate(ways)) for p, m, s in self.parts)

    def cumulants(self) -> tuple:
        """Mean, variance, third and fourth cumulant; the last two are 0 for a Gaussian, and those of independent
        summands add up.
        """
        mean = self.moment(1)
        centred = self.affine(-mean, 1)
        second, third, fourth = (centred.moment(order) for order in (2, 3, 4))
        return mean, second, third, fourth - 3 * second**2

    def exponent(self, q: float) -> float:
        """The moment exponent ``Λ(q) = log E|X|^q``, q real; ∞ where the moment is (q ≤ −1 with a Gaussian part, q < 0
        with an atom at 0).
        """
        return self._tilt(q)[0]

    def slope(self, q: float) -> float:
        """``Λ'(q) = E[|X|^q log|X|] / E|X|^q``: mean of log|X| among the events that make the q-th moment; −∞ at q = 0
        for an atom at 0. Needs Λ(q) < ∞.
        """
        value, slope = self._tilt(q)
        if value == math.inf:
            raise Refused(
                f"q = {q}: the moment E|X|^q is infinite and has no slope; take q > −1, and q ≥ 0 for a law with an "
                f"atom at 0"
            )
        return slope

    @property
    def lyapunov(self) -> float:
        """``E log|X| = Λ'(0)``: the rate at which |θ| moves per step in a typical run, in natural logarithms; relative
        error below 1e-12.
        """
        return self.slope(0)

    def _tilt(self, q: float) -> tuple[float, float]:
        if not math.isfinite(q):
            raise Refused(f"q = {q} is no power: give a finite number")
        parts = [(math.log(p), *_log_power(float(m), float(s), q)) for p, m, s in self.parts]
        weights = np.array([p + value for p, value, _ in parts])
        total = float(special.logsumexp(weights))
        if total == math.inf:
            return total, math.nan
        share = np.exp(weights - total)
        return total, float(sum(w * slope for w, (_, _, slope) in zip(share, parts, strict=True) if w > 0))

    def within(self, size) -> np.ndarray:
        """``P(|X| < size)`` for an array of sizes ≥ 0."""
        size, total = np.asarray(size, dtype=float), 0.0
        for p, mean, variance in self.parts:
            m, sd = float(mean), math.sqrt(variance)
            inside = special.ndtr((size - m) / sd) - special.ndtr((-size - m) / sd) if sd > 0 else size > abs(m)
            total = total + float(p) * inside
        return total

    def sample(self, size, generator: np.random.Generator) -> np.ndarray:
        """Draws of X, an array of the shape ``size``: only for showing what a simulation would see."""
        p, m, s = np.array([[float(x) for x in part] for part in self.parts]).T
        picked = generator.choice(len(p), size, p=p / p.sum())
        return m[picked] + np.sqrt(s[picked]) * generator.standard_normal(size)


def _log_power(m: float, s: float, q: float) -> tuple[float, float]:
    """``log E|X|^q`` and its derivative in q for X ~ N(m, s).

    ``X²/(2s)`` is a gamma variable whose shape ½ + J is random, J ~ Poisson(m²/(2s)): a sum over J of positive terms.
    Where 0 is more than 20 standard deviations away, log|X| is smooth as far as the law reaches, and Gauss-Hermite
    quadrature takes over.
    """
    if s == 0:
        if m == 0:
            return (0.0, -math.inf) if q == 0 else (-math.inf, 0.0) if q > 0 else (math.inf, math.nan)
        return q * math.log(abs(m)), math.log(abs(m))
    if q <= -1:
        return math.inf, math.nan
    rate = m * m / (2 * s)
    if rate > 200 and abs(q) * s < m * m / 4:  # |X|^q, too, leaves its weight where the nodes are
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)
        logs = np.log(np.abs(m + math.sqrt(s) * nodes))
        terms = np.log(weights / weights.sum()) + q * logs
    else:
        j = np.arange(math.ceil(rate + 12 * math.sqrt(rate + abs(q)) + 2 * abs(q) + 60))
        chance = special.xlogy(j, rate) - rate - special.gammaln(j + 1)
        terms = chance + special.gammaln(0.5 + j + q / 2) - special.gammaln(0.5 + j) + q / 2 * math.log(2 * s)
        logs = (special.digamma(0.5 + j + q / 2) + math.log(2 * s)) / 2
    total = float(special.logsumexp(terms))
    return total, float(np.exp(terms - total) @ logs)


def online_noise(kind: str, squares: Mapping, b: int, B: int | None = None) -> Mixture:
    """The law of ``s = Σ_r w_r x_r²`` in one step of online least squares: mean h = E x² and variance Var(x²)/b,
    whatever the class.

    squares: the law of x² as {value: probability}, finite; fractions stay exact.
    b: batch size of SGD.   B: large batch, B ≥ max(b, 2), of the two kinds that have one.
    kind: "SGD", a batch of b fresh samples; "MSGD-Cov", Gaussian; "signs", h ± standard deviation, a fair coin;
    "[MSGD-Cov]-B", Algorithm 2, B fresh samples with the exact noise τ² = (B−b)/(bB(B−1)) on their weights (the
    covariance of Wu et al. 2020, Theorem 1); "MSGD-[Cov-B]", exact mean, noise from B samples. Raises ValueError for an
    unknown kind, b < 1, B < max(b, 2), or probabilities that do not sum to one.
    """
    if kind not in KINDS:
        raise Refused(f"kind = {kind!r} is unknown: choose from {', '.join(KINDS)}")
    law = Mixture(tuple((p, u, Fraction(0)) for u, p in squares.items()))
    if b < 1 or ("B" in kind and not (B or 0) >= max(b, 2)):
        raise Refused(f"b = {b}, B = {B}: give b ≥ 1, and B ≥ max(b, 2) for the kinds with a large batch")
    mean, variance = law.moment(1), law.cumulants()[1] * Fraction(1, b)
    if kind == "MSGD-Cov":
        return Mixture(((Fraction(1), mean, variance),))
    if kind == "signs":
        return Mixture(tuple((Fraction(1, 2), mean + sign * _root(variance), Fraction(0)) for sign in (1, -1)))
    if kind == "SGD":
        return Mixture(tuple((p, average, Fraction(0)) for p, average, _ in _batches(law, b)))
    if kind == "[MSGD-Cov]-B":
        tau2 = Fraction(B - b, b * B * (B - 1))
        return Mixture(tuple((p, average, tau2 * spread) for p, average, spread in _batches(law, B)))
    return Mixture(tuple((p, mean, Fraction(1, b * (B - 1)) * spread) for p, _, spread in _batches(law, B)))


def _root(x):
    """The square root, a Fraction if it is one."""
    if isinstance(x, Fraction):
        root = Fraction(math.isqrt(x.numerator), math.isqrt(x.denominator))
        if root * root == x:
            return root
    return math.sqrt(x)


def _batches(law: Mixture, size: int) -> Iterator[tuple]:
    """Every unordered batch of fresh x²: (probability, mean, sum of squared deviations)."""
    atoms = [(p, u) for p, u, _ in law.parts]
    if (number := math.comb(size + len(atoms) - 1, size)) > 100_000:
        raise Refused(
            f"{len(atoms)} values of x² make {number} batches of {size}: choose fewer of either, for at most 100000"
        )
    for counts in _compositions(size, len(atoms)):
        if all(isinstance(p, Fraction) for p, _ in atoms):
            chance = math.factorial(size) * math.prod(
                p**c * Fraction(1, math.factorial(c)) for c, (p, _) in zip(counts, atoms, strict=True)
            )
        else:
            logs = [c * math.log(p) - math.lgamma(c + 1) for c, (p, _) in zip(counts, atoms, strict=True)]
            chance = math.exp(math.lgamma(size + 1) + math.fsum(logs))
        mean = sum(count * u for count, (_, u) in zip(counts, atoms, strict=True)) * Fraction(1, size)
        yield chance, mean, sum(count * (u - mean) ** 2 for count, (_, u) in zip(counts, atoms, strict=True))


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield first, *rest


@dataclass(frozen=True)
class LogProduct:
    """The law of ``log|f_1 ⋯ f_k|``, known up to a bracket.

    The mass at ``values[i]`` lies, in truth, somewhere in ``[values[i], values[i] + width]``; at most ``lost`` of the
    probability is misplaced beyond that. vanished: probability that the product is 0.
    """

    steps: int
    values: np.ndarray
    masses: np.ndarray
    width: float
    vanished: float = 0.0
    lost: float = 0.0

    def cdf(self, x) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bound of ``P(log|f_1 ⋯ f_k| ≤ x)`` for an array x."""
        below = np.concatenate([[0.0], np.cumsum(self.masses)]) + self.vanished
        low, high = (
            below[np.searchsorted(self.values, np.asarray(x, dtype=float) - shift, side="right")]
            for shift in (self.width, 0.0)
        )
        return np.clip(low - self.lost, 0, 1), np.clip(high + self.lost, 0, 1)

    def quantile(self, level: float) -> tuple[float, float]:
        """Lower and upper bound of the level-quantile, 0 < level < 1; −∞ where the product is 0.

        Raises ValueError for another level, or one within ``lost`` of 0 or 1.
        """
        if not self.lost < level < 1 - self.lost:
            raise Refused(f"level = {level} cannot be resolved: choose {self.lost:.3g} < level < 1 − {self.lost:.3g}")
        below = np.cumsum(self.masses) + self.vanished
        ends = []
        for wanted in (level - self.lost, level + self.lost):
            at = int(np.searchsorted(below, wanted - 1e-15))
            ends.append(-math.inf if wanted <= self.vanished else float(self.values[min(at, len(below) - 1)]))
        return ends[0], ends[1] + self.width


def log_products(factor: Mixture, counts: Iterable[int], points: int = 2**18) -> list[LogProduct]:
    """The laws of ``log|f_1 ⋯ f_k|`` for every k in counts, f_1, f_2, … independent with the law ``factor``.

    A law of few atoms is counted (width: rounding). Any other is rounded down to a grid of ``points`` cells and
    convolved by one Fourier transform: k factors are rounded by at most ``width = k · cell`` in total, so that cdf and
    quantiles come as brackets. What lies outside the grid has a probability below 1e-13, by Chernoff's bound with Λ;
    what the transform misplaces is estimated by the negative masses it makes. Both are in ``lost``. Raises ValueError
    for counts below 1, no counts, or too few points.
    """
    counts = [int(k) for k in counts]
    if not counts or min(counts) < 1:
        raise Refused(f"counts = {counts}: give numbers of steps, each at least 1")
    zero = factor.zero
    if zero == 1:
        return [LogProduct(k, np.zeros(1), np.zeros(1), 0.0, vanished=1.0) for k in counts]
    alive = Mixture(tuple((p / (1 - zero), m, s) for p, m, s in factor.parts if m != 0 or s != 0))
    vanished = [float(1 - (1 - zero) ** k) for k in counts]
    atoms: dict = {}
    for p, m, s in alive.parts:
        place = math.log(abs(m)) if s == 0 else math.nan
        atoms[place] = atoms.get(place, 0.0) + float(p)
    few = all(s == 0 for *_, s in alive.parts) and math.comb(max(counts) + len(atoms) - 1, len(atoms) - 1) <= points
    laws = _by_counting(atoms, counts) if few else _by_fourier(alive, counts, points)
    return [
        LogProduct(k, values, (1 - gone) * masses, width, gone, lost)
        for k, gone, (values, masses, width, lost) in zip(counts, vanished, laws, strict=True)
    ]


def _by_counting(atoms: dict, counts):
    """How often each atom occurred decides the product: multinomial probabilities."""
    logs, p = np.array(list(atoms)), np.array(list(atoms.values()))
    for k in counts:
        hits = np.array(list(_compositions(k, len(p))))
        masses = np.exp(special.gammaln(k + 1) + (special.xlogy(hits, p) - special.gammaln(hits + 1)).sum(1))
        values = hits @ logs
        order = np.argsort(values)
        # the few roundings of logs and sums are covered by the width
        slack = 1e-14 * k * (1 + np.abs(logs).max())
        yield values[order] - slack / 2, masses[order] / masses.sum(), slack, 1e-12


def _reach(factor: Mixture, k: int, rare: float) -> tuple[float, float]:
    """The sum of k logarithms lies outside with a probability below ``rare``: Chernoff's bounds."""
    powers = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
    budget = -math.log(rare / 2)
    high = min((k * factor.exponent(q) + budget) / q for q in powers)
    low = -min((k * factor.exponent(-q) + budget) / q for q in powers)
    return low, high


def _by_fourier(factor: Mixture, counts, points: int):
    ends = [_reach(factor, k, _RARE) for k in counts]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if points < 64 + 4 * max(counts):
        raise Refused(f"points = {points} are too few for {max(counts)} steps: give at least {64 + 4 * max(counts)}")
    cell = (high - low) / (points - max(counts) - 4)
    # one step, rounded down to cells first … last; indices of sums are known modulo points, and that is enough
    bottom, top = _reach(factor, 1, _RARE / max(counts))
    cells = np.arange(math.floor(bottom / cell), math.ceil(top / cell) + 1)
    single = np.diff(factor.within(np.exp(np.append(cells, cells[-1] + 1) * cell)))
    spectrum = np.fft.rfft(np.bincount(cells % points, weights=single, minlength=points))
    first = math.floor(low / cell) - max(counts) - 1
    for k in counts:
        masses = np.roll(np.fft.irfft(spectrum**k, points), -(first % points))
        misplaced = -2 * masses[masses < 0].sum() + abs(
            masses.sum() - 1
        )  # rounding makes as much too much as too little
        yield (first + np.arange(points)) * cell, np.maximum(masses, 0), k * cell, misplaced + _RARE


def loss_moments(features, targets, law: Law, lr, theta, steps: int) -> Iterator[tuple]:
    """Exact ``(E L(θ_k), E L(θ_k)²)`` for k = 0 … steps on a regression with losses ``ℓ_i = ½(x_iᵀθ − y_i)²``, L their
    mean, started at theta.

    features: (n, d), d ≤ 4; targets: (n,); theta: (d,); Fractions stay rational. With z = (θ, 1) a step is
    ``z ← (T + N) z``; given what was picked N is Gaussian, so ``E (T+N)^{⊗4}`` has three kinds of terms: T⊗T⊗T⊗T, T⊗T⊗K
    and K⊗K with K = E N⊗N. Cost: O((d+1)⁸) a pick once, and as much a step. Raises ValueError for shapes that do not
    fit, d > 4, steps < 0, and for noise made of signs, whose fourth moments are not those of a Gaussian.
    """
    features, targets = np.asarray(features), np.asarray(targets)
    n, d = features.shape
    made = recipe(law)
    if law.n != n or targets.shape != (n,) or np.shape(theta) != (d,):
        shapes = f"features {features.shape}, targets {targets.shape}, theta {np.shape(theta)}, a law for n = {law.n}"
        raise Refused(f"{shapes}: give (n, d), (n,), (d,) and this n")
    if d > 4 or steps < 0 or made.noise == "signs":
        raise Refused(
            f"d = {d}, steps = {steps}, noise of {made.noise}: give d ≤ 4, steps ≥ 0 and a class whose noise is none "
            f"or Gaussian"
        )
    D, exact = d + 1, features.dtype == object
    number = Fraction if exact else float
    residual = np.concatenate([features, -targets[:, None]], axis=1)
    pulls = [
        np.outer(np.append(x, number(0)), rho) for x, rho in zip(features, residual, strict=True)
    ]  # sample i moves z by −η W_i γ_i ρ_iᵀ z
    twice = [np.kron(pull, pull) for pull in pulls]
    unit = np.array([[number(i == j) for j in range(D)] for i in range(D)])
    power = np.zeros((D**4, D**4), dtype=features.dtype)
    for p, counts in made.picks():
        weights = [number(made.floor + count * made.slot) for count in counts]
        mean = unit - lr * sum(w * pull for w, pull in zip(weights, pulls, strict=True))
        T = np.kron(mean, mean)
        K = sum(number(count) * pair for count, pair in zip(counts, twice, strict=True))
        if made.centred:
            total = sum(number(count) * pull for count, pull in zip(counts, pulls, strict=True))
            K = K - np.kron(total, total) / number(made.size)
        K = number(made.variance) * lr * lr * K
        power = power + number(p) * (np.kron(T, T) + 6 * np.kron(T, K) + 3 * np.kron(K, K))
    return _fourth(power, residual, np.append(theta, number(1)), steps)


def _fourth(power, residual, z, steps: int) -> Iterator[tuple]:
    D, n = len(z), len(residual)
    quadratic = (residual.T @ residual / (2 * n)).ravel()
    lift = np.outer(
        [int(i == D - 1) for i in range(D)], [int(i == D - 1) for i in range(D)]
    ).ravel()  # picks 1·1 from z⊗z
    moment = np.kron(np.kron(z, z), np.kron(z, z))
    for k in range(steps + 1):
        table = moment.reshape(D * D, D * D)
        yield quadratic @ table @ lift, quadratic @ table @ quadratic
        if k < steps:
            cube = (power @ moment).reshape((D,) * 4)
            # the tensor of z⊗z⊗z⊗z is symmetric: averaging over the 24 orders replaces the terms left out of TTKK and
            # KKKK
            moment = sum(cube.transpose(order) for order in itertools.permutations(range(4))).ravel() / 24
