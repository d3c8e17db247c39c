"""Presets of Ziyin et al. (2022), Figure 1: the width of a network, and a weight decay of either sign."""

from __future__ import annotations

from dataclasses import replace

from support.errors import boolean, choice, real
from support.experiments.judging import LOSSES
from support.experiments.presets.setting import Preset, Setting
from support.experiments.variants import name

WIDTHS = (25, 50, 100, 200, 400, 800, 1600)
DECAYS = (-0.003, -0.001, -0.0003, -0.0001, -0.00003, 0.0, 0.00003, 0.0001, 0.0003, 0.001, 0.003)
RATE, ADAM_RATE = 0.5, 0.01

_EPOCH = Setting(
    dataset="mnist",
    draw_from="train",
    pixels="unit",
    n=60_000,
    b=32,
    model="TanhNet",
    init="fan_in",
    lr=RATE,
    steps=1875,
    evaluate_every=1875,
    watched=1000,
    width=WIDTHS[0],
    spread=True,
)
_LOGISTIC = replace(
    _EPOCH, model="Softmax", lr=1.5, steps=3750, evaluate_every=1875, watched=10_000, width=None, spread=False
)
_SLOW = replace(_LOGISTIC, lr=0.15, steps=37_500, evaluate_every=3750)


def curve(base: str, rate: float, loss: str, scaled: bool) -> list[str]:
    """The methods of one curve over the widths: at a fixed rate, or at one that falls as the narrowest width over the
    width (scaled). Raises WrongType, Refused for another loss or a rate ≤ 0.

    >>> curve("SGD", 0.5, "squares", True)[3]
    'SGD-loss=squares-width=200-lr=0.0625'
    """
    rate, loss, scaled = real("rate", rate, above=0), choice("loss", loss, LOSSES), boolean("scaled", scaled)
    rates = {width: rate * WIDTHS[0] / width if scaled else rate for width in WIDTHS}
    return [name(base, loss=loss, width=width, lr=lr) for width, lr in rates.items()]


def _curves(base: str, rate: float, *losses: str) -> list[str]:
    return [method for loss in losses for scaled in (False, True) for method in curve(base, rate, loss, scaled)]


def _scales(paper: Setting, steps: int) -> dict[str, Setting]:
    """The scales of a preset; ``steps`` on the digits, of which 31 are an epoch."""
    book = {"dataset": "digits", "draw_from": "test", "n": 1000, "watched": 797}
    own = replace(paper, **book, steps=steps, evaluate_every=steps)
    return {"smoke": replace(own, n=200, steps=8, evaluate_every=8, watched=200), "book": own, "paper": paper}


# Adam does not see the size of a loss: summed and averaged squares are one there
_METHODS = (
    *_curves("SGD", RATE, *LOSSES),
    *_curves("Adam", ADAM_RATE, "cross_entropy", "mean_squares"),
    *_curves("Adam", RATE, "mean_squares"),
)
_DECAYS = tuple(name("SGD", decay=decay) for decay in DECAYS)
PRESETS = (
    Preset(
        "ziyin.fig1.width",
        "Ziyin et al. (2022), Figure 1, left and middle: a two-layer tanh network of a growing width on MNIST, SGD and "
        "Adam, and the variance of its training loss over the first epoch",
        tuple(dict.fromkeys(_METHODS)),
        _scales(_EPOCH, 31),
        note="The text names neither the loss nor the initialisation, the batch or Adam's rate: here all of three "
        "losses, torch's own initialisation, b = 32, and two rates. A squared error stops at a million.",
    ),
    Preset(
        "ziyin.fig1.decay",
        "Ziyin et al. (2022), Figure 1, right: logistic regression on MNIST at rate 1.5 and b = 32 under a weight "
        "decay of either sign",
        _DECAYS,
        _scales(_LOGISTIC, 62),
        note="All weight decays of a seed see the same batches. The text does not say how long it trains: here 2 "
        "epochs.",
    ),
    Preset(
        "ziyin.fig1.decay.small",
        "the control that Figure 1, right, of Ziyin et al. (2022) lacks: the same at a tenth of the rate, in ten times "
        "the steps",
        _DECAYS,
        _scales(_SLOW, 620),
    ),
)
