"""Checkpoints: the state of a run in one file, replaced in one piece.

A checkpoint holds tensors, numbers, strings, lists and dicts only, so that reading one runs no code.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch

from support import files
from support.errors import Refused


class CheckpointError(Refused):
    """A checkpoint that cannot be written or read; the message names the file and the remedy."""


def save(path: Path, state: dict) -> None:
    """Replace the checkpoint. Raises CheckpointError if it cannot be written, such as on a full disk; the old one is
    then kept.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        files.write_whole(path, buffer.getvalue())
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be written ({error.strerror}): make room, then run again; the last one is kept"
        ) from error


def load(path: Path, device: str = "cpu") -> dict | None:
    """The state in a checkpoint; None where there is no file. Raises CheckpointError if it cannot be read."""
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file raises what its unpickler or zip reader raises
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({type(error).__name__}): delete it to start this run again"
        ) from error
