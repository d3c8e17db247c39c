"""Local complexities of torch models: the ascent beside exact suprema, never above them; bounds; certificates."""

import math

import numpy as np
import pytest
import torch

from support.complexity import expansion, local_complexity, multipliers
from support.errors import NotFinite, Refused
from support.exact.complexity import Linear, Quadratic, given_data
from support.exact.multipliers import batches, sgd_factor, signs
from support.intervals import student
from support.risk import EmpiricalRisk
from support.sampling import FullBatch, GaussianCovariance, MiniBatch
from support.trust import CoupledLossError

torch.set_num_threads(1)


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def data(n, d, seed):
    generator = seeded(seed)
    draw = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((n, d), (n,), (d,))]
    return draw[0], draw[1], draw[2] / 3


def line(n=9, d=4, seed=0):
    """Losses x·θ − y: linear in θ."""
    x, y, theta = data(n, d, seed)
    model = torch.nn.Linear(d, 1, bias=False).double()
    return EmpiricalRisk(model, lambda outputs, targets: outputs[:, 0] - targets, (x, y), theta=theta, chunk=4)


def squares(outputs, targets):
    return (outputs[:, 0] - targets).square() / 2


def regression(n=9, d=4, seed=0, chunk=None):
    x, y, theta = data(n, d, seed)
    return EmpiricalRisk(torch.nn.Linear(d, 1, bias=False).double(), squares, (x, y), theta=theta, chunk=chunk)


def network(seed=0, n=12):
    """A network of two units with cross-entropy, d = 12."""
    x, y, _ = data(n, 2, seed)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh(), torch.nn.Linear(2, 2)).double()
    theta = torch.randn(12, generator=seeded(seed), dtype=torch.float64)
    return EmpiricalRisk(model, torch.nn.CrossEntropyLoss(reduction="none"), (x, (y > 0).long()), theta=theta)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("law", ["signs", "Gaussian", MiniBatch(9, 3), MiniBatch(9, 3, replace=False)], ids=str)
def test_linear_losses_are_found_and_bounded_exactly(law, absolute):
    risk = line()
    x, y, theta = data(9, 4, 0)
    found = local_complexity(risk, law, 0.7, generator=seeded(), absolute=absolute, steps=1, smooth=0.0)
    exact = Linear(x @ theta - y, x, 0.7).suprema(found.multipliers, absolute)
    np.testing.assert_allclose(found.draws, exact, rtol=1e-12)
    np.testing.assert_allclose(found.bounds, exact, rtol=1e-12)
    np.testing.assert_allclose(found.centre, found.multipliers @ (x @ theta - y) / 9, atol=1e-15)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_the_ascent_finds_the_supremum_of_a_quadratic_and_never_more(delta, absolute):
    x, y, theta = data(9, 4, 3)
    exact = Quadratic.least_squares(x, y, theta, delta)
    options = {"generator": seeded(), "absolute": absolute, "steps": 60, "restarts": 4}
    found = local_complexity(regression(seed=3), "signs", delta, known=exact, **options)
    gaps = exact.suprema(found.multipliers, absolute) - found.draws.numpy()
    assert gaps.min() >= -1e-12
    assert gaps.max() <= 1e-6 * found.draws.abs().max()
    np.testing.assert_allclose(found.bounds, found.draws.numpy() + gaps, rtol=1e-12)


def test_many_draws_cover_the_exact_complexity():
    x, y, theta = data(9, 4, 3)
    exact = given_data(Quadratic.least_squares(x, y, theta, 0.3), signs(9)).value
    found = local_complexity(
        regression(seed=3), "signs", 0.3, draws=200, generator=seeded(), steps=10, confidence=0.999, together=100
    )
    assert exact in found.lower
    assert found.lower.half_width < 0.2 * exact


def test_a_network_of_one_parameter_against_a_dense_grid():
    """Losses (tanh(θx) − y)² of one θ, at a radius where sums have several peaks."""
    x, y, _ = data(6, 1, 4)

    class Tanh(torch.nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs).tanh()

    risk = EmpiricalRisk(Tanh(1, 1, bias=False).double(), squares, (x, y), theta=torch.tensor([0.2]).double())
    found = local_complexity(risk, "Gaussian", 3.0, generator=seeded(), steps=40, restarts=12)
    grid = np.linspace(-2.8, 3.2, 200_001)
    sums = found.multipliers.numpy() @ ((np.tanh(grid * x.numpy()) - y.numpy()[:, None]) ** 2 / 2) / 6
    exact = abs(sums).max(1)
    assert (found.draws.numpy() <= exact + 1e-8).all()
    np.testing.assert_allclose(found.draws, exact, rtol=1e-4)


