"""Fourth moments on a regression, against enumeration of all paths and powers of one random factor."""

from fractions import Fraction

import numpy as np
import pytest

from support.exact.higher_moments import loss_moments
from support.exact.least_squares import expected_losses
from support.exact.mixtures import Mixture
from support.exact.recipes import menagerie, parts
from support.sampling import Compensated, GaussianCovariance, MiniBatch, Rademacher, SparseCovariance

X = np.array([[1, 0], [1, 2], [-1, 1], [3, 1]], dtype=object) * Fraction(1)
Y = np.array([1, 2, 0, 1], dtype=object) * Fraction(1)
START = np.array([0, 1], dtype=object) * Fraction(1)


def by_paths(law, lr, theta, steps):
    """E L and E L² along every path."""
    if steps == 0:
        loss = sum((X @ theta - Y) ** 2) / 8
        return np.array([loss, loss**2])
    after = (
        p * by_paths(law, lr, theta - lr * (X.T @ (np.array(w) * (X @ theta - Y))), steps - 1) for p, w in law.atoms()
    )
    return sum(after)


@pytest.mark.parametrize("law", [MiniBatch(4, 2), MiniBatch(4, 3, replace=False)], ids=str)
def test_fourth_moments_equal_enumeration_in_rationals(law):
    ours = list(loss_moments(X, Y, law, Fraction(1, 10), START, 2))
    for k in range(3):
        assert np.array_equal(ours[k], by_paths(law, Fraction(1, 10), START, k))
    floats = list(loss_moments(X.astype(float), Y.astype(float), law, 0.1, START.astype(float), 2))
    np.testing.assert_allclose(floats, np.array(ours, dtype=float), rtol=1e-12)


@pytest.mark.parametrize("replace", [True, False])
def test_classes_of_one_covariance_share_the_mean_and_not_the_spread(replace):
    laws = [law for law in menagerie(4, 2, 3, replace=replace).values() if law.covariance == law.sgd_covariance]
    data = X.astype(float), Y.astype(float)
    curves = np.array([list(loss_moments(*data, law, 0.1, START.astype(float), 5)) for law in laws])
    expected = list(expected_losses(*data, laws[0], 0.1, START.astype(float), 5))
    np.testing.assert_allclose(curves[:, :, 0], np.tile(expected, (len(laws), 1)), rtol=1e-11)
    assert len(laws) == 4
    assert len({round(value, 9) for value in curves[:, 5, 1]}) == 4


FIVE = [
    GaussianCovariance(5, 2),
    SparseCovariance(5, 2, 3),
    Compensated(5, 2, 4),
    Compensated(5, 2, 4, "fisher"),
    MiniBatch(5, 2),
]


@pytest.mark.parametrize("law", FIVE, ids=str)
def test_fourth_moments_in_one_dimension_are_powers_of_that_of_the_factor(law):
    x = np.array([1, 2, 0, 1, 3], dtype=object) * Fraction(1)
    lr = Fraction(1, 7)
    mean = sum(x**2) / 5
    f = Mixture(tuple((p, 1 - lr * (mean + m), lr * lr * s) for p, m, s in parts(law, x**2)))
    ours = list(loss_moments(x[:, None], 0 * x, law, lr, np.array([Fraction(2)]), 3))
    assert ours == [(mean / 2 * 4 * f.moment(2) ** k, (mean / 2) ** 2 * 16 * f.moment(4) ** k) for k in range(4)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss_moments(X, Y, MiniBatch(5, 2), 0.1, START, 2), "for n = 5"),
        (lambda: loss_moments(X, Y[:3], MiniBatch(4, 2), 0.1, START, 2), "targets"),
        (lambda: loss_moments(X, Y, Rademacher(4, 1), 0.1, START, 2), "signs"),
        (lambda: loss_moments(np.ones((3, 5)), np.ones(3), MiniBatch(3, 1), 0.1, np.ones(5), 2), "d ≤ 4"),
        (lambda: loss_moments(X, Y, MiniBatch(4, 2), 0.1, START, -1), "steps"),
    ],
)
def test_bad_input_is_refused_at_once(call, message):
    with pytest.raises(ValueError, match=message):
        call()
