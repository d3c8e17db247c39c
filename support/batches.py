"""Batches as models take them: a tensor, or a nest of dicts, tuples and lists of tensors, a sample a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import signature

import torch

from support.errors import Refused, WrongType


def leaves(batch, name: str = "batch") -> Iterator[torch.Tensor]:
    """The tensors of a batch, in their order. Raises WrongType for anything else in it, Refused for a number alone.

    >>> [leaf.ndim for leaf in leaves({"ids": torch.zeros(4, 2), "mask": (torch.ones(4),)})]
    [2, 1]
    """
    if isinstance(batch, torch.Tensor):
        if batch.ndim == 0:
            raise Refused(f"{name} holds a tensor of shape (): give tensors with the samples along their first axis")
        yield batch
    elif isinstance(batch, (Mapping, tuple, list)):
        for inner in batch.values() if isinstance(batch, Mapping) else batch:
            yield from leaves(inner, name)
    else:
        raise WrongType(
            f"{name} holds a {type(batch).__name__}: give torch tensors, alone or in dicts, tuples and lists"
        )


def length(batch, name: str = "batch") -> int:
    """The number of samples. Raises what `leaves` raises, and Refused where there is no tensor or lengths differ.

    >>> length((torch.zeros(4, 2), {"mask": torch.ones(4)}))
    4
    """
    found = sorted({len(leaf) for leaf in leaves(batch, name)})
    if len(found) != 1:
        what = f"tensors of {' and '.join(map(str, found))} samples" if found else "no tensor"
        raise Refused(f"{name} holds {what}: give every tensor the same first axis, one entry a sample")
    return found[0]


def take(batch, part: slice | torch.Tensor):
    """The same nest with the samples of ``part`` alone: a slice, or a tensor of indices, on any device.

    >>> take({"ids": torch.arange(4)}, torch.tensor([2, 0]))
    {'ids': tensor([2, 0])}
    """
    return mapped(lambda leaf: leaf[part.to(leaf.device) if isinstance(part, torch.Tensor) else part], batch)


def to(batch, device):
    """The same nest on a device.

    >>> to((torch.zeros(1),), "meta")[0].device
    device(type='meta')
    """
    return mapped(lambda leaf: leaf.to(device), batch)


def arguments(model: torch.nn.Module, inputs) -> tuple[tuple, dict]:
    """How a model takes a batch, as (positional, keyword) arguments: a dict by keyword where ``forward`` takes these
    names, else whole; a tuple or list one by one; a tensor as it is.

    >>> [len(given) for given in arguments(torch.nn.Bilinear(2, 2, 1), {"input1": 1, "input2": 2})]
    [0, 2]
    """
    if isinstance(inputs, Mapping):
        names = signature(model.forward).parameters
        every = any(p.kind is p.VAR_KEYWORD for p in names.values())
        by_keyword = all(isinstance(key, str) and (every or key in names) for key in inputs)
        return ((), dict(inputs)) if by_keyword else ((inputs,), {})
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})


def copied(batch):
    """The same nest with numbers of its own.

    >>> copied((torch.ones(1),))
    (tensor([1.]),)
    """
    return mapped(torch.Tensor.clone, batch)


def join(batches):
    """Batches of one make as one nest, one after another along the first axis. Raises Refused where they do not fit.

    >>> join([(torch.zeros(1),), (torch.ones(2),)])
    (tensor([0., 1., 1.]),)
    """
    first, *rest = batches
    pieces = [list(leaves(first)), *(list(leaves(batch)) for batch in rest)]
    try:
        whole = iter([torch.cat(same) for same in zip(*pieces, strict=True)])
    except (ValueError, RuntimeError) as error:
        raise Refused(
            f"the batches do not fit together ({error}): give all samples one shape, such as texts padded to one length"
        ) from None
    return mapped(lambda _: next(whole), first)


def mapped(f: Callable, batch):
    """The same nest with f of every tensor.

    >>> mapped(len, (torch.zeros(4), {"mask": torch.ones(4)}))
    (4, {'mask': 4})
    """
    if isinstance(batch, torch.Tensor):
        return f(batch)
    if isinstance(batch, Mapping):
        return {key: mapped(f, inner) for key, inner in batch.items()}
    if not isinstance(batch, (tuple, list)):
        raise WrongType(f"a batch holds a {type(batch).__name__}: give tensors, alone or in dicts, tuples and lists")
    inside = [mapped(f, inner) for inner in batch]
    return type(batch)(*inside) if hasattr(batch, "_fields") else type(batch)(inside)  # a named tuple takes them apart
