r"""Local complexity of the losses of any torch model: bounds of it, from below by ascent and from above where known.

    R(V, θ, δ, n) = E_V (1/n) sup |Σ v_i ℓ_i(θ')|,   |θ' − θ| ≤ δ,   V = nW − 1          (Wu's talk, Section 3)

for the n samples of an `EmpiricalRisk`, in units of the loss. V has entries of the size of signs: it is n times the
sampling noise of a law of `support.sampling`, or signs or Gaussians alone. The supremum over a ball in R^d is not
known for a network; every point of the ball gives a bound from below (`LocalComplexity.lower`), never the value: the
weighted loss at the point that the ascent found, evaluated there once more, alone. From above there is a bound where
constants of the losses or a class of `support.exact.complexity` are given. A local complexity measures how far weighted
losses can be pushed apart near θ; it does not bound the generalisation error of θ, and SGD need not descend it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from support._ascent import ascend, at_centre, finite
from support._random import source
from support.errors import (
    Refused,
    array,
    boolean,
    choice,
    instance,
    integer,
    probability,
    real,
    torch_generator,
)
from support.exact.complexity import Losses, Quadratic
from support.intervals import Interval, student
from support.risk import EmpiricalRisk, a_risk
from support.sampling import Law


@dataclass(frozen=True, eq=False)
class LocalComplexity:
    """Bounds of a local complexity, in units of the loss. What functions here give.

    lower: mean over draws of V of the largest weighted loss found, with its Student interval: a bound from below.
    upper: that of the bounds from above; None where none is known.  draws: the largest found for each draw, (draws,);
    bounds: the bounds from above, or None.  centre: the weighted mean loss at θ, ``X = Σ v_i ℓ_i(θ)/n``, (draws,);
    slope: the length of its gradient, (draws,): to first order in δ the largest is ``|X| + δ|∇X|``.
    points: θ' − θ where the largest was found, (draws, d).  multipliers: V, (draws, n).

    >>> one, two = torch.ones(2), torch.tensor([1.0, 3.0])
    >>> LocalComplexity(student(two), None, two, None, one, one, torch.zeros(2, 1), torch.ones(2, 1))
    LocalComplexity(at least 2 [-10.71, 14.71], 2 draws)
    """

    lower: Interval
    upper: Interval | None
    draws: torch.Tensor
    bounds: torch.Tensor | None
    centre: torch.Tensor
    slope: torch.Tensor
    points: torch.Tensor
    multipliers: torch.Tensor

    def __repr__(self):
        parts = [f"{word} {found:.4g}" for word, found in (("at least", self.lower), ("at most", self.upper)) if found]
        return f"{type(self).__name__}({', '.join(parts)}, {len(self.draws)} draws)"


def multipliers(law: Law | str, n: int, draws: int, generator: torch.Generator) -> torch.Tensor:
    """Draws of the multipliers of n losses, (draws, n): V = nW − 1 for a law of W on n samples, independent fair signs
    for "signs", independent N(0, 1) for "Gaussian". For mini-batches ``v_i = c_i n/b − 1``.

    Raises WrongType, Refused for a law of another n.

    >>> from support.sampling import MiniBatch
    >>> multipliers(MiniBatch(4, 2, replace=False), 4, 3, torch.Generator().manual_seed(0)).sum(1)
    tensor([0., 0., 0.])
    """
    n, draws = integer("n", n, 1), integer("draws", draws, 1)
    torch_generator(generator)
    if isinstance(law, str):
        kind = choice("law", law, ("signs", "Gaussian"))
        return (source(generator).signs if kind == "signs" else source(generator).normal)((draws, n))
    instance("law", law, Law, "give 'signs', 'Gaussian', or one such as support.sampling.MiniBatch(n, b)")
    if law.n != n:
        raise Refused(f"the law is for n = {law.n} samples, the risk has {n}: give the law this number of samples")
    return n * law.sample(draws, generator) - 1


def local_complexity(
    risk: EmpiricalRisk,
    law: Law | str,
    delta: float,
    *,
    draws: int = 20,
    generator: torch.Generator,
    absolute: bool = True,
    steps: int = 20,
    restarts: int = 2,
    lipschitz=None,
    smooth=None,
    known: Losses | None = None,
    together: int | None = None,
    confidence: float = 0.95,
) -> LocalComplexity:
    """Bounds of ``E_V (1/n) sup |Σ v_i ℓ_i(θ')|`` over |θ' − θ| ≤ δ; absolute=False: without |·|.

    From below: projected gradient ascent with Barzilai-Borwein steps, for all draws at once, at one gradient a draw,
    step and restart. The first restart starts from θ, with the sign of the weighted loss there; with |·| the second
    starts from θ with the other sign, and so on in turn; further ones from random points of the ball.
    From above, for each draw, X its weighted mean loss at θ (the smallest of those that are given):

        lipschitz  |X| + (δ/n) Σ|v_i| L_i, where |ℓ_i(θ') − ℓ_i(θ)| ≤ L_i|θ' − θ| in the ball
        smooth     |X| + δ|Σ v_i ∇ℓ_i|/n + (δ²/2n) Σ|v_i| M_i, where |∇²ℓ_i| ≤ M_i in the ball; 0 for linear losses
        known      the supremum of a class of these losses, such as `expansion` for quadratic ones

    law: as for `multipliers`. delta: δ, in the units of θ. generator: a torch generator; V is drawn from it first, so
    that equal seeds compare risks, radii and settings on the same draws. lipschitz, smooth: a number, or one a sample,
    (n,). together: points θ' evaluated at once by vmap (None: 20 for n·d up to 500,000, else 1).

    Raises WrongType, Refused for δ ≤ 0, fewer than 2 draws, a law of another n, constants that are negative or of
    another shape; NotFinite for losses that are not finite at θ or where the ascent looks.

    >>> model, squares = torch.nn.Linear(1, 1, bias=False), lambda outputs, targets: (outputs[:, 0] - targets).square()
    >>> risk = EmpiricalRisk(model, squares, (torch.ones(4, 1), torch.zeros(4)), theta=torch.ones(1))
    >>> found = local_complexity(risk, "signs", 0.5, draws=4, generator=torch.Generator().manual_seed(1))
    >>> bool(torch.isclose(found.draws, 1.5**2 * found.multipliers.mean(1).abs()).all())  # |Σ v_i| θ'²/n, at θ' = 1.5
    True
    """
    a_risk(risk)
    delta, absolute = real("delta", delta, above=0), boolean("absolute", absolute)
    draws, steps, restarts = integer("draws", draws, 2), integer("steps", steps, 1), integer("restarts", restarts, 1)
    together = None if together is None else integer("together", together, 1)
    constants = {name: _constants(name, c, risk) for name, c in (("lipschitz", lipschitz), ("smooth", smooth))}
    _refuse_other_class(known, risk, delta)
    probability("confidence", confidence)
    V = multipliers(law, risk.n, draws, generator).to(risk.theta)
    centre, slopes = at_centre(risk, V)
    bounds = _from_above(risk, V, centre.abs() if absolute else centre, slopes, delta, absolute, known, **constants)

    how = {"steps": steps, "restarts": restarts, "absolute": absolute, "generator": generator, "together": together}
    _, points, _ = ascend(risk, V, centre, slopes, delta, **how)
    # the certificate: each point's weighted loss, evaluated alone
    largest = torch.stack([v @ risk.at(risk.theta + u).losses().to(v) / risk.n for v, u in zip(V, points, strict=True)])
    largest = finite(largest.abs() if absolute else largest, "in the ball")
    upper = None if bounds is None else student(bounds, confidence)
    return LocalComplexity(student(largest, confidence), upper, largest, bounds, centre, slopes.norm(dim=1), points, V)


def expansion(risk: EmpiricalRisk, delta: float) -> Quadratic:
    """The losses to second order at θ, ``ℓ_i + ∇ℓ_i·u + ½ uᵀ∇²ℓ_i u`` for |u| ≤ δ, as a class whose supremum is exact.

    For quadratic losses these are the losses; for others a model of them, and no bound. d is at most 100.
    Raises WrongType, NotFinite, Refused for larger d or δ ≤ 0.

    >>> model, squares = torch.nn.Linear(1, 1, bias=False), lambda outputs, targets: (outputs[:, 0] - targets).square()
    >>> risk = EmpiricalRisk(model, squares, (torch.ones(2, 1), torch.zeros(2)), theta=torch.ones(1))
    >>> expansion(risk, 0.5).suprema([[1.0, 1.0]])
    array([2.25])
    """
    a_risk(risk)
    delta = real("delta", delta, above=0)
    if risk.d > 100:
        raise Refused(f"d = {risk.d} needs {risk.d}² numbers a sample: choose at most 100 parameters, by parameters=")
    functional = torch.autograd.functional
    samples = [lambda t, i=i: risk.losses_at(t, slice(i, i + 1)).sum() for i in range(risk.n)]
    c = finite(risk.losses(), "at θ")
    x = torch.stack([functional.jacobian(one, risk.theta) for one in samples])
    H = torch.stack([functional.hessian(one, risk.theta) for one in samples])
    c, x, H = (numbers.double().cpu().numpy() for numbers in (c, x, H))
    return Quadratic(c, x, (H + H.transpose(0, 2, 1)) / 2, delta)


# --- from above -------------------------------------------------------------------------------------------------------


def _from_above(risk, V, size, slopes, delta, absolute, known, lipschitz, smooth):
    """The least of the bounds that are known, for each draw; None without one. size: |X|, or X without |·|."""
    weights, bounds = V.abs() / risk.n, []
    if lipschitz is not None:
        bounds.append(size + delta * weights @ lipschitz)
    if smooth is not None:
        bounds.append(size + delta * slopes.norm(dim=1) + delta**2 / 2 * weights @ smooth)
    if known is not None:
        bounds.append(torch.from_numpy(known.suprema(V.double().cpu().numpy(), absolute)).to(V))
    return torch.stack(bounds).min(0).values if bounds else None


def _constants(name: str, value, risk: EmpiricalRisk):
    """A constant ≥ 0 of each sample, (n,), from one number or n."""
    if value is None:
        return None
    numbers = value.tolist() if isinstance(value, torch.Tensor) else value
    single = isinstance(numbers, (int, float)) and not isinstance(numbers, bool)
    found = array(name, [numbers] * risk.n if single else numbers, (risk.n,))
    if (found < 0).any():
        raise Refused(f"{name} has the negative constant {found.min():g}: give numbers ≥ 0")
    return torch.from_numpy(found).to(risk.theta)


def _refuse_other_class(known, risk: EmpiricalRisk, delta: float) -> None:
    if known is None:
        return
    instance("known", known, Losses, "give one such as expansion(risk, delta)")
    if known.n != risk.n or getattr(known, "delta", delta) < delta:
        raise Refused(
            f"the known class has {known.n} samples and delta = {getattr(known, 'delta', delta):g}, the risk {risk.n} "
            f"and {delta:g}: give the class of the same samples on the same ball"
        )
