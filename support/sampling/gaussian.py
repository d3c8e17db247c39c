"""Gaussian weights on all n samples: with the covariance of SGD, or white."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from support.sampling.law import WU, Exchangeable, Law, sgd_scale


@dataclass(frozen=True)
class GaussianCovariance(Law):
    """MSGD-Cov: ``W = 1/n + √k (I − 11ᵀ/n) ε`` with ε white Gaussian. Covariance K, because I − 11ᵀ/n is a projection
    (Wu et al. 2020, Section 4.1).

    >>> GaussianCovariance(n=4, b=2).covariance == GaussianCovariance(n=4, b=2).sgd_covariance
    True
    """

    name = "MSGD-Cov"
    citation = f"{WU}, Section 4.1"
    covariance = Law.sgd_covariance

    def _draw(self, size, random):
        noise = random.normal((size, self.n))
        scale = math.sqrt(sgd_scale(self.n, self.b, self.replace))
        return 1 / self.n + scale * (noise - noise.mean(1)[:, None])


@dataclass(frozen=True)
class GaussianFisher(Law):
    """MSGD-Fisher: ``W = 1/n + ε/√(bn)``, ε white Gaussian. Covariance I/(bn): the gradient noise has covariance F/b
    (Wu et al. 2020, Section 4.2).

    >>> GaussianFisher(n=4, b=2).covariance.total_variance  # of the factor on the learning rate: 1/b
    Fraction(1, 2)
    """

    name = "MSGD-Fisher"
    citation = f"{WU}, Section 4.2"

    @property
    def covariance(self):
        return Exchangeable(self.n, Fraction(1, self.b * self.n), Fraction(0))

    def _draw(self, size, random):
        return 1 / self.n + random.normal((size, self.n)) / math.sqrt(self.b * self.n)
