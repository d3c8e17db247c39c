"""Recorded runs on a page: read from ``notebooks/records``, and their use noted, so that a changed record executes its
pages
again.

Records made under a plan answer its question; what was recorded before there was a plan, or beside it, explores. Call
these functions in a page's own folder, which is where a page is executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support import page
from support.experiments import plans, records
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


@dataclass(frozen=True)
class Planned:
    """A plan and those of its records that are there, by (method, seed)."""

    plan: Plan
    runs: dict[tuple[str, int], dict]

    @property
    def seeds(self) -> list[int]:
        """The seeds that are complete: every method of the plan has its record."""
        return [seed for seed in self.plan.seeds if all((m, seed) in self.runs for m in self.plan.methods)]

    @property
    def complete(self) -> bool:
        """Whether all that was planned is there: until then a verdict is open."""
        return len(self.seeds) == len(self.plan.seeds)

    @property
    def line(self) -> str:
        """What a page says of where its numbers come from."""
        devices = sorted({run["provenance"].get("gpu", "CPU") for run in self.runs.values()})
        where = " and ".join(devices) or "no device yet"
        done = f"{len(self.seeds)} of {len(self.plan.seeds)} seeds, {len(self.plan.methods)} methods, {where}"
        return f"plan {self.plan.name} ({self.plan.date}, {self.plan.digest[:8]}): {done}"


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
