"""Every approximation against a value computed another way, what it tends to and how fast, and two bounds on its error
that hold for every law of the inputs.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from support.errors import Refused
from support.exact import ziyin, ziyin_applications
from support.exact.approximations import APPROXIMATIONS, bracket, miss
from support.exact.batch_noise import BatchNoise, fixed, matched
from support.exact.ornstein_uhlenbeck import OrnsteinUhlenbeck
from support.exact.populations import FinitePopulation, GaussianPopulation
from support.exact.second_moments import Descent
from support.exact.stationary import gain, headroom, stationary
from support.sampling import MiniBatch

NAMED = {approximation.name: approximation.evaluate for approximation in APPROXIMATIONS}
A = np.array([[1.0, 0.3, 0.0], [0.3, 0.6, 0.1], [0.0, 0.1, 0.4]])
U, VARIANCE, ETA, B = np.array([1.0, -2.0, 0.5]), 0.7, 0.35, 6
LABELS = Descent(GaussianPopulation(A, U, VARIANCE), matched(B), ETA)
MOVING = LABELS.changed(momentum=0.6, lr=0.1)
DECAYED = Descent(GaussianPopulation(A, U, 0.0), matched(B), ETA, decay=0.3)
MATRIX = LABELS.changed(lr=ETA * np.linalg.inv(A + np.eye(3)))  # commutes with A
SKEW = LABELS.changed(lr=np.diag([0.4, 0.1, 0.3]))  # does not
X = np.array([[1.0, 0.2, 0.5], [-0.4, 1.1, 0.0], [0.7, -0.9, 1.0], [0.3, 0.5, -2.0], [0.0, 0.4, 0.3]])
DATA = Descent(FinitePopulation(X, [1.0, 0.3, -0.5, 0.8, 0.0]), fixed(MiniBatch(5, 2, replace=False)), 0.1)
NOISY = DATA.population.least_loss * 2


def kronecker(pull, noise, lr, momentum=0.0):
    """(1−μ)(PΣ + ΣPᵀ) = ΛCΛᵀ as a dense system."""
    one, d = np.eye(len(pull)), len(pull)
    whole = (1 - momentum) * (np.kron(pull, one) + np.kron(one, pull))
    return np.linalg.solve(whole, (lr @ noise @ lr.T).ravel()).reshape(d, d)


def fixed_point(noise, solve, rounds=400):
    """Σ of a noise that depends on Σ, by repetition."""
    covariance = np.zeros((3, 3))
    for _ in range(rounds):
        covariance = solve(noise(covariance))
    return covariance


def test_there_are_ten_with_names_of_their_own():
    assert len(NAMED) == len(APPROXIMATIONS) == 10
    assert len({approximation.evaluate for approximation in APPROXIMATIONS}) == 10


# --- each against a value computed another way ------------------------------------------------------------------------


def test_small_rate():
    for case in (LABELS, MOVING, MATRIX):
        expected = VARIANCE / 2 / B / (1 - case.momentum) * case.lr
        np.testing.assert_allclose(NAMED["small rate"](case), expected, rtol=1e-10, atol=1e-14)
    skew = SKEW.lr @ A
    np.testing.assert_allclose(NAMED["small rate"](SKEW), kronecker(skew, VARIANCE / B * A, SKEW.lr), atol=1e-14)


def test_isotropic():
    for case in (LABELS, MOVING, MATRIX):
        level = VARIANCE * np.trace(A) / 3 / B
        expected = level / 2 / (1 - case.momentum) * case.lr @ np.linalg.inv(A)
        np.testing.assert_allclose(NAMED["isotropic noise"](case), expected, rtol=1e-10, atol=1e-14)


def test_ornstein_uhlenbeck():
    noise = float(DATA.noise.strength) * DATA.population.noise_moment
    process = OrnsteinUhlenbeck(DATA.population.second_moment, 0.1 * noise)
    np.testing.assert_allclose(NAMED["Ornstein-Uhlenbeck"](DATA), process.covariance(math.inf), rtol=1e-9)
    expected = kronecker(0.1 * A, VARIANCE / B * A, 0.1 * np.eye(3), 0.6)
    np.testing.assert_allclose(NAMED["Ornstein-Uhlenbeck"](MOVING), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("case", [LABELS, MOVING, MATRIX, SKEW, DECAYED])
def test_loss_proportional(case):
    pull, loss = case.lr @ case.curvature, VARIANCE
    if case is DECAYED:
        loss = case.shift @ A @ case.shift
    expected = fixed_point(
        lambda s: (loss + np.trace(A @ s)) * A / B, lambda c: kronecker(pull, c, case.lr, case.momentum)
    )
    np.testing.assert_allclose(NAMED["loss-proportional"](case), expected, rtol=1e-9, atol=1e-13)


def test_bare_hessian():
    form = {"column": "discrete", "printed": True}
    np.testing.assert_allclose(
        NAMED["bare Hessian"](LABELS), ziyin.label_noise(A, ETA, B, VARIANCE, **form).covariance, atol=1e-12
    )
    np.testing.assert_allclose(
        NAMED["bare Hessian"](DECAYED), ziyin.weight_decay(A, 0.3, U, ETA, B, **form).covariance, atol=1e-12
    )


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_general_minimum(momentum, decay):
    case = DECAYED.changed(momentum=momentum, decay=decay, population=GaussianPopulation(A, U, VARIANCE), lr=0.1)
    loss = (VARIANCE + case.shift @ A @ case.shift) / 2
    expected = ziyin_applications.corollary_3(A, decay, case.centre, loss, 0.1, B, momentum)
    np.testing.assert_allclose(NAMED["general minimum"](case), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("case", [LABELS, MOVING, MATRIX])
def test_constant_noise(case):
    left = ziyin.theorem_1(case.lr, A, NAMED["constant noise"](case), VARIANCE / B * A, case.momentum)
    np.testing.assert_allclose(left, 0, atol=1e-12)


def test_constant_noise_of_data_by_its_recursion():
    noise, covariance = float(DATA.noise.strength) * DATA.population.noise_moment, np.zeros((3, 3))
    shrink = np.eye(3) - 0.1 * DATA.population.second_moment
    for _ in range(3000):
        covariance = shrink @ covariance @ shrink + 0.01 * noise
    np.testing.assert_allclose(NAMED["constant noise"](DATA), covariance, rtol=1e-9)


def test_many_dimensions():
    expected = ziyin_applications.theorem_6(A, ETA, B, VARIANCE * 2, 2.0)
    np.testing.assert_allclose(NAMED["many dimensions"](LABELS), expected, rtol=1e-10, atol=1e-14)

    def noise(s):
        return (VARIANCE * A + np.trace(A @ s) * A - A @ s @ A) / B

    found = NAMED["many dimensions"](MOVING)
    np.testing.assert_allclose(ziyin.theorem_1(0.1 * np.eye(3), A, found, noise(found), 0.6), 0, atol=1e-12)


@pytest.mark.parametrize("case", [LABELS, MOVING, MATRIX, DECAYED, DECAYED.changed(momentum=0.5, decay=-0.05)])
def test_the_corrected_formula_is_exact_for_gaussian_inputs(case):
    np.testing.assert_allclose(
        NAMED["Gaussian, corrected"](case), stationary(case, method="krylov").covariance, rtol=1e-8, atol=1e-11
    )


def test_the_printed_formula():
    np.testing.assert_allclose(NAMED["Gaussian, printed"](LABELS), stationary(LABELS).covariance, rtol=1e-9, atol=1e-12)
    found, exact = NAMED["Gaussian, printed"](DECAYED), stationary(DECAYED).covariance
    assert np.abs(found - found.T).max() > 0.1 * np.abs(found).max()
    errors = miss(found, exact, A)
    assert abs(errors.loss) < 1e-9 and abs(errors.worst) > 0.02  # right in the loss, wrong in shape


def test_data_is_taken_as_gaussian_of_the_same_moments():
    same = GaussianPopulation(DATA.population.second_moment, DATA.population.optimum, NOISY)
    surrogate = Descent(same, replace(DATA.noise, samples=None), 0.1)  # on fresh samples
    np.testing.assert_allclose(
        NAMED["Gaussian, corrected"](DATA), stationary(surrogate).covariance, rtol=1e-8, atol=1e-12
    )


# --- where they do not apply ------------------------------------------------------------------------------------------

OF_ANY_NOISE = {"isotropic noise", "Ornstein-Uhlenbeck", "constant noise"}
COMMUTING = {"many dimensions", "Gaussian, printed", "Gaussian, corrected"}


def missing(descent):
    return {name for name, evaluate in NAMED.items() if evaluate(descent) is None}


def test_where_an_approximation_does_not_apply():
    assert missing(LABELS) == missing(MATRIX) == set()
    assert missing(SKEW) == COMMUTING
    assert missing(DECAYED) == {"many dimensions"}
    assert missing(LABELS.changed(decay=0.1)) == COMMUTING  # noisy labels and decay
    assert missing(DECAYED.changed(lr=MATRIX.lr)) == COMMUTING
    assert missing(LABELS.changed(noise=BatchNoise(0.2, 0.1))) == set(NAMED) - OF_ANY_NOISE
    assert missing(DECAYED.changed(decay=np.diag([0.1, 0.2, 0.3]))) == COMMUTING


def test_beyond_its_own_edge_there_is_no_covariance():
    assert missing(LABELS.changed(lr=3.0)) >= {"constant noise", "bare Hessian", *COMMUTING}
    assert "Ornstein-Uhlenbeck" not in missing(LABELS.changed(lr=3.0))  # continuous time has no edge of the mean
    assert missing(LABELS.changed(lr=2 * B / np.trace(A) * 1.01)) >= {"loss-proportional"}
    assert missing(DECAYED.changed(decay=-0.5)) == set(NAMED)  # runs away
    assert missing(DECAYED.changed(lr=1.3)) >= {"Gaussian, printed", "Gaussian, corrected"}


def test_one_that_is_not_stable_still_has_approximations():
    beyond = LABELS.changed(lr=1.02 * headroom(LABELS) * ETA)
    assert gain(beyond) > 1 and NAMED["constant noise"](beyond) is not None


def test_directions_without_data_stand_still():
    flat = Descent(FinitePopulation(np.pad(X, ((0, 0), (0, 1))), [1.0, 0.3, -0.5, 0.8, 0.0]), DATA.noise, 0.1)
    for name, evaluate in NAMED.items():
        found = evaluate(flat)
        assert not found[3].any() and not found[:, 3].any()
        np.testing.assert_allclose(found[:3, :3], evaluate(DATA), rtol=1e-9, atol=1e-15, err_msg=name)


# --- what they tend to, and how fast ----------------------------------------------------------------------------------


def losses(descent):
    exact = stationary(descent).covariance
    features = descent.population.second_moment
    return {n: miss(f(descent), exact, features).loss for n, f in NAMED.items() if f(descent) is not None}


@pytest.mark.parametrize("case", [LABELS, MOVING, MATRIX], ids=["plain", "momentum", "matrix"])
def test_small_rates(case):
    """For η → 0 at a fixed batch all that know the loss and the shape are right, with an error of order η."""
    fine, finer = (losses(case.changed(lr=scale * case.lr)) for scale in (1e-3, 5e-4))
    for name in ("small rate", "Ornstein-Uhlenbeck", "loss-proportional", "general minimum", "constant noise"):
        assert fine[name] < 0 and fine[name] / finer[name] == pytest.approx(2, rel=5e-3), name
    assert fine["many dimensions"] / finer["many dimensions"] == pytest.approx(2, rel=5e-3)
    assert fine["bare Hessian"] == pytest.approx(1 / VARIANCE - 1, rel=1e-2)  # wrong by σ² for ever


def test_large_batches():
    """For b → ∞ at a fixed rate those in discrete time are right, with an error of order 1/b."""
    large, larger = (losses(LABELS.changed(noise=BatchNoise(1 / b))) for b in (4000, 8000))
    for name in ("general minimum", "constant noise", "many dimensions"):
        assert large[name] < 0 and large[name] / larger[name] == pytest.approx(2, rel=5e-3), name
    for name in ("small rate", "Ornstein-Uhlenbeck", "loss-proportional"):
        assert large[name] == pytest.approx(larger[name], rel=1e-2) and large[name] < -0.1, name


def test_what_data_do_to_a_noise_taken_from_the_loss():
    """The noise of the minimum is right for η → 0 whatever the law; 2L_0A/b is not."""
    found, features = losses(DATA.changed(lr=1e-5)), DATA.population.second_moment
    assert abs(found["Ornstein-Uhlenbeck"]) < 1e-3 and abs(found["constant noise"]) < 1e-3
    limit = NOISY * np.trace(features) / np.trace(DATA.population.noise_moment) - 1
    for name in ("small rate", "loss-proportional", "general minimum", "many dimensions", "Gaussian, corrected"):
        assert found[name] == pytest.approx(limit, abs=1e-3), name
    assert limit > 0.1


# --- bounds for every law ---------------------------------------------------------------------------------------------


def random_problem(rng, momentum):
    """Any finite inputs with label noise of one variance, any symmetric rate, anywhere below the edge: the descent and
    its share of the edge.
    """
    d, b = int(rng.integers(1, 5)), int(rng.integers(1, 10))
    m = d + int(rng.integers(1, 10))
    inputs, weights = rng.standard_t(3, size=(m, d)), rng.dirichlet(np.ones(m))
    signs = rng.uniform(0.1, 1) * np.ones(m)
    law = FinitePopulation(np.vstack([inputs] * 2), np.r_[signs, -signs], np.tile(weights / 2, 2))
    root = rng.normal(size=(d, d))
    start = Descent(law, matched(b), 1e-3 * (root @ root.T / d + 0.01 * np.eye(d)), momentum)
    share = rng.uniform(0.02, 0.97)
    return start.changed(lr=share * headroom(start) * start.lr), share


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_what_is_missing_of_the_loss(momentum):
    """Small rate: at most η/η_max; constant noise: at most the gain, the smallest stable batch over b."""
    rng = np.random.default_rng(5)
    for descent, share in (random_problem(rng, momentum) for _ in range(12)):
        found = losses(descent)
        assert found["small rate"] == pytest.approx(found["Ornstein-Uhlenbeck"], abs=1e-8)
        assert -1e-9 <= -found["small rate"] <= share + 1e-7
        assert -1e-9 <= -found["constant noise"] <= gain(descent) + 1e-7


def test_the_bracket_holds_for_every_law():
    """And from two rates alone: that of safety and that of the mean, between which the edge lies."""
    rng = np.random.default_rng(6)
    for descent, share in (random_problem(rng, 0.0) for _ in range(12)):
        edge = headroom(start := descent.changed(lr=1e-3)) * 1e-3
        now = descent.changed(lr=share * edge)
        exact = np.sum(descent.population.second_moment * stationary(now).covariance)
        low, high = bracket(now)
        small = np.sum(descent.population.second_moment * NAMED["small rate"](now))
        assert small <= low <= exact * (1 + 1e-9) and exact <= high * (1 + 1e-9)
        ends = [
            1e-3 / (1 - np.trace(descent.population.second_moment @ NAMED["small rate"](start)) / end)
            for end in bracket(start)
        ]
        assert ends[1] <= edge * (1 + 1e-6) and edge <= ends[0] * (1 + 1e-6)


def test_where_there_is_no_bracket():
    cases = {
        "number lr": (MOVING, MATRIX, LABELS.changed(decay=0.1)),
        "not 2L₀A/b": (DATA, LABELS.changed(noise=BatchNoise(0.2, 0.1))),
        "unstable": (LABELS.changed(lr=2.5),),
    }
    for text, descents in cases.items():
        for descent in descents:
            with pytest.raises(Refused, match=text):
                bracket(descent)
    close = LABELS.changed(lr=0.97 * headroom(LABELS) * ETA)
    assert bracket(close)[1] == math.inf  # between the safe rate and the edge


def test_the_bound_on_a_rate_of_any_law_is_attained():
    """By one input of one size, where everything is one direction."""
    sign = Descent(FinitePopulation([[1.0], [1.0]], [1.0, -1.0]), matched(3), 1.7)  # θ ← θ − η(θ − noise): edge 2
    assert losses(sign)["small rate"] == pytest.approx(-1.7 / 2, rel=1e-6)


# --- the errors -------------------------------------------------------------------------------------------------------


def test_the_worst_direction_is_that_of_a_search():
    rng = np.random.default_rng(2)
    roots = rng.normal(size=(2, 3, 3))
    found, exact = roots[0] @ roots[0].T, roots[1] @ roots[1].T
    directions = rng.normal(size=(20_000, 3))
    ratios = np.einsum("ni,ij,nj->n", directions, found, directions) / np.einsum(
        "ni,ij,nj->n", directions, exact, directions
    )
    errors = miss(found, exact, A)
    assert errors.worst >= ratios.max() - 1 and errors.worst == pytest.approx(ratios.max() - 1, rel=0.05)
    assert errors.loss == pytest.approx(np.trace(A @ found) / np.trace(A @ exact) - 1)


def test_errors_at_the_ends():
    assert miss(np.zeros((2, 2)), np.eye(2), np.eye(2)) == (-1.0, -1.0)
    assert miss(np.eye(2), np.diag([1.0, 0.0]), np.eye(2)).worst == math.inf
    assert miss(np.diag([2.0, 0.0]), np.diag([1.0, 0.0]), np.eye(2)) == pytest.approx((1.0, 1.0))
    with pytest.raises(Refused, match="not zero"):
        miss(np.eye(2), np.zeros((2, 2)), np.eye(2))
    with pytest.raises(Refused, match="symmetric"):
        miss(np.eye(2), np.array([[1.0, 0.5], [0.0, 1.0]]), np.eye(2))


def test_the_judge_by_all_batches():
    """Two dimensions, momentum, decay, a rate that does not commute: the solution of E T ⊗ T over all nine batches."""
    x, y = np.array([[1.0, 0.2], [-0.4, 1.1], [0.7, -0.9]]), np.array([1.0, 0.3, -0.5])
    lr, decay, mu = np.array([[0.3, 0.1], [0.1, 0.15]]), 0.1, 0.4
    one, two, none = np.eye(2), np.zeros((2, 1)), np.zeros((2, 2))
    steps = []
    for batch in itertools.product(range(3), repeat=2):
        q, p = sum(np.outer(x[i], x[i]) for i in batch) / 2 + decay * one, sum(x[i] * y[i] for i in batch) / 2
        velocity = np.hstack([q, mu * one, -p[:, None]])
        steps.append(
            np.vstack([np.hstack([one, none, two]) - lr @ velocity, velocity, np.append(np.zeros(4), 1.0)[None]])
        )
    values, vectors = np.linalg.eig(sum(np.kron(t, t) for t in steps) / 9)
    moment = vectors[:, np.argmin(np.abs(values - 1))].real.reshape(5, 5)
    moment = moment / moment[-1, -1]
    expected = moment[:2, :2] - np.outer(moment[:2, -1], moment[:2, -1])
    descent = Descent(FinitePopulation(x, y), fixed(MiniBatch(3, 2)), lr, mu, decay)
    np.testing.assert_allclose(stationary(descent).covariance, expected, rtol=1e-8)
