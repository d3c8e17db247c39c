"""The toy of two basins: its geometry against the formula in the papers' coordinates, its noise by its factors, its
exact chains against simulation.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from support.bench import toy as bench
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


@settings(deadline=None)
@given(places, st.integers(0, 999), st.booleans(), st.booleans())
def test_gradient_and_covariance_are_those_of_the_samples(place, seed, cumulative, at_ridge):
    """Against automatic differentiation in (w₁, w₂), sample by sample; half of the places are moved onto the ridge."""
    u, s = place
    if at_ridge:
        s = s * 0.6
        u = toy.edges(s)[seed % 2]
    data = toy._Data(3, 11, 1.0, cumulative, generator(seed))
    w = np.repeat([[u], [s]], 3, axis=1)
    share, gradient, C = data.look(w, True)
    for run in range(3):
        x = torch.tensor(toy.plane(data.x[:, run].T))
        theta = torch.tensor(np.repeat(toy.plane((u, s))[None], 11, axis=0), requires_grad=True)
        losses = official_losses(theta, x)
        each = toy.plane(torch.autograd.grad(losses.sum(), theta)[0].numpy())
        low, high = toy.bowls(toy.plane((u, s)), x.numpy())
        assert share[run] == pytest.approx((low < high).mean())
        np.testing.assert_allclose(gradient[:, run], each.mean(0), rtol=1e-9, atol=1e-9)
        listed = each.cumsum(0) if cumulative else each
        np.testing.assert_allclose(
            C[:, :, run], np.cov(listed.T, bias=True), rtol=1e-8, atol=1e-9 * max(1, np.abs(listed).max() ** 2)
        )


@pytest.mark.parametrize("dynamics", NOISY)
@pytest.mark.parametrize("share", [1.0, 0.4, 0.0])
def test_noise_has_the_covariance_of_its_name(dynamics, share):
    C = np.array([[5.0, 1.0], [1.0, 2.0]])[:, :, None]
    columns = [toy._noise(dynamics, np.eye(2)[:, [k]], np.array([share]), C, "keep")[:, 0] for k in range(2)]
    ours = sum(np.outer(column, column) for column in columns)
    if dynamics == FIRST:
        ours = np.outer(columns[0], columns[0])
    hessian = share * np.diag(toy.SHARP) + (1 - share) * np.diag(toy.FLAT)
    turn = np.array([[1, 1], [1, -1]]) / math.sqrt(2)
    diagonal = turn @ np.diag(np.diag(turn @ C[:, :, 0] @ turn)) @ turn
    wanted = {CONST: np.eye(2), DIAG: diagonal, LEADING: C[:, :, 0], HESSIAN: hessian, FIRST: np.diag([1, 0])}[dynamics]
    np.testing.assert_allclose(ours, wanted / np.trace(wanted), atol=1e-12)


def test_a_tie_is_broken_as_the_library_does():
    z = np.array([[1.0], [0.0]])
    flat = toy._noise(FIRST, z, np.array([0.0]), None, "axis")[:, 0]
    np.testing.assert_allclose(np.abs(toy.plane(flat)), np.abs(np.linalg.eigh(2 * np.eye(2))[1][:, -1]), atol=1e-15)
    np.testing.assert_allclose(toy._noise(FIRST, z, np.array([0.01]), None, "axis")[:, 0], [1, 0])


@pytest.mark.parametrize("dynamics", NOISY)
def test_variances_are_those_of_the_simulation(dynamics):
    """One step from a minimum: exact within five standard errors; the scatter of the mean of the samples is added."""
    along, across = toy.variances(dynamics, "sharp", Fraction(1, 100))
    assert along + across == Fraction(1, 100)
    steps = toy.plane(toy.simulate(dynamics, 4000, 1, n=200, generator=generator()).final) - toy.BOTTOM
    mean = (toy.LR * toy.SHARP * toy.SPREAD) ** 2 / 200
    expected = np.array([float(along), float(across)]) + mean
    np.testing.assert_allclose((steps**2).mean(0), expected, rtol=5 * math.sqrt(2 / 4000) + 0.02)


def test_without_noise_or_with_the_papers_scale_nobody_leaves():
    assert not toy.simulate("GD", 50, generator=generator()).left.any()
    for dynamics in NOISY:
        run = toy.simulate(dynamics, 50, protocol="paper", generator=generator())
        assert not run.left.any()
        assert not run.arrived.any()


def test_protocols_differ_by_the_learning_rate():
    ends = {
        p: toy.simulate(CONST, 20, 1, spread=0.0, protocol=p, lr=0.004, generator=generator()).final - 1
        for p in ("code", "paper")
    }
    np.testing.assert_allclose(ends["paper"], 0.004 * ends["code"], rtol=1e-9)


def test_a_run_keeps_its_record():
    run = toy.simulate(FIRST, 300, 400, every=100, generator=generator())
    assert run.path.shape == (5, 300, 2)
    np.testing.assert_array_equal(run.path[-1], run.final)
    assert run.left.max() <= 400
    assert (run.left[run.flat] > 0).all()
    assert (run.left[run.returned] > 0).all()
    assert run.arrived.sum() == sum(a < -0.5 and b < -0.5 for a, b in run.final)
    np.testing.assert_array_equal(run.final, toy.simulate(FIRST, 300, 400, generator=generator()).final)


def test_leaving_along_the_diagonal_is_a_coin():
    p, q = norm.sf(toy.NEAR / 0.1), norm.sf(toy.FAR / 0.1)
    assert toy.crossing(FIRST) == pytest.approx(1 - (1 - p - q) ** 500, rel=1e-10)
    assert toy.crossing_closed_form(FIRST) == pytest.approx(1 - (1 - p) ** 500, rel=1e-10)
    assert toy.crossing("GD") == toy.crossing_closed_form("GD") == 0


@pytest.mark.parametrize(("dynamics", "trace"), [(CONST, 0.02), (HESSIAN, 0.01), (LEADING, 0.01)])
def test_the_chance_to_leave_agrees_with_simulation(dynamics, trace):
    """Five standard errors; small scatter of many samples, so that the covariance is the expected one."""
    run = toy.simulate(dynamics, 5000, 60, trace=trace, spread=0.01, n=100, generator=generator())
    exact, simulated = toy.crossing(dynamics, 60, trace), (run.left > 0).mean()
    assert abs(simulated - exact) < 5 * math.sqrt(exact * (1 - exact) / 5000)
    assert exact > toy.crossing_closed_form(dynamics, 60, trace)


def test_a_rare_exit_keeps_its_digits():
    """At small noise the ratio to the closed form tends to a number near one; a difference from one would be lost in
    rounding.
    """
    rare = toy.crossing(HESSIAN, 1, 0.0005)
    assert 0 < rare < 1e-30
    assert rare == pytest.approx(norm.sf(toy.NEAR / math.sqrt(0.0005 * 10 / 11)), rel=0.5)
    assert toy.crossing(HESSIAN, 100, 0.0005) == pytest.approx(100 * rare, rel=0.5)


@pytest.mark.parametrize(("dynamics", "trace"), [(CONST, 0.03), (HESSIAN, 0.015), (LEADING, 0.015), (FIRST, 0.01)])
def test_the_chance_to_arrive_agrees_with_simulation(dynamics, trace):
    solution = toy.arrival(dynamics, 250, trace)
    run = toy.simulate(dynamics, 4000, 250, trace=trace, spread=0.01, tie="keep", generator=generator())
    exact = solution.start[-1]
    assert 0.05 < exact < 0.9
    assert abs(run.arrived.mean() - exact) < 5 * math.sqrt(exact * (1 - exact) / 4000) + 0.01
    assert len(solution.start) == len(solution.ridge) == 250
    assert (solution.ridge[100:] >= solution.start[100:]).all()


def test_finer_cells_change_little():
    coarse, fine = (toy.arrival(HESSIAN, 150, 0.02, cell=cell) for cell in (0.02, 0.005))
    np.testing.assert_allclose(coarse.start, fine.start, atol=1e-3)
    np.testing.assert_allclose(coarse.ridge, fine.ridge, atol=2e-3)
    assert not toy.arrival("GD", 5).start.any()


def test_scatter_lowers_the_chance_to_arrive_along_the_diagonal():
    chance = [toy.arrival_along(300, 0.02, spread=spread).start[-1] for spread in (0.0, 1e-4, 0.5, 1.0)]
    assert chance[1] == pytest.approx(chance[0], abs=1e-4)
    assert chance[1] > chance[2] > chance[3]
    run = toy.simulate(FIRST, 2000, 300, trace=0.02, n=400, tie="keep", generator=generator())
    assert abs(run.arrived.mean() - chance[3]) < 5 * math.sqrt(chance[3] * (1 - chance[3]) / 2000)


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


@pytest.mark.parametrize("dynamics", [LEADING, FIRST, "GD"])
def test_the_plain_loop_of_the_benchmark_draws_the_same_law(dynamics):
    """Mean square of the way along and across in the first step, within five standard errors."""
    plain = toy.plane(bench.plain(dynamics, 400, 1, generator())) - toy.BOTTOM
    ours = toy.plane(toy.simulate(dynamics, 4000, 1, generator=generator()).final) - toy.BOTTOM
    np.testing.assert_allclose((plain**2).mean(0), (ours**2).mean(0), rtol=5 * math.sqrt(2 / 400) + 0.02, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: toy.simulate("SGD", generator=generator()), "dynamics = 'SGD' is unknown: choose from GD, GLD const"),
        (lambda: toy.simulate(CONST, steps=0, generator=generator()), "steps = 0: take at least 1"),
        (lambda: toy.crossing(CONST, 10, 0.0), "trace = 0.0: the expected squared norm of the noise must be positive"),
        (
            lambda: toy.simulate(CONST, protocol="both", generator=generator()),
            "protocol = 'both', tie = 'axis': choose protocol code or paper",
        ),
        (
            lambda: toy.simulate(CONST, tie="coin", generator=generator()),
            "tie = 'coin': choose protocol code or paper, tie axis or keep",
        ),
        (lambda: toy.simulate(CONST, runs=0, generator=generator()), "runs = 0, n = 100, lr = 0.005"),
        (
            lambda: toy.simulate(LEADING, n=1, generator=generator()),
            "n = 1, spread = 1.0: GLD leading needs samples that differ",
        ),
        (
            lambda: toy.simulate(DIAG, spread=0.0, generator=generator()),
            "spread = 0.0: GLD diag needs samples that differ",
        ),
        (
            lambda: toy.simulate(CONST, cumulative=True, generator=generator()),
            "cumulative = True has no meaning for GLD const",
        ),
        (lambda: toy.variances(CONST, "middle"), "bowl = 'middle' is unknown: choose sharp or flat"),
        (lambda: toy.arrival_along(10, spread=-1.0), "spread = -1.0: a standard deviation is multiplied by it"),
        (lambda: toy.arrival("noise"), "dynamics = 'noise' is unknown"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        call()


def test_a_seed_is_no_generator():
    with pytest.raises(TypeError, match=r"generator = 3 is no random generator: give numpy\.random\.default_rng"):
        toy.simulate(CONST, generator=3)
