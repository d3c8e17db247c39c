"""Presets of Wu's talk: gradient descent with a Rademacher regulariser beside SGD."""

from __future__ import annotations

from dataclasses import replace

from support.experiments.presets.setting import Preset
from support.experiments.presets.wu import PRESETS as WU
from support.experiments.regularised import Complexity

_METHODS = ("GD", "SGD", "MSGD-Cov", "M-SGD-Rademacher", "GD-complexity-0.01", "GD-complexity-0.1")
_LOOKS = {
    "smoke": Complexity(measure_at=(0, 40), draws=2, steps=2, chunk=200),
    "book": Complexity(measure_at=(0, 200, 1000, 4000)),
    "paper": Complexity(measure_at=(0, 100, 300, 1000, 2000)),
}


def _scales() -> dict:
    drawn = next(preset for preset in WU if preset.name == "wu.fig1a.drawn")
    return {scale: replace(setting, complexity=_LOOKS[scale]) for scale, setting in drawn.scales.items()}


PRESETS = (
    Preset(
        "talk.fig1",
        "Wu's talk, Figure 1(a): GD with a Rademacher regulariser beside SGD, with 1,000 images drawn by seed",
        _METHODS,
        _scales(),
        note="M-SGD-Rademacher is the talk's GD-Rademacher, whose regulariser has lost its supremum and its absolute "
        "value; GD-complexity keeps both, in a ball of the radius that its name says. λ = √(n/b) for all three.",
    ),
)
