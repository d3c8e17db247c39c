"""Optimisers by name: the knobs they have arrive, those they do not have are refused unless they are 0."""

import pytest
import torch

from support.errors import Refused
from support.experiments import optimizers


def parameter():
    return torch.tensor([[1.0, -2.0]], requires_grad=True)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_every_optimiser_of_torch_is_had_with_the_knobs_of_a_setting(name):
    found = optimizers.by_name(name, [parameter()], 0.25, weight_decay=0.0, momentum=0.0)
    assert type(found) is getattr(torch.optim, name) and found.param_groups[0]["lr"] == 0.25


def test_knobs_arrive_and_adam_moves_by_its_rate():
    theta = parameter()
    sgd = optimizers.by_name("sgd", [theta], 0.1, momentum=0.9, weight_decay=0.5)
    assert (sgd.defaults["momentum"], sgd.defaults["weight_decay"]) == (0.9, 0.5)
    adam = optimizers.by_name("Adam", [theta], 0.1, momentum=0.0, betas=(0.5, 0.9))
    theta.grad = torch.tensor([[3.0, -0.2]])
    adam.step()
    # a first step of Adam is the rate times the sign
    torch.testing.assert_close(theta.detach(), torch.tensor([[0.9, -1.9]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: optimizers.by_name("Adam", p, 0.1, momentum=0.9), "Adam has no momentum = 0.9: its knobs are betas"),
        (lambda p: optimizers.by_name("Adagrat", p, 0.1), "optimizer = 'Adagrat' is unknown: choose ASGD, Adadelta"),
        (lambda p: optimizers.by_name(None, p, 0.1), "optimizer = None is of type NoneType"),
        (lambda p: optimizers.by_name("SGD", p, -1.0), r"SGD takes other values \(Invalid learning rate: -1.0\)"),
        (lambda p: optimizers.by_name("SGD", None, 0.1), "SGD takes other knobs"),
        (lambda p: optimizers.by_name("SGD", [], 0.1), "SGD takes other values .*empty parameter list"),
    ],
)
def test_what_an_optimiser_cannot_take_is_refused(call, message):
    with pytest.raises(Refused, match=message):
        call([parameter()])


def test_a_negative_decay_is_taken_although_torch_refuses_it():
    theta = parameter()
    sgd = optimizers.by_name("SGD", [theta], 0.5, weight_decay=-0.1)
    theta.grad = torch.tensor([[1.0, 0.0]])
    sgd.step()
    # θ − η (g + γθ)
    torch.testing.assert_close(theta.detach(), torch.tensor([[1.0 - 0.5 * (1.0 - 0.1), -2.0 - 0.5 * 0.2]]))
    with pytest.raises(Refused, match="LBFGS has no weight_decay"):
        optimizers.by_name("LBFGS", [theta], 0.5, weight_decay=-0.1)
