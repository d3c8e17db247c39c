"""Exact second-moment propagation against brute-force enumeration in rationals, and stability limits."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.exact.batch_noise import BatchNoise, fixed, matched
from support.exact.least_squares import expected_losses, growth, stability_limit
from support.exact.populations import FinitePopulation, GaussianPopulation
from support.sampling import (
    Bernoulli,
    Compensated,
    FullBatch,
    GaussianCovariance,
    GaussianFisher,
    MiniBatch,
    Rademacher,
    SparseCovariance,
)

X = np.array([[1, 0], [1, 2], [-1, 1], [3, 1]], dtype=object) * Fraction(1)
Y = np.array([1, 2, 0, 1], dtype=object) * Fraction(1)
START = np.array([0, 1], dtype=object) * Fraction(1)


def loss(theta):
    return sum((X @ theta - Y) ** 2) / 8


def enumerate_losses(law, lr, theta, steps):
    """E L(θ_k) by following every path."""
    total = Fraction(0)
    if steps == 0:
        return loss(theta)
    for probability, w in law.atoms():
        after = theta - lr * (X.T @ (np.array(w, dtype=object) * (X @ theta - Y)))
        total += probability * enumerate_losses(law, lr, after, steps - 1)
    return total


@pytest.mark.parametrize(
    "law",
    [MiniBatch(4, 2), MiniBatch(4, 3, replace=False), Bernoulli(4, 2), Rademacher(4, 1), FullBatch(4, 1)],
    ids=str,
)
def test_propagation_equals_enumeration_in_rationals(law):
    lr = Fraction(1, 10)
    ours = list(expected_losses(X, Y, law, lr, START, 2))
    assert ours == [enumerate_losses(law, lr, START, k) for k in range(3)]
    assert all(isinstance(value, Fraction) for value in ours)


@pytest.mark.parametrize("replace", [True, False])
def test_laws_of_one_covariance_lie_on_one_curve(replace):
    laws = [MiniBatch(4, 2, replace=replace), GaussianCovariance(4, 2, replace=replace)]
    laws += [SparseCovariance(4, 2, 3, replace=replace), Compensated(4, 2, 4, replace=replace)]
    curves = {tuple(expected_losses(X, Y, law, Fraction(1, 5), START, 4)) for law in laws}
    assert len(curves) == 1


def test_floats_agree_with_rationals():
    exact = [float(v) for v in expected_losses(X, Y, GaussianFisher(4, 2), Fraction(1, 10), START, 20)]
    ours = list(expected_losses(X.astype(float), Y.astype(float), GaussianFisher(4, 2), 0.1, START.astype(float), 20))
    np.testing.assert_allclose(ours, exact, rtol=1e-12)


def test_stability_limits_in_one_dimension():
    x = np.array([[1.0], [2.0], [0.5], [1.5]])
    m2, m4 = (x**2).mean(), (x**4).mean()
    assert stability_limit(x, MiniBatch(4, 2)) == pytest.approx(2 * m2 / (m2**2 + (m4 - m2**2) / 2))
    assert stability_limit(x, GaussianFisher(4, 2)) == pytest.approx(2 * m2 / (m2**2 + m4 / 2))
    assert stability_limit(np.ones((4, 1)), GaussianFisher(4, 1)) == pytest.approx(1.0)  # identical samples: 2b/(b+1)
    assert stability_limit(np.ones((4, 1)), MiniBatch(4, 1)) == pytest.approx(2.0)
    assert growth(x, MiniBatch(4, 2), stability_limit(x, MiniBatch(4, 2))) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "law", [FullBatch(4, 2), MiniBatch(4, 2), GaussianFisher(4, 2), Bernoulli(4, 2)], ids=lambda law: law.name
)
def test_the_limit_separates_decay_from_growth(law):
    """Consistent data, so that the loss itself decays below the limit and grows above it."""
    features = X.astype(float)
    consistent = features @ np.array([0.3, -0.7])
    limit = stability_limit(features, law)
    below, above = (
        list(expected_losses(features, consistent, law, factor * limit, np.array([2.0, 1.0]), 400))
        for factor in (0.97, 1.03)
    )
    assert below[-1] < 1e-2 * below[0]
    assert above[-1] > 1e2 * above[200]
    assert growth(features, law, limit) == pytest.approx(1.0, abs=1e-8)
    assert limit <= stability_limit(features, FullBatch(4, 2)) * (1 + 1e-9)


@pytest.mark.parametrize("law", [GaussianFisher(40, 3), MiniBatch(40, 3)], ids=lambda law: law.name)
def test_the_limit_in_more_dimensions_is_where_growth_is_one(law):
    """Lanczos (d > 4) against the dense map of the second moment; a direction without data does not count."""
    features = np.random.default_rng(0).standard_normal((40, 6))
    limit = stability_limit(features, law)
    assert growth(features, law, limit) == pytest.approx(1.0, abs=1e-7)
    assert stability_limit(np.hstack([features, np.zeros((40, 1))]), law) == pytest.approx(limit, rel=1e-9)


def test_populations_have_limits_too():
    """A training set as a population; Gaussian inputs of one dimension by hand: fourth moment 3, so 2/(3p + q)."""
    features, law = X.astype(float), GaussianFisher(4, 2)
    population = FinitePopulation(features, np.arange(4.0))
    assert stability_limit(population, fixed(law)) == pytest.approx(stability_limit(features, law), rel=1e-12)
    assert stability_limit(FinitePopulation(X, Y), fixed(law)) == pytest.approx(stability_limit(X.tolist(), law))
    assert growth(population, fixed(law), 0.2) == pytest.approx(growth(features, law, 0.2), rel=1e-12)
    one = GaussianPopulation([[2.0]])
    assert stability_limit(one, matched(4)) == pytest.approx(1 / (3 / 4 + 3 / 4))
    assert growth(one, matched(4), 0.1) == pytest.approx(1 - 0.4 + 0.01 * (3 / 4 * 4 + 3 / 4 * 4))


def test_a_gaussian_limit_is_that_of_many_atoms():
    """Gauss-Hermite atoms have the fourth moments of the Gaussian; their frame keeps whole matrices, d = 3."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    grid = np.array(np.meshgrid(nodes, nodes, nodes)).reshape(3, -1).T
    p = np.prod(np.array(np.meshgrid(weights, weights, weights)).reshape(3, -1), axis=0)
    scale = np.sqrt([2.0, 1.0, 0.3])
    atoms = FinitePopulation(grid * scale, np.zeros(27), p / p.sum())
    gaussian = GaussianPopulation(np.diag(scale**2))
    for noise in (matched(1), matched(5), BatchNoise(0.2, 0.3)):
        assert stability_limit(gaussian, noise) == pytest.approx(stability_limit(atoms, noise), rel=1e-9)
        assert growth(gaussian, noise, 0.2) == pytest.approx(growth(atoms, noise, 0.2), rel=1e-9)


