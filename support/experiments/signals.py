"""Signals that wait: ctrl-C and SIGTERM let a step end and its checkpoint be written, then do what they always do."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_HELD = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def held() -> Iterator[list[int]]:
    """Hold ctrl-C and SIGTERM back for the time of a `with` block, and deliver what came at its end.

    Gives the list of signals that came, empty until one does: look at it where the block can end early.  A second one
    is delivered at once.  In a thread other than the main one, where Python hands out no signals, nothing is held.

    >>> with contextlib.suppress(KeyboardInterrupt), held() as came:
    ...     signal.raise_signal(signal.SIGINT)
    ...     print("still here", len(came))
    still here 1
    """
    came: list[int] = []
    before: dict[int, object] = {}

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def note(number: int, _) -> None:
        came.append(number)
        restore()

    with contextlib.suppress(ValueError):  # not the main thread
        for number in _HELD:
            before[number] = signal.signal(number, note) or signal.SIG_DFL  # None: it was not Python's
    try:
        yield came
    finally:
        restore()
        if came:
            signal.raise_signal(came[0])
