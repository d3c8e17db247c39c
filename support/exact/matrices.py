r"""Matrices that least squares' closed forms take: symmetric ones, numbers that stand for multiples of the identity,
and the eigenbasis that several have in common.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from support.errors import Refused, array, boolean, instance, integer, real


def symmetric(name: str, value, d: int | None = None) -> np.ndarray:
    """A symmetric matrix (d, d), finite. Raises WrongType, or Refused for another shape or one that is not symmetric.

    >>> symmetric("features", [[2, 1], [1, 2]]).tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """
    value = array(name, value, ("d", "d") if d is None else (integer("d", d, 1),) * 2)
    if value.shape[0] != value.shape[1] or not np.allclose(value, value.T, rtol=1e-9, atol=1e-12):
        raise Refused(f"{name} of shape {value.shape} is not a symmetric matrix: give a symmetric one")
    return value


def positive(name: str, value, d: int | None = None, *, strictly: bool = False) -> np.ndarray:
    """A symmetric matrix without negative eigenvalues, a second moment; strictly: without eigenvalues 0, too. Raises as
    `symmetric`, and Refused for an eigenvalue that it must not have.

    >>> positive("features", [[1, 1], [1, 1]]).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    value, strictly = symmetric(name, value, d), boolean("strictly", strictly)
    values = np.linalg.eigvalsh(value)
    least, rounding = values[0], 1e-13 * len(value) * np.abs(values).max()
    if least < -rounding:
        raise Refused(f"{name} has the negative eigenvalue {least:.3g}: give a second moment, which has none")
    if strictly and not least > rounding:
        raise Refused(
            f"{name} has the eigenvalue 0, a direction without data, in which this closed form does not hold: leave "
            f"the direction out, or solve with support.exact.stationary"
        )
    return value


def multiple(name: str, value, d: int, *, above: float | None = None) -> np.ndarray:
    """A number, larger than ``above``, times the identity, or a matrix (d, d) as it is. Raises WrongType, Refused.

    >>> multiple("lr", 0.5, 2, above=0).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    d = integer("d", d, 1)
    if np.ndim(value) == 0:
        return real(name, value, above=above) * np.eye(d)
    return array(name, value, (d, d))


def a_momentum(value) -> float:
    """A momentum 0 ≤ μ < 1. Raises WrongType, Refused.

    >>> a_momentum(0.9)
    0.9
    """
    value = real("momentum", value, 0)
    if not value < 1:
        raise Refused(f"momentum = {value} never forgets a gradient: choose 0 ≤ momentum < 1")
    return value


def shared_axes(matrices) -> np.ndarray | None:
    """Orthonormal axes (d, d) in which all these matrices (d, d) are diagonal, None where there are none.

    They are those of one mixture of the matrices, in which two eigenvalues meet only by an accident.

    >>> swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> abs(shared_axes([np.eye(2), swap])).round(6).tolist(), shared_axes([np.diag([1.0, 2.0]), swap])
    ([[0.707107, 0.707107], [0.707107, 0.707107]], None)
    """
    instance("matrices", matrices, (list, tuple), "give a list of matrices")
    scaled = [m / (np.abs(m).max() or 1.0) for m in (array("matrices", m, ("d", "d")) for m in matrices)]
    mixed = sum(m / np.sqrt(1.7 + i) for i, m in enumerate(scaled))
    if not np.allclose(mixed, mixed.T, rtol=0, atol=1e-13):
        return None
    axes = np.linalg.eigh(mixed)[1]
    for turned in (axes.T @ m @ axes for m in scaled):
        if np.abs(turned - np.diag(np.diag(turned))).max() > 1e-12 * len(turned):
            return None
    return axes


def commuting(**matrices) -> np.ndarray:
    """`shared_axes` of matrices by name. Raises Refused where they have none.

    >>> commuting(features=np.diag([1.0, 2.0]), lr=np.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if (axes := shared_axes(list(matrices.values()))) is None:
        names = " and ".join(matrices)
        raise Refused(f"{names} do not commute, which this closed form needs: solve with support.exact.stationary")
    return axes


def ridge(features, decay, target) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A, Γ (of a number or a symmetric matrix), u (d,) and K = A + Γ. Raises WrongType, Refused for shapes that do not
    fit or a singular K.

    >>> [part.tolist() for part in ridge([[2.0]], 1, [3])]
    [[[2.0]], [[1.0]], [3.0], [[3.0]]]
    """
    a = symmetric("features", features)
    gamma = symmetric("decay", multiple("decay", decay, len(a)), len(a))
    if not np.linalg.cond(a + gamma, 1) < 1e14:
        raise Refused("K = A + Γ is singular: the mean does not settle; choose another decay")
    return a, gamma, array("target", target, a.shape[:1]), a + gamma


def first_edge(drag, noise, room: float) -> float:
    """The rate f > 0 at which a ``g_i = room − f drag_i`` has a zero or ``f Σ noise_i/g_i = 1``, whichever comes first:
    where the second moment ends in the closed forms. drag, noise ≥ 0, (d,), one of them > 0; room > 0. Raises
    WrongType, Refused.

    >>> first_edge([1.5], [0.5], 2.0), first_edge([1.0], [0.0], 2.0)  # f/2 = 2 − 3f/2
    (1.0, 2.0)
    """
    drag = array("drag", drag, ("d",))
    noise, room = array("noise", noise, drag.shape), real("room", room, above=0)
    if min(*drag, *noise) < 0 or not (highest := max(drag.max(), noise.sum())) > 0:
        raise Refused("drag and noise must be ≥ 0, one of them > 0: there is no edge without")
    top = room / highest

    def slack(f):
        return 1 / (1 + np.sum(f * noise / np.maximum(room - f * drag, 1e-300))) - 0.5

    return float(brentq(slack, 0.0, top, xtol=1e-15 * top, rtol=1e-15) if slack(top) < 0 else top)
