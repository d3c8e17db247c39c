"""How far the experiments are: a line a plan, and what was recorded beside the plans or is on its way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from support import files
from support.experiments import checkpoints, failures, queue, records
from support.experiments.plans import Plan
from support.experiments.presets import PRESETS
from support.experiments.spec import RunSpec


@dataclass(frozen=True)
class Progress:
    """How far a plan is.

    made, missing: its records, and the runs that have none.  begun, failed: of these, the runs with a checkpoint and
    those that have failed.  devices: on which the records were made.  first, last: days when the first and the latest
    of them began, ISO 8601.  hours: time that they took, one run after another.  latest: name of the latest record.
    """

    plan: str
    preset: str
    scale: str
    made: int
    missing: int
    begun: int
    failed: int
    devices: tuple[str, ...]
    first: str
    last: str
    hours: float
    latest: str

    @classmethod
    def of(cls, plan: Plan, folders: Sequence[Path], work: Path) -> Progress:
        """The progress of a plan whose records stand in one of the folders, and its checkpoints in ``work``. A record
        that cannot be read counts as missing.
        """
        found, left = {}, []
        for spec in plan.runs():
            record = next(filter(None, (_read(spec.path(folder)) for folder in folders)), None)
            if record:
                found[spec.name] = record
            else:
                left.append(spec)
        began = sorted((record.get("started", ""), name) for name, record in found.items())
        made = [record["provenance"] for record in found.values()]
        return cls(
            plan=plan.name,
            preset=plan.preset,
            scale=plan.scale,
            made=len(found),
            missing=len(left),
            begun=sum(queue.is_begun(spec, work) for spec in left),
            failed=sum(bool(failures.read(work / f"{spec.name}.failed")) for spec in left),
            devices=tuple(sorted({one.get("gpu", "CPU") for one in made})),
            first=began[0][0][:10] if began else "",
            last=began[-1][0][:10] if began else "",
            hours=round(sum(one["wall_s"] for one in made) / 3600, 3),
            latest=began[-1][1] if began else "",
        )

    @property
    def cells(self) -> tuple[str, ...]:
        """What a line of the table says."""
        state = f"{self.made} of {self.made + self.missing}"
        state += "".join(
            f", {count} {word}" for word, count in (("begun", self.begun), ("failed", self.failed)) if count
        )
        days = " to ".join(dict.fromkeys(filter(None, (self.first, self.last))))
        hours = f"{self.hours:.1f} h" if self.made else ""
        return (self.plan, state, self.scale, ", ".join(self.devices), days, hours, self.latest)


HEAD = ("plan", "records", "scale", "device", "begun on", "took", "latest")


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines with aligned columns.

    >>> table([("plan", "records"), ("wu.fig1a.drawn", "3 of 4")])
    ['plan            records', 'wu.fig1a.drawn  3 of 4']
    """
    rows = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def spans(numbers: Iterable[int]) -> str:
    """Whole numbers as a reader says them.

    >>> spans([1, 2, 3, 5, 7, 8])
    '1..3, 5, 7, 8'
    """
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(
        f"{run[0]}..{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in found
    )  # fmt: skip


@dataclass(frozen=True)
class State:
    """How far one method of a preset is: seeds with a record, those whose record is damaged, runs under way."""

    preset: str
    scale: str
    method: str
    done: list[int]
    damaged: list[int]
    under_way: list[str]

    @classmethod
    def of(cls, preset: str, scale: str, method: str, output: Path, work: Path) -> State:
        """The state of a method, from the folders of records and of work."""

        def spec(seed: int) -> RunSpec:
            return RunSpec(preset, scale, method, seed)

        pattern = spec(0).name.removesuffix("0")
        done, at_work = _seeds_with(output, pattern, ".json"), _seeds_with(work, pattern, ".lock", ".pt")
        damaged = [seed for seed in done if not _read(spec(seed).path(output))]
        under_way = [line for seed in at_work if (line := _on_its_way(spec(seed), work))]
        return cls(preset, scale, method, done, damaged, under_way)

    @property
    def begun(self) -> bool:
        """Whether there is anything of it."""
        return bool(self.done or self.under_way)

    @property
    def line(self) -> str:
        """What is said of it."""
        count = f"{len(self.done)} record{'s' * (len(self.done) > 1)}"
        said = [f"{count} (seed{'s' * (len(self.done) > 1)} {spans(self.done)})" if self.done else "no record"]
        said += [f"seed {seed} cannot be read: delete it and run it again" for seed in self.damaged]
        return "; ".join(said + self.under_way)


def states(output: Path, work: Path) -> list[State]:
    """The methods of all presets and scales of which there is a record, a lock or a checkpoint."""
    found = (
        State.of(preset.name, scale, method, output, work)
        for preset in PRESETS.values()
        for scale, setting in preset.scales.items()
        if (output / preset.name / scale).is_dir() or (work / preset.name / scale).is_dir()
        for method in (*(["start"] if setting.escape else []), *preset.methods)
    )
    return [state for state in found if state.begun]


def lines(plans: Sequence[Progress], runs: Sequence[State]) -> list[str]:
    """What the command prints: a table of plans, then methods by preset and scale, those that are alike in one line."""
    found = table([HEAD, *(plan.cells for plan in plans)]) if plans else []
    alike: dict[tuple[str, str], dict[str, list[str]]] = {}
    for state in runs:
        alike.setdefault((state.preset, state.scale), {}).setdefault(state.line, []).append(state.method)
    for (preset, scale), methods in alike.items():
        found.append(f"{preset} {scale}")
        for line, names in methods.items():
            each = f"{', '.join(names)}: " if len(names) <= 12 else f"{len(names)} methods, {names[0]} to {names[-1]}: "
            found.append(f"  {each}{line}")
    return found


def machine(plans: Sequence[Progress], runs: Sequence[State]) -> dict:
    """The same for programs, as JSON has it."""
    return {"plans": [asdict(plan) for plan in plans], "runs": [asdict(state) for state in runs]}


def _read(path: Path) -> dict | None:
    try:
        return records.read(path) if path.exists() else None
    except records.RecordError:
        return None


def _on_its_way(spec: RunSpec, work: Path) -> str:
    """How far a run is whose lock or checkpoint stands in the folder of work; empty if it is over."""
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
