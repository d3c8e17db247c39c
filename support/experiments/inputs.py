"""What stands before a network, so that a data set lives on the device as bytes: scaling of pixels, and augmentation.

``nn.Sequential(Augment(generator), Pixels(1 / 255), network)`` takes uint8 images (m, channels, height, width), and
learns what the network alone would learn from floats, at a quarter of the memory.
"""

from __future__ import annotations

import torch
from torch import nn

from support.errors import Refused, WrongType, boolean, choice, integer, real, tensor, torch_generator


class Pixels(nn.Module):
    """Bytes to float32: ``x · scale + shift``, bit for bit what `support.experiments.data.split` makes of them with the
    same `support.experiments.data.scaling`. The layout in memory is kept.
    colour: grey images get three equal channels, for networks that take colour.  Raises WrongType for images that are
    not uint8.

    >>> Pixels(2 / 255, -1)(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    tensor([[[[-1.,  1.]]]])
    """

    def __init__(self, scale: float = 1.0, shift: float = 0.0, colour: bool = False):
        super().__init__()
        self.scale, self.shift, self.colour = real("scale", scale), real("shift", shift), boolean("colour", colour)

    def extra_repr(self) -> str:
        """Its numbers, as torch prints a layer."""
        return f"scale={self.scale:g}, shift={self.shift:g}"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scaled images of the same shape."""
        if tensor("images", images).dtype != torch.uint8:
            raise WrongType(f"images are of type {images.dtype}: give bytes (uint8), or leave Pixels out")
        scaled = images.float().mul_(self.scale)
        scaled = scaled.add_(self.shift) if self.shift else scaled
        return scaled.expand(-1, 3, -1, -1) if self.colour else scaled


class Augment(nn.Module):
    """Random crops and flips in training mode; in evaluation mode images pass as they are.

    Each image is padded with ``pad`` zeros on all sides and cut out again at a random offset, a whole number from 0 to
    2·pad down and another across; with probability ½ it is mirrored.  protocol: "paper" draws all offsets; "code" never
    the last, as the released code of Wu et al. does.
    generator: torch generator on the CPU, this layer's own. Each pass draws three uniform numbers an image, in their
    order, so that chunks see what one pass of all would see, on every device; a checkpoint holds it. A recorded graph
    would repeat its draws: there, `draw` outside and pass what `moved` gives.

    >>> layer = Augment(torch.Generator().manual_seed(1), pad=1)
    >>> layer(torch.tensor([[[[1, 2], [3, 4]]]]))  # cut out at the upper left corner, then mirrored
    tensor([[[[0, 0],
              [1, 0]]]])
    """

    def __init__(self, generator: torch.Generator, pad: int = 2, protocol: str = "paper"):
        super().__init__()
        self.generator, self.pad = torch_generator(generator), integer("pad", pad, 0)
        self.protocol = choice("protocol", protocol, ("paper", "code"))
        if self.generator.device.type != "cpu":
            raise Refused(
                f"the generator is on {self.generator.device}: give one on the CPU, so that all devices agree"
            )

    def extra_repr(self) -> str:
        """Its numbers, as torch prints a layer."""
        return f"pad={self.pad}, protocol={self.protocol!r}"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images of the same shape and type."""
        tensor("images", images, (None,) * 4)
        return moved(images, *self.draw(len(images)), self.pad) if self.training else images

    def draw(self, m: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Offsets (m, 2), from row and column 0 of the padded images, and flips (m,) of the next m images."""
        uniform = torch.rand(integer("m", m, 0), 3, generator=self.generator, dtype=torch.float64)
        last = 2 * self.pad if self.protocol == "paper" else max(2 * self.pad - 1, 0)
        return (uniform[:, :2] * (last + 1)).long(), uniform[:, 2] < 0.5


def moved(images: torch.Tensor, offsets: torch.Tensor, flips: torch.Tensor, pad: int) -> torch.Tensor:
    """Images (m, channels, height, width), padded with zeros, cut out again at offsets (m, 2) from 0 to 2·pad, and
    mirrored where flips (m,) say so: one gather on the images' device. Channels are last in memory.

    Raises WrongType for what is no tensor or of another type, Refused for other shapes, and for offsets on the CPU that
    are out of range (those on a device are not waited for).

    >>> images = torch.tensor([[[[1, 2], [3, 4]]]])
    >>> moved(images, torch.tensor([[2, 1]]), torch.tensor([True]), pad=1)
    tensor([[[[4, 3],
              [0, 0]]]])
    """
    m, _, height, width = tensor("images", images, (None,) * 4).shape
    pad = integer("pad", pad, 0)
    for name, value, shape, kind in (("offsets", offsets, (m, 2), torch.int64), ("flips", flips, (m,), torch.bool)):
        if tensor(name, value, shape).dtype != kind:
            raise WrongType(f"{name} are of type {value.dtype}: give {kind}")
    if m and offsets.device.type == "cpu" and not 0 <= int(offsets.min()) <= int(offsets.max()) <= 2 * pad:
        raise Refused(f"offsets from {offsets.min()} to {offsets.max()} are out of range: give 0 to {2 * pad}")
    offsets, flips = (one.to(images.device, non_blocking=True) for one in (offsets, flips))
    which, down, right = (torch.arange(k, device=images.device) for k in (m, height, width))
    down = offsets[:, :1] + down
    right = offsets[:, 1:] + torch.where(flips[:, None], width - 1 - right, right)
    padded = nn.functional.pad(images, (pad,) * 4).permute(0, 2, 3, 1)
    return padded[which[:, None, None], down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)
