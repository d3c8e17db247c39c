"""Random valid problems: closed forms and Krylov's method against the direct solution, the solver against all batches
in a dense Kronecker solution and against simulated runs, existence against a spectral radius in thousands of cases.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from support.errors import Refused
from support.exact import stationary as judge
from support.exact.batch_noise import BatchNoise, fixed, matched
from support.exact.populations import FinitePopulation, GaussianPopulation
from support.exact.second_moments import Descent
from support.exact.stationary import decay_window, gain, growth, stationary
from support.exact.ziyin import input_noise, label_noise, label_noise_stable, largest_factor, theorem_3, weight_decay
from support.exact.ziyin_applications import at_fixed_ratio, decay_losses, natural_gradient, natural_rate, newton
from support.sampling import MiniBatch


def turned(rng, values):
    """A symmetric matrix with these eigenvalues in random axes, and the axes."""
    axes = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return (axes * values) @ axes.T, axes


def setting(rng, most=6):
    """d, A, its axes, u, b, μ."""
    d = int(rng.integers(1, most + 1))
    a, axes = turned(rng, np.exp(rng.uniform(-2, 1, d)))
    return d, a, axes, rng.standard_normal(d), int(rng.integers(1, 20)), float(rng.choice([0.0, rng.uniform(0, 0.95)]))


def close(ours, theirs, rtol=1e-10):
    np.testing.assert_allclose(ours, theirs, atol=rtol * np.abs(theirs).max(), rtol=0)


def cases(count, seed):
    """Generators of their own, so that a case that fails can be made again by itself."""
    return (np.random.default_rng([seed, case]) for case in range(count))


def test_label_noise_in_closed_form():
    for rng in cases(80, 1):
        d, a, axes, u, b, mu = setting(rng)
        rate = float(rng.random()) if rng.integers(2) else (axes * np.exp(rng.uniform(-1, 1, d))) @ axes.T
        rate = rng.uniform(0.02, 0.9) * largest_factor(a, rate, b, mu) * rate
        found = stationary(Descent(GaussianPopulation(a, u, 0.7), matched(b), rate, mu))
        forms = label_noise(a, rate, b, 0.7, mu)
        assert found.method == "direct" and found.residual < 1e-10
        close(forms.covariance, found.covariance)
        close(theorem_3(a, rate, b, 0.7, mu), found.noise)
        assert (forms.train, forms.test) == pytest.approx((found.loss, found.loss - 0.35), rel=1e-10)


def test_input_noise_in_closed_form():
    for rng in cases(60, 2):
        d, a, _, u, b, mu = setting(rng)
        blur, _ = turned(rng, np.exp(rng.uniform(-3, 0, d)))
        rate = rng.uniform(0.02, 0.9) * largest_factor(a + blur, 1.0, b, mu)
        found = stationary(Descent(judge.input_noise(a, blur, u), matched(b), rate, mu))
        forms, missed = input_noise(a, blur, u, rate, b, mu), found.centre - u
        close(forms.covariance, found.covariance)
        test = np.sum(a * (found.covariance + np.outer(missed, missed))) / 2
        assert (forms.train, forms.test) == pytest.approx((found.loss, test), rel=1e-10)


def test_weight_decay_in_closed_form():
    """Γ in the axes of A, down to −0.7 of its smallest eigenvalue."""
    for rng in cases(80, 3):
        d, a, axes, u, b, mu = setting(rng)
        decay = (axes * rng.uniform(-0.7, 1, d) * np.linalg.eigvalsh(a)[0]) @ axes.T
        rate = rng.uniform(0.02, 0.9) * largest_factor(a, 1.0, b, mu, decay)
        found = stationary(Descent(GaussianPopulation(a, u, 0.0), matched(b), rate, mu, decay))
        forms = weight_decay(a, decay, u, rate, b, mu)
        close(forms.covariance, found.covariance, 1e-9)  # K is worse conditioned than A
        assert forms[1:] == pytest.approx((found.penalised, found.loss), rel=1e-9)
        if d == 1 and not mu:
            assert decay_losses(decay[0, 0], a[0, 0], rate, b, u[0]) == pytest.approx(forms[1:], rel=1e-9)


def test_second_order_methods_and_the_scaling_of_rates_in_closed_form():
    for rng in cases(60, 4):
        d, a, _, u, b, mu = setting(rng)
        inverse = np.linalg.inv(a)
        lr = rng.uniform(0.02, 0.9) * 2 * (1 - mu) * b / (b * (1 - mu) / (1 + mu) + d + 1)
        damped = Descent(GaussianPopulation(a, u, 0.7), matched(b), lr * inverse, mu)
        close(newton(a, lr, b, 0.7, mu), stationary(damped).covariance)
        natural = damped.changed(lr=natural_rate(d, lr, b, 0.7, mu) * inverse)
        close(natural_gradient(a, lr, b, 0.7, mu), stationary(natural).covariance)
        plain = rng.uniform(0.02, 0.9) * largest_factor(a, 1.0, b, mu)
        close(at_fixed_ratio(a, plain / b, plain, 0.7, mu), stationary(damped.changed(lr=plain)).covariance)


def test_krylov_equals_the_direct_solution():
    for rng in cases(40, 5):
        d, a, axes, u, b, mu = setting(rng, 8)
        decay = (axes * rng.uniform(-0.5, 1, d) * np.linalg.eigvalsh(a)[0]) @ axes.T
        rate = (axes * np.exp(rng.uniform(-1, 1, d))) @ axes.T
        rate = rng.uniform(0.05, 0.9) * largest_factor(a, rate, b, mu, decay) * rate
        descent = Descent(GaussianPopulation(a, u, 0.7), matched(b), rate, mu, decay)
        direct, krylov = stationary(descent), stationary(descent, "krylov")
        assert (direct.method, krylov.method) == ("direct", "krylov")
        for ours, theirs in zip(direct[:5], krylov[:5], strict=True):
            close(ours, theirs, 1e-9)
        assert direct[5:7] == pytest.approx(krylov[5:7], rel=1e-9)


def steps_of(x, y, weights, lr, mu, decay):
    """The step of every batch as T and t, (θ, m) ← T(θ, m) + t."""
    one = np.eye(x.shape[1])
    for w in weights:
        slope, pull = (x.T * w) @ x + decay, (x.T * w) @ y
        yield (
            np.block([[one - lr @ slope, -mu * lr], [slope, mu * one]]),
            np.concatenate([lr @ pull, -pull]),
        )


def brute(steps, probabilities, b=1):
    """Mean and covariance of (θ, m) in the long run and the spectral radius, by dense linear algebra on E T ⊗ T; b > 1:
    for the mean of b independent such steps.
    """
    mean = sum(p * t for p, (t, _) in zip(probabilities, steps, strict=True))
    push = sum(p * c for p, (_, c) in zip(probabilities, steps, strict=True))
    centre = np.linalg.solve(np.eye(len(mean)) - mean, push)
    square = forcing = 0
    for p, (t, c) in zip(probabilities, steps, strict=True):
        kick = t @ centre + c - centre  # of mean 0
        square, forcing = square + p * np.kron(t, t), forcing + p * np.outer(kick, kick)
    square = np.kron(mean, mean) + (square - np.kron(mean, mean)) / b
    moment = np.linalg.solve(np.eye(len(square)) - square, forcing.ravel() / b)
    return centre, moment.reshape(mean.shape), np.abs(np.linalg.eigvals(square)).max()


def agree(descent, expected):
    (centre, joint, radius), d = expected, len(descent.lr)
    if abs(radius - 1) < 1e-3:
        return  # what is close to the edge is ill-conditioned on both sides
    assert (gain(descent) < 1) == (radius < 1)
    assert growth(descent) == pytest.approx(radius, rel=1e-8)
    if radius > 1:
        with pytest.raises(Refused, match=r"take lr below|no factor"):
            stationary(descent)
        return
    found = stationary(descent)
    close(found.centre, centre[:d], 1e-8)
    close(np.block([[found.covariance, found.cross], [found.cross.T, found.velocity]]), joint, 1e-8)


def any_step(rng, d, hessian):
    """Λ, any matrix near a positive one or damped Newton's, μ, Γ of either sign."""
    lr = np.exp(rng.uniform(-3, 0.7)) / np.trace(hessian) * (np.eye(d) + 0.3 * rng.standard_normal((d, d)))
    if rng.integers(3) == 0:
        lr = rng.uniform(0.05, 0.5) * np.linalg.inv(hessian + 0.1 * np.eye(d))
    decay, _ = turned(rng, rng.uniform(-0.3, 1, d) * np.linalg.eigvalsh(hessian)[0])
    return lr, rng.choice([0.0, rng.uniform(0, 0.9)]), decay * rng.integers(2)


