"""Exact averaged risks against enumeration in rationals, the finite-training-set module, closed forms and simulation;
the corrected bound over random laws.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.bench.exact import kronecker_map
from support.exact.averaged import bound, exact_constants, inverse_T, kappa, last_moment, lr_limit, risks, simulated
from support.exact.batch_noise import BatchNoise, fixed, fresh, matched
from support.exact.least_squares import expected_losses, growth, stability_limit
from support.exact.populations import FinitePopulation, GaussianPopulation
from support.exact.theorem_one import counted_risks, outcomes, random_case
from support.sampling import (
    Bernoulli,
    Compensated,
    FullBatch,
    GaussianCovariance,
    GaussianFisher,
    MiniBatch,
    Rademacher,
    SparseCovariance,
    SparseFisher,
)


def rational(values):
    return np.array(values, dtype=object) * Fraction(1)


X, Y, START, LR = rational([[1, 0], [1, 2], [-1, 1]]), rational([1, 0, 2]), rational([0, 1]), Fraction(1, 10)
POPULATION = FinitePopulation(X, Y, rational([Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)]))


@pytest.mark.parametrize(
    "law",
    [MiniBatch(3, 2), MiniBatch(3, 2, replace=False), Bernoulli(3, 2), Rademacher(2, 2), FullBatch(2, 1)],
    ids=lambda law: f"{law.name}-{law.replace}",
)
def test_propagation_equals_the_enumeration_of_all_paths_in_rationals(law):
    ours = risks(POPULATION, fresh(law), LR, START, 2)
    for k in range(3):
        assert (ours.last[k], ours.averaged[k]) == counted_risks(
            POPULATION, outcomes(POPULATION, law.atoms()), LR, START, k
        )
    assert all(isinstance(value, Fraction) for row in ours for value in row)


@pytest.mark.parametrize(
    "law",
    [MiniBatch(3, 2), MiniBatch(3, 2, replace=False), GaussianFisher(3, 1), Compensated(3, 1, 2)],
    ids=lambda law: law.name,
)
def test_a_fixed_training_set_is_a_population(law):
    population = FinitePopulation(X, Y)
    floor = (population.residuals**2).sum() / 6
    ours = risks(population, fixed(law), LR, START, 6)
    assert [value + floor for value in ours.last] == list(expected_losses(X, Y, law, LR, START, 6))


def test_floats_agree_with_rationals_and_singular_second_moments_are_reduced():
    """A doubled column: Σ is singular, θ* is the shortest minimiser, and the risk is the same from any start with the
    same part in the range.
    """
    doubled = np.hstack([X, X[:, :1]])
    exact = FinitePopulation(doubled, Y)
    start = rational([0, 1, 3])
    ours = FinitePopulation(doubled.astype(float), Y.astype(float))
    np.testing.assert_allclose(ours.optimum, exact.optimum.astype(float), rtol=1e-12)
    np.testing.assert_allclose(
        ours.optimum, np.linalg.lstsq(doubled.astype(float), Y.astype(float), rcond=None)[0], rtol=1e-10
    )
    for a, b in zip(
        risks(ours, matched(2), 0.1, start.astype(float), 8), risks(exact, matched(2), LR, start, 8), strict=True
    ):
        np.testing.assert_allclose(a, b.astype(float), rtol=1e-11)
    shifted = start + rational([1, 0, -1])
    assert exact.rank == ours.rank == 2
    assert list(risks(exact, matched(2), LR, shifted, 3).averaged) == list(
        risks(exact, matched(2), LR, start, 3).averaged
    )
    inside = ours.optimum + ours.error_of(start.astype(float))
    constants = [bound(ours, matched(2), 0.1, point).C2 for point in (start.astype(float), inside)]
    assert constants[0] == pytest.approx(constants[1])
    assert (exact.inputs.T @ exact.residuals == 0).all()


@given(b=st.integers(1, 6), extra=st.integers(0, 8))
def test_theorem_ones_covariance_is_sgds_whatever_B(b, extra):
    B = max(b + extra, 2)
    wanted = BatchNoise(Fraction(1, b), Fraction(0))
    assert matched(b, B) == wanted == matched(b)
    laws = [GaussianCovariance(B, b, replace=False), SparseCovariance(B, b, B, replace=False)]
    assert all(fresh(law) == wanted for law in laws)


def test_other_covariances():
    b, B = 2, 5
    assert fresh(MiniBatch(B, b)).strength == Fraction(1, b) + Fraction(1, B) - Fraction(1, b * B)
    assert (fresh(GaussianFisher(B, b)).strength, fresh(GaussianFisher(B, b)).jitter) == (
        Fraction(1, b) + Fraction(1, B),
        Fraction(1, b),
    )
    assert fresh(SparseFisher(B, b, 3)) == fresh(GaussianFisher(B, b))
    assert fixed(MiniBatch(B, b)) == matched(b)
    assert fixed(MiniBatch(B, B, replace=False)) == BatchNoise(0, 0)
    assert fresh(FullBatch(B, 1)) == matched(B)


GAUSS = GaussianPopulation(np.array([[1.0, 0.3, 0], [0.3, 0.5, 0.1], [0, 0.1, 0.2]]), [1, -1, 2], 0.3)


def test_isserlis():
    """Against Gauss-Hermite quadrature, exact for polynomials of this degree."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    grid = np.array(np.meshgrid(nodes, nodes, nodes)).reshape(3, -1).T
    p = np.prod(np.array(np.meshgrid(weights, weights, weights)).reshape(3, -1), axis=0)
    x = grid @ np.linalg.cholesky(GAUSS.second_moment).T
    finite = FinitePopulation(x, x @ GAUSS.optimum, p / p.sum())
    A = np.array([[1.0, 2, 0], [2, -1, 1], [0, 1, 3]])
    np.testing.assert_allclose(GAUSS.fourth(A), finite.fourth(A), atol=1e-12)
    np.testing.assert_allclose(GAUSS.radius, finite.radius, rtol=1e-12)
    noiseless = GAUSS.noiseless()
    ours, theirs = (risks(population, matched(2), 0.2, np.zeros(3), 30) for population in (noiseless, finite))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


