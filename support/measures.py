r"""Measures by name of how noisy a gradient is: noise scale, critical batch size, diversity.

With g_i = ∇ℓ_i the gradients of n samples, g their mean and C₁ = Σ (g_i − g)(g_i − g)ᵀ/n the covariance of one of them:

    B_simple = Tr C₁ / |g|²              gradient noise scale (McCandlish et al. 2018, Section 2.2)
    B_noise  = Tr(H C₁) / gᵀHg           the same seen by the curvature: the critical batch size of the same model
    n Δ      = n Σ |g_i|² / |Σ g_i|²     batch-size bound from the gradient diversity Δ (Yin et al. 2018, Definition 1)

All count samples. At a batch size of B_noise a step of SGD at its best learning rate gains half of what one of GD
gains. ``n Δ = 1 + B_simple`` on the same samples. Each is exact on the n samples at hand; where these are a sample of a
larger set, the estimate has an interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from support.errors import Refused, WrongType, probability
from support.gradients import GradientMatrix
from support.intervals import Interval
from support.sampling import MiniBatch


def gradient_noise_scale(gradients: GradientMatrix) -> float:
    """``B_simple = Tr C₁/|∇L|²``, in samples, exact on the n samples; infinite where the mean gradient is 0.

    Source: McCandlish et al. (2018), An Empirical Model of Large-Batch Training, Section 2.2. Costs one pass of
    per-sample gradients. Raises WrongType, or Refused where every gradient is 0, as at an exact fit.

    >>> from support.risk import EmpiricalRisk
    >>> model, inputs = torch.nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [3.0]])
    >>> risk = EmpiricalRisk(model, lambda outputs, targets: outputs[:, 0], (inputs, torch.zeros(2)))
    >>> gradient_noise_scale(GradientMatrix(risk))  # gradients 1 and 3: variance 1, mean 2
    0.25
    """
    powers = _powers(gradients)
    return _over(powers.spread / powers.n, powers.mean_square)


def gradient_diversity(gradients: GradientMatrix) -> float:
    """``Δ = Σ|∇ℓ_i|²/|Σ∇ℓ_i|²``, no units, at least 1/n: 1/n where all gradients are equal, 1 for orthogonal ones.

    ``n Δ`` is the batch size up to which mini-batches are as good as single samples. Source: Yin et al. (2018),
    Gradient Diversity: a Key Ingredient for Scalable Distributed Learning, Definition 1. Cost and errors as for
    `gradient_noise_scale`.

    >>> from support.risk import EmpiricalRisk
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> risk = EmpiricalRisk(model, lambda outputs, targets: outputs[:, 0], (torch.eye(2), torch.zeros(2)))
    >>> gradient_diversity(GradientMatrix(risk))  # gradients (1, 0) and (0, 1)
    1.0
    """
    powers = _powers(gradients)
    return _over(powers.squares.sum() / powers.n, powers.mean_square) / powers.n


def critical_batch_size(gradients: GradientMatrix, hessian) -> float:
    """``B_noise = Tr(H C₁)/(∇LᵀH∇L)``, in samples, exact on the n samples: n + 1 products with H.

    hessian: d x d, anything with ``@`` and ``shape``. With H = I it is `gradient_noise_scale`. Source: McCandlish et
    al. (2018), Section 2.2. Raises WrongType, or Refused for a matrix of another size, or ``∇LᵀH∇L ≤ 0``, where a step
    along the gradient has no best length.

    >>> from support.risk import EmpiricalRisk
    >>> model, inputs = torch.nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [3.0]])
    >>> risk = EmpiricalRisk(model, lambda outputs, targets: outputs[:, 0], (inputs, torch.zeros(2)))
    >>> critical_batch_size(GradientMatrix(risk), torch.tensor([[5.0]]))
    0.25
    """
    curved = _curved(gradients, hessian)
    total, mean = 0.0, gradients.mean[:, None]
    for columns in gradients.columns():
        total += float(((columns - mean) * (hessian @ (columns - mean))).sum())
    return total / gradients.n / curved


def estimate_gradient_noise_scale(gradients: GradientMatrix, confidence: float = 0.95) -> Interval:
    """``B_simple`` of the set that the n samples were drawn from, with an interval, from one pass of their gradients.

    ``|g|²`` of n samples is too large by Tr C₁/n on average; without this share, and with n − 1 in Tr C₁, both are
    unbiased (McCandlish et al. 2018, Appendix A). The interval is that of Student with the jackknife's standard error
    for |g|²/Tr C₁, turned over: where it reaches 0, noise may be all there is, and B_simple has no upper end (infinite;
    the value too where the estimate of |g|² is not positive). Where |g|² is small against Tr C₁/n the jackknife's error
    is too large and the interval covers more than it says. Raises WrongType, or Refused for fewer than 3 samples, a
    confidence outside (0, 1), or gradients that are all equal.

    >>> from support.risk import EmpiricalRisk
    >>> inputs = 1 + torch.randn(100, 1, generator=torch.Generator().manual_seed(0))  # gradients: mean 1, variance 1
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> risk = EmpiricalRisk(model, lambda outputs, targets: outputs[:, 0], (inputs, torch.zeros(100)))
    >>> found = estimate_gradient_noise_scale(GradientMatrix(risk))
    >>> bool(found.low < 1 < found.high)
    True
    """
    from scipy import stats

    probability("confidence", confidence)
    powers = _powers(gradients)
    n, squares, along, mean_square = powers.n, powers.squares, powers.along, powers.mean_square
    if n < 3 or not powers.spread > 0:
        raise Refused(
            f"{n} gradients with a sum of squared deviations {float(powers.spread):g} have no noise scale: "
            f"give at least 3 samples whose gradients differ"
        )

    def signal(count, square_sum, square_of_mean):
        """|g|² over Tr C₁, both unbiased."""
        trace = (square_sum - count * square_of_mean) / (count - 1)
        return square_of_mean / trace - 1 / count

    whole = mean_square * (n - 1) / powers.spread - 1 / n
    without = (n**2 * mean_square - 2 * n * along + squares) / (n - 1) ** 2  # |g|² without sample i
    left = signal(n - 1, squares.sum() - squares, without)
    error = math.sqrt((n - 1) ** 2 / n * float(left.var()))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    ends = (float(whole), float(whole) + half, float(whole) - half)
    value, low, high = (1 / end if end > 0 else math.inf for end in ends)
    return Interval(value, low, high, confidence, n, "jackknife")


def estimate_critical_batch_size(
    gradients: GradientMatrix, hessian, probes: int, generator: torch.Generator, confidence: float = 0.95, *, known=None
) -> Interval:
    """``B_noise`` on the n samples, with Tr(H C₁) from `probes` draws of the noise: no per-sample gradients.

    known, errors: as for `support.alignment.estimate_indicator`, and those of `critical_batch_size`.

    >>> from support.risk import EmpiricalRisk
    >>> model, inputs = torch.nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [3.0]])
    >>> risk = EmpiricalRisk(model, lambda outputs, targets: outputs[:, 0], (inputs, torch.zeros(2)))
    >>> dice = torch.Generator().manual_seed(0)
    >>> found = estimate_critical_batch_size(GradientMatrix(risk), torch.tensor([[5.0]]), 100, dice)
    >>> bool(found.low < 0.25 < found.high)
    True
    """
    from support.alignment import estimate_indicator

    curved = _curved(gradients, hessian)
    one = gradients.covariance(MiniBatch(gradients.n, 1))
    found = estimate_indicator(hessian, one, probes, generator, confidence, known=known)
    return found.map(lambda product: product / curved)


# --- what the above is made of


@dataclass(frozen=True)
class _Powers:
    """Of n gradients: |g_i|² and g_iᵀg, shape (n,); |g|²; and Σ|g_i − g|², in float64."""

    n: int
    squares: torch.Tensor
    along: torch.Tensor
    mean_square: torch.Tensor
    spread: torch.Tensor


def _powers(gradients: GradientMatrix) -> _Powers:
    if not isinstance(gradients, GradientMatrix):
        raise WrongType(f"gradients is of type {type(gradients).__name__}: give a support.gradients.GradientMatrix")
    mean = gradients.mean.double()
    squares, along, spread = [], [], 0.0
    for columns in gradients.columns():
        wide = columns.double()
        squares, along = [*squares, wide.square().sum(0)], [*along, mean @ wide]
        spread = spread + (wide - mean[:, None]).square().sum()
    return _Powers(gradients.n, torch.cat(squares), torch.cat(along), mean.square().sum(), spread)


def _over(power: torch.Tensor, mean_square: torch.Tensor) -> float:
    if not power > 0 and not mean_square > 0:
        raise Refused("every gradient is 0, so that there is neither signal nor noise: measure before an exact fit")
    return float(power / mean_square)


def _curved(gradients: GradientMatrix, hessian) -> float:
    """∇LᵀH∇L."""
    if not isinstance(gradients, GradientMatrix):
        raise WrongType(f"gradients is of type {type(gradients).__name__}: give a support.gradients.GradientMatrix")
    if tuple(getattr(hessian, "shape", ())) != (gradients.d, gradients.d):
        raise Refused(f"hessian is no matrix of shape ({gradients.d}, {gradients.d}): give one, such as Hessian(risk)")
    curved = float(gradients.mean @ (hessian @ gradients.mean))
    if not curved > 0:
        raise Refused(
            f"∇LᵀH∇L = {curved:g}: there is no critical batch size where the loss is not curved upwards along "
            f"its gradient"
        )
    return curved
