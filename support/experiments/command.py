"""The command ``python -m support experiments``: presets, their runs, how far they are; the queue of plans."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.errors import Refused

RECORDS, WORK = Path("notebooks/records"), Path("_build/experiments")
_MOST_SEEDS, _MOST_THREADS, _MOST_JOBS = 10_000, 256, 256


class RequestError(Refused):
    """A request that cannot be carried out; the message names the value and the remedy."""


def add(commands) -> None:
    """Add ``experiments list | run | status | queue | import`` to the subcommands of a parser."""
    says = "run the recorded experiments: list, run, status, queue, import"
    top = commands.add_parser("experiments", help=says, description=says).add_subparsers(
        required=True, metavar="ACTION"
    )

    def action(name: str, does: Callable, says: str, example: str = "") -> argparse.ArgumentParser:
        sub = top.add_parser(
            name, help=says, description=says, epilog=example and f"example: python -m support {example}"
        )
        sub.set_defaults(does=does)
        return sub

    action("list", list_presets, "the presets, their methods, and what their scales change; the plans")
    example = "experiments run wu.fig1a --scale paper --seeds 1..3"
    run = action("run", run_preset, "make the records of a preset, seed by seed over all methods", example)
    run.add_argument("preset", metavar="PRESET")
    run.add_argument("--methods", metavar="A,B", help="methods, separated by commas (default: all of the preset's)")
    run.add_argument("--scale", default="book", help="smoke, book or paper (default: book)")
    run.add_argument("--seeds", default="1", metavar="1..3", help="seeds, such as 1..3 or 1,4 (default: 1)")
    run.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    run.add_argument(
        "--jobs", "-j", type=int, default=1, metavar="N", help="runs at a time, a process each (default: 1)"
    )
    threads = "threads of a run on the CPU; part of what fixes its last digits (default: 2)"
    run.add_argument("--threads", type=int, default=2, metavar="N", help=threads)
    status = action("status", show_status, "which records there are, and which runs are on their way")
    example = "experiments queue --device cuda --budget 9m -o results"
    queue = action("queue", run_queue, "make the missing records of every plan, in the order of their worth", example)
    queue.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    queue.add_argument(
        "--budget", default="1h", metavar="9m", help="time to stop after, such as 90s, 9m, 2h (default: 1h)"
    )
    queue.add_argument("--plans", metavar="A,B", help="plans, separated by commas (default: all of them)")
    queue.add_argument("--jobs", "-j", type=int, metavar="N", help="runs at a time (default: as many as fit)")
    together = "runs that share a network in one program (default: on cuda)"
    queue.add_argument("--together", action=argparse.BooleanOptionalAction, help=together)
    queue.add_argument("--dry-run", action="store_true", help="say what would be made and how long it will take")
    filing = action(
        "import",
        import_archive,
        "check the archive of a queue and file its records",
        "experiments import records.tar.gz",
    )
    filing.add_argument("archive", type=Path, metavar="ARCHIVE")
    for sub in (run, status, filing):
        sub.add_argument("-o", "--output", default=str(RECORDS), metavar="DIR", help=f"records (default: {RECORDS})")
    queue.add_argument("-o", "--output", default=".", metavar="DIR", help="folder of the archive (default: here)")
    queue.add_argument("--records", default=str(RECORDS), metavar="DIR", help=f"records there are (default: {RECORDS})")
    for sub in (run, status, queue, filing):
        sub.add_argument("--work", default=str(WORK), metavar="DIR", help=f"checkpoints and locks (default: {WORK})")


def _folder(name: str, value: str, there: bool = False) -> Path:
    if not str(value).strip():
        raise RequestError(f"{name} is empty: name a folder")
    path = Path(value)
    if there and not path.is_dir():
        raise RequestError(f"{name} {path} is no folder: name one that is there")
    return path


def _count(name: str, value: int, most: int) -> int:
    if not 1 <= value <= most:
        raise RequestError(f"{name} = {value} is too {'few' if value < 1 else 'many'}: give 1 to {most:,}")
    return value


def list_presets(_: argparse.Namespace) -> int:
    """Print every preset: what it reproduces, its methods, what each scale changes; and the plans."""
    from support.experiments import plans, presets

    for preset in presets.PRESETS.values():
        print(f"{preset.name}: {preset.reproduces}\n  methods: {', '.join(preset.methods)}")
        for scale in preset.scales:
            print(f"  {scale}: {_describe(preset, scale)}")
        if preset.note:
            print(f"  {preset.note}")
    for plan in plans.read_all():
        size = f"{len(plan.methods)} methods, {len(plan.seeds)} seeds"
        print(f"plan {plan.name} of {plan.date}: {plan.question}\n  {plan.preset} {plan.scale}, {size}")
    return 0


def _describe(preset, scale: str) -> str:
    changes = preset.changes(scale)
    setting = preset.setting(scale)
    size = f"{setting.steps:,} steps, n = {setting.n}, b = {setting.b}, {setting.dataset}"
    changed = ", ".join(f"{knob} {there} → {here}" for knob, (here, there) in changes.items())
    return size + (f"; changes {changed}" if changes else "")


def seeds_of(text: str) -> list[int]:
    """The seeds that a text such as ``1..3`` or ``1,4,7..9`` names. Raises RequestError for another form, a descending
    range, a seed twice, or more than 10,000.

    >>> seeds_of("1,4,7..9")
    [1, 4, 7, 8, 9]
    """
    found: list[int] = []
    for item in text.split(","):
        if not (ends := re.fullmatch(r"\s*([0-9]{1,18})(?:\.\.([0-9]{1,18}))?\s*", item)):
            raise RequestError(f"seeds {text!r} are malformed: write whole numbers such as 1..3 or 1,4")
        first, last = int(ends[1]), int(ends[2] or ends[1])
        if last - first >= _MOST_SEEDS or len(found) > _MOST_SEEDS:
            raise RequestError(f"seeds {text!r} are more than {_MOST_SEEDS:,}: give fewer")
        found += range(first, last + 1)
    if not found or len(set(found)) < len(found):
        raise RequestError(
            f"seeds {text!r} hold no seed, or one twice: write each once, and a range's smaller end first"
        )
    return found


def seconds_of(text: str) -> float:
    """The seconds that a text such as ``90s``, ``9m`` or ``1.5h`` names. Raises RequestError for another form.

    >>> seconds_of("9m")
    540.0
    """
    if not (form := re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([smh])\s*", text)) or not float(form[1]):
        raise RequestError(f"budget {text!r} is malformed: write a time such as 90s, 9m or 2h")
    return float(form[1]) * {"s": 1, "m": 60, "h": 3600}[form[2]]


# --- run --------------------------------------------------------------------------------------------------------------


def run_preset(options: argparse.Namespace) -> int:
    """Make the records that are missing, seed by seed over the methods; the exit status is 1 if a run failed on the
    way,
    or a record that is there is damaged.
    """
    from support.experiments import data, plans, presets, records, runs

    preset = presets.preset(options.preset)
    setting = preset.setting(options.scale)
    seeds, methods = seeds_of(options.seeds), list(preset.methods)
    if options.methods is not None:
        methods = [preset.method(name) for name in options.methods.split(",")]
    if len(set(methods)) < len(methods):
        raise RequestError(f"methods {options.methods!r} name one twice: write each once")
    _count("jobs", options.jobs, _MOST_JOBS), _count("threads", options.threads, _MOST_THREADS)
    runs.check_device(options.device)
    data.load(setting.dataset)
    output, work = _folder("--output", options.output), _folder("--work", options.work)
    for folder in (output, work):
        records.check_folder(folder)
    specs = [runs.RunSpec(preset.name, options.scale, method, seed) for seed in seeds for method in methods]
    missing, damaged = [], 0
    for spec in specs:
        try:
            # a run that was killed between its record and its end has left a checkpoint: it is ended like the others
            if not spec.is_done(output) or (work / f"{spec.name}.pt").is_file():
                missing.append(spec)
        except records.RecordError as error:
            damaged += _report(f"error: {spec.method} seed {spec.seed}: {error}", False)
    print(f"{preset.name}: {preset.reproduces}\n{options.scale}: {_describe(preset, options.scale)}")
    print(f"{len(specs) - len(missing) - damaged} of {len(specs)} records are there", flush=True)
    planned = plans.read_all()
    show = None if options.jobs == 1 else False
    calls = [(s, plans.plan_of(s, planned), output, work, options.device, options.threads, show) for s in missing]
    return int(damaged + sum(_report(*done) for done in _in_turn(calls, options.jobs, options.threads)) > 0)


def _in_turn(calls: Sequence[tuple], workers: int, threads: int) -> Iterator[tuple[str, bool]]:
    """The lines of runs, one after another in this process, or several at a time."""
    from support import jobs
    from support.experiments import queue

    if workers == 1:
        yield from (_one(*call) for call in calls)
        return
    for ended in jobs.run(_one, calls, workers=workers, threads=threads, preload=queue.PRELOAD):
        spec = ended.call[0]
        yield ended.result or (f"error: {spec.method} seed {spec.seed}: {ended.error}", False)


def _report(line: str, well: bool) -> bool:
    """Print the line of a run; returns whether it failed."""
    print(line, file=sys.stdout if well else sys.stderr, flush=True)
    return not well


def _one(spec, plan, output: Path, work: Path, device: str, threads: int, show: bool | None) -> tuple[str, bool]:
    """One run: a line about it, and whether it went well. A run that fails does not stop the others."""
    import torch

    from support.experiments import records, runs

    torch.set_num_threads(threads)
    title = f"{spec.method} seed {spec.seed}"
    try:
        path = runs.record(spec, output, work, plan=plan, device=device, show=show)
    except (
        ValueError,
        ArithmeticError,
        RuntimeError,
        OSError,
    ) as error:  # from a loss that is not finite to a full disk
        return f"error: {title}: {error}", False
    found = records.read(path)
    final, took = found["final"], found["provenance"]["wall_s"]
    numbers = f"test accuracy {final['test_accuracy']:.4f}, training loss {final['train_loss']:.4f}, {took:.0f} s"
    return f"{title}: {numbers}, {path}", True


# --- status -----------------------------------------------------------------------------------------------------------


def show_status(options: argparse.Namespace) -> int:
    """Print, for each preset and scale that was begun: the seeds that have a record, by method, and the runs that are
    on
    their way; and how far each plan is.
    """
    from support.experiments import plans, presets, queue

    output, work = _folder("--output", options.output), _folder("--work", options.work)
    if options.output != str(RECORDS):
        _folder("--output", options.output, there=True)
    found = False
    for preset in presets.PRESETS.values():
        for scale, setting in preset.scales.items():
            methods = (*(["start"] if setting.escape else []), *preset.methods)
            states = [_State.of(preset.name, scale, method, output, work) for method in methods]
            if lines := [f"  {state.method}: {state.line}" for state in states if state.begun]:
                found = True
                print(f"{preset.name} {scale}", *lines, sep="\n")
    if not found:
        print(f"no record in {output}, no run on its way in {work}")
    for plan in plans.read_all():
        left = len(queue.missing([plan], [output, work / queue.RECORDS], warn=lambda line: _report(line, False)))
        print(f"plan {plan.name}: {len(list(plan.runs())) - left} of {len(list(plan.runs()))} records")
    return 0


@dataclass(frozen=True)
class _State:
    """How far one method of a preset is: seeds with a record, those whose record is damaged, runs under way."""

    method: str
    done: list[int]
    damaged: list[int]
    under_way: list[str]

    @classmethod
    def of(cls, preset: str, scale: str, method: str, output: Path, work: Path) -> _State:
        from support.experiments import runs

        def spec(seed):
            return runs.RunSpec(preset, scale, method, seed)

        pattern = spec(0).name.removesuffix("0")
        done, at_work = _seeds_with(output, pattern, ".json"), _seeds_with(work, pattern, ".lock", ".pt")
        damaged = [seed for seed in done if not _readable(spec(seed).path(output))]
        return cls(method, done, damaged, [line for seed in at_work if (line := _on_its_way(spec(seed), work))])

    @property
    def begun(self) -> bool:
        return bool(self.done or self.under_way)

    @property
    def line(self) -> str:
        said = [f"{len(self.done)} records (seeds {', '.join(map(str, self.done))})" if self.done else "no record"]
        said += [f"seed {seed} cannot be read: delete it and run it again" for seed in self.damaged]
        return "; ".join(said + self.under_way)


def _readable(path: Path) -> bool:
    from support.experiments import records

    try:
        return bool(records.read(path))
    except records.RecordError:
        return False


def _on_its_way(spec, work: Path) -> str:
    """How far a run is whose lock or checkpoint stands in the folder of work; empty if it is over."""
    from support import files
    from support.experiments import checkpoints

    start = spec.method == "start"
    process = files.holder(work / f"{spec.name}.lock")
    try:
        state = checkpoints.load(work / f"{spec.name}{'-running' if start else ''}.pt", keys=("steps_done",))
    except checkpoints.CheckpointError as error:
        return str(error)
    if not process and state is None:
        return ""
    steps = spec.setting.escape.start_limit if start else spec.setting.steps
    at = f" at step {state['steps_done']:,} of {steps:,}" if state else ""
    return f"seed {spec.seed}{at}, {f'process {process}' if process else 'stopped'}"


def _seeds_with(folder: Path, pattern: str, *suffixes: str) -> list[int]:
    start = len(Path(pattern).name)
    found = {
        path.name[start:].removesuffix(suffix) for suffix in suffixes for path in folder.glob(f"{pattern}*{suffix}")
    }
    return sorted(int(seed) for seed in found if seed.isdecimal() and seed.isascii())


# --- queue ------------------------------------------------------------------------------------------------------------


def _plans(names: str | None) -> list:
    from support.experiments import plans

    found = plans.read_all()
    if names is not None:
        known = {plan.name: plan for plan in found}
        if unknown := [name for name in names.split(",") if name.strip() not in known]:
            raise RequestError(f"there is no plan {unknown[0]!r}: choose among {', '.join(known) or 'none'}")
        found = [known[name.strip()] for name in names.split(",")]
    if not found:
        raise RequestError(f"there is no plan in {plans.PLANS}: call this in the root of the book's tree")
    return found


def run_queue(options: argparse.Namespace) -> int:
    """Make the missing records of the plans until the budget is spent; exit status 1 if one failed on the way."""
    from support.experiments import data, queue, records, runs

    chosen, budget = _plans(options.plans), seconds_of(options.budget)
    output, work = _folder("--output", options.output), _folder("--work", options.work)
    folders = [_folder("--records", options.records, there=options.records != str(RECORDS)), work / queue.RECORDS]
    jobs = queue.missing(chosen, folders, warn=lambda line: _report(line, False))
    if not options.dry_run:
        runs.check_device(options.device)
    cores = queue.default_workers("cpu" if options.dry_run else options.device, jobs)
    workers = cores if options.jobs is None else _count("jobs", options.jobs, _MOST_JOBS)
    for plan in chosen:
        left = [job for job in jobs if job.plan == plan]
        took = queue.estimate(left, options.device, workers)
        print(f"{plan.name}: {len(left)} of {len(list(plan.runs()))} records missing, about {_minutes(took)} here")
    total = queue.estimate(jobs, options.device, workers)
    print(f"{len(jobs)} runs, {workers} at a time on {options.device}: about {_minutes(total)} in all", flush=True)
    if options.dry_run or not jobs:
        return 0
    for dataset in {job.spec.setting.dataset for job in jobs}:
        data.load(dataset)
    for folder in (output, work):
        records.check_folder(folder)
    own = {"device": options.device, "budget_s": budget, "output": output, "work": work, "workers": workers}
    own["together"] = options.device == "cuda" if options.together is None else options.together
    tally = queue.run(jobs, **own, say=lambda line: print(line, flush=True))
    return int(tally.failed > 0)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def import_archive(options: argparse.Namespace) -> int:
    """File what an archive holds; the exit status is 1 if something in it was refused."""
    from support.experiments import queue, records

    output, work = _folder("--output", options.output), _folder("--work", options.work)
    for folder in (output, work):
        records.check_folder(folder)
    filed, refused = queue.file_archive(options.archive, output, work, _plans(None))
    print(*filed, f"{len(filed)} filed, {len(refused)} refused", sep="\n")
    return int(sum(_report(f"refused: {line}", False) for line in refused) > 0)