def test_every_draw_has_its_certificate():
    """A point of the ball whose weighted loss is the number, with the losses in another hand."""
    risk = network()
    found = local_complexity(risk, "signs", 0.5, generator=seeded())
    assert float(found.points.norm(dim=1).max()) <= 0.5 * (1 + 1e-12)
    for v, u, value, centre in zip(found.multipliers, found.points, found.draws, found.centre, strict=True):
        at = risk.at(risk.theta + u)
        torch.nn.utils.vector_to_parameters(at.theta, risk.model.parameters())
        losses = torch.nn.functional.cross_entropy(risk.model(risk.inputs), risk.targets, reduction="none").detach()
        assert float((v @ losses).abs() / 12) == pytest.approx(float(value), rel=1e-12)
        assert value > centre.abs()
    assert found.lower.value == pytest.approx(float(found.draws.mean()), rel=1e-12)
    assert found.lower.ends == student(found.draws).ends
    assert found.upper is None is found.bounds
    assert "at least" in repr(found) and "at most" not in repr(found)


def test_the_slope_is_that_of_the_weighted_loss_and_rules_a_small_ball():
    risk = network()
    found = local_complexity(risk, "signs", 1e-6, draws=5, generator=seeded())
    for v, slope in zip(found.multipliers, found.slope, strict=True):
        theta = risk.theta.clone().requires_grad_()
        whole = v @ risk.losses_at(theta, slice(None)) / risk.n
        assert float(slope) == pytest.approx(float(torch.autograd.grad(whole, theta)[0].norm()), rel=1e-12)
    torch.testing.assert_close(found.draws, found.centre.abs() + 1e-6 * found.slope, rtol=1e-10, atol=1e-12)


def test_known_constants_bound_from_above():
    """|∇²ℓ_i| = |x_i|², and a slope of at most |x_i| (|r_i| + δ|x_i|) in the ball."""
    risk, (x, y, theta) = regression(), data(9, 4, 0)
    norms, residuals = x.norm(dim=1), (x @ theta - y).abs()
    slopes = norms * (residuals + 0.4 * norms)
    options = {"generator": seeded(), "steps": 40}
    exact = Quadratic.least_squares(x, y, theta, 0.4)
    each = {
        name: local_complexity(risk, "signs", 0.4, **{**options, "generator": seeded(), name: bound})
        for name, bound in {"lipschitz": slopes, "smooth": norms.square(), "known": exact}.items()
    }
    V = each["known"].multipliers
    X, G = (V @ (x @ theta - y).square() / 18).abs(), (V * (x @ theta - y) @ x).norm(dim=1) / 9
    np.testing.assert_allclose(each["lipschitz"].bounds, X + 0.4 / 9 * V.abs() @ slopes, rtol=1e-12)
    np.testing.assert_allclose(each["smooth"].bounds, X + 0.4 * G + 0.16 / 18 * V.abs() @ norms**2, rtol=1e-12)
    for found in each.values():
        assert (found.draws <= found.bounds * (1 + 1e-9)).all()
        assert found.lower.value <= found.upper.value * (1 + 1e-9)
        assert "at most" in repr(found)
    both = local_complexity(risk, "signs", 0.4, **options, lipschitz=slopes, smooth=norms.square())
    np.testing.assert_array_equal(both.bounds, torch.minimum(each["lipschitz"].bounds, each["smooth"].bounds))


def test_the_expansion_of_quadratic_losses_is_the_losses():
    x, y, theta = data(9, 4, 0)
    ours, exact = expansion(regression(), 0.5), Quadratic.least_squares(x, y, theta, 0.5)
    for name in ("at_centre", "slopes", "curvatures"):
        np.testing.assert_allclose(getattr(ours, name), getattr(exact, name), atol=1e-13)
    assert ours.delta == 0.5


def test_chunks_and_batches_of_points_change_nothing_but_rounding():
    whole = local_complexity(network(), "signs", 0.5, generator=seeded(), steps=6)
    for chunk, together in ((12, 1), (5, 20), (5, 1), (12, 3)):
        risk = network()
        risk.chunk = chunk
        found = local_complexity(risk, "signs", 0.5, generator=seeded(), steps=6, together=together)
        np.testing.assert_allclose(found.draws, whole.draws, rtol=1e-9)


def test_a_generator_is_all_that_draws():
    risk, state = network(), torch.get_rng_state()
    before = [p.clone() for p in risk.model.parameters()]
    first, again, other = (
        local_complexity(risk, "signs", delta, generator=seeded(), restarts=3, steps=4) for delta in (0.5, 0.5, 0.1)
    )
    assert torch.equal(first.draws, again.draws) and torch.equal(first.points, again.points)
    assert torch.equal(first.multipliers, other.multipliers)  # the same V at another radius
    assert (other.draws < first.draws).all()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before, risk.model.parameters(), strict=True))


@pytest.mark.parametrize("restarts", [1, 2, 3])
def test_a_step_costs_one_gradient_of_a_draw_and_restart(monkeypatch, restarts):
    """And θ one for all draws, the certificate one evaluation a draw."""
    risk, calls = network(), []
    evaluated = type(risk).losses_at
    monkeypatch.setattr(type(risk), "losses_at", lambda self, *given: calls.append(1) or evaluated(self, *given))
    local_complexity(risk, "signs", 0.5, draws=5, generator=seeded(), restarts=restarts, steps=7, together=1)
    assert len(calls) == 1 + 5 * 7 * restarts + 5


