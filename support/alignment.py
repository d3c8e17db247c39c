r"""Does the noise look where the loss is curved? Expected sharpness, the indicator Tr(HC), the projection coefficient,
and how alike two matrices are.

Zhu et al. 2019 measure how fast noise of covariance C leaves a minimum of Hessian H by the *indicator* Tr(HC).
Isotropic noise of the same power, ``C̄ = (Tr C/d) I``, has the indicator Tr H Tr C/d. With h₁, u₁ the first eigenpair
of H, the noise along u₁ against its fair share by curvature is the *projection coefficient*

    â = (u₁ᵀ C u₁ / Tr C) · (Tr H / h₁)                                        (Zhu et al. 2019, Eq. (16) and Figure 5)

and for H ⪰ 0 the ratio of the two indicators lies between two numbers that follow from these:

    â d (h₁/Tr H)²  ≤  Tr(HC) / (Tr H Tr C/d)  ≤  d h₁/Tr H                    (Proposition 1, repaired)

Ratio, â and bounds do not change when C is multiplied by a number, such as 1/b. Operators are those of
`support.gradients` and `support.curvature`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from support.errors import Refused

if TYPE_CHECKING:  # torch is imported where a function needs it: the record `Alignment` also serves modules without it
    import torch

    from support.curvature import Curvature, Spectrum
    from support.gradients import Estimate, GradientMatrix, NoiseCovariance


@dataclass(frozen=True)
class Alignment:
    """What noise of covariance C and curvature H have to do with each other: three traces and the first eigendirection
    u₁ of H.

    d: parameters.  trace_hessian: Tr H.  trace_covariance: Tr C.  trace_product: Tr(HC).  largest: h₁.  along: u₁ᵀCu₁.
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
        return self.trace_product / self.isotropic

    @property
    def projection(self) -> float:
        """The projection coefficient â."""
        return self.along * self.trace_hessian / (self.largest * self.trace_covariance)

    @property
    def lower_bound(self) -> float:
        """``â d (h₁/Tr H)²``, never above `ratio` where H ⪰ 0."""
        return self.projection * self.d * (self.largest / self.trace_hessian) ** 2

    @property
    def upper_bound(self) -> float:
        """``d h₁/Tr H``, never below `ratio` where Tr H > 0: the ratio if all noise went along u₁."""
        return self.d * self.largest / self.trace_hessian


def alignment(hessian, covariance: NoiseCovariance, spectrum: Spectrum) -> Alignment:
    """All numbers exactly, from per-sample gradients: n + 1 Hessian products for Tr(HC) and d for Tr H.

    hessian: symmetric d x d, anything with ``@`` and ``shape``.  spectrum: ``leading(hessian, k)`` of
    `support.curvature`, of which the first pair is (h₁, u₁). Raises ValueError for a Hessian or eigenvectors of another
    size.
    """
    largest, along = _first(hessian, covariance, spectrum)
    return Alignment(
        d=covariance.gradients.d,
        trace_hessian=float(_trace(hessian, covariance.gradients)),
        trace_covariance=float(covariance.trace()),
        trace_product=float(indicator(hessian, covariance)),
        largest=largest,
        along=along,
    )


class EstimatedAlignment(NamedTuple):
    """`central`: the numbers at the middle of their intervals.  `intervals`: Estimates of trace_hessian, trace_product,
    ratio and projection, by name.
    """

    central: Alignment
    intervals: Mapping[str, Estimate]


def estimate_alignment(
    hessian: Curvature,
    covariance: NoiseCovariance,
    spectrum: Spectrum,
    probes: int,
    generator: torch.Generator,
    level: float = 0.95,
) -> EstimatedAlignment:
    """As `alignment`, with Tr H and Tr(HC) from `probes` draws each: 2·probes Hessian products. What the pairs of
    `spectrum` contribute is exact.

    Tr C, h₁ and u₁ᵀCu₁ are exact. The ratio's interval divides the ends of two intervals of confidence (1 + level)/2
    (Bonferroni). Student's interval is approximate here, for the draws are quadratic forms of a skewed law: with few
    known pairs and fewer than ten probes it covers less than it says. Raises ValueError as `alignment` and
    `estimate_indicator`, and where the interval of Tr H contains 0, which gives no ratio.
    """
    largest, along = _first(hessian, covariance, spectrum)
    strict = (1 + level) / 2
    product = estimate_indicator(hessian, covariance, probes, generator, level, known=spectrum)
    trace = hessian.estimate_trace(probes, generator, level, known=spectrum)
    wide_product, wide_trace = _at_level(product, strict), _at_level(trace, strict)
    if not wide_trace.low > 0:
        raise Refused(
            f"{probes} probes leave Tr H in [{float(wide_trace.low):.3g}, {float(wide_trace.high):.3g}], which gives "
            f"no ratio: use more probes"
        )
    power, d = float(covariance.trace()), covariance.gradients.d
    ends = [
        d / power * end / bound
        for end in (wide_product.low, wide_product.high)
        for bound in (wide_trace.low, wide_trace.high)
    ]
    share = along / (largest * power)
    return EstimatedAlignment(
        Alignment(d, float(trace.value), power, float(product.value), largest, along),
        {
            "trace_hessian": trace,
            "trace_product": product,
            "ratio": replace(product, value=d / power * product.value / trace.value, low=min(ends), high=max(ends)),
            "projection": replace(trace, value=share * trace.value, low=share * trace.low, high=share * trace.high),
        },
    )


