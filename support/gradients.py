r"""What a law of the sampling vector does to gradients: the gradient matrix, the empirical Fisher F and the gradient
covariance C(θ).

For n samples and d parameters the gradient matrix ``∇𝓛(θ)`` is d x n with columns ∇ℓ_i(θ). All else is made of it (Wu
et al. 2020, Section 2 and Eq. (1)):

    ∇L = ∇𝓛 1/n          loss gradient
    F  = ∇𝓛 ∇𝓛ᵀ / n       empirical Fisher
    C  = ∇𝓛 Var[W] ∇𝓛ᵀ    covariance of one step's gradient noise under a law of W; with Var[W] = aI + c11ᵀ it is n a F
    + n² c ∇L ∇Lᵀ

Nothing here stores ∇𝓛 unless asked to: ``∇𝓛 w`` is one backward pass of a weighted loss, ``∇𝓛ᵀ u`` one forward-mode
pass, so a product with F or C costs one of each, in chunks of bounded memory. Per-sample gradients are for measuring,
never for training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from support.errors import Refused, WrongType, integer, probability, torch_generator
from support.intervals import Interval, mean_square, skewed
from support.operators import Operator, finite
from support.risk import EmpiricalRisk, a_risk
from support.sampling import Exchangeable, Law


class GradientMatrix(Operator):
    """``∇𝓛(θ)``, d x n, of an empirical risk, without storing it. Raises WrongType for anything but a risk.

    ``∇𝓛 @ w`` costs a backward pass for weights w of shape (n,), ``∇𝓛.T @ u`` a forward-mode pass for u of shape (d,).

    >>> from support.sampling import MiniBatch
    >>> model, inputs = torch.nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    >>> risk = EmpiricalRisk(model, lambda outputs, targets: outputs[:, 0] - targets, (inputs, torch.zeros(3)))
    >>> gradients = GradientMatrix(risk)
    >>> gradients @ torch.tensor([1.0, 1.0, 0.0])
    tensor([1., 2.])
    >>> gradients.covariance(MiniBatch(3, 1)).diagonal()
    tensor([1.5556, 0.8889])
    """

    symmetric = False

    def __init__(self, risk: EmpiricalRisk):
        a_risk(risk)
        super().__init__((risk.d, risk.n), risk.dtype, risk.device)
        self.risk = risk
        self._mean: torch.Tensor | None = None

    @property
    def n(self) -> int:
        """The number of samples."""
        return self.risk.n

    @property
    def d(self) -> int:
        """The number of parameters."""
        return self.risk.d

    @property
    def theta(self) -> torch.Tensor:
        """The parameters, shape (d,)."""
        return self.risk.theta

    def _times(self, columns):
        """``∇𝓛 w = ∇(Σ_i w_i ℓ_i)``."""
        total = torch.zeros(self.d, columns.shape[1], dtype=self.dtype, device=self.device)
        for part in self.risk.parts():
            total += _each(self.risk.pull(part), columns[part])
        return total

    def _transposed_times(self, rows):
        """``∇𝓛ᵀ u``, the slope of every sample's loss along u."""
        return torch.cat([_each(self.risk.push(part), rows) for part in self.risk.parts()])

    @property
    def mean(self) -> torch.Tensor:
        """The loss gradient ``∇L = ∇𝓛 1/n``, shape (d,)."""
        if self._mean is None:
            self._mean = self @ torch.ones(self.n) / self.n  # 1/n is no number of a half-precision model
        return self._mean

    def columns(self) -> Iterator[torch.Tensor]:
        """Per-sample gradients, chunk by chunk: tensors of shape (d, at most chunk)."""
        return (finite(self.risk.columns(part)) for part in self.risk.parts())

    def dense(self, limit_bytes: float = 2**33) -> torch.Tensor:
        """The matrix itself, shape (d, n). Raises Refused where its n·d numbers exceed ``limit_bytes``."""
        self.refuse_dense(limit_bytes)
        return torch.cat(list(self.columns()), dim=1)

    def fisher(self) -> NoiseCovariance:
        """The empirical Fisher ``F = ∇𝓛∇𝓛ᵀ/n`` as an operator."""
        return NoiseCovariance(self, Exchangeable(self.n, 1 / self.n, 0.0))

    def covariance(self, law: Law) -> NoiseCovariance:
        """``C = ∇𝓛 Var[W] ∇𝓛ᵀ`` of one step under a law of W on these n samples, as an operator. Raises WrongType for
        no law, Refused for one of another n.
        """
        if not isinstance(law, Law):
            raise WrongType(f"law = {law!r} is no law of the sampling vector: give one, such as MiniBatch(n, b)")
        if law.n != self.n:
            raise Refused(
                f"the law is for n = {law.n} samples, the gradient matrix has {self.n}: give the law this number of "
                f"samples"
            )
        return NoiseCovariance(self, law.covariance)


