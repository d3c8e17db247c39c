"""Algorithms 1 and 2 against the gradient matrix, chunking, and what stops a step."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from support.experiments.models import DigitsNet, LeNet, count_parameters, normal_init
from support.msgd import MSGD, weighted_backward
from support.sampling import NAMES, Bernoulli, Compensated, FullBatch, GaussianCovariance, MiniBatch, by_name

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


def test_slot_weights_in_a_loop_of_ones_own(problem):
    model, inputs, targets = problem
    law = by_name("[MSGD-Cov]-8", N, 2)
    weights = law.slot_weights(None, torch.Generator().manual_seed(4)).double()
    (weights * cross_entropy(model(inputs[:8]), targets[:8])).sum().backward()
    torch.testing.assert_close(
        gradient(model), gradient_matrix(model, inputs[:8], targets[:8]) @ weights, rtol=0, atol=1e-14
    )
    assert weights.sum() == pytest.approx(1, abs=1e-6)


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: step(m, MiniBatch(N + 1, 2), x, y), "n = 25 samples but the step got 24"),
        (lambda m, x, y: weighted_backward(m, nn.functional.cross_entropy, x, y, torch.ones(N)), "reduction='none'"),
        (lambda m, x, y: weighted_backward(m, cross_entropy, x, y, torch.ones(3)), r"weights of shape \(3,\)"),
        (lambda m, x, y: weighted_backward(m, cross_entropy, x, y[:3], torch.ones(N)), "3 targets"),
        (lambda m, x, y: weighted_backward(m, cross_entropy, x, y, torch.ones(N), chunk=0), "chunk = 0"),
        (
            lambda m, x, y: weighted_backward(m, cross_entropy, x[:0], y[:0], torch.ones(0)),
            "0 inputs: give at least one",
        ),
        (lambda m, x, y: weighted_backward(m, cross_entropy, x, y, [1 / N] * N), r"weights of shape \(\)"),
        (
            lambda m, x, y: MSGD(m, cross_entropy, None, MiniBatch(N, 2), generator=torch.Generator(), chunk=0),
            "chunk = 0",
        ),
        (lambda m, x, y: MSGD(m, cross_entropy, None, "SGD", generator=torch.Generator()), "law = 'SGD' is no law"),
        (
            lambda m, x, y: MSGD(m, cross_entropy, None, MiniBatch(N, 2), generator=np.random.default_rng(0)),
            "is no torch generator: give",
        ),
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
