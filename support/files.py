"""Files written in one piece, and locks that keep a second process out: what recorded work rests on.

A lock belongs to the process that holds it: the system releases it when that process ends, however it ends, so the lock
of a dead process stands in nobody's way. Its file stays where it is: were it removed at the release, one process could
wait at the old file while another locks a new one. Neither a lock nor a file on its way follows a symbolic link.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from support.errors import Refused


class LockError(Refused):
    """A lock that another process holds; the message says which, since when, and where the lock stands."""


class FileError(Refused):
    """A file that cannot be had where it is needed; the message names it, says why, and the remedy."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file in one piece: a file beside it, synced, then renamed. A process killed on the way leaves the old
    file, or none; a symbolic link is replaced, not followed.

    Raises OSError if it cannot be written, such as on a full disk; the old file is then as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(Path(folder, "below", "a.txt"), "whole")
    ...     Path(folder, "below", "a.txt").read_text()
    'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        with part.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, with this process's number and the time in it, for the time of a `with` block.

    wait: wait while another process holds it, and say so on stderr; else that raises LockError. Raises FileError if
    the file cannot be written, or is a symbolic link or no file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, lock(Path(folder, "run.lock")):
    ...     holder(Path(folder, "run.lock")) == str(os.getpid())
    True
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # never blocking, so that a FIFO at the lock's place does not hold us up
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _unusable(path, error) from error
    with open(number, "rb+", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise FileError(f"lock {path} is no regular file: remove it, or choose another folder")
        try:
            _acquire(file, path, wait)
            file.truncate(0)
            file.write(f"{os.getpid()} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            yield
        finally:
            file.truncate(0)


def _acquire(file, path: Path, wait: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        process, since = _note(path)
    name, held = path.stem.lstrip("."), f"which holds {path} since {since or 'just now'}"
    if not wait:
        raise LockError(f"{name} in {path.parent} is in use by process {process}: wait for it, or stop it ({held})")
    print(f"{name}: waiting for process {process}, {held}", file=sys.stderr, flush=True)
    fcntl.flock(file, fcntl.LOCK_EX)


def holder(path: Path) -> str:
    """The number of the living process that holds a lock file; empty if none does.

    >>> holder(Path("no.lock"))
    ''
    """
    process, _ = _note(path)
    if process:
        try:
            with path.open(encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return process
        except OSError:
            pass
    return ""


def _note(path: Path) -> tuple[str, str]:
    """What a lock file says: the number of its holder, and since when; empty texts where it says nothing (yet)."""
    try:
        process, _, since = path.read_text(encoding="utf-8").strip().partition(" ") if path.is_file() else ("",) * 3
    except (OSError, UnicodeDecodeError):
        return "", ""
    return process, since


def _unusable(path: Path, error: OSError) -> FileError:
    if error.errno == errno.ELOOP:
        return FileError(f"lock {path} is a symbolic link, which is never followed: remove it")
    return FileError(f"lock {path} cannot be held ({error.strerror}): choose a folder that can be written, with room")


def is_full(said: object) -> bool:
    """Whether an error, or what a program said, is that a disk, or one's share of it, has no room left.

    >>> is_full(OSError(errno.ENOSPC, "No space left on device")), is_full("the page failed")
    (True, False)
    """
    return any(os.strerror(number) in str(said) for number in (errno.ENOSPC, errno.EDQUOT))
