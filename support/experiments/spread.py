"""The losses of all steps of a run, and how much they vary."""

from __future__ import annotations

import torch

from support.errors import Refused, function
from support.risk import PerSampleLoss


class Spread:
    """Watches a loss: keeps its mean over the batch whenever it is differentiated, which is once a step where a batch
    passes at once. Called by the trainer as a measure, it gives ``mean`` and ``variance`` of these, the ``largest``,
    and the ``late_variance``, that of the second half.

    It has the state that a checkpoint needs. Raises WrongType for what is no function, Refused where there are fewer
    than four losses.

    >>> spread = Spread(lambda outputs, targets: outputs)
    >>> for value in (4.0, 0.0, 1.0, 3.0):
    ...     _ = spread.loss(torch.full((2,), value, requires_grad=True), None)
    >>> spread(None, 4)
    {'mean': 2.0, 'variance': 2.5, 'late_variance': 1.0, 'largest': 4.0}
    """

    def __init__(self, watched: PerSampleLoss):
        self.watched, self.losses = function("watched", watched), []

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss that is watched."""
        losses = self.watched(outputs, targets)
        if losses.requires_grad:
            self.losses.append(losses.detach().mean(dtype=torch.float64))
        return losses

    def __call__(self, model: torch.nn.Module, step: int) -> dict[str, float]:
        if len(self.losses) < 4:
            raise Refused(f"{len(self.losses)} steps have no spread worth the name: measure after 4 or more")
        every = torch.stack(self.losses)
        late = every[len(every) // 2 :]
        numbers = {"mean": every.mean(), "variance": every.var(correction=0), "late_variance": late.var(correction=0)}
        return {key: float(value) for key, value in (numbers | {"largest": every.max()}).items()}

    def state_dict(self) -> dict:
        """The losses so far."""
        return {"losses": torch.stack(self.losses) if self.losses else torch.zeros(0, dtype=torch.float64)}

    def load_state_dict(self, state: dict) -> None:
        """Go on from there."""
        self.losses = list(state["losses"])
