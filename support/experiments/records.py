"""Records: one small JSON file a run, with where it came from.

A record is ``{"config": …, "curves": …, "final": …, "provenance": {"commit", "device", "versions", "wall_s"}}``. It is written atomically, so that a file
that exists is whole. Pages read records from ``notebooks/records`` with `load`, which also notes the use: a changed record executes its pages again.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from support import page

SECTIONS = ("config", "curves", "final", "provenance")


class RecordError(ValueError):
    """A record that is missing, cut short or of another form; the message names the file and the remedy."""


def save(path: Path | str, *, config: dict, final: dict, wall_s: float, curves: dict | None = None, device: str = "cpu") -> Path:
    """Write a record atomically (a file beside it, then a rename) and return its path. 

    Raises RecordError if the folder cannot be written, ValueError for a number that is not finite (JSON has none).
    """
    path = Path(path)
    record = {"config": config, "curves": curves or {}, "final": final, "provenance": provenance(wall_s, device)}
    text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        os.replace(name, path)
    except OSError as error:
        raise RecordError(f"record {path} cannot be written ({error.strerror}): choose a folder that exists and has room") from error
    return path


def read(path: Path | str) -> dict:
    """Read one record. Raises RecordError if it is missing, no JSON, or lacks a section."""
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"record {path} is missing: run the command that makes it (the page names it)") from None
    except ValueError as error:
        raise RecordError(f"record {path} is no JSON ({error}): delete it and run its command again") from None
    if missing := [key for key in SECTIONS if key not in record]:
        raise RecordError(f"record {path} lacks {', '.join(missing)}: delete it and run its command again")
    return record


def load(name: str) -> dict:
    """The record ``notebooks/records/<name>.json``, called from a page's folder; notes that the page uses it."""
    page.used("records", name)
    return read(Path.cwd().parent / "records" / f"{name}.json")


def provenance(wall_s: float, device: str = "cpu") -> dict:
    """Commit (with ``+changes`` if the tree differs from it), device, versions and wall time in seconds."""
    import numpy
    import torch

    where = Path(__file__).parent
    commit = _git(where, "rev-parse", "--short=12", "HEAD") or "unknown"
    changed = bool(_git(where, "status", "--porcelain", "--untracked-files=no"))
    return {
        "commit": commit + ("+changes" if changed else ""),
        "device": device,
        "versions": {"python": platform.python_version(), "torch": torch.__version__.partition("+")[0], "numpy": numpy.__version__},
        "wall_s": round(wall_s, 3),
    }


def _git(where: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
