r"""What a noise class changes when mean and covariance are given: the law of one step's random factor, its moments and
its typical size, exactly.

One parameter, losses ``½ x² θ²``: a step is ``θ ← f θ`` with a random factor ``f = 1 − η s``, where
``s = Σ_r w_r x_r²`` sums over fresh samples (Wu et al. 2020, Section 3). Given what was picked, s is Gaussian or a
number, so f is a finite `Mixture`, with moments in fractions. Its *moment exponent* ``Λ(q) = log E|f|^q`` holds the
rest: ``E|θ_k|^q = e^{kΛ(q)} |θ_0|^q``; the slope ``Λ'(0) = E log|f|``, the Lyapunov exponent, is the rate of a typical
run. The law of a whole product is in `support.exact.products`. Nothing here is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real

import numpy as np
from scipy import special

from support.errors import Refused, WrongType, array, choice, instance, integer, numpy_generator, real

KINDS = ("SGD", "MSGD-Cov", "signs", "MSGD-[Cov-B]", "[MSGD-Cov]-B")


@dataclass(frozen=True)
class Mixture:
    """The law ``Σ_j p_j N(m_j, s_j)`` of a real number: a finite mixture of Gaussians, a part of variance s = 0 being
    an atom.

    parts: triples (probability p, mean m, variance s), in fractions for exact moments; equal parts are put together.
    Raises WrongType for what is no such triple, Refused for probabilities that do not sum to one, negative ones,
    negative variances and numbers that are not finite.

    >>> coin = Mixture(((Fraction(1, 2), 1, 0), (Fraction(1, 2), -1, 0)))
    >>> coin.moment(4), coin.cumulants()[3], coin.lyapunov
    (Fraction(1, 1), Fraction(-2, 1), 0.0)
    """

    parts: tuple[tuple, ...]

    def __post_init__(self):
        together: dict[tuple, object] = {}
        for part in instance("parts", self.parts, tuple, "give a tuple of triples (probability, mean, variance)"):
            if not isinstance(part, tuple) or len(part) != 3 or not all(isinstance(x, Real) for x in part):
                raise WrongType(f"part {part!r} is no triple of numbers: give (probability, mean, variance)")
            p, m, s = part
            if not all(math.isfinite(x) for x in part) or p < 0 or s < 0:
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
        """The law of ``shift + scale · X``. Raises WrongType for what is no number, Refused for what is not finite."""
        real("shift", shift), real("scale", scale)
        return Mixture(tuple((p, shift + scale * m, scale * scale * s) for p, m, s in self.parts))

    def moment(self, order: int):
        """``E X^order`` for a whole number order ≥ 0, exact for parts in fractions:
        ``Σ_i C(order, 2i) (2i−1)!! m^(order−2i) s^i`` in every part. For other powers of |X| there is `exponent`.
        """
        order = integer("order", order, 0)
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
        q = real("q", q)
        p, m, s = (np.array(column, dtype=float) for column in zip(*self.parts, strict=True))
        atoms = (s == 0) & (m != 0)  # many of them, in a law of data
        values, slopes = np.empty(len(p)), np.empty(len(p))
        slopes[atoms] = np.log(np.abs(m[atoms]))
        values[atoms] = q * slopes[atoms]
        for j in np.flatnonzero(~atoms):
            values[j], slopes[j] = _log_power(m[j], s[j], q)
        weights = np.log(p) + values
        total = float(special.logsumexp(weights))
        if total == math.inf:
            return total, math.nan
        share = np.exp(weights - total)
        return total, float(share[share > 0] @ slopes[share > 0])

    def within(self, size) -> np.ndarray:
        """``P(|X| < size)`` for an array of sizes ≥ 0, infinite ones too. Raises WrongType for what are no numbers,
        Refused for a size below 0.
        """
        size, total = array("sizes", size, infinite=True), 0.0
        if not (size >= 0).all():
            raise Refused(f"size = {np.min(size):g}: |X| is at least 0, give sizes ≥ 0")
        for p, mean, variance in self.parts:
            m, sd = float(mean), math.sqrt(variance)
            inside = special.ndtr((size - m) / sd) - special.ndtr((-size - m) / sd) if sd > 0 else size > abs(m)
            total = total + float(p) * inside
        return total

    def sample(self, size, generator: np.random.Generator) -> np.ndarray:
        """Draws of X, of the shape ``size``, a number or a tuple: only for showing what a simulation would see.
        Raises WrongType for what is no number of draws or no numpy generator.
        """
        size = tuple(integer("size", n, 0) for n in (size if isinstance(size, tuple) else (size,)))
        numpy_generator(generator)
        p, m, s = np.array([[float(x) for x in part] for part in self.parts]).T
        picked = generator.choice(len(p), size, p=p / p.sum())
        return m[picked] + np.sqrt(s[picked]) * generator.standard_normal(size)


def _log_power(m: float, s: float, q: float) -> tuple[float, float]:
    """``log E|X|^q`` and its derivative in q for X ~ N(m, s), s > 0 or m = 0.

    ``X²/(2s)`` is a gamma variable whose shape ½ + J is random, J ~ Poisson(m²/(2s)): a sum over J of positive terms.
    Where 0 is more than 20 standard deviations away, log|X| is smooth as far as the law reaches, and Gauss-Hermite
    quadrature takes over.
    """
    if s == 0 and m == 0:
        return (0.0, -math.inf) if q == 0 else (-math.inf, 0.0) if q > 0 else (math.inf, math.nan)
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
    covariance of Wu et al. 2020, Theorem 1); "MSGD-[Cov-B]", exact mean, noise from B samples. Raises WrongType for
    another type, Refused for an unknown kind, b < 1, B < max(b, 2), or probabilities that do not sum to one.

    >>> seldom = {0: Fraction(3, 4), 4: Fraction(1, 4)}
    >>> [str(online_noise(kind, seldom, 2).cumulants()[1]) for kind in ("SGD", "MSGD-Cov")]
    ['3/2', '3/2']
    """
    kind = choice("kind", kind, KINDS)
    instance("squares", squares, Mapping, "give the law of x² as {value: probability}")
    b = integer("b", b, 1)
    if "B" in kind:
        B = integer("B", B, max(b, 2), why="the large batch is at least max(b, 2)")
    square = Mixture(tuple((p, u, Fraction(0)) for u, p in squares.items()))
    mean, variance = square.moment(1), square.cumulants()[1] * Fraction(1, b)
    if kind == "MSGD-Cov":
        return Mixture(((Fraction(1), mean, variance),))
    if kind == "signs":
        return Mixture(tuple((Fraction(1, 2), mean + sign * _root(variance), Fraction(0)) for sign in (1, -1)))
    if kind == "SGD":
        return Mixture(tuple((p, average, Fraction(0)) for p, average, _ in _batches(square, b)))
    if kind == "[MSGD-Cov]-B":
        tau2 = Fraction(B - b, b * B * (B - 1))
        return Mixture(tuple((p, average, tau2 * spread) for p, average, spread in _batches(square, B)))
    return Mixture(tuple((p, mean, Fraction(1, b * (B - 1)) * spread) for p, _, spread in _batches(square, B)))


