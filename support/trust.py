"""Is a loss one of θ and of a single sample? A look at a few samples, together, again and apart.

What all matrices here stand on is refused where it does not hold: a sample's loss that depends on its batch or on
chance, outputs that do not depend on the parameters. The look leaves model, data and random generators as they were.
"""

from __future__ import annotations

import copy
import random

import numpy as np
import torch

from support import batches
from support.errors import Refused


class CoupledLossError(Refused):
    """The loss of a sample depends on the other samples of its batch or on chance, so that there is no gradient matrix;
    the message says why and what to use.
    """


def refuse(risk) -> None:
    """Look at a risk of `support.risk`. Raises CoupledLossError for a loss of several samples or of chance,
    Refused for one that cannot be evaluated or does not depend on the parameters.

    >>> from support.risk import EmpiricalRisk
    >>> coupled = lambda outputs, targets: (outputs - outputs.mean()).square().sum(1)
    >>> refuse(EmpiricalRisk(torch.nn.Linear(2, 1), coupled, (torch.eye(2), torch.ones(2))))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    support.trust.CoupledLossError: the loss of a sample changes by ... with the batch it is in, and ...
    """
    _refuse_by_name(risk.model, risk.ghost)
    try:
        _look(risk)
    except (Refused, torch.OutOfMemoryError):
        raise
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise Refused(
            f"{type(risk.model).__name__} and its loss cannot be evaluated on these samples ({first}): give inputs "
            f"and targets of the shape and type that they take"
        ) from error


def _look(risk) -> None:
    """Evaluate a few samples together, again and apart, and differentiate them."""
    few = risk.few()
    with _Dice(risk.model, risk.device) as dice:
        together, tolerance = _precisely(risk, few)
        if dice.thrown() or not _alike(together, _precisely(risk, few)[0], tolerance):
            raise CoupledLossError(
                "the loss of a sample is drawn at random (a random generator moved, or a second evaluation gave "
                "another number), so it is no function of θ: call model.eval(), or take the draw out of model and "
                "loss"
            )
        third = len(few) // 3
        for places in (torch.arange(len(few)).flip(0), *torch.arange(len(few)).split([third, len(few) - third])):
            _refuse_coupled(risk, few, places, together, tolerance)
        for place in torch.arange(len(few))[:3]:
            _refuse_coupled(risk, few, place[None], together, tolerance)
        theta = risk.theta.clone().requires_grad_()
        with torch.enable_grad():
            total = risk.losses_at(theta, few).sum()
    if not total.requires_grad or torch.autograd.grad(total, theta, allow_unused=True)[0] is None:
        raise Refused(
            f"the loss does not depend on the parameters {', '.join(list(risk.shapes)[:3])}: look for detach(), "
            f"no_grad or .data between them and the loss"
        )


def _refuse_coupled(risk, few: torch.Tensor, places: torch.Tensor, together: torch.Tensor, tolerance: float) -> None:
    """Raise CoupledLossError where some of the few samples have other losses among themselves."""
    if not len(places):
        return
    same, apart = together[places.to(together.device)], _precisely(risk, few[places])[0]
    if not _alike(same, apart, tolerance):
        raise CoupledLossError(
            f"the loss of a sample changes by {float((same - apart).abs().max()):.2g} with the batch it is in, and "
            f"the gradient matrix needs losses of one sample alone: call model.eval(), or replace what looks at "
            f"the whole batch"
        )


def _precisely(risk, part: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The losses in float64, and what they may differ by from batch to batch; in the model's own type, and by more,
    where the model cannot be evaluated in float64.
    """
    if risk.ghost is not None:  # batch by batch, whatever the part: nothing can be coupled
        with torch.no_grad():
            return risk.losses_at(risk.theta, part), 1e-3
    samples = risk.samples(part)
    try:
        wide = (batches.mapped(lambda t: t.double() if t.is_floating_point() else t, nest) for nest in samples)
        return _watched(risk, risk.theta.double(), *wide, torch.float64), 1e-8
    except (Refused, torch.OutOfMemoryError):
        raise
    except Exception:
        return _watched(risk, risk.theta, *samples), min(1e3 * risk.eps, 1.5 * risk.eps**0.5)


def _watched(risk, theta, inputs, targets, kind=None) -> torch.Tensor:
    given = [*batches.leaves(inputs), *batches.leaves(targets)]
    before = [leaf._version for leaf in given]
    with torch.no_grad():
        losses = risk.evaluated(theta, inputs, targets, kind)
    risk.writes |= before != [leaf._version for leaf in given]
    return losses


def _alike(some: torch.Tensor, others: torch.Tensor, tolerance: float) -> bool:
    if not (torch.isfinite(some).all() and torch.isfinite(others).all()):
        return True  # what is not finite is refused where a product needs it
    floor = 1e-4 * tolerance  # of an exact fit nothing but rounding is left
    return torch.allclose(some, others, rtol=tolerance, atol=tolerance * float(some.abs().max()) + floor)


def _refuse_by_name(model: torch.nn.Module, ghost: int | None) -> None:
    for name, module in model.named_modules():
        normalises = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        if normalises and ghost is None and (module.training or module.running_mean is None):
            raise CoupledLossError(
                f"module {name!r} ({type(module).__name__}) normalises by the statistics of the batch, so a sample's "
                f"loss depends on the other samples and there is no gradient matrix: call model.eval() to use its "
                f"running statistics, use GroupNorm, or measure whole batches with ghost=100"
            )
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise CoupledLossError(
                f"module {name!r} ({type(module).__name__}) draws at random, so a sample's loss is no function of θ: "
                f"call model.eval()"
            )


class _Dice:
    """Every random generator that a model may draw from: torch's, Python's and numpy's global ones, and those that its
    modules hold. `thrown` tells whether one moved; when the context ends, all are as they were.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device):
        self.held = [(torch.get_rng_state, torch.set_rng_state), (random.getstate, random.setstate)]
        self.held += [(np.random.get_state, np.random.set_state)]
        if device.type == "cuda":
            self.held += [(lambda: torch.cuda.get_rng_state(device), lambda s: torch.cuda.set_rng_state(s, device))]
        for own in (value for module in model.modules() for value in vars(module).values()):
            if isinstance(own, torch.Generator):
                self.held += [(own.get_state, own.set_state)]
            elif isinstance(own, np.random.Generator):
                bits = own.bit_generator
                self.held += [(lambda bits=bits: bits.state, lambda s, bits=bits: setattr(bits, "state", s))]

    def __enter__(self) -> _Dice:
        self.before = [copy.deepcopy(get()) for get, _ in self.held]
        return self

    def thrown(self) -> bool:
        return not _same([get() for get, _ in self.held], self.before)

    def __exit__(self, *_) -> None:
        for (_, put), state in zip(self.held, self.before, strict=True):
            put(state)


def _same(state, other) -> bool:
    if isinstance(state, dict):
        return _same(list(state.values()), list(other.values()))
    if isinstance(state, (tuple, list)):
        return all(map(_same, state, other))
    return bool(np.all(np.asarray(state) == np.asarray(other)))
