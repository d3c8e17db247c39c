"""Methods that differ in a knob of their setting: the name says which, as in "SGD-width=200-lr=0.0625"."""

from __future__ import annotations

import re
from dataclasses import is_dataclass, replace

from support.errors import Refused, WrongType, instance

_KNOBS = {"width": int, "lr": float, "decay": float, "loss": str}
_NAMES = {"decay": "weight_decay"}
_OPTIMIZERS = ("Adam",)  # of mini-batches, as SGD is
_KNOB = re.compile(rf"-({'|'.join(_KNOBS)})=(-?[^-=]+)")


def name(base: str, **knobs) -> str:
    """The name of a method with some knobs of its own; numbers in decimals, of which six digits count. Raises WrongType
    for a method that is no text.

    >>> name("SGD", width=200, lr=0.5 * 25 / 200), name("SGD", decay=-1e-5)
    ('SGD-width=200-lr=0.0625', 'SGD-decay=-0.00001')
    """
    return _text(base) + "".join(f"-{knob}={_decimals(value)}" for knob, value in knobs.items())


def _text(method) -> str:
    return instance("method", method, str, 'give a name, such as "SGD"')


def _decimals(value) -> str:
    return f"{float(f'{value:.6g}'):.12f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def base(method: str) -> str:
    """The method whose noise a variant has: itself without its knobs; the noise of Adam is that of SGD. Raises
    WrongType.

    >>> base("Adam-width=200"), base("[MSGD-Cov]-500")
    ('SGD', '[MSGD-Cov]-500')
    """
    plain = _KNOB.sub("", _text(method))
    return "SGD" if plain in _OPTIMIZERS else plain


def setting(general, method: str):
    """The setting of a method: that of its preset, with the knobs that the name gives. Raises WrongType, Refused for a
    value that is none.

    >>> from support.experiments.presets import Setting
    >>> found = setting(Setting(), "Adam-width=200-decay=-0.001")
    >>> found.optimizer, found.width, found.weight_decay
    ('Adam', 200, -0.001)
    """
    if not is_dataclass(general):
        raise WrongType(f"general is of type {type(general).__name__}: give the Setting of a preset's scale")
    _text(method)
    knobs = {"optimizer": plain} if (plain := _KNOB.sub("", method)) in _OPTIMIZERS else {}
    for knob, value in _KNOB.findall(method):
        try:
            knobs[_NAMES.get(knob, knob)] = _KNOBS[knob](value)
        except ValueError:
            raise Refused(f"method {method!r} has {knob} = {value!r}: write a number, as in SGD-width=200") from None
    return replace(general, **knobs) if knobs else general
