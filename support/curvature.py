r"""Curvature of the mean loss ``L = Σ ℓ_i / n`` of a model, matrix-free: the Hessian H and its Gauss-Newton part.

A product ``H u`` is the derivative of the gradient along u: one more backward pass through the gradient's own graph,
chunk by chunk. ``H @ U`` with many columns builds that graph once a chunk. `support.spectra` finds eigenpairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.func import grad

from support.derivatives import push, value_and_pull, way
from support.errors import Refused, WrongType, boolean, probability
from support.gradients import GradientMatrix
from support.intervals import Interval, skewed, student
from support.operators import Operator
from support.risk import EmpiricalRisk, a_risk
from support.spectra import Spectrum, a_spectrum, signs, trace_draws

Product = Callable[[torch.Tensor], torch.Tensor]


class Curvature(Operator):
    """What `Hessian` and `GaussNewton` share: products chunk by chunk, estimates of trace and diagonal.

    keep: hold the graphs of all chunks between products. A product then costs about half, and the memory is that of all
    n samples' activations, a few times. Raises WrongType for anything but a risk.

    >>> model, inputs = torch.nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> squares = lambda outputs, targets: (outputs[:, 0] - targets).square() / 2
    >>> hessian = Hessian(EmpiricalRisk(model, squares, (inputs, torch.zeros(2))))
    >>> hessian.estimate_trace(3, torch.Generator()).value  # of a diagonal H every zᵀHz is the trace
    tensor(2.5000)
    """

    def __init__(self, risk: EmpiricalRisk, *, keep: bool = False):
        a_risk(risk)
        super().__init__((risk.d, risk.d), risk.dtype, risk.device)
        self.risk, self.keep = risk, boolean("keep", keep)
        self._kept: list[Product] | None = None

    @property
    def gradients(self) -> GradientMatrix:
        """The gradient matrix of the same risk."""
        return GradientMatrix(self.risk)

    def _times(self, columns):
        total = torch.zeros_like(columns)
        for product in self._products():
            for j in range(columns.shape[1]):
                total[:, j] += product(columns[:, j])
        return total / self.risk.n

    def _products(self) -> Iterable[Product]:
        """For every chunk, the function from u to the chunk's part of ``n · operator @ u``."""
        if self._kept is not None:
            return self._kept
        products = (self._product(part) for part in self.risk.parts())
        if self.keep:
            self._kept = products = list(products)
        return products

    def _product(self, part: slice) -> Product:
        raise WrongType(f"{type(self).__name__} has no products: use Hessian or GaussNewton")

    def estimate_trace(
        self, probes: int, generator: torch.Generator, confidence: float = 0.95, *, known: Spectrum | None = None
    ) -> Interval:
        """The trace: mean of ``zᵀHz`` over vectors z of random signs (Hutchinson), with its `skewed` interval.

        known: eigenpairs from `leading`; their part of the trace is then exact, and only what is orthogonal to them is
        estimated, with far less spread where a few eigenvalues stand out. generator: a torch generator. Raises Refused
        for fewer than 2 probes, or a confidence outside (0, 1).
        """
        probability("confidence", confidence)
        return skewed(trace_draws(self, probes, generator, known), confidence)

    def estimate_diagonal(
        self, probes: int, generator: torch.Generator, confidence: float = 0.95, *, known: Spectrum | None = None
    ) -> Interval:
        """The diagonal, shape (d,), with Student's interval for each entry alone: mean of ``z ∘ Hz`` over vectors z of
        random signs (Bekas et al. 2007), whose error is what H has off its diagonal.

        known: eigenpairs from `leading`; their part ``Σ h_k u_k²`` is then exact. For every entry exactly, by d
        products, see `diagonal`. Raises as `estimate_trace`.
        """
        probability("confidence", confidence)
        z = signs(self, probes, generator)
        if known is not None:
            a_spectrum(known, len(z))
        products, exact = self @ z, 0.0
        if known is not None:
            products = products - known.vectors @ (known.values[:, None] * (known.vectors.T @ z))
            exact = known.vectors.square() @ known.values
        return student(exact + (z * products).T, confidence)


