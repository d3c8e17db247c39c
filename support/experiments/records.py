"""Records: one small JSON file a run, with where it came from.

A record is ``{"config": …, "curves": …, "final": …, "provenance": {"commit", "device", "versions", "wall_s"}}``; a run
that was measured on its way has ``"measured"`` too, each number as a list beside the steps. It is written atomically,
so that a file
that exists is whole. Pages read records from ``notebooks/records`` with `load`, which also notes the use: a changed
record executes its pages again.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import tempfile
from pathlib import Path

from support import files, page
from support.errors import Refused

SECTIONS = ("config", "curves", "final", "provenance")


class RecordError(Refused):
    """A record that is missing, cut short or of another form; the message names the file and the remedy."""


def save(
    path: Path | str,
    *,
    config: dict,
    final: dict,
    wall_s: float,
    curves: dict | None = None,
    measured: dict | None = None,
    device: str = "cpu",
) -> Path:
    """Write a record atomically (a file beside it, then a rename) and return its path.

    Raises RecordError if the folder cannot be written, or for a number that is not finite (JSON has none).
    """
    path = Path(path)
    record = {"config": config, "curves": curves or {}, "final": final, "provenance": provenance(wall_s, device)}
    if measured:
        record["measured"] = measured
    try:
        text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False)
    except ValueError as error:
        raise RecordError(
            f"record {path} would hold a number that is not finite, which JSON has not ({error}): look at the run"
        ) from error
    try:
        files.write_whole(path, text + "\n")
    except OSError as error:
        raise RecordError(
            f"record {path} cannot be written ({error.strerror}): choose a folder that exists and has room"
        ) from error
    return path


def check_folder(folder: Path) -> None:
    """Make a folder if it is missing. Raises RecordError if it cannot be had or cannot be written, so that this is
    known before a run and not after it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RecordError(f"folder {folder} cannot be written ({error.strerror}): name another") from None


def run_name(preset: str, scale: str, method: str, seed: int) -> str:
    """Where the record of a run stands in the folder of records, without its suffix, such as
    ``wu.fig1a/paper/msgd-cov-seed1``.

    Brackets have no place in file names: MSGD-[Fisher-10] is msgd-sparse-fisher-10, and [MSGD-Fisher]-10 is
    msgd-compensated-fisher-10.
    """
    slug = re.sub(r"^msgd-\[(.+)\]$", r"msgd-sparse-\1", method.lower())
    slug = re.sub(r"^\[msgd-(.+)\]-(\d+)$", r"msgd-compensated-\1-\2", slug)
    return f"{preset}/{scale}/{slug}-seed{seed}"


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


def load_all(pattern: str) -> dict[str, dict]:
    """The records that match, such as ``wu.fig1a/paper/*``, by name, called from a page's folder; notes that the page
    uses the folder, so also what is added.

    Raises RecordError if none matches.
    """
    root = Path.cwd().parent / "records"
    found = {
        path.relative_to(root).as_posix().removesuffix(".json"): read(path)
        for path in sorted(root.glob(f"{pattern}.json"))
    }
    if not found:
        preset, _, scale = pattern.removesuffix("/*").partition("/")
        command = f"python -m support experiments run {preset}" + (f" --scale {scale}" if scale else "")
        raise RecordError(
            f"no record matches {pattern} in {root}: make them in the root of the book's tree with `{command}`"
        )
    for folder in {name.rpartition("/")[0] or name for name in found}:
        page.used("records", folder)
    return found


def provenance(wall_s: float, device: str = "cpu") -> dict:
    """Commit (with ``+changes`` if the tree differs from it), device, threads, versions and wall time in seconds."""
    import numpy
    import torch

    where = Path(__file__).parent
    commit = _git(where, "rev-parse", "--short=12", "HEAD") or "unknown"
    changed = bool(_git(where, "status", "--porcelain", "--untracked-files=no"))
    return {
        "commit": commit + ("+changes" if changed else ""),
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.partition("+")[0],
            "numpy": numpy.__version__,
        },
        "wall_s": round(wall_s, 3),
    }


def _git(where: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
