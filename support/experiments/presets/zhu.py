"""Presets of Zhu et al. (2019): which noises leave the sharp minimum that gradient descent has found."""

from __future__ import annotations

from dataclasses import replace

from support import additive
from support.experiments.escape import Escape
from support.experiments.presets import deep
from support.experiments.presets.setting import Preset, Setting

_PAPER = Setting(
    protocol="paper",
    pixels="centred",
    n=1200,
    b=20,
    replace=True,
    lr=0.07,
    steps=6000,
    evaluate_every=100,
    draw_from="train",
    corrupted=(1000, 1200),
    truncated=True,
    escape=Escape(),
)
_METHODS = ("GD", "SGD", *additive.NAMES)
_DIAGONAL = ("GD", "SGD", "GLD-const", "GLD-dynamic", "GLD-diag")
_DIGITS = {"n": 600, "corrupted": (500, 600)}


def _scales(small: dict, **knobs) -> dict[str, Setting]:
    """The scales of an escape: ``knobs`` of its paper scale, ``small`` those that its digits have instead."""
    paper = replace(_PAPER, **knobs)
    digits = {"dataset": "digits", "model": "DigitsNet", "init_std": 0.1, "evaluate_every": 50, "watched": 1000}
    brief = replace(
        paper.escape,
        start_lr=0.5,
        start_steps=2000,
        start_limit=6000,
        measure_at=(0, 20, 100, 500, 1500),
        spectrum=60,
    )
    book = replace(paper, **digits | {"lr": 0.35, **small, "steps": 1500, "escape": brief})
    tiny = replace(
        brief,
        start_steps=40,
        start_limit=60,
        k=3,
        every=10,
        measure_at=(0, 15, 30),
        eigenpairs=3,
        probes=4,
        sharpness_draws=10,
        spectrum=5,
    )
    smoke = replace(book, steps=30, evaluate_every=15, watched=200, escape=tiny)
    return {"smoke": smoke, "book": book, "paper": paper}


def _from_minima() -> dict[str, Setting]:
    """The scales of Figure 6. H and its traces are looked at coarsely: only the sharpness is the paper's."""
    seen = Escape(start_lr=0.05, start_steps=4000, start_limit=4000, measure_at=(0, 5000, 20_000), spectrum=5)
    seen = replace(seen, eigenpairs=3, probes=4, sharpness_draws=100)
    small = replace(seen, start_lr=0.2, start_steps=500, start_limit=1500, measure_at=(0, 100, 500, 1500))
    short = replace(seen, start_steps=500, start_limit=1500, measure_at=(0, 500, 1500))
    made = deep.scales(
        replace(deep.VGG, escape=seen),
        deep.SMALL_VGG | {"lr": 0.2, "escape": small},
        deep.SHORT_VGG | {"escape": short},
    )
    tiny = replace(small, start_steps=4, start_limit=8, measure_at=(0, 8), sharpness_draws=10)
    return made | {"smoke": replace(made["smoke"], n=100, escape=tiny)}


PRESETS = (
    Preset(
        "zhu.fig3",
        "Zhu et al. (2019), Figures 3 and 5: noises that leave the minimum GD has found, FashionMNIST with 1,000 right "
        "and 200 random labels",
        _METHODS,
        _scales(_DIGITS),
        note="Beyond the paper: GD goes on after its 3,000 steps until it fits every label, as the paper says it does; "
        "images are drawn by seed; the first eigenvector is taken anew every 10 steps, 20 of them every 50, and the "
        "noise scaled to the trace of C every 10.",
    ),
    Preset(
        "zhu.fig3.released",
        "Zhu et al. (2019), Figure 3, as the released code has it: 6,000 images of which 200 have random labels, its "
        "noises and their schedules",
        _METHODS,
        _scales(
            _DIGITS,
            protocol="code",
            n=6000,
            replace=False,
            escape=Escape(start_limit=3000, every=10, first_every=1),
        ),
        note="C is estimated from one shuffled partition into batches; GLD-leading adds noise at every 10th step only, "
        "and does not scale it.",
    ),
    Preset(
        "zhu.fig1",
        "Zhu et al. (2019), Figure 1, right: GD, SGD and diagonal noises from the initialisation, VGG-11 on CIFAR-10",
        _DIAGONAL,
        deep.scales(deep.VGG, deep.SMALL_VGG | {"lr": 0.2}, deep.SHORT_VGG),
        note="The left half of the figure, on SVHN, asks the same with 25,000 images.",
    ),
    Preset(
        "zhu.fig6",
        "Zhu et al. (2019), Figure 6: the same noises from the minimum that GD has found",
        _DIAGONAL,
        _from_minima(),
    ),
)
