"""Intervals against scipy's own and their coverage; equivalence and what ties it to the interval; power by an
independent route; bad input.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from support import intervals
from support.equivalence import equivalence, holm, power, reached, sample_size
from support.errors import NotFinite, Refused, WrongType
from support.intervals import Interval, bootstrap, mean_square, newcombe, paired, student, wilson

values = st.lists(st.floats(-5, 5), min_size=2, max_size=9).filter(lambda v: np.std(v) > 1e-3).map(np.array)


@given(values, st.floats(0.5, 0.999))
def test_the_interval_is_that_of_scipy(d, confidence):
    expected = stats.ttest_1samp(d, 0).confidence_interval(confidence)
    np.testing.assert_allclose([*student(d, confidence)], (d.mean(), *expected), rtol=1e-9, atol=1e-9)


def test_numpy_and_torch_give_the_same_along_the_first_axis():
    values = np.random.default_rng(0).normal(size=(7, 2, 3))
    here, there = student(values), student(torch.as_tensor(values))
    for ours, theirs in zip(here, there, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12)
    assert student(torch.as_tensor(values).float()).low.dtype == torch.float32
    assert here.value[1, 2] == pytest.approx(values[:, 1, 2].mean())
    assert here.low[1, 2] == pytest.approx(stats.ttest_1samp(values[:, 1, 2], 0).confidence_interval(0.95).low)
    assert student(torch.tensor([1, 2, 4])).value == pytest.approx(7 / 3)


def test_an_interval_is_a_value_with_ends():
    array = Interval(np.zeros(2), -np.ones(2), np.ones(2), 0.9, 5, "Student")
    assert 0.5 in array and np.array([0.0, 2.0]) not in array
    assert np.full(2, math.nan) not in array
    assert torch.tensor([0.0, 0.5]) in Interval(torch.zeros(2), -torch.ones(2), torch.ones(2), 0.9, 5, "Student")
    assert "of shape (2,)" in repr(array) and "90 %" in repr(array)
    value, low, high = array
    assert (low == -high).all() and not value.any() and (array.half_width == 1).all()
    assert 3.0 in Interval.exact(3.0) and 3.1 not in Interval.exact(3.0)
    assert Interval(0.0, -1.0, 1.0, 0.9, 5, "Student").map(math.exp).ends == (math.exp(-1), math.exp(1))


# --- coverage: the share of draws whose interval holds the truth, within four standard errors of what it says


def covers(found, truth, confidence):
    share, count = ((found.low <= truth) & (truth <= found.high)).mean(), np.size(found.low)
    return abs(share - confidence) < 4 * math.sqrt(confidence * (1 - confidence) / count)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_student_covers_the_mean_of_gaussians(count, confidence):
    draws = np.random.default_rng(0).normal(3.0, 2.0, (count, 20_000))
    assert covers(student(draws, confidence), 3.0, confidence)
    other = np.random.default_rng(1).normal(1.0, 2.0, (count, 20_000))
    assert covers(paired(draws, other, confidence), 2.0, confidence)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("count", [1, 10])
def test_the_chi_square_interval_covers_a_mean_square(count, confidence):
    squares = np.random.default_rng(0).normal(0.0, 2.0, (count, 20_000)) ** 2
    assert covers(mean_square(squares.mean(0), count, confidence), 4.0, confidence)


def test_student_covers_too_little_where_few_squares_are_meant():
    squares = np.random.default_rng(0).normal(size=(10, 20_000)) ** 2
    found = student(squares)
    share = ((found.low <= 1) & (found.high >= 1)).mean()
    assert 0.86 < share < 0.90  # why `mean_square` is there
    assert covers(mean_square(squares.mean(0), 10), 1.0, 0.95)


def test_wilson_covers_on_average_over_rates():
    """Exactly: the binomial chances of all outcomes, at each of 99 rates."""
    count, confidence = 50, 0.95
    found = [wilson(hits, count, confidence) for hits in range(count + 1)]
    rates = np.arange(1, 100) / 100
    shares = sum(
        stats.binom.pmf(hits, count, rates) * ((one.low <= rates) & (rates <= one.high))
        for hits, one in enumerate(found)
    )
    assert shares.mean() == pytest.approx(confidence, abs=0.01)
    assert shares.min() > 0.88


def test_newcombe_covers_a_difference_of_rates():
    """Exactly, over all outcomes of 20 and 25 trials."""
    (n, p), (m, q) = (20, 0.6), (25, 0.3)
    share = sum(
        stats.binom.pmf(a, n, p) * stats.binom.pmf(b, m, q) * ((p - q) in newcombe((a, n), (b, m)))
        for a in range(n + 1)
        for b in range(m + 1)
    )
    assert share == pytest.approx(0.95, abs=0.02)


def test_wilson_solves_its_equation():
    z, p, n = stats.norm.ppf(0.95), 0.3, 50
    for end in wilson(15, n, 0.9).ends:
        assert abs(p - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n))


def test_newcombe_gives_the_published_numbers():
    """Newcombe (1998), Table II, (a): 56/70 and 48/80."""
    found = newcombe((56, 70), (48, 80))
    assert [round(end, 4) for end in found.ends] == [0.0524, 0.3339]
    assert newcombe((48, 80), (56, 70)).ends == (pytest.approx(-found.high), pytest.approx(-found.low))


def test_the_bootstrap_covers_a_median_of_many():
    rng = np.random.default_rng(0)
    hits = sum(math.log(2) in bootstrap(rng.exponential(size=60), rng, np.median, 0.9, 300) for _ in range(300))
    assert 0.84 < hits / 300 < 0.96


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: student([1.0]), "at least two"),
        (lambda: student([1.0, math.nan]), "finite"),
        (lambda: student([1.0, 2.0], 1.0), "confidence = 1.0"),
        (lambda: student(None), "observations = None is of type NoneType"),
        (lambda: student(["a", "b"]), r"observations = \['a', 'b'\] is of type list"),
        (lambda: paired([1.0, 2.0], [1.0, 2.0, 3.0]), r"shapes \(2,\) and \(3,\)"),
        (lambda: mean_square(-1.0, 5), "negative"),
        (lambda: mean_square(1.0, 0), "count = 0"),
        (lambda: wilson(6, 5), "hits = 6"),
        (lambda: wilson(0.5, 5), "hits = 0.5"),
        (lambda: newcombe(3, (1, 2)), r"give each as \(hits, count\)"),
        (lambda: bootstrap([1.0, 1.0], np.random.default_rng(0)), "no scatter"),
        (lambda: bootstrap([1.0, 2.0], 0), "generator = 0"),
        (lambda: holm([0.1, 1.1]), "between 0 and 1"),
        (lambda: holm([]), "one or more"),
        (lambda: sample_size(1.0, 0.5, truth=0.5), "truth = 0.5"),
        (lambda: sample_size(1.0, 1e-4), "widen the margin"),
        (lambda: reached([0, 1], [1], 0.5), "one y for each x"),
        (lambda: equivalence([1.0, 2.0], 0.0), "margin = 0.0"),
        (lambda: equivalence([1.0, 2.0], 1.0, 0.5), "level = 0.5"),
        (lambda: power(1, 1.0, 1.0), "count = 1"),
        (lambda: power(2.5, 1.0, 1.0), "count = 2.5"),
        (lambda: power(3, 0.0, 1.0), "sigma = 0.0"),
    ],
)
def test_bad_input_names_value_and_remedy(call, message):
    with pytest.raises(Refused, match=message):
        call()


def test_refusals_have_their_kind():
    with pytest.raises(WrongType):
        student("ab")
    with pytest.raises(NotFinite):
        student([1.0, math.inf])


def test_a_ratio_of_means_is_every_number_that_students_interval_does_not_exclude():
    rng = np.random.default_rng(3)
    a, b = rng.normal(1.0, 0.4, 12), rng.normal(1.5, 0.3, 12)
    found = intervals.ratio(a, b)
    grid = np.linspace(found.low - 0.3, found.high + 0.3, 4001)
    inside = [0.0 in intervals.student(a - rho * b) for rho in grid]
    step = grid[1] - grid[0]
    assert grid[inside].min() == pytest.approx(found.low, abs=step) and grid[inside].max() == pytest.approx(
        found.high, abs=step
    )
    assert found.value == pytest.approx(a.mean() / b.mean()) and found.method == "Fieller"


def test_the_interval_of_a_ratio_covers():
    """2,000 draws of 27 correlated pairs whose ratio is .6, seed 5: within four binomial standard errors of 95 %."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(2000):
        shared = rng.normal(0, 0.5, 27)
        hits += 0.6 in intervals.ratio(0.6 + shared + rng.normal(0, 0.8, 27), 1.0 + shared + rng.normal(0, 0.4, 27))
    assert abs(hits / 2000 - 0.95) < 4 * (0.95 * 0.05 / 2000) ** 0.5


def test_a_ratio_to_what_may_be_zero_has_no_ends():
    found = intervals.ratio([1.0, 2.0, 1.5], [0.1, -0.1, 0.05])
    assert (found.low, found.high) == (-np.inf, np.inf)
    with pytest.raises(Refused, match="are no pairs"):
        intervals.ratio([1.0, 2.0], [1.0, 2.0, 3.0])
