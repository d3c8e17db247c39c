"""The exact strong error against a closed form, the matrix exponential and sampling; its orders; bounds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from support import coupling
from support.exact import diffusion
from support.orders import fit_order
from support.sampling import FullBatch, GaussianCovariance, GaussianFisher

N, D = 6, 2
_DATA = np.random.default_rng(3)
X, NOISE = _DATA.standard_normal((N, D)), _DATA.standard_normal(N)
Y = X @ [1.0, -1.0] + 0.5 * NOISE
START = np.array([2.0, 1.0])
FISHER = GaussianFisher(N, 2)


def scalar_error(h, noise, lr, steps, correlation):
    """E|Θ − θ|² for ``dΘ = −hΘ dt + √(η·noise) Θ dW`` from 1: three factors a step, each an integral over one Gaussian
    increment.
    """
    discrete = (1 - lr * h) ** 2 + lr**2 * noise
    cross = math.exp(-h * lr) * (1 - lr * h + correlation * lr**2 * noise)
    diffusion = math.exp(-2 * h * lr + lr**2 * noise)
    return discrete**steps - 2 * cross**steps + diffusion**steps


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.2, 2.0), min_size=2, max_size=5),
    st.integers(1, 2),
    st.integers(1, 6),
    st.floats(-1, 1),
    st.sampled_from([GaussianFisher, GaussianCovariance]),
)
def test_the_exact_error_in_one_dimension_is_that_of_three_factors(x, b, steps, correlation, kind):
    """Targets zero: every residual is a multiple of θ, and the noise is one scalar multiple of θ."""
    x, lr = np.array(x), 0.25
    law = kind(len(x), b)
    noise = x**2 @ law.covariance.dense() @ x**2
    ours = diffusion.strong_error(x[:, None], np.zeros(len(x)), law, lr, [1.0], lr * steps, correlation=correlation)
    expected = [scalar_error((x**2).mean(), noise, lr, k, correlation) for k in range(steps + 1)]
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", [GaussianFisher, GaussianCovariance])
@pytest.mark.parametrize("correlation", [1.0, -1.0])
def test_the_exact_error_lies_in_the_interval_of_a_simulation(kind, correlation):
    """4,000 paths, 64 pieces a step, seed 1: within five standard errors and the bias of the pieces."""
    law, lr = kind(N, 2), 0.25
    fine = coupling.brownian_weights(law, 4000, 4, 64, np.random.default_rng(1))
    weights = coupling.coarse(fine, 64)
    weights = 1 / N + correlation * (weights - 1 / N)
    gradient = coupling.regression(X, Y)
    squares = (
        (coupling.descend(gradient, START, lr, weights) - coupling.descend(gradient, START, lr / 64, fine)[:, ::64])
        ** 2
    ).sum(-1)
    exact = diffusion.strong_error(X, Y, law, lr, START, 1.0, correlation=correlation)
    assert (np.abs(squares.mean(0) - exact) <= 5 * squares.std(0) / math.sqrt(4000) + 0.03 * exact).all()


@pytest.mark.parametrize("lr", [0.01, 0.2, 3.0])
def test_the_diffusion_s_moments_are_those_of_the_matrix_exponential(lr):
    pair = diffusion._Pair(X, Y, GaussianCovariance(N, 1), lr, False)
    start = np.append(pair.axes.T @ (START - pair.best), 1.0)
    moment = np.outer(start, start)
    columns = []
    for k in range((D + 1) ** 2):
        basis = np.zeros((D + 1) ** 2)
        basis[k] = 1.0
        basis = basis.reshape(D + 1, D + 1)
        columns.append((lr * pair.noise(basis) - pair.h[:, None] * basis - basis * pair.h).ravel())
    expected = expm(lr * np.array(columns).T) @ moment.ravel()
    np.testing.assert_allclose(pair.diffusion_step(moment).ravel(), expected, rtol=1e-11, atol=1e-11)


def test_without_noise_the_error_is_euler_s():
    h, axes = np.linalg.eigh(X.T @ X / N)
    away = axes.T @ (START - np.linalg.lstsq(X, Y, rcond=None)[0])
    ours = diffusion.strong_error(X, Y, FullBatch(N, 1), 0.1, START, 1.0)
    expected = [(((np.exp(-0.1 * k * h) - (1 - 0.1 * h) ** k) * away) ** 2).sum() for k in range(11)]
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_orders_of_the_exact_error():
    """2 on one path whatever b, with the constant of `first_order`; 1 for other noises; 3 against the modified flow."""
    lrs = [2.0**-k for k in (8, 9, 10)]
    for b in (1, 4):
        # a row for each correlation of the two noises
        errors = {
            r: np.array(
                [diffusion.strong_error(X, Y, GaussianFisher(N, b), lr, START, 1.0, correlation=r)[-1] for lr in lrs]
            )
            for r in (1, 0, -1)
        }
        limit = 2 * errors[1][-1] / lrs[-1] ** 2 - errors[1][-2] / lrs[-2] ** 2
        assert limit == pytest.approx(diffusion.first_order(X, Y, START, 1.0), rel=1e-2)
        assert errors[-1][-1] / errors[0][-1] == pytest.approx(2, rel=1e-2)
        assert fit_order(lrs, errors[0]).value == pytest.approx(1, abs=0.02)
        modified = [
            diffusion.strong_error(X, Y, GaussianFisher(N, b), lr, START, 1.0, modified=True)[-1] for lr in lrs[:2]
        ]
        assert math.log2(modified[0] / modified[1]) == pytest.approx(3, abs=0.1)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 1.0), st.integers(1, 8), st.floats(0.05, 1.0), st.integers(1, 30))
def test_bounds_hold_for_euler_s_method_on_growth(fraction, steps, lipschitz, b):
    """ℓ = −Lθ²/2, continued linearly beyond its largest slope M = L e^{LT}: the exact squared error is below both
    bounds, whatever b.
    """
    lr = fraction
    time = lr * steps
    error = (math.exp(lipschitz * time) - (1 + lr * lipschitz) ** steps) ** 2
    largest = lipschitz * math.exp(lipschitz * time)
    assert error <= diffusion.sharper_bound(lr, time, lipschitz, largest, b)
    assert error <= diffusion.gronwall_bound(lr, time, lipschitz, largest)


def test_the_printed_bound_is_crossed_at_a_large_horizon():
    error, largest = (math.exp(4) - 1.01**400) ** 2, 0.02 * math.exp(4)
    assert error == pytest.approx(1.1535, abs=1e-4)
    assert diffusion.gronwall_bound(0.5, 200, 0.02, largest, printed=True) == pytest.approx(0.9250, abs=1e-4)
    assert diffusion.gronwall_bound(0.5, 200, 0.02, largest) > error < diffusion.sharper_bound(0.5, 200, 0.02, largest)
    assert diffusion.gronwall_bound(0.5, 1.0, 2.0, 1.0, printed=True) == diffusion.gronwall_bound(0.5, 1.0, 2.0, 1.0)
    assert diffusion.sharper_bound(0.1, 1.0, 0.0, 1.0) == 0
    assert diffusion.gronwall_bound(0.5, 2000, 0.5, 1.0) == math.inf


def test_the_sharper_bound_holds_where_gradients_are_bounded():
    """Pseudo-Huber losses on inputs of length one (L = M = 1), 400 paths, seed 5: the mean plus five standard errors is
    below the bound.
    """
    x = X / np.linalg.norm(X, axis=1, keepdims=True)
    for lr in (0.5, 0.25):
        law = GaussianFisher(N, 1)
        discrete, continuous, _ = coupling.paired_paths(
            coupling.regression(x, Y, coupling.huber),
            law,
            lr,
            START,
            1.0,
            paths=400,
            substeps=16,
            generator=np.random.default_rng(5),
        )
        squares = ((discrete - continuous) ** 2).sum(-1)
        assert (squares.mean(0) + 5 * squares.std(0) / 20).max() < diffusion.sharper_bound(lr, 1.0, 1.0, 1.0, 1)


REFUSED = {
    "learning rate zero": (lambda: diffusion.whole_steps(1.0, 0.0), "lr = 0.0 is out of range"),
    "learning rate nan": (lambda: diffusion.whole_steps(1.0, math.nan), "lr = nan"),
    "negative time": (lambda: diffusion.whole_steps(-1.0, 0.1), "time = -1.0 is out of range"),
    "no multiple": (lambda: diffusion.whole_steps(1.0, 0.3), "no multiple of lr = 0.3"),
    "error: lr": (lambda: diffusion.strong_error(X, Y, FISHER, -0.1, START, 1.0), "lr = -0.1"),
    "error: multiple": (lambda: diffusion.strong_error(X, Y, FISHER, 0.3, START, 1.0), "no multiple"),
    "error: features": (lambda: diffusion.strong_error(X[0], Y, FISHER, 0.1, START, 1.0), "features of shape"),
    "error: targets": (lambda: diffusion.strong_error(X, Y[:-1], FISHER, 0.1, START, 1.0), "targets of shape"),
    "error: theta": (lambda: diffusion.strong_error(X, Y, FISHER, 0.1, START[:1], 1.0), "theta of shape"),
    "error: nan": (lambda: diffusion.strong_error(X * np.nan, Y, FISHER, 0.1, START, 1.0), "12 of 12 features are not"),
    "error: law": (lambda: diffusion.strong_error(X, Y, GaussianFisher(9, 2), 0.1, START, 1.0), "n = 9 samples"),
    "error: correlation": (
        lambda: diffusion.strong_error(X, Y, FISHER, 0.1, START, 1.0, correlation=2),
        "correlation = 2 is out of range: give a finite number at least -1 and at most 1",
    ),
    "bound: lr": (lambda: diffusion.gronwall_bound(0, 1, 1, 1), "lr = 0 is out of range"),
    "bound: time": (lambda: diffusion.gronwall_bound(1, -1, 1, 1), "time = -1 is out of range"),
    "bound: L": (lambda: diffusion.sharper_bound(1, 1, -2, 1), "lipschitz = -2"),
    "bound: b": (lambda: diffusion.sharper_bound(1, 1, 1, 1, 0), "b = 0 is out of range"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line(case):
    call, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        call()
    assert "\n" not in str(error.value)
