"""Plans: what a question asks of its runs, fixed before the first of them.

A plan is a small TOML file in ``notebooks/plans``: the question, the runs that answer it, the margin with its reason,
the test, its correction and its power. It is committed before its first record; a record stores the plan's name and
digest, and a page refuses a record of another digest. The table ``[queue]`` (when its runs come and what they cost) is
no part of the digest.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

from support.errors import Refused, integer, real
from support.experiments.presets import preset
from support.experiments.spec import RunSpec

PLANS = Path("notebooks/plans")


class PlanError(Refused):
    """A plan that is missing or malformed; the message names the file, the field and the remedy."""


@dataclass(frozen=True)
class Queue:
    """order: plans of a lower number come first.  cpu_s, cuda_s: seconds of a run on one core, on one device, in the
    mean.  cuda_gib: memory of a run on a device.
    """

    order: float = 100.0
    cpu_s: float = 60.0
    cuda_s: float = 60.0
    cuda_gib: float = 2.0


@dataclass(frozen=True)
class Outcome:
    """A number that is compared. name, unit: what it is.  test: how a verdict is reached, and what is compared with
    what.  margin: the difference that counts, in that unit, with its reason; None for a number that is only estimated.
    """

    name: str
    unit: str
    test: str
    margin: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """A question and the runs that answer it.

    question: in one sentence.  claims: ids of the ledger.  date: when it was fixed.  preset, scale, methods, seeds: its
    runs.  baseline: the method that the others are compared with, within a seed; where it is none of the plan's own,
    its
    records are those of the plan that has it.  outcomes: what is compared and by which test.  level, correction: error
    rate of a verdict, and how several are kept at it.  power: what the number of seeds is enough for.
    """

    name: str
    question: str
    claims: tuple[str, ...]
    date: str
    preset: str
    scale: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    outcomes: tuple[Outcome, ...]
    level: float
    correction: str
    power: str
    queue: Queue = Queue()

    @cached_property
    def digest(self) -> str:
        """sha256 of what was planned, without ``queue``: the same text in another order or layout is the same plan."""
        planned = {key: value for key, value in asdict(self).items() if key not in ("queue", "name")}
        return hashlib.sha256(json.dumps(planned, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def runs(self) -> Iterator[RunSpec]:
        """Its runs, seed by seed over the methods, so that what is made first is complete first."""
        for seed in self.seeds:
            for method in self.methods:
                yield RunSpec(self.preset, self.scale, method, seed)

    def outcome(self, name: str) -> Outcome:
        """The outcome of that name. Raises PlanError for one that the plan does not have."""
        for one in self.outcomes:
            if one.name == name:
                return one
        raise PlanError(f"plan {self.name} has no outcome {name!r}: it has {', '.join(o.name for o in self.outcomes)}")

    def holds(self, spec: RunSpec) -> bool:
        """Whether a run, or the start that its escapes leave from, is one of the plan's."""
        ours = (spec.preset, spec.scale) == (self.preset, self.scale) and spec.seed in self.seeds
        return ours and (spec.method in self.methods or spec.method == "start")


def read(path: Path) -> Plan:
    """Read a plan. Raises PlanError for a file that is missing or malformed, a field that is missing, unknown or of
    another type, and runs that do not exist.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        raise PlanError(f"there is no plan {path}: write it before its first record, or name another") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"plan {path} cannot be read ({error}): mend it") from error
    wanted = {one.name for one in fields(Plan)} - {"name", "queue"}
    if unlike := sorted((content.keys() - {"queue"}) ^ wanted):
        raise PlanError(
            f"plan {path} lacks or misspells {', '.join(unlike)}: its fields are {', '.join(sorted(wanted))}"
        )
    try:
        plan = _built(path.stem, content)
        list(plan.runs())
    except Refused as error:
        raise PlanError(f"plan {path}: {error}") from error
    return plan


def _built(name: str, content: dict) -> Plan:
    texts = ("question", "preset", "scale", "baseline", "correction", "power")
    plain = {key: _text(key, content[key]) for key in texts}
    if not isinstance(content["date"], datetime.date):
        raise PlanError(f"date = {content['date']!r} is no date: write it as 2026-11-26")
    lists = {key: _list(key, content[key]) for key in ("claims", "methods", "seeds", "outcomes")}
    lists["seeds"] = tuple(integer("a seed", seed, 0) for seed in lists["seeds"])
    lists["outcomes"] = tuple(_outcome(table) for table in lists["outcomes"])
    chosen = preset(plain["preset"])
    plain["baseline"] = chosen.method(plain["baseline"])
    lists["methods"] = tuple(chosen.method(method) for method in lists["methods"])
    own = content.get("queue", {})
    if unknown := set(own) - {one.name for one in fields(Queue)}:
        raise PlanError(f"[queue] has no {', '.join(sorted(unknown))}: its fields are order, cpu_s, cuda_s, cuda_gib")
    queue = Queue(**{key: real(f"queue.{key}", value, 0) for key, value in own.items()})
    level = real("level", content["level"], 0, 0.5)
    return Plan(name=name, date=content["date"].isoformat(), level=level, **plain, **lists, queue=queue)


def _outcome(table: dict) -> Outcome:
    wanted = {"name", "unit", "test"}
    if not isinstance(table, dict) or not wanted <= table.keys() <= wanted | {"margin", "reason"}:
        raise PlanError(f"outcome {table!r}: its fields are name, unit, test, and margin with reason")
    if ("margin" in table) != ("reason" in table):
        raise PlanError(
            f"outcome {table['name']!r} has a margin without a reason, or the reverse: give both or neither"
        )
    margin = real("margin", table["margin"], above=0) if "margin" in table else None
    return Outcome(**{key: _text(key, table[key]) for key in wanted}, margin=margin, reason=table.get("reason", ""))


def _text(key: str, value) -> str:
    if not isinstance(value, str) or not value.strip():
        raise PlanError(f"{key} = {value!r}: write a sentence or a name")
    return " ".join(value.split())


def _list(key: str, items) -> tuple:
    if not isinstance(items, list) or not items or len(set(map(str, items))) < len(items):
        raise PlanError(f"{key} = {items!r}: give a list of one or more, each once")
    return tuple(items)


def read_all(folder: Path = PLANS) -> list[Plan]:
    """The plans of a folder, those whose records are worth most first. Raises PlanError as `read`."""
    return sorted(
        (read(path) for path in sorted(folder.glob("*.toml"))), key=lambda plan: (plan.queue.order, plan.name)
    )


def plan_of(spec: RunSpec, plans: list[Plan]) -> Plan | None:
    """The plan that a run belongs to, the first in their order; None for a run that explores."""
    return next((plan for plan in plans if plan.holds(spec)), None)