def test_lists_are_taken():
    law = MiniBatch(4, 2)
    ours = list(expected_losses(X.tolist(), Y.tolist(), law, Fraction(1, 10), [0, 1], 2))
    assert ours == list(expected_losses(X, Y, law, Fraction(1, 10), START, 2)) and isinstance(ours[-1], Fraction)


@given(seed=st.integers(0, 10**6), b=st.integers(1, 12), d=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_fisher_noise_lowers_the_limit_by_at_most_one_part_in_b_plus_one(seed, b, d):
    features = np.random.default_rng(seed).standard_normal((12, d))
    covariance, fisher = (stability_limit(features, law(12, b)) for law in (GaussianCovariance, GaussianFisher))
    assert b / (b + 1) * covariance <= fisher * (1 + 1e-9)
    assert fisher <= covariance * (1 + 1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_losses(X, Y, MiniBatch(5, 2), Fraction(1, 2), START, 1), "n = 5 samples, the data has 4"),
        (
            lambda: expected_losses(X, Y[:3], MiniBatch(4, 2), Fraction(1, 2), START, 1),
            r"targets of shape \(3,\) cannot be taken: .*\(4,\)",
        ),
        (lambda: expected_losses(X, Y, MiniBatch(4, 2), Fraction(1, 2), START, -1), "steps = -1"),
        (lambda: stability_limit(np.zeros((4, 2)), MiniBatch(4, 2)), "all features are zero"),
        (lambda: stability_limit(np.full((4, 2), np.nan), MiniBatch(4, 2)), "8 of 8 features are not finite"),
        (
            lambda: stability_limit(np.ones(4), MiniBatch(4, 2)),
            r"features of shape \(4,\) cannot be taken: give an array of numbers of shape \(n, d\)",
        ),
        (lambda: growth(np.ones((4, 2)), MiniBatch(5, 2), 0.1), "n = 5 samples, the data has 4"),
        (lambda: stability_limit(np.ones((4, 2)), MiniBatch(5, 2)), "n = 5 samples, the data has 4"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
