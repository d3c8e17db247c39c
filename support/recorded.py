"""Recorded runs on a page, as arrays: read from ``notebooks/records``, and their use noted, so that a changed record
executes its pages again.

Records made under a plan answer its question: `planned` gives them. What was recorded before there was a plan, or
beside it, explores: `Runs` gives that. Either says in one line where its numbers come from (`provenance`). Call these
in a page's own folder, which is where a page is executed.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from support import page
from support.errors import Refused, instance
from support.experiments import plans, presets, records
from support.experiments.plans import Plan
from support.experiments.records import RecordError


def load(name: str) -> dict:
    """The record ``notebooks/records/<name>.json``. Raises RecordError if it is missing or damaged."""
    page.used("records", name)
    return records.read(_root() / f"{name}.json")


def load_all(pattern: str) -> dict[str, dict]:
    """The records that match, such as ``wu.fig1a/paper/*``, by name; notes that the page uses the folder, so also what
    is added.

    Raises RecordError if none matches, or for a damaged one.
    """
    root = _root()
    found = {
        path.relative_to(root).as_posix().removesuffix(".json"): records.read(path)
        for path in sorted(root.glob(f"{pattern}.json"))
    }
    if not found:
        preset, _, scale = pattern.removesuffix("/*").partition("/")
        command = f"python -m support experiments run {preset}" + (f" --scale {scale}" if scale else "")
        raise RecordError(f"no record matches {pattern} in {root}: make them in the book's root with `{command}`")
    for folder in {name.rpartition("/")[0] or name for name in found}:
        page.used("records", folder)
    return found


class Runs:
    """The runs of a pattern, such as ``wu.fig1a/paper/*``, that were made without a plan: they explore.

    methods: those to read, in this order (default: all that are there, in the preset's order). runs: the records by
    (method, seed). Raises RecordError where no record matches, or where all that match belong to a plan.
    """

    def __init__(self, pattern: str, methods: Sequence[str] | None = None):
        every = load_all(instance("pattern", pattern, str, "give one such as 'wu.fig1a/paper/*'"))
        found = {name: record for name, record in every.items() if "plan" not in record}
        if not found:
            raise RecordError(
                f"all records of {pattern} belong to plan {next(iter(every.values()))['plan']['name']}: read them with "
                f"recorded.planned"
            )
        self.plan, self.pattern = None, pattern
        self.runs = {(run["config"]["method"], run["config"]["seed"]): run for run in found.values()}
        there = {method for method, _ in self.runs}
        order = presets.preset(next(iter(found.values()))["config"]["preset"]).methods
        self.methods = tuple(methods or sorted(there - {"start"}, key=lambda m: (m not in order, [*order, m].index(m))))
        if missing := [method for method in self.methods if method not in there]:
            raise RecordError(f"no record of {pattern} is of {', '.join(missing)}: it has {', '.join(sorted(there))}")

    @property
    def seeds(self) -> list[int]:
        """The seeds that are complete: every method has its record."""
        return [seed for seed in self._seeds() if all((m, seed) in self.runs for m in self.methods)]

    def _seeds(self) -> Sequence[int]:
        return sorted({seed for _, seed in self.runs})

    def curve(self, method: str, key: str, part: str = "curves") -> np.ndarray:
        """What was logged on the way, shape (seeds, points): a row a complete seed, beside the steps `x`.

        part: "curves", or "measured" for what was measured at some of the steps. A number that was not taken is nan.
        Raises Refused for a method, key or part that the runs do not have, and for runs of unequal length.
        """
        rows = [self._of(method, seed, part, key) for seed in self._complete()]
        if len({len(row) for row in rows}) > 1:
            raise Refused(
                f"{key} of {method} has {sorted({len(row) for row in rows})} points: read the seeds one by one"
            )
        return np.array(rows, dtype=float)

    def x(self, part: str = "curves") -> np.ndarray:
        """The steps beside which `curve` stands, shape (points,)."""
        return self.curve(self.methods[0], "step", part)[0]

    def final(self, method: str, key: str = "test_accuracy") -> np.ndarray:
        """A number at the end of the runs, shape (seeds,), one for each complete seed. Raises as `curve`."""
        return np.array([self._of(method, seed, "final", key) for seed in self._complete()], dtype=float)

    def difference(
        self, method: str, than: str | None = None, key: str = "test_accuracy", *, of: Runs | None = None
    ) -> np.ndarray:
        """`final` of a method minus that of another with the same seed, shape (seeds,).

        than: the other (default: the plan's baseline).  of: the runs that have it, where it is none of these. Raises as
        `final`, and Refused for runs without a plan where ``than`` is not given, or a seed that the other lacks.
        """
        if than is None and self.plan is None:
            raise Refused(f"than is missing, and {self.pattern} has no plan with a baseline: name the other method")
        than, of = than or self.plan.baseline, of or self
        other = [of._of(than, seed, "final", key) for seed in self._complete()]
        return self.final(method, key) - np.array(other, dtype=float)

    def _complete(self) -> list[int]:
        if not self.seeds:
            raise Refused(f"no seed of {self._name} has all of {', '.join(self.methods)}: make the missing records")
        return self.seeds

    def _of(self, method: str, seed: int, part: str, key: str):
        if (method, seed) not in self.runs:
            raise Refused(f"{self._name} has no run of {method!r} with seed {seed}: it has {', '.join(self.methods)}")
        run = self.runs[method, seed]
        if part not in run or key not in run[part]:
            raise Refused(f"{method} has no {key!r} under {part!r}: it has {', '.join(sorted(run.get(part, ())))}")
        return run[part][key]

    @property
    def _name(self) -> str:
        return self.pattern

    @property
    def line(self) -> str:
        """What a page says of where its numbers come from."""
        return f"{self.pattern}, without a plan (exploratory): {self._told()}"

    def _told(self) -> str:
        runs = self.runs.values()
        devices = sorted({run["provenance"].get("gpu", "CPU") for run in runs})
        days = sorted({run["started"][:10] for run in runs if "started" in run})
        when = ", " + " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""
        asked = f"{len(self.seeds)} of {len(self._seeds())} seeds, {len(self.methods)} methods"
        return f"{asked}, {' and '.join(devices) or 'no device yet'}{when}"

    def __repr__(self) -> str:
        return self.line

    def _repr_html_(self) -> str:
        name, _, told = self.line.partition(": ")
        return f'<p class="provenance"><strong>{html.escape(name)}</strong>: {html.escape(told)}</p>'


@dataclass(frozen=True, repr=False)
class Planned(Runs):
    """A plan and those of its records that are there, by (method, seed)."""

    plan: Plan
    runs: dict[tuple[str, int], dict]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of the plan."""
        return self.plan.methods

    def _seeds(self) -> Sequence[int]:
        return self.plan.seeds

    @property
    def complete(self) -> bool:
        """Whether all that was planned is there: until then a verdict is open."""
        return len(self.seeds) == len(self.plan.seeds)

    @property
    def _name(self) -> str:
        return f"plan {self.plan.name}"

    @property
    def line(self) -> str:
        """What a page says of where its numbers come from."""
        return f"plan {self.plan.name} ({self.plan.date}, {self.plan.digest[:8]}): {self._told()}"


def provenance(*found: Runs):
    """The lines of several runs, as an `IPython.display.HTML` in the book's look; a single one stands alone at the end
    of its cell. Raises WrongType for what are no runs.
    """
    from IPython.display import HTML

    asked = "give recorded.Runs(pattern) or recorded.planned(name)"
    return HTML("".join(instance("runs", runs, Runs, asked)._repr_html_() for runs in found))


def planned(name: str) -> Planned:
    """The records of the plan ``notebooks/plans/<name>.toml``, as far as they are there.

    Raises PlanError for the plan, and RecordError for a record that is damaged, belongs to no plan or another, or to
    this one as it read before it was changed.
    """
    page.used("records", f"plans/{name}")
    plan = plans.read(_root().parent / "plans" / f"{name}.toml")
    page.used("records", f"{plan.preset}/{plan.scale}")
    runs = {}
    for spec in plan.runs():
        if spec.is_done(_root()):
            record = records.read(spec.path(_root()))
            if (of := record.get("plan") or {}).get("digest") != plan.digest:
                whose = f"plan {of['name']} as it read then" if of else "no plan: it explores"
                raise RecordError(
                    f"record {spec.name} belongs to {whose}, not to {name}: move it away and run it again"
                )
            runs[spec.method, spec.seed] = record
    return Planned(plan, runs)


def exploratory(found: dict[str, dict]) -> bool:
    """Whether any of these records was made without a plan, so that a page must say that its numbers explore."""
    return any("plan" not in record for record in found.values())


def _root() -> Path:
    return Path.cwd().parent / "records"
