"""What is run: one frozen identity, from which name, knobs, law and the place of the record follow.

>>> spec = RunSpec("wu.fig1a", "smoke", "msgd-cov", 1)
>>> spec.name, spec.config["law"]
('wu.fig1a/smoke/msgd-cov-seed1', 'GaussianCovariance')
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from support import additive
from support.errors import instance, integer
from support.experiments import records, regularised, variants
from support.experiments.escape import Escape
from support.experiments.presets import Preset, Setting, preset
from support.experiments.training import differences
from support.sampling import Law, MiniBatch, by_name

START = "start"  # the method of GD's own run to the point where an escape begins


@dataclass(frozen=True)
class RunSpec:
    """What is run: preset, scale, method, seed. Method: as the preset spells it, in any case, or "start".

    Raises PresetError for what does not exist, WrongType for a seed that is no whole number.
    """

    preset: str
    scale: str
    method: str
    seed: int

    def __post_init__(self):
        setting = self.chosen.setting(self.scale)
        instance("method", self.method, str, "give a name such as 'SGD'")
        if not (self.method == START and setting.escape):
            object.__setattr__(self, "method", self.chosen.method(self.method))
        object.__setattr__(self, "seed", integer("seed", self.seed, 0))

    @property
    def chosen(self) -> Preset:
        """The preset itself."""
        return preset(self.preset)

    @property
    def setting(self) -> Setting:
        """The knobs of the scale, and those that the method's name gives."""
        return variants.setting(self.chosen.setting(self.scale), self.method)

    @property
    def name(self) -> str:
        """Where the record stands in the folder of records, without its suffix."""
        return records.run_name(self.preset, self.scale, self.method, self.seed)

    @property
    def title(self) -> str:
        """What a progress bar and a report call the run."""
        return f"{self.preset} {self.scale} {self.method} seed {self.seed}"

    @property
    def start(self) -> RunSpec | None:
        """The run that must come before this one: that of GD to where an escape begins."""
        return replace(self, method=START) if self.setting.escape and self.method != START else None

    @property
    def law(self) -> Law:
        """The law of its sampling vector."""
        return law(self.setting, self.method)

    @property
    def config(self) -> dict:
        """What fixes the run's numbers, as it stands in the record."""
        knobs = self.setting.knobs
        if self.method == START:
            knobs |= {"lr": self.setting.escape.start_lr, "steps": self.setting.escape.start_limit}
        own = {"preset": self.preset, "scale": self.scale, "method": self.method, "seed": self.seed}
        own |= {"law": type(self.law).__name__, "B": getattr(self.law, "B", None)}
        return own | {"additive": self.method if self.method in additive.NAMES else None} | knobs

    def path(self, folder: Path) -> Path:
        """The record's file in a folder of records."""
        return folder / f"{self.name}.json"

    def is_done(self, folder: Path) -> bool:
        """Whether its record stands in a folder; a knob that is younger than the record has its default there.

        Raises RecordError if the record is damaged, or of another configuration.
        """
        path, here = self.path(folder), self.config
        if not path.exists():
            return False
        there = Setting().knobs | records.read(path)["config"]
        there.setdefault("additive", here["additive"])
        if there["escape"]:
            there["escape"] = Setting(escape=Escape()).knobs["escape"] | there["escape"]
        if changed := differences(there, here):
            raise records.RecordError(
                f"record {path} is of another configuration ({changed}): move it away to run this one"
            )
        return True


def law(setting: Setting, method: str) -> Law:
    """The law of the sampling vector under a method's name, at a setting's n, b and way of drawing batches; GD's where
    the noise is additive, or a regulariser takes its place. "SGD-500" is mini-batch SGD with batches of 500.
    """
    method = variants.base(method)
    if larger := re.fullmatch(r"SGD-(\d+)", method):
        return MiniBatch(setting.n, int(larger[1]), replace=setting.replace)
    quiet = method in (*additive.NAMES, START) or regularised.radius(method) is not None
    return by_name("GD" if quiet else method, setting.n, setting.b, replace=setting.replace)
