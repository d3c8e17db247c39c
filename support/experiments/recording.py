"""A fixed piece of work recorded once and replayed: a CUDA graph on a device, the work itself on a CPU.

A small network's step is hundreds of kernels of microseconds each, and the processor that starts them is what takes the
time. A graph starts them all at once. It always reads and writes the same memory, so that what changes from step to
step is copied into tensors that stay where they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch

from support.errors import instance

WARM_UPS = 3  # runs before the recording, in which libraries choose their kernels and take their workspaces


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
    nothing, and draws no random numbers.  changes: the tensors outside itself that it writes into. Recording runs it
    several times, after which they have their numbers back.
    On a CPU it is rehearsed as often, and then called as it is. Raises what it raises, WrongType for what is no tensor.

    >>> total = torch.zeros(())
    >>> play = recorded(lambda: total.add_(1), "cpu", [total])
    >>> play(), play()
    (None, None)
    >>> total
    tensor(2.)
    """
    with undone(changes):
        return (_captured if torch.device(device).type == "cuda" else _rehearsed)(work)


def _repeated(work: Callable[[], None]) -> None:
    for _ in range(WARM_UPS):
        work()


def _rehearsed(work: Callable[[], None]) -> Callable[[], None]:
    _repeated(work)

    def play() -> None:
        work()

    return play


def _captured(work: Callable[[], None]) -> Callable[[], None]:
    """On the current device. Warm-ups have a stream of their own, as torch's notes on CUDA graphs have it."""
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        _repeated(work)
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
