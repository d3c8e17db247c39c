"""Refusals: what this package raises for what it cannot take, and the checks of arguments that many functions share.

A refusal is one line that names the value and the remedy, before any work. Every exception class of the package is a
`Refused`; the command line prints it and ends with status 2. A plain ``ValueError`` or ``TypeError`` is our fault.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from numbers import Integral, Real


class Refused(ValueError):
    """Something that was asked for cannot be done; the message names the value and the remedy."""


class WrongType(Refused, TypeError):
    """A value of another type than a function takes; the message is one line, whatever the value looks like.

    >>> print(WrongType("b = [[1]\\n     [2]] is not an integer"))
    b = [[1] [2]] is not an integer
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class NotFinite(Refused, FloatingPointError):
    """A number that is not finite where a result needs one."""


def integer(name: str, value, low: int | None = None, high: int | None = None, why: str = "") -> int:
    """A whole number as Python's own, whose products cannot overflow; numpy's are taken, booleans and floats are not.

    Raises WrongType, or Refused for a value outside [low, high]; why: what the range means, for the message.

    >>> integer("b", 20, low=1)
    20
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise WrongType(f"{name} = {value!r} is not an integer: give a whole number")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
        raise Refused(f"{name} = {value} is out of range: {why or f'give {bounds}'}")
    return int(value)


def real(name: str, value, low: float | None = None, high: float | None = None, *, above: float | None = None) -> float:
    """A finite number as Python's own float, in [low, high] and larger than ``above``. Raises WrongType or Refused.

    >>> real("lr", 1, above=0)
    1.0
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise WrongType(f"{name} = {value!r} is not a number: give one, such as {above or low or 0.1:g}")
    bounds = (("above", above), ("at least", low), ("at most", high))
    wanted = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
    fits = math.isfinite(value) and (above is None or value > above)
    if not (fits and (low is None or value >= low) and (high is None or value <= high)):
        asked = f"give a finite number {wanted}".rstrip()
        raise Refused(f"{name} = {value} is out of range: {asked}")
    return float(value)


def probability(name: str, value) -> float:
    """A number strictly between 0 and 1, such as a confidence or a level. Raises WrongType or Refused.

    >>> probability("confidence", 0.95)
    0.95
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise WrongType(f"{name} = {value!r} is not a number: give a probability between 0 and 1")
    if not 0 < value < 1:
        raise Refused(f"{name} = {value} is no probability between 0 and 1: give one such as 0.95 or 0.05")
    return float(value)


def boolean(name: str, value) -> bool:
    """True or False; numpy's are taken, 0 and 1 are not. Raises WrongType.

    >>> boolean("replace", False)
    False
    """
    if type(value).__name__ not in ("bool", "bool_"):
        raise WrongType(f"{name} = {value!r} is not a boolean: give True or False")
    return bool(value)


def choice(name: str, value, known: Iterable):
    """One of the known values, or for texts the known one that differs in case alone. Raises Refused naming all.

    >>> choice("protocol", "Paper", ("paper", "code"))
    'paper'
    """
    known = list(known)
    for one in known:
        same = isinstance(value, Hashable) and value == one  # arrays compare entry by entry
        if same or (isinstance(value, str) and isinstance(one, str) and value.strip().lower() == one.lower()):
            return one
    kind = Refused if isinstance(value, (str, Real)) else WrongType
    raise kind(f"{name} = {value!r} is unknown: choose {', '.join(map(str, known))}")


def torch_generator(value, name: str = "generator"):
    """A torch generator; None, seeds and numpy's generators are refused, since each would draw other noise. WrongType.

    >>> import torch
    >>> torch_generator(torch.Generator().manual_seed(1)).initial_seed()
    1
    """
    import torch

    if not isinstance(value, torch.Generator):
        raise WrongType(f"{name} = {value!r} is no torch generator: give torch.Generator().manual_seed(seed)")
    return value


def tensor(name: str, value, shape: tuple | None = None):
    """A torch tensor, of the given shape if one is given (None in it: any length). Raises WrongType, or Refused.

    >>> import torch
    >>> tensor("u", torch.zeros(3, 2), (3, None)).shape
    torch.Size([3, 2])
    """
    import torch

    if not isinstance(value, torch.Tensor):
        raise WrongType(f"{name} is of type {type(value).__name__}: give a torch tensor, such as torch.as_tensor(...)")
    if shape is not None:
        found = tuple(value.shape)
        if len(found) != len(shape) or any(w is not None and w != f for w, f in zip(shape, found, strict=True)):
            raise Refused(f"{name} has shape {found}: it must be {shape_text(shape)}")
    return value


def shape_text(shape: tuple) -> str:
    """A shape for a message, with ``any`` where every length will do.

    >>> shape_text((3, None))
    '(3, any)'
    """
    inside = ", ".join("any" if length is None else str(length) for length in shape)
    return f"({inside}{',' * (len(shape) == 1)})"


def array(name: str, value, shape: tuple | None = None, *, rational: bool = False, infinite: bool = False):
    """Finite numbers as a numpy array of a shape whose letters stand for any length (None: any shape); lists are taken.

    Floats; with ``rational=True`` Fractions and integers stay what they are; with ``infinite=True`` ±inf is taken too.
    Raises WrongType, Refused for another shape, NotFinite for numbers that are none.

    >>> array("targets", [1, 0, 2], ("n",))
    array([1., 0., 2.])
    """
    import numpy as np

    asked = "give a number or an array of numbers"
    if shape is not None:
        asked = f"give an array of numbers of shape {shape_text(shape)}"
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        found = np.asarray(None)
    exact = found.dtype == object and all(isinstance(x, Real) for x in found.flat)
    if not exact and found.dtype.kind not in "biuf":
        raise WrongType(f"{name} = {_short(value)} is of type {type(value).__name__}: {asked}")
    if shape is not None and (
        found.ndim != len(shape) or any(isinstance(w, int) and w != f for w, f in zip(shape, found.shape, strict=True))
    ):
        raise Refused(f"{name} of shape {found.shape} cannot be taken: {asked}")
    floats = found.astype(float, copy=False)
    if bad := int((np.isnan(floats) if infinite else ~np.isfinite(floats)).sum()):
        raise NotFinite(f"{bad} of {floats.size} {name} are not finite: clean the data first")
    return found if rational and found.dtype.kind in "iuO" else floats


def instance(name: str, value, kind: type | tuple[type, ...], remedy: str):
    """The value, if it is of the kind. Raises WrongType, with the remedy.

    >>> instance("text", "SGD", str, "give a name")
    'SGD'
    """
    if not isinstance(value, kind):
        raise WrongType(f"{name} = {_short(value)} is of type {type(value).__name__}: {remedy}")
    return value


def function(name: str, value):
    """Something that can be called. Raises WrongType.

    >>> function("loss", abs)
    <built-in function abs>
    """
    if not callable(value):
        raise WrongType(f"{name} = {_short(value)} cannot be called: give a function")
    return value


def numpy_generator(value, name: str = "generator"):
    """A numpy generator; None and seeds are refused, since each would draw other noise. Raises WrongType.

    >>> import numpy as np
    >>> numpy_generator(np.random.default_rng(1)).integers(2, size=3)
    array([0, 1, 1])
    """
    import numpy as np

    return instance(name, value, np.random.Generator, "give numpy.random.default_rng(seed)")


def _short(value) -> str:
    """A value in one line of a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
