r"""Curvature of the mean loss ``L = Σ ℓ_i / n`` of a model, matrix-free: the Hessian H, its Gauss-Newton part, and the
largest eigenpairs of any such matrix.

A product ``H u`` is the derivative of the gradient along u: one more backward pass through the gradient's own graph,
chunk by chunk. ``H @ U`` with many columns builds that graph once a chunk. Eigenpairs come from Lanczos iterations on
products (`scipy.sparse.linalg.eigsh`), so that no d x d matrix is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch.func import grad

from support.derivatives import pull, push, way
from support.errors import Refused, WrongType, boolean, torch_generator
from support.gradients import Estimate, GradientMatrix, check_probes, finite, student_interval
from support.operators import Operator
from support.risk import EmpiricalRisk, a_risk

Product = Callable[[torch.Tensor], torch.Tensor]
_DENSE = 300  # up to this many parameters a dense eigendecomposition is faster than Lanczos iterations


class Spectrum(NamedTuple):
    """Eigenvalues (k,), the wanted ones first, and their orthonormal eigenvectors as columns (d, k)."""

    values: torch.Tensor
    vectors: torch.Tensor


class Curvature(Operator):
    """What `Hessian` and `GaussNewton` share: products chunk by chunk, estimates of trace and diagonal.

    keep: hold the graphs of all chunks between products. A product then costs about half, and the memory is that of all
    n samples' activations, a few times. Raises WrongType for anything but a risk.
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
    ) -> Estimate:
        """The trace, with Student's interval: mean of ``zᵀHz`` over independent vectors z of random signs (Hutchinson).

        known: eigenpairs from `leading`; their part of the trace is then exact, and only what is orthogonal to them is
        estimated, with far less spread where a few eigenvalues stand out. generator: a torch generator. Raises Refused
        for fewer than 2 probes, or a confidence outside (0, 1).
        """
        check_probes(probes, confidence)
        signs = self._signs(probes, generator)
        exact = 0.0
        if known is not None:
            signs = signs - known.vectors @ (known.vectors.T @ signs)
            exact = known.values.sum()
        return student_interval(exact + (signs * (self @ signs)).sum(0), confidence)

    def estimate_diagonal(
        self, probes: int, generator: torch.Generator, confidence: float = 0.95, *, known: Spectrum | None = None
    ) -> Estimate:
        """The diagonal, shape (d,), with Student's interval for each entry alone: mean of ``z ∘ Hz`` over vectors z of
        random signs (Bekas et al. 2007), whose error is what H has off its diagonal.

        known: eigenpairs from `leading`; their part ``Σ h_k u_k²`` is then exact. For every entry exactly, by d
        products, see `diagonal`. Raises as `estimate_trace`.
        """
        check_probes(probes, confidence)
        signs = self._signs(probes, generator)
        products, exact = self @ signs, 0.0
        if known is not None:
            products = products - known.vectors @ (known.values[:, None] * (known.vectors.T @ signs))
            exact = known.vectors.square() @ known.values
        return student_interval(exact + (signs * products).T, confidence)

    def _signs(self, probes: int, generator: torch.Generator) -> torch.Tensor:
        shape = (self.risk.d, probes)
        draws = torch.randint(0, 2, shape, generator=torch_generator(generator), device=generator.device)
        return (2 * draws - 1).to(self.risk.theta)


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

        with torch.no_grad():
            out = outputs(risk.theta)
        forth, bend, back = push(outputs, risk.theta, how), push(slope, out, how), pull(outputs, risk.theta)
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


_ORDERS = {"LA": lambda values: -values, "SA": lambda values: values, "LM": lambda values: -np.abs(values)}


def leading(
    operator, k: int, *, which: str = "LA", start: torch.Tensor | None = None, tolerance: float | None = None
) -> Spectrum:
    """The k eigenpairs of a symmetric operator at one end of its spectrum: "LA" largest, "SA" smallest, "LM" largest in
    magnitude; the most extreme first.

    operator: `Hessian`, `GaussNewton`, a `support.gradients.NoiseCovariance`, or a symmetric tensor (d, d).  start:
    vectors (d,) or (d, m) that span about the wanted space, such as those found before the parameters moved a little;
    saves products.  tolerance: relative error of the eigenvalues at which Lanczos iterations stop (None: √ε of the
    operator's type). Up to d = 300 parameters, and for k > d/2, by dense eigendecomposition. The same call gives the
    same numbers. Raises ValueError for k out of range or above the operator's rank, an unknown end, a tensor that is
    not symmetric or not square, a start of another length; FloatingPointError for numbers that are not finite;
    RuntimeError if the iterations do not converge.
    """
    like = operator if torch.is_tensor(operator) else operator.gradients.theta
    d = operator.shape[0]
    most = getattr(operator, "rank", d)
    if which not in _ORDERS:
        raise Refused(f"which = {which!r} names no end of the spectrum: choose {', '.join(map(repr, _ORDERS))}")
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= most:
        raise Refused(
            f"k = {k} eigenpairs cannot be had from a {d} x {d} matrix of rank {most} at most: choose 1 ≤ k ≤ {most}"
        )
    if torch.is_tensor(operator):
        _refuse_asymmetric(operator)
    if d <= _DENSE or k > d // 2:
        matrix = operator if torch.is_tensor(operator) else operator.dense()
        values, vectors = np.linalg.eigh(finite(matrix).double().cpu().numpy())
    else:
        values, vectors = _lanczos(operator, k, which, start, tolerance or float(torch.finfo(like.dtype).eps) ** 0.5)
    order = np.argsort(_ORDERS[which](values))[:k]
    return Spectrum(
        *(torch.as_tensor(np.ascontiguousarray(found)).to(like) for found in (values[order], vectors[:, order]))
    )


def _lanczos(operator, k: int, which: str, start, tolerance: float):
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, eigsh

    d = operator.shape[0]
    linear = finite(operator).double().cpu().numpy() if torch.is_tensor(operator) else operator.to_scipy()
    v0 = np.random.default_rng(0).standard_normal(d) / d**0.5
    if start is not None:
        if start.ndim not in (1, 2) or len(start) != d:
            raise Refused(f"the start has shape {tuple(start.shape)}: it must be ({d},) or ({d}, m)")
        # a Krylov space that starts inside the wanted one fills it first; a little of everything else finds what has
        # come up since
        v0 = start.double().reshape(d, -1).sum(1).cpu().numpy() + 0.01 * v0
    room = max(2 * k, k + 20) if start is None else k + max(3, k // 2)
    try:
        return eigsh(linear, k, which=which, v0=v0, ncv=min(d, room), tol=tolerance)
    except ArpackNoConvergence as error:
        found = len(error.eigenvalues)
        raise RuntimeError(
            f"Lanczos iterations found {found} of {k} eigenpairs: ask for fewer, or raise the tolerance of "
            f"{tolerance:g}"
        ) from None
    except ArpackError:
        if np.any(linear @ v0):
            raise
        return np.zeros(k), np.eye(d, k)  # the operator is zero


def _refuse_asymmetric(matrix: torch.Tensor) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise Refused(f"a matrix of shape {tuple(matrix.shape)} is not square: give a symmetric matrix")
    off, scale = float((matrix - matrix.T).abs().max()), float(finite(matrix).abs().max())
    if off > 1e3 * torch.finfo(matrix.dtype).eps * scale:
        raise Refused(
            f"the matrix is not symmetric (entries differ by {off:.2g} from their mirror images): give (A + Aᵀ)/2 if "
            f"that is what is meant"
        )
