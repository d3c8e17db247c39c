r"""A local complexity as a regulariser of training: the term that Wu's talk compares the noise of SGD with.

    L(θ) + λ E_V (1/n) sup |Σ v_i ℓ_i(θ')|,   |θ' − θ| ≤ δ                           (Wu's talk, Section 3, Figure 1)

The talk abandons the supremum and the absolute value, and what is left is one more class of noise; here both can be
kept.
"""

from __future__ import annotations

import torch

from support._ascent import ascend, at_centre
from support.complexity import multipliers
from support.errors import boolean, integer, real, tensor
from support.risk import EmpiricalRisk, a_risk
from support.sampling import Law


class ComplexityPenalty:
    """λ times a local complexity as a regulariser: at each step it adds its gradient, estimated, to ``.grad``.

        ∇θ λ E_V (1/n) sup |Σ v_i ℓ_i(θ + u)| = λ E_V s (1/n) Σ v_i ∇ℓ_i(θ + u*),    |u| ≤ δ, s the sum's sign at u*

    by Danskin's theorem, u* where the supremum is reached. V is drawn anew at each call; u* is the best point found by
    ``steps`` steps of ascent from θ, at 1 + restarts·steps gradients a draw.

    data: (inputs, targets) as for `EmpiricalRisk`; loss, chunk too.  delta: δ > 0.  weight: λ ≥ 0; √(n/b) gives each
    step the size of the noise of batches of b.  law: of V, as for `multipliers`.  draws: of V a step, whose mean is
    taken.  steps: 0 abandons the supremum: u* = 0.  restarts: 1 climbs with the sign of the sum at θ, which is right to
    first order in δ; 2 with either sign.  absolute: False abandons |·| too: s = 1. With both abandoned and
    signs for V this is GD-Rademacher of Wu's talk, Figure 1, and multiplicative SGD with the weights
    ``(1 + λ a_i)/n``, `support.sampling.Rademacher` for λ = √(n/b).

    It is called with the model and a generator between ``backward()`` and ``optimizer.step()``, or by a trainer as its
    ``additive``. Raises WrongType, Refused for values out of range or a loss that couples its samples, NotFinite.

    >>> model, squares = torch.nn.Linear(1, 1, bias=False), lambda outputs, targets: (outputs[:, 0] - targets).square()
    >>> data = torch.ones(4, 1), torch.zeros(4)
    >>> penalty = ComplexityPenalty(squares, data, 0.5, weight=0.1)
    >>> penalty(model, torch.Generator().manual_seed(1))
    >>> model.weight.grad.shape
    torch.Size([1, 1])
    """

    def __init__(
        self,
        loss,
        data,
        delta: float,
        *,
        weight: float,
        law: Law | str = "signs",
        draws: int = 1,
        steps: int = 2,
        restarts: int = 1,
        absolute: bool = True,
        chunk: int | None = None,
    ):
        self.loss, self.data, self.law, self.chunk = loss, data, law, chunk
        self.delta, self.weight = real("delta", delta, above=0), real("weight", weight, 0)
        self.draws, self.steps = integer("draws", draws, 1), integer("steps", steps, 0)
        self.absolute = boolean("absolute", absolute)
        self.restarts = integer("restarts", restarts, 1, 2 if absolute else 1, "give 1, or 2 with the two signs of |·|")
        self._risk: EmpiricalRisk | None = None

    def __call__(self, model: torch.nn.Module, generator: torch.Generator) -> None:
        """Add the gradient of one step's estimate to the gradients of the model's parameters."""
        fresh = self._risk is None or self._risk.model is not model
        risk = EmpiricalRisk(model, self.loss, self.data, chunk=self.chunk) if fresh else self._risk.here()
        self._risk = risk
        V = multipliers(self.law, risk.n, self.draws, generator)
        own = dict(model.named_parameters())
        for name, piece in risk.named(self.gradient(risk, V)).items():
            p = own[name]
            p.grad = piece.to(p) if p.grad is None else p.grad + piece.to(p)

    def gradient(self, risk: EmpiricalRisk, V: torch.Tensor) -> torch.Tensor:
        """The mean over given multipliers V, (draws, n), of ``λ s (1/n) Σ v_i ∇ℓ_i(θ + u*)``, (d,): the gradient of the
        estimate at the risk's θ. All patterns of signs as V give that of the complexity itself.
        """
        a_risk(risk)
        V = tensor("V", V, (None, risk.n)).to(risk.theta)
        centre, slopes = at_centre(risk, V)
        how = {"steps": self.steps, "restarts": self.restarts, "absolute": self.absolute}
        *_, rise = ascend(risk, V, centre, slopes, self.delta, **how)
        return self.weight * rise.mean(0)
