"""Tail indices against moments by hand, quadrature, the exponential integral, and the list of all batches."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from support.errors import Refused
from support.exact.mixtures import Mixture, online_noise
from support.exact.tails import (
    GaussianFactor,
    bounded_below,
    continuous_index,
    data_factor,
    edge,
    hill,
    large_batch_index,
    moment_exists,
    printed_index,
    small_rate_index,
    tail_index,
)


@pytest.mark.parametrize(("scale", "b", "keep"), [(0.3, 1, 1.0), (1.0, 3, 0.8), (1.9, 7, 1.3), (0.05, 200, 1.0)])
@pytest.mark.parametrize("order", [0, 2, 4, 6])
def test_even_moments_of_the_factor_by_hand(scale, b, keep, order):
    """E (χ²_b)^k = b(b + 2)…(b + 2k − 2)."""
    rising = [math.prod(b + 2 * i for i in range(k)) / b**k for k in range(order + 1)]
    terms = [math.comb(order, k) * keep ** (order - k) * (-scale) ** k * rising[k] for k in range(order + 1)]
    moment = math.exp(GaussianFactor(scale, b, keep).exponent(order))
    assert moment == pytest.approx(math.fsum(terms), rel=1e-10, abs=1e-13 * max(map(abs, terms)))


@pytest.mark.parametrize(("scale", "b", "q"), [(1.0, 1, 0.7), (0.6, 2, 3.3), (1.8, 5, 0.3), (1.2, 64, 9.5)])
def test_odd_moments_and_slopes_by_quadrature(scale, b, q):
    law = stats.chi2(b)

    def of(value):
        # x = v² takes away the density's pole at 0; the factor vanishes at χ² = b/scale
        def inside(v):
            return value(abs(1 - scale * v * v / b)) * law.pdf(v * v) * 2 * v

        middle, top = math.sqrt(b / scale), math.sqrt(law.isf(1e-25) * 3)
        return sum(integrate.quad(inside, *ends, epsrel=1e-11, limit=300)[0] for ends in ((0, middle), (middle, top)))

    factor, moment = GaussianFactor(scale, b), of(lambda f: f**q)
    assert factor.exponent(q) == pytest.approx(math.log(moment), rel=1e-8)
    assert factor.slope(q) == pytest.approx(of(lambda f: f**q * math.log(f)) / moment, rel=1e-7)


def test_the_second_and_the_fourth_moment_end_where_polynomials_say():
    for b in (1, 2, 5, 64):
        assert edge(2, b) == pytest.approx(2 * b / (b + 2), rel=1e-11)
        assert tail_index(GaussianFactor(2 * b / (b + 2), b)) == pytest.approx(2, rel=1e-10)
    kurtosis = optimize.brentq(lambda z: 105 * z**3 - 60 * z**2 + 18 * z - 4, 0, 1)  # E f⁴ = 1 at b = 1
    assert edge(4, 1) == pytest.approx(kurtosis, rel=1e-11)
    assert tail_index(GaussianFactor(kurtosis, 1)) == pytest.approx(4, rel=1e-10)


def test_nothing_is_stationary_from_the_zero_of_the_exponential_integral_on():
    """b = 2: χ²/2 is exponential and E log|1 − s e| = −e^(−1/s) Ei(1/s)."""
    zero = 1 / optimize.brentq(special.expi, 0.1, 1)
    assert edge(0, 2) == pytest.approx(zero, rel=1e-11)
    assert tail_index(GaussianFactor(1.001 * zero, 2)) == 0
    assert 0 < tail_index(GaussianFactor(0.999 * zero, 2)) < 0.01
    assert GaussianFactor(1.3, 2).slope(0) == pytest.approx(-math.exp(-1 / 1.3) * special.expi(1 / 1.3), rel=1e-10)


def test_the_root_is_one_and_moments_exist_below_it():
    for scale, b in [(0.2, 1), (1.0, 4), (1.8, 5), (1.8, 1)]:
        factor = GaussianFactor(scale, b)
        index = tail_index(factor)
        assert factor.exponent(index) == pytest.approx(0, abs=1e-10)
        assert moment_exists(factor, 0.999 * index) and not moment_exists(factor, 1.001 * index)


def test_the_printed_formula_crosses_the_exact_index_at_two():
    for b in (1, 4, 16):
        middle = 2 * b / (b + 2)
        assert printed_index(middle, b) == pytest.approx(2)
        assert printed_index(0.8 * middle, b) > tail_index(GaussianFactor(0.8 * middle, b))
        assert printed_index(1.2 * middle, b) < tail_index(GaussianFactor(1.2 * middle, b))


def test_limits_of_small_rates_and_large_batches():
    c = 2 * small_rate_index()
    assert c * (math.log(c) - 1) == pytest.approx(1)
    for b in (1, 3):
        shares = [tail_index(GaussianFactor(scale, b)) * scale / b for scale in (0.01, 0.001)]
        assert abs(shares[1] - c / 2) < abs(shares[0] - c / 2) / 5
        assert shares[1] == pytest.approx(c / 2, rel=2e-3)
    for scale in (0.4, 1.0, 1.8):
        first, second = (tail_index(GaussianFactor(scale, b)) for b in (1000, 2000))
        assert (second - first) / 1000 == pytest.approx(large_batch_index(scale), rel=1e-3)
    b, delta = 20_000, 6 / 20_000
    assert tail_index(GaussianFactor(2 - delta, b)) == pytest.approx(1 + 6 / 4, rel=1e-3)
    assert continuous_index(0.5, 3) - printed_index(0.5, 3) == 4  # b + 1


def test_continuous_time_has_the_index_of_a_geometric_brownian_motion():
    """Far out dδ = −aδ dt + √(κη/b) aδ dW, whose |δ|^q grows at −aq + κη a²q(q − 1)/(2b); κ = 2 for Gaussian inputs."""
    a, lr, b = 1.3, 0.4, 3
    for gaussian, kurtosis in ((False, 1), (True, 2)):
        root = optimize.brentq(lambda q, k=kurtosis: -a * q + k * lr * a * a * q * (q - 1) / (2 * b), 1, 99)
        assert continuous_index(a * lr, b, gaussian) == pytest.approx(root, rel=1e-12)


@pytest.mark.parametrize("replace", [True, False])
def test_a_data_sets_factor_is_the_list_of_its_batches(replace):
    squares, lr, b, decay = np.array([0.25, 1.0, 1.0, 4.0]), 0.7, 3, 0.1
    lists = itertools.product(squares, repeat=b) if replace else itertools.combinations(squares, b)
    values = 1 - lr * (np.array([np.mean(batch) for batch in lists]) + decay)
    factor = data_factor(squares, lr, b, replace, decay)
    for q in (1, 2, 3.5):
        assert factor.exponent(q) == pytest.approx(math.log(np.mean(np.abs(values) ** q)), rel=1e-12)


def test_a_data_set_with_expanding_steps_has_a_power_law_and_one_without_has_none():
    """x² = 0 or 4, fairly, b = 1: f = 1 or 1 − 4η, so that β is 0 or ∞; with decay both sides matter."""
    coin = data_factor([1.0, 4.0], 0.6, 1)  # 0.4 and −1.4
    root = optimize.brentq(lambda q: (0.4**q + 1.4**q) / 2 - 1, 0.1, 9)
    assert tail_index(coin) == pytest.approx(root, rel=1e-12)
    assert bounded_below([1.0, 4.0], 1) == 0.5
    assert tail_index(data_factor([1.0, 4.0], 0.5, 1)) == math.inf
    assert tail_index(data_factor([1.0, 4.0], 0.501, 1)) < math.inf
    assert bounded_below([1.0, 4.0], 2, replace=False) == 0.8
    assert tail_index(data_factor([1.0, 4.0], 0.79, 2, replace=False)) == math.inf
    assert not moment_exists(coin, 3) and moment_exists(data_factor([1.0, 4.0], 0.5, 1), 300)


def test_a_data_set_of_thousands_is_a_mean_over_its_samples():
    squares, lr = np.random.default_rng(4).normal(size=5000) ** 2, 0.8
    logs = np.log(np.abs(1 - lr * squares))
    root = optimize.brentq(lambda q: special.logsumexp(q * logs) - math.log(5000), 0.1, 20)
    assert tail_index(data_factor(squares, lr, 1)) == pytest.approx(root, rel=1e-10)


def test_laws_of_other_noise_have_an_index_too():
    assert tail_index(Mixture(((1.0, 0.6, 0.64),))) == pytest.approx(2, rel=1e-12)  # E f² = 0.36 + 0.64
    squares = {Fraction(1): Fraction(1, 2), Fraction(4): Fraction(1, 2)}
    ours, other = data_factor([1.0, 4.0], 0.55, 3), online_noise("SGD", squares, 3).affine(1, -0.55)
    assert tail_index(ours) == pytest.approx(tail_index(other), rel=1e-12)
    dead = data_factor([1.0, 5.0], 1.0, 1)  # f = 0 or −4: E log|f| = −∞
    assert tail_index(dead) == pytest.approx(math.log(2) / math.log(4), rel=1e-12)


def test_hills_interval_covers_a_power_laws_index():
    rng, hits = np.random.default_rng(7), 0
    for _ in range(400):
        hits += 2.5 in hill(rng.random(300) ** (-1 / 2.5), 40, 0.9)
    assert stats.binom.cdf(hits, 400, 0.9) > 1e-3 and stats.binom.sf(hits - 1, 400, 0.9) > 1e-3
    found = hill(-np.array([8.0, 4.0, 2.0, 1.0]), 3)
    assert found.value == pytest.approx(1 / (2 * math.log(2)))  # mean of log 8, log 4, log 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data_factor([1.0, -1.0], 0.1, 1), "squares"),
        (lambda: data_factor([1.0, 2.0], 0.1, 3, replace=False), "1 to n = 2"),
        (lambda: data_factor(np.arange(1.0, 100.0) ** 1.01, 0.1, 9), "too many batches"),
        (lambda: bounded_below([1.0], 2, replace=False), "1 to n = 1"),
        (lambda: large_batch_index(2.0), "scale < 2"),
        (lambda: hill([1.0, 0.0, 0.0], 1), "hold a 0"),
        (lambda: hill([1.0, 1.0], 1), "are equal"),
    ],
)
def test_what_has_no_tail_is_refused(call, message):
    with pytest.raises(Refused, match=message):
        call()
