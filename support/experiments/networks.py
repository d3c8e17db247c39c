"""Networks for small colour images, with torch alone: the VGG, ResNet and AlexNet of the papers, and small ones that a
single core can train.

Input (m, 3, side, side), output (m, classes) logits. ``pixels`` = 3 · side² is asked for where the first linear layer
depends on it; the ResNets take images of any size. ``ghost``: size of the ghost batches where there is batch
normalisation (`support.experiments.ghost`); None normalises the batch as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from support.errors import Refused, boolean, instance, integer
from support.experiments.ghost import batch_norm


class VGG11(nn.Sequential):
    """VGG-11 without batch normalisation, as Wu et al. (2020) and Zhu et al. (2019) use it: 9,750,922 parameters for 10
    classes of 32 x 32 images.

    3 x 3 convolutions 64, M, 128, M, 256, 256, M, 512, 512, M, 512, 512, M (M: max-pool 2), linear 512→512→512→classes;
    ReLU after each layer but the last.

    >>> VGG11()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, pixels: int = 3072, classes: int = 10):
        head = _linear(512 * _side(pixels, 5) ** 2, 512, 512, classes)
        super().__init__(*_stages((64,), (128,), (256, 256), (512, 512), (512, 512)), *head)


class VGG16(nn.Sequential):
    """VGG-16, 15,249,354 parameters for 10 classes of 32 x 32 images.

    Wen et al. (2020) do not print the form of theirs. This one has batch normalisation, since they pass all large
    batches in ghost batches, and the linear layers of `VGG11`.

    >>> sum(isinstance(layer, nn.Conv2d) for layer in VGG16(ghost=100))
    13
    """

    def __init__(self, pixels: int = 3072, classes: int = 10, ghost: int | None = None):
        head = _linear(512 * _side(pixels, 5) ** 2, 512, 512, classes)
        super().__init__(*_stages((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3, norm=_norm(ghost)), *head)


class VGG5(nn.Sequential):
    """A small VGG without batch normalisation, for one core: 90,506 parameters for 10 classes of 16 x 16 images.

    3 x 3 convolutions 32, M, 64, M, 64, M, linear 256→128→classes; ReLU after each layer but the last.

    >>> VGG5()(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 10])
    """

    def __init__(self, pixels: int = 768, classes: int = 10):
        head = _linear(64 * _side(pixels, 3) ** 2, 128, classes)
        super().__init__(*_stages((32,), (64,), (64,)), *head)


class AlexNet(nn.Sequential):
    """AlexNet in the size of 32 x 32 images, 4,555,210 parameters for 10 classes.

    Wen et al. (2020) do not print the form of theirs. This one has the five convolutions of Krizhevsky et al. (2012),
    with smaller kernels and linear layers, and batch normalisation: 5 x 5 of 64, M, 5 x 5 of 192, M, 3 x 3 of 384, 256,
    256, M, linear 4096→512→classes.

    >>> AlexNet(classes=100)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 100])
    """

    def __init__(self, pixels: int = 3072, classes: int = 10, ghost: int | None = None):
        head = _linear(256 * _side(pixels, 3) ** 2, 512, classes)
        super().__init__(*_stages((64,), (192,), (384, 256, 256), kernels=(5, 5, 3), norm=_norm(ghost)), *head)


class MLP(nn.Sequential):
    """A fully-connected network with two hidden layers: linear pixels→width→width→classes, ReLU between. Images of any
    shape of so many pixels.

    >>> MLP(pixels=784, width=100)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, pixels: int, width: int, classes: int = 10):
        width = integer("width", width, 1)
        super().__init__(*_linear(integer("pixels", pixels, 1), width, width, classes))


class ResNet(nn.Sequential):
    """A residual network for small images (He et al. 2016, Section 4.2): a 3 x 3 convolution, stages of ``blocks``
    basic blocks each, of these widths, the mean over the pixels, a linear layer. Each stage but the first halves the
    side.

    projected: where the width changes, the shortcut is a 1 x 1 convolution with batch normalisation; or else it takes
    every second pixel, and zeros for the channels that are new.

    >>> ResNet(blocks=1, widths=(4, 8))(torch.zeros(2, 3, 9, 9)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        blocks: int,
        widths: Sequence[int],
        classes: int = 10,
        ghost: int | None = None,
        projected: bool = True,
    ):
        blocks, projected = integer("blocks", blocks, 1), boolean("projected", projected)
        widths = [integer("a width", width, 1) for width in instance("widths", widths, (tuple, list), "give a tuple")]
        if any(wide < narrow for narrow, wide in pairwise(widths)) or not widths:
            raise Refused(f"widths = {tuple(widths)} do not grow from stage to stage: give some such as (16, 32, 64)")
        norm, before, head = _norm(ghost), widths[0], _linear(widths[-1], classes)
        layers = [nn.Conv2d(3, before, 3, padding=1, bias=False), norm(before), nn.ReLU()]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(_Block(before, width, 2 if stage and not block else 1, norm, projected))
                before = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), *head)


