"""Ghost batch normalisation against BatchNorm2d that is fed ghost by ghost, and its independence of the chunk."""

import copy

import pytest
import torch
from torch import nn

from support.errors import Refused
from support.experiments import networks
from support.experiments.ghost import GhostBatchNorm2d, batch_norm
from support.experiments.training import Data, Trainer, cross_entropy
from support.msgd import weighted_backward
from support.sampling import FullBatch, by_name

GHOST, M = 4, 24


@pytest.fixture
def images():
    return 3 * torch.randn(M, 5, 6, 6, generator=torch.Generator().manual_seed(1)) + 1


def pair():
    plain, ghostly = nn.BatchNorm2d(5), GhostBatchNorm2d(5, GHOST)
    for layer in (plain, ghostly):
        generator = torch.Generator().manual_seed(2)
        for parameter in layer.parameters():
            parameter.data = torch.randn(5, generator=generator)
    return plain, ghostly


def test_it_is_batch_normalisation_fed_ghost_by_ghost(images):
    plain, ghostly = pair()
    given, mine = images.clone().requires_grad_(), images.clone().requires_grad_()
    expected, found = torch.cat([plain(part) for part in given.split(GHOST)]), ghostly(mine)
    (expected**3).sum().backward(), (found**3).sum().backward()
    assert torch.equal(found, expected)
    torch.testing.assert_close(mine.grad, given.grad)
    for name, one in plain.state_dict().items():
        assert torch.equal(ghostly.state_dict()[name], one), name
    for p, q in zip(plain.parameters(), ghostly.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_the_formulas_group_by_group(images):
    _, ghostly = pair()
    found, mean, variance = ghostly(images), torch.zeros(5), torch.ones(5)
    for part, normalised in zip(images.split(GHOST), found.split(GHOST), strict=True):
        m, v = part.mean((0, 2, 3)), part.var((0, 2, 3), correction=0)
        expected = (part - m[:, None, None]) / (v + 1e-5).sqrt()[:, None, None]
        expected = ghostly.weight[:, None, None] * expected + ghostly.bias[:, None, None]
        torch.testing.assert_close(normalised, expected, rtol=1e-4, atol=1e-5)
        k = GHOST * 36
        mean, variance = 0.9 * mean + 0.1 * m, 0.9 * variance + 0.1 * v * k / (k - 1)
    torch.testing.assert_close(ghostly.running_mean, mean)
    torch.testing.assert_close(ghostly.running_var, variance)
    assert ghostly.num_batches_tracked == M // GHOST


def test_in_evaluation_mode_it_is_batch_normalisation_for_any_number_of_samples(images):
    plain, ghostly = pair()
    ghostly(images)
    plain.load_state_dict(ghostly.state_dict())
    assert torch.equal(ghostly.eval()(images[:7]), plain.eval()(images[:7]))


@pytest.mark.parametrize("chunk", [GHOST, 2 * GHOST, 5 * GHOST])
def test_the_chunk_does_not_matter(chunk):
    """For losses, gradients and running statistics of a whole network, in float64."""
    torch.manual_seed(1)
    first = networks.ResNet(1, (3, 4), ghost=GHOST).double()
    second = copy.deepcopy(first)
    images, targets = torch.rand(M, 3, 8, 8, dtype=torch.float64), torch.arange(M) % 10
    weights = by_name("MSGD-Cov", n=M, b=4).sample(None, torch.Generator().manual_seed(2)).double()
    whole = weighted_backward(first, cross_entropy, images, targets, weights)
    parts = weighted_backward(second, cross_entropy, images, targets, weights, chunk=chunk)
    assert parts.weighted == pytest.approx(whole.weighted, rel=1e-12)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-9, atol=1e-13)
    for p, q in zip(first.buffers(), second.buffers(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-12, atol=0)
    # and it is what plain batch normalisation gives in ghost batches of the trainer
    plain = networks.ResNet(1, (3, 4)).double()
    plain.load_state_dict(first.state_dict())
    weighted_backward(plain, cross_entropy, images, targets, weights, ghost=GHOST)
    for p, q in zip(first.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-9, atol=1e-13)


def test_channels_last_survives(images):
    _, ghostly = pair()
    last = images.contiguous(memory_format=torch.channels_last)
    found = ghostly(last)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, pair()[1](images))


def test_a_trainer_takes_chunks_of_whole_ghost_batches_and_refuses_others():
    images, targets = torch.rand(M, 3, 8, 8), torch.arange(M) % 10
    data = Data.on("cpu", (images, targets), (images, targets), watched=M)

    def trained(chunk, law=None, ghost=None, layers=GHOST):
        torch.manual_seed(1)
        net = networks.ResNet(1, (3, 4), ghost=layers)
        options = {"generator": torch.Generator().manual_seed(1), "chunk": chunk, "ghost": ghost}
        ours = Trainer(net, torch.optim.SGD(net.parameters(), 0.1), law or FullBatch(M, 4), data, **options)
        return ours.run(3, evaluate_every=1, show=False).curves["train_loss"]

    assert trained(2 * GHOST) == pytest.approx(trained(100), rel=1e-5)
    assert trained(100, ghost=GHOST, layers=None) == pytest.approx(trained(100), rel=1e-5)
    with pytest.raises(Refused, match=r"module '1' normalises ghost batches of 4, and a chunk of 6 is no multiple"):
        trained(6)
    with pytest.raises(Refused, match=r"ghost batches of 4, and a chunk of 2 is no multiple of them"):
        trained(100, ghost=2)
    with pytest.raises(Refused, match=r"ghost batches of 4, and 6 samples are no multiple of them"):
        trained(100, law=by_name("SGD", n=M, b=6))


def test_what_cannot_be_parted_is_refused(images):
    with pytest.raises(Refused, match="22 samples cannot be parted into ghost batches of exactly 4: pass a multiple"):
        GhostBatchNorm2d(5, 4)(images[:22])
    with pytest.raises(Refused, match="ghost = 1 is out of range"):
        GhostBatchNorm2d(5, 1)
    with pytest.raises(Refused, match="ghost = '4' is not an integer"):
        batch_norm(5, "4")
    with pytest.raises(Refused, match="features = 0 is out of range"):
        batch_norm(0)
