"""Checkpoints: the state of a run in one file, replaced in one piece, with its sha256 before it.

A checkpoint holds tensors, numpy arrays, numbers, texts, lists and dicts only, so that reading one runs no code. What a
file holds is compared with its checksum before it is used: no run goes on from a damaged one.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch

from support import files
from support.errors import Refused, instance

_KIND = b"sgd-noise checkpoint\n"
_REMEDY = "delete it to start this run again"
_DIGEST = hashlib.sha256().digest_size
# numpy's numbers and arrays stand for themselves: Python's would make the steps of a resumed run in another precision
_NUMPY = (
    *{np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]},
    np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefd"),
)  # fmt: skip


class CheckpointError(Refused):
    """A checkpoint that cannot be written or read; the message names the file and the remedy."""


def save(path: Path | str, state: dict) -> None:
    """Replace the checkpoint. Raises CheckpointError for a state that could not be read again (a path, an object, a
    function in it), and if the file cannot be written, such as on a full disk; the old one is then kept.
    """
    path = _path(path)
    instance("state", state, dict, "give a dict of tensors, numbers, texts, lists and dicts")
    payload = _payload(state)
    if payload is None:
        where, value = _unreadable(state, "state")
        raise CheckpointError(
            f"checkpoint {path} could never be read again: {where} = {value!r} is of type {type(value).__name__}; keep "
            f"tensors, numbers, texts, lists and dicts there"
        )
    try:
        files.write_whole(path, _KIND + hashlib.sha256(payload).digest() + payload)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be written ({error.strerror}): make room, then run again; the last one is kept"
        ) from error


def load(path: Path | str, device: str | torch.device = "cpu", *, keys: Collection[str] = ()) -> dict | None:
    """The state in a checkpoint, its tensors on a device; None where there is no file.

    keys: what the state must hold.  Raises CheckpointError if the file cannot be read, is no checkpoint of this form,
    was changed by as little as a bit, or lacks a key.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/run.pt", {"steps_done": 3, "rate": np.float64(0.1)})
    ...     load(f"{folder}/run.pt", keys=("steps_done",))
    {'steps_done': 3, 'rate': np.float64(0.1)}
    """
    path = _path(path)
    if not path.exists():
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error.strerror}): {_REMEDY}") from error
    return parse(content, path, device, keys=keys)


def parse(content: bytes, path: Path | str, device: str | torch.device = "cpu", *, keys: Collection[str] = ()) -> dict:
    """The state in the bytes of a checkpoint; ``path`` is for messages. Raises CheckpointError as `load`."""
    kind, digest, payload = content[: len(_KIND)], content[len(_KIND) :][:_DIGEST], content[len(_KIND) + _DIGEST :]
    if kind != _KIND:
        raise CheckpointError(
            f"checkpoint {path} cannot be read (it has no checksum: another file, or an older one): {_REMEDY}"
        )
    if digest != hashlib.sha256(payload).digest():
        raise CheckpointError(f"checkpoint {path} cannot be read (it is damaged: its checksum differs): {_REMEDY}")
    try:
        state = _read(payload, device)
    except Exception as error:  # written by another version, it raises what the unpickler raises
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__}): {_REMEDY}") from error
    missing = [key for key in keys if not isinstance(state, Mapping) or key not in state]
    if missing or not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {path} lacks {', '.join(missing) or 'a state'}: {_REMEDY}")
    return state


def _path(path) -> Path:
    return Path(instance("path", path, (str, Path), "give the file's path"))


def _read(payload: bytes, device="cpu"):
    with torch.serialization.safe_globals(list(_NUMPY)):
        return torch.load(io.BytesIO(payload), map_location=device, weights_only=True)


def _payload(value) -> bytes | None:
    """The bytes of a value; None if they cannot be made, or not be read again without running code."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        _read(buffer.getvalue())
    except Exception:  # what pickle, the value's own methods and the reader raise
        return None
    return buffer.getvalue()


def _unreadable(value, where: str) -> tuple[str, object]:
    """The innermost entry that cannot be kept, and where it stands."""
    entries = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    )
    for key, inner in entries:
        if _payload(inner) is None:
            return _unreadable(inner, f"{where}[{key!r}]")
    return where, value
