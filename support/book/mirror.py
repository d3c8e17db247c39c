"""Faults on tests: those that mirror a changed module, or its docstrings' examples, have to notice the fault, without
any page.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from support.book import trial
from support.claims.mutants import faults, record
from support.claims.mutants.faults import Mutant


def run(root: Path, mutants: list[Mutant], work) -> None:
    """Run the tests that mirror the changed modules, the smallest size of a factor first, and record what they say.

    work: carries out calls (`support.book.mutate.Work`).
    """
    own, calls, digests = record.read(record.TESTS, root), deque(), {}
    for gone in set(own) - work.known:
        del own[gone]
    for mutant in mutants:
        if mutant.is_page or mutant.harmless:
            continue
        found = tests_of(mutant, root)
        texts = [path.read_text(encoding="utf-8") for path in (mutant.file(root), *(root / file for file in found))]
        digests[mutant.name] = record.digest([record.mutant_digest(mutant, root), texts])
        if own.get(mutant.name, {}).get("digest") != digests[mutant.name]:
            own.pop(mutant.name, None)
            calls.append((root, mutant, mutant.sizes[0], found))

    def ended(call, result, seconds):
        _, mutant, size, found = call
        entry = own.setdefault(mutant.name, {"files": found, "noticed": {}})
        entry["noticed"][record.size_name(size)] = result
        larger = [] if result or size is None else [other for other in mutant.sizes if other > size]
        entry["digest"] = "" if larger else digests[mutant.name]  # empty: not finished
        if larger:
            calls.appendleft((root, mutant, larger[0], found))
        record.write(record.TESTS, own, root)
        times, said = f" × {size:g}" if size else "", {True: "noticed", False: "not noticed", None: "stopped"}
        return f"{' '.join(found) or 'examples'} under {mutant.name}{times}: {said[result]} ({seconds:.0f} s)"

    work.say(f"{len(calls)} faults on tests")
    work.perform(trial.tests, calls, ended)
    record.write(record.TESTS, own, root)


def tests_of(mutant: Mutant, root: Path = faults.ROOT) -> list[str]:
    """The tests that mirror the module that a fault changes: the file of its name; else the files in the same place
    that name it, or all; else those in the places of the modules that import it.

    >>> tests_of(faults.Mutant("a", "support.risk", "sign", "", "", ""))
    ['tests/test_risk.py']
    """
    parts = mutant.target.removeprefix("support.").split(".")
    place = root.joinpath("tests", *parts[:-1])
    if (own := place / f"test_{parts[-1]}.py").is_file():
        found = [own]
    else:
        here = sorted((place if len(parts) > 1 else place / parts[0]).glob("test_*.py"))
        found = [path for path in here if parts[-1] in path.read_text(encoding="utf-8")] or here
    if found:
        return [path.relative_to(root).as_posix() for path in found]
    users = [
        path
        for path in sorted((root / "support").rglob("*.py"))
        if f"from {mutant.target} import" in path.read_text("utf-8")
    ]
    places = {root / "tests" / path.parent.relative_to(root / "support") for path in users}
    return sorted(path.relative_to(root).as_posix() for place in places for path in place.glob("test_*.py"))
