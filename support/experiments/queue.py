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
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path, PurePosixPath

from support import files
from support.errors import Refused
from support.experiments import plans, records
from support.experiments.plans import Plan
from support.experiments.runs import START, RunSpec, check_device, record
from support.experiments.training import OutOfTime

ARCHIVE = "records.tar.gz"
RECORDS = "records"  # inside the work folder
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
    say: Callable[[str], None] = print,
) -> Tally:
    """Make records until all are there or the budget is spent. A run that lost its process is tried once more.

    output: folder of the archive.  work: folder of checkpoints, and of the records until the archive is filed.
    """
    check_device(device)
    deadline, tally = time.time() + budget_s, Tally()
    engine = _Engine(_with_starts(jobs), workers, lambda job: (job.plan, job.spec, work, device, deadline))
    try:
        while engine.busy(accepting=time.time() < deadline) and time.time() < deadline + _GRACE_S:
            for job, outcome, line in engine.ended():
                setattr(tally, outcome, getattr(tally, outcome) + (job.spec.method != START or outcome == "failed"))
                say(line)
                pack(output / ARCHIVE, work / RECORDS)
    finally:
        engine.close()
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


class _Engine:
    """Processes of one thread that take jobs in their order; one that waits for a start leaves its turn to others."""

    def __init__(self, jobs: list[Job], workers: int, arguments: Callable[[Job], tuple]):
        self.waiting, self.running, self.tried = jobs, {}, set()
        self.workers, self.arguments = workers, arguments
        self.pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        # a fresh interpreter for each process: a forked torch may hang in its threads
        return ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"))

    def busy(self, accepting: bool) -> bool:
        """Hand out what can run; whether there is something to wait for."""
        ahead = {job.spec for job in (*self.running.values(), *self.waiting)}
        ready = [job for job in self.waiting if accepting and job.spec.start not in ahead]
        for job in ready[: self.workers - len(self.running)]:
            self.waiting.remove(job)
            self.running[self.pool.submit(_one, *self.arguments(job))] = job
        return bool(self.running)

    def ended(self) -> Iterator[tuple[Job, str, str]]:
        """The jobs that ended within a second, each with its outcome and a line about it."""
        ended, _ = wait(self.running, timeout=1.0, return_when=FIRST_COMPLETED)
        if broken := any(isinstance(future.exception(), BrokenProcessPool) for future in ended):
            ended = list(self.running)  # one process was killed, and with it the pool
        for future in ended:
            job = self.running.pop(future)
            if not broken or (future.done() and future.exception() is None):
                yield job, *future.result()
            elif job.spec in self.tried:
                yield job, "failed", f"lost: {job.spec.title}: its process was killed twice: give fewer workers"
            else:
                self.tried.add(job.spec)
                self.waiting.insert(0, job)
        if broken:
            self.close()
            self.pool = self._new_pool()

    def close(self) -> None:
        """End the processes, those that hang too."""
        processes = list((getattr(self.pool, "_processes", None) or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.join(timeout=0.0 if self.running else 5.0)
            if process.is_alive():
                process.kill()


def _one(plan: Plan, spec: RunSpec, work: Path, device: str, deadline: float) -> tuple[str, str]:
    """One run in a process of its own: what became of it, and a line about it."""
    import torch

    torch.set_num_threads(1)
    begun = time.perf_counter()
    try:
        path = record(spec, work / RECORDS, work, plan=plan, device=device, deadline=deadline, show=False)
    except OutOfTime as error:
        return "late", f"left off: {spec.title}: {error}"
    except (Refused, ArithmeticError, RuntimeError, OSError) as error:
        return "failed", f"error: {spec.title}: {error}"
    accuracy = records.read(path)["final"]["test_accuracy"]
    return "made", f"{spec.title}: test accuracy {accuracy:.4f}, {time.perf_counter() - begun:.0f} s"


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