def test_multipliers_are_those_of_the_law():
    n = 6
    counted = {tuple(v) for v in batches(n, 2).values.round(5).tolist()}
    drawn = multipliers(MiniBatch(n, 2), n, 400, seeded()).double()
    assert {tuple(v) for v in drawn.numpy().round(5).tolist()} == counted
    assert set(multipliers("signs", 3, 50, seeded()).flatten().tolist()) == {-1.0, 1.0}
    gaussian = multipliers("gaussian", 1, 4000, seeded())
    assert 1.0 in student(gaussian.square().flatten(), 0.999)
    centred = multipliers(GaussianCovariance(n, 2), n, 4000, seeded())
    assert 36 * float(GaussianCovariance(n, 2).covariance.diagonal) in student(centred[:, 0].square(), 0.999)
    np.testing.assert_allclose(centred.sum(1), 0, atol=1e-4)


def test_without_noise_there_is_no_complexity():
    found = local_complexity(regression(), FullBatch(9, 3), 0.5, generator=seeded(), draws=2)
    assert found.draws.abs().max() < 1e-6


def test_a_flat_point_is_left_by_a_random_start():
    """At θ = 0 the losses θ²/2 of two samples have no slope."""
    model = torch.nn.Linear(1, 1, bias=False).double()
    ones, zeros = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    risk = EmpiricalRisk(model, squares, (ones, zeros), theta=torch.zeros(1).double())
    found = local_complexity(risk, "signs", 0.5, generator=seeded(), restarts=4)
    np.testing.assert_allclose(found.draws, found.multipliers.mean(1).abs() / 8, rtol=1e-12)


def test_a_model_that_torch_cannot_batch_goes_one_by_one():
    class Branching(torch.nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) * (2 if float(self.weight.detach().sum()) > -99 else 1)

    x, y, theta = data(9, 4, 0)
    risk = EmpiricalRisk(Branching(4, 1, bias=False).double(), squares, (x, y), theta=theta)
    found = local_complexity(risk, "signs", 0.5, generator=seeded(), steps=40, together=20)
    exact = Quadratic.least_squares(2 * x, y, theta, 0.5).suprema(found.multipliers)
    np.testing.assert_allclose(found.draws, exact, rtol=1e-6)


def test_batches_of_half_the_data_stay_within_the_talks_bound():
    """Theorem 1 (2) for given data: SGD of all n, against signs on random sets of b."""
    x, y, theta = data(6, 2, 2)
    whole = Quadratic.least_squares(x, y, theta, 0.5)
    left = given_data(whole, batches(6, 3, replace=False)).value
    sets = [given_data(whole.take([*np.flatnonzero(v > 0)]), signs(3)).value for v in batches(6, 3, False).values]
    assert left <= float(sgd_factor(6, 3)) * np.mean(sets)


def logarithm(outputs, targets):
    return -outputs[:, 0].log()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"delta": 0.0}, Refused, "delta = 0.0"),
        ({"delta": -1.0}, Refused, "delta = -1.0"),
        ({"draws": 1}, Refused, "draws = 1"),
        ({"law": "coins"}, Refused, "choose signs, Gaussian"),
        ({"law": MiniBatch(5, 2)}, Refused, "the law is for n = 5 samples, the risk has 9"),
        ({"lipschitz": -1.0}, Refused, "negative constant -1"),
        ({"smooth": [1.0, 2.0]}, Refused, "smooth of shape"),
        ({"smooth": math.nan}, NotFinite, "smooth"),
        ({"known": Linear([0.0], [[1.0]], 0.5)}, Refused, "1 samples"),
        ({"known": Linear(np.zeros(9), np.ones((9, 4)), 0.1)}, Refused, "delta = 0.1"),
    ],
)
def test_bad_input_is_refused_before_any_work(call, error, message):
    with pytest.raises(error, match=message):
        local_complexity(**{"risk": regression(), "law": "signs", "delta": 0.5, "generator": seeded(), **call})


def test_losses_that_are_not_finite_are_refused():
    x, y, theta = torch.ones(3, 1).double(), torch.zeros(3).double(), torch.tensor([0.1]).double()
    model = torch.nn.Linear(1, 1, bias=False).double()
    risk = EmpiricalRisk(model, logarithm, (x, y), theta=theta)
    local_complexity(risk, "signs", 0.05, generator=seeded())
    with pytest.raises(NotFinite, match="in the ball are not finite: choose a smaller delta"):
        local_complexity(risk, "signs", 0.2, generator=seeded())
    with pytest.raises(NotFinite, match="at θ"):
        local_complexity(risk.at(-theta), "signs", 0.05, generator=seeded())


def test_coupled_losses_and_large_expansions_are_refused():
    x, y, _ = data(9, 4, 0)
    with pytest.raises(CoupledLossError):
        EmpiricalRisk(torch.nn.Linear(4, 1).double(), lambda o, t: (o - o.mean()).square().sum(1), (x, y))
    big = EmpiricalRisk(torch.nn.Linear(200, 1).double(), squares, (torch.ones(2, 200).double(), y[:2]))
    with pytest.raises(Refused, match="d = 201"):
        expansion(big, 1.0)
