"""Algorithms 1 and 2 against the gradient matrix, chunking, and what stops a step."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from support.experiments.models import DigitsNet, LeNet, count_parameters, normal_init
from support.msgd import MSGD, draw, weighted_backward
from support.sampling import (
    NAMES,
    Bernoulli,
    Compensated,
    FullBatch,
    GaussianCovariance,
    GaussianFisher,
    MiniBatch,
    by_name,
)

N = 24


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    generator = torch.Generator().manual_seed(1)
    return (
        model,
        torch.randn(N, 5, generator=generator, dtype=torch.float64),
        torch.randint(0, 3, (N,), generator=generator),
    )


def gradient_matrix(model, inputs, targets):
    """Columns ∇ℓ_i, shape (d, n), one backward pass a sample."""
    columns = []
    for x, y in zip(inputs, targets, strict=True):
        grads = torch.autograd.grad(cross_entropy(model(x[None]), y[None])[0], list(model.parameters()))
        columns.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(columns, 1)


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def step(model, law, inputs, targets, lr=0.1, seed=3, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    return MSGD(model, cross_entropy, optimizer, law, generator=torch.Generator().manual_seed(seed), **options)(
        inputs, targets
    )


@pytest.mark.parametrize("name", [name.replace("B]", "6]").replace("]-B", "]-8") for name in NAMES])
def test_a_step_is_the_gradient_matrix_times_the_weights(problem, name):
    model, inputs, targets = problem
    law = by_name(name, N, 4)
    weights = law.sample(None, torch.Generator().manual_seed(3)).double()
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    expected = before - 0.1 * gradient_matrix(model, inputs, targets) @ weights
    step(model, law, inputs, targets)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("chunk", [1, 5, 24, 100])
def test_chunks_give_the_same_gradient_and_losses(problem, chunk):
    model, inputs, targets = problem
    weights = GaussianCovariance(N, 4).sample(None, torch.Generator().manual_seed(2)).double()
    whole = weighted_backward(model, cross_entropy, inputs, targets, weights)
    reference = gradient(model)
    model.zero_grad()
    parts = weighted_backward(model, cross_entropy, inputs, targets, weights, chunk=chunk)
    torch.testing.assert_close(gradient(model), reference, rtol=1e-12, atol=1e-15)
    assert parts.weighted == pytest.approx(whole.weighted, rel=1e-12)
    assert parts.clean == pytest.approx(whole.clean, rel=1e-12)


def test_a_chunk_is_all_that_is_evaluated_at_once(problem):
    model, inputs, targets = problem
    sizes = []
    model.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    weighted_backward(model, cross_entropy, inputs, targets, torch.full((N,), 1 / N, dtype=torch.float64), chunk=10)
    assert sizes == [10, 10, 4]


def test_clean_loss_is_the_training_loss_and_the_weighted_one_is_not(problem):
    model, inputs, targets = problem
    mean = cross_entropy(model(inputs), targets).mean().item()
    losses = step(model, GaussianCovariance(N, 2), inputs, targets)
    assert losses.clean == pytest.approx(mean, rel=1e-12)
    assert abs(losses.weighted - mean) > 1e-3
    assert losses.samples == N


def test_sparse_laws_evaluate_only_their_batch(problem):
    model, inputs, targets = problem
    assert step(model, MiniBatch(N, 4, replace=False), inputs, targets).samples == 4
    assert step(model, Compensated(N, 4, 8, replace=False), inputs, targets).samples == 8
    assert step(model, GaussianCovariance(N, 4), inputs, targets).samples == N


def test_an_empty_bernoulli_batch_is_a_step_of_zero_gradient(problem):
    model, inputs, targets = problem
    law = Bernoulli(N, 1)
    seed = next(s for s in range(100) if not law.sample(None, torch.Generator().manual_seed(s)).any())
    before = copy.deepcopy(model.state_dict())
    assert step(model, law, inputs, targets, seed=seed).weighted == 0
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_any_optimiser_and_gd_equals_a_plain_loop(problem):
    model, inputs, targets = problem
    plain = copy.deepcopy(model)
    ours, theirs = (torch.optim.Adam(m.parameters(), 0.01) for m in (model, plain))
    msgd = MSGD(model, cross_entropy, ours, FullBatch(N, 4), generator=torch.Generator())
    for _ in range(5):
        msgd(inputs, targets)
        theirs.zero_grad()
        cross_entropy(plain(inputs), targets).mean().backward()
        theirs.step()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            p, q, rtol=0, atol=1e-7
        )  # Adam divides by gradients that may be near zero, and 1/n is a float32 weight


def test_a_loop_of_ones_own_with_a_weighted_loss(problem):
    """`law.weigh` on a loader's batch of 8 gives the gradient matrix of the batch times weights that sum to one."""
    model, inputs, targets = problem
    law, parameters = by_name("[MSGD-Cov]-8", N, 2), list(model.parameters())
    losses = cross_entropy(model(inputs[:8]), targets[:8])
    weighted = law.weigh(losses, torch.Generator().manual_seed(4))
    (weights,) = torch.autograd.grad(weighted, losses, retain_graph=True)
    found = torch.cat([g.flatten() for g in torch.autograd.grad(weighted, parameters)])
    torch.testing.assert_close(found, gradient_matrix(model, inputs[:8], targets[:8]) @ weights, rtol=0, atol=1e-14)
    assert weights.sum() == pytest.approx(1, abs=1e-6) and weights.std() > 0.1


