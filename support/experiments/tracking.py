"""Numbers of a model at chosen steps of its training: any function of it, in the trainer or in a loop of one's own."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch

from support.errors import Refused, WrongType, instance, integer

Measure = Callable[[torch.nn.Module, int], dict]


class Track:
    """Calls ``measure(model, step)``, which gives {name: number, or list of numbers}, at chosen steps and keeps what it
    gives: ``measured`` is {"step": [...], name: [...]}, as it stands in a record.

    at: numbers of steps done (0: before the first).  every: and all multiples of it, 0 too.  The measure must leave the
    model as it is. Tensors and numpy's numbers are kept as Python's.
    Raises WrongType for what is no number, Refused for other names than at the first step.

    >>> model = torch.nn.Linear(2, 1)
    >>> track = Track(lambda model, step: {"length": model.weight.norm() * 0 + step}, at=(1,), every=4)
    >>> for step in range(9):
    ...     track(model, step)
    >>> track.measured
    {'step': [0, 1, 4, 8], 'length': [0.0, 1.0, 4.0, 8.0]}
    """

    def __init__(self, measure: Measure, *, at: Collection[int] = (), every: int | None = None):
        if not callable(measure):
            raise WrongType(f"measure = {measure!r} cannot be called: give a function of the model and the step")
        instance("at", at, Collection, "give numbers of steps, such as (0, 100)")
        self.measure = measure
        self.at = frozenset(integer("a step to measure at", step, 0) for step in at)
        self.every = None if every is None else integer("every", every, 1)
        self.measured: dict[str, list] = {}

    def due(self, step: int) -> bool:
        """Whether a step is one to measure at."""
        return step in self.at or (self.every is not None and step % self.every == 0)

    def __call__(self, model: torch.nn.Module, step: int) -> None:
        """Measure, if this step is due."""
        if not self.due(integer("step", step, 0)):
            return
        found = instance("what the measure gives", self.measure(model, step), dict, "give {name: number}")
        point = {"step": step} | {name: _number(name, value) for name, value in found.items()}
        if self.measured and point.keys() != self.measured.keys():
            raise Refused(
                f"the measure gave {', '.join(point)} at step {step}, and {', '.join(self.measured)} before: give the "
                f"same names at every step"
            )
        for name, value in point.items():
            self.measured.setdefault(name, []).append(value)


def _number(name: str, value):
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_number(name, one) for one in value]
    return instance(f"measured {name!r}", value, (bool, int, float), "give a number, or a list of numbers")
