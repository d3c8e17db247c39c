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
) -> None:
    """Compute the verdict on a claim, show it in a line that unfolds, and stop the page if it contradicts the ledger.

    measured: what the page computed. A number (int, Fraction, float, bool), an array, or a dict of named cases of
    these.
    printed: what the authors printed for the same quantity, of the same shape; or else here: our rendering of a
    sentence of theirs that prints no number. The two sides must come from different computations.  true: what the
    corrected statement gives, if there is one.  interval: (low, high) for a sampled quantity, or a dict of such pairs;
    its confidence and seed belong into `note`.  relation: how a right statement stands to its measurement, ``measured
    RELATION stated``, one of ==, <=, >=, <, > and ~. The last means "about": within the margin of the claim's ledger
    entry, or a tenth of the stated value; with an interval, all of it.  plan, outcome: a plan's records
    (`recorded.planned`) and the outcome whose margin "about" takes; until they are complete the verdict is open.
    power: the probability that this design decides for the claim if it is true, for a verdict that stays open.
    rtol, atol: tolerance for floats without interval; integers, Fractions and booleans are compared exactly among each
    other.  unfold: whether the box stands open.  note: one line saying what was computed.

    Raises WrongType for what are no numbers, Refused for an unknown id, where the claim's verdict is a written one,
    where there is nothing to compare, two sides are one object, a number is none (nan), shapes differ, an interval is
    upside down, too wide to decide a theorem, or leaves a finding open without its power; VerdictMismatch if the
    verdict contradicts the ledger and the page runs with the book's parameters (with others the box turns amber).

    >>> check("wu.sec2.unbiased", measured=sum([0.125, 0.125]), here=0.25, note="n = 4")  # doctest: +ELLIPSIS
    [confirmed] wu.sec2.unbiased (...): 0.25 = 0.25
      measured: 0.25 = stated here: 0.25
      n = 4
    """
    verdict = judge(
        claim_id,
        measured=measured,
        printed=printed,
        here=here,
        true=true,
        interval=interval,
        relation=relation,
        plan=plan,
        outcome=outcome,
        power=power,
        rtol=rtol,
        atol=atol,
        unfold=unfold,
        note=note,
    )
    show(verdict)
    if verdict.default and not verdict.agrees:
        expected = verdict.claim.expected
        raise VerdictMismatch(
            f"{claim_id}: the numbers say {verdict.verdict!r}, the ledger expects {expected!r}; correct the page or "
            f"the entry, and say why"
        )
