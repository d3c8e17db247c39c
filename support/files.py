"""Files written in one piece, and locks that keep a second process out: what recorded work rests on.

A lock belongs to the process that holds it: the system releases it when that process ends, however it ends, so the lock
of a dead process stands in nobody's way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from support.errors import Refused


class LockError(Refused):
    """A lock that another process holds, or that cannot be had; the message names the file and the remedy."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file in one piece: a file beside it, synced, then renamed. A process killed on the way leaves the old
    file, or none.

    Raises OSError if it cannot be written, such as on a full disk; the old file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, with this process's number in it, for the time of a `with` block.

    Raises LockError if a living process holds it (``wait`` waits until it does not), or if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise LockError(
                f"{path.stem} in {path.parent} is in use by process {_number(path) or 'unknown'}: wait for it, or "
                f"stop it"
            ) from None
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            file.truncate(0)
            os.write(file.fileno(), f"{os.getpid()}\n".encode())
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            yield
        finally:
            file.truncate(0)


def holder(path: Path) -> str:
    """The number of the living process that holds a lock file; empty if none does."""
    if not _number(path):
        return ""
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _number(path)
    except OSError:
        pass
    return ""


def _number(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _unwritable(path: Path, error: OSError) -> LockError:
    return LockError(f"lock {path} cannot be held ({error.strerror}): choose a folder that can be written, with room")
