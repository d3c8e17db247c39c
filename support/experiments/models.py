"""The networks of the experiments, with torch alone. Each takes the images as `support.experiments.data.split` gives
them.
"""

from __future__ import annotations

import torch
from torch import nn

from support.errors import boolean, instance, real, torch_generator


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
