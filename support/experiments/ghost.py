r"""Ghost batch normalisation (Hoffer et al. 2017): a large batch, normalised in small parts.

With BatchNorm a sample's loss depends on the samples that are normalised with it, and the step on the chunks that
memory allows. Here the parts are the layer's own: each group of ``ghost`` consecutive samples has its own mean and
variance, so that any chunk that holds whole groups gives the same losses, gradients and running statistics.
"""

from __future__ import annotations

import torch
from torch import nn

from support.errors import Refused, integer


class GhostBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d on each group of ``ghost`` consecutive samples: images (m, features, height, width), m a multiple of
    ghost while the layer is in training mode; the layout in memory is kept.

    The running statistics are updated once a group, in order: ``s ← 0.9 s + 0.1 s_group``. In evaluation mode they
    normalise, as in BatchNorm2d, and any m is taken.
    Raises Refused for a batch that is no multiple of ghost, and a size below 2, which has no variance.

    >>> layer, images = GhostBatchNorm2d(1, ghost=2), torch.tensor([0.0, 2.0, 10.0, 14.0]).reshape(4, 1, 1, 1)
    >>> layer(images).flatten()
    tensor([-1.0000,  1.0000, -1.0000,  1.0000], grad_fn=<...>)
    >>> layer.running_mean  # 0.9 · (0.1 · 1) + 0.1 · 12
    tensor([1.2900])
    """

    def __init__(self, features: int, ghost: int):
        super().__init__(integer("features", features, 1))
        self.ghost = integer("ghost", ghost, 2)

    def extra_repr(self) -> str:
        """Its sizes, as torch prints a layer."""
        return f"{super().extra_repr()}, ghost={self.ghost}"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images of the same shape."""
        if not self.training:
            return super().forward(images)
        if len(images) % self.ghost:
            raise Refused(
                f"{len(images)} samples cannot be parted into ghost batches of exactly {self.ghost}: pass a multiple"
            )
        # one fused call a group: the passes of a formula for all groups at once take four times as long
        return torch.cat([super(GhostBatchNorm2d, self).forward(group) for group in images.split(self.ghost)])


def batch_norm(features: int, ghost: int | None = None) -> nn.BatchNorm2d:
    """The layer that networks normalise with: BatchNorm2d, or GhostBatchNorm2d for a ghost size.

    >>> type(batch_norm(16)).__name__, batch_norm(16, ghost=100).ghost
    ('BatchNorm2d', 100)
    """
    return nn.BatchNorm2d(integer("features", features, 1)) if ghost is None else GhostBatchNorm2d(features, ghost)
