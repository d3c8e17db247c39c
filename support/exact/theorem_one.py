r"""The proof of Theorem 1 of Wu et al. (2020, Appendix A.2), made countable: every outcome of a step in rationals, and
the chain of inequalities link by link.

With ``L = Σ_r w_r x_r x_rᵀ`` and ``N = Σ_r w_r ε_r x_r`` a step of MSGD on fresh samples is ``δ ← (I − ηL) δ + ηN``.
For finitely many (x, y) and weights there are finitely many pairs (L, N); `outcomes` lists them, and expectations over
one step or over all paths of a few steps are sums of fractions.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from support.errors import Refused, WrongType, array, boolean, instance, integer, numpy_generator, real
from support.exact.averaged import bound, inverse_T, kappa, lr_limit, risks
from support.exact.batch_noise import BatchNoise, matched
from support.exact.populations import FinitePopulation, Population, a_population
from support.sampling import Atom


class Outcome(NamedTuple):
    """A value of one step's (L, N) with its probability: L (d, d), N (d,), all rational.

    >>> line = FinitePopulation([[Fraction(1)], [Fraction(2)]], [1, 0])  # θ* = 1/5
    >>> for step in outcomes(line, [(Fraction(1), (Fraction(1),))]):  # x², and x (y − xθ*)
    ...     print(step.probability, step.L[0, 0], step.N[0])
    1/2 1 4/5
    1/2 4 -4/5
    """

    probability: Fraction
    L: np.ndarray
    N: np.ndarray


def outcomes(population: FinitePopulation, weights: Iterable[Atom]) -> list[Outcome]:
    """Every value of (L, N) of a step on B fresh samples, equal values merged; weights: (probability, B weights), such
    as ``law.atoms()`` of a law with n = B.

    Raises WrongType for what is no finite population or no such pairs, Refused for a population that is not rational.

    >>> from support.sampling import MiniBatch
    >>> coin = FinitePopulation([[Fraction(1)], [Fraction(2)]], [0, 0])
    >>> [(str(step.probability), str(step.L[0, 0])) for step in outcomes(coin, MiniBatch(2, 2, replace=False).atoms())]
    [('1/4', '1'), ('1/2', '5/2'), ('1/4', '4')]
    """
    instance("population", population, FinitePopulation, "give FinitePopulation(inputs, targets)")
    instance("weights", weights, Iterable, "give (probability, weights) pairs, such as law.atoms()")
    if not population.exact:
        raise Refused("outcomes are counted in fractions: give the population as arrays of Fractions")
    d, merged = len(population.optimum), defaultdict(Fraction)
    squares = [np.outer(x, x) for x in population.inputs]
    moved = [e * x for e, x in zip(population.residuals, population.inputs, strict=True)]
    for atom in weights:
        if not (isinstance(atom, tuple) and len(atom) == 2 and isinstance(atom[1], tuple)):
            raise WrongType(f"weights hold {atom!r}: give (probability, weights) pairs, such as law.atoms()")
        p, w = atom
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
    """``E value(L, N)`` over the outcomes of one step. Raises WrongType for another type.

    >>> expect([Outcome(Fraction(1), np.eye(1), np.zeros(1))], lambda L, N: L).tolist()
    [[1.0]]
    """
    _outcomes(steps)
    instance("value", value, Callable, "give a function of L and N")
    return sum(step.probability * value(step.L, step.N) for step in steps)


def paths(steps: list[Outcome], length: int) -> Iterator[tuple[Fraction, tuple[Outcome, ...]]]:
    """Every sequence of ``length`` outcomes with its probability. Raises WrongType for another type, Refused for a
    negative length.

    >>> step = Outcome(Fraction(1), np.eye(1), np.zeros(1))
    >>> [(str(probability), len(path)) for probability, path in paths([step], 3)]
    [('1', 3)]
    """
    _outcomes(steps)
    length = integer("length", length, 0)
    return (
        (math.prod((step.probability for step in path), start=Fraction(1)), path)
        for path in itertools.product(steps, repeat=length)
    )


def _outcomes(steps, name="steps", least=1):
    if not isinstance(steps, (list, tuple)) or not all(isinstance(step, Outcome) for step in steps):
        raise WrongType(f"{name} of type {type(steps).__name__} hold no outcomes: give those of `outcomes`")
    if len(steps) < least:
        raise Refused(f"{name} are empty: give the outcomes of a step")


def product(path: tuple[Outcome, ...], lr, i: int, k: int) -> np.ndarray:
    """``M(i, k) = (I − ηL(i)) ⋯ (I − ηL(k))`` along a path, the identity for i < k; steps count from 1.
    Raises WrongType for another type, Refused for an empty path or steps that it does not have.

    >>> step = Outcome(Fraction(1), np.array([[Fraction(2)]]), np.array([Fraction(0)]))
    >>> str(product((step, step), Fraction(1, 3), 2, 1)[0, 0])  # (1 − 2/3)²
    '1/9'
    """
    _outcomes(path, "path")
    real("lr", lr, above=0)
    i, k = integer("i", i, 0, len(path)), integer("k", k, 1)
    d = len(path[0].N)
    result = np.diag([Fraction(1)] * d)
    for step in path[k - 1 : i]:
        result = result - lr * step.L @ result
    return result


def walk(path: tuple[Outcome, ...], lr, start) -> list[np.ndarray]:
    """The errors δ_0, δ_1, … along a path, by the recursion of the algorithm. Raises WrongType for another type,
    Refused for a start of another shape.

    >>> step = Outcome(Fraction(1), np.array([[Fraction(2)]]), np.array([Fraction(1)]))
    >>> [str(error[0]) for error in walk((step, step), Fraction(1, 2), np.array([Fraction(3)]))]  # (1 − ηL) δ + ηN
    ['3', '1/2', '1/2']
    """
    _outcomes(path, "path", 0)
    real("lr", lr, above=0)
    errors = [array("start", start, path[0].N.shape if path else ("d",), rational=True)]
    for step in path:
        errors.append(errors[-1] - lr * (step.L @ errors[-1] - step.N))
    return errors


def counted_risks(
    population: FinitePopulation, steps: list[Outcome], lr, theta, length: int
) -> tuple[Fraction, Fraction]:
    """Excess risk of the last and of the averaged iterate after ``length`` steps, by following every path; what
    `averaged.risks` has to give. Raises WrongType for another type, Refused for a bad shape or a negative length.

    >>> from support.sampling import MiniBatch
    >>> coin = FinitePopulation([[Fraction(1)], [Fraction(2)]], [0, 0])
    >>> [str(risk) for risk in counted_risks(coin, outcomes(coin, MiniBatch(2, 1).atoms()), Fraction(1, 5), [1], 0)]
    ['5/4', '5/4']
    """
    a_population(population)
    real("lr", lr, above=0)
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

    >>> Link("trace", left=2.0, printed=1.0, repaired=4.0, reached=(1.0, 4.0)).slack  # fails as printed
    (0.5, 2.0)
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
    Tr ΣM; "trace": Tr SM by the dimension; "divide": the last line. Raises WrongType for another type,
    Refused for lr outside 0 < lr < 2/κ, a bad theta or n < 0.

    >>> links = chain(FinitePopulation([[1.0], [0.0]], [0.0, 0.0], [0.1, 0.9]), matched(1), 1.0, [1.0], 50)
    >>> [name for name, link in links.items() if link.slack[0] < 1], min(link.slack[1] for link in links.values()) >= 1
    (['trace'], True)
    """
    n = integer("n", n, 0)
    if not lr_limit(population, noise) > real("lr", lr, above=0):
        raise Refused(f"lr = {lr} is outside the theorem's range: choose 0 < lr < {lr_limit(population, noise):.6g}")
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

    def together(start, steps):
        return start + steps if population.well_specified else (start**0.5 + steps**0.5) ** 2

    # Cauchy-Schwarz leaves (1 + η Tr SM) q / 2, for which the proof bounds the trace; the last line has lost 1/η²
    exact, printed, repaired = ((1 + lr * value) * q / 2 for value in (trace_SM, k * d / 2, k * d / (2 - lr * k)))
    broken, cauchy, kappa_trace = 2 * printed, lr * q * trace_SM / 2, k * frame.trace(frame.left(M))
    sides = {  # left, and right as printed and as repaired
        "average": (lr * (n + 1) ** 2 * whole.averaged[-1], total, total),
        "split": (total, bias + rest, together(bias, rest)),
        "noise": (rest, limit, p * limit),
        "sum": (bias, series / lr, series / lr),
        "M": (series, q / 2 + mixed, q / 2 + mixed),
        "start": (mixed, cauchy, cauchy),
        "kappa": (trace_SM, kappa_trace, kappa_trace),
        "trace": (trace_SM, k * d / 2, k * d / (2 - lr * k)),
        "divide": (broken / lr**2, broken, broken / lr**2),
    }
    # after a link, what stands for the part of the initial error in Σ E ‖δ_i‖², printed and repaired
    from_start = {
        "noise": (bias, bias),
        **dict.fromkeys(("sum", "M"), (series / lr, series / lr)),
        **dict.fromkeys(("start", "kappa"), (exact / lr, exact / lr)),
        "trace": (printed / lr, repaired / lr),
        "divide": (lr * broken / 2, repaired / lr),
    }
    reached = {"average": (total, total), "split": sides["split"][1:]}
    reached |= {name: (old + limit, together(new, p * limit)) for name, (old, new) in from_start.items()}
    unit = lr * (n + 1) ** 2  # of a bound on the sum in a bound on the risk
    return {
        name: Link(name, *map(float, sides[name]), tuple(float(value / unit) for value in reached[name]))
        for name in sides
    }


