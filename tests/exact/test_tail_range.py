"""What is known of the tail index, against moments computed in other ways."""

import itertools
import math

import numpy as np
import pytest

from support.errors import Refused
from support.exact.batch_noise import BatchNoise, fixed, matched
from support.exact.populations import FinitePopulation, GaussianPopulation
from support.exact.second_moments import Descent
from support.exact.stationary import growth
from support.exact.tail_range import even_moment_growth, tail_range
from support.exact.tails import GaussianFactor, data_factor, tail_index
from support.sampling import MiniBatch


def gaussian(a, lr, b, **more):
    return Descent(GaussianPopulation(np.diag(np.atleast_1d(a))), matched(b), lr, **more)


@pytest.mark.parametrize(("scale", "b", "momentum"), [(0.5, 1, 0.0), (0.3, 4, 0.9), (1.2, 8, 0.5)])
def test_second_moments_grow_as_the_stationary_solver_says(scale, b, momentum):
    assert even_moment_growth(2, scale, b, momentum) == pytest.approx(
        growth(gaussian(1.0, scale, b, momentum=momentum))
    )


def test_decay_moves_the_factor():
    descent = gaussian(2.0, 0.3, 4, momentum=0.5, decay=0.7)
    assert even_moment_growth(2, 0.6, 4, 0.5, 1 - 0.3 * 0.7) == pytest.approx(growth(descent))


def fourth_by_kronecker(scale, b, mu):
    """E M⊗M⊗M⊗M, M = M_0 + q M_1, expanded in the powers of q = scale χ²_b/b."""
    parts = np.array([[1.0, -mu], [0.0, mu]]), np.array([[-1.0, 0.0], [1.0, 0.0]])
    total = 0
    for chosen in itertools.product((0, 1), repeat=4):
        k = sum(chosen)
        product = np.ones((1, 1))
        for which in chosen:
            product = np.kron(product, parts[which])
        total = total + scale**k * math.prod(1 + 2 * j / b for j in range(k)) * product
    return np.abs(np.linalg.eigvals(total)).max()


@pytest.mark.parametrize(("scale", "b", "mu"), [(0.5, 2, 0.0), (0.5, 2, 0.5), (0.3, 8, 0.9)])
def test_fourth_moments_grow_as_the_kronecker_power_says(scale, b, mu):
    assert even_moment_growth(4, scale, b, mu) == pytest.approx(fourth_by_kronecker(scale, b, mu), rel=1e-10)


@pytest.mark.parametrize("order", [2, 6, 16, 32])
def test_without_momentum_it_is_the_factor_of_one_direction(order):
    assert even_moment_growth(order, 0.3, 3) == pytest.approx(math.exp(GaussianFactor(0.3, 3).exponent(order)))


def test_one_direction_without_momentum_is_solved():
    low, high = tail_range(gaussian(1.0, 0.8, 3, decay=0.2), 3)
    assert low == high == pytest.approx(tail_index(GaussianFactor(0.8, 3, 1 - 0.16)), rel=1e-12)


def test_a_little_momentum_brackets_the_index_without():
    for scale, b in ((0.4, 1), (0.8, 3), (1.1, 4)):
        low, high = tail_range(gaussian(1.0, scale, b, momentum=1e-7), b)
        assert low <= tail_index(GaussianFactor(scale, b)) <= high == low + 2


def fourth_moments_exist(a, lr, order=9):
    """Whether a step at b = 1 on inputs N(0, diag(a)), d = 2, shrinks fourth moments: E f⊗f⊗f⊗f by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    total = 0
    for (x, p), (y, q) in itertools.product(zip(nodes, weights / weights.sum(), strict=True), repeat=2):
        v = np.sqrt(a) * (x, y)
        square = np.kron(*[np.eye(2) - lr * np.outer(v, v)] * 2)
        total = total + p * q * np.kron(square, square)
    return np.abs(np.linalg.eigvals(total)).max() < 1


def test_a_direction_alone_is_an_upper_end_and_no_more():
    a = np.array([1.0, 0.8])
    for lr in (0.2, 0.3, 0.36, 0.4):
        low, high = tail_range(gaussian(a, lr, 1), 1)
        assert low == 2 and high == tail_index(GaussianFactor(lr, 1))
        assert high >= 4 or not fourth_moments_exist(a, lr)
    assert tail_range(gaussian(a, 0.36, 1), 1)[1] > 4 and not fourth_moments_exist(a, 0.36)  # the second one counts


def test_the_flattest_direction_counts_where_decay_is_negative():
    descent = gaussian([1.0, 0.16], 0.5, 2, decay=-0.15)
    alone = [tail_index(GaussianFactor(0.5 * a, 2, 1 + 0.5 * 0.15)) for a in (1.0, 0.16)]
    assert alone[1] < alone[0]
    assert tail_range(descent, 2) == pytest.approx((2.0, alone[1]), rel=1e-9)


def test_a_data_set_has_a_bound_an_index_or_neither():
    one = FinitePopulation([[1.0], [2.0], [0.5]], [1.0, 0.0, 2.0])
    for replace in (True, False):
        noise = fixed(MiniBatch(3, 1, replace=replace))
        assert tail_range(Descent(one, noise, 0.49), 1, replace) == (math.inf,) * 2  # η x² < 2 for every sample
        index = tail_index(data_factor([1.0, 4.0, 0.25], 0.52, 1))
        assert tail_range(Descent(one, noise, 0.52), 1, replace) == (index, index)
    two = FinitePopulation([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [1.0, 0.0, 3.0])
    noise = fixed(MiniBatch(3, 2))
    assert tail_range(Descent(two, noise, 0.4), 2) == (math.inf,) * 2
    assert tail_range(Descent(two, noise, 0.4, 0.5), 2) == (2.0, math.inf)
    assert tail_range(Descent(two, noise, 0.4, decay=1.2), 2) == (2.0, math.inf)  # η(x² + γ) > 2 for one sample


def test_what_does_not_rest_or_does_not_move():
    assert tail_range(gaussian(1.0, 1.2, 2), 2) == (0.0, math.inf)
    quiet = Descent(GaussianPopulation([[1.0]], variance=0.0), matched(2), 0.5)
    assert tail_range(quiet, 2) == (math.inf,) * 2


def test_large_batches_do_not_overflow():
    low, high = tail_range(gaussian(1.0, 0.5, 5000, momentum=0.9), 5000)
    assert low >= 30 and high == math.inf


def test_refusals_name_the_value():
    with pytest.raises(Refused, match=r"b = 3 has the strength 0\.333333, the descent 0\.5: match"):
        tail_range(gaussian(1.0, 0.5, 2), 3)
    with pytest.raises(Refused, match="match"):
        tail_range(Descent(GaussianPopulation([[1.0]]), BatchNoise(0.5, 0.1), 0.2), 2)
    with pytest.raises(Refused, match="order = 3 is odd"):
        even_moment_growth(3, 0.5, 2)
    with pytest.raises(Refused, match="order = 40 is out of range"):
        even_moment_growth(40, 0.5, 2)
    data = FinitePopulation([[1.0], [2.0]], [1.0, 0.0])
    with pytest.raises(Refused, match="holds 1 to n = 2 samples"):
        tail_range(Descent(data, fixed(MiniBatch(2, 2)), 0.1), 3, False)
