"""Networks stacked as one give what each gives alone, gradients too; what cannot be stacked is one line."""

import pytest
import torch
from torch import nn

from support.errors import WrongType
from support.experiments.models import DigitsNet, LeNet, Softmax, TanhNet
from support.experiments.stacked import Stacked, StackingError


class Small(nn.Sequential):
    """Strides, padding, no bias, two groups of channels, and a layer of a layer."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 6, (3, 2), padding=(1, 0))),
            nn.Conv2d(6, 6, 3, groups=2, padding="same"),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        )


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (LeNet, (1, 28, 28)),
        (DigitsNet, (1, 8, 8)),
        (Small, (2, 9, 7)),
        (lambda: TanhNet(5, 12), (12,)),
        (lambda: Softmax(12), (3, 4)),
    ],
)
@pytest.mark.parametrize("unfold", [False, True])
def test_outputs_and_gradients_are_those_of_each_alone(make, shape, unfold):
    torch.manual_seed(1)
    models = [make() for _ in range(3)]
    inputs, both = torch.randn(3, 5, *shape), Stacked(models, unfold=unfold)
    alone = torch.stack([model(one) for model, one in zip(models, inputs, strict=True)])
    together = both(inputs)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    alone.square().sum().backward()
    found = torch.autograd.grad(together.square().sum(), both.trained)
    for name, one in zip(both.parameters, found, strict=True):
        expected = torch.stack([model.get_parameter(name).grad for model in models])
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5)


def test_parameters_are_given_back_and_the_networks_are_left_alone():
    models = [nn.Linear(2, 1) for _ in range(2)]
    before = [model.weight.clone() for model in models]
    both = Stacked(models)
    with torch.no_grad():
        both.parameters["weight"] += torch.tensor([1.0, 2.0]).view(2, 1, 1)
    assert all(torch.equal(model.weight, kept) for model, kept in zip(models, before, strict=True))
    both.give()
    assert torch.equal(models[1].weight, before[1] + 2)


def test_frozen_parameters_stay_frozen():
    models = [nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1)) for _ in range(2)]
    assert [tuple(one.shape) for one in Stacked(models).trained] == [(2, 1, 2), (2, 1)]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "no network came"),
        ([nn.Linear(2, 1), nn.Linear(2, 2)], "2 architectures came"),
        (
            [nn.Sequential(nn.Linear(2, 1), nn.ReLU()), nn.Sequential(nn.Linear(2, 1), nn.Tanh())],
            "2 architectures came",
        ),
        ([nn.BatchNorm1d(2)], "buffer 'running_mean' changes from pass to pass"),
    ],
)
def test_what_cannot_be_stacked_is_refused(models, message):
    with pytest.raises(StackingError, match=message):
        Stacked(models)


def test_random_numbers_are_refused_in_a_line():
    with pytest.raises(StackingError, match=r"Dropout cannot be stacked .*random operation.*: run each alone$"):
        Stacked([nn.Dropout(), nn.Dropout()])(torch.ones(2, 3))
    with pytest.raises(WrongType, match="models = 3"):
        Stacked([3])
