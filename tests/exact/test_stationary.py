"""The stationary second moment against the list of all batches in a dense Kronecker solution, the literature's closed
forms in one dimension, and its own step; stability against the spectral radius of the dense map.
"""

import itertools
import math

import numpy as np
import pytest

from support.errors import Refused
from support.exact.batch_noise import BatchNoise, fixed, matched
from support.exact.least_squares import growth as least_squares_growth
from support.exact.least_squares import stability_limit
from support.exact.populations import FinitePopulation, GaussianPopulation, gaussian_points, gaussian_regression
from support.exact.second_moments import Descent
from support.exact.stationary import decay_window, gain, growth, headroom, input_noise, stationary
from support.sampling import GaussianCovariance, MiniBatch

X, Y = np.array([[1.0, 0.2], [-0.4, 1.1], [0.7, -0.9], [0.3, 0.5]]), np.array([1.0, 0.3, -0.5, 0.8])
A = np.array([[1.0, 0.3], [0.3, 0.6]])
RATES = {"number": 0.3, "symmetric": np.array([[0.4, 0.1], [0.1, 0.2]]), "any": np.array([[0.4, 0.1], [-0.1, 0.3]])}
DECAYS = {"none": 0.0, "number": -0.05, "matrix": np.array([[0.3, -0.1], [-0.1, 0.1]])}


def batches(n, b, replace):
    """All batches as weights (n,), equally likely."""
    lists = itertools.product(range(n), repeat=b) if replace else itertools.combinations(range(n), b)
    return [np.bincount(chosen, minlength=n) / b for chosen in lists]


def affine_steps(x, y, weights, lr, momentum, decay):
    """Each batch's step as a matrix on (θ, m, 1)."""
    d = x.shape[1]
    lr, decay, one = lr * np.eye(d) if np.ndim(lr) == 0 else lr, decay * np.eye(d) if np.ndim(decay) == 0 else decay, 1
    for w in weights:
        slope, pull = (x.T * w) @ x + decay, -(x.T * w) @ y
        velocity = np.hstack([slope, momentum * np.eye(d), pull[:, None]])
        place = np.hstack([np.eye(d), np.zeros((d, d + 1))]) - lr @ velocity
        yield np.vstack([place, velocity, np.append(np.zeros(2 * d), one)])


def dense(steps, probabilities):
    """Mean and joint covariance of (θ, m) in the long run and the spectral radius of their second moments, from the
    matrix E T ⊗ T of d² x d² and nothing else.
    """
    size = len(steps[0])
    whole = sum(p * np.kron(t, t) for t, p in zip(steps, probabilities, strict=True))
    values, vectors = np.linalg.eig(whole)
    moment = vectors[:, np.argmin(np.abs(values - 1))].real.reshape(size, size)
    moment = moment / moment[-1, -1]
    mean = moment[:-1, -1]
    linear = [t[:-1, :-1] for t in steps]
    radius = np.abs(np.linalg.eigvals(sum(p * np.kron(t, t) for t, p in zip(linear, probabilities, strict=True)))).max()
    return mean, moment[:-1, :-1] - np.outer(mean, mean), radius


def agrees(descent, steps, probabilities, rtol=1e-9, **how):
    found, d = stationary(descent, **how), len(descent.lr)
    mean, joint, radius = dense(steps, probabilities)
    np.testing.assert_allclose(found.centre, mean[:d], atol=1e-10)
    ours = np.block([[found.covariance, found.cross], [found.cross.T, found.velocity]])
    np.testing.assert_allclose(ours, joint, atol=rtol * np.abs(joint).max())
    assert growth(descent) == pytest.approx(radius, rel=1e-9)
    assert (gain(descent) < 1) == (radius < 1)
    assert found.residual < 1e-11
    return found


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("decay", DECAYS)
def test_a_finite_data_set_equals_the_list_of_all_batches(replace, momentum, rate, decay):
    lr, decay = RATES[rate], DECAYS[decay]
    weights = batches(4, 2, replace)
    steps = list(affine_steps(X, Y, weights, lr, momentum, decay))
    descent = Descent(FinitePopulation(X, Y), fixed(MiniBatch(4, 2, replace=replace)), lr, momentum, decay)
    found = agrees(descent, steps, np.full(len(steps), 1 / len(steps)))
    assert found.method == "krylov"
    theta, residual = found.centre, Y - X @ found.centre
    expected = ((residual**2).mean() + np.trace(X.T @ X @ found.covariance) / 4) / 2
    assert found.loss == pytest.approx(expected, rel=1e-12)
    ridge = decay * np.eye(2) if np.ndim(decay) == 0 else decay
    assert found.penalised - found.loss == pytest.approx(
        (theta @ ridge @ theta + np.trace(ridge @ found.covariance)) / 2, abs=1e-12
    )


