"""The networks take the images of their data sets as they come."""

import pytest
import torch
from torch import nn

from support.errors import Refused
from support.experiments import data, models


def test_the_digits_network_takes_images_and_rows_alike_and_is_two_layers():
    torch.manual_seed(1)
    ours = models.DigitsNet()
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), plain.parameters(), strict=True))
    images = torch.as_tensor(data.split(data.load("digits"), 20, protocol="code", seed=1, pixels="unit").train[0])
    assert images.shape == (20, 1, 8, 8)
    expected = plain(images.reshape(20, 64))
    assert torch.equal(ours(images), expected) and torch.equal(ours(images.reshape(20, 64)), expected)
    assert torch.equal(ours(images.contiguous(memory_format=torch.channels_last)), expected)


def test_the_lenet_has_the_layers_and_the_parameters_that_the_papers_print():
    net = models.LeNet()
    weights = [tuple(p.shape) for p in net.parameters() if p.ndim > 1]
    assert weights == [(10, 1, 5, 5), (10, 10, 5, 5), (50, 160), (10, 50)]  # 28 → 24 → 12 → 8 → 4, and 10·4·4 = 160
    assert models.count_parameters(net) == (25 + 1) * 10 + (250 + 1) * 10 + (160 + 1) * 50 + (50 + 1) * 10 == 11_330


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.normal_init("LeNet", 0.1, torch.Generator()), "model = 'LeNet' is of type str"),
        (lambda: models.normal_init(nn.ReLU(), -0.1, torch.Generator()), "std = -0.1 is out of range"),
        (lambda: models.normal_init(nn.ReLU(), float("nan"), torch.Generator()), "std = nan is out of range"),
        (lambda: models.normal_init(nn.ReLU(), 0.1, None), "generator = None is no torch generator"),
        (lambda: models.normal_init(nn.ReLU(), 0.1, torch.Generator(), truncated=1), "truncated = 1 is not a boolean"),
        (lambda: models.count_parameters(None), "model = None is of type NoneType"),
    ],
)
def test_other_types_are_refused(call, message):
    with pytest.raises(Refused, match=message):
        call()


def test_a_network_by_name_has_the_pixels_and_the_width_that_it_leaves_open():
    net = models.by_name("tanhnet", pixels=64, width=7)
    x = torch.rand(3, 1, 8, 8)
    first, last = net[1], net[3]
    assert torch.equal(net(x), last(torch.tanh(first(x.reshape(3, 64))))) and first.weight.shape == (7, 64)
    assert models.by_name("Softmax", pixels=64)(x).shape == (3, 10)
    assert type(models.by_name("LeNet", pixels=784)) is models.LeNet


def test_the_fan_in_start_is_torchs_own():
    """The same numbers that ``torch.nn.Linear`` draws from the same state of a generator."""
    drawn = models.fan_in_init(models.by_name("TanhNet", pixels=400, width=90), torch.Generator().manual_seed(1))
    torch.manual_seed(1)
    plain = models.by_name("TanhNet", pixels=400, width=90)
    for ours, theirs in zip(drawn.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.by_name("VGG", pixels=64), "model = 'VGG' is unknown: choose LeNet"),
        (lambda: models.by_name("TanhNet", pixels=64), "width = None is"),
        (lambda: models.fan_in_init("LeNet", torch.Generator()), "model = 'LeNet' is of type str"),
    ],
)
def test_networks_that_do_not_exist_are_refused(call, message):
    with pytest.raises(Refused, match=message):
        call()