class Hessian(Curvature):
    """``H(θ) = ∇²L``, d x d, of the mean loss on n samples, without storing it.

    The first product with a model costs two more: they tell whether torch's second derivative of it is symmetric, as a
    Hessian is. Some are not, such as that of `torch.nn.utils.parametrizations.weight_norm` on a CPU, whose numbers are
    wrong; then Refused.

    >>> model, inputs = torch.nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> squares = lambda outputs, targets: (outputs[:, 0] - targets).square() / 2
    >>> Hessian(EmpiricalRisk(model, squares, (inputs, torch.zeros(2)))).dense()
    tensor([[0.5000, 0.0000],
            [0.0000, 2.0000]])
    """

    def _times(self, columns):
        self.risk.looked_at("symmetric", self._refuse_asymmetric)
        return super()._times(columns)

    def _refuse_asymmetric(self) -> None:
        generator = torch.Generator().manual_seed(0)
        pair = torch.randn(2, self.risk.d, generator=generator).to(self.risk.theta).T
        (one, other), (along, across) = pair.T, super()._times(pair).T
        off, size = float((other @ along - one @ across).abs()), float(along.norm() + across.norm())
        if off > torch.finfo(self.dtype).eps ** 0.3 * size:
            raise Refused(
                f"torch's second derivative of this {type(self.risk.model).__name__} is no Hessian: uᵀHv and vᵀHu "
                f"differ by {off:.2g} for random u and v, where |Hu| + |Hv| = {size:.2g}; replace the module that has "
                f"it wrong, such as weight_norm"
            )

    def _product(self, part: slice) -> Product:
        theta = self.risk.theta.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.risk.losses_at(theta, part).sum(), theta, create_graph=True)

        def product(u: torch.Tensor) -> torch.Tensor:
            if not gradient.requires_grad:  # a loss that is linear in θ
                return torch.zeros_like(u)
            return torch.autograd.grad(gradient, theta, u, retain_graph=True, materialize_grads=True)[0]

        return product


class GaussNewton(Curvature):
    """``G(θ) = Σ_i J_iᵀ B_i J_i / n``, d x d: J_i is the derivative of sample i's outputs, B_i the second derivative of
    its loss in the outputs.

    H less the part that comes from the curvature of the outputs in θ. For softmax and cross-entropy, and for a Gaussian
    likelihood, it is the true Fisher matrix on these inputs: the expectation of ∇ℓ∇ℓᵀ over labels that the model itself
    draws. ``J u`` is one forward-mode pass, or two backward passes where torch has no forward mode of the model that
    agrees with its backward pass (`support.derivatives.way`). Raises Refused where neither does, for outputs that are
    no single tensor, and for ghost batches, whose losses are coupled.

    >>> model, inputs = torch.nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> squares = lambda outputs, targets: (outputs[:, 0] - targets).square() / 2
    >>> GaussNewton(EmpiricalRisk(model, squares, (inputs, torch.zeros(2)))).trace()
    tensor(2.5000)
    """

    def _product(self, part: slice) -> Product:
        risk = self.risk
        how = risk.looked_at("outputs", self._way)

        def outputs(theta):
            return risk.outputs_at(theta, part)

        def slope(out):
            return grad(lambda o: risk.losses_of(o, part).sum())(out)

        out, back = value_and_pull(outputs, risk.theta)
        forth, bend = push(outputs, risk.theta, how), push(slope, out, how)
        return lambda u: back(bend(forth(u)))

    def _way(self) -> str:
        risk = self.risk
        if risk.ghost is not None:
            raise Refused("the loss of a ghost batch couples its samples' outputs: use Hessian")
        few = risk.few()
        with torch.no_grad():
            outputs = risk.outputs_at(risk.theta, few)
        if not isinstance(outputs, torch.Tensor):
            raise WrongType(f"the outputs are a {type(outputs).__name__}: a Gauss-Newton matrix takes one tensor")
        how = way(lambda theta: risk.outputs_at(theta, few), risk.theta, risk.eps)
        if how is None:
            raise Refused(
                f"torch's derivatives of this {type(risk.model).__name__} contradict each other: no J with "
                f"uᵀ(Jᵀw) = wᵀ(J u); look for hooks and custom autograd functions, or use Hessian"
            )
        return how