def random_case(
    generator: np.random.Generator, well_specified: bool = True
) -> tuple[FinitePopulation, BatchNoise, float, np.ndarray]:
    """A random population of d ≤ 3 with 2-6 inputs, SGD of b ≤ 4, a learning rate between 2 % and all of the theorem's
    range, and a start.

    Well specified: y = xᵀθ* ± s, an independent fair sign; else a residual that is only uncorrelated with x. Raises
    WrongType for what is no numpy generator or no boolean.

    >>> population, noise, lr, theta = random_case(np.random.default_rng(1))
    >>> population.well_specified, 0 < lr < lr_limit(population, noise)
    (True, True)
    """
    numpy_generator(generator)
    boolean("well_specified", well_specified)
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

    >>> seen = survey(5, 1, 10)
    >>> seen.risk.shape, bool((seen.product < 2).all())  # within the theorem's range
    ((5, 2), True)
    """

    product: np.ndarray
    risk: np.ndarray
    printed: np.ndarray
    corrected: np.ndarray


def survey(count: int, seed: int, steps: int, well_specified: bool = True) -> Survey:
    """Exact risks of ``count`` random cases against Theorem 1's bound, printed and corrected, at their worst number of
    steps from 0 to ``steps``. Raises WrongType for counts that are no integers, Refused for negative ones or none.

    >>> seen = survey(3, 1, 20)
    >>> bool((seen.risk[:, 1] <= seen.corrected[:, 1]).all())
    True
    """
    count, seed, steps = integer("count", count, 1), integer("seed", seed, 0), integer("steps", steps, 0)
    generator, n, rows = np.random.default_rng(seed), np.arange(steps + 1), []
    for _ in range(count):
        population, noise, lr, theta = random_case(generator, well_specified)
        risk = risks(population, noise, lr, theta, steps).averaged
        bounds = [bound(population, noise, lr, theta, form)(n) for form in ("printed", "corrected")]
        worst = [int(np.argmax(risk / values)) for values in bounds]
        rows.append((lr * kappa(population, noise), risk[worst], *(values[worst] for values in bounds)))
    return Survey(*(np.array(column) for column in zip(*rows, strict=True)))
