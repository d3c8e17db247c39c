"""Passes of a step that a CUDA graph replays: forward and backward of a chunk recorded once, for a network of any size.

The graph reads a chunk from tensors that stay where they are, and adds its gradient to others. Nothing else of a step
changes: law, optimiser, schedule and what is logged are the trainer's. On a CPU the same tensors are read and written,
without a graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import torch

from support import batches
from support.errors import instance
from support.experiments import generators
from support.experiments.recording import recorded, undone
from support.msgd import backward_in_chunks
from support.sampling.law import per_sample

_MOST = 4  # recordings at a time; each holds the memory of a pass
_AGREES = 1e-3  # of a recorded gradient with a passed one, relative to its largest entry


class Captured:
    """Passes of a step for `support.experiments.training.Trainer`, with the arguments and results of
    `support.msgd.backward_in_chunks`.

    A step of new shapes passes as it is; where the same shapes come again, a pass is recorded, compared with one that
    is not, and from then on replayed for every whole chunk; what is left over passes as it is. A pass that cannot be
    recorded (it draws random numbers, it waits for the device, memory does not suffice), or does not give the same
    gradient, is left as it is, which is said once.
    The parameters' ``.grad`` are then always the same tensors: keep a copy of those that must outlive a step.
    loss: a function of its arguments alone; one that keeps something of them would be called at the recording only.
    passes: how a step passes that is not replayed.  say: called with a line.

    >>> model, loss, passes = torch.nn.Linear(1, 1), lambda outputs, targets: outputs[:, 0], Captured()
    >>> for _ in range(3):
    ...     model.zero_grad()
    ...     seen = list(passes(model, loss, torch.ones(4, 1), torch.ones(4), torch.ones(4), 2))
    >>> len(seen), model.weight.grad
    (2, tensor([[4.]]))
    """

    def __init__(self, passes: Callable = backward_in_chunks, *, say: Callable[[str], None] = print):
        self.passes = instance("passes", passes, Callable, "give a function such as backward_in_chunks")
        self.say = instance("say", say, Callable, "give a function of a text")
        self.seen: Counter = Counter()
        self.recordings: dict[tuple, _Recording | None] = {}

    def __call__(
        self, model, loss, inputs, targets, weights, chunk: int | None, ghost: int | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        whole = batches.length(inputs, "inputs")
        size = min(ghost or chunk or whole, whole)
        recording = self._recording(model, loss, (inputs, targets, weights), size, ghost)
        if recording is None:
            yield from self.passes(model, loss, inputs, targets, weights, chunk, ghost)
            return
        recording.begin()
        left = whole - whole % size
        for start in range(0, left, size):
            yield recording.play((inputs, targets, weights), slice(start, start + size))
        if left < whole:
            rest = (batches.take(one, slice(left, None)) for one in (inputs, targets, weights))
            yield from self.passes(model, loss, *rest, chunk, ghost)

    def _recording(self, model, loss, step: tuple, size: int, ghost: int | None) -> _Recording | None:
        """The recording for steps of these shapes; None as long as there is none."""
        key = model, loss, size, ghost, _shapes(step), _state(model)
        self.seen[key] += 1
        if key not in self.recordings and self.seen[key] > 1 and len(self.recordings) < _MOST:
            chunk = tuple(batches.take(one, slice(size)) for one in step)
            try:
                self.recordings[key] = _Recording(model, loss, chunk, self.passes, ghost)
            except RuntimeError as error:  # what torch raises where work cannot be recorded, or memory does not suffice
                said = " ".join(str(error).split()).partition(". ")[0]
                self.say(f"passes of {size} samples are not recorded ({said}): they go on as they are")
                self.recordings[key] = None
        return self.recordings.get(key)


class _Recording:
    """The pass of a chunk, recorded: the tensors that it reads, and those that it adds to."""

    def __init__(self, model, loss, chunk: tuple, passes: Callable, ghost: int | None):
        if drawn := generators.hanging_on(model=model, loss=loss):
            raise RuntimeError(f"{next(iter(drawn))} draws random numbers")
        self.model, self.loss, self.chunk = model, loss, batches.copied(chunk)
        self.sums, expected = self._passed(passes, ghost)
        self.parameters = [one for one, slope in expected.items() if slope is not None]
        self.gradients = [torch.zeros_like(one) for one in self.parameters]
        changes = [*self.gradients, self.sums, *model.buffers()]
        self.replay = recorded(self._pass, self.sums.device, changes)
        with undone(changes):
            self.replay()
            for parameter, found in zip(self.parameters, self.gradients, strict=True):
                if not (found - expected[parameter]).abs().max() <= _AGREES * expected[parameter].abs().max():
                    raise RuntimeError("their gradient is another one")

    def _passed(self, passes: Callable, ghost: int | None) -> tuple[torch.Tensor, dict]:
        """The sums and gradients of the pass as it is; leaves parameters and buffers as they were."""
        parameters, device = [one for one in self.model.parameters() if one.requires_grad], self.chunk[2].device
        before, random = [one.grad for one in parameters], _random_state(device)
        self.model.zero_grad(set_to_none=True)
        try:
            with undone(self.model.buffers()):
                (sums,) = passes(self.model, self.loss, *self.chunk, None, ghost)
            found = {one: one.grad for one in parameters}
        finally:
            for parameter, gradient in zip(parameters, before, strict=True):
                parameter.grad = gradient
        if not torch.equal(random, _random_state(device)):
            torch.cuda.set_rng_state(random, device) if device.type == "cuda" else torch.set_rng_state(random)
            raise RuntimeError("the network draws random numbers")
        return torch.stack(sums), found

    def _pass(self) -> None:
        """What is recorded: it adds a chunk's gradient to the tensors that hold it."""
        inputs, targets, weights = batches.copied(self.chunk)  # copies, since a model may work in place
        given, named = batches.arguments(self.model, inputs)
        losses = per_sample(self.loss(self.model(*given, **named), targets)).to(self.sums)
        weighted = torch.dot(weights.to(losses), losses)
        found = torch.autograd.grad(weighted, self.parameters)
        with torch.no_grad():
            torch._foreach_add_(self.gradients, list(found))
            self.sums.copy_(torch.stack((weighted, losses.sum())))

    @torch.no_grad()
    def begin(self) -> None:
        """Let the parameters' gradients be the tensors that are added to, with the numbers that they have."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            if parameter.grad is None:
                gradient.zero_()
            elif parameter.grad is not gradient:
                gradient.copy_(parameter.grad)
            parameter.grad = gradient

    def play(self, step: tuple, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The pass of a chunk of the step."""
        for here, there in zip(batches.leaves(self.chunk), batches.leaves(step), strict=True):
            here.copy_(there[part])
        self.replay()
        return tuple(self.sums.clone())


def _random_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _shapes(step: tuple) -> tuple:
    return tuple((one.shape, one.dtype, one.device) for one in batches.leaves(step))


def _state(model: torch.nn.Module) -> tuple:
    """What a recording holds fixed: where a model's parameters are, which are trained, its modules' modes, and whether
    torch computes in another precision by itself.
    """
    parameters = tuple((one.data_ptr(), one.requires_grad) for one in model.parameters())
    kinds = {one.device.type for one in model.parameters()}
    precise = tuple(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None for kind in kinds)
    return (*parameters, *precise, *(one.training for one in model.modules()))
