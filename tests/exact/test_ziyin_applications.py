"""The applications' formulas against the exact stationary second moment, averages over labels drawn, quadrature."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, optimize

from support.errors import Refused
from support.exact.batch_noise import matched
from support.exact.populations import FinitePopulation, GaussianPopulation
from support.exact.second_moments import Descent
from support.exact.stationary import decay_window, growth, headroom, stationary
from support.exact.ziyin_applications import (
    at_fixed_ratio,
    averaged_labels,
    best_decay,
    corollary_2,
    corollary_2_zero,
    corollary_3,
    decay_ends,
    decay_losses,
    decay_quotient,
    many_dimensions_edge,
    natural_gradient,
    natural_rate,
    negative_decay,
    newton,
    proposition_4,
    student,
    theorem_5,
    theorem_6,
)

RNG = np.random.default_rng(4)
X = RNG.standard_normal((9, 3))
A, U = X.T @ X / 9, np.array([1.0, -0.5, 2.0])


@pytest.mark.parametrize(("decay", "a", "lr", "b"), [(-2.53, 4.0, 1.0, 64), (0.5, 1.0, 0.5, 1), (-0.2, 1.0, 0.3, 3)])
def test_corollary_four(decay, a, lr, b):
    found = stationary(Descent(GaussianPopulation([[a]], [1.7], 0.0), matched(b), lr, 0.0, decay))
    assert decay_losses(decay, a, lr, b, 1.7) == pytest.approx((found.penalised, found.loss), rel=1e-9)
    ends = decay_window(Descent(GaussianPopulation([[a]]), matched(b), lr))
    np.testing.assert_allclose(decay_ends(a, lr, b), ends, rtol=1e-8)


@pytest.mark.parametrize("b", [1, 2, 3, 4, 8, 64])
def test_the_best_decay_is_negative_from_three_samples_on(b):
    """Over the whole range below √(b/2), the losses on a grid of the stable window."""
    for scale in np.linspace(0.05, 0.999, 20) * math.sqrt(b / 2):
        low, high = decay_ends(1.0, scale, b)
        grid = low + (high - low) * np.linspace(1e-3, 1 - 1e-3, 800)
        losses = [decay_losses(decay, 1.0, scale, b)[1] for decay in grid]
        best = best_decay(1.0, scale, b)
        assert best == pytest.approx(grid[np.argmin(losses)], abs=3e-3 * (high - low))
        assert negative_decay(scale, b) == (best < 0)
    assert negative_decay(0.69, 1, printed=True) and best_decay(1.0, 0.69, 1) * 0.69 == pytest.approx(0.172, abs=5e-4)


@pytest.mark.parametrize("decay", [-0.1, 0.2])
def test_the_quotient_is_the_test_loss_and_the_best_decay_makes_it_stationary(decay):
    def loss(gamma):
        return stationary(Descent(GaussianPopulation(A, U, 0.0), matched(4), 0.3, 0.0, gamma)).loss

    f, g = decay_quotient(A, decay, U, 0.3, 4)
    assert f / g / 2 == pytest.approx(loss(decay), rel=1e-9)


def test_noise_at_general_minima():
    """Equal residuals: the rank-one sign is minus; Gaussian inputs: plus."""
    theta = np.linalg.solve(A + 0.3 * np.eye(3), A @ U)
    shift = theta - U
    loss = shift @ A @ shift / 2
    c = stationary(Descent(GaussianPopulation(A, U, 0.0), matched(10**9), 0.1, 0.0, 0.3)).noise * 10**9
    np.testing.assert_allclose(corollary_2(A, 1, loss, 0.3 * theta, gaussian=True), c, rtol=1e-6)
    # signs as inputs and equal residuals, by the definition of C
    x, r = np.array(list(itertools.product([1.0, -1.0], repeat=2))), np.array([0.7, 0.7, -0.7, 0.7])
    slopes = x * r[:, None]
    exact = slopes.T @ slopes / 4 - np.outer(slopes.mean(0), slopes.mean(0))
    # a penalty with Γθ* = −∇L_0 holds the minimum there
    np.testing.assert_allclose(corollary_2(x.T @ x / 4, 1, 0.245, -slopes.mean(0)), exact, atol=1e-15)
    np.testing.assert_allclose(theorem_5(0.245, x.T @ x / 4, slopes.mean(0), -slopes.mean(0), 1), exact, atol=1e-15)
    printed = theorem_5(0.245, x.T @ x / 4, slopes.mean(0), -slopes.mean(0), 1, printed=True)
    assert np.abs(printed - exact).max() > 0.1


def test_noise_at_a_minimum_of_loss_zero():
    covariance = A / 5 + 0.1 * np.eye(3)
    fourth = GaussianPopulation(A).fourth(covariance) - A @ covariance @ A
    np.testing.assert_allclose(corollary_2_zero(A, covariance, 1, gaussian=True), fourth, rtol=1e-12)
    wide = RNG.standard_normal((3, 5))  # interpolation with Σ ∝ H⁺: all samples have the same loss
    h = wide.T @ wide / 3
    covariance = np.linalg.pinv(h)
    data = FinitePopulation(wide, np.zeros(3))
    np.testing.assert_allclose(
        corollary_2_zero(h, covariance, 1), data.fourth(covariance) - h @ covariance @ h, atol=1e-12
    )


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_corollary_three_is_the_large_batch_limit(momentum):
    b, lr, decay = 10**8, 0.3, 0.4 * A + 0.2 * np.eye(3)
    for u in (U, np.linalg.eigh(A)[1][:, 1]):
        theta = np.linalg.solve(A + decay, A @ u)
        loss = (theta - u) @ A @ (theta - u) / 2
        exact = stationary(Descent(GaussianPopulation(A, u, 0.0), matched(b), lr, momentum, decay)).covariance
        ours = corollary_3(A, decay, theta, loss, lr, b, momentum, gaussian=True)
        np.testing.assert_allclose(ours, exact, atol=1e-6 * np.abs(exact).max())
    printed = corollary_3(A, decay, theta, loss, lr, b, momentum, gaussian=True, printed=True)
    np.testing.assert_allclose(printed, ours, atol=1e-12 * np.abs(ours).max())  # an eigenvector


def test_averaged_labels_are_the_mean_over_labels():
    """Labels ±σ on all samples: all 2⁵ of them, whose stationary moments are averaged."""
    x, sigma = X[:5, :2], 0.6
    noise = matched(2)
    each = [
        stationary(Descent(FinitePopulation(x, sigma * np.array(signs)), noise, 0.2, 0.3))
        for signs in itertools.product([1.0, -1.0], repeat=5)
    ]
    found = stationary(Descent(averaged_labels(x, sigma**2), noise, 0.2, 0.3))
    np.testing.assert_allclose(found.covariance, np.mean([one.covariance for one in each], axis=0), rtol=1e-10)
    assert found.loss == pytest.approx(np.mean([one.loss for one in each]), rel=1e-12)


def test_theorem_six_is_approached_as_the_dimension_grows():
    b, errors = 8, []
    for d in (10, 40):
        ratios = []
        for seed in range(4):
            x = np.random.default_rng(seed).standard_normal((3 * d, d))
            lr = 0.5 * b / d
            found = stationary(Descent(averaged_labels(x, 0.5), matched(b), lr))
            hessian = x.T @ x / (3 * d)
            formula = theorem_6(hessian, lr, b, 0.5, 3.0)
            ratios.append(np.sum(hessian * found.covariance) / np.sum(hessian * formula))
            noise = proposition_4(hessian, found.covariance, b, 0.5, 3.0)
        errors.append(abs(np.mean(ratios) - 1))
    assert errors[1] < errors[0] / 2 and errors[1] < 0.05
    assert np.linalg.norm(noise - found.noise) < 0.1 * np.linalg.norm(found.noise)
    assert not theorem_6(hessian, 0.01, b, 0.5, 0.7).any()  # fewer samples than parameters


def test_theorem_six_solves_its_own_equation():
    """Eq. (80) with Proposition 4's noise, to rounding; with 1 + 1/b it is Theorem 2 at α = ∞."""
    lr, b = 0.4, 5
    sigma = theorem_6(A, lr, b, 0.7, 2.5)
    residual = A @ sigma + sigma @ A - lr * A @ sigma @ A - lr * proposition_4(A, sigma, b, 0.7, 2.5)
    assert np.abs(residual).max() < 1e-15
    exact = stationary(Descent(GaussianPopulation(A, variance=0.7), matched(b), lr)).covariance
    np.testing.assert_allclose(theorem_6(A, lr, b, 0.7, 1e300, fixed_dimension=True), exact, rtol=1e-10)


