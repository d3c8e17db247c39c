"""Presets: every run of the book's experiments by name, scale, method and seed; one file a paper.

A preset is named after what it reproduces. Its `Setting` holds every knob; a scale is a setting, and `Preset.changes`
says in which knobs a scale departs from the preset's ``paper`` scale.

>>> preset("wu.fig1a").setting("paper").steps
10000
"""

from __future__ import annotations

from support.errors import instance
from support.experiments.presets import talk, wu, zhu, ziyin
from support.experiments.presets.setting import Preset, PresetError, Setting

PRESETS = {one.name: one for paper in (wu, zhu, talk, ziyin) for one in paper.PRESETS}

__all__ = ["PRESETS", "Preset", "PresetError", "Setting", "preset"]


def preset(name: str) -> Preset:
    """The preset of that name. Raises PresetError for an unknown one.

    >>> preset("zhu.fig3").methods[:2]
    ('GD', 'SGD')
    """
    if instance("preset", name, str, "give a name such as 'zhu.fig3'") not in PRESETS:
        raise PresetError(f"there is no preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