@pytest.mark.parametrize(
    "law",
    [GaussianCovariance(6, 2, replace=False), GaussianFisher(4, 2), FullBatch(2, 1)],
    ids=["matched", "Fisher", "SGD"],
)
def test_simulation_agrees_within_five_standard_errors(law):
    population, theta = FinitePopulation(X.astype(float), Y.astype(float), [0.5, 0.3, 0.2]), np.array([1.0, -2.0])
    mean, error = simulated(population, law, 0.2, theta, [0, 3, 15], 20_000, np.random.default_rng(7))
    exact = risks(population, fresh(law), 0.2, theta, 15).averaged[[0, 3, 15]]
    assert (np.abs(mean - exact) <= 5 * error + 1e-12).all()
    assert (error[1:] < 0.1 * mean[1:]).all()


@given(seed=st.integers(0, 10**9), well=st.booleans(), n=st.integers(0, 80))
@settings(max_examples=150, deadline=None)
def test_the_corrected_bound_holds_over_random_laws(seed, well, n):
    population, noise, lr, theta = random_case(np.random.default_rng(seed), well)
    averaged = risks(population, noise, lr, theta, n).averaged
    k = np.arange(n + 1)
    assert (averaged <= bound(population, noise, lr, theta)(k) * (1 + 1e-9)).all()
    assert (averaged <= bound(population, noise, lr, theta, "minkowski")(k) * (1 + 1e-9)).all()
    if well:
        assert population.well_specified


