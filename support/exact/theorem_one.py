r"""The proof of Theorem 1 of Wu et al. (2020, Appendix A.2), made countable: every outcome of a step in rationals, and
the chain of inequalities link by link.

With ``L = Σ_r w_r x_r x_rᵀ`` and ``N = Σ_r w_r ε_r x_r`` a step of MSGD on fresh samples is ``δ ← (I − ηL) δ + ηN``.
For finitely many (x, y) and weights there are finitely many pairs (L, N); `outcomes` lists them, and expectations over
one step or over all paths of a few steps are sums of fractions.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from support.errors import Refused
from support.exact.averaged import BatchNoise, bound, inverse_T, kappa, lr_limit, matched, risks
from support.exact.populations import FinitePopulation, Population
from support.sampling import Atom


class Outcome(NamedTuple):
    """A value of one step's (L, N) with its probability: L (d, d), N (d,), all rational."""

    probability: Fraction
    L: np.ndarray
    N: np.ndarray


def outcomes(population: FinitePopulation, weights: Iterable[Atom]) -> list[Outcome]:
    """Every value of (L, N) of a step on B fresh samples, equal values merged; weights: (probability, B weights), such
    as ``law.atoms()`` of a law with n = B.

    Raises ValueError for a population that is not rational.
    """
    if not population.exact:
        raise Refused("outcomes are counted in fractions: give the population as arrays of Fractions")
    d, merged = len(population.optimum), defaultdict(Fraction)
    squares = [np.outer(x, x) for x in population.inputs]
    moved = [e * x for e, x in zip(population.residuals, population.inputs, strict=True)]
    for p, w in weights:
        by_atom = defaultdict(
            Fraction
        )  # samples with equal weights may be exchanged: count how much weight each atom gets
        for picks in itertools.product(range(len(squares)), repeat=len(w)):
            load = [Fraction(0)] * len(squares)
            chance = p
            for r, i in enumerate(picks):
                load[i] += w[r]
                chance = chance * population.probabilities[i]
            by_atom[tuple(load)] += chance
        for load, chance in by_atom.items():
            merged[load] += chance
    found = defaultdict(Fraction)
    for load, chance in merged.items():
        L = sum((c * s for c, s in zip(load, squares, strict=True)), np.array([[Fraction(0)] * d] * d))
        N = sum((c * s for c, s in zip(load, moved, strict=True)), np.array([Fraction(0)] * d))
        found[tuple(L.ravel()), tuple(N)] += chance
    return [Outcome(chance, np.array(L).reshape(d, d), np.array(N)) for (L, N), chance in found.items() if chance]


def expect(steps: list[Outcome], value: Callable[[np.ndarray, np.ndarray], np.ndarray]):
    """``E value(L, N)`` over the outcomes of one step."""
    return sum(step.probability * value(step.L, step.N) for step in steps)


def paths(steps: list[Outcome], length: int) -> Iterator[tuple[Fraction, tuple[Outcome, ...]]]:
    """Every sequence of ``length`` outcomes with its probability."""
    for path in itertools.product(steps, repeat=length):
        probability = Fraction(1)
        for step in path:
            probability *= step.probability
        yield probability, path


def product(path: tuple[Outcome, ...], lr, i: int, k: int) -> np.ndarray:
    """``M(i, k) = (I − ηL(i)) ⋯ (I − ηL(k))`` along a path, the identity for i < k; steps count from 1."""
    d = len(path[0].N)
    result = np.diag([Fraction(1)] * d)
    for step in path[k - 1 : i]:
        result = result - lr * step.L @ result
    return result


def walk(path: tuple[Outcome, ...], lr, start) -> list[np.ndarray]:
    """The errors δ_0, δ_1, … along a path, by the recursion of the algorithm."""
    errors = [start]
    for step in path:
        errors.append(errors[-1] - lr * (step.L @ errors[-1] - step.N))
    return errors


def counted_risks(
    population: FinitePopulation, steps: list[Outcome], lr, theta, length: int
) -> tuple[Fraction, Fraction]:
    """Excess risk of the last and of the averaged iterate after ``length`` steps, by following every path; what
    `averaged.risks` has to give.
    """
    start, sigma, last, averaged = population.error_of(theta), population.second_moment, Fraction(0), Fraction(0)
    for probability, path in paths(steps, length):
        errors = walk(path, lr, start)
        mean = sum(errors) / Fraction(length + 1)
        last += probability * (errors[-1] @ sigma @ errors[-1]) / 2
        averaged += probability * (mean @ sigma @ mean) / 2
    return last, averaged


@dataclass(frozen=True)
class Link:
    """One link of the proof, ``left ≤ right``: the right side as printed, and as repaired (the same where nothing is
    wrong).

    reached: the bound on the excess risk that stands after this link, by the printed and by the repaired proof.
    """

    name: str
    left: float
    printed: float
    repaired: float
    reached: tuple[float, float]

    @property
    def slack(self) -> tuple[float, float]:
        """right / left, printed and repaired: at least 1 if the link holds; infinite where left is 0."""
        return tuple(right / self.left if self.left else np.inf for right in (self.printed, self.repaired))


