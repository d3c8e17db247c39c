"""Records: one small JSON file a run, with where it came from.

A record is ``{"schema": 2, "config": …, "curves": …, "final": …, "provenance": {"commit", "device", "versions",
"wall_s"}, "started": …, "plan": {"name", "digest"}, "checksum": …}``; a run that was measured on its way has
``"measured"`` too, each number as a list beside the steps. A record without ``schema`` is of schema 1: it has neither
start nor plan. The checksum covers what was found (config, curves, measured, final), so that a changed digit is
refused. A record is written in one piece: a file that exists is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import tempfile
from pathlib import Path

from support import files
from support.errors import Refused, instance

SCHEMA = 2
SECTIONS = {"config": dict, "curves": dict, "final": dict, "provenance": dict}
_FOUND = ("config", "curves", "final", "measured")
_LARGEST = 2**24


class RecordError(Refused):
    """A record that is missing, cut short or of another form; the message names the file and the remedy."""


def checksum(record: dict) -> str:
    """sha256 of what a record found, in canonical JSON: config, curves, measured and final.

    >>> checksum({"config": {}, "curves": {}, "final": {"steps": 1}})[:8]
    '636bc148'
    """
    found = {key: record[key] for key in _FOUND if key in record}
    return hashlib.sha256(json.dumps(found, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def save(
    path: Path | str,
    *,
    config: dict,
    final: dict,
    wall_s: float,
    curves: dict | None = None,
    measured: dict | None = None,
    device: str = "cpu",
    plan: dict | None = None,
    started: str | None = None,
) -> Path:
    """Write a record atomically (a file beside it, then a rename) and return its path.

    plan: name and digest of the plan it belongs to.  started: when its run began, ISO 8601 in UTC.
    Raises RecordError if the folder cannot be written, or for a number that is not finite (JSON has none).
    """
    path = Path(path)
    record = {"schema": SCHEMA, "config": config, "curves": curves or {}, "final": final}
    record["provenance"] = provenance(wall_s, device)
    record |= {key: value for key, value in (("measured", measured), ("plan", plan), ("started", started)) if value}
    try:
        text = json.dumps(record | {"checksum": checksum(record)}, indent=1, sort_keys=True, allow_nan=False)
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
    known
    before a run and not after it.
    """
    if folder.is_symlink() and not folder.exists():
        raise RecordError(f"folder {folder} is a link that leads nowhere: mend the link, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RecordError(f"folder {folder} cannot be written ({error.strerror}): name another") from None


def run_name(preset: str, scale: str, method: str, seed: int) -> str:
    """Where the record of a run stands in the folder of records, without its suffix.

    Brackets have no place in file names: MSGD-[Fisher-10] is msgd-sparse-fisher-10, and [MSGD-Fisher]-10 is
    msgd-compensated-fisher-10.

    >>> run_name("wu.fig1a", "paper", "MSGD-Cov", 1)
    'wu.fig1a/paper/msgd-cov-seed1'
    """
    slug = re.sub(r"^msgd-\[(.+)\]$", r"msgd-sparse-\1", method.lower())
    slug = re.sub(r"^\[msgd-(.+)\]-(\d+)$", r"msgd-compensated-\1-\2", slug)
    return f"{preset}/{scale}/{slug}-seed{seed}"


def read(path: Path | str) -> dict:
    """Read one record. Raises RecordError if it is missing, no JSON, lacks a section, or is not what was written;
    WrongType for no path.
    """
    path = Path(instance("path", path, (str, Path), "name a record's file"))
    try:
        if not path.is_file():
            state = "is no file" if path.exists() else "is missing"
            raise RecordError(f"record {path} {state}: run the command that makes it (the page names it)")
        if path.stat().st_size > _LARGEST:
            raise RecordError(f"record {path} is larger than {_LARGEST >> 20} MiB: it is none of ours, move it away")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"record {path} cannot be read ({error}): delete it and run its command again") from error
    return parse(text, path)


def parse(text: str, where: Path | str) -> dict:
    """A record from its text; ``where`` is for messages. Raises RecordError as `read`."""
    try:
        record = json.loads(text, object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"record {where} is no JSON ({error}): delete it and run its command again") from None
    found = record if isinstance(record, dict) else {}
    if wrong := [key for key, kind in SECTIONS.items() if not isinstance(found.get(key), kind)]:
        raise RecordError(f"record {where} lacks {', '.join(wrong)}: delete it and run its command again")
    if not all(isinstance(curve, list) for key in ("curves", "measured") for curve in found.get(key, {}).values()):
        raise RecordError(f"record {where} has a curve that is no list: delete it and run its command again")
    schema = found.get("schema", 1)
    if schema not in range(1, SCHEMA + 1):
        raise RecordError(
            f"record {where} is of schema {schema!r}, and {SCHEMA} is the newest known: update the package"
        )
    if ("checksum" in found or schema > 1) and found.get("checksum") != checksum(found):
        raise RecordError(f"record {where} is not what was written (its checksum differs): delete it and run it again")
    return found


def _no_twins(pairs: list[tuple]) -> dict:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def provenance(wall_s: float, device: str = "cpu") -> dict:
    """Commit (with ``+changes`` if the tree differs from it), device, threads, versions and wall time in seconds; the
    number of processes, if several made the run together.

    ``SUPPORT_COMMIT`` names the commit where there is no git, as on a machine that only has a copy of the tree.
    """
    import numpy
    import torch

    from support.experiments.distributed import world

    where = Path(__file__).parent
    if not (commit := os.environ.get("SUPPORT_COMMIT")):
        changed = _git(where, "status", "--porcelain", "--untracked-files=no")
        commit = (_git(where, "rev-parse", "--short=12", "HEAD") or "unknown") + ("+changes" if changed else "")
    own = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    own |= {"processes": world()} if world() > 1 else {}
    versions = {"python": platform.python_version(), "numpy": numpy.__version__}
    return own | {
        "commit": commit,
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": versions | {"torch": torch.__version__.partition("+")[0]},
        "wall_s": round(wall_s, 3),
    }


def _git(where: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