def _root(x):
    """The square root, a Fraction if it is one."""
    if isinstance(x, Fraction):
        root = Fraction(math.isqrt(x.numerator), math.isqrt(x.denominator))
        if root * root == x:
            return root
    return math.sqrt(x)


def _batches(square: Mixture, size: int) -> Iterator[tuple]:
    """Every unordered batch of fresh x²: (probability, mean, sum of squared deviations)."""
    atoms = [(p, u) for p, u, _ in square.parts]
    if (number := math.comb(size + len(atoms) - 1, size)) > 100_000:
        raise Refused(
            f"{len(atoms)} values of x² make {number} batches of {size}: choose fewer of either, for at most 100000"
        )
    for counts in compositions(size, len(atoms)):
        if all(isinstance(p, Fraction) for p, _ in atoms):
            chance = math.factorial(size) * math.prod(
                p**c * Fraction(1, math.factorial(c)) for c, (p, _) in zip(counts, atoms, strict=True)
            )
        else:
            logs = [c * math.log(p) - math.lgamma(c + 1) for c, (p, _) in zip(counts, atoms, strict=True)]
            chance = math.exp(math.lgamma(size + 1) + math.fsum(logs))
        mean = sum(count * u for count, (_, u) in zip(counts, atoms, strict=True)) * Fraction(1, size)
        yield chance, mean, sum(count * (u - mean) ** 2 for count, (_, u) in zip(counts, atoms, strict=True))


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to write ``total`` as an ordered sum of ``parts`` whole numbers ≥ 0.

    >>> list(compositions(2, 2))
    [(0, 2), (1, 1), (2, 0)]
    """
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in compositions(total - first, parts - 1):
            yield first, *rest
