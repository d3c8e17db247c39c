"""The verdicts that a book has: collected from the outputs of its notebooks, and counted.

A check leaves its verdict in its cell's output (`support.claims.check.MIME`). The ledger page, the landing page and the
README read them there, so that no number of theirs is typed. A claim has the computed verdict, else the written one of
its ledger entry, else none yet; the verdict that an entry *expects* never counts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import files
from support.book.parameters import InputError
from support.claims import ledger
from support.claims.check import MIME

NO_CHECK = "no check yet"
LEFT_OPEN = "left open"  # an open verdict that is written with its reason
_PLACE = re.compile(r"(<!-- counts:[^\n]*-->\n).*?(\n<!-- end of counts -->)", re.DOTALL)


@dataclass(frozen=True)
class Evidence:
    """One check on one page: what `Verdict.as_json` says, and the document that says it."""

    document: str
    verdict: dict[str, Any]


Found = Mapping[str, list[Evidence]]


def collect(source: Path, documents: Iterable[str]) -> dict[str, list[Evidence]]:
    """The verdicts in the outputs of the notebooks among ``documents`` (names below ``source``, without suffix), by
    claim.
    """
    found: dict[str, list[Evidence]] = {}
    for document in documents:
        path = source / f"{document}.ipynb"
        if not path.is_file():
            continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", ()):
                if verdict := output.get("data", {}).get(MIME):
                    found.setdefault(verdict["id"], []).append(Evidence(document, verdict))
    return found


def problems(found: Found, claims: Mapping[str, ledger.Claim]) -> list[str]:
    """What contradicts itself in the collected verdicts: an unknown claim, or two verdicts on one."""
    unknown = [
        f"{name}: checked on {items[0].document}, but no claim of the ledger"
        for name, items in found.items()
        if name not in claims
    ]
    divided = [
        f"{name}: contradictory verdicts: "
        + ", ".join(f"{item.verdict['verdict']} on {item.document}" for item in items)
        for name, items in found.items()
        if len({item.verdict["verdict"] for item in items}) > 1
    ]
    return unknown + divided


def verdict_of(claim: ledger.Claim, evidence: list[Evidence]) -> str:
    """The verdict that the book has on a claim: the computed one, else the written one, else "no check yet".

    >>> verdict_of(ledger.load()["wu.prop1.with"], [])  # expected to be confirmed, which is no verdict
    'no check yet'
    """
    if evidence:
        return evidence[0].verdict["verdict"]
    return claim.expected if claim.written else NO_CHECK


def counts(claims: Iterable[ledger.Claim], found: Found) -> Counter[str]:
    """How many of the claims have which verdict; "no check yet" is one of the keys, and "left open", which no
    computation decides, another.
    """

    def key(claim: ledger.Claim) -> str:
        evidence = found.get(claim.id, [])
        return LEFT_OPEN if claim.expected == "open" and claim.written and not evidence else verdict_of(claim, evidence)

    return Counter(map(key, claims))


def sentence(counted: Counter[str]) -> str:
    """The counts in words.

    >>> sentence(Counter({"confirmed": 3, "refuted": 1, "no check yet": 4}))
    '4 of the 8 claims have a verdict that a page computes: 3 confirmed, 1 refuted. 4 have no check yet.'
    """

    def part(verdicts: Iterable[str], says: str) -> list[str]:
        named = [f"{counted[verdict]} {verdict}" for verdict in verdicts if counted[verdict]]
        return [f"{sum(counted[verdict] for verdict in verdicts)} {says}: {', '.join(named)}."] if named else []

    parts = part(ledger.COMPUTED, f"of the {counted.total()} claims have a verdict that a page computes")
    parts += part((*ledger.WRITTEN, LEFT_OPEN), "have one that is written with its reason")
    return " ".join([*parts, f"{counted[NO_CHECK]} have no check yet."])


def of_tree(root: Path) -> str:
    """The sentence for the committed notebooks of a book's tree, those that its `_toc.yml` names."""
    from support.book.build import Book

    found = collect(root, (f"notebooks/{name}" for name in Book(root).pages()))
    return sentence(counts(ledger.load().values(), found))


def show(root: Path, write: bool = False) -> int:
    """Print the sentence; with ``write``, put it into the README between its two comments. The exit status, 0.

    Raises InputError for a README without the comments.
    """
    said = of_tree(root)
    print(said)
    if write:
        readme = root / "README.md"
        text = readme.read_text(encoding="utf-8")
        if not _PLACE.search(text):
            raise InputError(f"{readme} has no place for the counts: write `<!-- counts:` and `<!-- end of counts -->`")
        files.write_whole(readme, _PLACE.sub(rf"\g<1>{said}\g<2>", text))
    return 0
