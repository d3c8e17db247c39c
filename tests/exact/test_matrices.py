"""Common eigenbases, also of matrices with repeated eigenvalues, and what has none."""

import math

import numpy as np
import pytest

from support.errors import Refused
from support.exact.matrices import commuting, first_edge, multiple, positive, ridge, shared_axes, symmetric


def test_three_matrices_with_repeated_eigenvalues_have_their_axes_found():
    """No one of them, and no two, tells all axes apart."""
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((4, 4)))[0]
    spectra = np.array([[1.0, 1.0, 2.0, 2.0], [3.0, 4.0, 3.0, 3.0], [0.0, 0.0, 0.0, -5.0]])
    axes = shared_axes([(turn * values) @ turn.T for values in spectra])
    match = np.abs(axes.T @ turn)
    np.testing.assert_allclose(match @ match.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(np.sort(match, axis=1), np.eye(4)[[3, 3, 3, 3]], atol=1e-10)


def test_matrices_that_do_not_commute_have_none():
    one, other = np.diag([1.0, 2.0]), np.array([[1.0, 1e-6], [1e-6, 1.0]])
    assert shared_axes([one, other]) is None
    assert shared_axes([one, np.array([[1.0, 1.0], [0.0, 1.0]])]) is None  # not symmetric
    with pytest.raises(Refused, match="features and lr do not commute"):
        commuting(features=one, lr=other)


def test_zero_commutes_with_everything():
    axes = shared_axes([np.zeros((2, 2)), np.array([[0.0, 1.0], [1.0, 0.0]])])
    np.testing.assert_allclose(np.abs(axes), np.sqrt(0.5) * np.ones((2, 2)))


def test_rounding_is_no_negative_eigenvalue():
    x = np.random.default_rng(1).standard_normal((3, 7))
    assert positive("features", x.T @ x).shape == (7, 7)  # of rank 3


def test_the_first_edge_is_a_root_or_a_pole():
    """Without noise the pole; with it below the pole, at the root of a quadratic; in many directions 2b/(a(d+b+1))."""
    assert first_edge([1.0, 4.0], [0.0, 0.0], 2.0) == 0.5
    assert first_edge([1.0, 4.0], [0.5, 0.0], 2.0) == 0.5  # f/2 = 2 − f at 4/3 only
    assert first_edge([0.0], [0.5], 2.0) == 4.0
    assert first_edge(np.full(7, 1 + 1 / 4), np.full(7, 1 / 4), 2.0) == pytest.approx(2 * 4 / (7 + 4 + 1), rel=1e-13)
    # 0.5f/(2 − f) + 0.25f/(2 − 2f) = 1
    assert first_edge([1.0, 2.0], [0.5, 0.25], 2.0) == pytest.approx((7.5 - math.sqrt(4.25)) / 6.5, rel=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: symmetric("lr", [[1.0, 0.0]]), "lr of shape"),
        (lambda: symmetric("lr", np.eye(2), 3), r"\(3, 3\)"),
        (lambda: multiple("lr", 0.0, 2, above=0), "lr = 0.0 is out of range"),
        (lambda: ridge(np.eye(2), -1.0, [1.0, 1.0]), "K = A \\+ Γ is singular"),
        (lambda: ridge(np.eye(2), 1.0, [1.0]), "target of shape"),
        (lambda: positive("blur", np.diag([1.0, -1e-6])), "blur has the negative eigenvalue -1e-06"),
        (lambda: positive("blur", np.ones((2, 2)), strictly=True), "blur has the eigenvalue 0"),
        (lambda: first_edge([0.0], [0.0], 2.0), "there is no edge"),
    ],
)
def test_what_is_no_such_matrix_is_refused(call, message):
    with pytest.raises(Refused, match=message):
        call()
