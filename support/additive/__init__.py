"""Additive noises of a chosen covariance: ``θ ← θ − η (∇L(θ) + ε)`` with ε ~ N(0, Σ).

`sgd` has the covariance C of mini-batches, which they match; `noise` what all of them share; `langevin` those of Zhu et
al. (2019), Table 1; `released` the same as the authors' code has them. A noise is one class and one line below.
"""

from __future__ import annotations

from difflib import get_close_matches
from inspect import signature

from support.additive import langevin, released
from support.additive.noise import AdditiveNoise
from support.additive.released import PartitionNoise
from support.additive.sgd import SgdNoise
from support.errors import Refused, WrongType, boolean

__all__ = ["NAMES", "AdditiveNoise", "PartitionNoise", "SgdNoise", "by_name"]

# name: (as the paper has it, as the released code has it)
_NOISES = {
    "GLD-const": (langevin.Constant, langevin.Constant),
    "GLD-dynamic": (langevin.Dynamic, released.Dynamic),
    "GLD-diag": (langevin.DiagonalOfC, released.DiagonalOfC),
    "GLD-leading": (langevin.Leading, released.Leading),
    "GLD-Hessian": (langevin.OfHessian, released.OfHessian),
    "GLD-1st-eigenvector": (langevin.FirstEigenvector, released.FirstEigenvector),
}
NAMES = tuple(_NOISES)


def by_name(name: str, sgd: SgdNoise, *, released: bool = False, **options) -> AdditiveNoise:
    """The noise of that name (`NAMES`, in any case), such as ``by_name("GLD-leading", sgd, k=20, every=50)``.

    sgd: the noise whose trace is matched.  released: as the authors' code has it (`support.additive.released`; its C is
    that of a `PartitionNoise`).
    Raises Refused for an unknown name, naming the closest one, or an option that this noise does not take.

    >>> import torch
    >>> square = lambda outputs, targets: (outputs[:, 0] - targets).square() / 2
    >>> sgd = SgdNoise(square, torch.eye(4), torch.ones(4), b=2)
    >>> by_name("gld-leading", sgd, k=2).k
    2
    """
    if not isinstance(name, str):
        raise WrongType(f"name = {name!r} is no text: give the name of a noise, such as 'GLD-diag'")
    known = {own.lower(): own for own in NAMES}
    if (wanted := name.strip().lower()) not in known:
        close = get_close_matches(wanted, known, 1)
        hint = f"did you mean {known[close[0]]!r}? Known are" if close else "choose one of"
        raise Refused(f"there is no additive noise {name!r}: {hint} {', '.join(NAMES)}")
    found = _NOISES[known[wanted]][boolean("released", released)]
    takes = sorted(p.name for p in signature(found).parameters.values() if p.kind is p.KEYWORD_ONLY)
    if unknown := [option for option in options if option not in takes]:
        raise Refused(f"{known[wanted]} takes no {', '.join(unknown)}: its options are {', '.join(takes)}")
    return found(sgd, **options)