def chain(population: Population, noise: BatchNoise, lr: float, theta, n: int) -> dict[str, Link]:
    """The links of the proof by name, with their exact two sides in floating point, after n steps from theta, in the
    proof's order.

    "average": the average by the sum of squares; "split": bias and noise apart; "noise": the noise term; "sum": the
    geometric series; "M": the equation for M = T⁻¹I; "start": Cauchy-Schwarz for the initial error; "kappa": Tr SM ≤ κ
    Tr ΣM; "trace": Tr SM by the dimension; "divide": the last line. Raises ValueError for lr outside 0 < lr < 2/κ.
    """
    frame, p, k, d = population.frame, float(noise.strength), kappa(population, noise), population.rank
    delta = population.error_of(theta)
    start, q = frame.outer(frame.into(delta)), float(delta @ population.pseudo_solve(delta))
    M = inverse_T(population, noise, lr, frame.identity)
    SM = p * frame.spread(M) + float(noise.pairs) * frame.left(frame.left(M).T)
    series, mixed, trace_SM = np.sum(M * start), lr * np.sum(SM * start / frame.sums), frame.trace(SM)
    whole = risks(population, noise, lr, theta, n)
    bias = risks(population.noiseless(), noise, lr, theta, n).distance.sum()
    rest = risks(population, noise, lr, population.optimum, n).distance.sum()
    total, limit = whole.distance.sum(), lr * population.variance * (n + 1) * d / (2 - lr * k)

    def together(bias, noise):
        return bias + noise if population.well_specified else (bias**0.5 + noise**0.5) ** 2

    by_trace = {
        name: (1 + lr * value) * q / 2
        for name, value in {"exact": trace_SM, "printed": k * d / 2, "repaired": k * d / (2 - lr * k)}.items()
    }
    broken = (
        2 * by_trace["printed"]
    )  # the last line has lost 1/η²; bounds below are on Σ E ‖δ_i‖², which is η(n+1)² times one on the risk
    rows = [
        ("average", lr * (n + 1) ** 2 * whole.averaged[-1], total, total, total, total),
        ("split", total, bias + rest, together(bias, rest), bias + rest, together(bias, rest)),
        ("noise", rest, limit, p * limit, bias + limit, together(bias, p * limit)),
        ("sum", bias, series / lr, series / lr, series / lr + limit, together(series / lr, p * limit)),
        ("M", series, q / 2 + mixed, q / 2 + mixed, series / lr + limit, together(series / lr, p * limit)),
        (
            "start",
            mixed,
            lr * q * trace_SM / 2,
            lr * q * trace_SM / 2,
            by_trace["exact"] / lr + limit,
            together(by_trace["exact"] / lr, p * limit),
        ),
        (
            "kappa",
            trace_SM,
            *(2 * [k * frame.trace(frame.left(M))]),
            by_trace["exact"] / lr + limit,
            together(by_trace["exact"] / lr, p * limit),
        ),
        (
            "trace",
            trace_SM,
            k * d / 2,
            k * d / (2 - lr * k),
            by_trace["printed"] / lr + limit,
            together(by_trace["repaired"] / lr, p * limit),
        ),
        (
            "divide",
            broken / lr**2,
            broken,
            broken / lr**2,
            lr * broken / 2 + limit,
            together(by_trace["repaired"] / lr, p * limit),
        ),
    ]
    unit = lr * (n + 1) ** 2
    return {
        name: Link(name, *map(float, sides), (float(old / unit), float(new / unit))) for name, *sides, old, new in rows
    }


def random_case(
    generator: np.random.Generator, well_specified: bool = True
) -> tuple[FinitePopulation, BatchNoise, float, np.ndarray]:
    """A random population of d ≤ 3 with 2-6 inputs, SGD of b ≤ 4, a learning rate between 2 % and all of the theorem's
    range, and a start.

    Well specified: y = xᵀθ* ± s, an independent fair sign; else a residual that is only uncorrelated with x.
    """
    d, m, b = generator.integers(1, 4), generator.integers(2, 7), int(generator.integers(1, 5))
    x = generator.standard_normal((m, d)) * np.exp(generator.standard_normal((m, 1)))
    probability, y = generator.dirichlet(np.ones(m)), x @ generator.standard_normal(d)
    if well_specified:
        x, probability, y = (
            np.concatenate([x, x]),
            np.tile(probability / 2, 2),
            np.tile(y, 2) + np.repeat([1.0, -1.0], m) * generator.exponential(),
        )
    else:
        y = y + generator.standard_normal(m) * np.exp(generator.standard_normal(m))
    population, noise = FinitePopulation(x, y, probability), matched(b)
    return (
        population,
        noise,
        float(generator.uniform(0.02, 0.999) * lr_limit(population, noise)),
        generator.standard_normal(d) * 2,
    )


class Survey(NamedTuple):
    """Random cases, one a row. product: ηκ, (count,).  risk, printed, corrected: the exact excess risk and the two
    bounds at the number of steps where the risk comes nearest to the printed bound (column 0) and to the corrected one
    (column 1), (count, 2).
    """

    product: np.ndarray
    risk: np.ndarray
    printed: np.ndarray
    corrected: np.ndarray


def survey(count: int, seed: int, steps: int, well_specified: bool = True) -> Survey:
    """Exact risks of ``count`` random cases against Theorem 1's bound, printed and corrected, at their worst number of
    steps from 0 to ``steps``.
    """
    generator, n, rows = np.random.default_rng(seed), np.arange(steps + 1), []
    for _ in range(count):
        population, noise, lr, theta = random_case(generator, well_specified)
        risk = risks(population, noise, lr, theta, steps).averaged
        bounds = [bound(population, noise, lr, theta, form)(n) for form in ("printed", "corrected")]
        worst = [int(np.argmax(risk / values)) for values in bounds]
        rows.append((lr * kappa(population, noise), risk[worst], *(values[worst] for values in bounds)))
    return Survey(*(np.array(column) for column in zip(*rows, strict=True)))
