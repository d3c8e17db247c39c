"""Paired paths; the law and the closeness of coupled mini-batches; refusals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from support import coupling
from support.sampling import GaussianCovariance, GaussianFisher, MiniBatch

N, D = 6, 2
_DATA = np.random.default_rng(3)
X, NOISE = _DATA.standard_normal((N, D)), _DATA.standard_normal(N)
Y = X @ [1.0, -1.0] + 0.5 * NOISE
START = np.array([2.0, 1.0])


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


def test_a_path_by_hand():
    """Two samples, weights 1/4 and 3/4: the gradient is the weighted sum of slope times input."""
    inputs, goals, theta, weights = [[1.0], [2.0]], [1.0, -1.0], np.array([[3.0]]), np.array([[0.25, 0.75]])
    squares, robust = coupling.regression(inputs, goals), coupling.regression(inputs, goals, coupling.huber)
    assert squares(theta, weights)[0, 0] == 0.25 * 2 + 0.75 * 7 * 2
    slopes = 2 / math.sqrt(5), 7 / math.sqrt(50)
    assert robust(theta, weights)[0, 0] == pytest.approx(0.25 * slopes[0] + 0.75 * slopes[1] * 2, rel=1e-14)
    path = coupling.descend(squares, [3.0], 0.1, weights[None])
    assert path[0, :, 0].tolist() == pytest.approx([3.0, 3.0 - 0.1 * 11.0])
    np.testing.assert_allclose(coupling.huber([-1e9, 1e-6, 1e9]), [-1, 1e-6, 1], rtol=1e-9)


def test_pieces_have_the_variance_of_their_length():
    """One of r pieces has r times the variance of a step's weights, about the same mean."""
    law = GaussianFisher(3, 2)
    fine = coupling.brownian_weights(law, 2000, 1, 8, np.random.default_rng(0)).reshape(-1, 3)
    np.testing.assert_allclose(fine.mean(0), 1 / 3, atol=5 * math.sqrt(8 / 6 / 16000))
    assert ((fine - 1 / 3) ** 2).mean() == pytest.approx(8 / 6, rel=5 * math.sqrt(2 / 48000))  # five standard errors


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
    "regression": (lambda: coupling.regression(X, Y[:-1]), r"targets of shape \(5,\) cannot be taken"),
    "descend: weights": (
        lambda: coupling.descend(coupling.regression(X, Y), START, 0.1, np.ones((3, N))),
        "weights of shape",
    ),
    "descend: theta": (
        lambda: coupling.descend(coupling.regression(X, Y), np.ones((2, D)), 0.1, _weights(3, 2, N)),
        r"theta of shape \(2, 2\) cannot be taken: .*\(3, d\)",
    ),
    "descend: lr": (lambda: coupling.descend(coupling.regression(X, Y), START, 0.0, _weights(1, 2, N)), "lr = 0.0"),
    "brownian: law": (
        lambda: coupling.brownian_weights(MiniBatch(4, 1), 1, 1, 1, np.random.default_rng()),
        "not Gaussian",
    ),
    "brownian: count": (lambda: coupling.brownian_weights(FISHER, 1, 1, 0, np.random.default_rng()), "substeps = 0"),
    "brownian: seed": (lambda: coupling.brownian_weights(FISHER, 1, 1, 1, 7), "generator = 7 is of type int"),
    "coarse": (lambda: coupling.coarse(_weights(1, 5, 2), 2), "cannot be averaged over substeps = 2"),
    "batches: shape": (lambda: coupling.mini_batches(np.ones((4, 2)), 1), "weights of shape"),
    "batches: not dyadic": (lambda: coupling.mini_batches(_weights(1, 12, 2), 1), "the largest is 4"),
    "batches: block": (lambda: coupling.mini_batches(_weights(1, 8, 2), 1, 16), "the largest is 8"),
    "batches: block 0": (lambda: coupling.mini_batches(_weights(1, 8, 2), 1, 0), "block = 0"),
    "batches: b": (lambda: coupling.mini_batches(_weights(1, 8, 2), 0), "b = 0"),
    "batches: sums": (lambda: coupling.mini_batches(np.ones((1, 8, 2)), 1), "do not sum to one"),
    "quantile: u": (lambda: coupling.hypergeometric_quantile(1.5, 2, 2, 1), r"outside \[0, 1\]"),
    "quantile: draws": (lambda: coupling.hypergeometric_quantile(0.5, 2, 2, 5), "fewer balls"),
    "quantile: shapes": (lambda: coupling.hypergeometric_quantile([0.5, 0.1], [1, 1, 1], 2, 1), "one shape"),
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
