r"""The gradient Langevin dynamics (GLD) of Zhu et al. (2019), Table 1: six covariances Σ, five of them as large as C.

With C(θ) the covariance of the gradient noise of SGD with batches of b (`support.additive.sgd`) and H(θ) the Hessian:

    GLD-const            σ² I                       σ given; the trace is whatever it is
    GLD-dynamic          (Tr C / d) I
    GLD-diag             diag C
    GLD-leading          s Σ_{i≤k} γ_i v_i v_iᵀ     eigenpairs of C
    GLD-Hessian          s Σ_{i≤k} h_i u_i u_iᵀ     eigenpairs of H
    GLD-1st-eigenvector  s u₁ u₁ᵀ

The numbers s make ``Tr Σ = Tr C`` (Eq. (14)), so that E|ε|² is that of SGD. GD and SGD need no additive noise, only a
law (`support.sampling`). No d x d matrix is stored: C acts through n gradients, H through products.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from support.additive.noise import AdditiveNoise
from support.additive.sgd import SgdNoise, flat
from support.covariances import Diagonal, LowRank
from support.curvature import Hessian
from support.errors import Refused, integer, real
from support.spectra import Spectrum, leading


class Constant(AdditiveNoise):
    """GLD-const: ``Σ = σ² I``. Its trace, d σ², is not matched; σ was tuned to 0.001 by the authors.

    >>> inputs, model = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.nn.Linear(2, 1, bias=False)
    >>> sgd = SgdNoise(lambda outputs, targets: outputs[:, 0], inputs, torch.zeros(2), b=1)  # gradients (1, 0), (0, 2)
    >>> Constant(sgd, sigma=0.5).look(model, torch.Generator()).diagonal().round(decimals=4)
    tensor([0.2500, 0.2500])
    """

    form = Diagonal

    def __init__(self, sgd: SgdNoise, *, sigma: float = 1e-3, every: int = 10, rescale_every: int = 10):
        super().__init__(sgd, every=every, rescale_every=rescale_every)
        self.sigma = real("sigma", sigma, 0)

    def look(self, model, generator):
        return Diagonal(self.sigma**2 * torch.ones_like(flat(model))) if self.covariance is None else self.covariance

    def rescaled(self, model, generator):
        return self.covariance


class Dynamic(AdditiveNoise):
    """GLD-dynamic: ``Σ = (Tr C / d) I``.

    >>> inputs, model = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.nn.Linear(2, 1, bias=False)
    >>> sgd = SgdNoise(lambda outputs, targets: outputs[:, 0], inputs, torch.zeros(2), b=1)  # gradients (1, 0), (0, 2)
    >>> Dynamic(sgd).look(model, torch.Generator()).diagonal().round(decimals=4)
    tensor([0.6250, 0.6250])
    """

    form = Diagonal

    def look(self, model, generator):
        return Diagonal(torch.ones_like(flat(model))).of_trace(self.sgd.diagonal(model, generator).sum())


class DiagonalOfC(AdditiveNoise):
    """GLD-diag: ``Σ = diag C``, which has the trace of C.

    >>> inputs, model = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.nn.Linear(2, 1, bias=False)
    >>> sgd = SgdNoise(lambda outputs, targets: outputs[:, 0], inputs, torch.zeros(2), b=1)  # gradients (1, 0), (0, 2)
    >>> DiagonalOfC(sgd).look(model, torch.Generator()).diagonal().round(decimals=4)
    tensor([0.2500, 1.0000])
    """

    form = Diagonal

    def look(self, model, generator):
        return Diagonal(self.sgd.diagonal(model, generator))


class Leading(AdditiveNoise):
    """GLD-leading: ``Σ = s Σ_{i≤k} γ_i v_i v_iᵀ``, the k leading eigenpairs of C scaled to its trace.

    Raises Refused for k above the rank of C.

    >>> inputs, model = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.nn.Linear(2, 1, bias=False)
    >>> sgd = SgdNoise(lambda outputs, targets: outputs[:, 0], inputs, torch.zeros(2), b=1)  # gradients (1, 0), (0, 2)
    >>> Leading(sgd, k=1).look(model, torch.Generator()).dense().round(decimals=4)  # C itself, of rank 1
    tensor([[ 0.2500, -0.5000],
            [-0.5000,  1.0000]])
    """

    def __init__(self, sgd: SgdNoise, *, k: int = 20, every: int = 10, rescale_every: int = 10):
        super().__init__(sgd, every=every, rescale_every=rescale_every)
        self.k = sgd.directions(k)

    def look(self, model, generator):
        found, trace = self.sgd.leading(model, self.k, generator)
        return LowRank(*found).of_trace(trace)


class OfHessian(AdditiveNoise):
    """GLD-Hessian: ``Σ = s Σ_{i≤k} h_i u_i u_iᵀ``, the k largest eigenpairs of H, the positive ones of them, scaled to
    the trace of C.

    tolerance: relative error of the eigenvalues. The graph of the gradient is kept from product to product, in memory
    that grows with n. Raises Refused where there is no positive eigenvalue.

    >>> inputs, model = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> squares = lambda outputs, targets: (outputs[:, 0] - targets).square() / 2
    >>> sgd = SgdNoise(squares, inputs, torch.ones(2), b=1)  # Tr C = 1.25, H = diag(0.5, 2)
    >>> OfHessian(sgd, k=2).look(model, torch.Generator()).diagonal().round(decimals=4)
    tensor([0.2500, 1.0000])
    """

    which: ClassVar[str] = "LA"  # the k eigenvalues that are kept: the largest

    def __init__(
        self, sgd: SgdNoise, *, k: int = 20, tolerance: float = 0.05, every: int = 10, rescale_every: int = 10
    ):
        super().__init__(sgd, every=every, rescale_every=rescale_every)
        self.k, self.tolerance = integer("k", k, 1), real("tolerance", tolerance, high=1, above=0)

    def look(self, model, generator):
        values, vectors = self.eigenpairs(model)
        kept = values > 0
        if not kept.any():
            raise Refused(
                f"the largest eigenvalue of H is {float(values[0]):g}: there is no positive curvature to make a noise "
                f"of; start elsewhere"
            )
        return LowRank(values[kept], vectors[:, kept]).of_trace(self.sgd.diagonal(model, generator).sum())

    def eigenpairs(self, model: torch.nn.Module) -> Spectrum:
        """The k eigenpairs of H, from where those of the last look stand."""
        hessian = Hessian(self.sgd.risk(model), keep=True)
        start = None if self.covariance is None else self.covariance.vectors
        return leading(hessian, self.k, which=self.which, start=start, tolerance=self.tolerance)


class FirstEigenvector(OfHessian):
    """GLD-1st-eigenvector: ``Σ = Tr C u₁ u₁ᵀ``, all of the trace of C along the first eigenvector of H.

    >>> inputs, model = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> squares = lambda outputs, targets: (outputs[:, 0] - targets).square() / 2
    >>> sgd = SgdNoise(squares, inputs, torch.ones(2), b=1)  # Tr C = 1.25, H = diag(0.5, 2)
    >>> FirstEigenvector(sgd).look(model, torch.Generator()).diagonal().round(decimals=4)
    tensor([0.0000, 1.2500])
    """

    def __init__(self, sgd: SgdNoise, *, tolerance: float = 0.01, every: int = 10, rescale_every: int = 10):
        super().__init__(sgd, k=1, tolerance=tolerance, every=every, rescale_every=rescale_every)
