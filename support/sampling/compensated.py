"""Algorithm 2 of Wu et al. (2020): a large batch whose weights carry the noise that a small one would have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from support.errors import Refused, choice, real
from support.sampling.law import WU, Exchangeable, LargeBatch, centred, sgd_scale


@dataclass(frozen=True)
class Compensated(LargeBatch):
    """Algorithm 2, [MSGD-Fisher]-B and [MSGD-Cov]-B: a batch of B whose weights 1/B carry Gaussian noise, so that B ≥ b
    samples are as noisy as b.

    A batch has B slots; slot r has weight ``1/B + τ ε_r`` (kind "fisher") or ``1/B + τ (ε_r − mean(ε))`` (kind
    "covariance"): one ε per slot, not per distinct sample. W sums the weights of the slots that hold a sample;
    `Law.weigh` weighs the B losses of a batch that a loader drew, whose noise is that of `covariance` if the loader
    draws as ``replace`` says (one that shuffles draws without). ``scale`` is τ² (units of a squared weight); None is
    the exact match:

    * "covariance": ``τ² = (B−b)/(bB(B−1))`` gives K exactly, with and without replacement (needs B ≥ 2);
    * "fisher": ``τ² = (B−b)/(bB²)``, times n/(n−1) without replacement, gives K on 1⊥ and adds a jitter of the learning
    rate, `covariance.total_variance`.

    Wu et al. (2020), Section 4.5 and Algorithm 2 (which tunes τ by hand); the covariance of "covariance" is that of
    Theorem 1.
    Raises Refused for B < b, an unknown kind, or a negative or non-finite scale.

    >>> Compensated(n=10, b=2, B=5).covariance == Compensated(n=10, b=2, B=5).sgd_covariance
    True
    """

    kind: str = "covariance"
    scale: Any = None

    citation = f"{WU}, Algorithm 2"
    sparse = True

    def __post_init__(self):
        object.__setattr__(self, "kind", choice("kind", self.kind, ("covariance", "fisher")))
        super().__post_init__()
        if self.kind == "covariance":
            self._count("B", 2, self.n, "noise centred within the batch needs B ≥ 2")
        if self.b > self.B:
            raise Refused(
                f"B = {self.B} is smaller than b = {self.b}: noise can be added to a large batch, not taken from a "
                f"small one; choose B ≥ b"
            )
        if self.scale is not None:
            real("scale", self.scale, 0)

    @property
    def name(self) -> str:
        return "[MSGD-Cov]-B" if self.kind == "covariance" else "[MSGD-Fisher]-B"

    @property
    def slots(self) -> int:
        return self.B

    @property
    def tau_squared(self):
        """Variance τ² of the white noise on one slot's weight: `scale`, or the exact match."""
        if self.scale is not None:
            return self.scale
        missing = Fraction(self.B - self.b, self.b * self.B)
        if self.kind == "covariance":
            return missing / (self.B - 1)
        return missing / self.B * (1 if self.replace else Fraction(self.n, self.n - 1))

    @property
    def covariance(self):
        base, n, B, tau2 = sgd_scale(self.n, self.B, self.replace), self.n, self.B, self.tau_squared
        if self.kind == "covariance":
            return centred(n, base + tau2 * (B - 1) / (n if self.replace else n - 1))
        return Exchangeable(n, base + B * tau2 / n, -base / n)

    def _slots(self, size, random):
        noise = random.normal((size, self.B)) * math.sqrt(self.tau_squared)
        return 1 / self.B + (noise - noise.mean(1)[:, None] if self.kind == "covariance" else noise)

    def _draw(self, size, random):
        draw = random.indices if self.replace else random.subsets
        return random.scatter(draw(size, self.n, self.B), self._slots(size, random), self.n)
