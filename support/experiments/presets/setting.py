"""What a preset is: its knobs by scale, and which of them a scale changes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches

from support.errors import Refused, instance
from support.experiments.escape import Escape
from support.experiments.regularised import Complexity


class PresetError(Refused):
    """A preset, scale, method, seed or device that does not exist; the message names what does."""


@dataclass(frozen=True)
class Setting:
    """Every knob of a run but its method and seed. Defaults: Wu et al. (2020, C.1) as their code has it.

    protocol: which images are trained on (`support.experiments.data.split`, as are draw_from, pixels and corrupted).
    replace: how SGD draws its batches, and so which covariance is meant.  init_std: every parameter starts from N(0,
    init_std²), cut at two standard deviations if ``truncated``.  watched: test images judged every ``evaluate_every``
    steps.  chunk: samples of one forward and backward pass on a CPU; it changes speed, memory, and the result by
    rounding alone.  escape: for methods that leave from a point which GD has found; None starts from the
    initialisation.  additive_every: steps between two looks of an additive noise at its covariance outside an escape.
    complexity: what is regularised and measured of local complexities; None for neither.  width: hidden units of a
    model that leaves them open.  loss: a name of `support.experiments.judging.LOSSES`.  init: "normal", or "fan_in" for
    torch's own, uniform within one over the root of a layer's inputs, or "he" for that of Wu et al.'s deep networks
    (`support.experiments.models.he_init`); init_std then has no meaning.  spread: whether mean and variance of the
    losses of all steps are measured, at the end.  halved: whether images are averaged down to half their height and
    width.  as_bytes: whether images stay bytes until a network takes them, which is what a device has room for.
    augment: random crops and flips at each step.  ghost: samples whose statistics BatchNorm takes together.
    milestones: steps after which the learning rate falls to a tenth.

    A knob is never renamed, and a new one has the value that runs had before it: records are recognised by their knobs.
    """

    dataset: str = "fashion_mnist"
    protocol: str = "code"
    pixels: str = "raw"
    n: int = 1000
    b: int = 50
    replace: bool = False
    model: str = "LeNet"
    init_std: float = 0.02
    optimizer: str = "SGD"
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    steps: int = 10_000
    evaluate_every: int = 200
    watched: int = 10_000
    chunk: int = 200
    draw_from: str = "test"
    corrupted: tuple[int, int] | None = None
    truncated: bool = False
    escape: Escape | None = None
    additive_every: int = 10
    complexity: Complexity | None = None
    width: int | None = None
    loss: str = "cross_entropy"
    init: str = "normal"
    spread: bool = False
    halved: bool = False
    as_bytes: bool = False
    augment: bool = False
    ghost: int | None = None
    milestones: tuple[int, ...] = ()

    @property
    def knobs(self) -> dict:
        """The knobs as a record has them; JSON knows no tuples."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Preset:
    """What a preset reproduces, with which methods (names of `support.sampling` and `support.additive`), and its
    settings by scale.

    note: what a reader must know.
    """

    name: str
    reproduces: str
    methods: tuple[str, ...]
    scales: dict[str, Setting] = field(repr=False)
    note: str = ""

    def setting(self, scale: str) -> Setting:
        """The setting of a scale. Raises PresetError for a scale that the preset does not have."""
        if instance("scale", scale, str, "give a name such as 'smoke'") not in self.scales:
            raise PresetError(f"preset {self.name} has no scale {scale!r}: choose one of {', '.join(self.scales)}")
        return self.scales[scale]

    def method(self, name: str) -> str:
        """A method as the preset spells it, whatever the case. Raises PresetError for one that it does not have."""
        known = {method.lower(): method for method in self.methods}
        if instance("method", name, str, "give a name such as 'SGD'").strip().lower() not in known:
            near = self.methods if len(self.methods) <= 20 else get_close_matches(name, self.methods, 3, 0.0)
            raise PresetError(f"preset {self.name} has no method {name!r}: choose among {', '.join(near)}")
        return known[name.strip().lower()]

    def changes(self, scale: str) -> dict[str, tuple]:
        """The knobs in which a scale departs from the scale "paper", as {knob: (here, there)}; a knob of the escape is
        called ``escape.knob``.
        """
        here, there = _flat(self.setting(scale)), _flat(self.setting("paper"))
        return {knob: (here[knob], there[knob]) for knob in here if here[knob] != there[knob]}


def _flat(setting: Setting) -> dict:
    knobs = asdict(setting)
    escape = knobs.pop("escape") or {}
    return knobs | {f"escape.{knob}": value for knob, value in escape.items()}
