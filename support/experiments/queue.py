"""The queue: the missing records of every plan, in the order of their worth, on one machine and within a budget.

It is made for a machine that is lent for minutes and has nothing but this package, torch, numpy, scipy and tqdm: many
runs at once, each in a process of its own; no minute on anything but training; what is finished is packed into one
archive after every run, and what is not finished goes into it at the end, as checkpoints. `file_archive` checks an
archive and files its records; its checkpoints go to the work folder, from where the next call goes on.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from support import files
from support.errors import Refused
from support.experiments import plans, records
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


def missing(chosen: Iterable[Plan], folders: Sequence[Path], warn: Callable[[str], None] = print) -> list[Job]:
    """The runs of the plans that have a record in none of the folders, in the order of their worth.

    A damaged record, or one of another configuration, is reported, and its run left out until somebody looks at it.
    """
    jobs = []
    for plan in chosen:
        for spec in plan.runs():
            try:
                if not any(spec.is_done(folder) for folder in folders):
                    jobs.append(Job(plan, spec))
            except records.RecordError as error:
                warn(f"left out: {error}")
    return jobs


def estimate(jobs: Sequence[Job], device: str, workers: int) -> float:
    """Seconds that the jobs are expected to take on so many workers."""
    return sum(job.seconds(device) for job in jobs) / max(1, min(workers, len(jobs)))


def default_workers(device: str, jobs: Sequence[Job]) -> int:
    """As many runs at once as there are cores, and on a device as fit its memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device != "cuda" or not jobs:
        return cores
    import torch

    room = torch.cuda.mem_get_info()[0] / 2**30
    return max(1, min(cores, int(room / max(job.plan.queue.cuda_gib for job in jobs))))


@dataclass
class Tally:
    """What became of the jobs: records made, runs left off when time was up, runs that failed."""

    made: int = 0
    late: int = 0
    failed: int = 0


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
    """Make records until all are there or the budget is spent. A run that lost its process is tried once more.

    output: folder of the archive.  work: folder of checkpoints, and of the records until the archive is filed.
    together: first the runs that can share a program (`support.experiments.together`), a group after another; those
    that turn out to need one of their own go with the others.
    """
    check_device(device)
    deadline, tally = time.time() + budget_s, Tally()
    left = list(jobs)
    for told in _in_groups(jobs, work, device, deadline) if together else ():
        for job, (outcome, line) in told:
            if outcome != "alone":
                left.remove(job)
                setattr(tally, outcome, getattr(tally, outcome) + 1)
            say(line)
        pack(output / ARCHIVE, work / RECORDS, unfinished=work)
    waiting = _with_starts(left)
    pending = {job.spec for job in waiting if job.spec.method == START}

    def calls() -> Iterator[tuple | None]:
        while waiting and time.time() < deadline:
            ready = next((job for job in waiting if job.spec.start not in pending), None)
            if ready:
                waiting.remove(ready)
            yield ready and (ready.plan, ready.spec, work, device, deadline)

    try:
        for ended in run_jobs(_one, calls(), workers=workers, until=deadline + _GRACE_S, preload=PRELOAD):
            spec = ended.call[1]
            lost = "late" if isinstance(ended.error, TimeUp) else "failed"
            outcome, line = ended.result or (lost, f"{lost}: {spec.title}: {ended.error}")
            pending.discard(spec)  # where a start failed, those that leave from it look for themselves
            if spec.method != START or outcome == "failed":
                setattr(tally, outcome, getattr(tally, outcome) + 1)
            say(line)
            pack(output / ARCHIVE, work / RECORDS)
    finally:
        pack(output / ARCHIVE, work / RECORDS, unfinished=work)
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
    return [_told(job.spec, made, share) for job, made in zip(group, found, strict=True)]


def _told(spec: RunSpec, made: Path | Exception, seconds: float) -> tuple[str, str]:
    """What became of a run, and a line about it."""
    if isinstance(made, OutOfTime):
        return "late", f"left off: {spec.title}: {made}"
    if isinstance(made, joint.JoinError):
        return "alone", f"alone: {made}"
    if isinstance(made, Exception):
        return "failed", f"error: {spec.title}: {made}"
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
    return _told(spec, made, time.perf_counter() - begun)


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
            if path.suffix in (".pt", ".begun"):
                tar.add(path, f"work/{path.relative_to(unfinished).as_posix()}")
    files.write_whole(archive, buffer.getvalue())


def file_archive(archive: Path, folder: Path, work: Path, chosen: Sequence[Plan]) -> tuple[list[str], list[str]]:
    """Check an archive, file its records in ``folder`` and its checkpoints in ``work``; lines on what was filed, and on
    what was refused.

    A record is filed if it is whole, names a run of this package at its knobs, belongs to a plan that stands here as it
    stood there, and is not there yet; the same record again is no news, another one in its place is refused.
    Raises QueueError for an archive that is missing or damaged.
    """
    filed, refused = [], []
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members = [(m.name, tar.extractfile(m).read()) for m in tar if m.isfile() and m.size <= _LARGEST]
    except FileNotFoundError:
        raise QueueError(f"there is no archive {archive}: name the one that the queue wrote") from None
    except (OSError, EOFError, tarfile.TarError) as error:
        raise QueueError(f"archive {archive} cannot be read ({error}): it is damaged, bring it again") from error
    for name, content in members:
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or place.parts[0] not in ("records", "work"):
            refused.append(f"{name}: no place for it here")
        elif place.parts[0] == "work":
            files.write_whole(work.joinpath(*place.parts[1:]), content)
            filed.append(f"{name}: goes on")
        else:
            try:
                if said := _file_record(PurePosixPath(*place.parts[1:]), content, folder, chosen):
                    filed.append(said)
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