# --- nested batches


class Pair(nn.Module):
    """Two inputs by name, the second of which may be a tuple itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3).double()

    def forward(self, x, mask):
        return self.layer(x * (mask[0] if isinstance(mask, tuple) else mask))


@pytest.mark.parametrize(
    "nest", [lambda x, m: {"x": x, "mask": m}, lambda x, m: (x, m), lambda x, m: {"mask": (m,), "x": x}]
)
@pytest.mark.parametrize("law", [MiniBatch(N, 4), GaussianCovariance(N, 4)], ids=str)
def test_nested_batches_give_the_step_of_their_tensors(problem, nest, law):
    _, inputs, targets = problem
    mask = torch.rand(N, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.manual_seed(0)
    plain = Pair()
    ours = copy.deepcopy(plain)
    step(plain.layer, law, inputs * mask, targets, chunk=5)
    losses = step(ours, law, nest(inputs, mask), targets, chunk=7)
    torch.testing.assert_close(ours.layer.weight, plain.layer.weight, rtol=0, atol=1e-14)
    assert losses.samples == (N if isinstance(law, GaussianCovariance) else losses.samples) and losses.samples > 1


# --- batch statistics


def with_batch_norm():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).double()


def by_hand(model, batches, weights):
    """The gradient of the weighted losses of batches that are each normalised by themselves."""
    model.zero_grad()
    losses = torch.cat([cross_entropy(model(x), y) for x, y in batches])
    (weights * losses).sum().backward()
    return gradient(model).clone(), losses.detach()


@pytest.mark.parametrize("chunk", [None, 5])
def test_a_model_that_works_in_place_does_not_write_into_the_callers_data(problem, chunk):
    model, inputs, targets = problem
    mine, weights = inputs.clone(), torch.full((N,), 1 / N, dtype=torch.float64)
    weighted_backward(nn.Sequential(nn.ReLU(), model), cross_entropy, inputs, targets, weights)
    expected = gradient(model)
    model.zero_grad()
    weighted_backward(nn.Sequential(nn.ReLU(inplace=True), model), cross_entropy, mine, targets, weights, chunk=chunk)
    assert torch.equal(mine, inputs)
    torch.testing.assert_close(gradient(model), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("options", [{"ghost": 6}, {"ghost": 6, "chunk": 4}, {"ghost": 6, "chunk": 100}])
def test_ghost_batches_are_of_exactly_their_size_whatever_the_chunk(problem, options):
    _, inputs, targets = problem
    model = with_batch_norm()
    weights = GaussianCovariance(N, 4).sample(None, torch.Generator().manual_seed(2)).double()
    parts = zip(inputs.split(6), targets.split(6), strict=True)
    expected, losses = by_hand(model, parts, weights)
    model.zero_grad()
    found = weighted_backward(model, cross_entropy, inputs, targets, weights, **options)
    torch.testing.assert_close(gradient(model), expected, rtol=1e-12, atol=1e-15)
    assert found.clean == pytest.approx(losses.mean().item(), rel=1e-12)
    whole, _ = by_hand(model, [(inputs, targets)], weights)
    assert (whole - expected).norm() > 0.1 * whole.norm()  # it does matter


def test_batch_statistics_in_chunks_are_refused(problem):
    _, inputs, targets = problem
    model, weights = with_batch_norm(), torch.full((N,), 1 / N, dtype=torch.float64)
    whole, _ = by_hand(model, [(inputs, targets)], weights)
    model.zero_grad()
    weighted_backward(model, cross_entropy, inputs, targets, weights, chunk=N)
    torch.testing.assert_close(gradient(model), whole, rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match=r"module '1' normalises by the statistics .* chunks of 5 .* ghost=5 .*eval"):
        weighted_backward(model, cross_entropy, inputs, targets, weights, chunk=5)
    with pytest.raises(ValueError, match="24 samples cannot be parted into ghost batches of exactly 5"):
        weighted_backward(model, cross_entropy, inputs, targets, weights, ghost=5)
    with pytest.raises(ValueError, match="chunks of 5 would change the loss"):
        step(model, GaussianCovariance(N, 4), inputs, targets, chunk=5)
    step(model, GaussianCovariance(N, 4), inputs, targets, chunk=5, ghost=8)
    model.eval()
    weighted_backward(model, cross_entropy, inputs, targets, weights, chunk=5)
    model.train()
    model[1] = nn.BatchNorm1d(7, track_running_stats=False).double()
    model.eval()
    with pytest.raises(ValueError, match="normalises by the statistics"):
        weighted_backward(model, cross_entropy, inputs, targets, weights, chunk=5)


# --- precision, and optimisers that look more than once


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chunk", [None, 7])
def test_half_precision_losses_are_summed_in_float32(kind, chunk):
    """A thousand losses of 1: the mean is 1 and the gradient of the sum of w_i θ is Σ w_i = 1, not .25 or .91."""
    model = nn.Linear(1, 1, bias=False).to(kind)
    nn.init.ones_(model.weight)
    ones, weights = torch.ones(1000, 1, dtype=kind), torch.full((1000,), 1e-3)
    found = weighted_backward(model, lambda outputs, _: outputs[:, 0], ones, ones, weights, chunk=chunk)
    assert (found.weighted, found.clean) == (pytest.approx(1, abs=1e-5), pytest.approx(1, abs=1e-6))


def test_an_optimiser_that_looks_more_than_once_sees_one_draw(problem):
    """LBFGS on the weighted loss of one W, against torch's own loop on that loss."""
    model, inputs, targets = problem
    plain, law = copy.deepcopy(model), GaussianFisher(N, 12)
    weights = law.sample(None, torch.Generator().manual_seed(3)).double()
    ours, theirs = (torch.optim.LBFGS(m.parameters(), 0.1, max_iter=4) for m in (model, plain))

    def closure():
        theirs.zero_grad()
        weighted = (weights * cross_entropy(plain(inputs), targets)).sum()
        weighted.backward()
        return weighted

    first = float(closure().detach())
    theirs.step(closure)
    generator = torch.Generator().manual_seed(3)
    msgd = MSGD(model, cross_entropy, ours, law, generator=generator)
    assert msgd(inputs, targets).weighted == pytest.approx(first, rel=1e-12) and msgd.steps == 1
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def test_the_mean_of_many_steps_is_the_gradient(problem):
    """Trap of the released Bernoulli script, whose weights had mean 0.4: ours are unbiased (normal interval, level 1e-6
    over all coordinates).
    """
    model, inputs, targets = problem
    matrix = gradient_matrix(model, inputs, targets)
    draws = Bernoulli(N, 4).sample(20_000, torch.Generator().manual_seed(0)).double() @ matrix.T
    error = 6.0 * draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - matrix.mean(1)).abs() <= error + 1e-9).all()


