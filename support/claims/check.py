"""`check`: a page's verdict is computed and shown, and stops the page where it contradicts the ledger."""

from __future__ import annotations

from support.claims.box import MIME, show
from support.claims.judge import Verdict, judge

__all__ = ["MIME", "Verdict", "VerdictMismatch", "check"]


class VerdictMismatch(AssertionError):
    """With the book's own parameters, the numbers give another verdict than the ledger expects."""


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
    statement gives, if there is one. interval: (low, high) for a sampled quantity, or a dict of such pairs; its
    confidence and seed belong into `note`. relation: how a right statement stands to its measurement,
    ``measured RELATION printed``, one of ==, <=, >=, <, >. rtol, atol: tolerance for floats without interval; integers,
    Fractions and booleans are compared exactly among each other. note: one line saying what was computed.

    Raises WrongType for what are no numbers, Refused for an unknown id, where the claim's verdict is a written one,
    where there is nothing to compare, a number is none (nan), shapes differ, or an interval is upside down or too wide
    to decide; VerdictMismatch if the verdict contradicts the ledger and the page runs with the book's parameters (with
    others the box turns amber).

    >>> check("wu.sec2.unbiased", measured=0.25, printed=0.25, note="n = 4")  # doctest: +ELLIPSIS
    [confirmed] wu.sec2.unbiased (...)
      measured: 0.25; as printed: 0.25
      n = 4
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
    show(verdict)
    if verdict.default and not verdict.agrees:
        expected = verdict.claim.expected
        raise VerdictMismatch(
            f"{claim_id}: the numbers say {verdict.verdict!r}, the ledger expects {expected!r}; correct the page or "
            f"the entry, and say why"
        )
