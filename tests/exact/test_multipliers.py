"""Multipliers against the laws of the sampling vector; constants against other formulas and counts."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from support.errors import Refused
from support.exact.multipliers import (
    FLOOR,
    LOGARITHM,
    Gaussian,
    Multipliers,
    batches,
    ceiling,
    combinations,
    expected_fullest,
    expected_maximum,
    multinomial,
    sgd_factor,
    signs,
)
from support.sampling import MiniBatch


def test_signs_are_all_patterns_once():
    for n in (1, 3, 10):
        assert {tuple(row) for row in signs(n).values.tolist()} == set(itertools.product((-1, 1), repeat=n))
        assert len(signs(n).values) == 2**n


@pytest.mark.parametrize(
    ("n", "b", "replace"), [(4, 2, True), (3, 4, True), (4, 2, False), (5, 3, False), (2, 2, False)]
)
def test_batches_are_those_of_the_law_of_sgd(n, b, replace):
    """V = nW − 1, with the probabilities of the law's ordered draws added up."""
    expected = {}
    law = MiniBatch(n, min(b, n), replace=replace)
    atoms = law.atoms() if b <= n else _ordered(n, b)
    for p, w in atoms:
        value = tuple(round(float(n * x - 1), 12) for x in w)
        expected[value] = expected.get(value, 0) + p
    found = batches(n, b, replace)
    rows = found.values.round(12).tolist()
    assert {tuple(row) for row in rows} == set(expected)
    for row, p in zip(rows, found.probabilities, strict=True):
        assert p == pytest.approx(float(expected[tuple(row)]), rel=1e-13)


def _ordered(n, b):
    for batch in itertools.product(range(n), repeat=b):
        yield Fraction(1, n**b), [Fraction(batch.count(i), b) for i in range(n)]


def test_the_covariance_is_n_squared_times_that_of_sgd():
    for replace in (True, False):
        found = batches(5, 2, replace)
        covariance = (found.probabilities[:, None] * found.values).T @ found.values
        np.testing.assert_allclose(covariance, 25 * MiniBatch(5, 2, replace=replace).covariance.dense(), atol=1e-14)
        np.testing.assert_allclose(found.probabilities @ found.values, 0, atol=1e-15)


def test_the_mean_size_of_a_multiplier():
    """Without replacement 2(1 − b/n); with, 2(1 − 1/n)^b, since what is below zero is −1: a sample that is left out."""
    for n, b in ((4, 2), (6, 2), (6, 3), (9, 3)):
        assert batches(n, b, replace=False).size == pytest.approx(2 * (1 - b / n), rel=1e-14)
        assert batches(n, b).size == pytest.approx(2 * (1 - 1 / n) ** b, rel=1e-13)
    assert signs(3).size == 1
    assert Gaussian(3).size == math.sqrt(2 / math.pi)


def test_the_expected_maximum_of_few_gaussians():
    """Of one, two and three: √(2/π); √(2/π)·√2, as max(|a|, |b|) = (|a+b| + |a−b|)/2; 12 arctan(1/√2)/π^{3/2}."""
    expected = [FLOOR, 2 / math.sqrt(math.pi), 12 * math.atan(1 / math.sqrt(2)) / math.pi**1.5]
    assert [expected_maximum(n) for n in (1, 2, 3)] == pytest.approx(expected, rel=1e-12)


def test_the_expected_maximum_of_many_gaussians_is_that_of_its_law():
    """By the density N (2Φ − 1)^{N−1} 2φ of the maximum, on a grid."""
    x = np.linspace(0, 12, 200_001)
    from scipy.stats import norm

    for n in (10, 1000):
        density = n * (1 - 2 * norm.sf(x)) ** (n - 1) * 2 * norm.pdf(x)
        assert expected_maximum(n) == pytest.approx(np.trapezoid(x * density, x), rel=1e-9)


def test_the_ceiling_lies_above_and_is_near_for_many():
    ratios = [ceiling(n) / expected_maximum(n) for n in (1, 2, 5, 20, 100, 10**4, 10**6, 10**9)]
    assert all(ratio > 1 for ratio in ratios)
    assert ratios[-1] < 1.07 < ratios[0]


