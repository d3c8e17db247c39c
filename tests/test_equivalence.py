"""Equivalence and what ties it to the interval; power by an independent route; several tests; the speed of a curve."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from support.equivalence import equivalence, holm, power, reached, sample_size
from support.intervals import student

values = st.lists(st.floats(-5, 5), min_size=2, max_size=9).filter(lambda v: np.std(v) > 1e-3).map(np.array)


@given(values, st.floats(0.1, 6), st.floats(0.01, 0.2))
def test_equivalence_is_two_tests_and_one_interval(d, margin, level):
    found = equivalence(d, margin, level)
    assert found.p_worse == pytest.approx(
        stats.ttest_1samp(d, -margin, alternative="greater").pvalue, rel=1e-9, abs=1e-300
    )
    assert found.p_better == pytest.approx(
        stats.ttest_1samp(d, margin, alternative="less").pvalue, rel=1e-9, abs=1e-300
    )
    low, high = student(d, 1 - 2 * level).ends
    if min(abs(low + margin), abs(high - margin)) > 1e-9:
        assert (found.verdict == "equivalent") == (-margin < low and high < margin)


def test_equal_values_have_no_scatter_and_are_decided():
    assert equivalence([0.5, 0.5, 0.5], margin=1.0).verdict == "equivalent"
    assert equivalence([1.5, 1.5], margin=1.0).verdict == "not worse"
    assert equivalence([-1.5, -1.5], margin=1.0).verdict == "not better"
    assert equivalence([-9.0, 9.0], margin=1.0).verdict == "open"


@pytest.mark.parametrize("count, sigma, truth", [(2, 0.4, 0.0), (3, 0.58, 0.0), (5, 0.58, 0.5), (10, 1.0, -0.5)])
def test_power_is_an_integral_over_the_law_of_the_scatter(count, sigma, truth):
    def passing(u):  # u = σ̂²(S − 1)/σ²
        room = 1 - stats.t.ppf(0.95, count - 1) * sigma * math.sqrt(u / (count - 1) / count)
        spread = sigma / math.sqrt(count)
        inside = stats.norm.cdf((room - truth) / spread) - stats.norm.cdf((-room - truth) / spread)
        return max(inside, 0.0) * stats.chi2.pdf(u, count - 1)

    edge = (count - 1) * count / (stats.t.ppf(0.95, count - 1) * sigma) ** 2
    exact = integrate.quad(passing, 0, edge, limit=200)[0]
    assert power(count, sigma, 1.0, truth=truth) == pytest.approx(exact, abs=1e-3)


def test_at_the_margin_the_power_is_at_most_the_level():
    assert all(power(count, 0.6, 1.0, truth=1.0) <= 0.05 + 1e-3 for count in range(2, 40))


@pytest.mark.parametrize("sigma, wanted, truth", [(0.58, 0.8, 0.0), (1.0, 0.9, 0.25), (0.1, 0.5, 0.0)])
def test_the_sample_size_is_the_first_with_enough_power(sigma, wanted, truth):
    count = sample_size(sigma, 0.75, wanted, truth=truth)
    assert power(count, sigma, 0.75, truth=truth) >= wanted
    assert count == 2 or power(count - 1, sigma, 0.75, truth=truth) < wanted


def test_power_is_the_share_of_simulated_runs_that_pass():
    draws = np.random.default_rng(0).normal(0.2, 0.8, (27, 4000))
    ends = student(draws, 0.9)
    share = ((ends.low > -0.75) & (ends.high < 0.75)).mean()
    assert share == pytest.approx(power(27, 0.8, 0.75, truth=0.2), abs=4 * 0.5 / 4000**0.5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_step_by_step(p):
    """Its definition: go up while the j-th smallest is at most level/(m − j + 1)."""
    adjusted = holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for j, i in enumerate(np.argsort(p, kind="stable")):
            if p[i] * (len(p) - j) > level:
                break
            rejected.add(i)
        assert rejected == set(np.flatnonzero(adjusted <= level))


def test_a_goal_is_reached_where_the_curve_stays_below_it():
    assert reached([0, 1, 2, 3], [4, 1, 3, 0], 2.0) == pytest.approx(2 + 1 / 3)
    assert reached([5, 6], [1, 1], 2.0) == 5
    assert reached([0, 1, 2], [3, 1, 2], 2.0) == 2
    assert reached([0, 1, 2], [3, float("nan"), 1], 2.0) != reached([0, 1, 2], [3, 1, 1], 2.0)