class ResNet18(ResNet):
    """ResNet-18 in the form for CIFAR: widths 64, 128, 256, 512, two blocks a stage, projected shortcuts; 11,173,962
    parameters for 10 classes, 11,220,132 for 100. It is the network of Wu et al. (2020).

    >>> ResNet18(classes=100)[-1]
    Linear(in_features=512, out_features=100, bias=True)
    """

    def __init__(self, classes: int = 10, ghost: int | None = None):
        super().__init__(2, (64, 128, 256, 512), classes, ghost)


class ResNet44(ResNet):
    """ResNet-44 for CIFAR (He et al. 2016): widths 16, 32, 64, seven blocks a stage, shortcuts without parameters;
    658,586 parameters for 10 classes.

    >>> ResNet44()[-1]
    Linear(in_features=64, out_features=10, bias=True)
    """

    def __init__(self, classes: int = 10, ghost: int | None = None):
        super().__init__(7, (16, 32, 64), classes, ghost, projected=False)


class ResNet44x2(ResNet):
    """`ResNet44` with twice the width, for 100 classes in Wen et al. (2020): 2,637,444 parameters then.

    >>> ResNet44x2(classes=100)[-1]
    Linear(in_features=128, out_features=100, bias=True)
    """

    def __init__(self, classes: int = 10, ghost: int | None = None):
        super().__init__(7, (32, 64, 128), classes, ghost, projected=False)


class ResNet8(ResNet):
    """A small ResNet for one core: widths 16, 32, 64, one block a stage, projected shortcuts; 78,042 parameters for 10
    classes.

    >>> ResNet8(ghost=100)(torch.zeros(200, 3, 16, 16)).shape
    torch.Size([200, 10])
    """

    def __init__(self, classes: int = 10, ghost: int | None = None):
        super().__init__(1, (16, 32, 64), classes, ghost)


# --- their parts ------------------------------------------------------------------------------------------------------


class _Block(nn.Module):
    """conv, norm, ReLU, conv, norm, plus a shortcut, ReLU."""

    def __init__(self, before: int, width: int, stride: int, norm, projected: bool):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, padding=1, bias=False), norm(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width),
        )  # fmt: skip
        if (before, stride) == (width, 1):
            self.shortcut = nn.Identity()
        elif projected:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), norm(width))
        else:
            self.shortcut = _Padded(width - before, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


class _Padded(nn.Module):
    """A shortcut without parameters: every ``stride``-th pixel, zeros for the new channels."""

    def __init__(self, new: int, stride: int):
        super().__init__()
        self.new, self.stride = new, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))


def _norm(ghost: int | None):
    return lambda width: batch_norm(width, ghost)


def _stages(*stages: Sequence[int], kernels: Sequence[int] | None = None, norm=None) -> list[nn.Module]:
    """Convolutions of so many channels, a kernel a stage (None: 3 x 3), each with ReLU; a max-pool ends each stage."""
    layers, before = [], 3
    for channels, kernel in zip(stages, kernels or [3] * len(stages), strict=True):
        for width in channels:
            layers.append(nn.Conv2d(before, width, kernel, padding=kernel // 2, bias=norm is None))
            layers += [norm(width), nn.ReLU()] if norm else [nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    return layers


def _linear(*sizes: int) -> list[nn.Module]:
    """Linear layers from size to size, ReLU between them; the last size is the number of classes."""
    integer("classes", sizes[-1], 2)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]


def _side(pixels: int, halvings: int) -> int:
    """The side of square colour images after so many halvings. Raises Refused where it does not come out even."""
    side, multiple = math.isqrt(integer("pixels", pixels, 3) // 3), 2**halvings
    if pixels != 3 * side**2 or side % multiple:
        raise Refused(
            f"pixels = {pixels} are not 3 · side² with a multiple of {multiple} as the side: give colour images such "
            f"as 3 x 32 x 32 = 3072"
        )
    return side // multiple


NETWORKS = (VGG5, VGG11, VGG16, AlexNet, MLP, ResNet8, ResNet18, ResNet44, ResNet44x2)
