"""Gradient descent with a local complexity as regulariser, and local complexities measured along any training."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from support.complexity import local_complexity
from support.errors import instance, integer, real
from support.experiments.seeding import stream
from support.regulariser import ComplexityPenalty
from support.risk import EmpiricalRisk, PerSampleLoss

_METHOD = re.compile(r"GD-complexity-(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Complexity:
    """The knobs of regularised descent and of the measurements on the way of every method.

    ascent: steps of ascent in the penalty, for either sign.  measure_at: numbers of steps after which to measure.
    radii: δ of what is measured.  draws, steps: of signs, and of ascent for each of them.  chunk: samples evaluated at
    once.
    Raises WrongType or Refused for knobs out of their range.

    >>> Complexity(measure_at=(0, 100)).radii
    (0.01, 0.1)
    """

    ascent: int = 1
    measure_at: tuple[int, ...] = ()
    radii: tuple[float, ...] = (0.01, 0.1)
    draws: int = 10
    steps: int = 10
    chunk: int = 200

    def __post_init__(self):
        for name, least in (("ascent", 0), ("draws", 2), ("steps", 1), ("chunk", 1)):
            integer(name, getattr(self, name), least)
        for radius in instance("radii", self.radii, tuple, "give a tuple of radii, such as (0.01, 0.1)"):
            real("a radius", radius, above=0)
        for step in instance("measure_at", self.measure_at, tuple, "give a tuple of steps, such as (0, 100)"):
            integer("a step in measure_at", step, 0)


def radius(method: str) -> float | None:
    """δ of a method such as "GD-complexity-0.1"; None for any other method.

    >>> radius("GD-complexity-0.1"), radius("GD")
    (0.1, None)
    """
    found = _METHOD.fullmatch(method)
    return float(found[1]) if found else None


def penalty(
    method: str,
    knobs: Complexity,
    train: tuple[torch.Tensor, torch.Tensor],
    b: int,
    loss: PerSampleLoss,
) -> ComplexityPenalty | None:
    """The regulariser of a method; None for one without. Its weight λ = √(n/b) is that of GD-Rademacher."""
    if (delta := radius(method)) is None:
        return None
    weight = (len(train[0]) / b) ** 0.5
    return ComplexityPenalty(loss, _laid_out(train), delta, weight=weight, steps=knobs.ascent, chunk=knobs.chunk)


def _laid_out(train):
    """Images with their channels last, as the trainer's model is laid out: half the time of a pass on a CPU."""
    return train[0].to(memory_format=torch.channels_last), train[1]


@dataclass(frozen=True)
class Look:
    """The local Rademacher complexity of a model on its training set, from below. Called by the trainer; draws its
    signs from a stream of its own, the same ones at each step and for each method, so that these can be compared.

    Gives for each radius δ the largest size of the weighted loss that was found, for each draw (``largest_δ``); the
    weighted losses X at the centre and the lengths of their gradients (``centre``, ``slope``: to first order the
    complexity is E|X| + δE|∇X|); and the root mean square of the losses (``rms_loss``), for E|X| ≈ √(2/π)·rms/√n.
    """

    knobs: Complexity
    train: tuple[torch.Tensor, torch.Tensor]
    loss: PerSampleLoss
    seed: int

    def __call__(self, model: torch.nn.Module, step: int) -> dict:
        knobs = self.knobs
        risk = EmpiricalRisk(model, self.loss, _laid_out(self.train), chunk=knobs.chunk)
        numbers = {"rms_loss": float(risk.losses().square().mean().sqrt())}
        for delta in knobs.radii:
            generator = torch.Generator().manual_seed(stream(self.seed, "complexity"))
            found = local_complexity(
                risk, "signs", delta, draws=knobs.draws, generator=generator, steps=knobs.steps, restarts=1
            )
            own = {f"largest_{delta:g}": found.draws, "centre": found.centre, "slope": found.slope}
            numbers |= {name: values.tolist() for name, values in own.items()}
        return numbers