def test_nan_loss_stops_before_the_update(problem):
    model, inputs, targets = problem
    inputs[0, 0] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 0 under MSGD-Cov, learning rate 0.1"):
        step(model, GaussianCovariance(N, 4), inputs, targets)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def made(model, **changes):
    options = {"optimizer": torch.optim.SGD(model.parameters(), 0.1), "generator": torch.Generator()} | changes
    return MSGD(model, cross_entropy, law=MiniBatch(N, 2), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: step(m, MiniBatch(N + 1, 2), x, y), "the law is for n = 25 samples but 24 came"),
        (lambda m, x, y: weighted_backward(m, nn.functional.cross_entropy, x, y, torch.ones(N)), "reduction='none'"),
        (
            lambda m, x, y: weighted_backward(m, cross_entropy, x, y, torch.ones(3)),
            r"weights has shape \(3,\): it must be \(24,\)",
        ),
        (lambda m, x, y: weighted_backward(m, cross_entropy, x, y[:3], torch.ones(N)), "3 targets"),
        (lambda m, x, y: weighted_backward(m, cross_entropy, x, y, torch.ones(N), chunk=0), "chunk = 0"),
        (
            lambda m, x, y: weighted_backward(m, cross_entropy, x[:0], y[:0], torch.ones(0)),
            "0 inputs came with 0 targets: give at least one sample",
        ),
        (
            lambda m, x, y: weighted_backward(m, cross_entropy, x, y, [1 / N] * N),
            "weights is of type list: give a torch tensor",
        ),
        (
            lambda m, x, y: weighted_backward(m, lambda o, t: cross_entropy(o, t)[:, None], x, y, torch.ones(N)),
            r"the losses have shape \(24, 1\): .* by losses.squeeze\(1\)",
        ),
        (
            lambda m, x, y: weighted_backward(m, lambda o, t: cross_entropy(o, t)[:-1], x, y, torch.ones(N)),
            "for 24 samp",
        ),
        (lambda m, x, y: weighted_backward(m, lambda o, t: 1.0, x, y, torch.ones(N)), "losses is of type float"),
        (lambda m, x, y: weighted_backward(m, cross_entropy, x.numpy(), y, torch.ones(N)), "inputs holds a ndarray"),
        (lambda m, x, y: weighted_backward(m, cross_entropy, None, y, torch.ones(N)), "inputs holds a NoneType"),
        (
            lambda m, x, y: weighted_backward(m.forward, cross_entropy, x, y, torch.ones(N)),
            "is of type method: give a torch.nn.Module",
        ),
        (lambda m, x, y: weighted_backward(m, "mse", x, y, torch.ones(N)), "loss = 'mse' is no function"),
        (lambda m, x, y: weighted_backward(m, cross_entropy, x, y, torch.ones(N), chunk=2.0), "chunk = 2.0 is not an"),
        (
            lambda m, x, y: weighted_backward(m, cross_entropy, x, y, torch.ones(N), ghost=True),
            "ghost = True is not an",
        ),
        (lambda m, x, y: step(m, MiniBatch(N, 2), x, y, chunk=0), "chunk = 0"),
        (lambda m, x, y: step(m, MiniBatch(N, 2), x, y, ghost=0), "ghost = 0"),
        (lambda m, x, y: step(m, "SGD", x, y), "law = 'SGD' is of type str"),
        (lambda m, x, y: made(m, optimizer=None), "optimizer = None is of type NoneType: give one"),
        (lambda m, x, y: made(m, generator=np.random.default_rng(0)), "is no torch generator: give"),
        (lambda m, x, y: made(m, generator=None), "generator = None is no torch generator"),
    ],
)
def test_bad_input(problem, call, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call(*problem)
    assert "\n" not in str(caught.value)


def test_networks_have_the_papers_sizes():
    assert count_parameters(LeNet()) == 11_330
    assert count_parameters(DigitsNet()) == 2_410
    assert LeNet()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    drawn = torch.cat([p.flatten() for p in normal_init(LeNet(), 0.02, torch.Generator().manual_seed(0)).parameters()])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.05)
    cut = torch.cat(
        [p.flatten() for p in normal_init(LeNet(), 0.02, torch.Generator().manual_seed(0), truncated=True).parameters()]
    )
    # a normal variable cut at two standard deviations keeps 0.8796 of its own
    assert 0.039 < cut.abs().max() <= 0.04 and cut.std().item() == pytest.approx(0.8796 * 0.02, rel=0.03)


def test_samples_of_weight_zero_can_stay():
    law, generator = by_name("SGD", n=6, b=2), torch.Generator().manual_seed(1)
    inputs, targets, weights = draw(law, generator, torch.eye(6), torch.arange(6), dense=True)
    again = law.sample(None, torch.Generator().manual_seed(1))
    assert torch.equal(weights, again) and torch.equal(inputs, torch.eye(6)) and torch.equal(targets, torch.arange(6))
