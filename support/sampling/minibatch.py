"""Mini-batch SGD, the law that the others are compared with, and gradient descent, which has no noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from support.sampling.law import WU, Atom, Exchangeable, Law


@dataclass(frozen=True)
class MiniBatch(Law):
    """Mini-batch SGD: W = (how often each sample is in the batch) / b. Covariance K (Wu et al. 2020, Proposition 1).

    >>> MiniBatch(n=4, b=2, replace=False).covariance
    Exchangeable(n=4, a=Fraction(1, 12), c=Fraction(-1, 48))
    """

    name = "SGD"
    sparse = True
    citation = f"{WU}, Proposition 1"
    covariance = Law.sgd_covariance

    def _draw(self, size, random):
        draw = random.indices if self.replace else random.subsets
        return random.scatter(draw(size, self.n, self.b), 1 / self.b, self.n)

    def atoms(self) -> Iterator[Atom]:
        """Every batch as (probability, W), in rationals: n^b ordered draws with replacement, C(n, b) subsets without.
        For small n.

        >>> list(MiniBatch(n=2, b=1).atoms())[0]
        (Fraction(1, 2), (Fraction(1, 1), Fraction(0, 1)))
        """
        batches = (
            itertools.product(range(self.n), repeat=self.b)
            if self.replace
            else itertools.combinations(range(self.n), self.b)
        )
        probability = Fraction(1, self.n**self.b if self.replace else math.comb(self.n, self.b))
        for batch in batches:
            yield probability, tuple(Fraction(batch.count(i), self.b) for i in range(self.n))


@dataclass(frozen=True)
class FullBatch(Law):
    """Gradient descent: W = 1/n always. Covariance 0 (Wu et al. 2020, Section 2).

    >>> import numpy as np
    >>> FullBatch(n=4, b=2).sample(None, np.random.default_rng(0))
    array([0.25, 0.25, 0.25, 0.25])
    """

    name = "GD"
    citation = f"{WU}, Section 2"

    @property
    def covariance(self):
        return Exchangeable(self.n, Fraction(0), Fraction(0))

    def _draw(self, size, random):
        return random.full((size, self.n), 1 / self.n)

    def atoms(self) -> Iterator[Atom]:
        """The one value of W, with probability 1."""
        yield Fraction(1), (Fraction(1, self.n),) * self.n
