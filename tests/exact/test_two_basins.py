"""The toy of two basins: its geometry against the formula in the papers' coordinates, its noise by its factors, its
exact chains against simulation.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from support.errors import Refused
from support.exact import two_basins as toy

CONST, DIAG, LEADING, HESSIAN, FIRST = NOISY = toy.DYNAMICS[1:]
places = st.tuples(st.floats(-2.5, 2.5), st.floats(-1.5, 1.5))


def generator(seed=1):
    return np.random.default_rng(seed)


def official_losses(w, x):
    """One loss a sample, as the authors define it, in (w₁, w₂)."""
    a, c = w - x - 1, w - x + 1
    return torch.minimum(10 * (a[:, 0] - a[:, 1]) ** 2 / 2 + 100 * (a[:, 0] + a[:, 1]) ** 2 / 2, (c**2).sum(1))


def samples(n, seed):
    return toy.plane(toy.SPREAD * generator(seed).standard_normal((n, 2)))


@given(places, st.integers(0, 99))
def test_the_loss_is_the_authors(place, seed):
    w, x = toy.plane(place), samples(7, seed)
    assert toy.loss(w, x) == pytest.approx(float(official_losses(torch.tensor(w), torch.tensor(x)).mean()), rel=1e-12)


def test_minima_and_ridge():
    np.testing.assert_allclose(toy.expected_loss([[1, 1], [-1, -1]]), [0.02, 0.0011], rtol=1e-12)
    np.testing.assert_allclose(toy.expected_loss([[1, 1], [-1, -1]], spread=0), 0, atol=1e-25)
    s = np.linspace(-0.94, 0.94, 9)
    for edge in toy.edges(s):
        sharp, flat = toy.bowls(toy.plane(np.stack([edge, s], axis=-1)), np.zeros(2))
        np.testing.assert_allclose(sharp, flat, rtol=1e-10)
    low, high = toy.edges(0.0)
    assert (toy.ROOT2 - low, high - toy.ROOT2) == (pytest.approx(toy.NEAR), pytest.approx(toy.FAR))
    assert toy.edges(0.95) == (np.inf, -np.inf)


def test_leaving_along_the_diagonal_is_a_coin():
    p, q = norm.sf(toy.NEAR / 0.1), norm.sf(toy.FAR / 0.1)
    assert toy.crossing(FIRST) == pytest.approx(1 - (1 - p - q) ** 500, rel=1e-10)
    assert toy.crossing_closed_form(FIRST) == pytest.approx(1 - (1 - p) ** 500, rel=1e-10)
    assert toy.crossing("GD") == toy.crossing_closed_form("GD") == 0


def test_a_rare_exit_keeps_its_digits():
    """At small noise the ratio to the closed form tends to a number near one; a difference from one would be lost in
    rounding.
    """
    rare = toy.crossing(HESSIAN, 1, 0.0005)
    assert 0 < rare < 1e-30
    assert rare == pytest.approx(norm.sf(toy.NEAR / math.sqrt(0.0005 * 10 / 11)), rel=0.5)
    assert toy.crossing(HESSIAN, 100, 0.0005) == pytest.approx(100 * rare, rel=0.5)


def test_finer_cells_change_little():
    coarse, fine = (toy.arrival(HESSIAN, 150, 0.02, cell=cell) for cell in (0.02, 0.005))
    np.testing.assert_allclose(coarse.start, fine.start, atol=1e-3)
    np.testing.assert_allclose(coarse.ridge, fine.ridge, atol=2e-3)
    assert not toy.arrival("GD", 5).start.any()


@pytest.mark.parametrize("u", [-2.0, 1.1, 1.155, 1.17, 1.4, 1.72, 1.75, 2.0])
def test_expected_gradient_is_the_mean_over_the_samples(u):
    """Against a fine sum over x_u and x_s of the gradient of the lower bowl."""
    x_u, x_s = np.linspace(-0.07, 0.07, 2801), np.linspace(-0.22, 0.22, 401)
    weights = np.outer(norm.pdf(x_u, scale=0.01), norm.pdf(x_s, scale=toy.SPREAD[1]))
    gap_u, gap_s = (u - x_u)[:, None], -x_s[None]
    inside = 100 * (gap_u - toy.ROOT2) ** 2 + 10 * gap_s**2 < (gap_u + toy.ROOT2) ** 2 + gap_s**2
    gradients = np.where(inside, 200 * (gap_u - toy.ROOT2), 2 * (gap_u + toy.ROOT2))
    assert float(toy.expected_gradient_along(u)) == pytest.approx(
        (weights * gradients).sum() / weights.sum(), rel=1e-3, abs=1e-3
    )
    assert float(toy.expected_gradient_along(u, 0.0)) in (200 * (u - toy.ROOT2), 2 * (u + toy.ROOT2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: toy.crossing(CONST, 10, 0.0), "trace = 0.0 is out of range: give a finite number above 0"),
        (lambda: toy.variances(CONST, "middle"), "bowl = 'middle' is unknown: choose sharp, flat"),
        (lambda: toy.arrival_along(10, spread=-1.0), "spread = -1.0 is out of range: give a finite number at least 0"),
        (lambda: toy.arrival("noise"), "dynamics = 'noise' is unknown: choose GD, GLD const"),
        (lambda: toy.arrival(CONST, 5, cell=0.5), "cell = 0.5 is out of range"),
        (lambda: toy.plane([1.0, 2.0, 3.0]), r"points of shape \(3,\) are no points of the plane"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_noise_the_start_rests_and_the_ridge_slides():
    """From the ridge by hand: u ← .99 u − .01 √2 until both coordinates are below −.5, which is after 124 steps."""
    chance = toy.arrival("GD", 500)
    u, step = float(toy.edges(0.0)[0]), 0
    while u >= toy.ROOT2 * toy.REACHED:
        u, step = 0.99 * u - 0.01 * 2**0.5, step + 1
    assert not chance.start.any() and list(chance.ridge) == [0.0] * (step - 1) + [1.0] * (500 - step + 1)
    assert 100 < step < 150


def test_cells_that_are_too_coarse_for_the_noise_are_refused():
    with pytest.raises(Refused, match=r"cell = 0.02 is too coarse for noise of trace 0.0001: give a smaller one"):
        toy.arrival("GLD const", 500, 1e-4)
