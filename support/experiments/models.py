"""The networks of the experiments, with torch alone. Each takes the images as `support.experiments.data.split` gives
them.
"""

from __future__ import annotations

import inspect

import torch
from torch import nn

from support.errors import boolean, choice, instance, integer, real, torch_generator


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


NETWORKS = {kind.__name__: kind for kind in (LeNet, DigitsNet, TanhNet, Softmax)}


def by_name(name: str, *, pixels: int, width: int | None = None) -> nn.Module:
    """A network by its name, for images of so many pixels; ``width`` for those that leave it open. Raises Refused for
    an unknown name, WrongType where a width is missing.

    >>> count_parameters(by_name("TanhNet", pixels=64, width=10))
    760
    """
    kind = NETWORKS[choice("model", instance("model", name, str, "give a name"), tuple(NETWORKS))]
    given = {"pixels": pixels, "width": width}
    return kind(**{key: value for key, value in given.items() if key in inspect.signature(kind).parameters})


def count_parameters(model: nn.Module) -> int:
    """Number d of trainable parameters.

    >>> count_parameters(LeNet())
    11330
    """
    instance("model", model, nn.Module, "give a torch module")
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def normal_init(model: nn.Module, std: float, generator: torch.Generator, *, truncated: bool = False) -> nn.Module:
    """Draw every parameter, biases too, from N(0, std²), as the authors of Wu et al. do; returns the model.

    truncated: draw what lies beyond two standard deviations again, as the authors of Zhu et al. do.

    >>> drawn = normal_init(DigitsNet(), 0.1, torch.Generator().manual_seed(1), truncated=True)
    >>> all(p.abs().max() <= 0.2 for p in drawn.parameters())
    True
    """
    instance("model", model, nn.Module, "give a torch module")
    std, generator = real("std", std, 0), torch_generator(generator)
    boolean("truncated", truncated)
    for parameter in model.parameters():
        if truncated:
            nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std, generator=generator)
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


@torch.no_grad()
def fan_in_init(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw the parameters of every layer of k inputs uniform within ±1/√k, biases too, as ``torch.nn.Linear`` and the
    convolutions do by themselves; returns the model.

    >>> drawn = fan_in_init(Softmax(pixels=784), torch.Generator().manual_seed(1))
    >>> all(p.abs().max() <= 1 / 28 for p in drawn.parameters())
    True
    """
    generator = torch_generator(generator)
    for layer in instance("model", model, nn.Module, "give a torch module").modules():
        if (weight := getattr(layer, "weight", None)) is not None:
            bound = weight[0].numel() ** -0.5
            for parameter in layer.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return model
