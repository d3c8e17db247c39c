"""A network of 57 parameters on 24 samples, and what the tests of the additive noises do with it."""

import torch
from torch import nn

from support.additive import PartitionNoise, SgdNoise

N, B = 24, 4


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def problem(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    generator = torch.Generator().manual_seed(1)
    return (
        model,
        torch.randn(N, 5, generator=generator, dtype=torch.float64),
        torch.randint(0, 3, (N,), generator=generator),
    )


def sgd_noise(inputs, targets, *, released=False, **options):
    return (PartitionNoise if released else SgdNoise)(cross_entropy, inputs, targets, B, **{"chunk": 7, **options})


def random(seed=3):
    return torch.Generator().manual_seed(seed)


def with_gradients(model, inputs, targets):
    model.zero_grad()
    cross_entropy(model(inputs), targets).mean().backward()
    return model


def move(model, size=0.3):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn_like(p))


def added(noise, model, generator):
    """What one call adds to the gradients, as one vector."""
    before = [p.grad.clone() for p in model.parameters()]
    noise(model, generator)
    return torch.cat([(p.grad - old).flatten() for p, old in zip(model.parameters(), before, strict=True)])


def close(ours, dense, atol=1e-12):
    torch.testing.assert_close(ours, dense, rtol=1e-8, atol=atol)
