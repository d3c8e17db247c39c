"""Runs that failed: a note beside a run's checkpoint, so that no queue tries it for ever.

Noted is what follows from the run itself: a loss that is not finite, a noise that cannot be, a process that died twice.
A disk that is full, a file that cannot be read and a lock of another process say nothing of the run, and are not noted.
"""

from __future__ import annotations

import errno
from pathlib import Path

from support import files
from support.experiments.checkpoints import CheckpointError
from support.experiments.readers import DataError
from support.experiments.records import RecordError

MOST = 2  # times that a run may fail
OF_THE_MACHINE = (OSError, files.LockError, files.FileError, CheckpointError, RecordError, DataError)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def note(path: Path, error: Exception) -> None:
    """Add a line on an error to the note of a run, unless it is the machine's."""
    if not isinstance(error, OF_THE_MACHINE):
        files.write_whole(path, "".join(f"{line}\n" for line in (*read(path), " ".join(str(error).split()))))


def read(path: Path) -> list[str]:
    """The failures that a note tells of, the oldest first; empty without a note.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     note(Path(folder, "run.failed"), ValueError("the loss is not finite"))
    ...     note(Path(folder, "run.failed"), OSError(28, "No space left on device"))
    ...     read(Path(folder, "run.failed"))
    ['the loss is not finite']
    """
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def no_room(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that of a disk that takes no more.

    >>> no_room(OSError(errno.ENOSPC, "No space left on device")), no_room(ValueError("b = 0"))
    (True, False)
    """
    return error is not None and (getattr(error, "errno", None) in _NO_ROOM or no_room(error.__cause__))
