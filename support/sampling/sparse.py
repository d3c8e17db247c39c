"""Gaussian noise on a random subset of B samples, the others with their mean weight: white, or centred in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from support.sampling.gaussian import GaussianFisher
from support.sampling.law import WU, LargeBatch, Law, sgd_scale


@dataclass(frozen=True)
class SparseFisher(LargeBatch):
    """MSGD-[Fisher-B]: ``W = 1/n + 1_S ⊙ ε/√(bB)``, S a uniform B-subset drawn without replacement. Covariance I/(bn).

    Wu et al. (2020), Section 4.4, corrected: the printed formula puts the noise on a vector that is not sparse and
    misses this covariance.

    >>> SparseFisher(n=6, b=2, B=3).covariance.diagonal
    Fraction(1, 12)
    """

    name = "MSGD-[Fisher-B]"
    citation = f"{WU}, Section 4.4, corrected"
    covariance = GaussianFisher.covariance

    def _draw(self, size, random):
        noise = random.normal((size, self.B)) / math.sqrt(self.b * self.B)
        return 1 / self.n + random.scatter(random.subsets(size, self.n, self.B), noise, self.n)


@dataclass(frozen=True)
class SparseCovariance(LargeBatch):
    """MSGD-[Cov-B]: ``W = 1/n +`` Gaussian noise on a uniform B-subset S, centred within S, of variance
    ``k(n−1)/(B−1)`` before centring. Covariance K.

    Needs B ≥ 2: the noise of a single sample, centred, is zero. Wu et al. (2020), Appendix C and Figure 3.

    >>> SparseCovariance(n=6, b=2, B=3).covariance.total_variance
    Fraction(0, 1)
    """

    name = "MSGD-[Cov-B]"
    citation = f"{WU}, Figure 3"
    _least_B = 2
    covariance = Law.sgd_covariance

    def _draw(self, size, random):
        variance = sgd_scale(self.n, self.b, self.replace) * Fraction(self.n - 1, self.B - 1)
        noise = random.normal((size, self.B)) * math.sqrt(variance)
        return 1 / self.n + random.scatter(random.subsets(size, self.n, self.B), noise - noise.mean(1)[:, None], self.n)
