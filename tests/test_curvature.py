"""Curvature operators against autograd's dense second derivatives, trace estimates; what is refused."""

import pytest
import torch
from torch import nn

from support.curvature import GaussNewton, Hessian
from support.gradients import GradientMatrix
from support.risk import EmpiricalRisk
from support.sampling import MiniBatch
from support.spectra import leading

N = 14


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def squares(outputs, targets):
    return (outputs - nn.functional.one_hot(targets, 3)).square().sum(1)


NETWORKS = {
    "tanh": lambda: nn.Sequential(nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3)
    ),
    "frozen layer": lambda: nn.Sequential(nn.Linear(16, 6).requires_grad_(False), nn.Tanh(), nn.Linear(6, 3)),
}


def problem(network="tanh", loss=cross_entropy):
    torch.manual_seed(0)
    model = NETWORKS[network]().double()
    generator = torch.Generator().manual_seed(1)
    return (
        model,
        loss,
        torch.randn(N, 16, generator=generator, dtype=torch.float64),
        torch.randint(0, 3, (N,), generator=generator),
    )


def risk(model, loss, inputs, targets, **options):
    return EmpiricalRisk(model, loss, (inputs, targets), **options)


def dense_hessian(*data):
    whole = risk(*data)
    return torch.func.hessian(lambda theta: whole.losses_at(theta, slice(0, N)).mean())(whole.theta)


def close(ours, dense, atol=1e-12):
    torch.testing.assert_close(ours, dense, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("loss", [cross_entropy, squares])
@pytest.mark.parametrize(("chunk", "keep"), [(None, False), (5, False), (5, True)])
def test_the_hessian_is_autograds(network, loss, chunk, keep):
    data = problem(network, loss)
    expected = dense_hessian(*data)
    hessian = Hessian(risk(*data, chunk=chunk), keep=keep)
    assert hessian.shape == tuple(expected.shape)
    u = torch.randn(len(expected), 3, dtype=torch.float64)
    for _ in range(2):  # kept graphs serve again
        close(hessian @ u, expected @ u)
        close(hessian @ u[:, 0], expected @ u[:, 0])
    close(hessian.dense(), expected)
    close(torch.as_tensor(hessian.to_scipy() @ u[:, 0].numpy()), expected @ u[:, 0])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("chunk", "keep"), [(None, False), (4, True)])
def test_gauss_newton_is_the_expected_fisher_of_a_softmax(network, chunk, keep):
    """Σ_y p(y|x) ∇ℓ(x, y) ∇ℓ(x, y)ᵀ, over labels that the model draws: one gradient matrix a label."""
    model, loss, inputs, targets = problem(network)
    chances = model(inputs).softmax(1).detach()
    expected = 0.0
    for label in range(3):
        gradients = GradientMatrix(risk(model, loss, inputs, torch.full_like(targets, label))).dense()
        expected = expected + (gradients * chances[:, label]) @ gradients.T / N
    ours = GaussNewton(risk(model, loss, inputs, targets, chunk=chunk), keep=keep)
    close(ours.dense(), expected)
    u = torch.randn(len(expected), dtype=torch.float64)
    close(ours @ u, expected @ u)


def test_gauss_newton_is_the_hessian_where_outputs_are_linear_in_the_parameters():
    data = problem("frozen layer", squares)
    close(GaussNewton(risk(*data, chunk=5)).dense(), dense_hessian(*data))


def test_a_loss_that_is_linear_in_the_parameters_has_no_curvature():
    _, _, inputs, targets = problem()
    model = nn.Linear(16, 1).double()
    hessian = Hessian(risk(model, lambda outputs, _: outputs[:, 0], inputs, targets))
    assert not (hessian @ torch.ones(17, dtype=torch.float64)).any() and not hessian.dense().any()


# --- the trace


def test_random_signs_give_the_trace_without_bias():
    """Signs see the diagonal exactly; what they miss has mean 0: over all 2^d sign vectors of a small problem the mean
    is the trace.
    """
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    inputs = torch.randn(N, 3, dtype=torch.float64)
    hessian = Hessian(risk(model, lambda outputs, _: (1 + outputs[:, 0].square()).log(), inputs, torch.zeros(N)))
    dense = hessian.dense()
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3).T
    close((signs * (hessian @ signs)).sum(0).mean(), dense.trace())
    pairs = leading(hessian, 1)
    rest = signs - pairs.vectors @ (pairs.vectors.T @ signs)
    close(pairs.values.sum() + (rest * (hessian @ rest)).sum(0).mean(), dense.trace())


