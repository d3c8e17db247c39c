"""A claim's verdict, computed from numbers.

A claim is a relation between a measured quantity and a stated value: a *printed* one, or one that stands *here*, our
rendering of a sentence without a number. The verdict follows from two answers, *does the statement hold?* and *does the
corrected one?*: ``confirmed`` if the statement holds; ``corrected`` if it fails and the corrected one holds;
``refuted`` if it fails and there is none. A finding of an experiment (kind "empirical" in the ledger) that fails is
``not reproduced``; one that the interval leaves undecided is ``open``, and the power of the design is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from support import page
from support.claims import ledger
from support.claims.compare import RELATIONS, Rule, numbers, same, sign
from support.claims.say import MANY, said
from support.errors import Refused, boolean, choice, instance, real


@dataclass(frozen=True)
class Verdict:
    """A computed verdict with its evidence; `agrees` says whether the ledger expects it (True too where the ledger
    expects nothing yet).

    rows: what is compared, as text, a dict a case, with the signs between them.  decisive: the row that decides, in a
    line.  slack: by how much a measured value would have to be wrong before the verdict changed.
    """

    claim: ledger.Claim
    verdict: str
    relation: str
    rows: tuple[dict, ...]
    decisive: str
    slack: str
    note: str
    default: bool
    unfold: bool = False

    @property
    def agrees(self) -> bool:
        return self.claim.expected in (None, self.verdict)

    def as_json(self) -> dict:
        """What travels in the cell's output, from which the ledger page is collected."""
        return {
            "id": self.claim.id,
            "verdict": self.verdict,
            "relation": self.relation,
            "rows": list(self.rows),
            "decisive": self.decisive,
            "slack": self.slack,
            "note": self.note,
            "default": self.default,
        }


@dataclass(frozen=True)
class _Case:
    """One comparison: what was measured, what is stated and what is true instead, and the answers."""

    name: str | None
    measured: Any
    stated: Any
    true: Any
    interval: Any
    holds: bool | None
    true_holds: bool | None


def judge(
    claim_id: str,
    *,
    measured,
    printed=None,
    here=None,
    true=None,
    interval=None,
    relation: str = "==",
    plan=None,
    outcome: str | None = None,
    power: float | None = None,
    rtol: float = 1e-9,
    atol: float = 1e-12,
    unfold: bool = False,
    note: str = "",
) -> Verdict:
    """The verdict on a claim, without showing it; arguments and errors as `check`.

    >>> from fractions import Fraction
    >>> judge("wu.sec2.unbiased", measured=Fraction(1, 7), here=Fraction(2, 14)).verdict
    'confirmed'
    """
    claims = ledger.load()
    if instance("claim_id", claim_id, str, "give the id of a claim, such as 'wu.prop1.with'") not in claims:
        raise Refused(f"no claim {claim_id!r} in the ledger: see support/claims/*.yaml for the ids")
    claim = claims[claim_id]
    relation, rtol, atol = choice("relation", relation, RELATIONS), real("rtol", rtol, 0), real("atol", atol, 0)
    instance("note", note, str, "give one line of text")
    boolean("unfold", unfold)
    if power is not None and not 0 < real("power", power) <= 1:
        raise Refused(f"power = {power} is no probability: give one above 0, at most 1")
    page.used("claims", claim_id)
    if claim.written:
        raise Refused(
            f"{claim_id} is {claim.expected!r} in the ledger, a verdict that is written with a reason: remove the "
            f"reason there, or the check here"
        )
    if (printed is None) == (here is None):
        raise Refused(
            f"{claim_id}: give either printed=, what the authors printed, or here=, our rendering of their sentence"
        )
    stated, heading = (here, "here") if printed is None else (printed, "printed")
    margin, complete = _margin(claim, plan, outcome)
    rule = Rule(relation, rtol, atol, margin)
    cases = [_answered(rule, *case) for case in _cases(measured, stated, heading, true, interval)]
    holds = _all(case.holds for case in cases) if complete else None
    verdict = _verdict(claim, holds, _all(case.true_holds for case in cases) if true is not None else False, complete)
    if verdict == "open" and complete and power is None:
        raise Refused(
            f"{claim_id}: the interval leaves it open: give power=, the probability that this design decides for the "
            f"claim if it is true, such as support.equivalence.power gives it"
        )
    if verdict == "open":
        why = f"The plan has {len(plan.seeds)} of its {len(plan.plan.seeds)} seeds." if not complete else ""
        why += f" If the claim is true, this design says so with probability {power:.2g}." if power is not None else ""
        note = f"{note} {why.strip()}".strip()
    decisive, slack = _decisive(rule, cases, holds)
    rows = tuple(_row(rule, case, heading) for case in cases)
    return Verdict(claim, verdict, relation, rows, decisive, slack, note, page.current.default, unfold)


