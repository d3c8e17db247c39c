"""The command ``python -m support experiments``: presets, their runs, how far they are; the queue of plans."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from support.errors import Refused

RECORDS, WORK = Path("notebooks/records"), Path("_build/experiments")
_MOST_SEEDS, _MOST_THREADS, _MOST_JOBS = 10_000, 256, 256


class RequestError(Refused):
    """A request that cannot be carried out; the message names the value and the remedy."""


def add(commands) -> None:
    """Add ``experiments list | run | status | queue | import | pack`` to the subcommands of a parser."""
    says = "run the recorded experiments: list, run, status, queue, import, pack"
    top = commands.add_parser("experiments", help=says, description=says).add_subparsers(
        required=True, metavar="ACTION"
    )

    def action(name: str, does: Callable, says: str, example: str = "") -> argparse.ArgumentParser:
        sub = top.add_parser(
            name, help=says, description=says, epilog=example and f"example: python -m support {example}"
        )
        sub.set_defaults(does=does)
        return sub

    listing = action("list", list_presets, "the presets and their plans; of a preset: methods, scales, questions")
    listing.add_argument("preset", metavar="PRESET", nargs="?", help="one of them, with all that is known of it")
    example = "experiments run wu.fig1a --scale paper --seeds 1..3"
    run = action("run", run_preset, "make the records of a preset, seed by seed over all methods", example)
    run.add_argument("preset", metavar="PRESET")
    run.add_argument("--methods", metavar="A,B", help="methods, separated by commas (default: all of the preset's)")
    run.add_argument("--scale", default="book", help="smoke, book, gpu or paper, as the preset has it (default: book)")
    run.add_argument("--seeds", default="1", metavar="1..3", help="seeds, such as 1..3 or 1,4 (default: 1)")
    run.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    run.add_argument(
        "--jobs", "-j", type=int, default=1, metavar="N", help="runs at a time, a process each (default: 1)"
    )
    threads = "threads of a run on the CPU; part of what fixes its last digits (default: 2)"
    run.add_argument("--threads", type=int, default=2, metavar="N", help=threads)
    status = action("status", show_status, "how far each plan is; which records there are, which runs are on their way")
    status.add_argument("--json", action="store_true", help="the same for programs")
    example = "experiments queue --device cuda --budget 9m -o results"
    queue = action("queue", run_queue, "make the missing records of every plan, in the order of their worth", example)
    queue.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    queue.add_argument(
        "--budget", default="1h", metavar="9m", help="time to stop after, such as 90s, 9m, 2h (default: 1h)"
    )
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
    packing = action(
        "pack",
        pack_data,
        "write the data that plans need into one small folder, for SUPPORT_DATA on another machine",
        "experiments pack -o pack --plans wu.fig1a.drawn",
    )
    packing.add_argument("-o", "--output", required=True, metavar="DIR", help="the folder, new or empty")
    packing.add_argument("--keep", action="append", default=[], metavar="NAME=N+M", help="only the first N training "
                         "and M test images of a data set, such as cifar10=10000+2000")  # fmt: skip
    packing.add_argument("--limit", type=float, default=30.0, metavar="MIB", help="largest pack (default: 30 MiB)")
    for sub in (queue, packing):
        sub.add_argument("--plans", metavar="A,B", help="plans, separated by commas (default: all of them)")
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


def list_presets(options: argparse.Namespace) -> int:
    """Print the presets, what they reproduce, their scales and plans; of a single one all methods, what each scale
    changes, and the questions of its plans.
    """
    from support.experiments import plans, presets

    chosen = presets.PRESETS.values() if options.preset is None else [presets.preset(options.preset)]
    planned, whole = plans.read_all(), options.preset is not None
    for preset in chosen:
        print(f"{preset.name}: {preset.reproduces}")
        names = preset.methods
        short = f"{len(names)}, from {names[0]} to {names[-1]}" if len(names) > 8 and not whole else ", ".join(names)
        print(f"  methods: {short}")
        for scale in preset.scales:
            print(f"  {scale}: {_describe(preset, scale, whole)}")
        for plan in (plan for plan in planned if plan.preset == preset.name):
            size = f"{plan.scale}, {len(plan.methods)} x {len(plan.seeds)} runs (methods x seeds)"
            print(f"  plan {plan.name}: {size}" + (f"; {plan.question}" if whole else ""))
        if preset.note and whole:
            print(f"  {preset.note}")
    if not whole:
        print("of one of them, with what its scales change: experiments list PRESET")
    return 0


def _describe(preset, scale: str, whole: bool = True) -> str:
    setting = preset.setting(scale)
    size = f"{setting.steps:,} steps, n = {setting.n:,}, b = {setting.b:,}, {setting.model}, {setting.dataset}"
    size += " at half resolution" * setting.halved
    changed = ", ".join(_change(knob, *both) for knob, both in preset.changes(scale).items())
    return size + (f"; changes {changed}" if changed and whole else "")


def _change(knob: str, here, there) -> str:
    """What a scale changes of a knob; of a knob that holds several, those that differ."""
    if isinstance(here, dict) and isinstance(there, dict):
        return ", ".join(_change(f"{knob}.{key}", here[key], there[key]) for key in here if here[key] != there[key])
    return f"{knob} {there} → {here}"


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
    way, or a record that is there is damaged. All processes of torchrun make each run together.
    """
    from support.experiments import runs, torchrun

    if (processes := torchrun.started()) == 1:
        return _run_preset(options, runs.record)
    if options.jobs != 1:
        raise RequestError(f"jobs = {options.jobs} beside {processes} processes of torchrun: leave --jobs out")
    return torchrun.together(lambda: _run_preset(options, torchrun.record), options.device)