def test_trace_estimates_cover_and_known_pairs_narrow_them():
    data = problem()
    hessian, true = Hessian(risk(*data)), dense_hessian(*data).trace()
    pairs = leading(hessian, 20, which="LM")
    generator = torch.Generator().manual_seed(0)
    covered = {"plain": 0, "known": 0}
    widths = {"plain": 0.0, "known": 0.0}
    for _ in range(60):
        for name, known in (("plain", None), ("known", pairs)):
            found = hessian.estimate_trace(12, generator, known=known)
            covered[name] += bool(found.low <= true <= found.high)
            widths[name] += float(found.high - found.low)
    assert min(covered.values()) >= 50  # of 60 at 95 %: fewer has a chance below 1e-3
    assert widths["known"] < widths["plain"] / 2
    for bad, message in (({"probes": 1}, "at least 2"), ({"probes": 5, "confidence": 1.0}, "no probability")):
        with pytest.raises(ValueError, match=message):
            hessian.estimate_trace(generator=generator, **bad)


def test_the_diagonal_exactly_and_within_its_intervals():
    hessian, true = Hessian(risk(*problem(), chunk=5)), dense_hessian(*problem()).diagonal()
    close(hessian.diagonal(), true)
    close(hessian.trace(), true.sum())
    pairs, generator, widths = leading(hessian, 20, which="LM"), torch.Generator().manual_seed(0), []
    for known in (None, pairs):
        found = hessian.estimate_diagonal(200, generator, 1 - 1e-4 / len(true), known=known)
        assert ((found.low <= true + 1e-12) & (true <= found.high + 1e-12)).all()
        widths.append(float((found.high - found.low).mean()))
    assert widths[1] < widths[0] / 2
    everything = leading(hessian, len(true))
    close(hessian.estimate_diagonal(2, generator, known=everything).value, true, atol=1e-9)


@pytest.mark.parametrize("generator", [None, 3, "seed"])
def test_a_generator_is_required(generator):
    hessian = Hessian(risk(*problem()))
    fisher = GradientMatrix(hessian.risk).fisher()
    for call in (hessian.estimate_trace, hessian.estimate_diagonal, fisher.estimate_trace, fisher.estimate_diagonal):
        with pytest.raises(ValueError, match="is no torch generator"):
            call(3, generator)
    with pytest.raises(ValueError, match="is no torch generator"):
        fisher.draw(generator)


def test_operators_of_one_risk_add_up():
    """H less the Gauss-Newton matrix, and a sum with C, by products and by traces of the parts."""
    both = risk(*problem(), chunk=5)
    H, G, C = Hessian(both), GaussNewton(both), GradientMatrix(both).covariance(MiniBatch(N, 4))
    dense = dense_hessian(*problem()) - G.dense() + 3 * C.dense()
    close((H - G + 3 * C).dense(), dense, atol=1e-10)
    close((H - G + 3 * C).trace(), dense.trace(), atol=1e-10)
    close((H @ C).trace(), (H.dense() @ C.dense()).trace(), atol=1e-10)


# --- what is refused


def test_products_and_matrices_that_cannot_be_had_are_refused():
    hessian = Hessian(risk(*problem()))
    with pytest.raises(ValueError, match=r"direction has shape \(5,\)"):
        hessian @ torch.ones(5)
    with pytest.raises(ValueError, match="GiB: use products"):
        hessian.dense(limit_bytes=1000)
    model, loss, inputs, targets = problem()
    inputs[0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        Hessian(risk(model, loss, inputs, targets)) @ torch.ones(Hessian(risk(*problem())).shape[0])


def test_a_second_derivative_that_torch_has_wrong_is_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 9)), nn.Tanh(), nn.Linear(9, 3)).double()
    _, loss, *samples = problem()
    with pytest.raises(ValueError, match="torch's second derivative of this Sequential is no Hessian"):
        Hessian(risk(model, loss, *samples)).dense()
