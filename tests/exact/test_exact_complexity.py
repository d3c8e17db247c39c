"""Exact local complexities, against loops over signs, data and dense grids; the talk's Theorem 1 at its limits."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import special

from support.errors import NotFinite, Refused
from support.exact import complexity
from support.exact.complexity import (
    Finite,
    Linear,
    Quadratic,
    ball_maximum,
    given_data,
    kinked,
    mean_norm,
    over_data,
)
from support.exact.multipliers import (
    FLOOR,
    Gaussian,
    Multipliers,
    batches,
    expected_fullest,
    expected_maximum,
    sgd_factor,
    signs,
)

RNG = np.random.default_rng(5)
TABLE = RNG.integers(-4, 5, (5, 4))  # five functions, four samples
CIRCLE = np.linspace(0, 2 * np.pi, 40_001)


def counted(table, atoms, absolute=True):
    """E (1/N) max |Σ v_i ℓ_i| in rationals, by loops; atoms: (p, v)."""
    total = Fraction(0)
    for p, v in atoms:
        sums = [sum(Fraction(x) * int(y) for x, y in zip(v, row, strict=True)) for row in table]
        total += p * max(abs(s) if absolute else s for s in sums)
    return total / len(table[0])


def all_signs(n):
    return [(Fraction(1, 2**n), v) for v in itertools.product((-1, 1), repeat=n)]


def ordered_batches(n, b, replace):
    """V of every batch in order."""
    draws = list(itertools.product(range(n), repeat=b) if replace else itertools.permutations(range(n), b))
    return [(Fraction(1, len(draws)), [Fraction(n * draw.count(i), b) - 1 for i in range(n)]) for draw in draws]


# --- the supremum -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [True, False])
def test_a_finite_class_equals_the_loop_over_signs_and_batches(absolute):
    found = given_data(Finite(TABLE), signs(4), absolute)
    assert found.value == float(counted(TABLE, all_signs(4), absolute)) == found.low
    for replace in (True, False):
        found = given_data(Finite(TABLE), batches(4, 2, replace), absolute).value
        assert found == pytest.approx(float(counted(TABLE, ordered_batches(4, 2, replace), absolute)), rel=1e-13)


def test_blocks_change_nothing(monkeypatch):
    V, classes = signs(6).values, [Finite(RNG.normal(size=(3, 6))), random_quadratic(6, 2)]
    whole = [one.suprema(V) for one in classes]
    monkeypatch.setattr(complexity, "_BLOCK", 100)
    for one, before in zip(classes, whole, strict=True):
        np.testing.assert_array_equal(one.suprema(V), before)


def random_quadratic(n, d, delta=0.8):
    H = RNG.normal(size=(n, d, d))
    return Quadratic(RNG.normal(size=n), RNG.normal(size=(n, d)), H + H.transpose(0, 2, 1), delta)


def on_a_grid(losses, V, absolute):
    """The largest weighted sum over a dense polar grid of a ball in the plane, from the losses themselves."""
    r = losses.delta * np.linspace(0, 1, 201)[:, None, None]
    u = (r * np.stack([np.cos(CIRCLE[::40]), np.sin(CIRCLE[::40])], axis=-1)).reshape(-1, 2)
    values = losses.at_centre[:, None] + losses.slopes @ u.T
    if isinstance(losses, Quadratic):
        values = values + np.einsum("kp,ipq,kq->ik", u, losses.curvatures, u) / 2
    sums = V @ values / losses.n
    return (abs(sums) if absolute else sums).max(1)


@pytest.mark.parametrize("absolute", [True, False])
def test_linear_and_quadratic_losses_equal_a_dense_grid(absolute):
    for losses in (Linear(RNG.normal(size=5), RNG.normal(size=(5, 2)), 0.8), random_quadratic(5, 2)):
        V = RNG.normal(size=(12, 5))
        found, grid = losses.suprema(V, absolute), on_a_grid(losses, V, absolute)
        assert (found >= grid - 1e-12).all()
        np.testing.assert_allclose(found, grid, atol=2e-4)


def test_a_quadratic_without_curvature_is_linear():
    c, x = RNG.normal(size=6), RNG.normal(size=(6, 3))
    V = signs(6).values
    np.testing.assert_allclose(
        Quadratic(c, x, np.zeros((6, 3, 3)), 0.3).suprema(V), Linear(c, x, 0.3).suprema(V), rtol=1e-12
    )


def test_least_squares_are_the_losses_of_a_regression():
    features, targets, theta = RNG.normal(size=(5, 2)), RNG.normal(size=5), RNG.normal(size=2)
    losses = Quadratic.least_squares(features, targets, theta, 1.0)
    u = np.array([0.3, -0.4])
    direct = (features @ (theta + u) - targets) ** 2 / 2
    taylor = losses.at_centre + losses.slopes @ u + np.einsum("p,ipq,q->i", u, losses.curvatures, u) / 2
    np.testing.assert_allclose(taylor, direct, rtol=1e-12)


def test_the_ball_maximum_inside_on_the_boundary_and_in_the_hard_case():
    inside = ball_maximum([[0.2, 0.0]], [[[-1.0, 0.0], [0.0, -2.0]]], 1.0)  # u = (0.2, 0)
    assert inside == pytest.approx([0.02], rel=1e-12)
    boundary = ball_maximum([[2.0, 0.0]], [[[-1.0, 0.0], [0.0, -2.0]]], 1.0)  # u = (1, 0)
    assert boundary == pytest.approx([1.5], rel=1e-12)
    hard = ball_maximum([[1.0, 0.0]], [[[-1.0, 0.0], [0.0, 3.0]]], 2.0)  # λ = 3: u₁ = ¼, 3/2 (4 − 1/16) + ¼ − 1/32
    assert hard == pytest.approx([1.5 * (4 - 1 / 16) + 1 / 4 - 1 / 32], rel=1e-12)
    nothing = ball_maximum([[0.0, 0.0]], [[[-1.0, 0.0], [0.0, -1.0]]], 2.0)
    assert nothing == [0.0]


def test_the_ball_maximum_is_attained():
    """By a point of the ball that its own conditions give: (λ − H)u = g with |u| = δ, λ found by scipy."""
    from scipy.optimize import brentq

    for _ in range(20):
        g, H = RNG.normal(size=5), RNG.normal(size=(5, 5))
        H = H + H.T
        top = np.linalg.eigvalsh(H)[-1]
        shift = brentq(
            lambda s, g=g, H=H, t=top: np.linalg.norm(np.linalg.solve((t + s) * np.eye(5) - H, g)) - 1.5, 1e-9, 99
        )
        u = np.linalg.solve((top + shift) * np.eye(5) - H, g)
        assert ball_maximum(g[None], H[None], 1.5)[0] == pytest.approx(g @ u + u @ H @ u / 2, rel=1e-10)


def test_losses_with_kinks_equal_a_dense_grid():
    targets = np.array([-0.3, 0.1, 0.5, 2.0])
    knots = np.sort(np.concatenate([targets, [-3.0, 3.0]]))
    losses = kinked(knots, abs(knots[:, None] - targets), 0.2, 0.6)
    grid = Finite(abs(np.linspace(-0.4, 0.8, 1201)[:, None] - targets))
    for absolute in (True, False):
        np.testing.assert_allclose(losses.suprema(signs(4).values, absolute), grid.suprema(signs(4).values, absolute))


# --- Gaussian multipliers ---------------------------------------------------------------------------------------------


def by_angle(table, absolute):
    """E max over functions of two samples: E|g| times the mean over directions."""
    sums = np.stack([np.cos(CIRCLE[:-1]), np.sin(CIRCLE[:-1])], axis=1) @ table.T
    return math.sqrt(math.pi / 2) * (abs(sums) if absolute else sums).max(1).mean() / 2


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("functions", [1, 2, 3, 8])
def test_gaussian_multipliers_of_two_samples(functions, absolute):
    table = RNG.normal(size=(functions, 2))
    found = given_data(Finite(table), Gaussian(2), absolute).value
    assert found == pytest.approx(by_angle(table, absolute), rel=1e-7, abs=1e-12)


def test_gaussian_multipliers_of_two_functions_of_many_samples():
    """max(|a|, |b|) = (|a + b| + |a − b|)/2, and max(a, b) = (a + b + |a − b|)/2."""
    table = RNG.normal(size=(2, 9))
    plus, minus = (np.linalg.norm(table[0] + s * table[1]) for s in (1, -1))
    assert given_data(Finite(table), Gaussian(9)).value == pytest.approx(FLOOR * (plus + minus) / 18, rel=1e-12)
    assert given_data(Finite(table), Gaussian(9), False).value == pytest.approx(FLOOR * minus / 18, rel=1e-12)


@pytest.mark.parametrize("absolute", [True, False])
def test_linear_losses_of_one_parameter_are_those_at_the_ends(absolute):
    c, x = RNG.normal(size=7), RNG.normal(size=7)
    ends, line = Finite([c + 0.3 * x, c - 0.3 * x]), Linear(c, x[:, None], 0.3)
    for V in (signs(7), batches(7, 2), Gaussian(7)):
        assert given_data(line, V, absolute).value == pytest.approx(given_data(ends, V, absolute).value, rel=1e-9)


def test_the_mean_norm_of_a_gaussian_vector():
    for d in (1, 2, 7):
        chi = math.sqrt(2) * special.gamma((d + 1) / 2) / special.gamma(d / 2)
        assert mean_norm(np.full(d, 4.0)) == pytest.approx(2 * chi, rel=1e-9)
    ellipse = math.sqrt(math.pi / 2) * 2 / math.pi * 2 * special.ellipe(3 / 4)  # E|g| times the mean of √(4cos² + sin²)
    assert mean_norm([4.0, 1.0]) == pytest.approx(ellipse, rel=1e-9)
    assert mean_norm([0.0]) == 0


def test_draws_agree_with_the_formula_of_linear_losses():
    losses = Linear(RNG.normal(size=4), RNG.normal(size=(4, 3)), 0.5)
    drawn = given_data(losses, np.random.default_rng(1).standard_normal((5_000, 4)), confidence=0.999)
    exact = given_data(losses, Gaussian(4)).value
    assert exact in drawn
    assert drawn.half_width < 0.03 * exact


# --- over data --------------------------------------------------------------------------------------------------------


def over_ordered_data(table, probabilities, n, atoms):
    """E over ordered samples of a population, in rationals."""
    total = Fraction(0)
    for data in itertools.product(range(len(probabilities)), repeat=n):
        p = math.prod(probabilities[i] for i in data)
        total += p * counted([[row[i] for i in data] for row in table], atoms)
    return total


def test_over_data_equals_the_loop_over_ordered_samples():
    table, p = RNG.integers(-3, 4, (3, 3)), [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]
    found = over_data(Finite(table), [float(x) for x in p], signs(3))
    assert found == pytest.approx(float(over_ordered_data(table, p, 3, all_signs(3))), rel=1e-12)
    found = over_data(Finite(table), [float(x) for x in p], batches(4, 2))
    assert found == pytest.approx(float(over_ordered_data(table, p, 4, ordered_batches(4, 2, True))), rel=1e-12)


# --- Theorem 1 --------------------------------------------------------------------------------------------------------


def test_gaussian_and_rademacher_complexity_within_their_constants():
    for absolute in (True, False):
        for functions in (1, 2, 5):
            losses = Finite(RNG.normal(size=(functions, 2)))
            rademacher, gaussian = (given_data(losses, V, absolute).value for V in (signs(2), Gaussian(2)))
            assert FLOOR * rademacher <= gaussian + 1e-12
            assert gaussian <= expected_maximum(2) * rademacher + 1e-12


def test_the_constants_are_reached():
    """By losses that follow every pattern of signs, and by losses that see one sample each."""
    cube, units = Finite(signs(2).values), Finite(np.eye(2))
    assert given_data(cube, Gaussian(2)).value / given_data(cube, signs(2)).value == pytest.approx(FLOOR, rel=1e-12)
    ratio = given_data(units, Gaussian(2)).value / given_data(units, signs(2)).value
    assert ratio == pytest.approx(expected_maximum(2), rel=1e-12)
    for losses, constant in ((Finite(signs(6).values), FLOOR), (Finite(np.eye(6)), expected_maximum(6))):
        drawn = given_data(losses, np.random.default_rng(2).standard_normal((20_000, 6)), confidence=0.999)
        assert constant * given_data(losses, signs(6)).value in drawn


@pytest.mark.parametrize(("n", "b"), [(2, 1), (4, 2), (6, 2), (6, 3)])
def test_sgd_complexity_without_replacement_within_each_step_of_the_proof(n, b):
    """R(V_sgd, n) ≤ 2(1 − 1/k) R(V_sgd, 2b) ≤ 2(1 − 1/k) R(A, b): batches of a half, and signs for their pairs."""
    factor = float(sgd_factor(n, b))
    for seed in range(6):
        rng = np.random.default_rng(seed)
        losses, p = Finite(rng.exponential(size=(4, 2)) ** 3), rng.dirichlet([1.0, 1.0])
        sgd, halves = (over_data(losses, p, batches(m, b, replace=False)) for m in (n, 2 * b))
        rademacher = over_data(losses, p, signs(b))
        assert sgd <= factor * halves * (1 + 1e-12)
        assert halves <= rademacher * (1 + 1e-12)


def spike(p):
    return Finite([[1 / p, 0.0]]), [p, 1 - p]


def test_the_rare_spike_meets_the_bound_without_replacement():
    for n, b in ((4, 2), (6, 2), (6, 3)):
        sgd, rademacher = (over_data(*spike(1e-7), V) for V in (batches(n, b, replace=False), signs(b)))
        assert sgd / rademacher == pytest.approx(float(sgd_factor(n, b)), rel=1e-5)


def test_the_rare_spike_breaks_the_bound_with_replacement():
    p, atoms = Fraction(1, 100), ordered_batches(4, 2, True)
    assert over_data(*spike(0.01), batches(4, 2)) == pytest.approx(
        float(over_ordered_data([[100, 0]], [p, 1 - p], 4, atoms)), rel=1e-12
    )
    assert over_data(*spike(0.01), batches(4, 2)) == pytest.approx(1.10640, abs=5e-6)
    assert over_data(*spike(0.01), signs(2)) == pytest.approx(0.995, rel=1e-12)
    for n, b in ((4, 2), (6, 2), (6, 3)):
        ratio = over_data(*spike(1e-7), batches(n, b)) / over_data(*spike(1e-7), signs(b)) / float(sgd_factor(n, b))
        assert ratio == pytest.approx((1 - 1 / n) ** b / (1 - b / n), rel=1e-5)


@pytest.mark.parametrize(("n", "b"), [(3, 1), (4, 2), (6, 2), (6, 3)])
def test_sgd_complexity_with_replacement_within_the_fullest_count(n, b):
    """R(V_sgd, n) ≤ 2(1 − 1/n) E max c_i R(A, b), met by the spike where b = 1."""
    factor = 2 * (1 - 1 / n) * expected_fullest(n, b)
    populations = [spike(1e-7)]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        populations.append((Finite(rng.exponential(size=(4, 2)) ** 3), rng.dirichlet([1.0, 1.0])))
    ratios = [over_data(*one, batches(n, b)) / over_data(*one, signs(b)) for one in populations]
    assert max(ratios) <= factor * (1 + 1e-12)
    assert given_data(Finite(signs(n).values), batches(n, b)).value <= factor * (1 + 1e-12)  # where R(A, b) = 1
    assert given_data(Finite(np.eye(n)), batches(n, b)).value <= factor / b
    if b == 1:
        assert ratios[0] == pytest.approx(factor, rel=1e-5)


def test_the_spike_has_the_mean_size_of_a_multiplier():
    for V in (signs(3), Gaussian(3), batches(3, 2), batches(3, 1, replace=False)):
        assert over_data(*spike(1e-7), V) == pytest.approx(V.size, rel=1e-5)


def test_draws_with_replacement_are_never_less_complex():
    """A supremum is convex in the sum over the batch, and Hoeffding's comparison holds for those."""
    for seed in range(10):
        losses = Finite(np.random.default_rng(seed).normal(size=(3, 5)))
        with_it, without = (given_data(losses, batches(5, 3, replace)).value for replace in (True, False))
        assert with_it > without


