"""Blurred data sets against atoms with the Gaussian noise's moments up to the fourth: three nodes a direction."""

import itertools
import math

import numpy as np
import pytest

from support.errors import Refused
from support.exact.batch_noise import fixed, matched
from support.exact.blurred import BlurredPopulation
from support.exact.least_squares import stability_limit
from support.exact.populations import FinitePopulation
from support.exact.second_moments import Descent
from support.exact.stationary import growth, stationary
from support.sampling import MiniBatch

X, Y = np.array([[1.0, 0.2], [-0.4, 1.1], [0.7, -0.9]]), np.array([1.0, 0.3, -0.5])
P, BLUR, VARIANCE = np.array([0.5, 0.3, 0.2]), np.array([[0.3, -0.1], [-0.1, 0.2]]), 0.4
BLURRED = BlurredPopulation(FinitePopulation(X, Y, P), BLUR, VARIANCE)


def atoms():
    """Every atom with every node of ν and either sign of the label's noise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weights, root, rows = weights / weights.sum(), np.linalg.cholesky(BLUR), []
    for i, k, sign in itertools.product(range(3), itertools.product(range(3), repeat=2), (1, -1)):
        chance = P[i] * math.prod(weights[list(k)]) / 2
        rows.append((*(X[i] + root @ nodes[list(k)]), Y[i] + sign * VARIANCE**0.5, chance))
    rows = np.array(rows)
    return FinitePopulation(rows[:, :2], rows[:, 2], rows[:, 3])


def test_its_moments_are_those_of_its_atoms():
    other, m, matrix = atoms(), np.array([0.7, -1.3]), np.array([[0.4, 0.9], [0.9, -0.2]])
    for ours, theirs in [
        (BLURRED.optimum, other.optimum),
        (BLURRED.least_loss, other.least_loss),
        (BLURRED.noise_moment, other.noise_moment),
        (BLURRED.third(m), other.third(m)),
        (BLURRED.fourth(matrix), other.fourth(matrix)),
    ]:
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_its_stationary_moment_is_theirs():
    ours, theirs = (Descent(law, matched(3), 0.3, 0.4, 0.1) for law in (BLURRED, atoms()))
    assert growth(ours) == pytest.approx(growth(theirs), rel=1e-10)
    np.testing.assert_allclose(stationary(ours).covariance, stationary(theirs).covariance, rtol=1e-10)
    assert stationary(ours).loss == pytest.approx(stationary(theirs).loss, rel=1e-12)


def test_noise_makes_directions_without_data_move():
    line = BlurredPopulation(FinitePopulation([[1.0, 0.0]], [1.0]), 0.1 * np.eye(2))
    assert line.rank == 2 and stationary(Descent(line, matched(1), 0.1)).covariance[1, 1] > 0
    still = BlurredPopulation(FinitePopulation([[1.0, 0.0]], [1.0]), np.diag([0.1, 0.0]))
    assert still.rank == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BlurredPopulation(FinitePopulation(X, Y), np.diag([1.0, -1.0])), "no covariance"),
        (lambda: BlurredPopulation(FinitePopulation(X, Y), np.eye(3)), r"shape \(2, 2\)"),
        (lambda: stability_limit(BLURRED, matched(2)), "has no frame"),
        (lambda: Descent(BLURRED, fixed(MiniBatch(3, 2)), 0.1), "3 fixed samples, the population has no training set"),
    ],
)
def test_what_it_cannot_be_is_refused(call, message):
    with pytest.raises(Refused, match=message):
        call()
