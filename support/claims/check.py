"""`check`: a claim's verdict, computed from numbers.

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
from typing import Any

import numpy as np

from support import page
from support.claims import ledger
from support.errors import Refused

_RELATIONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
MIME = "application/vnd.support.claim+json"


class VerdictMismatch(AssertionError):
    """With the book's own parameters, the numbers give another verdict than the ledger expects."""


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

    def _repr_mimebundle_(self, include=None, exclude=None):
        from support.claims import box

        return {"text/plain": box.text(self), "text/html": box.html(self), MIME: self.as_json()}


def check(
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
) -> None:
    """Compute the verdict on a claim, show it as a box, and stop the page if it contradicts the ledger.

    measured: what the page computed. A number (int, Fraction, float, bool), an array, or a dict of named cases of
    these.
    printed: what the paper's statement gives for the same quantity, of the same shape.   true: what the corrected
    statement gives, if there is one. interval: (low, high) for a sampled quantity, or a dict of such pairs; its level
    and seed belong into `note`. relation: how a right statement stands to its measurement,
    ``measured RELATION printed``, one of ==, <=, >=, <, >. rtol, atol: tolerance for floats without interval; integers,
    Fractions and booleans are compared exactly among each other. note: one line saying what was computed.

    Raises KeyError for an unknown id, ValueError where the claim's verdict is a written one, where there is nothing to
    compare, a number is none (nan), shapes differ, or an interval is upside down or too wide to decide; VerdictMismatch
    if the verdict contradicts the ledger and the page runs with the book's parameters (with others the box turns
    amber).
    """
    verdict = judge(
        claim_id,
        measured=measured,
        printed=printed,
        true=true,
        interval=interval,
        relation=relation,
        rtol=rtol,
        atol=atol,
        note=note,
    )
    _show(verdict)
    if verdict.default and not verdict.agrees:
        expected = verdict.claim.expected
        raise VerdictMismatch(
            f"{claim_id}: the numbers say {verdict.verdict!r}, the ledger expects {expected!r}; correct the page or "
            f"the entry, and say why"
        )


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
    """The verdict that `check` shows, without showing it."""
    claims = ledger.load()
    if claim_id not in claims:
        raise KeyError(f"no claim {claim_id!r} in the ledger: see support/claims/*.yaml for the ids")
    claim = claims[claim_id]
    page.used("claims", claim_id)
    if claim.expected in ledger.WRITTEN:
        raise Refused(
            f"{claim_id} is {claim.expected!r} in the ledger, a verdict that is written with a reason: remove the "
            f"reason there, or the check here"
        )
    if relation != "==" and relation not in _RELATIONS:
        raise Refused(f"relation = {relation!r} is unknown: choose from ==, {', '.join(_RELATIONS)}")
    cases = _cases(measured, printed, true, interval)

    def all_hold(stated):
        return _all(_holds(case["measured"], case[stated], case["interval"], relation, rtol, atol) for case in cases)

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
    m, s = np.asarray(measured), np.asarray(stated)
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
        low, high = interval
        if not np.all(np.asarray(low) <= np.asarray(high)):
            raise Refused(f"interval = {interval!r} is none: give (low, high) with low ≤ high")
        if not np.all((np.asarray(low) <= m) & (m <= np.asarray(high))):
            raise Refused(
                f"measured = {measured!r} lies outside its interval {interval!r}: give the interval of what was "
                f"measured"
            )
        if relation == "==":
            return bool(np.all((low <= s) & (s <= high)))
        surely = _RELATIONS[relation](high if relation[0] == "<" else low, s)
        possibly = _RELATIONS[relation](low if relation[0] == "<" else high, s)
        return True if np.all(surely) else None if np.all(possibly) else False
    if exact:
        return bool(np.all(m == s if relation == "==" else _RELATIONS[relation](m, s)))
    stated_float = s.astype(float)
    slack = atol + rtol * np.where(np.isinf(stated_float), 0, np.abs(stated_float))  # a bound may be infinite
    difference = m.astype(float) - stated_float
    if relation == "==":
        return bool(np.all(np.abs(difference) <= slack))
    # an inequality between floats is read generously by rounding, a strict one strictly
    edge = {"<=": difference <= slack, ">=": difference >= -slack, "<": difference < -slack, ">": difference > slack}[
        relation
    ]
    return bool(np.all(edge))


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


def _show(verdict: Verdict) -> None:
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ModuleNotFoundError:
        get_ipython = display = None
    if get_ipython and get_ipython() is not None:
        display(verdict)
    else:
        from support.claims import box

        print(box.text(verdict))
