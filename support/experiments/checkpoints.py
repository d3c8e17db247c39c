"""Checkpoints: the state of a run in one file, replaced in one piece, and a lock that keeps a second process out.

A checkpoint holds tensors, numbers, strings, lists and dicts only, so that reading one runs no code. The lock belongs to the process that holds it: the
system releases it when that process ends, however it ends, so the lock of a dead process stands in nobody's way.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from support.experiments import records


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read, or a run that another process holds; the message names the file and the remedy."""


def save(path: Path, state: dict) -> None:
    """Replace the checkpoint. Raises CheckpointError if it cannot be written, such as on a full disk; the old one is then kept."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        records.write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be written ({error.strerror}): make room, then run again; the last one is kept") from error


def load(path: Path, device: str = "cpu") -> dict | None:
    """The state in a checkpoint; None where there is no file. Raises CheckpointError if it cannot be read."""
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file raises what its unpickler or zip reader raises
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__}): delete it to start this run again") from error


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, with this process's number in it, for the time of a `with` block.

    Raises CheckpointError if a living process holds it; ``wait`` waits until it does not.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"lock {path} cannot be written ({error.strerror}): choose a folder that can") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            raise CheckpointError(f"{path.parent} is in use by process {holder(path) or 'unknown'}: wait for that run, or stop it") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def holder(path: Path) -> str:
    """The number of the process that wrote itself into a lock file; empty if none did."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
