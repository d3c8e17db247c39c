"""A fixed piece of work recorded once and replayed: a CUDA graph on a device, the work itself on a CPU.

A small network's step is hundreds of kernels of microseconds each, and the processor that starts them is what takes the
time. A graph starts them all at once. It always reads and writes the same memory, so that what changes from step to
step is copied into tensors that stay where they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch

from support.errors import Refused, instance

WARM_UPS = 3  # runs before the recording, in which libraries choose their kernels and take their workspaces
_AGREES = 0.01  # of a replay with its work, relative to what the work moves


class RecordingError(Refused, RuntimeError):
    """A replay that does something else than what was recorded."""


@contextlib.contextmanager
def undone(changes: Iterable[torch.Tensor]) -> Iterator[None]:
    """Give tensors back, at the end of a `with` block, the numbers that they had at its beginning.

    >>> total = torch.zeros(())
    >>> with undone([total]):
    ...     _ = total.add_(1)
    >>> total
    tensor(0.)
    """
    changes = [instance("changes", one, torch.Tensor, "give the tensors that the work writes into") for one in changes]
    before = [one.detach().clone() for one in changes]
    yield
    with torch.no_grad():
        for one, kept in zip(changes, before, strict=True):
            one.copy_(kept)


def recorded(
    work: Callable[[], None], device: torch.device | str, changes: Iterable[torch.Tensor]
) -> Callable[[], None]:
    """``work`` as a function that replays it; every call does what ``work()`` did when it was recorded.

    work: without arguments and result; reads and writes tensors that stay where they are, all on the device, waits for
    nothing, and draws no random numbers.  changes: the tensors outside itself that it writes into. Recording runs it a
    few times, after which they have their numbers back; and a first replay is compared with the work itself. On a CPU
    the replay is the work.
    Raises RecordingError where they differ, what the work raises, and WrongType for what is no tensor.

    >>> total = torch.zeros(())
    >>> play = recorded(lambda: total.add_(1), "cpu", [total])
    >>> play(), play()
    (None, None)
    >>> total
    tensor(2.)
    """
    changes = list(changes)
    with undone(changes):
        replay = (_captured if torch.device(device).type == "cuda" else _rehearsed)(work)
    expected, found = (_done(does, changes) for does in (work, replay))
    for before, one, other in zip(changes, expected, found, strict=True):
        # where a number is none, the run is beyond help, and another will say so
        apart, moved = ((one - two).nan_to_num().abs().max() for two in (other, before))
        if apart > _AGREES * moved + 1e-6 * one.nan_to_num().abs().max():
            raise RecordingError(f"a replay differs from what it replays by {apart:.2g}, where that moves {moved:.2g}")
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # what the work took by itself; a graph has memory of its own
    return replay


def _done(does: Callable[[], None], changes: list[torch.Tensor]) -> list[torch.Tensor]:
    """What some work makes of the tensors that it changes, which have their numbers back."""
    with undone(changes):
        does()
        return [one.detach().clone() for one in changes]


def _rehearsed(work: Callable[[], None]) -> Callable[[], None]:
    work()

    def play() -> None:
        work()

    return play


def _captured(work: Callable[[], None]) -> Callable[[], None]:
    """On the current device. Warm-ups have a stream of their own, as torch's notes on CUDA graphs have it."""
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            work()
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
