r"""How fast an error falls with the learning rate: the exponent of η, or the coefficients of chosen powers.

Errors are exact, one row of them, or measured in groups of paths, a row a group: then every fitted number comes with a
Student interval over the groups.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from support.errors import Refused, array, instance, probability, real
from support.intervals import Interval, student


def fit_powers(lrs, errors, powers=(2, 3), confidence: float = 0.95) -> Interval:
    """Coefficients c_p of ``E(η) ≈ Σ_p c_p η^p``, by least squares of *relative* errors: an interval of arrays of shape
    (len(powers),).

    lrs: (K,); errors: (K,) exact, or (groups, K), a row a group. Raises WrongType for what are no numbers, Refused for
    fewer learning rates than powers, numbers that are not positive, or shapes that do not fit.

    >>> fit_powers([0.5, 0.25, 0.125], [3 * 0.5**2, 3 * 0.25**2, 3 * 0.125**2], powers=(2,)).value.round(6)
    array([3.])
    """
    powers = [real("power", power) for power in instance("powers", powers, Iterable, "give numbers such as (2, 3)")]
    lrs, errors, confidence = _rows(lrs, errors, max(1, len(powers)), confidence)
    scale = errors.mean(0)
    design = np.stack([lrs**p / scale for p in powers], axis=1)
    return _over_groups(np.linalg.lstsq(design, (errors / scale).T, rcond=None)[0].T, confidence)


def fit_order(lrs, errors, confidence: float = 0.95) -> Interval:
    """Exponent p of ``E(η) ∝ η^p``, slope of the log-log line; arguments and errors as `fit_powers`, with at least two
    learning rates.

    >>> round(float(fit_order([0.5, 0.25, 0.125], [4.0, 1.0, 0.25]).value), 6)
    2.0
    """
    lrs, errors, confidence = _rows(lrs, errors, 2, confidence)
    x = np.log(lrs) - np.log(lrs).mean()
    return _over_groups(np.log(errors) @ x / (x @ x), confidence)


def _rows(lrs, errors, least, confidence):
    lrs, errors = array("lrs", lrs, ("K",)), np.atleast_2d(array("errors", errors))
    if errors.ndim != 2 or errors.shape[1] != len(lrs):
        raise Refused(
            f"errors have shape {errors.shape} for {lrs.size} learning rates: give one row a group, one number a "
            f"learning rate"
        )
    if len(lrs) < least:
        raise Refused(f"{len(lrs)} learning rates do not determine {least} numbers: give at least {least}")
    if not (errors > 0).all() or not (lrs > 0).all():
        raise Refused("learning rates and errors must be above 0: leave out what is zero")
    return lrs, errors, probability("confidence", confidence)


def _over_groups(rows, confidence) -> Interval:
    return student(rows, confidence) if len(rows) > 1 else Interval.exact(rows[0])
