"""Laws of products of random factors: brackets against binomials, counting and simulation."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from support.exact.mixtures import Mixture, online_noise
from support.exact.products import log_products

COIN = {Fraction(1): Fraction(1, 5), Fraction(0): Fraction(4, 5)}
THREE = {Fraction(0): Fraction(1, 2), Fraction(1): Fraction(1, 3), Fraction(9, 4): Fraction(1, 6)}
RATE = Fraction(19, 10)


def large(kind, b):
    return b + 3 if "B" in kind else None


def factor(kind, b=1, B=4, lr=RATE, squares=COIN):
    return online_noise(kind, squares, b, B if "B" in kind else None).affine(1, -lr)


def test_product_of_few_atoms_is_binomial():
    (law,) = log_products(factor("SGD"), [200])
    hits = np.arange(201)
    edges = hits * math.log(0.9)
    low, high = law.cdf(edges + 1e-6)
    exact = stats.binom.sf(hits - 1, 200, 0.2)
    assert np.all(low - 1e-9 <= exact)
    assert np.all(exact <= high + 1e-9)
    assert np.abs(high - low).max() < 1e-9
    assert law.quantile(0.5) == pytest.approx((40 * math.log(0.9),) * 2)


@pytest.mark.parametrize("kind", ["SGD", "signs", "MSGD-[Cov-B]", "[MSGD-Cov]-B"])
def test_brackets_hold_against_counting(kind):
    """A law of atoms, once counted and once forced through the grid; and one step against the exact law."""
    law = factor(kind, b=2, squares=THREE, lr=Fraction(7, 10))
    (one,) = log_products(law, [1], points=2**12)
    x = np.linspace(-6, 1, 97)
    low, high = one.cdf(x)
    exact = law.within(np.exp(x))
    assert np.all(low - 1e-9 <= exact)
    assert np.all(exact <= high + 1e-9)
    if kind == "SGD":
        counted, gridded = log_products(law, [9], points=2**16)[0], log_products(law, [9], points=128)[0]
        assert counted.width < 1e-11 < gridded.width
        grid_low, grid_high = gridded.cdf(x)
        true_low, true_high = counted.cdf(x)
        assert np.all(grid_low <= true_high + 1e-9)
        assert np.all(true_low <= grid_high + 1e-9)
        for level in (0.1, 0.5, 0.9):
            assert gridded.quantile(level)[0] <= counted.quantile(level)[1]
            assert counted.quantile(level)[0] <= gridded.quantile(level)[1]


def test_law_of_a_product_agrees_with_simulation():
    law, runs = factor("MSGD-Cov"), 20_000
    draws = np.sort(np.log(np.abs(law.sample((runs, 12), np.random.default_rng(0)))).sum(1))
    (product_law,) = log_products(law, [12])
    low, high = product_law.cdf(draws)
    slack = math.sqrt(math.log(2 / 1e-6) / (2 * runs))  # Dvoretzky-Kiefer-Wolfowitz at confidence 1 - 1e-6
    empirical = np.arange(1, runs + 1) / runs
    assert np.all(low - slack - 1 / runs <= empirical)
    assert np.all(empirical <= high + slack)


@given(st.integers(1, 60), st.sampled_from((0.01, 0.3, 0.5, 0.99)))
@settings(max_examples=20, deadline=None)
def test_quantiles_and_cdf_are_one_law(k, level):
    laws = log_products(factor("[MSGD-Cov]-B"), [k, k + 5], points=2**14)
    for law in laws:
        low, high = law.quantile(level)
        assert low < high <= low + 3 * law.width + 1e-9
        assert law.cdf(high + law.width)[0] >= level - 1e-9
        assert law.cdf(low - law.width)[0] <= level + 1e-9
        assert law.masses.sum() == pytest.approx(1, abs=1e-9)


def test_products_that_vanish():
    (law,) = log_products(factor("SGD", lr=Fraction(1)), [10])
    assert law.vanished == pytest.approx(1 - 0.8**10)
    assert law.quantile(0.5)[0] == -math.inf
    assert law.cdf(-50.0)[1] == pytest.approx(1 - 0.8**10)
    (gone,) = log_products(Mixture(((1, 0, 0),)), [3])
    assert gone.vanished == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_products(factor("SGD"), []), "at least 1"),
        (lambda: log_products(factor("SGD"), [0]), "at least 1"),
        (lambda: log_products(factor("MSGD-Cov"), [100], points=200), "too few"),
        (lambda: log_products(factor("MSGD-Cov"), [2])[0].quantile(0), "cannot be resolved"),
    ],
)
def test_bad_input_is_refused_at_once(call, message):
    with pytest.raises(ValueError, match=message):
        call()
