"""The queue: the missing records of every plan, in the order of their worth, on one machine and within a budget.

It is made for a machine that is lent for minutes and has nothing but this package, torch, numpy, scipy and tqdm: many
runs at once, each in a process of its own; no minute on anything but training; what is finished is packed into one
archive after every run, and what is not finished goes into it at the end, as checkpoints. `file_archive` checks an
archive and files its records; its checkpoints go to the work folder, from where the next call goes on.

A run that fails costs its own record alone, and is left out once it has failed twice. A disk that is full ends the
queue: what was made stays in the work folder.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from support import files
from support.errors import Refused
from support.experiments import checkpoints, failures, plans, records
from support.experiments import together as joint
from support.experiments.plans import Plan
from support.experiments.runs import START, RunSpec, check_device, record
from support.experiments.training import OutOfTime
from support.jobs import TimeUp
from support.jobs import run as run_jobs

ARCHIVE = "records.tar.gz"
RECORDS = "records"  # inside the work folder
PRELOAD = ("support.experiments.together",)  # torch takes seconds to import, many runs take no more
_LARGEST = 2**27  # of a member of an archive
_UNFINISHED = (".pt", ".begun", ".failed")  # what the folder of work holds of runs that are not done
_GRACE_S = 30.0  # for a run to write its checkpoint when time is up


class QueueError(Refused):
    """A queue that cannot run, or an archive that cannot be filed; the message names the value and the remedy."""


@dataclass(frozen=True)
class Job:
    """A missing run of a plan."""

    plan: Plan
    spec: RunSpec

    def seconds(self, device: str) -> float:
        """What it is expected to take, by the plan's own estimate."""
        return self.plan.queue.cuda_s if device == "cuda" else self.plan.queue.cpu_s


def missing(
    chosen: Iterable[Plan], folders: Sequence[Path], warn: Callable[[str], None] = print, work: Path | None = None
) -> list[Job]:
    """The runs of the plans that have a record in none of the folders, in the order of their worth.

    A damaged record, or one of another configuration, is reported, and its run left out until somebody looks at it; so
    is a run that has failed twice, as the folder of work notes.
    """
    jobs = []
    for plan in chosen:
        for spec in plan.runs():
            try:
                if any(spec.is_done(folder) for folder in folders):
                    continue
                if work and len(said := failures.read(path := _note(spec, work))) >= failures.MOST:
                    warn(f"left out: {spec.title} failed {len(said)} times: {said[-1]}; delete {path} to try it again")
                else:
                    jobs.append(Job(plan, spec))
            except records.RecordError as error:
                warn(f"left out: {error}")
    return jobs


def _note(spec: RunSpec, work: Path) -> Path:
    return work / f"{spec.name}.failed"


def is_begun(spec: RunSpec, work: Path) -> bool:
    """Whether the folder of work holds a checkpoint from which a run, or the start it leaves from, goes on."""
    names = [spec.name, *((spec.start.name, f"{spec.start.name}-running") if spec.start else ())]
    return any((work / f"{name}.pt").is_file() for name in names)


def check_budget(jobs: Sequence[Job], device: str, budget_s: float, work: Path) -> None:
    """Refuse a budget in which no run can end, by the plans' estimates, unless one is half done. Raises QueueError."""
    shortest = min(jobs, key=lambda job: job.seconds(device), default=None)
    if shortest is None or any(is_begun(job.spec, work) for job in jobs):
        return
    if budget_s < (takes := shortest.seconds(device)):
        raise QueueError(
            f"a budget of {budget_s:g} s is too small: the shortest run that is missing, {shortest.spec.title}, takes "
            f"about {takes:g} s on {device}; give more"
        )


def estimate(jobs: Sequence[Job], device: str, workers: int) -> float:
    """Seconds that the jobs are expected to take on so many workers."""
    return sum(job.seconds(device) for job in jobs) / max(1, min(workers, len(jobs)))


