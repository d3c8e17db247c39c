r"""Does the noise look where the loss is curved? The indicator Tr(HC), the projection coefficient, and how alike two
matrices are.

Zhu et al. 2019 measure how fast noise of covariance C leaves a minimum of Hessian H by the *indicator* Tr(HC).
Isotropic noise of the same power, ``C̄ = (Tr C/d) I``, has the indicator Tr H Tr C/d. With h₁, u₁ the first eigenpair
of H, the noise along u₁ against its fair share by curvature is the *projection coefficient*

    â = (u₁ᵀ C u₁ / Tr C) · (Tr H / h₁)                                        (Zhu et al. 2019, Eq. (16) and Figure 5)

and for H ⪰ 0 the ratio of the two indicators lies between two numbers that follow from these:

    â d (h₁/Tr H)²  ≤  Tr(HC) / (Tr H Tr C/d)  ≤  d h₁/Tr H                    (Proposition 1, repaired)

Ratio, â and bounds do not change when C is multiplied by a number, such as 1/b. C is a
`support.gradients.NoiseCovariance`, H an operator of `support.operators` or a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from support.errors import Refused, WrongType, integer, probability, torch_generator
from support.intervals import Interval, skewed

if TYPE_CHECKING:  # torch is imported where a function needs it: the record `Alignment` also serves modules without it
    import torch

    from support.gradients import NoiseCovariance
    from support.spectra import Spectrum


@dataclass(frozen=True)
class Alignment:
    """What noise of covariance C and curvature H have to do with each other: three traces and the first eigendirection
    u₁ of H.

    d: parameters.  trace_hessian: Tr H.  trace_covariance: Tr C.  trace_product: Tr(HC).  largest: h₁.  along: u₁ᵀCu₁.
    Quotients raise Refused where there is nothing to compare: no noise, or no curvature.

    >>> found = Alignment(d=2, trace_hessian=5.0, trace_covariance=5.0, trace_product=17.0, largest=4.0, along=4.0)
    >>> found.projection, found.ratio, found.upper_bound
    (1.0, 1.36, 1.6)
    """

    d: int
    trace_hessian: float
    trace_covariance: float
    trace_product: float
    largest: float
    along: float

    @property
    def isotropic(self) -> float:
        """Tr H Tr C/d, the indicator of isotropic noise of the same power."""
        return self.trace_hessian * self.trace_covariance / self.d

    @property
    def ratio(self) -> float:
        """The indicator Tr(HC) over that of isotropic noise of the same power."""
        return _quotient(self.trace_product, self.isotropic, "Tr H Tr C/d")

    @property
    def projection(self) -> float:
        """The projection coefficient â."""
        return _quotient(self.along * self.trace_hessian, self.largest * self.trace_covariance, "h₁ Tr C")

    @property
    def lower_bound(self) -> float:
        """``â d (h₁/Tr H)²``, never above `ratio` where H ⪰ 0."""
        return self.projection * self.d * _quotient(self.largest, self.trace_hessian, "Tr H") ** 2

    @property
    def upper_bound(self) -> float:
        """``d h₁/Tr H``, never below `ratio` where Tr H > 0: the ratio if all noise went along u₁."""
        return self.d * _quotient(self.largest, self.trace_hessian, "Tr H")


def alignment(hessian, covariance: NoiseCovariance, spectrum: Spectrum) -> Alignment:
    """All numbers exactly, from per-sample gradients: n + 1 Hessian products for Tr(HC), d for Tr H, seven to check.

    hessian: symmetric d x d.  spectrum: ``leading(hessian, k)`` of `support.spectra`, of which the first pair is (h₁,
    u₁). Raises WrongType, or Refused for a Hessian or eigenvectors of another size, and as
    `support.spectra.refuse_other_pairs`: an asymmetric H, pairs that are not its own, or not its first.

    >>> import torch
    >>> from support.curvature import Hessian
    >>> from support.gradients import GradientMatrix
    >>> from support.risk import EmpiricalRisk
    >>> from support.sampling import MiniBatch
    >>> from support.spectra import leading
    >>> model, inputs = torch.nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> squares = lambda outputs, targets: (outputs[:, 0] - targets).square() / 2
    >>> risk = EmpiricalRisk(model, squares, (inputs, torch.ones(2)), theta=torch.zeros(2))
    >>> hessian, covariance = Hessian(risk), GradientMatrix(risk).covariance(MiniBatch(2, 1))
    >>> alignment(hessian, covariance, leading(hessian, 1)).projection
    1.0
    """
    from support.operators import as_operator

    largest, along = _first(hessian, covariance, spectrum)
    return Alignment(
        d=covariance.shape[0],
        trace_hessian=float(as_operator(hessian).trace()),
        trace_covariance=float(covariance.trace()),
        trace_product=float(indicator(hessian, covariance)),
        largest=largest,
        along=along,
    )


class EstimatedAlignment(NamedTuple):
    """`central`: the numbers at the middle of their intervals.  `intervals`: of trace_hessian, trace_product, ratio and
    projection, by name.

    >>> central = Alignment(d=2, trace_hessian=5.0, trace_covariance=5.0, trace_product=17.0, largest=4.0, along=4.0)
    >>> found = EstimatedAlignment(central, {"ratio": Interval(1.36, 1.1, 1.7, 0.95, 100, "Hall")})
    >>> found.central.ratio, 1 in found.intervals["ratio"]  # more than isotropic noise has
    (1.36, False)
    """

    central: Alignment
    intervals: Mapping[str, Interval | None]


def estimate_alignment(
    hessian,
    covariance: NoiseCovariance,
    spectrum: Spectrum,
    probes: int,
    generator: torch.Generator,
    confidence: float = 0.95,
) -> EstimatedAlignment:
    """As `alignment`, with Tr H and Tr(HC) from `probes` draws each: 2·probes Hessian products and seven to check. What
    the pairs of `spectrum` contribute is exact.

    Tr C, h₁ and u₁ᵀCu₁ are exact. The ratio's interval divides the ends of two intervals of confidence (1 +
    confidence)/2 (Bonferroni); it is unbounded where the interval of Tr H contains 0, as for a network that is not
    trained. Without noise or curvature ratio and projection are None. Raises as `alignment` and `estimate_indicator`.

    >>> import torch
    >>> from support.gradients import GradientMatrix
    >>> from support.risk import EmpiricalRisk
    >>> from support.sampling import MiniBatch
    >>> from support.spectra import leading
    >>> samples = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2)
    >>> risk = EmpiricalRisk(torch.nn.Linear(2, 1, bias=False), lambda outputs, targets: outputs[:, 0], samples)
    >>> hessian, covariance = torch.diag(torch.tensor([1.0, 3.0])), GradientMatrix(risk).covariance(MiniBatch(2, 1))
    >>> found = estimate_alignment(hessian, covariance, leading(hessian, 2), 3, torch.Generator())
    >>> round(found.central.trace_hessian, 4), round(found.central.trace_product, 4)  # all pairs known: exact
    (4.0, 3.25)
    """
    from support.spectra import trace_draws

    strict = (1 + probability("confidence", confidence)) / 2
    largest, along = _first(hessian, covariance, spectrum)
    products = _indicator_draws(hessian, covariance, probes, generator, spectrum)
    traces = trace_draws(hessian, probes, generator, known=spectrum)
    product, trace = skewed(products, confidence), skewed(traces, confidence)
    power, d = float(covariance.trace()), covariance.shape[0]
    ratio = projection = None
    if power > 0 and float(trace.value):
        wide_product, wide_trace = skewed(products, strict), skewed(traces, strict)
        low, high = -math.inf, math.inf
        if 0 not in wide_trace:
            ends = [d / power * float(above / below) for above in wide_product.ends for below in wide_trace.ends]
            low, high = min(ends), max(ends)
        ratio = Interval(d / power * float(product.value / trace.value), low, high, confidence, len(traces), "Hall")
    if power > 0 and largest:
        share = along / (largest * power)
        low, high = sorted(share * float(end) for end in trace.ends)
        projection = Interval(share * float(trace.value), low, high, confidence, len(traces), "Hall")
    return EstimatedAlignment(
        Alignment(d, float(trace.value), power, float(product.value), largest, along),
        {"trace_hessian": trace, "trace_product": product, "ratio": ratio, "projection": projection},
    )


def indicator(hessian, covariance: NoiseCovariance) -> torch.Tensor:
    """Tr(HC) exactly, ``a Σ_i ∇ℓ_iᵀH∇ℓ_i + c n² ∇LᵀH∇L`` for weights of covariance aI + c11ᵀ: n + 1 Hessian products,
    one chunk of gradients at a time. Raises WrongType, or Refused for a Hessian of another size.

    >>> import torch
    >>> from support.gradients import GradientMatrix
    >>> from support.risk import EmpiricalRisk
    >>> from support.sampling import MiniBatch
    >>> samples = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2)
    >>> risk = EmpiricalRisk(torch.nn.Linear(2, 1, bias=False), lambda outputs, targets: outputs[:, 0], samples)
    >>> hessian, covariance = torch.diag(torch.tensor([1.0, 3.0])), GradientMatrix(risk).covariance(MiniBatch(2, 1))
    >>> indicator(hessian, covariance)  # 1 · 0.25 + 3 · 1
    tensor(3.2500)
    """
    _refuse_other_sizes(hessian, covariance)
    g, weights = covariance.gradients, covariance.weights
    total = float(weights.a) * sum((columns * (hessian @ columns)).sum() for columns in g.columns())
    return total + float(weights.c) * g.n**2 * (g.mean @ (hessian @ g.mean)) if weights.c else total


def estimate_indicator(
    hessian,
    covariance: NoiseCovariance,
    probes: int,
    generator: torch.Generator,
    confidence: float = 0.95,
    *,
    known: Spectrum | None = None,
) -> Interval:
    """Tr(HC) = E vᵀHv over `probes` Gaussian draws v of the noise: one backward pass and one Hessian product each, no
    per-sample gradients; `support.intervals.skewed`, which says how often it covers.

    known: eigenpairs of H from `support.spectra.leading`; their part ``Σ h_k u_kᵀCu_k`` is then exact, and the rest
    is estimated. Pairs of another matrix change no expectation, as in `support.spectra.trace_draws`. Raises WrongType,
    or Refused for fewer than 2 probes, a Hessian of another size, or a confidence outside (0, 1).

    >>> import torch
    >>> from support.gradients import GradientMatrix
    >>> from support.risk import EmpiricalRisk
    >>> from support.sampling import MiniBatch
    >>> from support.spectra import leading
    >>> samples = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2)
    >>> risk = EmpiricalRisk(torch.nn.Linear(2, 1, bias=False), lambda outputs, targets: outputs[:, 0], samples)
    >>> hessian, covariance = torch.diag(torch.tensor([1.0, 3.0])), GradientMatrix(risk).covariance(MiniBatch(2, 1))
    >>> estimate_indicator(hessian, covariance, 3, torch.Generator(), known=leading(hessian, 2)).value
    tensor(3.2500)
    """
    probability("confidence", confidence)
    return skewed(_indicator_draws(hessian, covariance, probes, generator, known), confidence)


@dataclass(frozen=True)
class Likeness:
    """How alike two symmetric matrices are. `intervals` is None where the numbers are exact, else an interval by name.

    trace_ratio: Tr A/Tr B.  cosine: ⟨A, B⟩/(|A| |B|).  distance: |A − B|/|B|, with ⟨A, B⟩ = Tr(AᵀB) and Frobenius
    norms.

    >>> import torch
    >>> found = likeness(torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0])))
    >>> found.trace_ratio, found.cosine, round(found.distance, 4)  # of one size, and nothing in common
    (1.0, 0.0, 1.4142)
    """

    trace_ratio: float
    cosine: float
    distance: float
    intervals: Mapping[str, Interval] | None = None


def likeness(
    A, B, *, probes: int | None = None, generator: torch.Generator | None = None, confidence: float = 0.95
) -> Likeness:
    """Compare two symmetric d x d matrices: tensors or operators.

    probes: None multiplies by the identity, 2d products, exact; a number draws so many Gaussian vectors from
    `generator`, with jackknife intervals. Raises WrongType, or Refused for matrices of different sizes, a zero A or B,
    fewer than 3 probes, probes without a generator, or a confidence outside (0, 1).

    >>> import torch
    >>> likeness(2 * torch.eye(3), torch.eye(3))
    Likeness(trace_ratio=2.0, cosine=1.0, distance=1.0, intervals=None)
    """
    import torch
    from scipy import stats

    from support.operators import as_operator

    A, B = as_operator(A), as_operator(B)
    probability("confidence", confidence)
    if A.shape != B.shape or A.shape[0] != A.shape[1]:
        raise Refused(f"the matrices are {A.shape} and {B.shape}: compare square matrices of one size")
    if probes is None:
        Z = torch.eye(A.shape[0])
    else:
        integer("probes", probes, low=3, why="give at least 3 probes, or probes=None for exact numbers")
        Z = torch.randn(A.shape[0], probes, generator=torch_generator(generator), device=generator.device)
    Z = Z.to(dtype=A.dtype, device=A.device)
    AZ, BZ = A @ Z, B @ Z
    pairs = ((Z, AZ), (Z, BZ), (AZ, BZ), (AZ, AZ), (BZ, BZ), (AZ - BZ, AZ - BZ))
    sums = torch.stack([(one * other).sum(0) for one, other in pairs]).double()
    for k, which in ((3, "first"), (4, "second")):
        if not sums[k].any():
            raise Refused(f"the {which} matrix is zero: compare matrices that are not")

    def numbers(total):
        a, b, ab, aa, bb, gap = total
        return torch.stack([a / b, ab / (aa * bb).sqrt(), (gap / bb).sqrt()])

    names, values = ("trace_ratio", "cosine", "distance"), numbers(sums.sum(1))
    exact = dict(zip(names, values.tolist(), strict=True))
    if probes is None:
        return Likeness(**exact)
    left_out = torch.stack([numbers(sums.sum(1) - one) for one in sums.T])
    errors = ((probes - 1) ** 2 / probes * left_out.var(0)).sqrt().tolist()
    t = float(stats.t.ppf((1 + confidence) / 2, probes - 1))
    intervals = {
        name: Interval(value, value - t * error, value + t * error, confidence, probes, "jackknife")
        for (name, value), error in zip(exact.items(), errors, strict=True)
    }
    return Likeness(**exact, intervals=intervals)


# --- what the above is made of


def _indicator_draws(hessian, covariance, probes: int, generator, known) -> torch.Tensor:
    """Observations vᵀHv whose mean is Tr(HC), shape (probes,)."""
    import torch

    from support.spectra import a_spectrum

    _refuse_other_sizes(hessian, covariance)
    integer("probes", probes, low=2, why="draw at least 2 for an interval")
    torch_generator(generator)
    if known is not None:
        a_spectrum(known, covariance.shape[0])
    noise = torch.stack([covariance.draw(generator) for _ in range(probes)], dim=1)
    found = (noise * (hessian @ noise)).sum(0)
    if known is None:
        return found
    along = (known.vectors * (covariance @ known.vectors)).sum(0)
    return found - known.values @ ((known.vectors.T @ noise).square() - along[:, None])


def _first(hessian, covariance, spectrum) -> tuple[float, float]:
    """h₁ and u₁ᵀCu₁."""
    from support.spectra import refuse_other_pairs

    _refuse_other_sizes(hessian, covariance)
    refuse_other_pairs(hessian, spectrum)
    u = spectrum.vectors[:, 0]
    return float(spectrum.values[0]), float(u @ (covariance @ u))


def _refuse_other_sizes(hessian, covariance) -> None:
    from support.gradients import NoiseCovariance

    if not isinstance(covariance, NoiseCovariance):
        raise WrongType(f"covariance is of type {type(covariance).__name__}: give GradientMatrix(risk).covariance(law)")
    found, wanted = tuple(getattr(hessian, "shape", ())), covariance.shape
    if found != wanted:
        raise Refused(f"hessian of shape {found} does not fit the covariance's {wanted}: give both of one risk")


def _quotient(above: float, below: float, what: str) -> float:
    if not below:
        raise Refused(f"{what} = 0: without noise and curvature there is nothing to compare")
    return above / below
