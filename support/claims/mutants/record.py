"""What the verdicts made of every fault: the record, one JSON file a page, and what follows from it.

``notebooks/records/mutants/noise.zoo.json`` holds for each change what became of the page's verdicts under it:
*changed* to another verdict; *moved*, where the check showed other numbers and the same verdict; *stopped*, where the
page did not come to the check. All others stayed as they were. A run belongs to the change's definition, the code of
the module that it changes, and the page's cells: digests say whether it still does. ``tests.json`` says the same of the
tests that mirror the changed module.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from support import files
from support.claims import ledger
from support.claims.mutants import faults
from support.claims.mutants.faults import Mutant, MutantError

TESTS = "tests"  # the record that is no page's
WHOLE = "whole"  # the size of a change that has none, in a record


def size_name(size: float | None) -> str:
    """A size in a record: its factor, or "whole".

    >>> size_name(1.1), size_name(None)
    ('1.1', 'whole')
    """
    return WHOLE if size is None else f"{size:g}"


# --- digests ----------------------------------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """A digest of a value that JSON holds; short, since records have thousands of them."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


@cache
def code_digest(path: Path) -> str:
    """A digest of a module's code, without its comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        match body:
            case [ast.Expr(value=ast.Constant(value=str())), *rest]:
                node.body = rest
    return digest(ast.dump(tree))


def mutant_digest(mutant: Mutant, root: Path = faults.ROOT) -> str:
    """A digest of what a change is: where, what for what, and the code of its module."""
    code = "" if mutant.is_page else code_digest(mutant.file(root))
    return digest([mutant.target, mutant.find, mutant.replace, code])


def entry(mutant: Mutant, root: Path = faults.ROOT) -> dict[str, Any]:
    """What a page's record says of a change that it reaches, before the first run."""
    about = {"kind": mutant.kind, "target": mutant.target, "digest": mutant_digest(mutant, root)}
    return about | {"reached": True, "sizes": {}}


