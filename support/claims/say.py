"""How a value of a verdict is said: as a reader wants it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

MANY = 4  # numbers of an array that are said one by one; more are said by their shape


def said(value, against=None) -> str:
    """A number as a reader wants it: short fractions as they are, floats to four digits, arrays by their shape and how
    far they are from the stated one.

    >>> said(Fraction(2, 49)), said(0.123456), said(True), said(np.eye(3), np.eye(3))
    ('2/49', '0.1235', 'yes', '3 × 3 array, equal')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer, Fraction)):
        text = str(value)
        return text if len(text) <= 9 else f"{float(value):.4g}"
    if isinstance(value, tuple) and len(value) == 2:
        return f"[{said(value[0])}, {said(value[1])}]"
    array = np.asarray(value)
    if array.ndim == 0:
        return f"{float(array):.4g}"
    if array.size <= MANY:
        return ", ".join(said(x) for x in array.ravel())
    shape = " × ".join(map(str, array.shape)) + (" array" if array.ndim > 1 else " numbers")
    if against is None:
        largest = max(abs(x) for x in array.ravel())
        return f"{shape}, largest entry {said(largest)}"
    distance = max(abs(x) for x in np.ravel(array - np.asarray(against)))
    return f"{shape}, equal" if distance == 0 else f"{shape}, at most {said(distance)} apart"
