"""Every parameter of a page has a witness: another value of it with which the page shows something else.

A parameter without one is no parameter: it goes, or the page forgot to use it.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from support import page
from support.book import parameters, trial
from support.claims.mutants import record


def run(root: Path, names: list[str], work) -> None:
    """Give each parameter of the pages another value after the other, until the page shows something else, and record
    the value; None where none did. A page is first run twice as it is.

    work: carries out calls (`support.book.mutate.Work`).
    """
    plain: dict[str, list] = {}  # digests of what each cell shows; None where two equal runs differ, as in a time
    left: dict[str, dict[str, list]] = {}  # the values that are still to be tried
    records: dict[str, dict] = {}
    for name in names:
        notebook, own = root / "notebooks" / f"{name}.ipynb", record.fresh(name, root)
        defaults, seen = parameters.defaults_of(notebook), own.get("parameters", {})
        digest = record.page_digest(name, (), root)
        if own and (seen.get("digest") != digest or set(seen.get("witness", ())) != set(defaults)):
            records[name] = own | {"parameters": {"digest": digest, "witness": {}}}
            left[name] = {key: others(notebook, key, defaults) for key in defaults}
    calls = deque((root, name, None, None, {"draw": True}) for name in left for _ in range(2))
    changes: deque = deque()

    def settle(name, key, value):
        records[name]["parameters"]["witness"][key] = value
        record.write(name, records[name], root)

    def another(name, key) -> bool:
        """Whether there is a value left to try; it is the next."""
        if not left[name][key]:
            return False
        options = {"draw": True, "values": {key: left[name][key].pop(0)}, "against": plain[name]}
        changes.appendleft((root, name, None, None, options))
        return True

    def as_it_is(call, result, seconds):
        name = call[1]
        if result is None or result["errors"]:
            return f"{name} fails as it is"
        if name not in plain:
            plain[name] = result["shown"]
            return None
        plain[name] = [one if one == other else None for one, other in zip(plain[name], result["shown"], strict=True)]
        for key in left[name]:
            if not another(name, key):
                settle(name, key, None)
        return f"{name}: {len(left[name])} parameters to change"

    def changed(call, result, seconds):
        name, ((key, value),) = call[1], call[4]["values"].items()
        differs = result is not None and not result["errors"] and result["differs"]
        if not differs and another(name, key):
            return None
        settle(name, key, value if differs else None)
        return f"{name}: {key} = {value!r} changes {'something' if differs else 'nothing'} ({seconds:.0f} s)"

    work.say(f"{sum(map(len, left.values()))} parameters on {len(left)} pages")
    work.perform(trial.job, calls, as_it_is)
    work.perform(trial.job, changes, changed)


def others(notebook: Path, name: str, defaults: dict[str, Any]) -> list:
    """Other values of a parameter that the page may take, in the order in which to try them: from the page's sets, then
    neighbours of its own.
    """
    own = defaults[name]
    named = parameters.sets(notebook)
    named = {"witness": named.get("witness", {})} | {key: given for key, given in named.items() if key != "ranges"}
    found = [given[name] for given in named.values() if name in given]
    match own:
        case bool():
            found += [not own]
        case int():
            found += [own + 1, own - 1, 2 * own, own // 2]
        case float():
            found += [float(f"{near:.6g}") for near in (1.1 * own, 0.9 * own, 2 * own, own / 2, own + 0.1, own + 1)]
        case list() if len(own) > 1:
            found += [own[:-1], own[1:]]
    kept: list = []
    for value in found:
        try:
            parameters.complete(notebook, {name: value}, defaults)
        except page.ParameterError:
            continue
        if not any(page.same(value, other) for other in [own, *kept]):
            kept.append(value)
    return kept
