"""The countable proof: outcomes, paths and the chain of links."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.exact.averaged import bound, lr_limit, risks
from support.exact.batch_noise import matched
from support.exact.populations import FinitePopulation, GaussianPopulation
from support.exact.theorem_one import (
    chain,
    counted_risks,
    expect,
    outcomes,
    paths,
    product,
    random_case,
    survey,
    walk,
)
from support.sampling import FullBatch, MiniBatch

X = np.array([[1, 0], [1, 2], [-1, 1]], dtype=object) * Fraction(1)
POPULATION = FinitePopulation(X, np.array([1, 0, 2], dtype=object) * Fraction(1))
STEPS = outcomes(POPULATION, MiniBatch(3, 2, replace=False).atoms())
LR = Fraction(1, 5)


def test_outcomes_are_a_law_with_the_right_means():
    assert sum(step.probability for step in STEPS) == 1
    assert len(STEPS) == 6  # unordered pairs of three atoms
    assert (expect(STEPS, lambda L, N: L) == POPULATION.second_moment).all()
    assert (expect(STEPS, lambda L, N: N) == 0).all()
    with pytest.raises(ValueError, match="outcomes are counted in fractions"):
        outcomes(FinitePopulation(X.astype(float), [1.0, 0.0, 2.0]), [])


def test_outcomes_take_every_sample_with_its_own_probability():
    chances = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]
    unequal = FinitePopulation(X, POPULATION.targets, np.array(chances, dtype=object))
    steps = outcomes(unequal, MiniBatch(2, 2, replace=False).atoms())
    assert sum(step.probability for step in steps) == 1
    assert (expect(steps, lambda L, N: L) == sum(p * np.outer(x, x) for p, x in zip(chances, X, strict=True))).all()


def test_counted_risks_by_hand():
    """x = 1, y = 0, η = 1/2: the errors are 1, 1/2 and 1/4, their mean 7/12."""
    one = FinitePopulation(np.array([[Fraction(1)]]), [0])
    steps = outcomes(one, FullBatch(2, 1).atoms())
    assert counted_risks(one, steps, Fraction(1, 2), [1], 2) == (Fraction(1, 32), Fraction(49, 288))


def test_the_recursion_unrolls():
    start = np.array([Fraction(1), Fraction(-2)])
    for probability, path in paths(STEPS, 3):
        unrolled = product(path, LR, 3, 1) @ start + LR * sum(
            product(path, LR, 3, k + 1) @ path[k - 1].N for k in (1, 2, 3)
        )
        assert (walk(path, LR, start)[-1] == unrolled).all()
        assert probability > 0
    assert sum(p for p, _ in paths(STEPS, 2)) == 1


@given(seed=st.integers(0, 10**9), well=st.booleans(), n=st.integers(0, 40))
@settings(max_examples=80, deadline=None)
def test_every_repaired_link_holds_and_the_chain_ends_at_the_bound(seed, well, n):
    population, noise, lr, theta = random_case(np.random.default_rng(seed), well)
    links = chain(population, noise, lr, theta, n)
    reached = [float(risks(population, noise, lr, theta, n).averaged[-1])] + [
        link.reached[1] for link in links.values()
    ]
    assert all(link.slack[1] >= 1 - 1e-8 for link in links.values())
    assert all(b >= a * (1 - 1e-8) for a, b in itertools.pairwise(reached))
    final = {form: bound(population, noise, lr, theta, form)(n) for form in ("printed", "corrected")}
    assert links["divide"].reached == pytest.approx((final["printed"], final["corrected"]), rel=1e-9)


def test_the_broken_links_are_those_of_the_trace_and_of_the_last_line():
    """x = ±1: M = SM = 1/(2 − η), larger than the printed 1/2; the last line is too small by η²."""
    population = GaussianPopulation(np.eye(3), np.zeros(3), 1.0)
    noise = matched(1)
    lr = 0.5 * lr_limit(population, noise)
    links = chain(population, noise, lr, np.ones(3), 30)
    assert {name for name, link in links.items() if link.slack[0] < 1 - 1e-9} == {"trace", "divide"}
    assert links["divide"].slack[0] == pytest.approx(lr**2)
    one = chain(FinitePopulation([[1.0]], [0.0]), noise, 0.8, np.ones(1), 3)["trace"]
    assert (one.left, one.printed, one.repaired) == pytest.approx((1 / 1.2, 0.5, 1 / 1.2))
    assert one.slack == pytest.approx((0.6, 1.0))


def test_the_noise_term_by_hand():
    """x = ±1, ε = ±1: M(i, k+1) N_k has the square (1 − η)^2(i−k)."""
    coin, lr, n = FinitePopulation([[1.0], [1.0], [-1.0], [-1.0]], [1.0, -1.0, 1.0, -1.0]), 0.3, 4
    link = chain(coin, matched(1), lr, np.ones(1), n)["noise"]
    term = lr**2 * sum((1 - lr) ** (2 * (i - k)) for i in range(n + 1) for k in range(1, i + 1))
    assert link.left == pytest.approx(term, rel=1e-12)
    assert (link.printed, link.repaired) == pytest.approx((lr * (n + 1) / (2 - lr),) * 2, rel=1e-12)


def test_no_noise_no_slack_to_speak_of():
    links = chain(FinitePopulation([[1.0]], [0.0]), matched(1), 0.8, np.ones(1), 3)
    assert links["noise"].slack == (np.inf, np.inf)


def test_a_survey_finds_the_printed_bound_broken_and_the_corrected_one_whole():
    found = survey(60, 3, 30)
    assert found.product.shape == (60,)
    assert found.risk.shape == found.printed.shape == found.corrected.shape == (60, 2)
    assert ((found.product > 0) & (found.product < 2)).all()
    assert (found.risk <= found.corrected * (1 + 1e-9)).all()
    assert (found.risk[:, 0] > found.printed[:, 0]).mean() > 0.1
    assert (found.risk[:, 0] / found.printed[:, 0] >= found.risk[:, 1] / found.printed[:, 1]).all()
    tied = survey(30, 3, 30, well_specified=False)
    assert (tied.risk <= tied.corrected * (1 + 1e-9)).all()