def default_workers(device: str, jobs: Sequence[Job]) -> int:
    """As many runs at once as there are cores, and on a device as fit its memory; one where the device is not here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device != "cuda" or not jobs:
        return cores
    import torch

    if not torch.cuda.is_available():
        return 1
    room = torch.cuda.mem_get_info()[0] / 2**30
    return max(1, min(cores, int(room / max(job.plan.queue.cuda_gib for job in jobs))))


@dataclass
class Tally:
    """What became of the jobs: records made, runs left off when time was up, runs that failed.  full: of these, those
    that found no room on the disk.
    """

    made: int = 0
    late: int = 0
    failed: int = 0
    full: int = 0

    def count(self, outcome: str) -> None:
        """One more job; "alone" is none yet."""
        self.made += outcome == "made"
        self.late += outcome == "late"
        self.failed += outcome in ("failed", "full")
        self.full += outcome == "full"


def run(
    jobs: Sequence[Job],
    *,
    device: str,
    budget_s: float,
    output: Path,
    work: Path,
    workers: int,
    together: bool = False,
    say: Callable[[str], None] = print,
) -> Tally:
    """Make records until all are there, the budget is spent, or the disk is full. A run that lost its process is tried
    once more.

    output: folder of the archive.  work: folder of checkpoints, and of the records until the archive is filed.
    together: first the runs that can share a program (`support.experiments.together`), a group after another; those
    that turn out to need one of their own go with the others.
    Raises QueueError if the archive cannot be written at the end; the records are then in the folder of work.
    """
    check_device(device)
    deadline, tally = time.time() + budget_s, Tally()
    left, waiting, pending = list(jobs), [], set()

    def came(spec: RunSpec, outcome: str, line: str) -> None:
        if spec.method != START or outcome in ("failed", "full"):
            tally.count(outcome)
        say(line)

    def calls() -> Iterator[tuple | None]:
        while waiting and time.time() < deadline:
            ready = next((job for job in waiting if job.spec.start not in pending), None)
            if ready:
                waiting.remove(ready)
            yield ready and (ready.plan, ready.spec, work, device, deadline)

    def keep(unfinished: Path | None = None) -> None:
        with contextlib.suppress(OSError):  # at the end it is tried again, and said
            pack(output / ARCHIVE, work / RECORDS, unfinished)

    try:
        for told in _in_groups(jobs, work, device, deadline) if together else ():
            for job, (outcome, line) in told:
                came(job.spec, outcome, line)
                if outcome != "alone":
                    left.remove(job)
            keep(unfinished=work)
            if tally.full:
                left.clear()
                break
        waiting += _with_starts(left)
        pending |= {job.spec for job in waiting if job.spec.method == START}
        for ended in run_jobs(_one, calls(), workers=workers, until=deadline + _GRACE_S, preload=PRELOAD):
            spec = ended.call[1]
            came(spec, *(ended.result or _lost(spec, work, ended.error)))
            pending.discard(spec)  # where a start failed, those that leave from it look for themselves
            if tally.full:
                waiting.clear()
            keep()
    finally:
        _pack_at_last(output / ARCHIVE, work)
    say(f"{tally.made} of {len(jobs)} records made; they are in {output / ARCHIVE}")
    return tally


def _with_starts(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, with the start of an escape before the first job that leaves from it."""
    found = {}
    for job in jobs:
        for spec in filter(None, (job.spec.start, job.spec)):
            found.setdefault(spec, Job(job.plan, spec))
    return list(found.values())


def _in_groups(
    jobs: Sequence[Job], work: Path, device: str, deadline: float
) -> Iterator[list[tuple[Job, tuple[str, str]]]]:
    """Groups of runs made together, one after another: what became of each run, and a line about it."""
    of = {job.spec: job for job in jobs}
    groups = joint.parted(of)
    calls = (([of[spec] for spec in group], work, device, deadline) for group in groups if time.time() < deadline)
    for ended in run_jobs(_many, calls, workers=1, until=deadline + _GRACE_S, preload=PRELOAD):
        group = ended.call[0]
        lost = "late" if isinstance(ended.error, TimeUp) else "alone"
        said = ended.result or [(lost, f"{lost}: {job.spec.title}: {ended.error}") for job in group]
        yield list(zip(group, said, strict=True))


def _many(group: Sequence[Job], work: Path, device: str, deadline: float) -> list[tuple[str, str]]:
    """Runs of one program in a process of its own: what became of each ("alone": nothing yet), and a line about it."""
    import torch

    torch.set_num_threads(1)
    begun, planned = time.perf_counter(), [job.plan for job in group]
    own = {"planned": planned, "device": device, "deadline": deadline, "show": False}
    found = joint.record([job.spec for job in group], work / RECORDS, work, **own)
    share = (time.perf_counter() - begun) / len(group)
    return [_told(job.spec, made, share, work) for job, made in zip(group, found, strict=True)]


def _told(spec: RunSpec, made: Path | Exception, seconds: float, work: Path) -> tuple[str, str]:
    """What became of a run, and a line about it."""
    if isinstance(made, OutOfTime):
        return "late", f"left off: {spec.title}: {made}"
    if isinstance(made, joint.JoinError):
        return "alone", f"alone: {made}"
    if isinstance(made, Exception):
        return _failed(spec, work, made)
    _note(spec, work).unlink(missing_ok=True)
    accuracy = records.read(made)["final"]["test_accuracy"]
    return "made", f"{spec.title}: test accuracy {accuracy:.4f}, {seconds:.0f} s"


def _one(plan: Plan, spec: RunSpec, work: Path, device: str, deadline: float) -> tuple[str, str]:
    """One run in a process of its own: what became of it, and a line about it."""
    import torch

    torch.set_num_threads(1)
    begun = time.perf_counter()
    try:
        made = record(spec, work / RECORDS, work, plan=plan, device=device, deadline=deadline, show=False)
    except (Refused, ArithmeticError, RuntimeError, OSError) as error:
        made = error
    return _told(spec, made, time.perf_counter() - begun, work)