class NoiseCovariance(Operator):
    """``∇𝓛 (aI + c11ᵀ) ∇𝓛ᵀ``, d x d, symmetric, without storing it: the empirical Fisher, or the gradient covariance
    C(θ) of a law.

    A product costs one forward-mode and one backward pass over the samples (and, the first time, one backward pass for
    ∇L where c is not 0).

    >>> from support.sampling import MiniBatch
    >>> model, inputs = torch.nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> risk = EmpiricalRisk(model, lambda outputs, targets: outputs[:, 0] - targets, (inputs, torch.zeros(2)))
    >>> fisher, covariance = GradientMatrix(risk).fisher(), GradientMatrix(risk).covariance(MiniBatch(2, 1))
    >>> fisher.trace() - covariance.trace(), covariance.gradients.mean.square().sum()  # F − C = ∇L ∇Lᵀ for b = 1
    (tensor(1.2500), tensor(1.2500))
    >>> fisher.rank, covariance.rank
    (2, 1)
    """

    def __init__(self, gradients: GradientMatrix, weights: Exchangeable):
        super().__init__((gradients.d, gradients.d), gradients.dtype, gradients.device)
        self.gradients, self.weights = gradients, weights
        self._a, self._c = float(weights.a), float(weights.c)

    @property
    def rank(self) -> int:
        """The largest rank that the matrix can have: d, or the rank of the weights' covariance, n, less one where the
        weights have a fixed sum.
        """
        return min(self.gradients.d, self.gradients.n - (self.weights.total_variance == 0))

    def _times(self, columns):
        g, total = self.gradients, torch.zeros_like(columns)
        for part in g.risk.parts():
            total += _each(g.risk.pull(part), _each(g.risk.push(part), columns))
        total *= self._a
        return total + self._c * g.n**2 * torch.outer(g.mean, g.mean @ columns) if self._c else total

    def dense(self, limit_bytes: float = 2**31) -> torch.Tensor:
        """The matrix itself, shape (d, d), summed over chunks of per-sample gradients. Raises Refused where its d²
        numbers exceed ``limit_bytes``.
        """
        g = self.gradients
        self.refuse_dense(limit_bytes)
        total = torch.zeros(g.d, g.d, dtype=g.dtype, device=g.device)
        for columns in g.columns():
            total.addmm_(columns, columns.T)
        total *= self._a
        return total.add_(torch.outer(g.mean, g.mean), alpha=self._c * g.n**2) if self._c else total

    def diagonal(self) -> torch.Tensor:
        """The diagonal, shape (d,), exact: sums of squared per-sample gradients, less their mean where that does not
        count, chunk by chunk.
        """
        g = self.gradients
        if not self._c:
            return sum(columns.square().sum(1) for columns in g.columns()) * self._a
        # squares of deviations, not a difference of squares: a mean gradient far above the noise would leave only its
        # rounding
        spread = sum((columns - g.mean[:, None]).square().sum(1) for columns in g.columns())
        return self._a * spread + g.n * float(self.weights.a + g.n * self.weights.c) * g.mean.square()

    def trace(self) -> torch.Tensor:
        """The trace, exact."""
        return self.diagonal().sum()

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One Gaussian vector with this covariance, shape (d,), for one backward pass: ``∇𝓛 V`` with V Gaussian of
        covariance aI + c11ᵀ.

        generator: a torch generator, on the CPU for the same draw on every device. Raises WrongType for anything else.
        """
        g = self.gradients
        white = torch.randn(g.n, generator=torch_generator(generator), dtype=g.dtype, device=generator.device)
        # aI + c11ᵀ has eigenvalue a on vectors that sum to zero and a + nc along 1: its root changes the mean of white
        # noise alone
        along = math.sqrt(max(self._a + g.n * self._c, 0.0)) - math.sqrt(self._a)
        return g @ (math.sqrt(self._a) * white + along * white.mean())

    def estimate_trace(self, probes: int, generator: torch.Generator, confidence: float = 0.95) -> Interval:
        """The trace from `probes` draws, ``E|v|²``: one backward pass each, no per-sample gradients; `skewed` interval.

        Raises Refused for fewer than 2 probes, or a confidence outside (0, 1).
        """
        powers = [v.square().sum() for v in self._draws(probes, generator, confidence)]
        return skewed(torch.stack(powers), confidence)

    def estimate_diagonal(self, probes: int, generator: torch.Generator, confidence: float = 0.95) -> Interval:
        """The diagonal from `probes` draws; the exact χ² interval of a Gaussian variance, for each coordinate alone.
        Sums as it goes: memory 2d.

        Raises as `estimate_trace`.
        """
        total = sum(v.square() for v in self._draws(probes, generator, confidence))
        return mean_square(total / probes, probes, confidence)

    def _draws(self, probes: int, generator: torch.Generator, confidence: float) -> Iterator[torch.Tensor]:
        check_probes(probes, confidence)
        torch_generator(generator)
        return (self.draw(generator) for _ in range(probes))


def _each(product: Callable[[torch.Tensor], torch.Tensor], columns: torch.Tensor) -> torch.Tensor:
    """The product with every column."""
    return torch.stack([product(column) for column in columns.T], dim=1)


def check_probes(probes: int, confidence: float) -> None:
    """Refuse what gives no interval. Raises Refused for fewer than 2 probes, or a confidence outside (0, 1).

    >>> check_probes(1, 0.95)
    Traceback (most recent call last):
    ...
    support.errors.Refused: probes = 1 is out of range: draw at least 2 for an interval
    """
    integer("probes", probes, low=2, why="draw at least 2 for an interval")
    probability("confidence", confidence)
