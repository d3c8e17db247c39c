"""Any torch optimiser from its name and the knobs that an experiment has for all of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch

from support.errors import Refused, WrongType, choice, instance

NAMES = tuple(
    sorted(
        name
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    )
)


def by_name(name: str, parameters: Iterable, lr: float, **knobs) -> torch.optim.Optimizer:
    """The optimiser of that name in `torch.optim`, in any case: ``by_name("Adam", parameters, 0.001, momentum=0.0)``.

    A knob of value 0 that the optimiser does not have is left out, which is what 0 means. A weight decay may be
    negative (Ziyin et al. 2022, Section 4.3): torch adds ``weight_decay · θ`` of either sign, only its check lets none
    pass. Raises Refused for an unknown name, another knob that it does not have, and values that it does not take.

    >>> by_name("sgd", [torch.zeros(2, requires_grad=True)], 0.1, momentum=0.9).defaults["momentum"]
    0.9
    """
    kind = getattr(torch.optim, choice("optimizer", instance("optimizer", name, str, "give a name"), NAMES))
    takes = [knob for knob in inspect.signature(kind).parameters if knob not in ("params", "lr")]
    if strange := [f"{knob} = {value}" for knob, value in knobs.items() if knob not in takes and value != 0]:
        raise Refused(f"{kind.__name__} has no {', '.join(strange)}: its knobs are {', '.join(takes)}")
    knobs = {knob: value for knob, value in knobs.items() if knob in takes}
    growing = {"weight_decay": knobs.pop("weight_decay")} if knobs.get("weight_decay", 0) < 0 else {}
    try:
        made = kind(parameters, lr=lr, **knobs | dict.fromkeys(growing, 0.0))
    except TypeError as error:
        raise WrongType(
            f"{kind.__name__} takes other knobs ({error}): give numbers, and tensors as parameters"
        ) from error
    except ValueError as error:
        raise Refused(f"{kind.__name__} takes other values ({error}): change them") from error
    for group in made.param_groups:
        group.update(growing)
    return made