def _run_preset(options: argparse.Namespace, record: Callable) -> int:
    from support.experiments import plans, presets, records, runs, torchrun

    preset = presets.preset(options.preset)
    setting = preset.setting(options.scale)
    seeds, methods = seeds_of(options.seeds), list(preset.methods)
    if options.methods is not None:
        methods = [preset.method(name) for name in options.methods.split(",")]
    if len(set(methods)) < len(methods):
        raise RequestError(f"methods {options.methods!r} name one twice: write each once")
    _count("jobs", options.jobs, _MOST_JOBS), _count("threads", options.threads, _MOST_THREADS)
    runs.check_device(options.device)
    runs.images(setting)
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
    missing = torchrun.agreed(missing)
    own = (output, work, options.device, options.threads, None if options.jobs == 1 else False, record)
    calls = [(spec, plans.plan_of(spec, planned), *own) for spec in missing]
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


def _one(
    spec, plan, output: Path, work: Path, device: str, threads: int, show: bool | None, record: Callable
) -> tuple[str, bool]:
    """One run: a line about it, and whether it went well. A run that fails does not stop the others."""
    import torch

    from support.experiments import records, torchrun

    torch.set_num_threads(threads)
    title = f"{spec.method} seed {spec.seed}"
    try:
        path = record(spec, output, work, plan=plan, device=device, show=show)
    except (
        ValueError,
        ArithmeticError,
        RuntimeError,
        OSError,
    ) as error:  # from a loss that is not finite to a full disk
        torchrun.part(title, error)
        return f"error: {title}: {error}", False
    found = records.read(path)
    final, took = found["final"], found["provenance"]["wall_s"]
    numbers = f"test accuracy {final['test_accuracy']:.4f}, training loss {final['train_loss']:.4f}, {took:.0f} s"
    return f"{title}: {numbers}, {path}", True


# --- status -----------------------------------------------------------------------------------------------------------


