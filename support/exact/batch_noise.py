r"""How noisy a step of least squares is: two numbers of the weights' covariance say all that second moments see.

A step is ``θ ← θ − η g̃`` with a weighted gradient ``g̃ = Σ_r w_r ∇ℓ_r`` of exchangeable weights of mean 1/n. Whatever
their class,

    E g̃g̃ᵀ = p E ggᵀ + (1 + j − p) ∇f∇fᵀ        g: gradient of one sample;  p = 1/b_eff, the strength;  j = Var Σ_r
    w_r, the jitter

Source: Wu et al. (2020), Section 3, where the n samples are drawn afresh at every step (`fresh`); `fixed` is a step on
a training set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from support.errors import Refused, instance, integer, real
from support.sampling import Law, MiniBatch


@dataclass(frozen=True)
class BatchNoise:
    """How noisy a step is: ``strength`` p = 1/b_eff, the share of one sample's noise, and ``jitter`` j, the variance of
    the sum of the weights (no units).

    SGD on b fresh samples: p = 1/b, j = 0. samples: how many there are in all, for the noise of a fixed training set,
    which goes with no other population. Raises WrongType for what is no number, Refused for a negative or non-finite
    one.

    >>> BatchNoise(Fraction(1, 4)).pairs
    Fraction(3, 4)
    """

    strength: Any
    jitter: Any = 0
    samples: int | None = field(default=None, compare=False, repr=False)

    def __post_init__(self):
        real("strength", self.strength, 0)
        real("jitter", self.jitter, 0)
        if self.samples is not None:
            integer("samples", self.samples, 1)

    @property
    def pairs(self):
        """Coefficient of ∇f∇fᵀ, ``1 + j − p``: what products of two different samples contribute to E g̃g̃ᵀ."""
        return 1 + self.jitter - self.strength


def fresh(law: Law) -> BatchNoise:
    """Noise of a step on n *fresh* samples with weights of this law: ``p = n E w_r²``, the online setting of Theorem 1,
    where the law's n is the paper's B.

    The Theorem's covariance is that of b drawn from B without replacement: ``fresh(MiniBatch(B, b, replace=False))``
    has p = 1/b and j = 0 whatever B. Raises WrongType for what is no law.

    >>> fresh(MiniBatch(10, 4, replace=False)) == matched(4)
    True
    """
    covariance = a_law(law).covariance
    return BatchNoise(law.n * (covariance.diagonal + law.mean**2), covariance.total_variance)


def fixed(law: Law) -> BatchNoise:
    """Noise of a step on a *fixed* training set, the population, of n samples with weights of this law: ``p = n a`` for
    Var W = aI + c11ᵀ. Raises WrongType for what is no law.

    >>> fixed(MiniBatch(10, 4))
    BatchNoise(strength=Fraction(1, 4), jitter=Fraction(0, 1))
    """
    covariance = a_law(law).covariance
    return BatchNoise(law.n * covariance.a, covariance.total_variance, law.n)


def matched(b: int, B: int | None = None) -> BatchNoise:
    """Noise of a step on B fresh samples with Theorem 1's covariance ``(B−b)/(bB(B−1)) (I − 11ᵀ/B)``; without B, of SGD
    on b fresh samples.

    Raises WrongType for counts that are no integers, Refused for B < b, and for B = 1, where the covariance is 0/0.

    >>> matched(4, 10) == matched(4)
    True
    """
    b = integer("b", b, 1)
    if B is None:
        return BatchNoise(Fraction(1, b))
    if integer("B", B, 1) == 1:
        raise Refused("B = 1 makes the covariance (B−b)/(bB(B−1)) 0/0: give B ≥ 2, or leave B out for plain SGD")
    if b > B:
        raise Refused(
            f"b = {b} exceeds B = {B}: noise can be added to a large batch, not taken from a small one; choose B ≥ b"
        )
    return fresh(MiniBatch(B, b, replace=False))


def a_law(law) -> Law:
    """The law of the sampling vector, or a refusal of what is none (WrongType).

    >>> a_law(MiniBatch(4, 2)).n
    4
    """
    return instance("law", law, Law, "give a law of support.sampling, such as MiniBatch(n, b)")