def indicator(hessian, covariance: NoiseCovariance) -> torch.Tensor:
    """Tr(HC) exactly, ``a Σ_i ∇ℓ_iᵀH∇ℓ_i + c n² ∇LᵀH∇L`` for weights of covariance aI + c11ᵀ: n + 1 Hessian products,
    one chunk of gradients at a time.
    """
    g, weights = covariance.gradients, covariance.weights
    total = float(weights.a) * sum((columns * (hessian @ columns)).sum() for columns in g.columns())
    return total + float(weights.c) * g.n**2 * (g.mean @ (hessian @ g.mean)) if weights.c else total


def estimate_indicator(
    hessian,
    covariance: NoiseCovariance,
    probes: int,
    generator: torch.Generator,
    level: float = 0.95,
    *,
    known: Spectrum | None = None,
) -> Estimate:
    """Tr(HC) = E vᵀHv over `probes` Gaussian draws v of the noise: one backward pass and one Hessian product each, no
    per-sample gradients; Student interval.

    known: eigenpairs of H from `support.curvature.leading`; their part ``Σ h_k u_kᵀCu_k`` is then exact, and only what
    is orthogonal to them is estimated. Raises ValueError for fewer than 2 probes, or a level outside (0, 1).
    """
    import torch

    from support.gradients import check_probes, student_interval

    check_probes(probes, level)
    noise = torch.stack([covariance.draw(generator) for _ in range(probes)], dim=1)
    exact = 0.0
    if known is not None:
        noise = noise - known.vectors @ (known.vectors.T @ noise)
        exact = known.values @ (known.vectors * (covariance @ known.vectors)).sum(0)
    return student_interval(exact + (noise * (hessian @ noise)).sum(0), level)


