r"""The noises of Zhu et al. (2019) as their released code has them, where it departs from their Table 1.

* C is estimated from one shuffled partition of the data into batches (`PartitionNoise`).
* Nothing is scaled between two looks; GLD-dynamic, GLD-diag and GLD-leading add nothing at all there, so that with a
  look every 10th step they have a tenth of the noise.
* GLD-leading is not scaled to the trace of C at all.
* GLD-Hessian and GLD-1st-eigenvector take the eigenvalues of largest magnitude, of either sign.

GLD-const is that of `support.additive.langevin`. Source: https://github.com/uuujf/SGDNoise at b21ad2d.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from support.additive import langevin
from support.additive.noise import AdditiveNoise
from support.additive.sgd import SgdNoise, flat
from support.covariances import LowRank
from support.derivatives import pull
from support.errors import Refused


class PartitionNoise(SgdNoise):
    """``C = X Xᵀ / (n/b − 1)`` with X the centred gradients of n/b batches that part the shuffled samples, drawn anew
    each time.

    Its rank is n/b − 1, and its mean over partitions n/(n−1) times the C with replacement. Arguments are those of
    `SgdNoise`. Raises Refused as well for b that is not a divisor of n, or a single batch.

    >>> inputs, model = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.nn.Linear(2, 1, bias=False)
    >>> sgd = PartitionNoise(lambda outputs, targets: outputs[:, 0], inputs, torch.zeros(2), b=1)
    >>> sgd.diagonal(model, torch.Generator())  # n/(n−1) = 2 times what SgdNoise has
    tensor([0.5000, 2.0000])
    """

    of = "batches"

    def __init__(self, loss, inputs, targets, b, **options):
        super().__init__(loss, inputs, targets, b, **options)
        if self.law.n % self.law.b or self.columns < 2:
            raise Refused(
                f"{self.law.n} samples cannot be parted into two or more batches of b = {b}: choose a divisor of n, "
                f"or use SgdNoise, which needs no partition"
            )

    @property
    def columns(self) -> int:
        return self.law.n // self.law.b

    @property
    def scale(self) -> float:
        return 1 / (self.columns - 1)

    def blocks(self, model: torch.nn.Module, generator: torch.Generator) -> Iterator[torch.Tensor]:
        risk, one = self.risk(model), torch.ones(()).to(flat(model))
        for batch in torch.randperm(self.law.n, generator=generator).split(self.law.b):
            mean = pull(lambda theta, batch=batch: risk.losses_at(theta, batch).mean(), risk.theta)(one)
            yield mean[:, None]


class _Silent(AdditiveNoise):
    """A noise that adds nothing between two looks."""

    def __init__(self, sgd: SgdNoise, *, every: int = 10):
        super().__init__(sgd, every=every, rescale_every=every)

    def __call__(self, model: torch.nn.Module, generator: torch.Generator) -> None:
        if self.steps % self.every == 0:
            super().__call__(model, generator)
        else:
            self.steps += 1


class Dynamic(_Silent, langevin.Dynamic):
    """GLD-dynamic: ``Σ = (Tr C / d) I`` at the steps that look, nothing between them.

    >>> inputs, model = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.nn.Linear(2, 1, bias=False)
    >>> sgd = SgdNoise(lambda outputs, targets: outputs[:, 0], inputs, torch.zeros(2), b=1)  # gradients (1, 0), (0, 2)
    >>> noise, generator = Dynamic(sgd, every=2), torch.Generator()
    >>> noise(model, generator)
    >>> before = model.weight.grad.clone()
    >>> noise(model, generator)  # no look at the second step
    >>> torch.equal(model.weight.grad, before)
    True
    """


class DiagonalOfC(_Silent, langevin.DiagonalOfC):
    """GLD-diag: ``Σ = diag C`` at the steps that look, nothing between them.

    >>> inputs, model = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.nn.Linear(2, 1, bias=False)
    >>> sgd = SgdNoise(lambda outputs, targets: outputs[:, 0], inputs, torch.zeros(2), b=1)  # gradients (1, 0), (0, 2)
    >>> DiagonalOfC(sgd).look(model, torch.Generator()).diagonal().round(decimals=4)
    tensor([0.2500, 1.0000])
    """


class Leading(_Silent):
    """GLD-leading: ``Σ = Σ_{i≤k} γ_i v_i v_iᵀ``, less than C has by the eigenvalues left out; nothing between looks.

    >>> sgd = SgdNoise(lambda outputs, targets: outputs[:, 0], torch.eye(3), torch.zeros(3), b=1)
    >>> model, generator = torch.nn.Linear(3, 1, bias=False), torch.Generator()
    >>> sgd.diagonal(model, generator).sum(), Leading(sgd, k=1).look(model, generator).trace()  # one of two equal ones
    (tensor(0.6667), tensor(0.3333))
    """

    def __init__(self, sgd: SgdNoise, *, k: int = 20, every: int = 10):
        super().__init__(sgd, every=every)
        self.k = sgd.directions(k)

    def look(self, model, generator):
        return LowRank(*self.sgd.leading(model, self.k, generator)[0])


class OfHessian(langevin.OfHessian):
    """GLD-Hessian: the k eigenvalues h_i largest in magnitude, direction i with variance ``|h_i| Tr C / |Σ h_i|``.

    The trace is ``Tr C · Σ|h_i| / |Σ h_i|``: that of C where all have one sign, more where they have not. Raises
    Refused where they sum to 0.

    >>> inputs, model = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> saddle = lambda outputs, targets: targets * (outputs[:, 0] - 1).square() / 2
    >>> sgd = SgdNoise(saddle, inputs, torch.tensor([1.0, -1.0]), b=1)  # Tr C = 1.25, H = diag(0.5, -2)
    >>> OfHessian(sgd, k=2).look(model, torch.Generator()).diagonal().round(decimals=4)
    tensor([0.4167, 1.6667])
    """

    which = "LM"

    def __init__(self, sgd: SgdNoise, *, k: int = 20, tolerance: float = 0.05, every: int = 10):
        super().__init__(sgd, k=k, tolerance=tolerance, every=every, rescale_every=every)

    def look(self, model, generator):
        values, vectors = self.eigenpairs(model)
        if not values.sum() != 0:
            raise Refused(
                f"the {self.k} largest eigenvalues of H sum to {float(values.sum()):g}, by which this noise divides: "
                f"use released=False, or start elsewhere"
            )
        trace = self.sgd.diagonal(model, generator).sum()
        return LowRank(values.abs() * (trace / values.sum().abs()), vectors)


class FirstEigenvector(OfHessian):
    """GLD-1st-eigenvector: ``Σ = Tr C u uᵀ`` with u the eigenvector of H whose eigenvalue is largest in magnitude.

    >>> inputs, model = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> saddle = lambda outputs, targets: targets * (outputs[:, 0] - 1).square() / 2
    >>> sgd = SgdNoise(saddle, inputs, torch.tensor([1.0, -1.0]), b=1)  # Tr C = 1.25, H = diag(0.5, -2)
    >>> FirstEigenvector(sgd).look(model, torch.Generator()).diagonal().round(decimals=4)
    tensor([0.0000, 1.2500])
    """

    def __init__(self, sgd: SgdNoise, *, tolerance: float = 0.01, every: int = 10):
        super().__init__(sgd, k=1, tolerance=tolerance, every=every)

    def look(self, model, generator):
        return LowRank(self.sgd.diagonal(model, generator).sum()[None], self.eigenpairs(model).vectors)