def test_edges_in_many_dimensions():
    for d, b in [(1, 3), (7, 4), (60, 16)]:
        edge = 0.01 * headroom(Descent(GaussianPopulation(2 * np.eye(d)), matched(b), 0.01))
        assert many_dimensions_edge(2.0, d, b, "theorem 2") == pytest.approx(edge, rel=1e-9)
        near, far = (f * many_dimensions_edge(2.0, d, b) for f in (0.999, 1.001))
        theorem_6(2 * np.eye(d), near, b, 1.0, 3.0)
        with pytest.raises(Refused, match="no stationary"):
            theorem_6(2 * np.eye(d), far, b, 1.0, 3.0)


@pytest.mark.parametrize("momentum", [0.0, 0.4])
def test_second_order_methods(momentum):
    lr, b, inverse = 0.2, 6, np.linalg.inv(A)
    found = stationary(Descent(GaussianPopulation(A, variance=0.7), matched(b), lr * inverse, momentum))
    np.testing.assert_allclose(newton(A, lr, b, 0.7, momentum), found.covariance, rtol=1e-9)
    rate = natural_rate(3, lr, b, 0.7, momentum)
    found = stationary(Descent(GaussianPopulation(A, variance=0.7), matched(b), rate * inverse, momentum))
    np.testing.assert_allclose(natural_gradient(A, lr, b, 0.7, momentum), found.covariance, rtol=1e-9)
    np.testing.assert_allclose(lr / b * np.linalg.inv(found.noise), rate * inverse, rtol=1e-9)  # Λ = (η/b)C⁻¹