def _margin(claim: ledger.Claim, plan, outcome) -> tuple[ledger.Margin, bool]:
    """The margin of "about", and whether all that a plan asked for is there."""
    if plan is None:
        if outcome is not None:
            raise Refused(f"outcome = {outcome!r} belongs to a plan: give plan=recorded.planned(…) too")
        return claim.margin or ledger.ABOUT, True
    from support.recorded import Planned

    instance("plan", plan, Planned, "give recorded.planned(name)")
    if not any(claim.id == asked or claim.id.startswith(f"{asked}.") for asked in plan.plan.claims):  # a part of it
        raise Refused(
            f"{claim.id} is none of the claims of plan {plan.plan.name} ({', '.join(plan.plan.claims)}): give the plan "
            f"that asks for it, or none"
        )
    planned = plan.plan.outcome(outcome).margin if outcome is not None else None
    if planned is None:
        return claim.margin or ledger.ABOUT, plan.complete
    return ledger.Margin(absolute=planned, reason=plan.plan.name), plan.complete


def _cases(measured, stated, heading, true, interval):
    """One tuple a named case; without names, one case. Raises Refused where two sides are one object."""
    if not isinstance(measured, Mapping):
        cases = [(None, measured, stated, true, interval)]
    else:
        if not measured:
            raise Refused("measured names no case: a verdict needs numbers")
        for name, given in ((heading, stated), ("true", true), ("interval", interval)):
            if given is not None and (not isinstance(given, Mapping) or set(given) != set(measured)):
                raise Refused(f"{name} must name the same cases as measured: {', '.join(map(str, measured))}")
        cases = [
            (str(k), m, stated[k], None if true is None else true[k], None if interval is None else interval[k])
            for k, m in measured.items()
        ]
    for name, value, *others in cases:
        for side, other in zip((heading, "true"), others[:2], strict=True):
            if same(value, other):
                where = f"measured and {side}" + (f" of case {name!r}" if name else "")
                raise Refused(f"{where} are the same object, which agrees with itself: compute the two independently")
    return cases


def _answered(rule: Rule, name, measured, stated, true, interval) -> _Case:
    holds = rule.holds(measured, stated, interval)
    true_holds = None if true is None else rule.holds(measured, true, interval)
    return _Case(name, measured, stated, true, interval, holds, true_holds)


def _all(answers) -> bool | None:
    answers = list(answers)
    return False if False in answers else None if None in answers else True


def _verdict(claim: ledger.Claim, holds: bool | None, true: bool | None, complete: bool) -> str:
    if holds:
        return "confirmed"
    if claim.kind == "empirical":
        return "open" if holds is None else "corrected" if true else "not reproduced"
    if not complete:
        return "open"
    if holds is None or true is None:
        raise Refused(f"{claim.id}: the interval is too wide to decide: sample more, or compute exactly")
    return "corrected" if true else "refuted"


def _row(rule: Rule, case: _Case, heading: str) -> dict[str, str]:
    row = {} if case.name is None else {"case": case.name}
    row["measured"] = said(case.measured, case.stated)
    if case.interval is not None:
        row["interval"] = said(tuple(case.interval))
    row |= {"sign": sign(rule.relation, case.holds), heading: said(case.stated)}
    if case.true is not None:
        row |= {"true sign": sign(rule.relation, case.true_holds), "true": said(case.true)}
    return row


def _decisive(rule: Rule, cases: list[_Case], holds: bool | None) -> tuple[str, str]:
    """The comparison that decides, and how far its measured value is from another verdict."""
    failing = [case for case in cases if case.holds is not True]
    rooms = {id(case): rule.room(case.measured, case.stated, case.interval) for case in cases}

    def amount(case):  # a yes or a no decides where nothing else does
        none = -1.0 if failing else math.inf
        return none if math.isnan(rooms[id(case)][0]) else rooms[id(case)][0]

    # what holds is decided by its tightest case, what fails by its worst
    chosen = max(failing, key=amount) if failing else min(cases, key=amount)
    row, size = _row(rule, chosen, "stated"), numbers("measured", chosen.measured).size
    if size > MANY:  # an array is as good as its entries: how many, and how far apart
        row |= {"measured": f"{size} entries", "stated": row["measured"].rpartition(", ")[2]}
        row["sign"] = "" if rule.relation == "==" else row["sign"]
    if row["stated"] == "0" and rule.relation == "==" and chosen.holds and row["measured"] != "0":
        row |= {"measured": "0 within", "sign": "", "stated": row["measured"]}
    line = " ".join(filter(None, (row["measured"], row.get("interval"), row["sign"], row["stated"])))
    if rule.relation == "~" and rule.margin.absolute is not None:
        line += f" ± {said(rule.margin.absolute)}"
    if failing and chosen.true is not None and chosen.true_holds:
        line += f", {row['true sign']} {row['true']}"
        tight = [rule.room(case.measured, case.true, case.interval) for case in cases if case.true_holds]
        return line, _slack(*min(tight))
    return line, _slack(*rooms[id(chosen)])


def _slack(amount: float, factor: float) -> str:
    if math.isnan(amount):
        return ""
    if amount == 0:
        return "Any difference beyond rounding would change the verdict."
    if math.isinf(amount):
        return "No finite error of the measured value would change the verdict."
    said_factor = f", a factor of {said(factor)}," if math.isfinite(factor) else ""
    return f"A measured value wrong by {said(amount)}{said_factor} would change the verdict."
