"""The networks of the experiments by name, the small ones for grey images, and what they start from.

Each takes the images as `support.experiments.data.split` gives them; those for colour images stand in
`support.experiments.networks`.
"""

from __future__ import annotations

import inspect
import math

import torch
from torch import nn

from support.errors import Refused, boolean, choice, instance, integer, real, torch_generator
from support.experiments import networks


class LeNet(nn.Sequential):
    """The small convolutional network of Wu et al. (2020, C.1) and Zhu et al. (2019): 28 x 28 grey images, 10 classes,
    11,330 parameters.

    conv 1→10, 5 x 5; max-pool 2, ReLU; conv 10→10, 5 x 5; max-pool 2, ReLU; linear 160→50, ReLU; linear 50→10. Input
    (m, 1, 28, 28), output (m, 10) logits.

    >>> LeNet()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(10, 10, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(160, 50), nn.ReLU(), nn.Linear(50, 10),
        )  # fmt: skip


class DigitsNet(nn.Sequential):
    """A sibling for scikit-learn's digits (8 x 8 grey images, 10 classes), 2,410 parameters.

    linear 64→32, ReLU; linear 32→10. Input (m, 1, 8, 8) or (m, 64), output (m, 10) logits.

    >>> DigitsNet()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self):
        super().__init__(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # here and not as a layer, so that the parameters keep their names
        return super().forward(images.flatten(1))


class TanhNet(nn.Sequential):
    """The two-layer network of Ziyin et al. (2022, Section 6.2): linear pixels→width, tanh; linear width→10. Images of
    any shape of so many pixels, output (m, 10).

    >>> count_parameters(TanhNet(width=25, pixels=784))  # 785·25 + 26·10
    19885
    """

    def __init__(self, width: int, pixels: int):
        width, pixels = integer("width", width, 1), integer("pixels", pixels, 1)
        super().__init__(nn.Flatten(), nn.Linear(pixels, width), nn.Tanh(), nn.Linear(width, 10))


class Softmax(nn.Sequential):
    """Logistic regression for ten classes (Section 6.3): linear pixels→10.

    >>> count_parameters(Softmax(pixels=784))
    7850
    """

    def __init__(self, pixels: int):
        super().__init__(nn.Flatten(), nn.Linear(integer("pixels", pixels, 1), 10))


NETWORKS = {kind.__name__: kind for kind in (LeNet, DigitsNet, TanhNet, Softmax, *networks.NETWORKS)}


def by_name(
    name: str, *, pixels: int, width: int | None = None, classes: int = 10, ghost: int | None = None
) -> nn.Module:
    """A network by its name, for images of so many pixels (all channels counted); ``width`` for those that leave it
    open, ``ghost`` for those with batch normalisation.

    Raises Refused for an unknown name, and for classes or a ghost that the network has no place for; WrongType where a
    width is missing.

    >>> count_parameters(by_name("TanhNet", pixels=64, width=10))
    760
    >>> count_parameters(by_name("ResNet8", pixels=768, ghost=100))
    78042
    """
    kind = NETWORKS[choice("model", instance("model", name, str, "give a name"), tuple(NETWORKS))]
    known, pixels = inspect.signature(kind).parameters, integer("pixels", pixels, 1)
    width = None if width is None else integer("width", width, 1)
    if "classes" not in known and integer("classes", classes, 2) != 10:
        raise Refused(f"{kind.__name__} is a network for 10 classes, not {classes}: choose ResNet8 or another")
    if "ghost" not in known and ghost is not None:
        raise Refused(f"{kind.__name__} has no batch normalisation for ghost = {ghost}: give ghost=None")
    given = {"pixels": pixels, "width": width, "classes": classes, "ghost": ghost}
    return kind(**{key: value for key, value in given.items() if key in known})


def count_parameters(model: nn.Module) -> int:
    """Number d of trainable parameters.

    >>> count_parameters(LeNet())
    11330
    """
    instance("model", model, nn.Module, "give a torch module")
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# --- where they start -------------------------------------------------------------------------------------------------

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def normal_init(model: nn.Module, std: float, generator: torch.Generator, *, truncated: bool = False) -> nn.Module:
    """Draw every parameter, biases too, from N(0, std²), as the authors of Wu et al. do; returns the model. Batch
    normalisation begins with weight 1 and bias 0.

    truncated: draw what lies beyond two standard deviations again, as the authors of Zhu et al. do.

    >>> drawn = normal_init(DigitsNet(), 0.1, torch.Generator().manual_seed(1), truncated=True)
    >>> all(p.abs().max() <= 0.2 for p in drawn.parameters())
    True
    """
    instance("model", model, nn.Module, "give a torch module")
    std, generator = real("std", std, 0), torch_generator(generator)
    boolean("truncated", truncated)
    fixed = _normalised(model)
    for parameter in model.parameters():
        if id(parameter) in fixed:
            continue
        if truncated:
            nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std, generator=generator)
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


@torch.no_grad()
def fan_in_init(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw the parameters of every layer of k inputs uniform within ±1/√k, biases too, as ``torch.nn.Linear`` and the
    convolutions do by themselves; returns the model. Batch normalisation begins with weight 1 and bias 0.

    >>> drawn = fan_in_init(Softmax(pixels=784), torch.Generator().manual_seed(1))
    >>> all(p.abs().max() <= 1 / 28 for p in drawn.parameters())
    True
    """
    generator = torch_generator(generator)
    _normalised(model)
    for layer in model.modules():
        if not isinstance(layer, _BATCH_NORM) and getattr(layer, "weight", None) is not None:
            _fan_in(layer, generator)
    return model


@torch.no_grad()
def he_init(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Start as the released code of Wu et al. and Zhu et al. does on colour images; returns the model.

    Convolutions of k x k pixels to c channels: weights from N(0, 2/(k·k·c)), biases 0. Linear layers: `fan_in_init`.
    Batch normalisation: weight 1, bias 0. Raises Refused for a model with parameters in other layers.

    >>> drawn = he_init(networks.VGG5(), torch.Generator().manual_seed(1))
    >>> abs(drawn[0].weight.std() / (2 / (3 * 3 * 32)) ** 0.5 - 1) < 0.1
    tensor(True)
    """
    generator = torch_generator(generator)
    _normalised(model)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            std = (2 / (layer.out_channels * math.prod(layer.kernel_size))) ** 0.5
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * std)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.Linear):
            _fan_in(layer, generator)
        elif not isinstance(layer, _BATCH_NORM) and list(layer.parameters(recurse=False)):
            raise Refused(
                f"he_init knows convolutions, linear layers and batch normalisation, not {type(layer).__name__}: start "
                f"the model by normal_init"
            )
    return model


def _fan_in(layer: nn.Module, generator: torch.Generator) -> None:
    bound = layer.weight[0].numel() ** -0.5
    for parameter in layer.parameters(recurse=False):
        nn.init.uniform_(parameter, -bound, bound, generator=generator)


def _normalised(model: nn.Module) -> set[int]:
    """Start the batch normalisation of a model anew; the ids of its parameters."""
    every = instance("model", model, nn.Module, "give a torch module").modules()
    layers = [layer for layer in every if isinstance(layer, _BATCH_NORM)]
    for layer in layers:
        layer.reset_parameters()  # weight 1, bias 0, running statistics 0 and 1
    return {id(parameter) for layer in layers for parameter in layer.parameters()}