def test_a_data_set_equals_all_of_its_batches():
    """With and without replacement, d ≤ 4; Λ, Γ and A do not commute."""
    for rng in cases(40, 6):
        d = int(rng.integers(1, 5))
        n, replace = d + int(rng.integers(1, 3)), bool(rng.integers(2))
        b = int(rng.integers(1, 3 if replace else n))
        x, y = rng.standard_normal((n, d)), rng.standard_normal(n)
        lr, mu, decay = any_step(rng, d, x.T @ x / n)
        lists = itertools.product(range(n), repeat=b) if replace else itertools.combinations(range(n), b)
        weights = [np.bincount(batch, minlength=n) / b for batch in lists]
        expected = brute(list(steps_of(x, y, weights, lr, mu, decay)), np.full(len(weights), 1 / len(weights)))
        agree(Descent(FinitePopulation(x, y), fixed(MiniBatch(n, b, replace=replace)), lr, mu, decay), expected)


def test_gaussian_inputs_equal_three_nodes_a_direction():
    """Gauss and Hermite's nodes have the Gaussian law's moments up to the fourth, d ≤ 3."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    for rng in cases(25, 7):
        d, a, _, u, b, _ = setting(rng, 3)
        lr, mu, decay = any_step(rng, d, a)
        x = np.array(list(itertools.product(nodes, repeat=d))) @ np.linalg.cholesky(a).T
        p = np.array([math.prod(w) for w in itertools.product(weights / weights.sum(), repeat=d)])
        x, p, y = np.vstack([x, x]), np.tile(p / 2, 2), np.concatenate([x @ u + 0.6, x @ u - 0.6])
        expected = brute(list(steps_of(x, y, np.eye(len(x)), lr, mu, decay)), p, b)
        agree(Descent(GaussianPopulation(a, u, 0.36), matched(b), lr, mu, decay), expected)


def simulated(draw, lr, mu, decay, start, runs, steps, rng):
    """θ of independent runs after so many steps, (runs, d); draw(rng) is a batch for each, (runs, b, d), (runs, b)."""
    theta, m = np.tile(start, (runs, 1)), np.zeros((runs, len(start)))
    for _ in range(steps):
        x, y = draw(rng)
        wrong = np.einsum("rbd,rd->rb", x, theta) - y
        m = mu * m + np.einsum("rb,rbd->rd", wrong, x) / x.shape[1] + theta @ decay
        theta = theta - m @ lr.T
    return theta


@pytest.mark.parametrize("which", ["data set without replacement, momentum", "Gaussian inputs, decay, matrix rate"])
def test_the_solver_equals_simulated_runs(which):
    """All entries of Σ within intervals that hold together in 99.9 % of the experiments, and are 8 % wide or less."""
    rng, runs, level = np.random.default_rng(8), 12_000, 0.001
    if which.startswith("data"):
        x, y = rng.standard_normal((6, 2)), rng.standard_normal(6)
        pairs = np.array(list(itertools.combinations(range(6), 2)))
        descent = Descent(FinitePopulation(x, y), fixed(MiniBatch(6, 2, replace=False)), 0.15, 0.5)

        def draw(rng):
            picked = pairs[rng.integers(len(pairs), size=runs)]
            return x[picked], y[picked]
    else:
        a, rate = np.array([[1.0, 0.3], [0.3, 0.6]]), np.array([[0.3, 0.1], [-0.05, 0.2]])
        root, u = np.linalg.cholesky(a), np.array([1.0, -2.0])
        descent = Descent(GaussianPopulation(a, u, 0.5), matched(4), rate, 0.0, np.diag([0.2, -0.1]))

        def draw(rng):
            x = rng.standard_normal((runs, 4, 2)) @ root.T
            return x, x @ u + math.sqrt(0.5) * rng.standard_normal((runs, 4))

    found = stationary(descent)
    left = growth(descent)
    steps = math.ceil(math.log(1e-4) / math.log(left))  # what the start leaves of itself
    theta = simulated(draw, descent.lr, descent.momentum, descent.decay, found.centre, runs, steps, rng) - found.centre
    for i, j in [(0, 0), (0, 1), (1, 1)]:
        products = theta[:, i] * theta[:, j]
        half = stats.t.ppf(1 - level / 6, runs - 1) * products.std(ddof=1) / math.sqrt(runs)
        assert abs(products.mean() - found.covariance[i, j]) < half
        assert half < 0.08 * math.sqrt(found.covariance[i, i] * found.covariance[j, j])


BAND = 1e-6  # the relative distance from the edge at which rounding may decide


def second_moment_radius(slopes, probabilities, b, lr, mu):
    """Spectral radius of E T ⊗ T for batches of b samples whose gradients have these slopes (m, d, d)."""
    d, one = slopes.shape[1], np.eye(slopes.shape[1])
    each = np.zeros((len(slopes), 2 * d, 2 * d))
    each[:, :d, :d], each[:, :d, d:], each[:, d:, :d], each[:, d:, d:] = one - lr @ slopes, -mu * lr, slopes, mu * one
    mean = np.tensordot(probabilities, each, 1)
    square = np.einsum("m,mij,mkl->ikjl", probabilities, each, each).reshape((4 * d * d,) * 2)
    whole = np.kron(mean, mean) + (square - np.kron(mean, mean)) / b
    return np.abs(np.linalg.eigvals(whole)).max()


def near(rng):
    """A factor of the edge: anywhere, or close to 1 on either side."""
    return math.exp(rng.uniform(-3, 1)) if rng.integers(2) else 1 + rng.choice([-1, 1]) * 10 ** rng.uniform(-5.5, -1)


@pytest.mark.parametrize("d", [1, 2])
def test_predicted_stability_is_the_spectral_radius_for_gaussian_inputs(d):
    """1000 cases in one dimension, 500 in two; half of them within 10 % of the edge."""
    nodes = np.array(list(itertools.product([-math.sqrt(3), 0.0, math.sqrt(3)], repeat=d)))
    chances, seen, count = np.where(nodes, 1 / 6, 2 / 3).prod(1), [], {1: 1000, 2: 500}[d]
    for rng in cases(count, 9):
        a, b, mu = np.exp(rng.uniform(-1, 1, d)), int(rng.integers(1, 30)), float(rng.choice([0.0, rng.random()]))
        lr = near(rng) * largest_factor(np.diag(a), 1.0, b, mu)
        x = nodes * np.sqrt(a)
        radius = second_moment_radius(x[:, :, None] * x[:, None, :], chances, b, lr * np.eye(d), mu)
        if abs(radius - 1) > BAND:
            descent = Descent(GaussianPopulation(np.diag(a)), matched(b), lr, mu)
            predicted = {gain(descent) < 1, largest_factor(np.diag(a), lr, b, mu) > 1}
            predicted.add(label_noise_stable(np.diag(a), lr, b, mu))
            assert predicted == {bool(radius < 1)}
            seen.append(radius < 1)
    assert len(seen) > 0.9 * count and 0.3 < np.mean(seen) < 0.8


@pytest.mark.parametrize("d", [1, 2])
def test_predicted_stability_is_the_spectral_radius_for_data_sets(d):
    """600 and 400 cases; any rate near a positive one, decays of either sign, momentum."""
    count, seen = {1: 600, 2: 400}[d], []
    for rng in cases(count, 10):
        n, b = int(rng.integers(1, 6)), int(rng.integers(1, 10))
        x = rng.standard_normal((n + d - 1, d))
        hessian = x.T @ x / len(x)
        lr, mu, decay = any_step(rng, d, hessian)
        lr = lr * math.exp(rng.uniform(-1, 2))
        slopes = x[:, :, None] * x[:, None, :] + decay
        radius = second_moment_radius(slopes, np.full(len(x), 1 / len(x)), b, lr, mu)
        if abs(radius - 1) > BAND:
            descent = Descent(FinitePopulation(x, np.zeros(len(x))), BatchNoise(1 / b), lr, mu, decay)
            assert (gain(descent) < 1) == (radius < 1)
            seen.append(radius < 1)
    assert len(seen) > 0.9 * count and 0.3 < np.mean(seen) < 0.9


def test_the_window_of_decays_is_all_that_is_stable():
    """Against the spectral radius on a grid of the decays at which the mean settles; Λ, A and Γ do not commute."""
    found = 0
    for rng in cases(30, 11):
        x = rng.standard_normal((4, 2))
        hessian, b = x.T @ x / 4, int(rng.integers(1, 30))
        mu = float(rng.choice([0.0, rng.random()]))
        spread = math.exp(rng.uniform(0, 3)) if not mu else 1.0
        lr, _ = turned(rng, math.exp(rng.uniform(-2, 0)) / np.trace(hessian) * np.array([1.0, spread]))
        decay, _ = turned(rng, 0.3 * rng.standard_normal(2))
        descent = Descent(FinitePopulation(x, np.zeros(4)), matched(b), lr, mu, decay)
        low = -np.linalg.eigvalsh(hessian + decay)[0]
        high = np.linalg.eigvalsh(2 * (1 + mu) * np.linalg.inv(lr) - hessian - decay)[0]
        grid = np.linspace(low, high, 40)[1:-1] if high > low else np.array([])
        slopes = x[:, :, None] * x[:, None, :] + decay
        stable = [second_moment_radius(slopes + g * np.eye(2), np.full(4, 0.25), b, lr, mu) < 1 for g in grid]
        try:
            left, right = decay_window(descent)
            found += 1
        except Refused:
            left = right = math.inf
        np.testing.assert_array_equal(stable, (left < grid) & (grid < right))
    assert 10 < found < 30


def test_momentum_and_rates_far_apart_can_leave_two_windows_of_decays():
    x = np.array([[0.74, -0.05], [10.14, 0.66], [-1.26, 0.74], [-4.02, -0.33]])
    lr, decay = np.array([[0.00969, -0.01266], [-0.01266, 0.12609]]), np.array([[13.2, 2.2], [2.2, 21.0]])
    descent = Descent(FinitePopulation(x, np.zeros(4)), BatchNoise(0.0428), lr, 0.9889, decay)

    def stable(added):
        return gain(descent.changed(decay=decay + added * np.eye(2))) < 1

    low, high = decay_window(descent)
    inside = np.linspace(low, high, 9)[1:-1]
    assert all(stable(one) for one in inside) and not stable(low - 1e-4) and not stable(high + 1e-4)
    other = [one for one in np.linspace(-20.5, low - 0.01, 40) if stable(one)]
    assert other and not stable((other[-1] + low) / 2)
