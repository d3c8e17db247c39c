"""Scales of the deep networks: what a core, a lent device and the papers' own length have in common."""

from __future__ import annotations

from dataclasses import replace

from support.experiments.presets.setting import Setting

# he: the initialisation of the released code
VGG = Setting(
    dataset="cifar10",
    protocol="paper",
    pixels="unit",
    n=50_000,
    b=100,
    model="VGG11",
    init="he",
    lr=0.05,
    steps=100_000,
    evaluate_every=1000,
    chunk=100,
    draw_from="train",
    as_bytes=True,
)
RESNET = replace(VGG, model="ResNet18", lr=0.1, momentum=0.9, milestones=(40_000, 60_000), ghost=100)

# a core: 16 x 16 pixels, networks of 80,000 parameters, 1,500 steps of 1,000 images or 2,500 of 500 in four minutes
SMALL_VGG = {"model": "VGG5", "n": 1000, "b": 50, "steps": 1500, "evaluate_every": 100}
SMALL_RESNET = {
    "model": "ResNet8",
    "b": 50,
    "ghost": 50,
    "steps": 2500,
    "evaluate_every": 100,
    "milestones": (1500, 2000),
}
# a device: the papers' networks for two minutes; their first decay of the rate comes where the small ones have it
SHORT_VGG = {"n": 2500, "steps": 1500, "evaluate_every": 50}
SHORT_RESNET = {"n": 20_000, "halved": True, "steps": 3000, "evaluate_every": 100, "milestones": (1800, 2400)}


def scales(paper: Setting, book: dict, gpu: dict) -> dict[str, Setting]:
    """The scales of a preset: ``book`` and ``gpu`` are the knobs in which these depart from ``paper``; at the scale
    "smoke" the small network learns the digits.
    """
    small = replace(paper, **{"dataset": "cifar10", "draw_from": "train", "halved": True, "watched": 2000} | book)
    tiny = {
        "n": 1000,
        "steps": 8,
        "evaluate_every": 4,
        "watched": 200,
        "milestones": (4, 6) if paper.milestones else (),
    }
    smoke = replace(small, dataset="digits", halved=False, draw_from="test", **tiny)
    short = replace(paper, **{"dataset": "cifar10", "draw_from": "train", "watched": 10_000, "chunk": 500} | gpu)
    return {"smoke": smoke, "book": small, "gpu": short, "paper": paper}