def test_losses_that_see_one_sample_each_see_the_fullest_count():
    for n, b in ((4, 2), (6, 3), (8, 2)):
        units = Finite(np.eye(n))
        assert given_data(units, batches(n, b)).value == pytest.approx(expected_fullest(n, b) / b - 1 / n, rel=1e-12)
        assert given_data(units, signs(n)).value == pytest.approx(1 / n, rel=1e-12)


def test_there_is_no_bound_from_below():
    equal = Finite(np.ones((1, 4)))
    assert given_data(equal, batches(4, 2, replace=False)).value == 0 < given_data(equal, signs(4)).value


def test_what_the_absolute_value_adds():
    """At most R₀ + E|X|, X the weighted mean at the centre; for a small ball E|X| alone is left."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        c, x = rng.normal(size=8), rng.normal(size=(8, 2))
        middle = given_data(Linear(c, x, 1e-9), signs(8)).value
        assert middle == pytest.approx(np.abs(signs(8).values @ c).mean() / 8, rel=1e-6)
        for delta in (0.01, 1.0):
            curved = Quadratic(c, x, x[:, :, None] * x[:, None], delta)
            with_it, without = (given_data(curved, signs(8), absolute).value for absolute in (True, False))
            assert without < with_it <= 2 * without + middle


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Linear([0.0], [[1.0]], 0.0), Refused, "delta = 0.0"),
        (lambda: Quadratic([0.0], [[1.0]], [[[1.0]]], -1.0), Refused, "delta = -1.0"),
        (lambda: Quadratic([0.0], [[1.0, 0]], [[[1.0, 2.0], [0.0, 1.0]]], 1.0), Refused, "not symmetric"),
        (lambda: ball_maximum([[1.0, 0]], [[[1.0, 2.0], [0.0, 1.0]]], 1.0), Refused, "not symmetric"),
        (lambda: given_data(Finite([[1e308, 1e308]]), signs(2)), NotFinite, "2 of 4 weighted losses"),
        (lambda: over_data(Finite(np.eye(100)), np.full(100, 1 / 100), Gaussian(100)), Refused, r"more than 10\^"),
        (lambda: Finite([[1.0, math.inf]]), NotFinite, "1 of 2 losses"),
        (lambda: Finite(np.ones((0, 2))), Refused, "at least one function"),
        (lambda: Finite(TABLE).take([0, 7]), Refused, "0 to 3"),
        (lambda: Finite(TABLE).suprema([[1.0, 1.0]]), Refused, "(1, 2)"),
        (lambda: given_data(Finite(TABLE), signs(3)), Refused, "N = 3"),
        (lambda: given_data(Finite(np.eye(3)), Gaussian(3)), Refused, "standard_normal"),
        (lambda: given_data(random_quadratic(3, 1), Gaussian(3)), Refused, "no formula"),
        (lambda: over_data(Finite(TABLE), [0.5, 0.5, 0.5, 0.5], signs(2)), Refused, "sum to 2"),
        (lambda: over_data(Finite(np.ones((1, 30))), np.full(30, 1 / 30), signs(18)), Refused, "multisets"),
        (lambda: kinked([0.0, 1.0], [[0.0], [1.0]], 0.5, 0.6), Refused, "leaves the knots"),
        (lambda: kinked([0.0, 0.0], [[0.0], [1.0]], 0.0, 0.1), Refused, "rising"),
        (lambda: mean_norm([-1.0]), Refused, "least variance is -1"),
        (lambda: Multipliers([[math.nan]]), NotFinite, "values"),
    ],
)
def test_bad_input_is_refused_at_once(call, error, message):
    with pytest.raises(error, match=message.replace("(", r"\(").replace(")", r"\)")):
        call()
