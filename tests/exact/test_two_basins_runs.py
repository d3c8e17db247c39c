"""Simulated runs of the toy: gradients and noise by automatic differentiation, chances against the exact chains."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.bench import toy as bench
from support.exact import two_basins as toy
from support.exact import two_basins_runs as simulation
from support.exact.two_basins_runs import Setting, simulate

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


@settings(deadline=None)
@given(places, st.integers(0, 999), st.booleans(), st.booleans())
def test_gradient_and_covariance_are_those_of_the_samples(place, seed, cumulative, at_ridge):
    """Against automatic differentiation in (w₁, w₂), sample by sample; half of the places are moved onto the ridge."""
    u, s = place
    if at_ridge:
        s = s * 0.6
        u = toy.edges(s)[seed % 2]
    data = simulation._Data(3, Setting(n=11, cumulative=cumulative), generator(seed))
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
    columns = [simulation._noise(dynamics, np.eye(2)[:, [k]], np.array([share]), C, "keep")[:, 0] for k in range(2)]
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
    flat = simulation._noise(FIRST, z, np.array([0.0]), None, "axis")[:, 0]
    np.testing.assert_allclose(np.abs(toy.plane(flat)), np.abs(np.linalg.eigh(2 * np.eye(2))[1][:, -1]), atol=1e-15)
    np.testing.assert_allclose(simulation._noise(FIRST, z, np.array([0.01]), None, "axis")[:, 0], [1, 0])


@pytest.mark.parametrize("dynamics", NOISY)
def test_variances_are_those_of_the_simulation(dynamics):
    """One step from a minimum: exact within five standard errors; the scatter of the mean of the samples is added."""
    along, across = toy.variances(dynamics, "sharp", Fraction(1, 100))
    assert along + across == Fraction(1, 100)
    steps = toy.plane(simulate(dynamics, 4000, 1, Setting(n=200), generator=generator()).final) - toy.BOTTOM
    mean = (toy.LR * toy.SHARP * toy.SPREAD) ** 2 / 200
    expected = np.array([float(along), float(across)]) + mean
    np.testing.assert_allclose((steps**2).mean(0), expected, rtol=5 * math.sqrt(2 / 4000) + 0.02)


def test_without_noise_or_with_the_papers_scale_nobody_leaves():
    assert not simulate("GD", 50, generator=generator()).left.any()
    for dynamics in NOISY:
        run = simulate(dynamics, 50, setting=Setting(protocol="paper"), generator=generator())
        assert not run.left.any()
        assert not run.arrived.any()


def test_protocols_differ_by_the_learning_rate():
    ends = {
        p: simulate(CONST, 20, 1, Setting(spread=0.0, protocol=p, lr=0.004), generator=generator()).final - 1
        for p in ("code", "paper")
    }
    np.testing.assert_allclose(ends["paper"], 0.004 * ends["code"], rtol=1e-9)


def test_a_run_keeps_its_record():
    run = simulate(FIRST, 300, 400, every=100, generator=generator())
    assert run.path.shape == (5, 300, 2)
    np.testing.assert_array_equal(run.path[-1], run.final)
    assert run.left.max() <= 400
    assert (run.left[run.flat] > 0).all()
    assert (run.left[run.returned] > 0).all()
    assert run.arrived.sum() == sum(a < -0.5 and b < -0.5 for a, b in run.final)
    np.testing.assert_array_equal(run.final, simulate(FIRST, 300, 400, generator=generator()).final)


@pytest.mark.parametrize(("dynamics", "trace"), [(CONST, 0.02), (HESSIAN, 0.01), (LEADING, 0.01)])
def test_the_chance_to_leave_agrees_with_simulation(dynamics, trace):
    """Five standard errors; small scatter of many samples, so that the covariance is the expected one."""
    run = simulate(dynamics, 5000, 60, Setting(trace=trace, spread=0.01), generator=generator())
    exact, simulated = toy.crossing(dynamics, 60, trace), (run.left > 0).mean()
    assert abs(simulated - exact) < 5 * math.sqrt(exact * (1 - exact) / 5000)
    assert exact > toy.crossing_closed_form(dynamics, 60, trace)


@pytest.mark.parametrize(("dynamics", "trace"), [(CONST, 0.03), (HESSIAN, 0.015), (LEADING, 0.015), (FIRST, 0.01)])
def test_the_chance_to_arrive_agrees_with_simulation(dynamics, trace):
    solution = toy.arrival(dynamics, 250, trace)
    run = simulate(dynamics, 4000, 250, Setting(trace=trace, spread=0.01, tie="keep"), generator=generator())
    exact = solution.start[-1]
    assert 0.05 < exact < 0.9
    assert abs(run.arrived.mean() - exact) < 5 * math.sqrt(exact * (1 - exact) / 4000) + 0.01
    assert len(solution.start) == len(solution.ridge) == 250
    assert (solution.ridge[100:] >= solution.start[100:]).all()


def test_scatter_lowers_the_chance_to_arrive_along_the_diagonal():
    chance = [toy.arrival_along(300, 0.02, spread=spread).start[-1] for spread in (0.0, 1e-4, 0.5, 1.0)]
    assert chance[1] == pytest.approx(chance[0], abs=1e-4)
    assert chance[1] > chance[2] > chance[3]
    run = simulate(FIRST, 2000, 300, Setting(trace=0.02, n=400, tie="keep"), generator=generator())
    assert abs(run.arrived.mean() - chance[3]) < 5 * math.sqrt(chance[3] * (1 - chance[3]) / 2000)


@pytest.mark.parametrize("dynamics", [LEADING, FIRST, "GD"])
def test_the_plain_loop_of_the_benchmark_draws_the_same_law(dynamics):
    """Mean square of the way along and across in the first step, within five standard errors."""
    plain = toy.plane(bench.plain(dynamics, 400, 1, generator())) - toy.BOTTOM
    ours = toy.plane(simulate(dynamics, 4000, 1, generator=generator()).final) - toy.BOTTOM
    np.testing.assert_allclose((plain**2).mean(0), (ours**2).mean(0), rtol=5 * math.sqrt(2 / 400) + 0.02, atol=1e-12)


def test_a_seed_is_no_generator():
    with pytest.raises(TypeError, match=r"generator = 3 is of type int: give numpy\.random\.default_rng"):
        simulate(CONST, generator=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate("SGD", generator=generator()), "dynamics = 'SGD' is unknown: choose GD, GLD const"),
        (lambda: simulate(CONST, steps=0, generator=generator()), "steps = 0 is out of range: give at least 1"),
        (lambda: Setting(protocol="both"), "protocol = 'both' is unknown: choose code, paper"),
        (lambda: Setting(tie="coin"), "tie = 'coin' is unknown: choose axis, keep"),
        (lambda: Setting(lr=0), "lr = 0 is out of range: give a finite number above 0"),
        (lambda: simulate(CONST, runs=0, generator=generator()), "runs = 0 is out of range"),
        (
            lambda: simulate(LEADING, setting=Setting(n=1), generator=generator()),
            "n = 1, spread = 1.0: GLD leading needs samples that differ",
        ),
        (
            lambda: simulate(DIAG, setting=Setting(spread=0.0), generator=generator()),
            "spread = 0.0: GLD diag needs samples that differ",
        ),
        (
            lambda: simulate(CONST, setting=Setting(cumulative=True), generator=generator()),
            "cumulative = True has no meaning for GLD const",
        ),
        (lambda: simulate(CONST, setting={"lr": 0.1}, generator=generator()), "setting = {'lr': 0.1} is of type dict"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
