"""The random generators of a run: what a checkpoint must hold, so that a resumed run draws what the unbroken one drew.

Covered are the global generators of torch (of the CPU and of each CUDA device), numpy and Python, and every generator
that hangs on the model, optimiser, schedule, law, loss, data, additive noise or measure: as an attribute of a module or
of any other object, in dicts, lists and tuples, in the closure of a function or the arguments of a partial one. Not
covered: a generator that only a global variable holds, one inside a compiled extension, and a Python iterator half way
through its data.
"""

from __future__ import annotations

import functools
import random
import types
from collections.abc import Callable, Mapping

import numpy as np
import torch

from support.errors import Refused

# kind of generator: how its state is had, and how it is set
_KINDS: dict[type, tuple[Callable, Callable]] = {
    torch.Generator: (lambda one: one.get_state(), lambda one, state: one.set_state(state.cpu())),
    np.random.Generator: (
        lambda one: one.bit_generator.state,
        lambda one, state: setattr(one.bit_generator, "state", state),
    ),
    np.random.RandomState: (lambda one: one.get_state(), lambda one, state: one.set_state(state)),
    random.Random: (lambda one: one.getstate(), lambda one, state: one.setstate(state)),
}
_LEAVES = (torch.Tensor, np.ndarray, str, bytes, int, float, complex, type, types.ModuleType, type(None))


def hanging_on(**owners) -> dict[str, object]:
    """Generators by the path that leads to them from the named owners; each once, under its first path.

    >>> layer = torch.nn.Dropout()
    >>> layer.own = torch.Generator()
    >>> list(hanging_on(model=torch.nn.Sequential(layer)))
    ['model._modules.0.own']
    """
    found: dict[str, object] = {}
    seen: set[int] = set()
    waiting = list(reversed(owners.items()))
    while waiting:
        path, owner = waiting.pop()
        if isinstance(owner, _LEAVES) or id(owner) in seen:
            continue
        seen.add(id(owner))
        if isinstance(owner, tuple(_KINDS)):
            found[path] = owner
        else:
            waiting += reversed([(f"{path}.{name}", part) for name, part in _parts(owner)])
    return found


def states(generators: Mapping[str, object]) -> dict:
    """The states of the global generators and of those given by name, for a checkpoint."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    everywhere = {"torch": torch.get_rng_state(), "cuda": cuda}
    everywhere |= {"numpy": np.random.get_state(), "python": random.getstate()}
    return everywhere | {"own": {name: _kind(one)[0](one) for name, one in generators.items()}}


def restore(generators: Mapping[str, object], state: dict) -> None:
    """Take up what `states` gave. Raises Refused where the generators are not those that it was made of."""
    if changed := sorted(generators.keys() ^ state["own"].keys()):
        where = "only now" if changed[0] in generators else "no longer"
        raise Refused(f"the generator {changed[0]} is {where} there: build the run as it was when its state was saved")
    torch.set_rng_state(state["torch"].cpu())
    for number, one in enumerate(state["cuda"]):
        torch.cuda.set_rng_state(one.cpu(), number)
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    for name, one in generators.items():
        _kind(one)[1](one, state["own"][name])


def _kind(generator) -> tuple[Callable, Callable]:
    return next(calls for kind, calls in _KINDS.items() if isinstance(generator, kind))


def _parts(owner) -> list[tuple[str, object]]:
    """What hangs on an object, by name."""
    if isinstance(owner, Mapping):
        named = list(owner.items())
    elif isinstance(owner, list | tuple):
        named = list(enumerate(owner))
    elif isinstance(owner, types.FunctionType):
        named = list(zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True))
    elif isinstance(owner, types.CellType):
        named = [("it", owner.cell_contents)] if owner != types.CellType() else []
    elif isinstance(owner, types.MethodType):
        named = [("self", owner.__self__), ("function", owner.__func__)]
    elif isinstance(owner, functools.partial):
        named = [("function", owner.func), ("arguments", owner.args), ("keywords", owner.keywords)]
    else:
        named = list(getattr(owner, "__dict__", {}).items())
    return [(str(name), part) for name, part in named]
