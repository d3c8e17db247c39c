"""Presets of Wu et al. (2020): which noise classes generalise as SGD does."""

from __future__ import annotations

from dataclasses import replace

from support.experiments.presets.setting import Preset, Setting

_CODE = Setting()
_BOOK = Setting(dataset="digits", pixels="unit", model="DigitsNet", init_std=0.1, lr=0.1, steps=4000, watched=797)
_METHODS = ("GD", "SGD", "MSGD-Cov", "MSGD-Fisher", "MSGD-Bernoulli", "MSGD-[Fisher-10]", "MSGD-[Cov-10]")
_DRAWN = (
    *("GD", "SGD", "SGD-500", "MSGD-Cov", "MSGD-Fisher", "MSGD-Bernoulli", "[MSGD-Fisher]-500", "[MSGD-Cov]-500"),
    *("MSGD-[Fisher-10]", "MSGD-[Cov-10]", "MSGD-[Fisher-100]", "MSGD-[Cov-100]", "GLD-diag", "M-SGD-Rademacher"),
)


def _scales(small: dict | None = None, **knobs) -> dict[str, Setting]:
    """The scales of a preset: ``knobs`` are those of its paper scale, ``small`` those that its digits have instead."""
    book = {**knobs, "pixels": "unit", **(small or {})}
    tiny = {"n": 200, "steps": 40, "evaluate_every": 20, "watched": 200, "chunk": 100}
    return {
        "smoke": replace(_BOOK, **book | tiny),
        "book": replace(_BOOK, **book),
        "paper": replace(_CODE, **knobs),
    }


def _drawn() -> dict[str, Setting]:
    knobs = {"protocol": "paper", "steps": 2000, "evaluate_every": 50}
    scales = _scales({"steps": 4000, "evaluate_every": 200}, **knobs)
    return scales | {"smoke": replace(scales["smoke"], n=600)}  # batches of 500 need as many images


PRESETS = (
    Preset("wu.fig1a", "Wu et al. (2020), Figures 1(a) and 3(a), as their code has it", _METHODS, _scales()),
    Preset(
        "wu.fig1a.pixels01",
        "Wu et al. (2020), Figure 1(a), with pixels in [0, 1], 1,000 images drawn by seed and batches with "
        "replacement, "
        "as the paper states",
        ("GD", "SGD"),
        _scales(protocol="paper", pixels="unit", replace=True),
    ),
    Preset(
        "wu.fig1a.released",
        "Wu et al. (2020), Figure 1(a), at the defaults of the released code: Bernoulli noise of b = 20 beside SGD of "
        "b = 50",
        ("MSGD-Bernoulli",),
        _scales(b=20),
        note="Its noise of standard deviation 0 makes MSGD-Fisher, MSGD-Cov and both sparse methods GD, bit for bit; "
        "GD "
        "and SGD are those of wu.fig1a.",
    ),
    Preset(
        "wu.fig1a.drawn",
        "Wu et al. (2020), Figures 1(a) and 3(a), with 1,000 images drawn by seed as the paper says; pixels, "
        "initialisation, rate and b = 50 as the code has them",
        _DRAWN,
        _drawn(),
        note="2,000 steps: test accuracy does not move after 1,600. With pixels in [0, 1] nothing happens for 5,000.",
    ),
)
