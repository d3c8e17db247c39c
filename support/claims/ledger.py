"""The ledger: every claim of the papers, one YAML file a paper.

An entry says what is printed, in our words, and, once it is known, which verdict a computation must reach
(``expected``) and what is true instead (``truth``). Two verdicts are written here with a reason, not computed:
``noted`` and ``not testable here``. An entry without ``expected`` waits for its first run.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from support.errors import Refused

COMPUTED = ("confirmed", "corrected", "refuted", "not reproduced")
WRITTEN = ("noted", "not testable here")
VERDICTS = COMPUTED + WRITTEN
KINDS = ("mathematical", "empirical", "convention")
PAPERS = ("wu", "zhu", "wen", "ziyin")


class LedgerError(Refused):
    """An entry of the ledger that breaks its rules; the message names file, id and field."""


@dataclass(frozen=True)
class Claim:
    """One claim: id, place in the paper, kind, statement in our words, and what is known of it.

    Raises LedgerError for a kind or verdict that does not exist, and where `truth` or `reason` is missing.

    >>> Claim("wu.size", "wu", "Section 2", "mathematical", "It is 3.", expected="refuted", truth="It is 4.").expected
    'refuted'
    """

    id: str
    paper: str
    where: str
    kind: str
    statement: str
    expected: str | None = None
    truth: str | None = None
    reason: str | None = None

    def __post_init__(self):
        def refuse(message):
            raise LedgerError(f"{self.paper}.yaml, {self.id}: {message}")

        if self.kind not in KINDS:
            refuse(f"kind {self.kind!r} is unknown: choose from {', '.join(KINDS)}")
        if self.expected is not None and self.expected not in VERDICTS:
            refuse(f"expected verdict {self.expected!r} is unknown: choose from {', '.join(VERDICTS)}")
        if self.expected in ("corrected", "refuted") and not self.truth:
            refuse(f"a claim that is {self.expected} must say in `truth` what is true instead")
        if (self.expected in WRITTEN) != bool(self.reason):
            refuse("`reason` belongs to the verdicts 'noted' and 'not testable here', and to these alone")


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
        if unknown := set(entry) - names:
            raise LedgerError(
                f"{path.name}, {entry.get('id', 'an entry without id')}: unknown field {', '.join(sorted(unknown))}"
            )
        claim = Claim(paper=content["paper"], **entry)
        if claim.id in seen:
            raise LedgerError(f"{path.name}, {claim.id}: entered twice")
        seen.add(claim.id)
        claims.append(claim)
    return content["title"], claims


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
