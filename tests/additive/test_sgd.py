"""The covariance of SGD against dense matrices, and what is refused."""

import numpy as np
import pytest
import torch
from small_network import B, N, close, cross_entropy, problem, random, sgd_noise
from torch import nn

from support.additive import PartitionNoise, SgdNoise, by_name
from support.gradients import GradientMatrix
from support.risk import EmpiricalRisk
from support.sampling import MiniBatch


@pytest.mark.parametrize("replace", [True, False])
def test_diagonal_and_eigenpairs_are_those_of_the_dense_covariance(replace):
    model, *samples = problem()
    sgd = sgd_noise(*samples, replace=replace)
    dense = (
        GradientMatrix(EmpiricalRisk(model, cross_entropy, tuple(samples)))
        .covariance(MiniBatch(N, B, replace=replace))
        .dense()
    )
    close(sgd.covariance(model).dense(), dense)
    close(sgd.diagonal(model, random()), dense.diagonal())
    pairs, trace = sgd.leading(model, 5, random())
    close(trace, dense.trace())
    close(pairs.values, torch.linalg.eigvalsh(dense).flip(0)[:5])
    close(dense @ pairs.vectors, pairs.vectors * pairs.values)
    close(pairs.vectors.T @ pairs.vectors, torch.eye(5, dtype=torch.float64), atol=1e-9)


def test_gradients_that_do_not_fit_are_refused():
    model, *samples = problem()
    with pytest.raises(ValueError, match=r"24 gradients of 57 parameters take .* GiB: raise limit_bytes"):
        sgd_noise(*samples, limit_bytes=1000).leading(model, 2, random())


@pytest.mark.parametrize("noise", [SgdNoise, PartitionNoise])
def test_a_large_mean_gradient_does_not_drown_the_diagonal(noise):
    torch.manual_seed(0)
    targets = 1e4 + torch.randn(N, generator=random())
    data = lambda kind: (nn.Linear(1, 1, bias=False).to(kind), torch.ones(N, 1, dtype=kind), targets.to(kind))  # noqa: E731
    loss = lambda outputs, t: (outputs[:, 0] - t).square() / 2  # noqa: E731
    found = []
    for kind in (torch.float32, torch.float64):
        model, *samples = data(kind)
        nn.init.zeros_(model.weight)
        found.append(float(noise(loss, *samples, B).diagonal(model, random()).sum()))
    assert found[0] == pytest.approx(found[1], rel=5e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "square"}, "loss = 'square' is no function"),
        ({"inputs": np.zeros((N, 5))}, "inputs holds a ndarray: give torch tensors"),
        ({"targets": torch.zeros(3)}, "24 inputs came with 3 targets"),
        ({"b": 2.0}, "b = 2.0 is not an integer"),
        ({"b": N + 1}, "b = 25 is out of range"),
        ({"chunk": 0}, "chunk = 0 is out of range"),
        ({"chunk": True}, "chunk = True is not an integer"),
        ({"limit_bytes": -1}, "limit_bytes = -1 is out of range"),
    ],
)
def test_what_makes_no_noise_is_refused(change, message):
    _, inputs, targets = problem()
    with pytest.raises(ValueError, match=message) as caught:
        SgdNoise(**{"loss": cross_entropy, "inputs": inputs, "targets": targets, "b": B} | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("generator", [None, 3, np.random.default_rng(0)])
def test_a_generator_is_required(generator):
    """Torch's global one, in the place of None, would draw another noise in every run."""
    model, *samples = problem()
    sgd = sgd_noise(*samples)
    noise = by_name("GLD-const", sgd)
    for call in (lambda: sgd.diagonal(model, generator), lambda: sgd.leading(model, 2, generator)):
        with pytest.raises(TypeError, match=r"is no torch generator: give torch\.Generator"):
            call()
    with pytest.raises(TypeError, match="is no torch generator"):
        noise(model, generator)
    assert noise.steps == 0
