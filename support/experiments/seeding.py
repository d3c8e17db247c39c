"""Seeds: one number for each use of randomness in a run, the same on every machine and in every version of Python.

A run's seed fixes what its methods share (initialisation, training subset), so that two methods of one seed are a pair;
the noise of a method has a stream of its own. ``stream(seed, "initialisation")``, ``stream(seed, "subset")``,
``stream(seed, "noise", "MSGD-Cov")`` are the first 63 bits of the sha256 of ``"<seed>/initialisation"``, and so on.
"""

from __future__ import annotations

import hashlib

from support.errors import instance, integer


def stream(seed: int, *purpose: str) -> int:
    """The seed of one stream of random numbers, in [0, 2⁶³). Raises WrongType for a seed that is no whole number, and
    a purpose that is no text.

    >>> stream(1, "noise", "MSGD-Cov")
    1727845811058410038
    """
    seed = integer("seed", seed)
    for part in purpose:
        instance("purpose", part, str, "give a text for each use of randomness")
    return int.from_bytes(hashlib.sha256("/".join((str(seed), *purpose)).encode()).digest()[:8], "big") >> 1
