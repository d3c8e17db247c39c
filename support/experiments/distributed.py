r"""The samples of a step, passed by several processes: each takes a slice, and all end with the gradient of the whole.

Every process (rank) of a `torch.distributed` group has the same run: the same model, the same W from the same
generator. `Shared` stands in for `support.msgd.backward_in_chunks`: it cuts the samples that W weighs, in their order,
into one slice a rank, passes its own, and adds up gradients and losses over the ranks, in one message each. A slice
holds whole ghost batches, so that a sample is normalised by the same statistics as in a single process, and the running
statistics come out as if one process had seen the ghost batches in their order: an update is ``r ← (1 − μ) r + μ s``,
so rank j adds ``(1 − μ)^(updates of later ranks) · (r_j − (1 − μ)^k_j r)``, and ``(1 − μ)^K r`` is what stays of the
old, with k_j the updates of rank j and K those of all.

What follows is the single process's run up to the rounding of sums.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import distributed

from support import batches
from support.errors import Refused, integer
from support.experiments import generators
from support.msgd import PerSampleLoss, backward_in_chunks

_DROPOUT = torch.nn.modules.dropout._DropoutNd
_BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm


class RankError(Refused):
    """A run that several processes cannot share; the message names what stands in the way, and the remedy."""


class RankLost(RankError):
    """Another process of the run ended, or fell silent; the last checkpoint is kept."""

    @classmethod
    def since(cls, error: Exception) -> RankLost:
        """What a failed message between processes means; of what torch says, its first sentence.

        >>> print(RankLost.since(RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:1. Good luck!")))
        another process of this run ended or fell silent (Connection closed by peer [127.0.0.1]:1): start ...
        """
        said = re.sub(r"^\[\S*\]\s*", "", " ".join(str(error).split())).partition(". ")[0]
        return cls(
            f"another process of this run ended or fell silent ({said}): start the same command again, it goes on from "
            f"the last checkpoint"
        )


def world() -> int:
    """The processes of the group that this one belongs to; 1 without a group.

    >>> world()
    1
    """
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def shared(passes: Callable = backward_in_chunks) -> Callable:
    """How a step's samples pass, as `support.experiments.training.Trainer` takes it: ``passes`` itself in a single
    process, and in a group `Shared` around it.

    >>> shared() is backward_in_chunks
    True
    """
    return Shared(passes) if world() > 1 else passes


def slices(m: int, unit: int, ranks: int) -> list[tuple[int, int]]:
    """First and last + 1 of the samples of each rank: m samples in whole units, as even as can be, none of them left
    out; the first rank is never empty. Raises Refused for m that is no multiple of the unit.

    >>> slices(10, 2, 3)
    [(0, 4), (4, 8), (8, 10)]
    """
    m, unit, ranks = integer("m", m, 1), integer("unit", unit, 1), integer("ranks", ranks, 1)
    if m % unit:
        raise RankError(
            f"{m} samples cannot be parted into ghost batches of exactly {unit}: choose a divisor of their number"
        )
    edges = [-(-rank * (m // unit) // ranks) * unit for rank in range(ranks + 1)]
    return list(pairwise(edges))


class Shared:
    """The passes of one step, shared by the ranks of the group; arguments and results are those of
    `support.msgd.backward_in_chunks`, and it yields once: ``Σ w_i ℓ_i`` and ``Σ ℓ_i`` over all samples.

    passes: what passes a rank's own slice.  The gradients must have been cleared, as the trainer does.
    Raises RankError where a slice alone would give another result (BatchNorm without ghost batches, dropout, a loss
    that keeps what it sees), and where ranks do not begin alike; RankLost if a rank is gone.
    """

    def __init__(self, passes: Callable = backward_in_chunks):
        self.passes, self.known = passes, None

    def __call__(
        self,
        model: torch.nn.Module,
        loss: PerSampleLoss,
        inputs,
        targets,
        weights: torch.Tensor,
        chunk: int | None,
        ghost: int | None = None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self.known is None or self.known.model is not model:
            self.known = _Known.of(model, loss, ghost)
            _begin_alike(model, weights)
        known, m = self.known, len(weights)
        edges = slices(m, known.unit, world())
        first, last = edges[distributed.get_rank()]
        statistics = [_Statistics(norm) for norm in known.norms if norm.training]
        sums = torch.zeros(2, dtype=torch.float64, device=weights.device)
        drawing = [module for module in known.drawing if module.training]
        for module in drawing:
            module.draw(first)  # the numbers of the samples before this rank's
        if last > first:
            own = (batches.take(nest, slice(first, last)) for nest in (inputs, targets))
            for pair in self.passes(model, loss, *own, weights[first:last], chunk, ghost):
                sums += torch.stack(pair)
        for module in drawing:
            module.draw(m - last)
        _add_up_gradients(known.parameters, everybody=all(a < b for a, b in edges))
        share = (m - last) / max(1, last - first)  # later samples, in slices of this rank's size
        _add_up(sums, *(part for one in statistics for part in one.contribution(share)))
        for one in statistics:
            one.settle()
        yield sums[0], sums[1]


@dataclass
class _Known:
    """What does not change from step to step of a model: what is added up, the samples that must stay together, and the
    modules that draw random numbers for each sample, by ``draw(m)`` for m of them.
    """

    model: torch.nn.Module
    parameters: list[torch.nn.Parameter]
    norms: list[torch.nn.Module]
    unit: int
    drawing: list[torch.nn.Module]

    @classmethod
    def of(cls, model: torch.nn.Module, loss: PerSampleLoss, ghost: int | None) -> _Known:
        norms, drawing, unit = [], [], 1 if ghost is None else ghost
        if hasattr(getattr(loss, "__self__", None), "state_dict"):
            raise RankError("the loss keeps what it sees, and a rank sees its slice alone: run it in one process")
        for name, module in model.named_modules():
            own = getattr(module, "ghost", None)
            if isinstance(module, _BATCH_NORM):
                if own is None and ghost is None:
                    raise RankError(
                        f"module {name!r} normalises by the statistics of the batch, which no rank has whole: give "
                        f"ghost batches"
                    )
                if module.track_running_stats and module.momentum is None:
                    raise RankError(
                        f"module {name!r} averages over all its batches (momentum=None): give it a momentum"
                    )
                norms += [module] if module.track_running_stats else []
            unit = math.lcm(unit, own or 1)
            if isinstance(module, _DROPOUT) and module.p and module.training:
                raise RankError(
                    f"module {name!r} draws numbers that depend on the samples of a pass: run it in one process"
                )
            if generators.hanging_on(module={**vars(module), "_modules": None}):
                if not hasattr(module, "draw"):
                    raise RankError(
                        f"module {name!r} draws random numbers: run it in one process, or give it draw(m) for m samples"
                    )
                drawing.append(module)
        return cls(model, [p for p in model.parameters() if p.requires_grad], norms, unit, drawing)


class _Statistics:
    """The running mean and variance of one normalisation, over a step."""

    def __init__(self, norm: torch.nn.Module):
        self.norm, self.keep = norm, 1 - norm.momentum
        self.before, self.count = self._now(), norm.num_batches_tracked.clone()

    def _now(self) -> torch.Tensor:
        return torch.stack((self.norm.running_mean, self.norm.running_var)).double()

    def contribution(self, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's updates, and what they add to the statistics; all later ranks make ``share`` times as many."""
        self.updates = (self.norm.num_batches_tracked - self.count).double()
        added = self._now() - self.keep**self.updates * self.before
        self.added = self.keep ** (share * self.updates) * added
        return self.updates, self.added

    def settle(self) -> None:
        """Take over what all ranks have added."""
        mean, var = self.keep**self.updates * self.before + self.added
        self.norm.running_mean.copy_(mean)
        self.norm.running_var.copy_(var)
        self.norm.num_batches_tracked.copy_(self.count + self.updates.round().long())


def _add_up_gradients(parameters: list[torch.nn.Parameter], everybody: bool) -> None:
    """Sum the gradients over the ranks, in one message. A parameter that the step does not touch keeps none; a rank
    without samples learns from the first one which these are.
    """
    touched = [[one.grad is not None for one in parameters]]
    if not everybody:
        _with_all(distributed.broadcast_object_list, touched)
    parameters = [one for one, there in zip(parameters, *touched, strict=True) if there]
    for one in parameters:
        if one.grad is None:
            one.grad = torch.zeros_like(one)
    _add_up(*(one.grad for one in parameters))


def _add_up(*tensors: torch.Tensor) -> None:
    """Sum tensors over the ranks in place: one message, in float32 or better."""
    if not tensors:
        return
    kind = torch.float32
    for one in tensors:
        kind = torch.promote_types(kind, one.dtype)
    flat = torch.cat([one.reshape(-1).to(kind) for one in tensors])
    _with_all(distributed.all_reduce, flat)
    for one, piece in zip(tensors, flat.split([one.numel() for one in tensors]), strict=True):
        one.copy_(piece.view(one.shape))


def _begin_alike(model: torch.nn.Module, weights: torch.Tensor) -> None:
    """Refuse ranks whose parameters or first W differ: their gradients would be of different runs."""
    with torch.no_grad():
        norms = torch.stack([one.double().norm() for one in (weights, *model.parameters())])
    low, high = norms.clone(), norms.clone()
    _with_all(distributed.all_reduce, low, distributed.ReduceOp.MIN)
    _with_all(distributed.all_reduce, high, distributed.ReduceOp.MAX)
    if not torch.equal(low, high):
        raise RankError("the ranks begin with other parameters or another W: start them with the same seed and state")


def _with_all(collective: Callable, *arguments) -> None:
    """Call a collective. Raises RankLost where another rank is gone."""
    try:
        collective(*arguments)
    except RuntimeError as error:
        raise RankLost.since(error) from error