def test_the_least_constant_of_the_logarithm_is_reached_at_two():
    ratios = [expected_maximum(n) / math.log(n) for n in range(2, 60)]
    assert ratios[0] == pytest.approx(LOGARITHM, rel=1e-12) == max(ratios)
    assert ratios == sorted(ratios, reverse=True)


@pytest.mark.parametrize(("n", "b"), [(4, 2), (3, 4), (5, 3), (2, 1), (1, 3)])
def test_the_fullest_count_equals_enumeration(n, b):
    draws = itertools.product(range(n), repeat=b)
    expected = Fraction(sum(max(draw.count(i) for i in range(n)) for draw in draws), n**b)
    assert expected_fullest(n, b) == pytest.approx(float(expected), rel=1e-12)


def test_with_replacement_no_constant_will_do():
    """The losses that see one sample each: the ratio to the talk's bound, at k = 2, passes 1 at b = 5 and grows."""

    def ratio(b):
        return float((expected_fullest(2 * b, b) / b - 1 / (2 * b)) / (sgd_factor(2 * b, b) / b))

    ratios = [ratio(b) for b in (2, 5, 50, 200)]
    assert ratios == pytest.approx([0.75, 1.2879, 2.45403386, 3.07229601], rel=1e-7)


@pytest.mark.parametrize("n", [1, 7, 60, 3000])
def test_combinations_are_counted_or_known_to_be_many(n):
    for k in range(0, n + 1, max(1, n // 60)):
        count, words = combinations(n, k)
        true = math.comb(n, k)
        if count == math.inf:
            assert true > 10**15 and true >= 10 ** int(words.removeprefix("more than 10^"))
        else:
            assert (count, words) == (true, f"{true:,}")


def test_the_fullest_count_of_a_rare_pair():
    """For many samples max c_i is 2 where two of b draws meet, the birthday problem, and else 1."""
    n, b = 10**9, 1000
    meet = -math.expm1(sum(math.log1p(-i / n) for i in range(b)))
    assert expected_fullest(n, b) == pytest.approx(1 + meet, abs=1e-8)


def test_orders_of_a_multiset():
    assert multinomial([[1, 1, 1], [3, 0, 0], [2, 1, 0]]) == pytest.approx([6, 1, 3], rel=1e-13)


def test_the_factor_of_sgd():
    assert [sgd_factor(k * 3, 3) for k in (2, 3, 10)] == [1, Fraction(4, 3), Fraction(9, 5)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: signs(30), "2\\^30 = 1,073,741,824 patterns"),
        (lambda: signs(10**6), "2\\^1000000 patterns"),
        (lambda: batches(100, 10), f"{math.comb(109, 10):,} batches"),
        (lambda: batches(40, 20, replace=False), "137,846,528,820 batches"),
        (lambda: batches(4, 5, replace=False), "between 1 and n = 4"),
        (lambda: sgd_factor(10, 3), "k = n/b = 10/3 is no integer above 1"),
        (lambda: sgd_factor(4, 4), "give n a multiple of b, at least 8"),
        (lambda: Multipliers(np.zeros((0, 3))), "at least one value"),
        (lambda: Multipliers([[1.0]], [0.5]), "sum to 0.5"),
        (lambda: Multipliers([[1.0], [2.0]], [1.5, -0.5]), "≥ 0"),
        (lambda: Gaussian(0), "n = 0"),
        (lambda: expected_fullest(5, 2000), "1 to 1000"),
        (lambda: batches(10**6, 10**6), "more than 10\\^301029 batches"),
        (lambda: Multipliers([[1.0], [2.0]], [1.5, -0.5]), "least of the probabilities is -0.5"),
        (lambda: multinomial([[-1, 2]]), "no counts"),
        (lambda: multinomial([[0.5, 2]]), "no counts"),
        (lambda: expected_maximum(10**400), "out of range"),
    ],
)
def test_bad_input_is_refused_at_once(call, message):
    with pytest.raises(Refused, match=message):
        call()
