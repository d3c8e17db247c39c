"""The exact strong error against an independent closed form and sampling; bounds; the law and the closeness of coupled
mini-batches; refusals.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import expm

from support import coupling
from support.sampling import FullBatch, GaussianCovariance, GaussianFisher, MiniBatch

N, D = 6, 2
_DATA = np.random.default_rng(3)
X, NOISE = _DATA.standard_normal((N, D)), _DATA.standard_normal(N)
Y = X @ [1.0, -1.0] + 0.5 * NOISE
START = np.array([2.0, 1.0])


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
    ours = coupling.strong_error(x[:, None], np.zeros(len(x)), law, lr, [1.0], lr * steps, correlation=correlation)
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
    exact = coupling.strong_error(X, Y, law, lr, START, 1.0, correlation=correlation)
    assert (np.abs(squares.mean(0) - exact) <= 5 * squares.std(0) / math.sqrt(4000) + 0.03 * exact).all()


@pytest.mark.parametrize("lr", [0.01, 0.2, 3.0])
def test_the_diffusion_s_moments_are_those_of_the_matrix_exponential(lr):
    pair = coupling._Pair(X, Y, GaussianCovariance(N, 1), lr, False)
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
    ours = coupling.strong_error(X, Y, FullBatch(N, 1), 0.1, START, 1.0)
    expected = [(((np.exp(-0.1 * k * h) - (1 - 0.1 * h) ** k) * away) ** 2).sum() for k in range(11)]
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_orders_of_the_exact_error():
    """2 on one path whatever b, with the constant of `first_order`; 1 for other noises; 3 against the modified flow."""
    lrs = [2.0**-k for k in (8, 9, 10)]
    for b in (1, 4):
        # a row for each correlation of the two noises
        errors = {
            r: np.array(
                [coupling.strong_error(X, Y, GaussianFisher(N, b), lr, START, 1.0, correlation=r)[-1] for lr in lrs]
            )
            for r in (1, 0, -1)
        }
        limit = 2 * errors[1][-1] / lrs[-1] ** 2 - errors[1][-2] / lrs[-2] ** 2
        assert limit == pytest.approx(coupling.first_order(X, Y, START, 1.0), rel=1e-2)
        assert errors[-1][-1] / errors[0][-1] == pytest.approx(2, rel=1e-2)
        assert coupling.fit_order(lrs, errors[0]).value == pytest.approx(1, abs=0.02)
        modified = [
            coupling.strong_error(X, Y, GaussianFisher(N, b), lr, START, 1.0, modified=True)[-1] for lr in lrs[:2]
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
    assert error <= coupling.sharper_bound(lr, time, lipschitz, largest, b)
    assert error <= coupling.gronwall_bound(lr, time, lipschitz, largest)


def test_the_printed_bound_is_crossed_at_a_large_horizon():
    error, largest = (math.exp(4) - 1.01**400) ** 2, 0.02 * math.exp(4)
    assert error == pytest.approx(1.1535, abs=1e-4)
    assert coupling.gronwall_bound(0.5, 200, 0.02, largest, printed=True) == pytest.approx(0.9250, abs=1e-4)
    assert coupling.gronwall_bound(0.5, 200, 0.02, largest) > error < coupling.sharper_bound(0.5, 200, 0.02, largest)
    assert coupling.gronwall_bound(0.5, 1.0, 2.0, 1.0, printed=True) == coupling.gronwall_bound(0.5, 1.0, 2.0, 1.0)
    assert coupling.sharper_bound(0.1, 1.0, 0.0, 1.0) == 0
    assert coupling.gronwall_bound(0.5, 2000, 0.5, 1.0) == math.inf


def test_the_sharper_bound_holds_where_gradients_are_bounded():
    """Pseudo-Huber losses on inputs of length one (L = M = 1), 400 paths, seed 5: the mean plus five standard errors is
    below the bound.
    """
    x = X / np.linalg.norm(X, axis=1, keepdims=True)
    for lr in (0.5, 0.25):
        law = GaussianFisher(N, 1)
        discrete, diffusion, _ = coupling.paired_paths(
            coupling.regression(x, Y, coupling.huber),
            law,
            lr,
            START,
            1.0,
            paths=400,
            substeps=16,
            generator=np.random.default_rng(5),
        )
        squares = ((discrete - diffusion) ** 2).sum(-1)
        assert (squares.mean(0) + 5 * squares.std(0) / 20).max() < coupling.sharper_bound(lr, 1.0, 1.0, 1.0, 1)


def test_weights_of_a_large_step_are_means_of_its_pieces():
    """A loss whose gradient is constant: both processes agree at the grid times, to rounding, and the weights have the
    law's covariance.
    """
    law = GaussianCovariance(4, 2)
    discrete, diffusion, weights = coupling.paired_paths(
        lambda theta, w: w @ np.eye(4),
        law,
        0.5,
        np.zeros(4),
        50.0,
        paths=300,
        substeps=4,
        generator=np.random.default_rng(0),
    )
    np.testing.assert_allclose(discrete, diffusion, atol=1e-12)
    assert discrete.shape == (300, 101, 4) and weights.shape == (300, 100, 4)
    covariance = np.cov(weights.reshape(-1, 4).T)
    np.testing.assert_allclose(covariance, law.covariance.dense(), atol=0.006)


def test_fits_recover_what_they_are_given():
    lrs = np.array([0.5, 0.25, 0.125, 0.0625])
    exact = coupling.fit_powers(lrs, 3 * lrs**2 + 5 * lrs**3)
    np.testing.assert_allclose(exact.value, [3, 5])
    assert (exact.low == exact.value).all() and (exact.high == exact.value).all()
    groups = 2 * lrs**1.5 * np.exp(np.random.default_rng(0).normal(0, 0.05, (30, 4)))
    order = coupling.fit_order(lrs, groups, confidence=0.99)
    assert order.low < 1.5 < order.high and order.high - order.low < 0.2 and order.confidence == 0.99


# --- mini-batches


@settings(max_examples=150, deadline=None)
@given(st.floats(0, 1), st.integers(0, 80), st.integers(0, 80), st.data())
def test_the_quantile_is_the_smallest_value_whose_distribution_function_reaches_u(u, marked, unmarked, data):
    draws = data.draw(st.integers(0, marked + unmarked))
    x = int(coupling.hypergeometric_quantile(u, marked, unmarked, draws))
    probability = np.array(
        [math.comb(marked, j) * math.comb(unmarked, draws - j) if j <= draws else 0 for j in range(marked + 1)],
        dtype=object,
    )
    total = math.comb(marked + unmarked, draws)
    below = lambda j: sum(probability[: j + 1]) / total  # noqa: E731
    assert probability[x] > 0
    assert below(x) >= u - 1e-12 and (x == 0 or below(x - 1) <= u + 1e-12)


def test_the_quantile_of_large_urns():
    rng = np.random.default_rng(0)
    marked, unmarked, u = rng.integers(0, 5000, 200), rng.integers(1, 5000, 200), rng.random(200)
    draws = rng.integers(0, marked + unmarked + 1)
    expected = stats.hypergeom.ppf(u, marked + unmarked, marked, draws)
    np.testing.assert_array_equal(coupling.hypergeometric_quantile(u, marked, unmarked, draws), expected)


@pytest.mark.parametrize(("n", "b", "block"), [(2, 1, 4), (3, 1, 2), (3, 1, 1), (2, 2, 2)])
def test_coupled_mini_batches_have_the_law_of_sgd(n, b, block):
    """All sequences of two (of four for n = 2, b = 1) steps against their probabilities: χ² at 10⁻⁴, 20,000 paths, seed
    1.
    """
    steps, paths = max(block, 2), 20_000
    weights = GaussianCovariance(n, b).sample(paths * steps, np.random.default_rng(1)).reshape(paths, steps, n)
    drawn = np.rint(coupling.mini_batches(weights, b, block) * b).astype(int)
    one = {}
    for batch in itertools.product(range(n), repeat=b):
        key = tuple(np.bincount(batch, minlength=n))
        one[key] = one.get(key, 0) + n**-b
    expected = {sequence: math.prod(one[key] for key in sequence) for sequence in itertools.product(one, repeat=steps)}
    seen = dict.fromkeys(expected, 0)
    for path in drawn:
        seen[tuple(map(tuple, path.tolist()))] += 1
    assert stats.chisquare(list(seen.values()), [paths * p for p in expected.values()]).pvalue > 1e-4


def test_running_sums_of_coupled_mini_batches_stay_close():
    """n = 5, b = 2: from 16 to 256 steps the largest squared distance of sums grows 16-fold step by step, and like a
    squared logarithm on the tree.
    """
    largest = {}
    for steps in (16, 256):
        weights = GaussianCovariance(5, 2).sample(300 * steps, np.random.default_rng(2)).reshape(300, steps, 5)
        for block in (1, steps):
            sums = np.cumsum(coupling.mini_batches(weights, 2, block) - weights, axis=1)
            largest[steps, block == 1] = (sums**2).sum(-1).max(1).mean()
    assert 12 < largest[256, True] / largest[16, True] < 21
    assert largest[256, False] / largest[16, False] < 4


def test_a_step_coupled_by_itself_is_a_function_of_that_step():
    weights = GaussianCovariance(3, 1).sample(8, np.random.default_rng(0)).reshape(1, 8, 3)
    together = coupling.mini_batches(weights, 1, 1)
    alone = np.concatenate([coupling.mini_batches(weights[:, k : k + 1], 1) for k in range(8)], axis=1)
    np.testing.assert_array_equal(together, alone)


# --- bad input


def _weights(paths, steps, n):
    return np.full((paths, steps, n), 1 / n)


FISHER = GaussianFisher(N, 2)
REFUSED = {
    "learning rate zero": (lambda: coupling.whole_steps(1.0, 0.0), "lr = 0.0 is no learning rate"),
    "learning rate nan": (lambda: coupling.whole_steps(1.0, math.nan), "lr = nan"),
    "negative time": (lambda: coupling.whole_steps(-1.0, 0.1), "time = -1.0 is no horizon"),
    "no multiple": (lambda: coupling.whole_steps(1.0, 0.3), "no multiple of lr = 0.3"),
    "error: lr": (lambda: coupling.strong_error(X, Y, FISHER, -0.1, START, 1.0), "lr = -0.1"),
    "error: multiple": (lambda: coupling.strong_error(X, Y, FISHER, 0.3, START, 1.0), "no multiple"),
    "error: features": (lambda: coupling.strong_error(X[0], Y, FISHER, 0.1, START, 1.0), "features have shape"),
    "error: targets": (lambda: coupling.strong_error(X, Y[:-1], FISHER, 0.1, START, 1.0), "targets"),
    "error: theta": (lambda: coupling.strong_error(X, Y, FISHER, 0.1, START[:1], 1.0), "theta"),
    "error: nan": (lambda: coupling.strong_error(X * np.nan, Y, FISHER, 0.1, START, 1.0), "not finite"),
    "error: law": (lambda: coupling.strong_error(X, Y, GaussianFisher(9, 2), 0.1, START, 1.0), "n = 9 samples"),
    "error: correlation": (
        lambda: coupling.strong_error(X, Y, FISHER, 0.1, START, 1.0, correlation=2),
        "between −1 and 1",
    ),
    "bound: lr": (lambda: coupling.gronwall_bound(0, 1, 1, 1), "lr = 0"),
    "bound: time": (lambda: coupling.gronwall_bound(1, -1, 1, 1), "time = -1 is negative"),
    "bound: L": (lambda: coupling.sharper_bound(1, 1, -2, 1), "lipschitz = -2"),
    "bound: b": (lambda: coupling.sharper_bound(1, 1, 1, 1, 0), "b = 0 is no batch size"),
    "regression": (lambda: coupling.regression(X, Y[:-1]), "they must be"),
    "descend: weights": (
        lambda: coupling.descend(coupling.regression(X, Y), START, 0.1, np.ones((3, N))),
        "weights have shape",
    ),
    "descend: lr": (lambda: coupling.descend(coupling.regression(X, Y), START, 0.0, _weights(1, 2, N)), "lr = 0.0"),
    "brownian: law": (
        lambda: coupling.brownian_weights(MiniBatch(4, 1), 1, 1, 1, np.random.default_rng()),
        "not Gaussian",
    ),
    "brownian: count": (lambda: coupling.brownian_weights(FISHER, 1, 1, 0, np.random.default_rng()), "substeps = 0"),
    "coarse": (lambda: coupling.coarse(_weights(1, 5, 2), 2), "cannot be averaged over substeps = 2"),
    "fit: shape": (lambda: coupling.fit_order([0.1, 0.2], [1.0, 2.0, 3.0]), "one number a learning rate"),
    "fit: few": (lambda: coupling.fit_powers([0.1], [1.0]), "do not determine 2"),
    "fit: zero": (lambda: coupling.fit_order([0.1, 0.2], [0.0, 1.0]), "above 0"),
    "batches: shape": (lambda: coupling.mini_batches(np.ones((4, 2)), 1), "weights have shape"),
    "batches: not dyadic": (lambda: coupling.mini_batches(_weights(1, 12, 2), 1), "the largest is 4"),
    "batches: block": (lambda: coupling.mini_batches(_weights(1, 8, 2), 1, 16), "the largest is 8"),
    "batches: block 0": (lambda: coupling.mini_batches(_weights(1, 8, 2), 1, 0), "block = 0"),
    "batches: b": (lambda: coupling.mini_batches(_weights(1, 8, 2), 0), "b = 0"),
    "batches: sums": (lambda: coupling.mini_batches(np.ones((1, 8, 2)), 1), "do not sum to one"),
    "quantile: u": (lambda: coupling.hypergeometric_quantile(1.5, 2, 2, 1), r"outside \[0, 1\]"),
    "quantile: draws": (lambda: coupling.hypergeometric_quantile(0.5, 2, 2, 5), "fewer balls"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line(case):
    call, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arguments", [{"b": 1.0}, {"b": True}, {"b": 1, "block": 2.0}])
def test_counts_have_to_be_integers(arguments):
    with pytest.raises(TypeError, match="not an integer"):
        coupling.mini_batches(_weights(1, 4, 2), **arguments)
