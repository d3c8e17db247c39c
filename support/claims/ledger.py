"""The ledger: every claim of the papers, one YAML file a paper.

An entry says what the authors meant, with every hypothesis and hedge, in our words (``statement``, and ``short`` where
that is longer than a line); which verdict a computation must reach (``expected``); what is true where the statement
fails (``truth``); and what fails, or is sharper, beyond its hypotheses (``beyond``), which changes no verdict. A hedge
such as "about" may have a ``margin`` of its own. Some verdicts are written with a ``reason``, not computed: *noted*,
*not testable here*, and *open* for what no computation of this book can decide. An entry without ``expected`` waits for
its first run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Real
from pathlib import Path

from support.errors import Refused

COMPUTED = ("confirmed", "corrected", "refuted", "not reproduced", "open")
WRITTEN = ("noted", "not testable here")
VERDICTS = COMPUTED + WRITTEN
KINDS = ("mathematical", "empirical", "convention")
PAPERS = ("wu", "zhu", "wen", "ziyin")
LINE = 20  # words of a claim in a line


class LedgerError(Refused):
    """An entry of the ledger that breaks its rules; the message names file, id and field."""


@dataclass(frozen=True)
class Margin:
    """How far "about" reaches: a share of the stated value (``relative``) or an amount (``absolute``), and why.

    >>> Margin(relative=0.1).of(-2.0), Margin(absolute=0.75).of(0.0)
    (0.2, 0.75)
    """

    relative: float | None = None
    absolute: float | None = None
    reason: str = ""

    def __post_init__(self):
        given = [x for x in (self.relative, self.absolute) if x is not None]
        if len(given) != 1 or not isinstance(given[0], Real) or not 0 < given[0] < float("inf"):
            raise Refused(
                f"margin {{relative: {self.relative}, absolute: {self.absolute}}} is none: give one of the two, "
                f"a number above 0"
            )

    def of(self, stated: float) -> float:
        """The margin around a stated value. Raises Refused for a share of zero."""
        if self.absolute is not None:
            return self.absolute
        if stated == 0:
            raise Refused("a share of 0 is no margin: give the claim's entry an absolute one")
        return self.relative * abs(stated)


ABOUT = Margin(relative=0.1)  # of "about", "similar", "negligible", where an entry says nothing else


@dataclass(frozen=True)
class Claim:
    """One claim: id, place in the paper, kind, statement in our words, and what is known of it.

    Raises LedgerError for a kind or verdict that does not exist, and where `truth` or `reason` is missing or out of
    place.

    >>> Claim("wu.size", "wu", "Section 2", "mathematical", "It is 3.", expected="refuted", truth="It is 4.").line
    'It is 3.'
    """

    id: str
    paper: str
    where: str
    kind: str
    statement: str
    short: str | None = None
    expected: str | None = None
    truth: str | None = None
    beyond: str | None = None
    reason: str | None = None
    margin: Margin | None = None

    def __post_init__(self):
        def refuse(message):
            raise LedgerError(f"{self.paper}.yaml, {self.id}: {message}")

        if self.kind not in KINDS:
            refuse(f"kind {self.kind!r} is unknown: choose from {', '.join(KINDS)}")
        if self.expected is not None and self.expected not in VERDICTS:
            refuse(f"expected verdict {self.expected!r} is unknown: choose from {', '.join(VERDICTS)}")
        if self.expected in ("corrected", "refuted") and not self.truth:
            refuse(f"a claim that is {self.expected} must say in `truth` what is true instead")
        if self.expected in ("confirmed", "noted") and self.truth:
            refuse(f"a claim that is {self.expected} has no other truth: say in `beyond` what lies beyond it")
        if self.expected in WRITTEN and not self.reason:
            refuse(f"a claim that is {self.expected} must say the `reason`")
        if self.reason and self.expected not in (*WRITTEN, "open"):
            refuse("`reason` belongs to the verdicts that are written: 'noted', 'not testable here', and 'open'")
        if self.short and len(self.short.split()) > LINE:
            refuse(f"`short` has {len(self.short.split())} words: a line holds {LINE}")

    @property
    def written(self) -> bool:
        """Whether the verdict is written with a reason, not computed."""
        return bool(self.reason)

    @property
    def line(self) -> str:
        """The claim in a line: its ``short``, else its statement, cut after twenty words where that is longer."""
        words = self.statement.split()
        return self.short or (self.statement if len(words) <= LINE else _cut(words))


def _cut(words: list[str]) -> str:
    """The first words, a formula never cut open."""
    kept = words[: LINE - 2]
    while " ".join(kept).count("$") % 2:
        kept.pop()
    return " ".join(kept) + " …"


def read(path: Path) -> tuple[str, list[Claim]]:
    """Read one ledger file: its title and its claims. Raises LedgerError for a malformed or doubled entry.

    >>> title, claims = read(Path(__file__).parent / "wu.yaml")
    >>> claims[0].id
    'wu.sec2.unbiased'
    """
    import yaml

    content = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    names = {f.name for f in fields(Claim)}
    claims, seen = [], set()
    for entry in content["claims"]:
        where = f"{path.name}, {entry.get('id', 'an entry without id')}"
        if unknown := set(entry) - names:
            raise LedgerError(f"{where}: unknown field {', '.join(sorted(unknown))}")
        claim = Claim(paper=content["paper"], **entry | _margin(where, entry))
        if claim.id in seen:
            raise LedgerError(f"{path.name}, {claim.id}: entered twice")
        seen.add(claim.id)
        claims.append(claim)
    return content["title"], claims


def _margin(where: str, entry: Mapping) -> dict[str, Margin]:
    if "margin" not in entry:
        return {}
    try:
        margin = Margin(**entry["margin"])
    except (TypeError, Refused) as error:
        raise LedgerError(f"{where}: {error}") from None
    if not margin.reason:
        raise LedgerError(f"{where}: a margin must say its `reason`")
    return {"margin": margin}


@cache
def papers() -> dict[str, tuple[str, list[Claim]]]:
    """Title and claims of every paper, in the book's order.

    >>> list(papers())
    ['wu', 'zhu', 'wen', 'ziyin']
    """
    return {paper: read(Path(__file__).parent / f"{paper}.yaml") for paper in PAPERS}


@cache
def load() -> dict[str, Claim]:
    """All claims by id, in the papers' order.

    >>> load()["wu.prop1.with"].where
    'Proposition 1; Appendix A.1'
    """
    return {claim.id: claim for _, claims in papers().values() for claim in claims}