def test_newton_is_unstable_in_many_dimensions_and_natural_gradient_is_not():
    for d in (1, 4, 30):
        b, lr = 5, 2 * 5 / (5 + d + 1)  # b(2 − η) = η(d + 1)
        with pytest.raises(Refused, match="unstable"):
            newton(np.eye(d), 1.0001 * lr, b, 1.0)
        newton(np.eye(d), 0.9999 * lr, b, 1.0)
        assert growth(Descent(GaussianPopulation(np.eye(d)), matched(b), lr)) == pytest.approx(1, rel=1e-9)
    for _ in range(60):
        d, b, mu = int(RNG.integers(1, 40)), int(RNG.integers(1, 20)), float(RNG.choice([0.0, 0.7]))
        rate = natural_rate(d, math.exp(RNG.uniform(-4, 4)), b, math.exp(RNG.uniform(-6, 2)), mu)
        assert growth(Descent(GaussianPopulation(np.eye(d)), matched(b), rate, mu)) < 1
    marginal = natural_rate(5, 0.1, 4, 0.0, 0.3)
    assert growth(Descent(GaussianPopulation(np.eye(5)), matched(4), marginal, 0.3)) == pytest.approx(1, rel=1e-8)


def test_the_scaling_law_gets_better_at_small_batches():
    a, ratio = np.diag([0.2, 0.5, 1.0]), 0.02
    limit = np.trace(a @ at_fixed_ratio(a, ratio, 0.0, 1.0))
    shares = []
    for b in (1, 2, 8, 16, 64):
        exact = stationary(Descent(GaussianPopulation(a), matched(b), ratio * b)).covariance
        np.testing.assert_allclose(at_fixed_ratio(a, ratio, ratio * b, 1.0), exact, atol=1e-12)
        shares.append(np.trace(a @ exact) / limit)
    np.testing.assert_allclose(shares, [1.008, 1.016, 1.067, 1.146, 2.28], atol=6e-3)
    momentum = stationary(Descent(GaussianPopulation(A, variance=0.3), matched(3), 0.06, 0.5)).covariance
    np.testing.assert_allclose(at_fixed_ratio(A, 0.02, 0.06, 0.3, 0.5), momentum, rtol=1e-9)