def _lost(spec: RunSpec, work: Path, error: Exception) -> tuple[str, str]:
    """What became of a run whose process gave no result."""
    return ("late", f"late: {spec.title}: {error}") if isinstance(error, TimeUp) else _failed(spec, work, error)


def _failed(spec: RunSpec, work: Path, error: Exception) -> tuple[str, str]:
    line = f"error: {spec.title}: {' '.join(str(error).split())}"
    with contextlib.suppress(OSError):
        failures.note(_note(spec, work), error)
    return ("full", f"{line}; the queue ends here") if failures.no_room(error) else ("failed", line)


# --- archives ---------------------------------------------------------------------------------------------------------


def pack(archive: Path, made: Path, unfinished: Path | None = None) -> None:
    """Write the records of a folder into one archive, in one piece; with ``unfinished``, the checkpoints of a work
    folder too.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=5) as tar:
        for path in sorted(made.rglob("[!.]*.json")):
            tar.add(path, f"records/{path.relative_to(made).as_posix()}")
        for path in sorted(unfinished.rglob("*")) if unfinished else ():
            if path.suffix in _UNFINISHED:
                tar.add(path, f"work/{path.relative_to(unfinished).as_posix()}")
    files.write_whole(archive, buffer.getvalue())


def _pack_at_last(archive: Path, work: Path) -> None:
    try:
        pack(archive, work / RECORDS, unfinished=work)
    except OSError as error:
        raise QueueError(
            f"archive {archive} cannot be written ({error.strerror}): make room and call the queue again; the records "
            f"are in {work / RECORDS}"
        ) from error


def file_archive(archive: Path, folder: Path, work: Path, chosen: Sequence[Plan]) -> tuple[list[str], list[str]]:
    """Check an archive, file its records in ``folder`` and its checkpoints in ``work``; lines on what was filed, and on
    what was refused.

    A record is filed if it is whole, names a run of this package at its knobs, belongs to a plan that stands here as it
    stood there, and is not there yet; the same record again is no news, another one in its place is refused. A
    checkpoint is filed if it is whole and no record of its run is there, nor a checkpoint that is further.
    Raises QueueError for an archive that is missing or damaged.
    """
    filed, refused = [], []
    try:
        # the whole of it first: its checksum stands at its end, where tarfile does not look
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive.read_bytes())), mode="r:") as tar:
            members = [(m.name, tar.extractfile(m).read()) for m in tar if m.isfile() and m.size <= _LARGEST]
    except FileNotFoundError:
        raise QueueError(f"there is no archive {archive}: name the one that the queue wrote") from None
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise QueueError(f"archive {archive} cannot be read ({error}): it is damaged, bring it again") from error
    for name, content in members:
        top, *inner = PurePosixPath(name).parts or ("",)
        place = PurePosixPath(*inner)
        if not inner or ".." in inner or top not in ("records", "work"):
            refused.append(f"{name}: no place for it here")
            continue
        try:
            if top == "records":
                said = _file_record(place, content, folder, chosen)
            else:
                said = _file_unfinished(place, content, folder, work)
            filed += [said] if said else []
        except Refused as error:
            refused.append(f"{name}: {error}")
    return filed, refused


def _file_record(place: PurePosixPath, content: bytes, folder: Path, chosen: Sequence[Plan]) -> str:
    """File one record; what was done, empty where it stands there already."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise QueueError("no text: the archive is damaged, bring it again") from None
    found = records.parse(text, place)
    spec = RunSpec(*(found["config"].get(key) for key in ("preset", "scale", "method", "seed")))
    if spec.name != place.as_posix().removesuffix(".json"):
        raise QueueError(f"its place is that of another run than {spec.name}: file nothing by hand")
    plan, of = plans.plan_of(spec, list(chosen)), found.get("plan") or {}
    if plan is None or of.get("digest") != plan.digest:
        raise QueueError(f"plan {of.get('name')} is not here as it was there: file it from the commit that made it")
    path = spec.path(folder)
    if path.exists():
        if records.read(path) == found:
            return ""
        raise QueueError(f"another record stands at {path}: move it away to file this one")
    files.write_whole(path, content)
    try:
        spec.is_done(folder)
    except records.RecordError:
        path.unlink()
        raise
    return f"{spec.title}: test accuracy {found['final'].get('test_accuracy', float('nan')):.4f}"


def _file_unfinished(place: PurePosixPath, content: bytes, folder: Path, work: Path) -> str:
    """File what a run goes on from; what was done, empty where the run is done or is further here."""
    path, run = work / place, f"{place.with_suffix('')}".removesuffix("-running")
    if place.suffix not in _UNFINISHED:
        raise QueueError(f"it is no checkpoint: {', '.join(_UNFINISHED)} are what has a place there")
    if place.suffix == ".pt":
        there = checkpoints.parse(content, path).get("steps_done", -1)
        if path.exists() and there <= checkpoints.load(path).get("steps_done", -1):
            return ""
    elif path.exists():
        return ""
    if (folder / f"{run}.json").exists():
        return ""
    files.write_whole(path, content)
    return f"work/{place}: goes on"
