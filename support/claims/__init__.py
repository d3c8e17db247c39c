"""The ledger of the papers' claims, and the check that computes a verdict on a page."""

from support.claims.check import VerdictMismatch, check
from support.claims.judge import Verdict, judge
from support.claims.ledger import VERDICTS, Claim, load

__all__ = ["VERDICTS", "Claim", "Verdict", "VerdictMismatch", "check", "judge", "load"]
