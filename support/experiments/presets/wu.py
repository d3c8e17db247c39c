"""Presets of Wu et al. (2020): which noise classes generalise as SGD does, and large batches with the noise of small
ones.
"""

from __future__ import annotations

from dataclasses import replace

from support.experiments.presets import deep
from support.experiments.presets.setting import Preset, Setting

_CODE = Setting()
_BOOK = Setting(dataset="digits", pixels="unit", model="DigitsNet", init_std=0.1, lr=0.1, steps=4000, watched=797)
_METHODS = ("GD", "SGD", "MSGD-Cov", "MSGD-Fisher", "MSGD-Bernoulli", "MSGD-[Fisher-10]", "MSGD-[Cov-10]")
_DRAWN = (
    *("GD", "SGD", "SGD-500", "MSGD-Cov", "MSGD-Fisher", "MSGD-Bernoulli", "[MSGD-Fisher]-500", "[MSGD-Cov]-500"),
    *("MSGD-[Fisher-10]", "MSGD-[Cov-10]", "MSGD-[Fisher-100]", "MSGD-[Cov-100]", "GLD-diag", "M-SGD-Rademacher"),
)
_DEEP = (
    *("GD", "SGD", "MSGD-Cov", "MSGD-Fisher", "MSGD-Bernoulli", "MSGD-[Fisher-100]", "MSGD-[Cov-100]", "GLD-diag"),
)
_LARGE = tuple(name for B in (500, 1000) for name in (f"SGD-{B}", f"[MSGD-Fisher]-{B}", f"[MSGD-Cov]-{B}"))
_STAND_IN = "SVHN is not among the images at hand: the scales book and gpu have CIFAR-10 as a stand-in."
_SVHN = replace(deep.VGG, dataset="svhn", n=25_000, draw_from="test")
_SOON = {"milestones": (900, 1200)}
_FEW = {"n": 1000, "steps": 1500} | _SOON


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
    Preset(
        "wu.fig1b",
        "Wu et al. (2020), Figures 1(b) and 3(b): VGG-11 without batch normalisation on 25,000 images of SVHN",
        _DEEP,
        deep.scales(_SVHN, deep.SMALL_VGG | {"lr": 0.2}, deep.SHORT_VGG),
        note=_STAND_IN,
    ),
    Preset(
        "wu.fig1c",
        "Wu et al. (2020), Figure 1(c): ResNet-18 on CIFAR-10 with neither augmentation nor weight decay",
        _DEEP[:-1],
        deep.scales(deep.RESNET, deep.SMALL_RESNET | _FEW, deep.SHORT_RESNET | {"n": 2000, "steps": 1500} | _SOON),
        note="Under batch normalisation a weighted loss is no longer a sum over samples alone: statistics are those of "
        "ghost batches, in which samples of weight zero count too.",
    ),
    Preset(
        "wu.fig2a",
        "Wu et al. (2020), Figure 2(a): large batches with the noise of small ones, VGG-11 on 25,000 images of SVHN",
        ("SGD", *_LARGE),
        deep.scales(_SVHN, deep.SMALL_VGG | {"lr": 0.2, "n": 5000}, deep.SHORT_VGG | {"n": 10_000}),
        note=_STAND_IN,
    ),
    Preset(
        "wu.fig2b",
        "Wu et al. (2020), Figure 2(b): large batches with the noise of small ones, ResNet-18 on CIFAR-10",
        ("SGD", *_LARGE),
        deep.scales(deep.RESNET, deep.SMALL_RESNET | {"n": 5000}, deep.SHORT_RESNET),
        note="The compensating noise has the strength that matches SGD exactly; the paper tunes it.",
    ),
    Preset(
        "wu.fig2c",
        "Wu et al. (2020), Figure 2(c): the same with augmentation and weight decay",
        ("SGD", *_LARGE),
        deep.scales(
            replace(deep.RESNET, augment=True, weight_decay=5e-4), deep.SMALL_RESNET | {"n": 5000}, deep.SHORT_RESNET
        ),
        note="The compensating noise has the strength that matches SGD exactly; the paper tunes it.",
    ),
    Preset(
        "wu.fig4",
        "Wu et al. (2020), Figure 4: all of these methods, VGG-11 without batch normalisation on CIFAR-10",
        (*_DEEP, *_LARGE),
        deep.scales(
            replace(deep.VGG, lr=0.01, momentum=0.9, milestones=(40_000, 60_000)),
            deep.SMALL_VGG | {"lr": 0.02} | _SOON,
            deep.SHORT_VGG | _SOON,
        ),
    ),
)
