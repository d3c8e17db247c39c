"""The exact escaping efficiency against independent routes: the Lyapunov equation as an ODE, quadrature of Ito's terms,
and the recursion of the steps.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import solve_continuous_lyapunov

from support.errors import NotFinite
from support.exact import ornstein_uhlenbeck
from support.exact.ornstein_uhlenbeck import OrnsteinUhlenbeck, discrete_efficiency

seeds = st.integers(0, 10**6)
dimensions = st.integers(1, 5)
kinds = st.sampled_from(["definite", "singular", "indefinite"])


def problem(seed, d, kind="definite"):
    """A random symmetric H of the kind wanted (definite if d = 1) and a random covariance, which do not commute."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    values = rng.uniform(0.1, 3.0, d)
    if kind == "singular":
        values[: d // 2] = 0.0
    if kind == "indefinite":
        values[: d // 2] *= -0.5
    factor = rng.standard_normal((d, d))
    return (axes * values) @ axes.T, factor @ factor.T


def lyapunov_ode(hessian, noise, t):
    """E θθᵀ by integrating dM/ds = −HM − MH + Q."""

    def slope(_, flat):
        moment = flat.reshape(noise.shape)
        return (noise - hessian @ moment - moment @ hessian).ravel()

    return (
        solve_ivp(slope, (0, t), np.zeros(noise.size), rtol=1e-10, atol=1e-13, method="DOP853")
        .y[:, -1]
        .reshape(noise.shape)
    )


@given(seed=seeds, d=dimensions, kind=kinds, t=st.floats(0.01, 3.0))
@settings(max_examples=60, deadline=None)
def test_covariance_and_efficiency_follow_the_lyapunov_equation(seed, d, kind, t):
    hessian, noise = problem(seed, d, kind)
    process, moment = OrnsteinUhlenbeck(hessian, noise), lyapunov_ode(hessian, noise, t)
    np.testing.assert_allclose(process.covariance(t), moment, rtol=1e-7, atol=1e-8 * np.abs(moment).max())
    assert process.efficiency(t) == pytest.approx(
        0.5 * np.trace(hessian @ moment), rel=1e-6, abs=1e-8 * np.abs(moment).max()
    )


@given(seed=seeds, d=dimensions, kind=kinds, t=st.floats(0.01, 3.0))
@settings(max_examples=60, deadline=None)
def test_ito_terms_are_their_integrals_and_sum_to_the_efficiency(seed, d, kind, t):
    hessian, noise = problem(seed, d, kind)
    process = OrnsteinUhlenbeck(hessian, noise)
    descent, lift = process.ito(t)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    integral = (
        sum(
            w * np.trace(hessian @ process.covariance(t * (x + 1) / 2) @ hessian)
            for x, w in zip(nodes, weights, strict=True)
        )
        * t
        / 2
    )
    scale = abs(descent) + abs(lift)
    assert descent == pytest.approx(-integral, rel=1e-9)
    assert lift == pytest.approx(t * np.trace(hessian @ noise) / 2, abs=1e-12 * scale)
    assert descent + lift == pytest.approx(process.efficiency(t), abs=1e-12 * scale)
    assert process.excess(t) * process.efficiency(t) == pytest.approx(-descent, rel=1e-12)


@given(seed=seeds, d=dimensions, log_t=st.floats(-12, 12))
@settings(max_examples=80, deadline=None)
def test_for_positive_curvature_the_linear_form_overstates_by_at_most_t_h1_of_itself(seed, d, log_t):
    hessian, noise = problem(seed, d)
    process, t = OrnsteinUhlenbeck(hessian, noise), 10.0**log_t
    descent, lift = process.ito(t)
    assert 0 <= -descent <= lift * min(1, t * process.curvature[0]) * (1 + 1e-12)
    assert 0 < process.efficiency(t) <= np.trace(noise) / 4 * (1 + 1e-12)


@given(seed=seeds, d=dimensions, kind=kinds, log_t=st.floats(-6, 6))
@settings(max_examples=80, deadline=None)
def test_noise_along_the_first_eigenvector_is_the_largest_at_every_time(seed, d, kind, log_t):
    hessian, noise = problem(seed, d, kind)
    first = np.linalg.eigh(hessian)[1][:, -1]
    best = OrnsteinUhlenbeck(hessian, np.trace(noise) * np.outer(first, first)).efficiency(10.0**log_t)
    assert OrnsteinUhlenbeck(hessian, noise).efficiency(10.0**log_t) <= best + 1e-10 * abs(best)
    assert best == pytest.approx(
        -np.trace(noise) * math.expm1(-2 * np.linalg.eigvalsh(hessian)[-1] * 10.0**log_t) / 4,
        rel=1e-9,
        abs=1e-9 * np.trace(noise),
    )


def test_the_limit_is_the_noise_in_the_range():
    for kind in ("definite", "singular"):
        hessian, noise = problem(3, 4, kind)
        projector = np.linalg.pinv(hessian) @ hessian
        process = OrnsteinUhlenbeck(hessian, noise)
        assert process.efficiency(math.inf) == pytest.approx(np.trace(projector @ noise) / 4, rel=1e-12)
        assert process.efficiency(1e12) == pytest.approx(process.efficiency(math.inf), rel=1e-12)
    hessian, noise = problem(3, 4)
    np.testing.assert_allclose(
        OrnsteinUhlenbeck(hessian, noise).covariance(math.inf), solve_continuous_lyapunov(hessian, noise), rtol=1e-9
    )


def test_small_times_keep_their_digits():
    """Curvature 1, noise 1, t = 10⁻¹²: the descent is −t²/2 + …, twelve digits below the lift."""
    process = OrnsteinUhlenbeck([1.0], [1.0])
    t = Fraction(1, 10**12)
    exact = (2 * t - (2 * t - 2 * t**2 + Fraction(4, 3) * t**3)) / 4
    assert process.ito(1e-12)[0] == pytest.approx(-float(exact), rel=1e-11)
    assert process.excess(1e-12) == pytest.approx(1e-12, rel=1e-11)
    for x in (0.2, 0.2499, 0.2501, 0.3):  # the series and the difference meet at 2ht = ½
        assert process.ito(x)[0] == pytest.approx(-(2 * x + math.expm1(-2 * x)) / 4, rel=1e-13)
    assert process.excess(0.1) == pytest.approx(0.2 / (1 - math.exp(-0.2)) - 1, rel=1e-13)


def test_negative_curvature_falls_without_end_only_if_it_receives_noise():
    noisy, quiet = OrnsteinUhlenbeck([2.0, -1.0], [1.0, 1.0]), OrnsteinUhlenbeck([2.0, -1.0], [1.0, 0.0])
    assert noisy.efficiency(5.0) == pytest.approx((2 - math.exp(-20) - math.exp(10)) / 4)
    np.testing.assert_array_equal(noisy.efficiency([1e3, math.inf]), [-math.inf, -math.inf])
    np.testing.assert_array_equal(noisy.excess([1e3, math.inf]), [-1, -1])
    assert quiet.efficiency(math.inf) == 0.25
    assert quiet.covariance(1e6)[0] == pytest.approx(0.25)
    with pytest.raises(NotFinite, match=r"covariance at t = 1000 .* lowest curvature is -1; choose a smaller t"):
        noisy.covariance(1e3)
    with pytest.raises(NotFinite, match="t = inf"):
        OrnsteinUhlenbeck([1.0, 0.0], [1.0, 1.0]).covariance(math.inf)


def test_a_dense_matrix_has_no_curvature_from_rounding():
    """A singular dense H has eigenvalues ±10⁻¹⁶; the limit must not see them, nor noise that is zero up to rounding."""
    hessian, _ = problem(7, 5, "singular")
    process = OrnsteinUhlenbeck(hessian, np.eye(5))
    assert (process.curvature == 0).sum() == 2
    assert process.efficiency(math.inf) == pytest.approx(3 / 4)
    values, axes = np.linalg.eigh(problem(8, 4, "indefinite")[0])
    first = np.outer(axes[:, -1], axes[:, -1])
    assert OrnsteinUhlenbeck((axes * values) @ axes.T, first).efficiency(math.inf) == pytest.approx(0.25)


def test_diagonals_give_what_dense_matrices_give():
    h, n, t = np.array([3.0, 0.5, 0.0, -0.2]), np.array([1.0, 2.0, 0.5, 0.1]), np.array([0.1, 1.0, 4.0])
    thin, dense, mixed = (
        OrnsteinUhlenbeck(h, n),
        OrnsteinUhlenbeck(np.diag(h), np.diag(n)),
        OrnsteinUhlenbeck(np.diag(h), n),
    )
    for other in (dense, mixed, OrnsteinUhlenbeck(h, np.diag(n))):
        np.testing.assert_allclose(other.efficiency(t), thin.efficiency(t), rtol=1e-13)
        np.testing.assert_allclose(other.covariance(2.0), np.diag(thin.covariance(2.0)), rtol=1e-13)
    np.testing.assert_allclose(
        discrete_efficiency(np.diag(h), np.diag(n), 0.1, [3, 50]), discrete_efficiency(h, n, 0.1, [3, 50]), rtol=1e-13
    )


@given(seed=seeds, d=dimensions, kind=kinds, lr=st.floats(0.01, 1.0), steps=st.integers(0, 40))
@settings(max_examples=80, deadline=None)
def test_steps_follow_the_recursion_of_the_second_moment(seed, d, kind, lr, steps):
    hessian, covariance = problem(seed, d, kind)
    shrink, moment = np.eye(d) - lr * hessian, np.zeros((d, d))
    for _ in range(steps):
        moment = shrink @ moment @ shrink + lr**2 * covariance
    assert discrete_efficiency(hessian, covariance, lr, steps) == pytest.approx(
        np.trace(hessian @ moment) / 2, rel=1e-8, abs=1e-10 * np.abs(moment).max()
    )


@pytest.mark.parametrize("kind", ["definite", "singular", "indefinite"])
def test_steps_tend_to_the_process_at_first_order(kind):
    hessian, covariance = problem(11, 4, kind)
    # noise Q = ηC held fixed: the same diffusion, cut into finer steps
    errors = [
        discrete_efficiency(hessian, covariance / lr, lr, round(1 / lr))
        - OrnsteinUhlenbeck(hessian, covariance).efficiency(1.0)
        for lr in (1e-3, 5e-4)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, rel=5e-3)
    assert abs(errors[1]) < 1e-3 * np.trace(covariance)


def test_the_edge_of_stability_and_the_flat_direction():
    lr, c = 0.5, 3.0
    np.testing.assert_allclose(
        discrete_efficiency([4.0], [c], lr, [0, 1, 7]), lr**2 * 4 * c / 2 * np.array([0, 1, 7]), rtol=1e-14
    )  # ηh = 2
    assert discrete_efficiency([4.0], [c], lr, math.inf) == math.inf
    assert discrete_efficiency([0.0], [c], lr, math.inf) == 0
    assert discrete_efficiency([2.0], [c], lr, [1, 9])[0] == pytest.approx(
        lr**2 * 2 * c / 2
    )  # ηh = 1: forgets everything in one step
    assert discrete_efficiency([1.0, 0.0], [c, c], lr, math.inf) == pytest.approx(lr / 2 * c / (2 - lr))
    nearly = discrete_efficiency([4.0 * (1 - 1e-13)], [c], lr, 10)
    assert nearly == pytest.approx(discrete_efficiency([4.0], [c], lr, 10), rel=1e-10)
    assert discrete_efficiency([5.0], [c], lr, 10**6) == math.inf
    assert discrete_efficiency([-1.0], [c], lr, 10**6) == -math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: OrnsteinUhlenbeck([[1.0, 2.0], [0.0, 1.0]], np.eye(2)),
            r"hessian is not symmetric.* up to 2: pass \(A \+ A\.T\) / 2",
        ),
        (lambda: OrnsteinUhlenbeck(np.eye(2), [[1.0, 2.0], [0.0, 1.0]]), "diffusion is not symmetric"),
        (
            lambda: OrnsteinUhlenbeck([[1.0, np.nan], [np.nan, 1.0]], np.eye(2)),
            "2 of 4 hessian are not finite",
        ),
        (lambda: OrnsteinUhlenbeck(np.eye(2), np.diag([np.inf, 1.0])), "1 of 4 diffusion are not finite"),
        (lambda: OrnsteinUhlenbeck(np.eye(2), np.diag([1.0, -0.5])), "diffusion has the negative eigenvalue -0.5"),
        (lambda: OrnsteinUhlenbeck([1.0, 1.0], [1.0, -0.5]), "diffusion has the negative eigenvalue -0.5"),
        (lambda: OrnsteinUhlenbeck(np.eye(2), np.eye(3)), r"hessian has shape \(2, 2\), diffusion \(3, 3\)"),
        (lambda: OrnsteinUhlenbeck(np.ones((2, 3)), np.eye(2)), r"hessian has shape \(2, 3\)"),
        (lambda: OrnsteinUhlenbeck(1.0, 1.0), r"hessian has shape \(\)"),
        (lambda: OrnsteinUhlenbeck([1.0], [1.0]).efficiency(-0.1), "t = -0.1 is no time"),
        (lambda: OrnsteinUhlenbeck([1.0], [1.0]).linear([1.0, -2.0]), "t = -2 is no time"),
        (lambda: OrnsteinUhlenbeck([1.0], [1.0]).ito(math.nan), "1 of 1 t are not finite"),
        (lambda: OrnsteinUhlenbeck([1.0], [1.0]).covariance(-1.0), "t = -1 is no time"),
        (lambda: discrete_efficiency([1.0], [1.0], 0.0, 3), "lr = 0.0 is out of range"),
        (lambda: discrete_efficiency([1.0], [1.0], math.inf, 3), "lr = inf"),
        (lambda: discrete_efficiency([1.0], [1.0], 0.1, 2.5), "steps = 2.5: give whole numbers"),
        (lambda: discrete_efficiency([1.0], [1.0], 0.1, -1), "steps = -1: give whole numbers"),
        (lambda: discrete_efficiency([1.0], [-1.0], 0.1, 1), "covariance has the negative eigenvalue -1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_matrix_too_large_for_a_dense_path_is_refused(monkeypatch):
    monkeypatch.setattr(ornstein_uhlenbeck, "DENSE_LIMIT", 3)
    with pytest.raises(
        ValueError, match=r"hessian is dense with d = 4 > 3: give curvatures and noise along H's eigenvectors"
    ):
        OrnsteinUhlenbeck(np.eye(4), np.ones(4))
    assert OrnsteinUhlenbeck(np.ones(4), np.ones(4)).efficiency(math.inf) == 1.0


def test_growth_both_ways_at_once_is_refused():
    with pytest.raises(NotFinite, match="at once"):
        discrete_efficiency([5.0, -1.0], [1.0, 1.0], 0.5, 10**6)