def expected_sharpness(
    gradients: GradientMatrix,
    sigma: float,
    draws: int,
    generator: torch.Generator,
    *,
    absolute: bool = False,
    paired: bool = True,
    level: float = 0.95,
) -> Estimate:
    """``E L(θ+ν) − L(θ)``, ν ~ N(0, σ²I): to second order ``(σ²/2) Tr H`` (Zhu et al. 2019, Section 5.3). Costs `draws`
    evaluations of the loss.

    absolute: the mean of ``|L(θ+ν) − L(θ)|`` instead, which is about ``σ √(2/π) |∇L|`` where the gradient counts (the
    authors' released code). paired: draw ν and −ν together and count a pair as one observation; the slope at θ then
    cancels from the signed mean. Raises ValueError for σ ≤ 0, fewer than 2 observations, an odd number of draws in
    pairs, or a level outside (0, 1).
    """
    import torch

    from support.gradients import check_probes, finite, student_interval

    if not sigma > 0:
        raise Refused(f"sigma = {sigma} shakes nothing: give sigma > 0, such as 0.01")
    if paired and draws % 2:
        raise Refused(f"draws = {draws} is odd: give an even number for pairs ν, −ν, or paired=False")
    check_probes(draws // 2 if paired else draws, level)
    theta = gradients.theta
    here = gradients.losses().mean()

    def change(noise):
        difference = _mean_loss(gradients, theta + noise) - here
        return difference.abs() if absolute else difference

    observations = []
    for _ in range(draws // 2 if paired else draws):
        noise = sigma * torch.randn(theta.shape, generator=generator, dtype=theta.dtype).to(theta.device)
        observations.append((change(noise) + change(-noise)) / 2 if paired else change(noise))
    return student_interval(finite(torch.stack(observations)), level)


@dataclass(frozen=True)
class Likeness:
    """How alike two symmetric matrices are. `intervals` is None where the numbers are exact, else (low, high) by name.

    trace_ratio: Tr A/Tr B.  cosine: ⟨A, B⟩/(|A| |B|).  distance: |A − B|/|B|, with ⟨A, B⟩ = Tr(AᵀB) and Frobenius
    norms.
    """

    trace_ratio: float
    cosine: float
    distance: float
    intervals: Mapping[str, tuple[float, float]] | None = None


def likeness(
    A, B, *, probes: int | None = None, generator: torch.Generator | None = None, level: float = 0.95
) -> Likeness:
    """Compare two d x d matrices: tensors, or operators with ``@``, ``shape`` and ``gradients.theta`` such as those of
    `support.gradients`.

    probes: None multiplies by the identity, 2d products, exact; a number draws so many Gaussian vectors from
    `generator`, with jackknife intervals. Raises ValueError for matrices of different sizes, a zero A or B, fewer than
    3 probes, probes without a generator, or a level outside (0, 1).
    """
    import torch
    from scipy import stats

    from support.gradients import check_probes

    check_probes(probes or 3, level)
    if tuple(A.shape) != tuple(B.shape):
        raise Refused(f"the matrices are {tuple(A.shape)} and {tuple(B.shape)}: compare matrices of one size")
    if probes is not None and (probes < 3 or generator is None):
        raise Refused(
            f"probes = {probes}, generator = {generator}: give at least 3 probes and a generator to draw them, or "
            f"probes=None for exact numbers"
        )
    like = A if isinstance(A, torch.Tensor) else A.gradients.theta
    d = A.shape[0]
    Z = torch.eye(d) if probes is None else torch.randn(d, probes, generator=generator)
    Z = Z.to(dtype=like.dtype, device=like.device)
    AZ, BZ = A @ Z, B @ Z
    sums = torch.stack(
        [
            (Z * AZ).sum(0),
            (Z * BZ).sum(0),
            (AZ * BZ).sum(0),
            AZ.square().sum(0),
            BZ.square().sum(0),
            (AZ - BZ).square().sum(0),
        ]
    ).double()
    for k, which in ((3, "first"), (4, "second")):
        if not sums[k].any():
            raise Refused(f"the {which} matrix is zero: compare matrices that are not")

    def numbers(total):
        a, b, ab, aa, bb, gap = total
        return torch.stack([a / b, ab / (aa * bb).sqrt(), (gap / bb).sqrt()])

    values = numbers(sums.sum(1))
    names = ("trace_ratio", "cosine", "distance")
    if probes is None:
        return Likeness(**dict(zip(names, values.tolist(), strict=True)))
    left_out = torch.stack([numbers(sums.sum(1) - one) for one in sums.T])
    half = float(stats.t.ppf((1 + level) / 2, probes - 1)) * ((probes - 1) ** 2 / probes * left_out.var(0)).sqrt()
    intervals = {name: (float(value - h), float(value + h)) for name, value, h in zip(names, values, half, strict=True)}
    return Likeness(**dict(zip(names, values.tolist(), strict=True)), intervals=intervals)


# --- what the above is made of


def _first(hessian, covariance, spectrum) -> tuple[float, float]:
    """h₁ and u₁ᵀCu₁."""
    u, d = spectrum.vectors[:, 0], covariance.gradients.d
    if tuple(hessian.shape) != (d, d) or len(u) != d:
        raise Refused(
            f"the Hessian is {tuple(hessian.shape)} and its eigenvector has shape {tuple(u.shape)}: they must be "
            f"({d}, {d}) and ({d},)"
        )
    return float(spectrum.values[0]), float(u @ (covariance @ u))


def _trace(hessian, gradients, block: int = 256):
    """Tr H by d products, a block of unit vectors at a time."""
    import torch

    total, d, theta = 0.0, gradients.d, gradients.theta
    for start in range(0, d, block):
        units = torch.zeros(d, min(block, d - start), dtype=theta.dtype, device=theta.device)
        units[range(start, start + units.shape[1]), range(units.shape[1])] = 1
        total = total + (units * (hessian @ units)).sum()
    return total


def _at_level(estimate: Estimate, level: float) -> Estimate:
    """The same Student interval at another level."""
    from scipy import stats

    factor = float(
        stats.t.ppf((1 + level) / 2, estimate.probes - 1)
        / stats.t.ppf((1 + estimate.confidence) / 2, estimate.probes - 1)
    )
    low, high = (estimate.value + factor * (end - estimate.value) for end in (estimate.low, estimate.high))
    return replace(estimate, low=low, high=high, confidence=level)


def _mean_loss(gradients, theta):
    import torch

    with torch.no_grad():
        return torch.cat([gradients.losses_at(theta, part) for part in gradients.parts()]).mean()
