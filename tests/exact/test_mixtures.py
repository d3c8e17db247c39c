"""One step's random factor: moments, exponents and cumulants against enumeration, quadrature and special functions."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from support.exact.mixtures import KINDS, Mixture, online_noise

COIN = {Fraction(1): Fraction(1, 5), Fraction(0): Fraction(4, 5)}
THREE = {Fraction(0): Fraction(1, 2), Fraction(1): Fraction(1, 3), Fraction(9, 4): Fraction(1, 6)}
RATE = Fraction(19, 10)


def large(kind, b):
    return b + 3 if "B" in kind else None


def factor(kind, b=1, B=4, lr=RATE, squares=COIN):
    return online_noise(kind, squares, b, B if "B" in kind else None).affine(1, -lr)


fractions = st.fractions(-3, 3, max_denominator=12)
variances = st.fractions(0, 2, max_denominator=12)


@st.composite
def mixtures(draw, variance=variances):
    weights = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    return Mixture(tuple((Fraction(w, sum(weights)), draw(fractions), draw(variance)) for w in weights))


@given(mixtures(), st.integers(0, 8))
def test_moments_are_exact(law, order):
    nodes, masses = np.polynomial.hermite_e.hermegauss(9)  # exact up to degree 17
    expected = sum(
        float(p) * ((float(m) + math.sqrt(s) * nodes) ** order @ masses) / masses.sum() for p, m, s in law.parts
    )
    assert isinstance(law.moment(order), (Fraction, int))
    assert float(law.moment(order)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(mixtures(), fractions, fractions)
def test_affine_and_cumulants(law, shift, scale):
    mean, *higher = law.cumulants()
    moved = law.affine(shift, scale).cumulants()
    assert moved[0] == shift + scale * mean
    assert list(moved[1:]) == [scale ** (i + 2) * kappa for i, kappa in enumerate(higher)]


@given(mixtures(st.fractions(Fraction(1, 9), 2, max_denominator=9)), st.sampled_from((2, 4, 6, 8)))
def test_exponent_at_even_powers_is_the_logarithm_of_the_moment(law, order):
    assert law.exponent(order) == pytest.approx(math.log(law.moment(order)), abs=1e-11)


@given(mixtures(st.fractions(Fraction(1, 9), 2, max_denominator=9)), st.floats(-0.7, 7))
@settings(deadline=None)
def test_slope_is_the_derivative_and_increases(law, q):
    h = 1e-4
    assert law.slope(q) == pytest.approx((law.exponent(q + h) - law.exponent(q - h)) / (2 * h), rel=1e-5, abs=1e-5)
    assert law.slope(q + 0.2) >= law.slope(q) - 1e-12
    assert law.exponent(0) == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize(
    ("m", "s"), [(0, 1), (0.62, 0.5776), (-3, 0.2), (19.9, 1), (20.1, 1), (300, 1), (1, 1e-3), (1, 1e-9)]
)
def test_lyapunov_exponent_of_a_gaussian_by_dawson_s_integral(m, s):
    mu = abs(m) / math.sqrt(s)
    integral = sum(
        integrate.quad(lambda t: special.dawsn(t / math.sqrt(2)), lo, hi, epsabs=1e-13)[0]
        for lo, hi in ((0, min(mu, 5)), (min(mu, 5), mu))
    )
    expected = (math.log(s) - np.euler_gamma - math.log(2)) / 2 + math.sqrt(2) * integral
    if mu > 100:  # there the integral loses digits, and the expansion for small noise has them all
        expected = math.log(abs(m)) - 1 / (2 * mu**2) - 3 / (4 * mu**4)
    assert Mixture(((1, m, s),)).lyapunov == pytest.approx(expected, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("q", [-0.9, -0.3, 0.7, 3.3, 12])
@pytest.mark.parametrize("m", [0.0, 0.6, 4.0, 19.9, 20.1])
def test_fractional_moments_of_a_gaussian_by_the_hypergeometric_function(m, q):
    log = q / 2 * math.log(2) + math.lgamma((q + 1) / 2) - math.log(math.pi) / 2 - m * m / 2
    expected = log + math.log(special.hyp1f1((q + 1) / 2, 0.5, m * m / 2))
    assert Mixture(((1, m, 1),)).exponent(q) == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_atoms_at_zero_and_infinite_moments():
    lands = Mixture(((Fraction(1, 5), Fraction(0), 0), (Fraction(4, 5), Fraction(1), 0)))
    assert lands.zero == Fraction(1, 5)
    assert lands.lyapunov == -math.inf
    assert lands.exponent(-0.5) == math.inf
    assert lands.exponent(3) == pytest.approx(math.log(0.8))
    gauss = Mixture(((1, 0.5, 1),))
    assert gauss.exponent(-1) == math.inf
    assert gauss.exponent(-0.99) < math.inf
    for law, q in ((lands, -0.5), (gauss, -1.5)):
        with pytest.raises(ValueError, match="infinite"):
            law.slope(q)


@given(st.sampled_from(KINDS), st.integers(1, 3), st.sampled_from((COIN, THREE)))
@settings(deadline=None)
def test_every_kind_has_mean_and_variance_of_sgd(kind, b, squares):
    law = Mixture(tuple((p, u, 0) for u, p in squares.items()))
    ours, wanted = (
        online_noise(kind, squares, b, large(kind, b)).cumulants()[:2],
        (law.moment(1), law.cumulants()[1] / b),
    )
    if kind == "signs":  # a square root
        assert [float(x) for x in ours] == pytest.approx([float(x) for x in wanted])
    else:
        assert ours == wanted


@pytest.mark.parametrize("b", [1, 2, 3])
def test_cumulants_of_sgd_and_of_the_composed_noise(b):
    single = Mixture(tuple((p, u, 0) for u, p in THREE.items())).cumulants()
    assert online_noise("SGD", THREE, b).cumulants() == tuple(kappa / b ** max(i, 0) for i, kappa in enumerate(single))
    drawn = list(product(THREE.items(), repeat=b))
    by_hand = Mixture(
        tuple((math.prod(p for _, p in draw), sum(u for u, _ in draw) / Fraction(b), Fraction(0)) for draw in drawn)
    )
    assert sorted(by_hand.parts) == sorted(online_noise("SGD", THREE, b).parts)
    for B in range(max(b, 2), b + 4):
        x = Fraction(b, B)
        assert online_noise("[MSGD-Cov]-B", THREE, b, B).cumulants()[2] == (3 * x - 2 * x * x) * single[2] / b**2


def test_composed_noise_with_the_small_batch_itself_is_sgd():
    assert sorted(online_noise("[MSGD-Cov]-B", THREE, 2, 2).parts) == sorted(online_noise("SGD", THREE, 2).parts)


def test_floats_give_the_same_law_as_fractions():
    floats = {float(u): float(p) for u, p in THREE.items()}
    for kind in KINDS:
        exact, ours = online_noise(kind, THREE, 2, large(kind, 2)), online_noise(kind, floats, 2, large(kind, 2))
        assert [float(exact.moment(p)) for p in range(7)] == pytest.approx(
            [ours.moment(p) for p in range(7)], rel=1e-12
        )
    assert online_noise("SGD", {1.0: 0.01, 0.0: 0.99}, 1000).moment(1) == pytest.approx(0.01)


def test_numbers_of_the_example():
    sgd, gauss = factor("SGD"), factor("MSGD-Cov")
    assert sgd.moment(2) == gauss.moment(2) == Fraction(481, 500)
    assert sgd.moment(4) == Fraction(93122, 100000)
    assert float(gauss.moment(4)) == pytest.approx(2.48080528)
    assert sgd.lyapunov == pytest.approx(0.2 * math.log(0.9))
    value, error = integrate.quad(
        lambda z: math.log(abs(0.62 + 0.76 * z)) * stats.norm.pdf(z),
        -12,
        12,
        points=[-0.62 / 0.76],
        epsabs=1e-12,
        limit=400,
    )
    assert abs(gauss.lyapunov - value) < 1e-9 + error
    assert gauss.lyapunov == pytest.approx(-0.6107162115)


def test_within_is_a_probability():
    law = Mixture(((Fraction(1, 2), 0, 1), (Fraction(1, 2), 3, 0)))
    np.testing.assert_allclose(
        law.within([0, 1, 3, 3.5, math.inf]),
        [0, stats.norm.cdf(1) - 0.5, stats.norm.cdf(3) - 0.5, stats.norm.cdf(3.5), 1],
    )
    for size in (-1, [0.5, -1e-9]):
        with pytest.raises(ValueError, match=r"size = -.*: \|X\| is at least 0"):
            law.within(size)


@pytest.mark.parametrize("q", [2, 100, 112, 114, 200, 400, 1000])
def test_large_powers_agree_with_exact_moments_where_zero_is_far(q):
    law = Mixture(((Fraction(1), Fraction(1), Fraction(1, 450)),))
    exact = law.moment(q)
    assert law.exponent(q) == pytest.approx(math.log(exact.numerator) - math.log(exact.denominator), rel=1e-11)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mixture(((0.5, 1, 0),)), "sum to 0.5"),
        (lambda: Mixture(((1, 1, -1),)), "variance ≥ 0"),
        (lambda: Mixture(((1, math.nan, 0),)), "finite"),
        (lambda: Mixture(((1, 1),)), "is no triple of numbers"),
        (lambda: Mixture(((1, 1, 0),)).moment(-1), "order = -1 is out of range: give at least 0"),
        (lambda: Mixture(((1, 1, 0),)).moment(1.5), "order = 1.5 is not an integer"),
        (lambda: Mixture(((1, 1, 0),)).exponent(math.inf), "q = inf is out of range: give a finite number"),
        (lambda: online_noise("Levy", COIN, 1), "unknown"),
        (lambda: online_noise("SGD", {1: 0.5}, 1), "sum to 0.5"),
        (lambda: online_noise("SGD", COIN, 0), "b = 0 is out of range"),
        (lambda: online_noise("[MSGD-Cov]-B", COIN, 3, 2), "B = 2 is out of range: the large batch is at least max"),
        (lambda: online_noise("MSGD-[Cov-B]", COIN, 1), "B = None is not an integer"),
        (lambda: online_noise("SGD", {Fraction(i): Fraction(1, 20) for i in range(20)}, 9), "at most 100000"),
    ],
)
def test_bad_input_is_refused_at_once(call, message):
    with pytest.raises(ValueError, match=message):
        call()
