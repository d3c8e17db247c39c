"""A claim's verdict, computed from numbers.

A claim is a relation between a measured quantity and a printed value. The verdict follows from two answers, *does the
printed statement hold?* and *does the corrected one?*: ``confirmed`` if the printed one holds; ``corrected`` if it
fails and the corrected one holds; ``refuted`` if it fails and there is none.
A finding of an experiment (kind "empirical" in the ledger) that fails, or that the interval leaves open, is
``not reproduced``.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np

from support import page
from support.claims import ledger
from support.errors import Refused, WrongType, choice, instance, real

_RELATIONS = {"==": operator.eq, "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Verdict:
    """A computed verdict with its evidence; `agrees` says whether the ledger expects it (True too where the ledger
    expects nothing yet).
    """

    claim: ledger.Claim
    verdict: str
    relation: str
    rows: tuple[dict, ...]
    note: str
    default: bool

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
            "note": self.note,
            "default": self.default,
        }


def judge(
    claim_id: str,
    *,
    measured,
    printed,
    true=None,
    interval=None,
    relation: str = "==",
    rtol: float = 1e-9,
    atol: float = 1e-12,
    note: str = "",
) -> Verdict:
    """The verdict on a claim, without showing it; arguments and errors as `check`.

    >>> judge("wu.sec2.unbiased", measured=Fraction(1, 7), printed=Fraction(1, 7)).verdict
    'confirmed'
    """
    claims = ledger.load()
    if instance("claim_id", claim_id, str, "give the id of a claim, such as 'wu.prop1.with'") not in claims:
        raise Refused(f"no claim {claim_id!r} in the ledger: see support/claims/*.yaml for the ids")
    claim = claims[claim_id]
    relation = choice("relation", relation, _RELATIONS)
    tolerance = real("rtol", rtol, 0), real("atol", atol, 0)
    instance("note", note, str, "give one line of text")
    page.used("claims", claim_id)
    if claim.expected in ledger.WRITTEN:
        raise Refused(
            f"{claim_id} is {claim.expected!r} in the ledger, a verdict that is written with a reason: remove the "
            f"reason there, or the check here"
        )
    cases = _cases(measured, printed, true, interval)

    def all_hold(stated):
        return _all(_holds(case["measured"], case[stated], case["interval"], relation, *tolerance) for case in cases)

    verdict = _verdict(claim, all_hold("printed"), all_hold("true") if true is not None else False)
    rows = tuple(
        {
            key: _show_value(value, case["printed"] if key == "measured" else None)
            for key, value in case.items()
            if value is not None
        }
        for case in cases
    )
    return Verdict(claim, verdict, relation, rows, note, page.current.default)


def _cases(measured, printed, true, interval) -> list[dict[str, Any]]:
    """One dict a named case; without names, one case."""
    if not isinstance(measured, Mapping):
        return [{"case": None, "measured": measured, "printed": printed, "true": true, "interval": interval}]
    if not measured:
        raise Refused("measured names no case: a verdict needs numbers")
    for name, given in (("printed", printed), ("true", true), ("interval", interval)):
        if given is not None and (not isinstance(given, Mapping) or set(given) != set(measured)):
            raise Refused(f"{name} must name the same cases as measured: {', '.join(map(str, measured))}")
    return [
        {
            "case": str(k),
            "measured": m,
            "printed": printed[k],
            "true": true and true[k],
            "interval": interval and interval[k],
        }
        for k, m in measured.items()
    ]


def _exact(array: np.ndarray) -> bool:
    """Whether an array holds integers, Fractions or booleans alone."""
    return array.dtype.kind in "biu" or (
        array.dtype == object and all(isinstance(x, (int, np.bool_, np.integer, Fraction)) for x in array.flat)
    )


def _holds(measured, stated, interval, relation, rtol, atol) -> bool | None:
    """Whether ``measured RELATION stated``; None if the interval leaves it open."""
    m, s = _numbers("measured", measured), _numbers("the stated value", stated)
    if m.shape != s.shape and s.shape != ():
        raise Refused(f"measured has shape {m.shape}, the stated value {s.shape}: give both the same shape")
    if m.size == 0:
        raise Refused(f"measured = {measured!r} is empty: a verdict needs numbers")
    exact = _exact(m) and _exact(s)
    if not exact and not np.all(np.isfinite(m.astype(float))):
        raise Refused(f"measured = {measured!r} is not finite: a verdict needs numbers")
    if not exact and np.isnan(s.astype(float)).any():
        raise Refused(f"the stated value {stated!r} is not a number: a verdict needs numbers")
    if interval is not None:
        return _holds_within(m, s, *_ends(interval, m), relation)
    return bool(np.all(_RELATIONS[relation](m, s) if exact else _holds_nearly(m, s, relation, rtol, atol)))


def _numbers(name: str, value) -> np.ndarray:
    """An array of floats, integers, Fractions or booleans as it is."""
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        found = np.asarray(None)
    if found.dtype.kind not in "biufO" or not (
        found.dtype.kind != "O" or all(isinstance(x, (Real, np.bool_)) for x in found.flat)
    ):
        raise WrongType(f"{name} is of type {type(value).__name__}: give numbers, an array of them, or a dict of cases")
    return found


def _ends(interval, measured):
    """The ends of an interval that holds what was measured."""
    if not isinstance(interval, (tuple, list)) or len(interval) != 2:
        raise WrongType(f"interval = {interval!r} is no pair: give (low, high), such as the `ends` of an Interval")
    low, high = (_numbers("interval", end) for end in interval)
    if not np.all(low <= high):
        raise Refused(f"interval = {interval!r} is none: give (low, high) with low ≤ high")
    if not np.all((low <= measured) & (measured <= high)):
        raise Refused(
            f"measured = {measured!r} lies outside its interval {interval!r}: give the interval of what was measured"
        )
    return low, high


def _holds_within(measured, stated, low, high, relation) -> bool | None:
    """An equality holds where the interval holds the stated value; an inequality where both ends obey it, and it stays
    open where one does.
    """
    if relation == "==":
        return bool(np.all((low <= stated) & (stated <= high)))
    worst, best = (high, low) if relation[0] == "<" else (low, high)
    compare = _RELATIONS[relation]
    return True if np.all(compare(worst, stated)) else None if np.all(compare(best, stated)) else False


def _holds_nearly(measured, stated, relation, rtol, atol):
    """Floats: an equality within the tolerance, an inequality read generously by it, a strict one strictly."""
    stated = stated.astype(float)
    slack = atol + rtol * np.where(np.isinf(stated), 0, np.abs(stated))  # a bound may be infinite
    gap = measured.astype(float) - stated
    match relation:
        case "==":
            return np.abs(gap) <= slack
        case "<=" | ">":
            return _RELATIONS[relation](gap, slack)
    return _RELATIONS[relation](gap, -slack)


def _all(answers) -> bool | None:
    answers = list(answers)
    return False if False in answers else None if None in answers else True


def _verdict(claim: ledger.Claim, printed: bool | None, true: bool | None) -> str:
    if printed:
        return "confirmed"
    if claim.kind == "empirical":
        return "corrected" if true and printed is False else "not reproduced"
    if printed is None or (true is None):
        raise Refused(f"{claim.id}: the interval is too wide to decide: sample more, or compute exactly")
    return "corrected" if true else "refuted"


def _show_value(value, against=None) -> str:
    """A number as a reader wants it: fractions as they are, floats to four digits, arrays by their shape and their
    distance from the printed one.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer, Fraction)):
        return str(value)
    if isinstance(value, tuple) and len(value) == 2:
        return f"[{_show_value(value[0])}, {_show_value(value[1])}]"
    array = np.asarray(value)
    if array.ndim == 0:
        return f"{float(array):.4g}"
    if array.size <= 4:
        return ", ".join(_show_value(x) for x in array.ravel())
    shape = " × ".join(map(str, array.shape)) + (" array" if array.ndim > 1 else " numbers")
    if against is None:
        largest = max(abs(x) for x in array.ravel())
        return f"{shape}, largest entry {_show_value(largest)}"
    distance = max(abs(x) for x in np.ravel(array - np.asarray(against)))
    return (
        f"{shape}, equal to the printed one"
        if distance == 0
        else f"{shape}, at most {_show_value(distance)} from the printed one"
    )