def test_students_norm_and_variance():
    beta, a, variance = 3.7, 1.4, 0.6

    def weight(theta, power):
        return theta**power * (variance + a * theta * theta) ** (-(1 + beta) / 2)

    norm, second = (2 * integrate.quad(weight, 0, math.inf, args=(power,))[0] for power in (0, 2))
    assert student(beta, a, variance) == pytest.approx((norm, second / norm), rel=1e-7)
    assert student(2.0, a, variance)[1] == math.inf


def test_the_best_decay_with_label_noise_can_be_negative_where_none_is_stable():
    """a = 1.3, η = 1, b = 16, u = 1: −0.006, −0.046, −0.165 at σ² = 0.1, 1, 10."""

    def loss(decay, variance):
        descent = Descent(GaussianPopulation([[1.3]], [1.0], variance), matched(16), 1.0, 0.0, decay)
        return stationary(descent).loss

    for variance, best in [(0.1, -0.006), (1.0, -0.046), (10.0, -0.165)]:
        found = optimize.minimize_scalar(loss, bounds=(-0.5, 0.2), args=(variance,), method="bounded").x
        assert found == pytest.approx(best, abs=6e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decay_losses(-1.0, 1.0, 0.5, 1), "no lr is stable"),
        (lambda: decay_losses(2.5, 1.0, 0.5, 1), "lr is unstable, .* below 0.491228"),  # 2k/(k² + 2a²/b)
        (lambda: decay_quotient(np.eye(2), 0.1, [1.0, 1.0], 1.5, 2), "lr is unstable"),
        (lambda: decay_quotient(np.diag([1.0, -0.5]), 0.1, [1.0, 1.0], 0.1, 2), "negative eigenvalue"),
        (lambda: corollary_3(np.eye(1), 0.5, [1.0], 0.1, 2.5, 1, 0.5), "lr below 2$"),
        (lambda: theorem_6(np.eye(4), 1.0, 2, 1.0, 3.0), "lower lr below 0.8"),  # 2b/(d + b − 1)
        (lambda: theorem_6(np.eye(4), 0.6, 1, 1.0, 3.0), "lower lr below 0.5"),
        (lambda: theorem_6(-np.eye(2), 0.1, 2, 1.0, 3.0), "negative eigenvalue"),
        (lambda: newton(np.eye(4), 1.0, 2, 1.0), "below 0.571429"),  # 2b/(b + d + 1)
        (lambda: newton(np.diag([1.0, 0.0]), 0.1, 2, 1.0), "eigenvalue 0"),
        (lambda: natural_gradient(np.diag([1.0, -1.0]), 0.1, 2, 1.0), "negative eigenvalue"),
        (lambda: stationary(Descent(averaged_labels(X, 1.0), matched(2), 0.1, decay=0.1)), "labels are averaged over"),
        (lambda: decay_ends(1.0, 0.8, 1), "no decay is stable"),
        (lambda: at_fixed_ratio(A, 0.5, 3.0, 1.0), "unstable"),
        (lambda: corollary_3(np.diag([1.0, 2.0]), [[0, 1.0], [1.0, 0]], [1.0, 1.0], 0.1, 0.1, 1), "do not commute"),
    ],
)
def test_what_has_no_value_is_refused(call, message):
    with pytest.raises(Refused, match=message):
        call()
