r"""Curvature of the mean loss ``L = Σ ℓ_i / n`` of a model, matrix-free: the Hessian H, its Gauss-Newton part, and the
largest eigenpairs of any such matrix.

A product ``H u`` is the derivative of the gradient along u: one more backward pass through the gradient's own graph,
chunk by chunk. ``H @ U`` with many columns builds that graph once a chunk. Eigenpairs come from Lanczos iterations on
products (`scipy.sparse.linalg.eigsh`), so that no d x d matrix is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple
from weakref import WeakSet

import numpy as np
import torch
from torch.func import grad, jvp, vjp

from support.errors import Refused, WrongType
from support.gradients import (
    Estimate,
    GradientMatrix,
    PerSampleLoss,
    SymmetricOperator,
    check_probes,
    finite,
    student_interval,
)

Product = Callable[[torch.Tensor], torch.Tensor]
_DENSE = 300  # up to this many parameters a dense eigendecomposition is faster than Lanczos iterations
_SYMMETRIC: WeakSet[torch.nn.Module] = WeakSet()  # models whose second derivative has been looked at


class Spectrum(NamedTuple):
    """Eigenvalues (k,), the wanted ones first, and their orthonormal eigenvectors as columns (d, k)."""

    values: torch.Tensor
    vectors: torch.Tensor


class Curvature(SymmetricOperator):
    """What `Hessian` and `GaussNewton` share: products with many columns, the dense matrix, the trace.

    model, loss, inputs, targets, theta, chunk and the errors: as for `support.gradients.GradientMatrix`;
    ``of(gradients)`` takes one that exists. keep: hold the graphs of all chunks between products. A product then costs
    about half, and the memory is that of all n samples' activations, a few times.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: PerSampleLoss,
        inputs,
        targets,
        *,
        theta: torch.Tensor | None = None,
        chunk: int | None = None,
        keep: bool = False,
    ):
        self._set(GradientMatrix(model, loss, inputs, targets, theta=theta, chunk=chunk), keep)

    @classmethod
    def of(cls, gradients: GradientMatrix, *, keep: bool = False):
        """The operator at the parameters of a gradient matrix, on its samples."""
        operator = cls.__new__(cls)
        operator._set(gradients, keep)
        return operator

    def _set(self, gradients: GradientMatrix, keep: bool) -> None:
        super().__init__(gradients)
        self.keep = keep
        self._kept: list[Product] | None = None

    def __matmul__(self, u: torch.Tensor) -> torch.Tensor:
        """The product with u of shape (d,) or (d, m). Raises ValueError for another shape, FloatingPointError where it
        is not finite.
        """
        g = self.gradients
        if u.ndim not in (1, 2) or len(u) != g.d:
            raise Refused(f"the direction has shape {tuple(u.shape)}: it must be ({g.d},) or ({g.d}, m)")
        columns = u.to(g.theta.dtype).reshape(g.d, -1)
        total = torch.zeros_like(columns)
        for product in self._products():
            for j in range(columns.shape[1]):
                total[:, j] += product(columns[:, j])
        return finite(total / g.n).reshape(u.shape)

    def _products(self) -> Iterable[Product]:
        """For every chunk, the function from u to the chunk's part of ``n · operator @ u``."""
        if self._kept is not None:
            return self._kept
        products = (self._product(part) for part in self.gradients.parts())
        if self.keep:
            self._kept = products = list(products)
        return products

    def _product(self, part: slice) -> Product:
        raise WrongType(f"{type(self).__name__} has no products: use Hessian or GaussNewton")

    def dense(self, limit_bytes: float = 2**31) -> torch.Tensor:
        """The matrix itself, shape (d, d), from d products. Raises ValueError where its d² numbers exceed
        ``limit_bytes``.
        """
        self.refuse_dense(limit_bytes)
        matrix = self @ torch.eye(
            self.gradients.d, dtype=self.gradients.theta.dtype, device=self.gradients.theta.device
        )
        return (matrix + matrix.T) / 2

    def estimate_trace(
        self, probes: int, generator: torch.Generator, level: float = 0.95, *, known: Spectrum | None = None
    ) -> Estimate:
        """The trace, with Student's interval: mean of ``zᵀHz`` over independent vectors z of random signs (Hutchinson).

        known: eigenpairs from `leading`; their part of the trace is then exact, and only what is orthogonal to them is
        estimated, with far less spread where a few eigenvalues stand out. generator: a torch generator on the CPU.
        Raises ValueError for fewer than 2 probes, or a level outside (0, 1).
        """
        check_probes(probes, level)
        g = self.gradients
        signs = (2 * torch.randint(0, 2, (g.d, probes), generator=generator) - 1).to(g.theta)
        exact = 0.0
        if known is not None:
            signs = signs - known.vectors @ (known.vectors.T @ signs)
            exact = known.values.sum()
        return student_interval(exact + (signs * (self @ signs)).sum(0), level)


class Hessian(Curvature):
    """``H(θ) = ∇²L``, d x d, of the mean loss on n samples, without storing it.

    The first product with a model costs two more: they tell whether torch's second derivative of it is symmetric, as a
    Hessian is. Some are not, such as that of `torch.nn.utils.parametrizations.weight_norm` on a CPU, whose numbers are
    wrong; then ValueError.
    """

    def __matmul__(self, u: torch.Tensor) -> torch.Tensor:
        """The product with u of shape (d,) or (d, m). Raises ValueError for another shape or a wrong derivative,
        FloatingPointError where it is not finite.
        """
        model = self.gradients.model
        if model not in _SYMMETRIC:
            generator = torch.Generator().manual_seed(0)
            one, other = torch.randn(2, self.gradients.d, generator=generator).to(self.gradients.theta)
            along, across = super().__matmul__(one), super().__matmul__(other)
            off, size = float((other @ along - one @ across).abs()), float(along.norm() + across.norm())
            if off > torch.finfo(one.dtype).eps ** 0.3 * size:
                raise Refused(
                    f"torch's second derivative of this {type(model).__name__} is no Hessian: uᵀHv and vᵀHu differ by "
                    f"{off:.2g} for random u and v, where "
                    f"|Hu| + |Hv| = {size:.2g}; replace the module that has it wrong, such as weight_norm"
                )
            _SYMMETRIC.add(model)
        return super().__matmul__(u)

    def _product(self, part: slice) -> Product:
        theta = self.gradients.theta.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.gradients.losses_at(theta, part).sum(), theta, create_graph=True)

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
    draws.
    """

    def _product(self, part: slice) -> Product:
        g = self.gradients

        def outputs(theta):
            return g.outputs_at(theta, part)

        def slope(out):
            return grad(lambda o: g.loss(o, g.targets[part]).sum())(out)

        out, pull = vjp(outputs, g.theta)
        return lambda u: pull(jvp(slope, (out,), (jvp(outputs, (g.theta,), (u,))[1],))[1])[0]


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
