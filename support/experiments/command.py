"""The command ``python -m support experiments``: list the presets, run them, see how far they are."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from support.errors import Refused

RECORDS, WORK = Path("notebooks/records"), Path("_build/experiments")


class RequestError(Refused):
    """A request that cannot be carried out; the message names the value and the remedy."""


def add(commands) -> None:
    """Add ``experiments list | run | status`` to the subcommands of a parser."""
    says = "run the recorded experiments: list, run, status"
    top = commands.add_parser("experiments", help=says, description=says).add_subparsers(
        required=True, metavar="ACTION"
    )
    shown = top.add_parser("list", help="the presets, their methods, and what their scales change")
    shown.set_defaults(does=list_presets)
    example = "example: python -m support experiments run wu.fig1a --scale paper --seeds 1..3"
    run = top.add_parser("run", help="make the records of a preset, seed by seed over all methods", epilog=example)
    run.add_argument("preset", metavar="PRESET")
    run.add_argument("--methods", metavar="A,B", help="methods, separated by commas (default: all of the preset's)")
    run.add_argument("--scale", default="book", help="smoke, book or paper (default: book)")
    run.add_argument("--seeds", default="1", metavar="1..3", help="seeds, such as 1..3 or 1,4 (default: 1)")
    run.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    run.add_argument(
        "--jobs",
        "-j",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time, each in a process of its own (default: 1)",
    )
    run.add_argument(
        "--threads",
        type=int,
        default=2,
        metavar="N",
        help="threads of a run on the CPU; part of what fixes its last digits (default: 2)",
    )
    run.set_defaults(does=run_preset)
    status = top.add_parser("status", help="which records there are, and which runs are on their way")
    status.set_defaults(does=show_status)
    for action in (run, status):
        action.add_argument(
            "-o",
            "--output",
            type=Path,
            default=RECORDS,
            metavar="DIR",
            help=f"folder of the records (default: {RECORDS})",
        )
        action.add_argument(
            "--work", type=Path, default=WORK, metavar="DIR", help=f"folder of checkpoints and locks (default: {WORK})"
        )


def list_presets(_: argparse.Namespace) -> int:
    """Print every preset: what it reproduces, its methods, what each scale changes."""
    from support.experiments import presets

    for preset in presets.PRESETS.values():
        print(f"{preset.name}: {preset.reproduces}\n  methods: {', '.join(preset.methods)}")
        for scale in preset.scales:
            print(f"  {scale}: {_describe(preset, scale)}")
        if preset.note:
            print(f"  {preset.note}")
    return 0


def _describe(preset, scale: str) -> str:
    changes = preset.changes(scale)
    setting = preset.setting(scale)
    size = f"{setting.steps:,} steps, n = {setting.n}, b = {setting.b}"
    return f"{size}, {setting.dataset}" + (
        f"; changes {', '.join(f'{knob} {there} → {here}' for knob, (here, there) in changes.items())}"
        if changes
        else ""
    )


def seeds_of(text: str) -> list[int]:
    """The seeds that a text such as ``1..3`` or ``1,4,7..9`` names. Raises RequestError for another form, a descending
    range, or a seed twice.
    """
    found: list[int] = []
    for item in text.split(","):
        if not (ends := re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", item)):
            raise RequestError(f"seeds {text!r} are malformed: write whole numbers such as 1..3 or 1,4")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    if not found or len(set(found)) < len(found):
        raise RequestError(
            f"seeds {text!r} hold no seed, or one twice: write each once, and the smaller end of a range first"
        )
    return found


def run_preset(options: argparse.Namespace) -> int:
    """Make the records that are missing, seed by seed over the methods; the exit status is 1 if a run failed on the
    way.
    """
    from support.experiments import data, presets, records

    preset = presets.preset(options.preset)
    setting = preset.setting(options.scale)
    seeds = seeds_of(options.seeds)
    methods = [preset.method(name) for name in options.methods.split(",")] if options.methods else list(preset.methods)
    if len(set(methods)) < len(methods):
        raise RequestError(f"methods {options.methods!r} name one twice: write each once")
    for name in ("jobs", "threads"):
        if getattr(options, name) < 1:
            raise RequestError(f"{name} = {getattr(options, name)} is too few: give at least 1")
    presets.check_device(options.device)
    data.load(setting.dataset)
    for folder in (options.output, options.work):
        records.check_folder(folder)
    missing = []
    for seed in seeds:
        for method in methods:
            path = options.output / f"{records.run_name(preset.name, options.scale, method, seed)}.json"
            # a run that was killed between its record and its end has left a checkpoint: it is ended like the others
            left = (options.work / f"{records.run_name(preset.name, options.scale, method, seed)}.pt").is_file()
            if not presets.is_done(path, presets.config(preset, options.scale, method, seed)) or left:
                missing.append((method, seed))
    total = len(seeds) * len(methods)
    print(f"{preset.name}: {preset.reproduces}\n{options.scale}: {_describe(preset, options.scale)}")
    print(f"{total - len(missing)} of {total} records are there", flush=True)
    return _in_turn(options, preset.name, missing)


def _in_turn(options: argparse.Namespace, preset: str, missing: Sequence[tuple[str, int]]) -> int:
    fixed = (options.output, options.work, options.device, options.threads, options.jobs == 1)
    calls = [(preset, options.scale, method, seed, *fixed) for method, seed in missing]
    if options.jobs == 1:
        return int(sum(_report(*_one(*call)) for call in calls) > 0)
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # a fresh interpreter for each process: a forked torch may hang in its threads
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        try:
            return int(
                sum(
                    [_report(*future.result()) for future in as_completed([pool.submit(_one, *call) for call in calls])]
                )
                > 0
            )
        except BrokenProcessPool:
            raise RequestError(
                "a process was killed, maybe for want of memory: run the same command again, with fewer jobs; it goes "
                "on from there"
            ) from None


def _report(line: str, well: bool) -> bool:
    """Print the line of a run; returns whether it failed."""
    print(line, file=sys.stdout if well else sys.stderr, flush=True)
    return not well


def _one(
    preset: str, scale: str, method: str, seed: int, output: Path, work: Path, device: str, threads: int, show: bool
) -> tuple[str, bool]:
    """One run: a line about it, and whether it went well. A run that fails does not stop the others."""
    import torch

    from support import files
    from support.experiments import presets, records

    torch.set_num_threads(threads)
    title = f"{method} seed {seed}"
    try:
        path = presets.record(
            presets.preset(preset), scale, method, seed, output, work, device=device, show=None if show else False
        )
    except files.LockError as error:
        return f"left to another process: {title}: {error}", False
    except (
        ValueError,
        ArithmeticError,
        RuntimeError,
        OSError,
    ) as error:  # from a loss that is not finite to a full disk or memory
        return f"error: {title}: {error}", False
    found = records.read(path)
    final, took = found["final"], found["provenance"]["wall_s"]
    return (
        f"{title}: test accuracy {final['test_accuracy']:.4f}, training loss {final['train_loss']:.4f}, {took:.0f} s, "
        f"{path}",
        True,
    )


def show_status(options: argparse.Namespace) -> int:
    """Print, for each preset and scale that was begun: the seeds that have a record, by method, and the runs that are
    on their way.
    """
    from support.experiments import presets, records

    begun = False
    for preset in presets.PRESETS.values():
        for scale, setting in preset.scales.items():
            lines = []
            for method in (*(["start"] if setting.escape else []), *preset.methods):
                pattern = records.run_name(preset.name, scale, method, 0).removesuffix("0")
                done = _seeds_with(options.output, pattern, ".json")
                broken = [seed for seed in done if not _readable(options.output / f"{pattern}{seed}.json")]
                steps = setting.escape.start_limit if method == "start" else setting.steps
                under_way = [
                    _on_its_way(options.work / f"{pattern}{seed}", steps)
                    for seed in _seeds_with(options.work, pattern, ".lock", ".pt")
                ]
                said = [f"{len(done)} records (seeds {', '.join(map(str, done))})" if done else "no record"]
                said += [f"seed {seed} cannot be read: delete it and run it again" for seed in broken]
                said += filter(None, under_way)
                if len(said) > 1 or done:
                    lines.append(f"  {method}: {'; '.join(said)}")
            if lines:
                begun = True
                print(f"{preset.name} {scale}", *lines, sep="\n")
    if not begun:
        print(f"no record in {options.output}, no run on its way in {options.work}")
    return 0


def _readable(path: Path) -> bool:
    from support.experiments import records

    try:
        return bool(records.read(path))
    except records.RecordError:
        return False


def _on_its_way(run: Path, steps: int) -> str:
    """How far a run is whose lock and checkpoint stand at a path without suffix; empty if it is over."""
    from support import files
    from support.experiments import checkpoints

    process = files.holder(run.with_name(f"{run.name}.lock"))
    try:
        state = checkpoints.load(run.with_name(f"{run.name}{'-running' if run.name.startswith('start') else ''}.pt"))
    except checkpoints.CheckpointError as error:
        return str(error)
    if not process and state is None:
        return ""
    at = f" at step {state['steps_done']:,} of {steps:,}" if state else ""
    return f"seed {run.name.rpartition('seed')[2]}{at}, {f'process {process}' if process else 'stopped'}"


def _seeds_with(folder: Path, pattern: str, *suffixes: str) -> list[int]:
    start = len(Path(pattern).name)
    found = {
        path.name[start:].removesuffix(suffix) for suffix in suffixes for path in folder.glob(f"{pattern}*{suffix}")
    }
    return sorted(int(seed) for seed in found if seed.isdigit())
