"""The records of runs that several processes make together, each on a device or a core of its own.

    torchrun --standalone --nproc-per-node 2 -m support experiments run PRESET --scale SCALE --device cuda

`joined` joins the processes that torchrun started. Each makes the same run (`support.experiments.distributed` shares
its passes); the first keeps the record, the checkpoint and the lock where they belong, and says what came of it; the
others take up the first one's checkpoint, and keep theirs in a folder that ends with them. All see one file system.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import distributed

from support import files
from support.errors import Refused
from support.experiments import runs
from support.experiments.distributed import RankError, RankLost, world
from support.experiments.failures import OF_THE_MACHINE
from support.experiments.runs import RunSpec

_SILENT = datetime.timedelta(minutes=10)  # after which a rank counts as lost


def started() -> int:
    """The processes that torchrun started this one with; 1 where it did not. Raises RankError for a malformed number.

    >>> started()
    1
    """
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or not int(text):
        raise RankError(f"WORLD_SIZE = {text!r} is no number of processes: start them with torchrun")
    return int(text)


@contextlib.contextmanager
def joined(device: str, at: str = "env://") -> Iterator[int]:
    """Join the other processes for the time of a `with` block, by gloo on CPUs and by nccl on devices; gives this one's
    rank, 0 for the first. A process on devices works on that of its local rank.

    at: where they meet, as `torch.distributed.init_process_group` takes it.
    Raises RankError where there are more processes than devices, or where they do not meet.
    """
    try:
        rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError) as error:
        raise RankError(f"RANK, WORLD_SIZE or LOCAL_RANK is missing ({error}): start this with torchrun") from None
    if device == "cuda":
        if local >= (there := torch.cuda.device_count()):
            raise RankError(f"process {local + 1} has no device of its own: start --nproc-per-node {there} at most")
        torch.cuda.set_device(local)
    try:
        distributed.init_process_group(
            "nccl" if device == "cuda" else "gloo", init_method=at, rank=rank, world_size=size, timeout=_SILENT
        )
    except (RuntimeError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise RankError(f"{size} processes did not meet at {at} ({said}): start them with torchrun") from error
    yield rank
    distributed.destroy_process_group()  # after an error the end of the process does it: others may be gone


def agreed(value):
    """The first process's value, in all of them; any that pickle takes. Raises RankLost.

    >>> agreed("alone")
    'alone'
    """
    if world() == 1:
        return value
    held = [value]
    try:
        distributed.broadcast_object_list(held)
    except RuntimeError as error:
        raise RankLost.since(error) from error
    return held[0]


def record(spec: RunSpec, folder: Path, work: Path, **options) -> Path:
    """`support.experiments.runs.record` by all processes of the group; the path is that of the first one's.

    An error that all have `alike` (a loss that is not finite, a run that cannot be) leaves them together, for the next
    run. After any other, such as that of a full disk, a process must end, and so end the others: the same command goes
    on from the last checkpoint.
    """
    first = distributed.get_rank() == 0
    kept = agreed(_kept(spec, folder, work) if first else None)
    if first:
        runs.record(spec, folder, work, **options)
    else:
        with tempfile.TemporaryDirectory() as own:
            for place, content in kept.items():
                files.write_whole(Path(own, place), content)
            runs.record(spec, Path(own, "records"), Path(own, "work"), **options | {"save_every_s": 1e9})
    return agreed(spec.path(folder))


def _kept(spec: RunSpec, folder: Path, work: Path) -> dict[str, bytes]:
    """What a run goes on from: its checkpoint, and the start that it leaves from."""
    found = {f"work/{spec.name}.pt": work / f"{spec.name}.pt"}
    if spec.start:
        found |= {f"work/{spec.start.name}{end}.pt": work / f"{spec.start.name}{end}.pt" for end in ("", "-running")}
        found[f"records/{spec.start.name}.json"] = spec.start.path(folder)
    return {place: path.read_bytes() for place, path in found.items() if path.is_file()}


def alike(error: Exception) -> bool:
    """Whether all processes of a run have an error: one that follows from its numbers, not from a disk or a device.

    >>> alike(RankError("the ranks do not begin alike")), alike(OSError(28, "No space left on device"))
    (True, False)
    """
    return isinstance(error, Refused | ArithmeticError) and not isinstance(error, (*OF_THE_MACHINE, RankLost))


def part(title: str, error: Exception) -> None:
    """Part from the other processes where an error is not `alike` in all: raises RankError. Does nothing without them.

    >>> part("SGD seed 1", OSError(28, "No space left on device"))
    """
    if world() > 1 and not alike(error):
        kind = RankLost if isinstance(error, RankLost) else RankError
        raise kind(f"{title}: {' '.join(str(error).split())}") from error


def together(does: Callable[[], int], device: str) -> int:
    """Call a function in all processes that torchrun started, and return its exit status. The first one alone speaks;
    another only of what befell itself. Raises RankError as `joined`, and what the function raises.
    """
    first = os.environ.get("RANK") == "0"
    before = signal.signal(signal.SIGTERM, _told_to_stop)
    try:
        with joined(device), contextlib.nullcontext() if first else _silent():
            return does()
    except Refused as error:
        if first or not (alike(error) or isinstance(error, RankLost)):
            raise
        return 2
    except _Told:
        if first:
            raise RankLost(
                "this process was told to stop, as all are when one ends: start the same command again, it goes on "
                "from the last checkpoint"
            ) from None
        return 2
    except KeyboardInterrupt:
        if first:
            raise
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


class _Told(BaseException):
    """SIGTERM, as an exception that nobody on the way takes for an error of theirs."""


def _told_to_stop(*_) -> None:
    raise _Told


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield
