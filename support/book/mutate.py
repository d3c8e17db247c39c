"""Every verdict is seen to fail: the pages and the tests run under deliberate faults (`support.claims.mutants`).

A page is first run as it is, and it is listed which lines of the package each cell runs; a fault is then tried on the
pages that run what it changes, up to their last check, each time in a process of its own (`support.book.trial`). Of the
sizes of a factor, 2 goes first: where it changes nothing, the smaller ones need no run. A fault is also tried on the
tests that mirror its module (`support.book.mirror`), and each parameter of a page has to change something that the page
shows (`support.book.witness`).

What is recorded already, for the page's cells and the module's code of today, is not run again; each result is
recorded as it comes.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support import files, jobs
from support.book import mirror, trial, witness
from support.claims.mutants import faults, record
from support.claims.mutants.faults import Mutant, MutantError

PARTS = ("pages", "tests", "parameters")


def run(
    root: Path = faults.ROOT,
    *,
    pages: list[str] | None = None,
    mutants: list[str] | None = None,
    workers: int = 2,
    budget: float | None = None,
    lists: Path = faults.LISTS,
    parts: tuple[str, ...] = PARTS,
    preload: tuple[str, ...] = trial.PRELOAD,
    say: Callable[[str], None] = print,
) -> int:
    """Run what the record lacks, and say what the record then shows; returns the command's exit status.

    pages, mutants: only these, by name.  budget: seconds after which nothing new begins, and what runs is stopped.
    parts: what to run: faults on pages, faults on tests, the pages' parameters.
    """
    if not (known := record.pages(root)):
        raise MutantError(f"no page below {root / 'notebooks'} has a check: run this in the root of the book")
    every = faults.load(lists, root)
    chosen = _chosen("fault", mutants, {mutant.name: mutant for mutant in every})
    names = [name.removeprefix("notebooks/").removesuffix(".ipynb") for name in pages or known]
    _chosen("page", names, dict.fromkeys(known))
    with files.lock(root / "_build" / "mutants" / "lock"):
        work = Work(root, names, chosen, every, workers, budget, preload, say)
        if "pages" in parts:
            work.on_pages()
        if "tests" in parts and not pages:
            mirror.run(root, chosen, work)
        if "parameters" in parts and not mutants:
            witness.run(root, names, work)
    for line in work.failed:
        say(line)
    if work.lost:
        say(f"{work.lost} were stopped at the end of the budget: the same command goes on from here")
    return max(summary(every, root, say), bool(work.failed))


def _chosen(what: str, names: list[str] | None, known: dict[str, Any]) -> list:
    for name in names or ():
        if name not in known:
            raise MutantError(f"no {what} {name!r}: there are {', '.join(known) or 'none'}")
    return [known[name] for name in names or known]


class Work:
    """The runs that are to be made, and their results as they come."""

    def __init__(self, root, names, mutants, every, workers, budget, preload, say):
        self.root, self.names, self.mutants, self.say = root, names, mutants, say
        self.known = {mutant.name for mutant in every}
        self.workers, self.preload, self.until = workers, preload, None if budget is None else time.time() + budget
        self.start, self.lost, self.failed = time.time(), 0, []
        self.reach: dict[str, dict] = {}
        self.records: dict[str, dict] = {}

    def perform(self, function, calls: deque, ended: Callable[[tuple, Any, float], str | None]) -> None:
        """Carry out calls; what ends may add others to them. ``ended`` gets call, result and seconds, and says in a
        line what came out.
        """
        running = 0

        def next_calls() -> Iterator[tuple | None]:
            nonlocal running
            while calls or running:
                if self.until is not None and time.time() > self.until:
                    self.lost += len(calls)
                    calls.clear()
                    return
                running += bool(calls)
                yield calls.popleft() if calls else None

        if not calls:
            return
        options = {"workers": self.workers, "until": self.until, "preload": self.preload}
        for done in jobs.run(function, next_calls(), **options):
            running -= 1
            if isinstance(done.error, jobs.TimeUp):
                self.lost += 1
            elif done.error and not isinstance(done.error, jobs.Lost):
                raise done.error
            elif line := ended(done.call, done.result, done.seconds):
                self.say(f"{time.time() - self.start:6.0f} s  {line}")

    # --- faults on pages ----------------------------------------------------------------------------------------------

    def on_pages(self) -> None:
        """Run each page as it is where something of it is missing, and then under the faults that it lacks."""
        unmade, calls = deque(), deque()
        for name in self.names:
            own = self.records[name] = record.fresh(name, self.root)
            if gone := set(own.get("runs", ())) - self.known:
                own["runs"] = {key: run for key, run in own["runs"].items() if key not in gone}
                record.write(name, own, self.root)
            if self.records[name] and not record.missing(name, self.records[name], self.mutants, self.root):
                continue
            path, key = self._reach(name)
            stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if stored.get("key") == key and self.records[name]:
                self.reach[name] = stored
                calls.extend(self._page_calls(name))
            else:
                unmade.append((self.root, name, None, None, {"trace": True}))
        if unmade:
            self.say(f"{len(unmade)} pages as they are")
        self.perform(trial.job, unmade, lambda call, result, seconds: self._as_it_is(call[1], result, seconds, calls))
        self.say(f"{len(calls)} faults on pages")
        self.perform(trial.job, calls, lambda call, result, seconds: self._under(call, result, seconds, calls))

    def _reach(self, name: str) -> tuple[Path, str]:
        """Where it is kept which lines a page runs, and the digest of all that this depends on."""
        modules = sorted([*self.root.glob("*.py"), *(self.root / "support").rglob("*.py")])
        code = [record.code_digest(path) for path in modules]
        return self.root / "_build" / "mutants" / f"{name.replace('/', '.')}.json", record.digest(
            [record.page_digest(name, (), self.root), code]
        )

    def _as_it_is(self, name: str, result: dict | None, seconds: float, calls: deque) -> str:
        if result is None or result["errors"] or not result["claims"]:
            what = "its process died" if result is None else next(iter(result["errors"].values()), "it checks nothing")
            self.failed.append(f"{name} fails without any fault ({what}): mend the page first")
            return self.failed[-1]
        verdicts = {claim: found["verdict"] for claim, found in result["claims"].items()}
        digest = record.page_digest(name, verdicts, self.root)
        if self.records[name].get("digest") != digest or self.records[name].get("claims") != verdicts:
            old = record.read(name, self.root).get("parameters", {})
            self.records[name] = {"page": name, "digest": digest, "claims": verdicts, "runs": {}, "parameters": old}
        path, key = self._reach(name)
        self.reach[name] = json.loads(json.dumps({"key": key, **result}))
        files.write_whole(path, json.dumps(self.reach[name], sort_keys=True))
        added = self._page_calls(name)
        calls.extend(added)
        return f"{name}: {len(verdicts)} verdicts in {seconds:.0f} s; {len(added)} faults to run"

    def _page_calls(self, name: str) -> list[tuple]:
        """The first run of each fault that a page lacks; those that it does not reach are recorded at once."""
        found, runs = [], self.records[name]["runs"]
        for mutant in record.missing(name, self.records[name], self.mutants, self.root):
            first = self._first_cell(name, mutant)
            reached = any(claim["cell"] >= first for claim in self.reach[name]["claims"].values())
            if reached:
                found.append(self._call(name, mutant, mutant.sizes[-1]))
            else:
                runs[mutant.name] = record.entry(mutant, self.root) | {"reached": False}
        record.write(name, self.records[name], self.root)
        return found

    def _call(self, name: str, mutant: Mutant, size: float | None) -> tuple:
        seen = self.reach[name]
        options = {"until": max(claim["cell"] for claim in seen["claims"].values()), "limit": 2 * seen["seconds"] + 20}
        return self.root, name, mutant, size, options

    def _first_cell(self, name: str, mutant: Mutant) -> float:
        """The number of the first cell that runs what a fault changes; infinite where none does."""
        if mutant.is_page:
            return 0
        first, last = mutant.lines(faults.text_of(mutant, self.root))
        ran = self.reach[name]["lines"].get(mutant.target, {})
        return min((cell for line, cell in ran.items() if first <= int(line) <= last), default=float("inf"))

    def _under(self, call: tuple, result: dict | None, seconds: float, calls: deque) -> str:
        _, name, mutant, size, _ = call
        own, before = self.records[name], self.reach[name]["claims"]
        states = {"changed": {}, "moved": [], "stopped": []}
        after = {} if result is None else result["claims"]
        for claim, was in sorted(before.items()):
            now = after.get(claim)
            if now is None:
                states["stopped"].append(claim)
            elif now["verdict"] != was["verdict"]:
                states["changed"][claim] = now["verdict"]
            elif now["shown"] != was["shown"]:
                states["moved"].append(claim)
        digest = record.mutant_digest(mutant, self.root)
        if own["runs"].get(mutant.name, {}).get("digest") != digest:
            own["runs"][mutant.name] = record.entry(mutant, self.root)
        sizes = own["runs"][mutant.name]["sizes"]
        sizes[record.size_name(size)] = states
        if (smaller := _smaller(mutant, sizes)) is not None:
            calls.appendleft(self._call(name, mutant, smaller))
            own["runs"][mutant.name]["digest"] = ""  # not finished
        record.write(name, own, self.root)
        if smaller is not None:
            own["runs"][mutant.name]["digest"] = digest
        said = ", ".join(f"{len(items)} {state}" for state, items in states.items() if items) or "nothing changed"
        times = f" × {size:g}" if size else ""
        return f"{name} under {mutant.name}{times}: {said} ({seconds:.0f} s)"


def _smaller(mutant: Mutant, sizes: dict[str, dict]) -> float | None:
    """The next size to run: after 2 the smallest, and 1.1 where the smallest left something to know."""
    if mutant.sizes == (None,):
        return None
    small, middle, large = mutant.sizes
    first = sizes[record.size_name(large)]
    if not (first["changed"] or first["stopped"]):
        return None
    if record.size_name(small) not in sizes:
        return small
    open_still = {*first["changed"], *first["stopped"]} - set(sizes[record.size_name(small)]["changed"])
    return middle if open_still and record.size_name(middle) not in sizes else None


# --- what the record shows --------------------------------------------------------------------------------------------


def summary(mutants: list[Mutant], root: Path = faults.ROOT, say: Callable[[str], None] = print) -> int:
    """Say what the record shows; 1 if a harmless change changed a verdict, a fault is run by no page, or a parameter
    changes nothing.
    """
    known = {mutant.name: mutant for mutant in mutants}
    found = [outcome for outcome in record.outcomes(root) if outcome.mutant in known]
    noticed = record.noticed(found, record.checked(root))
    tests = record.read(record.TESTS, root)
    pages = {name: record.read(name, root) for name in record.pages(root)}
    changed = {outcome.mutant for outcome in found if outcome.state == "changed"}
    ran = [
        name
        for name, mutant in known.items()
        if all(
            name in own.get("runs", {}) for page, own in pages.items() if not mutant.is_page or page == mutant.target
        )
    ]
    reached = {name for own in pages.values() for name, result in own.get("runs", {}).items() if result["reached"]}
    lists = {
        "claims that no fault has changed": [
            f"{claim} (moved by {n.reached})" for claim, n in noticed.items() if not n.changed
        ],
        "faults that no verdict noticed": [
            name for name in ran if name in reached and name not in changed and not known[name].harmless
        ],
        "faults that no test notices": [
            name for name, own in tests.items() if name in known and not any(own["noticed"].values())
        ],
        "changes that no page runs": [name for name in ran if name not in reached],
        "harmless changes that changed a verdict": [
            f"{o.mutant} ({o.claim}, {o.page}: {o.verdict or 'not reached'})"
            for o in found
            if known[o.mutant].harmless and o.state != "moved"
        ],
        "parameters that change nothing": [
            f"{name}: {key}"
            for name, own in pages.items()
            for key, value in own.get("parameters", {}).get("witness", {}).items()
            if value is None
        ],
    }
    bad = sum(1 for mutant in mutants if not mutant.harmless)
    say(f"{bad} faults and {len(mutants) - bad} harmless changes, {len(noticed)} claims on {len(pages)} pages")
    for what, items in lists.items():
        say(f"{what}: {len(items)}{''.join(f'{chr(10)}    {item}' for item in items)}")
    return int(any(lists[what] for what in list(lists)[-3:]))
