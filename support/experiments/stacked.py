"""Many networks of one architecture evaluated as one: their parameters stacked along a first axis.

A small network leaves a device idle. R of them pass together at the cost of the arithmetic: each layer is one kernel
for all.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call, vmap

from support.errors import Refused, boolean, instance


class StackingError(Refused):
    """Networks that cannot be evaluated as one; the message says why."""


class Stacked:
    """R networks of one architecture. Called with inputs (R, m, …), a batch a network, it gives outputs (R, m, …).

    models: they are copied, and stay as they are.  unfold: convolutions as products of matrices, of the patches of
    their inputs with their weights, in place of R groups of channels: faster where a device's library has no good
    kernel for small groups; equal up to rounding.
    ``parameters``: name → tensor (R, …), leaves of autograd where the networks' own require a gradient; `give` writes
    them back. Raises StackingError for networks with buffers (BatchNorm), with random numbers, or of two
    architectures.

    >>> both = Stacked([nn.Linear(2, 1), nn.Linear(2, 1)])
    >>> both(torch.zeros(2, 5, 2)).shape, both.parameters["weight"].shape
    (torch.Size([2, 5, 1]), torch.Size([2, 1, 2]))
    """

    def __init__(self, models: Sequence[nn.Module], *, unfold: bool = False):
        self.models = [instance("models", model, nn.Module, "give torch modules") for model in models]
        if not self.models:
            raise StackingError("no network came: give at least one")
        first, kinds = self.models[0], {_architecture(model) for model in self.models}
        if len(kinds) > 1:
            raise StackingError(f"networks of {len(kinds)} architectures came: stack those of one")
        if buffer := next((name for name, _ in first.named_buffers()), None):
            raise StackingError(f"buffer {buffer!r} changes from pass to pass (BatchNorm has some): run each alone")
        alike = [dict(model.named_parameters()) for model in self.models]
        self.parameters = {
            name: torch.stack([one[name].detach() for one in alike]).requires_grad_(parameter.requires_grad)
            for name, parameter in first.named_parameters()
        }
        self._templates = {False: copy.deepcopy(first), True: _unfolded(copy.deepcopy(first))}
        self.unfold(unfold)

    def unfold(self, unfold: bool) -> None:
        """From now on, convolutions unfolded or as they are."""
        self.template = self._templates[boolean("unfold", unfold)]

    @property
    def trained(self) -> list[torch.Tensor]:
        """The parameters that require a gradient."""
        return [one for one in self.parameters.values() if one.requires_grad]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        def one(parameters: dict, batch: torch.Tensor) -> torch.Tensor:
            return functional_call(self.template, parameters, (batch,))

        try:
            return vmap(one)(self.parameters, inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            said = " ".join(str(error).split()).partition(". ")[0]
            raise StackingError(
                f"{type(self.models[0]).__name__} cannot be stacked ({said}): run each alone"
            ) from error

    @torch.no_grad()
    def give(self) -> None:
        """Write the stacked parameters into the networks that they came from."""
        for number, model in enumerate(self.models):
            for name, parameter in model.named_parameters():
                parameter.copy_(self.parameters[name][number])


def _architecture(model: nn.Module) -> str:
    return repr((model, [(name, tuple(one.shape), one.dtype) for name, one in model.named_parameters()]))


class _Unfolded(nn.Module):
    """A convolution as the product of the patches of its inputs with its weights."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding = conv.stride, conv.padding

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        (high, wide), (down, across) = self.weight.shape[2:], self.padding
        images = nn.functional.pad(images, (across, across, down, down)) if down or across else images
        patches = images.unfold(2, high, self.stride[0]).unfold(3, wide, self.stride[1])
        many, _, rows, columns = patches.shape[:4]
        # a patch a row: the result is channels last in memory, as the next layer likes it
        flat = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
        outputs = flat @ self.weight.flatten(1).T
        outputs = outputs if self.bias is None else outputs + self.bias
        return outputs.unflatten(0, (many, rows, columns)).permute(0, 3, 1, 2)


def _unfolded(module: nn.Module) -> nn.Module:
    """The module with its plain convolutions replaced, which keep their names."""
    if isinstance(module, nn.Conv2d):
        plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
        return _Unfolded(module) if plain and not isinstance(module.padding, str) else module
    for name, child in module.named_children():
        setattr(module, name, _unfolded(child))
    return module