@given(seed=st.integers(0, 10**9), p=st.floats(0, 1.5), j=st.floats(0, 0.5), n=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_the_bound_holds_for_any_noise_and_noise_never_lowers_the_risk(seed, p, j, n):
    population, _, _, theta = random_case(np.random.default_rng(seed), False)
    noise = BatchNoise(p, j)
    lr = 0.9 * lr_limit(population, noise)
    ours = risks(population, noise, lr, theta, n)
    assert (ours.averaged <= bound(population, noise, lr, theta)(np.arange(n + 1)) * (1 + 1e-9)).all()
    for less in (BatchNoise(p / 2, j), BatchNoise(p, j / 2), BatchNoise(0, 0)):
        quieter = risks(population, less, lr, theta, n)
        assert (quieter.averaged <= ours.averaged * (1 + 1e-9) + 1e-15).all()
        assert (quieter.last <= ours.last * (1 + 1e-9) + 1e-15).all()


@given(seed=st.integers(0, 10**9), well=st.booleans())
@settings(max_examples=30, deadline=None)
def test_exact_constants_are_the_risk_up_to_an_exponentially_small_term(seed, well):
    population, noise, lr, theta = random_case(np.random.default_rng(seed), well)
    rate = max(1 - lr * population.spectrum[0][0], growth_of(population, noise, lr))
    if rate > 0.97:
        return
    n = math.ceil(math.log(1e-11) / math.log(rate)) + 5
    expected = exact_constants(population, noise, lr, theta)(n)
    assert risks(population, noise, lr, theta, n).averaged[-1] == pytest.approx(expected, rel=1e-6)


def growth_of(population, noise, lr):
    """Spectral radius of the second moment's map, from its matrix."""
    d = len(population.optimum)
    sigma, columns = population.second_moment, []
    for i in range(d):
        for j in range(d):
            A = np.zeros((d, d))
            A[i, j] = 1
            fourth = (
                population.inputs.T * (population.probabilities * ((population.inputs @ A) * population.inputs).sum(1))
            ) @ population.inputs
            columns.append(
                (
                    A
                    - lr * (sigma @ A + A @ sigma)
                    + lr**2 * (float(noise.strength) * fourth + float(noise.pairs) * sigma @ A @ sigma)
                ).ravel()
            )
    return float(np.abs(np.linalg.eigvals(np.array(columns))).max())


def test_inverse_T_solves_its_equation_and_a_gaussian_frame_is_the_dense_one():
    population, noise, lr, _ = random_case(np.random.default_rng(5))
    M = inverse_T(population, noise, lr, population.frame.identity)
    frame = population.frame
    back = (
        frame.left(M)
        + frame.left(M).T
        - lr * (float(noise.strength) * frame.spread(M) + float(noise.pairs) * frame.left(frame.left(M).T))
    )
    np.testing.assert_allclose(back, np.eye(population.rank), atol=1e-9)
    assert growth_of(population, noise, lr) < 1
    law = MiniBatch(4, 2)
    training_set = FinitePopulation(np.arange(8.0).reshape(4, 2) / 5, np.ones(4))
    assert growth_of(training_set, fixed(law), 0.3) == pytest.approx(growth(training_set.inputs, law, 0.3))


@pytest.mark.parametrize("population", [GAUSS, FinitePopulation(X.astype(float), Y.astype(float), [0.5, 0.3, 0.2])])
def test_beyond_the_theorems_range_up_to_the_stability_limit(population):
    """Between 2/κ and the limit the risks converge: T⁻¹ and the exact constants are there, the bound is not."""
    noise, theta = matched(2), np.full(len(population.optimum), 2.0)
    limit = stability_limit(population, noise)
    lr = (limit + lr_limit(population, noise)) / 2
    assert lr > lr_limit(population, noise) * 1.005 and growth(population, noise, lr) < 0.99
    assert growth(population, noise, limit) == pytest.approx(1)
    n = 4000
    risk = risks(population, noise, lr, theta, n).averaged[-1]
    assert risk == pytest.approx(exact_constants(population, noise, lr, theta)(n), rel=1e-9)
    with pytest.raises(ValueError, match="outside the theorem's range"):
        bound(population, noise, lr, theta)
    with pytest.raises(ValueError, match="is not stable"):
        exact_constants(population, noise, 1.001 * limit, theta)


def test_the_last_moment_has_the_risks_in_it_and_is_what_paths_give():
    """In rationals against every path of two steps; its trace and its product with Σ against the scalars."""
    weights, theta = list(MiniBatch(3, 2, replace=False).atoms()), START
    steps = outcomes(POPULATION, weights)
    ours = last_moment(POPULATION, matched(2), LR, theta, 2)
    moment = 0
    for one in steps:
        for two in steps:
            error = POPULATION.error_of(theta)
            for step in (one, two):
                error = error - LR * (step.L @ error - step.N)
            moment = moment + one.probability * two.probability * np.outer(error, error)
    assert (ours == moment).all()
    for population in (GAUSS, POPULATION):
        start = np.arange(len(population.optimum))
        seen = risks(population, matched(2), Fraction(1, 5), start, 7)
        moment = last_moment(population, matched(2), Fraction(1, 5), start, 7)
        assert np.trace(moment) == pytest.approx(seen.distance[-1])
        assert np.sum(population.second_moment * moment) / 2 == pytest.approx(seen.last[-1])


def test_an_excess_risk_and_the_least_loss_make_the_loss():
    law, lr = MiniBatch(3, 2), Fraction(1, 7)
    training_set = FinitePopulation(X, Y)
    excess = risks(training_set, fixed(law), lr, START, 4).last
    assert [value + training_set.least_loss for value in excess] == list(expected_losses(X, Y, law, lr, START, 4))
    assert GAUSS.least_loss == 0.15


def test_coordinates_of_a_frame_lead_back():
    """T of the matrix that T⁻¹I stands for is the identity, in the coordinates of θ."""
    matrix = np.array([[2.0, 1.0], [1.0, 3.0]])
    turned = FinitePopulation(np.linalg.cholesky(matrix).T * math.sqrt(2), np.ones(2))
    gaussian, noise, lr = GaussianPopulation(matrix), matched(2), 0.05
    for population in (turned, gaussian):
        M = population.frame.back(inverse_T(population, noise, lr, population.frame.identity))
        sigma, p, q = population.second_moment, float(noise.strength), float(noise.pairs)
        image = sigma @ M + M @ sigma - lr * (p * population.fourth(M) + q * sigma @ M @ sigma)
        np.testing.assert_allclose(image, np.eye(2), atol=1e-10)
    exact = POPULATION.frame
    assert (exact.back(exact.outer(exact.into(START))) == np.outer(START, START)).all()


def test_the_kronecker_route_gives_the_same_second_moment():
    x = np.random.default_rng(2).standard_normal((7, 3))
    population, noise, theta = FinitePopulation(x, x.sum(1)), BatchNoise(0.3, 0.1), np.array([2.0, 0, -1])
    start = theta - population.optimum
    after = np.linalg.matrix_power(kronecker_map(population, noise, 0.1), 9) @ np.outer(start, start).ravel()
    assert risks(population, noise, 0.1, theta, 9).last[-1] == pytest.approx(
        np.sum(population.second_moment.ravel() * after) / 2, rel=1e-10
    )


def test_two_hundred_dimensions():
    """Against the recursion written with dense matrices; large enough for numpy to reuse the memory of what it takes
    for temporaries.
    """
    rng, d, lr = np.random.default_rng(3), 200, 0.01
    x, theta, noise = rng.standard_normal((300, d)), rng.standard_normal(d), matched(3)
    population = FinitePopulation(x, x.sum(1) + rng.standard_normal(300))
    ours = risks(population, noise, lr, theta, 3)
    sigma, mean, e = population.second_moment, theta - population.optimum, population.residuals
    second = np.outer(mean, mean)
    for k in range(4):
        assert ours.last[k] == pytest.approx(np.sum(sigma * second) / 2, rel=1e-9)
        gradients = (x.T * (((x @ second) * x).sum(1) - 2 * e * (x @ mean) + e**2)) @ x / 300
        second = (
            second - lr * (sigma @ second + second @ sigma) + lr**2 * (gradients / 3 + 2 / 3 * sigma @ second @ sigma)
        )
        mean = mean - lr * sigma @ mean


def test_bounds_in_one_dimension_by_hand():
    """x = 1 with probability 1/10, else 0; y = 0; θ_0 = 1: the printed C2 is 15/2, the true limit 19/2, the corrected
    C2 20/2.
    """
    population, noise, start = FinitePopulation([[1.0], [0.0]], [0.0, 0.0], [0.1, 0.9]), matched(1), np.ones(1)
    assert kappa(population, noise) == pytest.approx(1)
    found = [
        form.C2
        for form in (bound(population, noise, 1.0, start, "printed"), exact_constants(population, noise, 1.0, start))
    ]
    assert found == pytest.approx([7.5, 9.5])
    found = bound(population, noise, 1.0, start, "additive").C2
    assert found == pytest.approx(10)
    assert risks(population, noise, 1.0, start, 50).averaged[-1] * 51**2 > 7.5


@pytest.mark.parametrize("d", [1, 8])
@pytest.mark.parametrize("b", [1, 4])
def test_the_bound_on_the_noise_is_nearly_attained(d, b):
    """One of d unit vectors and a sign for the residual: R² = σ² = 1, λ = 1/d, and c₁ = (1 − η/2d) C₁ exactly."""
    population = FinitePopulation(np.repeat(np.eye(d), 2, axis=0), np.tile([1.0, -1.0], d))
    lr = 0.7 * 2 * b / (1 + (b - 1) / d)
    limit = bound(population, matched(b), lr, np.zeros(d)).C1
    assert limit == pytest.approx(d / b / (2 - 1.4), rel=1e-12)
    found = exact_constants(population, matched(b), lr, np.zeros(d)).C1
    assert found == pytest.approx((1 - lr / (2 * d)) * limit, rel=1e-10)


def test_a_residual_tied_to_x_breaks_the_additive_form_and_not_minkowskis():
    """One input in a hundred is 1, the others 1/20; the residual is ε = 1 there and small and negative elsewhere, so
    that E εx = 0.
    """
    tied = FinitePopulation([[1.0], [0.05]], [1.0, -0.01 / (0.99 * 0.05)], [0.01, 0.99])
    np.testing.assert_allclose(tied.optimum, 0, atol=1e-12)
    assert not tied.well_specified
    start, noise, n = np.array([-5.0]), matched(1), 426
    risk = risks(tied, noise, 1.5, start, n).averaged[-1]
    assert risk > 1.2 * bound(tied, noise, 1.5, start, "additive")(n)
    assert bound(tied, noise, 1.5, start).minkowski
    assert risk < bound(tied, noise, 1.5, start)(n)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: matched(3, 2), "b = 3 exceeds B = 2"),
        (lambda: matched(1, 1), "B = 1 makes the covariance"),
        (lambda: BatchNoise(-0.1), "strength = -0.1 is out of range"),
        (lambda: BatchNoise(0.1, math.nan), "jitter = nan is out of range"),
        (
            lambda: simulated(POPULATION, FullBatch(2, 1), 0.1, START, [1], 1, np.random.default_rng(0)),
            "runs = 1 is out of range: a standard error needs at least 2 runs",
        ),
        (lambda: risks(POPULATION, matched(1), 0, START, 1), "lr = 0 is out of range: give a finite number above 0"),
        (lambda: risks(POPULATION, matched(1), LR, START, -1), "steps = -1 is out of range: give at least 0"),
        (
            lambda: risks(POPULATION, matched(1), LR, START[:1], 1),
            r"theta of shape \(1,\) cannot be taken: give an array of numbers of shape \(2,\)",
        ),
        (lambda: risks(GAUSS, matched(1), 0.1, [0.0, math.inf, 0.0], 1), "1 of 3 theta are not finite"),
        (
            lambda: bound(GAUSS, matched(1), 5.0, np.zeros(3)),
            "lr = 5.0 is outside the theorem's range: choose 0 < lr < 2/κ = ",
        ),
        (lambda: bound(GAUSS, matched(1), -1.0, np.zeros(3)), "lr = -1.0 is out of range"),
        (
            lambda: bound(GAUSS, matched(1), 0.1, np.zeros(3), "best"),
            "form = 'best' is unknown: choose corrected, additive",
        ),
        (
            lambda: exact_constants(GAUSS, matched(1), 5.0, np.zeros(3)),
            "lr = 5.0 is not stable: second moments stay bounded below",
        ),
        (lambda: inverse_T(POPULATION, matched(1), 0.1, None), "T⁻¹ is computed in floating point"),
        (lambda: FinitePopulation(np.ones(3), np.ones(3)), r"inputs of shape \(3,\) cannot be taken"),
        (lambda: FinitePopulation(np.ones((3, 1)), [1, math.nan, 0]), "1 of 3 targets are not finite"),
        (lambda: FinitePopulation(np.ones((2, 1)), [1, 0], [0.5, 0.6]), "sum to 1.1"),
        (lambda: FinitePopulation(X, Y, rational([2, -1, 0])), "give 3 numbers ≥ 0 with sum 1"),
        (lambda: FinitePopulation(np.zeros((2, 1)), [1, 0]), "all inputs are zero"),
        (lambda: GaussianPopulation(np.zeros((2, 2))), "covariance is zero"),
        (lambda: GaussianPopulation(np.diag([1.0, -1.0])), "covariance has the negative eigenvalue -1"),
        (lambda: GaussianPopulation([[1.0, 1.0], [0.0, 1.0]]), "is not a symmetric matrix"),
        (
            lambda: GaussianPopulation(np.eye(2), degrees=4.0),
            "fourth moments of Student's t exist only for more than 4 degrees",
        ),
        (lambda: GaussianPopulation(np.eye(2), variance=-1.0), "variance = -1.0 is out of range"),
        (lambda: GaussianPopulation(np.eye(2), [1.0]), r"optimum of shape \(1,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_risk_beyond_floating_point_is_an_error():
    with pytest.raises(FloatingPointError, match="the risk exceeds floating point at step"):
        risks(GAUSS, matched(1), 50.0, np.zeros(3), 400)