def test_a_full_batch_does_not_fluctuate_and_jitter_does():
    quiet = stationary(Descent(FinitePopulation(X, Y), fixed(MiniBatch(4, 4, replace=False)), 0.3, 0.5))
    assert not quiet.covariance.any() and quiet.residual == 0
    law = GaussianCovariance(4, 2)  # weights of the mean and covariance of a batch
    same, batch = (stationary(Descent(FinitePopulation(X, Y), fixed(one), 0.3)) for one in (law, MiniBatch(4, 2)))
    np.testing.assert_allclose(same.covariance, batch.covariance, rtol=1e-9)
    lone, jittered = FinitePopulation([[1.0]], [0.0]), BatchNoise(0, 0.25)
    assert growth(Descent(lone, jittered, 0.5)) == pytest.approx(0.25 + 0.25 / 4)  # E (1 − η s)², Var s = ¼


def hermite(covariance, target, variance):
    """Atoms with the Gaussian law's moments of (x, ε) up to the fourth: three nodes a direction, two of the label."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weights = weights / weights.sum()
    root = np.linalg.cholesky(covariance)
    x = np.array(list(itertools.product(nodes, repeat=len(covariance)))) @ root.T
    p = np.array([math.prod(w) for w in itertools.product(weights, repeat=len(covariance))])
    y = x @ target
    return np.vstack([x, x]), np.concatenate([y + variance**0.5, y - variance**0.5]), np.concatenate([p, p]) / 2


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("decay", DECAYS)
def test_gaussian_inputs_equal_atoms_with_their_fourth_moments(momentum, rate, decay):
    lr, decay, u = 0.5 * RATES[rate], DECAYS[decay], np.array([1.0, -2.0])
    x, y, p = hermite(A, u, 0.5)
    steps = list(affine_steps(x, y, np.eye(len(x)), lr, momentum, decay))  # batches of one
    descent = Descent(GaussianPopulation(A, u, 0.5), matched(1), lr, momentum, decay)
    found = agrees(descent, steps, p)
    direct = rate == "number" and np.ndim(decay) == 0
    assert (found.method == "direct") == direct
    if direct:
        agrees(descent, steps, p, method="krylov")


def test_commuting_matrices_are_solved_directly_and_the_two_ways_agree():
    rng = np.random.default_rng(5)
    turn = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    a, rate, decay = (
        turn @ np.diag(v) @ turn.T for v in (rng.random(8) + 0.1, rng.random(8) / 10, rng.random(8) - 0.3)
    )
    population = GaussianPopulation(a, rng.standard_normal(8), 0.3)
    for noise in (matched(3), BatchNoise(0.2, 0.1)):
        descent = Descent(population, noise, rate, 0.3, decay + 0.4 * np.eye(8))
        direct, krylov = stationary(descent), stationary(descent, "krylov")
        assert (direct.method, krylov.method) == ("direct", "krylov")
        assert direct.residual < 1e-10 and krylov.residual < 1e-10
        for ours, theirs in zip(direct[:5], krylov[:5], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-10 * np.abs(ours).max())


def test_students_inputs_have_their_factor():
    """One dimension by hand: Σ = ηpσ²/(2 − ηa(1 + p(3τ − 1)))."""
    population = GaussianPopulation([[2.0]], degrees=8)
    assert stationary(Descent(population, matched(4), 0.2)).covariance[0, 0] == pytest.approx(
        0.2 / 4 / (2 - 0.4 * (1 + (3 * 1.5 - 1) / 4))
    )


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_elliptical_inputs_keep_a_closed_form(momentum):
    """E xxᵀMxxᵀ = ω(2AMA + Tr(AM)A): Tr[AΣ] = (σ²/b) t/(1 − ωt/b), t = Tr[ηAG⁻¹], with 2ω − 1 for 1 in G."""
    omega, b, eta, sigma2 = 1.5, 6, 0.1, 0.7
    found = stationary(Descent(GaussianPopulation(A, variance=sigma2, degrees=8), matched(b), eta, momentum))
    drag = (1 - momentum) / (1 + momentum) + (2 * omega - 1) / b
    t = np.trace(np.linalg.solve(2 * (1 - momentum) * np.eye(2) - drag * eta * A, eta * A))
    assert np.trace(A @ found.covariance) == pytest.approx(sigma2 / b * t / (1 - omega * t / b), rel=1e-12)


@pytest.mark.parametrize(("b", "eta", "mu"), [(1, 0.1, 0.0), (4, 0.8, 0.0), (3, 0.05, 0.9), (2, 0.4, 0.3)])
def test_one_dimension_by_hand(b, eta, mu):
    """Label noise: Σ (2(1−μ) − ((1−μ)/(1+μ) + 2/b) ηa) = ησ²/b; the edge is the zero of the bracket, and at momentum 0
    the growth is (1 − ηa)² + 2η²a²/b.
    """
    a, sigma2 = 1.3, 0.7
    descent = Descent(GaussianPopulation([[a]], variance=sigma2), matched(b), eta, mu)
    bracket = 2 * (1 - mu) - ((1 - mu) / (1 + mu) + 2 / b) * eta * a
    assert stationary(descent).covariance[0, 0] == pytest.approx(eta * sigma2 / b / bracket, rel=1e-12)
    assert eta * headroom(descent) == pytest.approx(2 * (1 - mu) / ((1 - mu) / (1 + mu) + 2 / b) / a, rel=1e-10)
    if not mu:
        assert growth(descent) == pytest.approx((1 - eta * a) ** 2 + 2 * (eta * a) ** 2 / b)


def test_the_edge_of_the_rate_equals_that_of_the_iterates_module():
    population, noise = FinitePopulation(X, Y), fixed(MiniBatch(4, 2, replace=False))
    descent = Descent(population, noise, 0.2)
    assert 0.2 * headroom(descent) == pytest.approx(stability_limit(population, noise), rel=1e-9)
    assert growth(descent) == pytest.approx(least_squares_growth(population, noise, 0.2), rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("rate", RATES)
def test_headroom_ends_where_growth_is_one(momentum, rate):
    descent = Descent(FinitePopulation(X, Y), matched(2), RATES[rate], momentum, 0.05)
    edge = headroom(descent)
    for factor, stable in ((0.99, True), (1.01, False)):
        assert (growth(descent.changed(lr=factor * edge * descent.lr)) < 1) == stable
    close = stationary(descent.changed(lr=(1 - 1e-6) * edge * descent.lr))  # the fluctuation is 10⁶ times the usual
    assert close.residual < 1e-9


def test_without_noise_the_rate_ends_at_the_sharpest_direction():
    top = np.linalg.eigvalsh(X.T @ X / 4)[-1]
    for momentum in (0.0, 0.6):
        descent = Descent(FinitePopulation(X, Y), BatchNoise(0), 0.1, momentum)
        assert 0.1 * headroom(descent) == pytest.approx(2 * (1 + momentum) / top, rel=1e-9)
        low, high = decay_window(descent)
        assert low == pytest.approx(-np.linalg.eigvalsh(X.T @ X / 4)[0], rel=1e-9)
        assert high == pytest.approx(20 * (1 + momentum) - top, rel=1e-9)


def test_a_larger_problem_by_arnoldi_equals_the_vector_of_its_diagonal():
    """d = 7, beyond the dense eigenproblems, with momentum: matrices (14, 14) against 21 numbers."""
    rng = np.random.default_rng(9)
    x = rng.standard_normal((20, 7))
    gaussian = Descent(GaussianPopulation(x.T @ x / 20), matched(4), 0.1, 0.5)
    assert gain(gaussian) < 1
    atoms = gaussian.changed(lr=0.1 * np.eye(7) + 1e-9 * np.triu(np.ones((7, 7)), 1))  # has no common axes
    assert atoms.modes is None
    assert growth(atoms) == pytest.approx(growth(gaussian), rel=1e-7)
    assert gain(atoms) == pytest.approx(gain(gaussian), rel=1e-7)


def test_gain_is_the_batch_at_the_edge():
    """gain is proportional to the strength: at the strength 1/gain times the given one the growth is 1."""
    descent = Descent(GaussianPopulation(A), matched(5), RATES["symmetric"], 0.4, DECAYS["matrix"])
    edge = descent.changed(noise=BatchNoise(0.2 / gain(descent)))
    assert gain(edge) == pytest.approx(1, rel=1e-9)
    assert growth(edge) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("population", ["gaussian", "finite"])
def test_existence_is_a_spectral_radius_below_one(population):
    """Random problems, momentum included: gain < 1 if and only if growth < 1, and both happen."""
    rng, seen = np.random.default_rng(3), []
    for _ in range(120):
        d, b = int(rng.integers(1, 4)), int(rng.integers(1, 9))
        x = rng.standard_normal((6, d))
        law = FinitePopulation(x, np.zeros(6)) if population == "finite" else GaussianPopulation(x.T @ x / 6)
        mu, eta = rng.choice([0, rng.random()]), math.exp(rng.uniform(-4, 1))
        descent = Descent(law, matched(b), eta, mu)
        seen.append(gain(descent) < 1)
        assert seen[-1] == (growth(descent) < 1)
    assert 20 < sum(seen) < 110


def test_existence_without_common_axes():
    """Random data sets, matrix rates and indefinite decays, momentum up to near 1, with and without replacement."""
    rng, seen = np.random.default_rng(12), []
    for _ in range(150):
        d, n = rng.integers(1, 5), int(rng.integers(2, 9))
        law = MiniBatch(n, int(rng.integers(1, n + 1)), replace=bool(rng.integers(2)))
        root, decay = rng.standard_normal((d, d)), 0.1 * rng.standard_normal((d, d))
        lr = math.exp(rng.uniform(-4, 1)) * (root @ root.T + 0.1 * np.eye(d))
        data = FinitePopulation(rng.standard_normal((n, d)), rng.standard_normal(n))
        descent = Descent(data, fixed(law), lr, rng.choice([0.0, rng.random()]), decay + decay.T)
        found = gain(descent)
        seen.append(found < 1)
        assert seen[-1] == (growth(descent) < 1)
        if found < 0.99:
            assert stationary(descent).residual < 1e-9
    assert 40 < sum(seen) < 110


def test_weight_decays_window_has_the_printed_ends_in_one_dimension():
    a, eta, b = 1.0, 0.5, 1
    descent = Descent(GaussianPopulation([[a]]), matched(b), eta, decay=0.3)
    root = math.sqrt(1 - 2 / b * (a * eta) ** 2)
    ends = [(1 - a * eta - root) / eta - 0.3, (1 - a * eta + root) / eta - 0.3]
    np.testing.assert_allclose(decay_window(descent), ends, rtol=1e-9)


@pytest.mark.parametrize("rate", ["number", "symmetric"])
def test_at_the_ends_of_the_window_growth_is_one(rate):
    descent = Descent(GaussianPopulation(A), matched(3), RATES[rate], 0.2, DECAYS["matrix"])
    for end in decay_window(descent):
        assert growth(descent.changed(decay=descent.decay + end * np.eye(2))) == pytest.approx(1, rel=1e-7)


def test_directions_without_data_stand_still():
    wide = np.hstack([X, X[:, :1] - X[:, 1:]])  # three columns of rank two
    found = stationary(Descent(FinitePopulation(wide, Y), matched(2), 0.2, 0.3))
    still = np.array([1.0, -1.0, -1.0])
    np.testing.assert_allclose(wide @ still, 0, atol=1e-12)
    np.testing.assert_allclose(found.covariance @ still, 0, atol=1e-12)
    assert found.residual < 1e-12
    few = FinitePopulation(np.random.default_rng(1).standard_normal((3, 5)), [1.0, 2.0, 3.0])  # interpolation
    np.testing.assert_allclose(stationary(Descent(few, matched(1), 0.05)).covariance, 0, atol=1e-20)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_rate_that_mixes_directions_moves_those_without_data_too(momentum):
    """The limit of a small decay, in which every direction is pulled back."""
    wide, rng = np.hstack([X, X[:, :1] - X[:, 1:]]), np.random.default_rng(8)
    lr = 0.1 * np.eye(3) + 0.06 * rng.random((3, 3))
    free, held = (stationary(Descent(FinitePopulation(wide, Y), matched(2), lr, momentum, g)) for g in (0.0, 1e-7))
    still = np.array([1.0, -1.0, -1.0]) / math.sqrt(3)
    assert still @ free.covariance @ still > 1e-3 * np.trace(free.covariance)
    for ours, theirs in zip((free.covariance, free.cross, free.velocity), held[:1] + held[2:4], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_input_noise_is_label_noise():
    """Atoms of (x, ν) with the Gaussian law's fourth moments, A and B not commuting."""
    blur, u = np.array([[0.5, -0.2], [-0.2, 0.3]]), np.array([1.0, 0.5])
    both = np.block([[A, np.zeros((2, 2))], [np.zeros((2, 2)), blur]])
    x, _, p = hermite(both, np.zeros(4), 0.0)
    atoms = FinitePopulation(x[:, :2] + x[:, 2:], x[:, :2] @ u, p)
    population = input_noise(A, blur, u)
    np.testing.assert_allclose(population.optimum, atoms.optimum, rtol=1e-12)
    np.testing.assert_allclose(population.noise_moment, atoms.noise_moment, rtol=1e-12)
    ours, theirs = (stationary(Descent(law, matched(4), 0.3, 0.2, 0.1)) for law in (population, atoms))
    np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1.9}, "diverges, gain .* take lr below 1.14286, or a batch above"),  # 2b/(d + b + 1)
        ({"lr": 3.0}, "does not settle; take lr below 1.14286$"),
        ({"lr": np.diag([1.9, 0.1])}, r"take lr below 0\.\d+ times the given one, or"),
        ({"decay": -2.0}, "does not settle: no factor"),
        ({"decay": -1.0}, "does not settle"),
        ({"momentum": 1.0}, "momentum = 1"),
        ({"lr": -0.1}, "lr = -0.1"),
        ({"decay": np.array([[0.0, 1.0], [0.0, 0.0]])}, "not a symmetric"),
        ({"lr": np.eye(3)}, r"shape \(2, 2\)"),
        ({"noise": fixed(MiniBatch(4, 2))}, "4 fixed samples, the population has no training set"),
    ],
)
def test_what_has_no_second_moment_is_refused_with_its_edge(change, message):
    descent = Descent(GaussianPopulation(np.eye(2)), matched(4), 0.1)
    with pytest.raises(Refused, match=message):
        stationary(descent.changed(**change))


