"""Every generator that hangs on a run is found, and draws the same numbers again."""

import functools
import random

import numpy as np
import pytest
import torch

from support.errors import Refused
from support.experiments import checkpoints, generators


class Noisy(torch.nn.Module):
    """A layer with generators of every kind, one of them in a container."""

    def __init__(self, seed):
        super().__init__()
        self.own = torch.Generator().manual_seed(seed)
        self.others = {"numpy": [np.random.default_rng(seed), np.random.RandomState(seed)]}
        self.python = random.Random(seed)

    def draw(self):
        of_numpy = [self.others["numpy"][0].random(), self.others["numpy"][1].rand()]
        return [float(torch.rand((), generator=self.own)), self.python.random(), *of_numpy]


def in_a_closure(generator):
    def additive(model, _):
        return float(torch.rand((), generator=generator))

    return additive


def everywhere():
    return [float(torch.rand(())), np.random.rand(), random.random()]


def test_they_are_found_wherever_they_hang():
    layer, shared = Noisy(1), torch.Generator()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    optimizer.noise = shared
    found = generators.hanging_on(
        model=torch.nn.Sequential(torch.nn.ReLU(), layer),
        additive=in_a_closure(layer.own),
        loss=functools.partial(in_a_closure(shared), torch.Generator()),
        measure=layer.draw,
        optimizer=optimizer,
    )
    assert set(found) == {
        "model._modules.1.own",
        "model._modules.1.others.numpy.0",
        "model._modules.1.others.numpy.1",
        "model._modules.1.python",
        "loss.function.generator.it",
        "loss.arguments.0",
    }
    assert found["loss.function.generator.it"] is shared  # each once, where it was met first


def test_what_hangs_in_a_circle_ends():
    layer = Noisy(1)
    layer.others["back"] = layer.others
    assert len(generators.hanging_on(model=layer)) == 4


def test_states_go_through_a_checkpoint_and_repeat_all_draws(tmp_path):
    layer = Noisy(1)
    layer.draw()
    checkpoints.save(tmp_path / "g.pt", generators.states(generators.hanging_on(model=layer)))
    expected = layer.draw() + everywhere()
    other = Noisy(2)
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    assert other.draw() + everywhere() != expected
    generators.restore(generators.hanging_on(model=other), checkpoints.load(tmp_path / "g.pt"))
    assert other.draw() + everywhere() == expected


def test_other_generators_than_before_are_refused():
    state = generators.states(generators.hanging_on(model=Noisy(1)))
    with pytest.raises(Refused, match=r"the generator model.others.numpy.0 is no longer there"):
        generators.restore({}, state)
    with pytest.raises(Refused, match=r"the generator additive is only now there"):
        generators.restore(generators.hanging_on(model=Noisy(1), additive=torch.Generator()), state)
