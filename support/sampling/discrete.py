"""Independent weights with two values: signs, and coins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from support.errors import Refused
from support.sampling.gaussian import GaussianFisher
from support.sampling.law import WU, Atom, Exchangeable, Law


@dataclass(frozen=True)
class Rademacher(Law):
    """M-SGD with signs: ``W = 1/n ± 1/√(bn)``, independent fair signs. Covariance I/(bn) (the talk's GD-Rademacher,
    without its supremum).

    >>> [str(w) for w in list(Rademacher(n=4, b=1).atoms())[0][1]]
    ['-1/4', '-1/4', '-1/4', '-1/4']
    """

    name = "M-SGD-Rademacher"
    citation = "Wu (2019), talk on the noise of SGD, GD-Rademacher"
    covariance = GaussianFisher.covariance

    def _draw(self, size, random):
        return 1 / self.n + random.signs((size, self.n)) / math.sqrt(self.b * self.n)

    def atoms(self) -> Iterator[Atom]:
        """The 2^n sign patterns, in rationals; needs 1/√(bn) rational, so bn a perfect square. Raises Refused
        otherwise.
        """
        root = math.isqrt(self.b * self.n)
        if root * root != self.b * self.n:
            raise Refused(
                f"1/sqrt(bn) is irrational for b = {self.b}, n = {self.n}: choose b·n a perfect square to enumerate "
                f"in rationals"
            )
        for signs in itertools.product((-1, 1), repeat=self.n):
            yield Fraction(1, 2**self.n), tuple(Fraction(1, self.n) + Fraction(s, root) for s in signs)


@dataclass(frozen=True)
class Bernoulli(Law):
    """MSGD-Bernoulli: weights independent, 1/b with probability b/n, else 0. Covariance (n−b)/(bn²) I (Wu et al. 2020,
    Section 4.3, as on the slides).

    >>> Bernoulli(n=4, b=2).covariance.diagonal
    Fraction(1, 16)
    """

    name = "MSGD-Bernoulli"
    sparse = True
    citation = f"{WU}, Section 4.3"

    @property
    def covariance(self):
        return Exchangeable(self.n, Fraction(self.n - self.b, self.b * self.n**2), Fraction(0))

    def _draw(self, size, random):
        return random.coins((size, self.n), self.b / self.n) / self.b

    def atoms(self) -> Iterator[Atom]:
        """The 2^n on/off patterns, in rationals."""
        p = Fraction(self.b, self.n)
        for on in itertools.product((0, 1), repeat=self.n):
            yield p ** sum(on) * (1 - p) ** (self.n - sum(on)), tuple(Fraction(x, self.b) for x in on)