def test_a_way_or_window_that_does_not_exist_is_refused():
    with pytest.raises(Refused, match="Gaussian inputs"):
        stationary(Descent(FinitePopulation(X, Y), matched(1), 0.1), "direct")
    with pytest.raises(Refused, match="no decay"):
        decay_window(Descent(GaussianPopulation(np.eye(2)), matched(1), 0.9))
    with pytest.raises(Refused, match="not symmetric and positive"):
        decay_window(Descent(GaussianPopulation(A), matched(1), RATES["any"]))


def test_the_noise_of_a_training_set_goes_with_that_set_alone():
    noise = fixed(MiniBatch(5, 2))
    for population in (FinitePopulation(X, Y), FinitePopulation(X, Y, [0.4, 0.2, 0.2, 0.2])):
        with pytest.raises(Refused, match=r"5 fixed samples, the population has (4 equally|no training set)"):
            Descent(population, noise, 0.1)
    with pytest.raises(Refused, match="5 fixed samples"):
        stability_limit(FinitePopulation(X, Y), noise)
    assert noise == matched(2)


def test_gaussian_points_have_the_moments_of_isserlis_and_the_stationary_moment_of_the_gaussian_law():
    a, matrix = np.array([[1.0, 0.4, 0.0], [0.4, 0.6, -0.2], [0.0, -0.2, 0.5]]), np.diag([1.0, -2.0, 0.5]) + 0.3
    points, weights = gaussian_points(a)
    isserlis = 2 * a @ matrix @ a + np.trace(a @ matrix) * a
    values = weights * np.einsum("ni,ij,nj->n", points, matrix, points)
    np.testing.assert_allclose((points.T * values) @ points, isserlis)
    u, blur = np.array([1.0, -0.5, 2.0]), 0.2 * np.eye(3) + 0.1
    pairs = [
        (gaussian_regression(a, u, 0.3), GaussianPopulation(a, u, 0.3)),
        (gaussian_regression(a, u, 0.3, blur), input_noise(a, blur, u, 0.3)),
    ]
    for pair in pairs:
        ours, theirs = (stationary(Descent(one, matched(3), 0.2, 0.4, 0.1)) for one in pair)
        np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-8)
        assert (ours.method, theirs.method) == ("krylov", "direct")
        assert ours.loss == pytest.approx(theirs.loss)
    flat, weights = gaussian_points(np.diag([2.0, 0.0]))
    assert flat.shape == (3, 2) and not flat[:, 1].any()
    with pytest.raises(Refused, match="rank 9 needs 3\\^9 points"):
        gaussian_points(np.eye(9))
