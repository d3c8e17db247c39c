"""Passes that fit the memory of a device: half as many samples at once, until they do.

How many samples pass together changes speed and memory, and the result by rounding alone
(`support.msgd.weighted_backward`). So where a device runs out of memory, a run need not end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from support import batches
from support.errors import Refused, instance, integer
from support.msgd import backward_in_chunks

Found = TypeVar("Found")


class TooLarge(Refused):
    """A pass that does not fit the memory however small; the message names its size and the remedy."""


def halving(
    work: Callable[[int], Found], size: int, *, multiple: int = 1, say: Callable[[str], None] = print
) -> tuple[Found, int]:
    """``work(size)``, and where memory runs out ``work`` of half the size, and so on; its result, and the size it took.

    work: does its work anew each time.  multiple: what every size must be a multiple of.  say: called once, with a line
    on the size that fits. Raises TooLarge where none does, WrongType or Refused for numbers out of range.

    >>> def work(size):
    ...     if size > 30:
    ...         raise torch.OutOfMemoryError
    ...     return "done"
    >>> halving(work, 100)
    the memory holds 25 samples at once, not 100: that many pass together
    ('done', 25)
    """
    multiple, asked = integer("multiple", multiple, 1), integer("size", size, 1)
    size = asked
    while True:
        try:
            found = work(size)
        except torch.OutOfMemoryError as error:
            smaller, said = max(size // 2 // multiple, 1) * multiple, str(error).partition(". ")[0]
        else:
            if size < asked:
                say(f"the memory holds {size:,} samples at once, not {asked:,}: that many pass together")
            return found, size
        # here the error is gone, and with it what its frames held
        if smaller >= size:
            raise TooLarge(f"the memory does not hold a pass of {size} samples ({said}): take a smaller network")
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        size = smaller


class Fitting:
    """Passes of a step for `support.experiments.training.Trainer`, in chunks that fit the memory.

    passes: how they pass where memory suffices, with the arguments and results of `support.msgd.backward_in_chunks`. A
    step that runs out of memory passes again in chunks of half the size, from the gradients and buffers that it began
    with; later steps keep the size. What must pass together stays together: ghost batches, those of a layer with a
    ``ghost`` of its own (`support.experiments.ghost`), and all samples of a step under BatchNorm without either.
    say: called with a line whenever the size falls.  Raises TooLarge where the least that can pass does not fit, and
    what the passes raise.

    >>> model, loss, fits = torch.nn.Linear(1, 1), lambda outputs, targets: outputs[:, 0], Fitting()
    >>> len(list(fits(model, loss, torch.ones(4, 1), torch.ones(4), torch.ones(4), 3)))
    2
    """

    def __init__(self, passes: Callable = backward_in_chunks, *, say: Callable[[str], None] = print):
        self.passes = instance("passes", passes, Callable, "give a function such as backward_in_chunks")
        self.say = instance("say", say, Callable, "give a function of a text")
        self.most: int | None = None

    def __call__(
        self, model, loss, inputs, targets, weights, chunk: int | None, ghost: int | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        whole = batches.length(inputs, "inputs")
        asked = ghost or min(size for size in (whole, chunk, self.most) if size is not None)
        gradients = [
            parameter.grad if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()
        ]
        buffers = [buffer.clone() for buffer in model.buffers()]

        def attempt(size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
            if size < asked:
                _put_back(model, gradients, buffers)
            return list(self.passes(model, loss, inputs, targets, weights, size, ghost))

        together = ghost or _together(model, whole)
        found, size = halving(attempt, asked, multiple=min(together, asked), say=self.say)
        self.most = size if size < asked else self.most
        yield from found


def _together(model: torch.nn.Module, whole: int) -> int:
    """Of how many samples a chunk must be a multiple, so that BatchNorm gives what it gives for the whole."""
    norms = [one for one in model.modules() if isinstance(one, torch.nn.modules.batchnorm._BatchNorm)]
    own = [getattr(one, "ghost", whole) for one in norms if one.training or one.running_mean is None]
    return math.lcm(*own)


@torch.no_grad()
def _put_back(model: torch.nn.Module, gradients: list, buffers: list) -> None:
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient if gradient is None else gradient.clone()
    for buffer, kept in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(kept)
