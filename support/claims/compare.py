"""Whether a measured value stands to a stated one as a claim says, and how far it is from where that would change.

The relations are ``==``, ``<=``, ``>=``, ``<``, ``>`` and ``~``: about, within a margin. A sampled value comes with its
interval, and then there is a third answer: the interval leaves it open (None).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np

from support.claims.ledger import Margin
from support.errors import Refused, WrongType

_ORDERS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
RELATIONS = ("==", *_ORDERS, "~")
# how a relation is written that holds, and one that does not; an open one is "?"
SIGNS = {"==": "=≠", "<=": "≤≰", ">=": "≥≱", "<": "<≮", ">": ">≯", "~": "≈≉"}


def sign(relation: str, answer: bool | None) -> str:
    """The sign between two values.

    >>> sign("<=", True), sign("<=", False), sign("~", None)
    ('≤', '≰', '?')
    """
    return "?" if answer is None else SIGNS[relation][not answer]


@dataclass(frozen=True)
class Rule:
    """The relation of a claim and its tolerances.

    rtol, atol: of floats without an interval; integers, Fractions and booleans are compared exactly among each other.
    margin: of ``~``.
    """

    relation: str
    rtol: float
    atol: float
    margin: Margin

    def holds(self, measured, stated, interval=None) -> bool | None:
        """Whether ``measured RELATION stated``; None if the interval leaves it open.

        Raises Refused for shapes that differ, for an empty or not finite value, for an interval that is none or does
        not hold what was measured; WrongType for what are no numbers.

        >>> about = Rule("~", 1e-9, 1e-12, Margin(relative=0.1))
        >>> about.holds(1.05, 1.0), about.holds(1.2, 1.0), about.holds(1.05, 1.0, (0.98, 1.12))
        (True, False, None)
        """
        m, s = numbers("measured", measured), numbers("the stated value", stated)
        if m.shape != s.shape and s.shape != ():
            raise Refused(f"measured has shape {m.shape}, the stated value {s.shape}: give both the same shape")
        if m.size == 0:
            raise Refused(f"measured = {measured!r} is empty: a verdict needs numbers")
        exact = is_exact(m) and is_exact(s)
        if not exact and not np.all(np.isfinite(m.astype(float))):
            raise Refused(f"measured = {measured!r} is not finite: a verdict needs numbers")
        if not exact and np.isnan(s.astype(float)).any():
            raise Refused(f"the stated value {stated!r} is not a number: a verdict needs numbers")
        if interval is not None:
            return self._within(m, s, *_ends(interval, m))
        if self.relation == "~":
            return bool(np.all(np.abs(_floats(m) - _floats(s)) <= self._reach(s) * (1 + 1e-9)))
        if exact:
            return bool(np.all(m == s if self.relation == "==" else _ORDERS[self.relation](m, s)))
        return bool(np.all(self._nearly(m, s)))

    def room(self, measured, stated, interval=None) -> tuple[float, float]:
        """By how much the measured value, its interval moving along, would have to be wrong before the answer changed:
        as an amount, and as a factor (infinite where the sign would change too). An array's answer changes with its
        first entry. (0, 1) where any difference would do; nan for yes and no.

        >>> Rule("<=", 1e-9, 1e-12, Margin(relative=0.1)).room(3.0, 4.5)
        (1.5, 1.5)
        """
        m, s = _floats(numbers("measured", measured)), _floats(numbers("the stated value", stated))
        if numbers("measured", measured).dtype.kind == "b":
            return float("nan"), float("nan")
        low, high = (m, m) if interval is None else map(_floats, _ends(interval, m))
        reach = self._reach(s) if self.relation == "~" else np.zeros_like(s)
        holds = self.holds(measured, stated, interval)
        # how far each end of the interval is from each end of what is allowed
        gaps = np.stack(np.broadcast_arrays(s - reach - low, s + reach - low, s - reach - high, s + reach - high))
        if self.relation == "==" and interval is None:
            gaps = np.zeros_like(gaps) if holds else gaps
        elif self.relation in ("==", "~"):  # equality holds where the interval reaches s, "about" where it stays inside
            inside = gaps[[0, 3]] if self.relation == "~" else gaps[[0, 2]]
            gaps = inside if holds else gaps
        first = np.abs(gaps).min(0)
        moved = np.take_along_axis(gaps, np.abs(gaps).argmin(0)[None], 0)[0] + m
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(moved * m > 0, np.maximum(moved / m, m / moved), np.inf)
        ratio = np.where(first == 0, 1.0, ratio)
        # a failing relation between arrays holds again only when its worst entry does
        at = np.unravel_index((first.argmin if holds is not False else first.argmax)(), first.shape)
        return float(first[at]), float(np.broadcast_to(ratio, first.shape)[at])

    def _reach(self, stated: np.ndarray) -> np.ndarray:
        return np.vectorize(self.margin.of, otypes=[float])(_floats(stated))

    def _within(self, measured, stated, low, high) -> bool | None:
        """An equality holds where the interval holds the stated value; an inequality where both ends obey it, and it
        stays open where one does; "about" where the interval lies within the margin, and it fails where it lies wholly
        outside.
        """
        if self.relation == "==":
            return bool(np.all((low <= stated) & (stated <= high)))
        if self.relation == "~":
            s, reach = _floats(stated), self._reach(stated)
            if np.all((s - reach <= _floats(low)) & (_floats(high) <= s + reach)):
                return True
            return False if np.any((_floats(high) < s - reach) | (_floats(low) > s + reach)) else None
        worst, best = (high, low) if self.relation[0] == "<" else (low, high)
        compare = _ORDERS[self.relation]
        return True if np.all(compare(worst, stated)) else None if np.all(compare(best, stated)) else False

    def _nearly(self, measured, stated):
        """Floats: an equality within the tolerance, an inequality read generously by it, a strict one strictly."""
        stated = _floats(stated)
        slack = self.atol + self.rtol * np.where(np.isinf(stated), 0, np.abs(stated))  # a bound may be infinite
        gap = _floats(measured) - stated
        match self.relation:
            case "==":
                return np.abs(gap) <= slack
            case "<=" | ">":
                return _ORDERS[self.relation](gap, slack)
        return _ORDERS[self.relation](gap, -slack)


def same(measured: Any, stated: Any) -> bool:
    """Whether two sides are one object, or share their memory, so that comparing them says nothing. Small integers and
    booleans are one object wherever they come from, and do not count.

    >>> x = np.eye(2)
    >>> same(x, x[:1]), same(x, x.copy()), same(3, 3)
    (True, False, False)
    """
    if isinstance(measured, (int, np.bool_)) or measured is None:
        return False
    if measured is stated:
        return True
    sides = [side.numpy(force=True) if hasattr(side, "numpy") else side for side in (measured, stated)]
    return all(isinstance(side, np.ndarray) for side in sides) and np.shares_memory(*sides)


def numbers(name: str, value) -> np.ndarray:
    """An array of floats, integers, Fractions or booleans as it is. Raises WrongType.

    >>> numbers("x", [1, 2]).dtype.kind
    'i'
    """
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        found = np.asarray(None)
    if found.dtype.kind not in "biufO" or not (
        found.dtype.kind != "O" or all(isinstance(x, (Real, np.bool_)) for x in found.flat)
    ):
        raise WrongType(f"{name} is of type {type(value).__name__}: give numbers, an array of them, or a dict of cases")
    return found


def is_exact(array: np.ndarray) -> bool:
    """Whether an array holds integers, Fractions or booleans alone.

    >>> is_exact(np.array([1, 2])), is_exact(np.array([0.5]))
    (True, False)
    """
    return array.dtype.kind in "biu" or (
        array.dtype == object and all(isinstance(x, (int, np.bool_, np.integer, Fraction)) for x in array.flat)
    )


def _floats(value) -> np.ndarray:
    return np.asarray(value).astype(float)


def _ends(interval, measured):
    """The ends of an interval that holds what was measured."""
    if not isinstance(interval, (tuple, list)) or len(interval) != 2:
        raise WrongType(f"interval = {interval!r} is no pair: give (low, high), such as the `ends` of an Interval")
    low, high = (numbers("interval", end) for end in interval)
    if not np.all(low <= high):
        raise Refused(f"interval = {interval!r} is none: give (low, high) with low ≤ high")
    if not np.all((low <= measured) & (measured <= high)):
        raise Refused(
            f"measured = {measured!r} lies outside its interval {interval!r}: give the interval of what was measured"
        )
    return low, high