def page_digest(name: str, claims: Iterable[str], root: Path = faults.ROOT) -> str:
    """A digest of a page's code cells, and of what of their ledger entries decides a verdict."""
    notebook = json.loads((root / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    entries = {key: ledger.load().get(key) for key in claims}
    decides = {
        key: [entry.kind, entry.margin and [entry.margin.relative, entry.margin.absolute]]
        for key, entry in entries.items()
        if entry
    }
    return digest([list(faults.code_cells(notebook).values()), decides])


# --- reading and writing ----------------------------------------------------------------------------------------------


def folder(root: Path = faults.ROOT) -> Path:
    """Where the records of a tree stand."""
    return root / "notebooks" / "records" / "mutants"


def pages(root: Path = faults.ROOT) -> list[str]:
    """The pages of a tree that have a checked claim, such as ``noise/zoo``."""
    found = []
    for path in sorted(root.glob("notebooks/*/*.ipynb")):
        if any("check(" in source for source in faults.code_cells(json.loads(path.read_text("utf-8"))).values()):
            found.append(path.relative_to(root / "notebooks").with_suffix("").as_posix())
    return found


def read(name: str, root: Path = faults.ROOT) -> dict[str, Any]:
    """The record of the page ``noise/zoo``, or that of the ``tests``; empty where there is none. Raises MutantError for
    a file that is none.
    """
    path = _path(name, root)
    return _read(path) if path.is_file() else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if path.stem != TESTS and not {"page", "digest", "claims", "runs"} <= set(found):
            raise ValueError
    except ValueError:
        raise MutantError(f"the record {path.name} is damaged: remove it, and run `make mutants`") from None
    return found


def write(name: str, content: Mapping[str, Any], root: Path = faults.ROOT) -> None:
    """Write a record in one piece, sorted, so that the same runs give the same file."""
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
    files.write_whole(_path(name, root), text + "\n")


def _path(name: str, root: Path) -> Path:
    return folder(root) / f"{name.replace('/', '.')}.json"


# --- what is still to be done -----------------------------------------------------------------------------------------


def fresh(name: str, root: Path = faults.ROOT) -> dict[str, Any]:
    """The record of a page if it belongs to the page's cells of today, else empty."""
    found = read(name, root)
    return found if found and found["digest"] == page_digest(name, found["claims"], root) else {}


def missing(name: str, record: Mapping[str, Any], mutants: Iterable[Mutant], root: Path = faults.ROOT) -> list[Mutant]:
    """The changes that a page's record does not hold as they are today."""
    runs = record.get("runs", {})
    wanted = (mutant for mutant in mutants if not mutant.is_page or mutant.target == name)
    return [m for m in wanted if runs.get(m.name, {}).get("digest") != mutant_digest(m, root)]


def outdated(root: Path = faults.ROOT) -> Iterator[str]:
    """The pages whose checks are no longer those of the record, one line a page, with the remedy."""
    for name in pages(root):
        if not fresh(name, root):
            why = "its cells have changed since" if read(name, root) else "there is none"
            again = f"run `python -m support mutants --page {name}`"
            yield f"{name}: no record of faults belongs to it ({why}): {again}"


def problems(mutants: list[Mutant], root: Path = faults.ROOT) -> Iterator[str]:
    """Where the record does not belong to today's pages and changes, one line a page, with the remedy."""
    yield from outdated(root)
    for name in pages(root):
        again, record = f"run `python -m support mutants --page {name}`", fresh(name, root)
        if gone := sorted(set(record.get("runs", ())) - {mutant.name for mutant in mutants}):
            yield f"{name}: the record has {', '.join(gone[:5])}, which are no longer there: {again}"
        elif record and (lacking := missing(name, record, mutants, root)):
            yield f"{name}: not yet run under {faults.names(lacking[:5])}{' …' * (len(lacking) > 5)}: {again}"


# --- what follows -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a change of a given size made of a claim's verdict: ``changed`` (to `verdict`), ``moved`` or ``stopped``."""

    mutant: str
    kind: str
    target: str
    size: str
    page: str
    claim: str
    state: str
    verdict: str = ""


@dataclass(frozen=True)
class Noticed:
    """Of a claim: how many faults moved what its check shows, how many of them changed its verdict, and the smallest
    factor among these (None where no fault of kind factor is).
    """

    reached: int
    changed: int
    smallest: float | None

    @property
    def sentence(self) -> str:
        """For the ledger.

        >>> Noticed(7, 5, 1.02).sentence
        'Of 7 deliberate faults that moved its numbers, 5 changed the verdict; the smallest by a factor of 1.02.'
        """
        size = f"a factor of {self.smallest:g}" if self.smallest else ""
        smallest = f"; the smallest by {size}" if size else ""
        match self.reached, self.changed:
            case 0, _:
                return "No deliberate fault has reached it."
            case 1, changed:
                did = "changed" if changed else "did not change"
                return f"The one deliberate fault that moved its numbers {did} the verdict{size and f', at {size}'}."
        which = "all" if self.changed == self.reached else self.changed or "none"
        return f"Of {self.reached} deliberate faults that moved its numbers, {which} changed the verdict{smallest}."


def outcomes(root: Path = faults.ROOT) -> list[Outcome]:
    """All that the record holds, page by page."""
    found = []
    for path in sorted(folder(root).glob("*.*.json")):
        record = _read(path)
        for mutant, run in record["runs"].items():
            for size, states in run["sizes"].items():
                at = mutant, run["kind"], run["target"], size, record["page"]
                found += [Outcome(*at, claim, "changed", verdict) for claim, verdict in states["changed"].items()]
                found += [Outcome(*at, claim, state) for state in ("moved", "stopped") for claim in states[state]]
    return found


def checked(root: Path = faults.ROOT) -> list[str]:
    """The claims whose checks the record knows, in the ledger's order."""
    records = (_read(path) for path in sorted(folder(root).glob("*.*.json")))
    known = {claim for record in records for claim in record["claims"]}
    return [claim for claim in ledger.load() if claim in known]


def noticed(found: Iterable[Outcome], claims: Iterable[str]) -> dict[str, Noticed]:
    """What the faults made of each claim; harmless changes are no faults.

    A fault that comes in three sizes counts once: it changed the verdict if one of its sizes did.
    """
    reached: dict[str, dict[str, list[str]]] = {claim: {} for claim in claims}
    for outcome in found:
        if outcome.kind != faults.HARMLESS and outcome.state != "stopped" and outcome.claim in reached:
            sizes = reached[outcome.claim].setdefault(outcome.mutant, [])
            sizes += [outcome.size] if outcome.state == "changed" else []
    return {
        claim: Noticed(
            len(own),
            sum(map(bool, own.values())),
            min((float(size) for sizes in own.values() for size in sizes if size != WHOLE), default=None),
        )
        for claim, own in reached.items()
    }
