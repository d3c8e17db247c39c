"""Paired comparisons: the interval and both tests against scipy's own, the proposition that ties them, power by an
independent route, speed, bad input.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from support.intervals import equivalence, power, reached, student

values = st.lists(st.floats(-5, 5), min_size=2, max_size=9).filter(lambda v: np.std(v) > 1e-3).map(np.array)


@given(values, st.floats(0.5, 0.999))
def test_the_interval_is_that_of_scipy(d, confidence):
    expected = stats.ttest_1samp(d, 0).confidence_interval(confidence)
    np.testing.assert_allclose(student(d, confidence), (d.mean(), *expected), rtol=1e-9, atol=1e-9)


@given(values, st.floats(0.1, 6), st.floats(0.01, 0.2))
def test_equivalence_is_two_tests_and_one_interval(d, margin, level):
    found = equivalence(d, margin, level)
    assert found.p_worse == pytest.approx(
        stats.ttest_1samp(d, -margin, alternative="greater").pvalue, rel=1e-9, abs=1e-300
    )
    assert found.p_better == pytest.approx(
        stats.ttest_1samp(d, margin, alternative="less").pvalue, rel=1e-9, abs=1e-300
    )
    _, low, high = student(d, 1 - 2 * level)
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


def test_a_goal_is_reached_where_the_curve_stays_below_it():
    assert reached([0, 1, 2, 3], [4, 1, 3, 0], 2.0) == pytest.approx(2 + 1 / 3)
    assert reached([5, 6], [1, 1], 2.0) == 5
    assert reached([0, 1, 2], [3, 1, 2], 2.0) == 2
    assert reached([0, 1, 2], [3, float("nan"), 1], 2.0) != reached([0, 1, 2], [3, 1, 1], 2.0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: student([1.0]), "at least two"),
        (lambda: student([1.0, math.nan]), "finite"),
        (lambda: student([1.0, 2.0], 1.0), "confidence = 1.0"),
        (lambda: equivalence([1.0, 2.0], 0.0), "margin = 0.0"),
        (lambda: equivalence([1.0, 2.0], 1.0, 0.5), "level = 0.5"),
        (lambda: power(1, 1.0, 1.0), "count = 1"),
        (lambda: power(3, 0.0, 1.0), "sigma = 0.0"),
    ],
)
def test_bad_input_names_value_and_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
