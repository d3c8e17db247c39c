"""The networks against the counts that papers and code print, and against the same layers written out by hand."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from support.errors import Refused
from support.experiments import models, networks
from support.experiments.ghost import GhostBatchNorm2d

COUNTS = {
    "VGG11": (9_750_922, 9_797_092),
    "VGG16": (15_249_354, 15_295_524),
    "VGG5": (90_506, 102_116),
    "AlexNet": (4_555_210, 4_601_380),
    "ResNet8": (78_042, 83_892),
    "ResNet18": (11_173_962, 11_220_132),
    "ResNet44": (658_586, 664_436),
    "ResNet44x2": (2_625_834, 2_637_444),
}


def built(name, classes=10, ghost=None):
    pixels = 768 if name == "VGG5" else 3072
    return models.by_name(name, pixels=pixels, width=20, classes=classes, ghost=ghost)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("classes", [10, 100])
def test_the_number_of_parameters(name, classes):
    with torch.device("meta"):  # shapes without numbers
        net = built(name, classes)
    assert models.count_parameters(net) == COUNTS[name][classes == 100]
    last = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]
    assert last.out_features == classes


def test_the_number_of_parameters_by_the_formula_of_each_layer():
    """Weights k·k·in·out, two numbers a channel for batch normalisation, in·out + out for linear layers."""
    stem, norm = 27 * 16, 2
    blocks = [9 * (a * b + b * b) + 2 * norm * b for a, b in ((16, 16), (16, 32), (32, 64))]
    shortcuts = [a * b + norm * b for a, b in ((16, 32), (32, 64))]
    assert stem + norm * 16 + sum(blocks) + sum(shortcuts) + 65 * 10 == COUNTS["ResNet8"][0]
    more = [6 * (18 * w * w + 2 * norm * w) for w in (16, 32, 64)]
    assert stem + norm * 16 + sum(blocks) + sum(more) + 65 * 10 == COUNTS["ResNet44"][0]
    channels = (3, 64, 128, 256, 256, 512, 512, 512, 512)
    vgg = sum((9 * a + 1) * b for a, b in pairwise(channels)) + 2 * 513 * 512 + 513 * 10
    assert vgg == COUNTS["VGG11"][0]


@pytest.mark.parametrize("name", ["VGG11", "VGG5"])
def test_a_vgg_is_its_convolutions_pools_and_linear_layers(name):
    net = built(name)
    pooled = {"VGG11": {0, 1, 3, 5, 7}, "VGG5": {0, 1, 2}}[name]
    side = {"VGG11": 32, "VGG5": 16}[name]
    images = x = torch.rand(2, 3, side, side)
    convolutions = [layer for layer in net if isinstance(layer, nn.Conv2d)]
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    for number, layer in enumerate(convolutions):
        x = torch.relu(nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))
        x = nn.functional.max_pool2d(x, 2) if number in pooled else x
    x = x.flatten(1)
    for layer in linear[:-1]:
        x = torch.relu(layer(x))
    torch.testing.assert_close(net(images), linear[-1](x))


@pytest.mark.parametrize("projected", [True, False])
def test_a_resnet_is_its_blocks(projected):
    net = networks.ResNet(2, (3, 5), classes=4, projected=projected).eval()
    images = torch.rand(2, 3, 8, 8)
    parts = iter([m for m in net.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)])
    x = torch.relu(next(parts)(images).div((1 + 1e-5) ** 0.5))  # fresh running statistics: 0 and 1
    next(parts)
    for before, width, stride in ((3, 3, 1), (3, 3, 1), (3, 5, 2), (5, 5, 1)):
        first, _, second, _ = (next(parts) for _ in range(4))
        inner = torch.relu(nn.functional.conv2d(x, first.weight, stride=stride, padding=1) / (1 + 1e-5) ** 0.5)
        inner = nn.functional.conv2d(inner, second.weight, padding=1) / (1 + 1e-5) ** 0.5
        if stride == 2 and projected:
            weight = next(parts).weight
            x = nn.functional.conv2d(x[:, :, ::2, ::2], weight) / (1 + 1e-5) ** 0.5
            next(parts)
        elif stride == 2:
            x = torch.cat([x[:, :, ::2, ::2], torch.zeros(2, width - before, 4, 4)], 1)
        x = torch.relu(x + inner)
    torch.testing.assert_close(net(images), net[-1](x.mean((2, 3))))


@pytest.mark.parametrize("name", ["VGG16", "AlexNet", "ResNet8", "ResNet18", "ResNet44", "ResNet44x2"])
def test_ghost_batches_are_in_every_layer_that_normalises(name):
    with torch.device("meta"):
        plain, ghostly = built(name), built(name, ghost=50)
    layers = [m for m in ghostly.modules() if isinstance(m, nn.BatchNorm2d)]
    assert layers and all(type(m) is GhostBatchNorm2d and m.ghost == 50 for m in layers)
    assert list(plain.state_dict()) == list(ghostly.state_dict())


def test_the_mean_over_pixels_takes_images_of_any_size():
    net = networks.ResNet8().eval()
    assert net(torch.rand(2, 3, 16, 16)).shape == net(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: networks.VGG11(pixels=768), "pixels = 768 are not 3 · side² with a multiple of 32"),
        (lambda: networks.VGG5(pixels=784), "pixels = 784 are not 3 · side²"),
        (lambda: networks.VGG11(pixels=3072.0), "pixels = 3072.0 is not an integer"),
        (lambda: networks.VGG11(classes=1), "classes = 1 is out of range"),
        (lambda: networks.ResNet8(ghost=1), "ghost = 1 is out of range"),
        (lambda: networks.ResNet8(ghost=2.0), "ghost = 2.0 is not an integer"),
        (lambda: networks.ResNet(0, (4,)), "blocks = 0 is out of range"),
        (lambda: networks.ResNet(1, 16), "widths = 16 is of type int"),
        (lambda: networks.ResNet(1, ()), r"widths = \(\) do not grow"),
        (lambda: networks.ResNet(1, (8, 4)), r"widths = \(8, 4\) do not grow"),
        (lambda: networks.ResNet(1, (4,), projected=1), "projected = 1 is not a boolean"),
        (lambda: networks.MLP(784, 0), "width = 0 is out of range"),
        (lambda: models.by_name("LeNet", pixels=784, classes=100), "LeNet is a network for 10 classes, not 100"),
        (lambda: models.by_name("VGG11", pixels=3072, ghost=100), "VGG11 has no batch normalisation for ghost = 100"),
    ],
)
def test_what_cannot_be_built_is_refused(call, message):
    with pytest.raises(Refused, match=message):
        call()


# --- where they start


def test_the_released_start_of_every_kind_of_layer():
    net = nn.Sequential(
        nn.Conv2d(3, 50, 5, bias=True), nn.BatchNorm2d(50), GhostBatchNorm2d(50, 2), nn.Linear(400, 200)
    )
    for parameter in net.parameters():
        nn.init.constant_(parameter, 7.0)
    net[1].running_mean += 3
    assert models.he_init(net, torch.Generator().manual_seed(1)) is net
    torch.testing.assert_close(net[0].weight.var().item(), 2 / (25 * 50), rtol=0.06, atol=0)  # 3,750 draws: 2.6 %
    assert not net[0].bias.any() and not net[1].running_mean.any()
    for layer in net[1:3]:
        assert (layer.weight == 1).all() and not layer.bias.any()
    for parameter in net[3].parameters():
        assert 0.95 / 20 < parameter.abs().max() <= 1 / 20
    torch.testing.assert_close(net[3].weight.std().item(), (1 / 1200) ** 0.5, rtol=0.01, atol=0)


@pytest.mark.parametrize(
    "start", [models.he_init, models.fan_in_init, lambda net, generator: models.normal_init(net, 0.1, generator)]
)
def test_a_start_is_its_generators_and_leaves_batch_normalisation_at_one(start):
    torch.manual_seed(1)
    first, state = networks.ResNet8(ghost=2), torch.get_rng_state()
    other = networks.ResNet8()
    torch.set_rng_state(state)
    start(first, torch.Generator().manual_seed(3)), start(other, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)  # torch's global generator is left alone
    for p, q in zip(first.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    for layer in first.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and not layer.bias.any()


def test_the_fan_in_start_is_torchs_own_for_convolutions_too():
    torch.manual_seed(1)
    plain = networks.ResNet8()
    drawn = models.fan_in_init(networks.ResNet8(), torch.Generator().manual_seed(1))
    for layer, same in zip(plain.modules(), drawn.modules(), strict=True):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert 0.9 < same.weight.std() / layer.weight.std() < 1.1
            bound = layer.weight[0].numel() ** -0.5
            assert same.weight.abs().max() <= bound and same.weight.abs().max() > 0.95 * bound


def test_the_released_start_refuses_layers_that_it_does_not_know():
    with pytest.raises(Refused, match="he_init knows convolutions, linear layers and batch normalisation, not PReLU"):
        models.he_init(nn.Sequential(nn.PReLU()), torch.Generator())
    with pytest.raises(Refused, match="model = 'LeNet' is of type str"):
        models.he_init("LeNet", torch.Generator())
    with pytest.raises(Refused, match="generator = 1 is no torch generator"):
        models.he_init(nn.ReLU(), 1)