def show_status(options: argparse.Namespace) -> int:
    """Print how far each plan is, and for each preset and scale that was begun: the seeds that have a record, by
    method, and the runs that are on their way.
    """
    from support.experiments import plans, queue, status

    output, work = _folder("--output", options.output), _folder("--work", options.work)
    if options.output != str(RECORDS):
        _folder("--output", options.output, there=True)
    folders = [output, work / queue.RECORDS]
    planned = [status.Progress.of(plan, folders, work) for plan in plans.read_all()]
    runs = status.states(output, work)
    if options.json:
        print(json.dumps(status.machine(planned, runs), indent=1))
        return 0
    print(
        *status.lines(planned, runs),
        *([] if runs else [f"no record in {output}, no run on its way in {work}"]),
        sep="\n",
    )
    return 0


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
    from support.experiments import queue, records, runs, torchrun

    if (processes := torchrun.started()) > 1:
        raise RequestError(
            f"a queue is no work for {processes} processes of torchrun: call it alone, it starts its own"
        )
    chosen, budget = _plans(options.plans), seconds_of(options.budget)
    output, work = _folder("--output", options.output), _folder("--work", options.work)
    folders = [_folder("--records", options.records, there=options.records != str(RECORDS)), work / queue.RECORDS]
    jobs = queue.missing(chosen, folders, warn=lambda line: _report(line, False), work=work)
    runs.check_device(options.device, there=not options.dry_run)
    if not options.dry_run:
        queue.check_budget(jobs, options.device, budget, work)
    workers = queue.default_workers(options.device, jobs)
    workers = workers if options.jobs is None else _count("jobs", options.jobs, _MOST_JOBS)
    print(*_queued(chosen, jobs, options.device, workers), sep="\n", flush=True)
    if options.dry_run or not jobs:
        return 0
    for setting in {job.spec.setting for job in jobs}:
        runs.images(setting)
    for folder in (output, work):
        records.check_folder(folder)
    own = {"device": options.device, "budget_s": budget, "output": output, "work": work, "workers": workers}
    own["together"] = options.device == "cuda" if options.together is None else options.together
    tally = queue.run(jobs, **own, say=lambda line: print(line, flush=True))
    return int(tally.failed > 0)


def _queued(chosen: Sequence, jobs: Sequence, device: str, workers: int) -> list[str]:
    """What a queue will do: plan by plan in their order, then all of it, and the data that it needs."""
    from support.experiments import data_pack, queue, status

    rows = [("plan", "missing", "scale", "a run", *(["memory"] * (device == "cuda")), "in all")]
    for plan in chosen:
        left = [job for job in jobs if job.plan == plan]
        each, took = plan.queue.cuda_s if device == "cuda" else plan.queue.cpu_s, queue.estimate(left, device, workers)
        memory = [f"{plan.queue.cuda_gib:g} GiB"] * (device == "cuda")
        size = f"{len(left)} of {len(list(plan.runs()))}"
        rows.append((plan.name, size, plan.scale, f"{each:g} s", *memory, _minutes(took)))
    total = queue.estimate(jobs, device, workers)
    files = ", ".join(part.file for part in data_pack.needed(job.spec.setting for job in jobs)) or "none"
    return [
        *status.table(rows),
        f"{len(jobs)} runs, {workers} at a time on {device}: about {_minutes(total)} in all",
        f"data: {files}",
    ]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def pack_data(options: argparse.Namespace) -> int:
    """Write the data that the plans' runs need into a folder, and print the sizes."""
    from support.experiments import data_pack, status

    limit = data_pack.LIMIT if options.limit == 30 else int(options.limit * 2**20)
    folder, keep = _folder("--output", options.output), dict(map(_kept, options.keep))
    settings = {spec.setting: None for plan in _plans(options.plans) for spec in plan.runs()}
    sizes = data_pack.write(data_pack.needed(settings, keep), folder, limit)
    rows = [(title, f"{size / 2**20:.2f} MiB") for title, size in (*sizes.items(), ("in all", sum(sizes.values())))]
    print(*status.table(rows), f"SUPPORT_DATA={folder}", sep="\n")
    return 0


def _kept(text: str) -> tuple[str, tuple[int, int]]:
    if not (form := re.fullmatch(r"\s*(\w+)\s*=\s*([1-9]\d{0,6})\+([1-9]\d{0,6})\s*", text)):
        raise RequestError(f"--keep {text!r} is malformed: write NAME=TRAINING+TEST, such as cifar10=10000+2000")
    return form[1], (int(form[2]), int(form[3]))


def import_archive(options: argparse.Namespace) -> int:
    """File what an archive holds; the exit status is 1 if something in it was refused."""
    from support.experiments import queue, records

    output, work = _folder("--output", options.output), _folder("--work", options.work)
    for folder in (output, work):
        records.check_folder(folder)
    filed, refused = queue.file_archive(options.archive, output, work, _plans(None))
    print(*filed, f"{len(filed)} filed, {len(refused)} refused", sep="\n")
    return int(sum(_report(f"refused: {line}", False) for line in refused) > 0)
