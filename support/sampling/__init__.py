r"""Laws of the sampling vector W: exact mean, exact covariance, sampler, and the weighted loss of one step.

One step of stochastic gradient descent on n samples is ``θ ← θ − η ∇𝓛(θ) W`` with the d x n gradient matrix ``∇𝓛(θ)``
(columns ∇ℓ_i) and a random *sampling vector* W in R^n of mean 1/n. The *sampling noise* is V = W − 1/n. A law of W is
all that separates mini-batch SGD from Gaussian, Bernoulli or sparse noise; here are the laws of Wu et al. (2020).

Every law takes ``(n, b)``: n samples, and the batch size b of the SGD it is compared with. ``replace`` says how batches
are drawn, and with it which SGD covariance ``K = k (I − 11ᵀ/n)`` is meant: ``k = 1/(bn)`` with replacement,
``k = (n−b)/(bn(n−1))`` without (Wu et al. 2020, Proposition 1). All moments are rational numbers
(`fractions.Fraction`); samplers are vectorised for numpy and torch generators. A law is a class in a file of its own or
of its kin (`support.sampling.law.Law` says what it must have), and one line below.
"""

from __future__ import annotations

import difflib
import re
from functools import partial

from support.errors import Refused, WrongType
from support.sampling.compensated import Compensated
from support.sampling.discrete import Bernoulli, Rademacher
from support.sampling.gaussian import GaussianCovariance, GaussianFisher
from support.sampling.law import Atom, Exchangeable, Law, counted_moments, sgd_scale
from support.sampling.minibatch import FullBatch, MiniBatch
from support.sampling.sparse import SparseCovariance, SparseFisher

__all__ = [
    "NAMES",
    "Atom",
    "Bernoulli",
    "Compensated",
    "Exchangeable",
    "FullBatch",
    "GaussianCovariance",
    "GaussianFisher",
    "Law",
    "MiniBatch",
    "Rademacher",
    "SparseCovariance",
    "SparseFisher",
    "by_name",
    "counted_moments",
    "sgd_scale",
]

# the papers' names; a B after a hyphen stands for a number
_LAWS = {
    "SGD": MiniBatch,
    "GD": FullBatch,
    "MSGD-Cov": GaussianCovariance,
    "MSGD-Fisher": GaussianFisher,
    "M-SGD-Rademacher": Rademacher,
    "MSGD-Bernoulli": Bernoulli,
    "MSGD-[Fisher-B]": SparseFisher,
    "MSGD-[Cov-B]": SparseCovariance,
    "[MSGD-Fisher]-B": partial(Compensated, kind="fisher"),
    "[MSGD-Cov]-B": partial(Compensated, kind="covariance"),
}
NAMES = tuple(_LAWS)
_SIZE = re.compile(r"(?<=-)B(?=\]|$)")


def by_name(name: str, n: int, b: int, *, replace: bool = True) -> Law:
    """The law that the papers call ``name``, such as "SGD", "MSGD-Cov", "MSGD-[Fisher-100]" or "[MSGD-Cov]-1000" (the
    number is B; case does not matter).

    Raises Refused for an unknown name, naming the closest one, and what the law raises for its counts.

    >>> by_name("[MSGD-Cov]-500", n=1000, b=50)
    Compensated(n=1000, b=50, replace=True, B=500, kind='covariance', scale=None)
    """
    if not isinstance(name, str):
        raise WrongType(f"name = {name!r} is no text: give the name of a noise class, such as 'MSGD-Cov'")
    wanted = name.strip()
    for own, law in _LAWS.items():
        pattern = r"(\d+)".join(re.escape(piece) for piece in _SIZE.split(own))
        if match := re.fullmatch(pattern, wanted, re.IGNORECASE | re.ASCII):
            return law(n, b, *map(int, match.groups()), replace=replace)
    known = {own.lower(): own for own in NAMES}
    close = difflib.get_close_matches(re.sub(r"\d+", "b", wanted.lower()), known, 1)
    hint = f"did you mean {known[close[0]]!r}? " if close else ""
    raise Refused(f"unknown noise class {name!r}: {hint}Known are {', '.join(NAMES)}, with a number for B")
