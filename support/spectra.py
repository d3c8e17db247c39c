r"""Eigenvalues of a symmetric d x d operator from its products alone: the leading pairs with every copy of a repeated
one, and the density of all of them.

An operator is anything with ``shape`` and ``operator @ u`` for u of shape (d,) or (d, m), in its own type and on its
own device: those of `support.curvature`, `support.gradients` and `support.covariances`, or a symmetric torch tensor.

A Krylov space of one start vector contains one vector of every eigenspace, so Lanczos iterations see each eigenvalue
once, whatever its multiplicity. The other copies are all that is left in the orthogonal complement of the vectors
found; `leading` looks there until nothing is left above the k-th.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from support.errors import Refused, WrongType, choice, integer, real, tensor, torch_generator
from support.intervals import Interval, student
from support.operators import finite

_DENSE = 300  # up to this many parameters a dense eigendecomposition is faster than Lanczos iterations
_EXTREME = {"LA": lambda values: values, "SA": lambda values: -values, "LM": np.abs}  # larger is wanted more


class Spectrum(NamedTuple):
    """Eigenvalues (k,), the wanted ones first, and their orthonormal eigenvectors as columns (d, k).

    >>> values, vectors = leading(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 1)
    >>> values.round(decimals=4), (vectors @ vectors.T).round(decimals=4)  # 3, along the diagonal
    (tensor([3.]), tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]]))
    """

    values: torch.Tensor
    vectors: torch.Tensor


def leading(
    operator, k: int, *, which: str = "LA", start: torch.Tensor | None = None, tolerance: float | None = None
) -> Spectrum:
    """The k eigenpairs of a symmetric operator at one end of its spectrum: "LA" largest, "SA" smallest, "LM" largest in
    magnitude; the most extreme first, each as often as its multiplicity.

    tolerance: relative error of the eigenvalues at which the iterations stop, at most 1/2 (None: √ε of the operator's
    type).  start: vectors (d,) or (d, m) that span about the wanted space, such as those found before the parameters
    moved a little; saves products. Up to d = 300, and for k > d/2, by dense eigendecomposition. Above, by Lanczos
    iterations (ARPACK), and again in the orthogonal complement of what was found, as long as that holds more (with a
    start: another copy); to see that it holds nothing takes about a third more products. The same call gives the same
    numbers. Raises Refused for k out of range or above the operator's rank, an unknown end, a tensor that is not
    symmetric or not square, a tolerance out of range, a start of another length, or iterations that do not converge;
    NotFinite; WrongType.

    >>> leading(torch.diag(torch.tensor([1.0, 3.0, 3.0, -4.0])), 2).values
    tensor([3., 3.])
    """
    d, like = _size(operator), _like(operator)
    most = getattr(operator, "rank", d)
    which = choice("which", which, _EXTREME)
    if not 1 <= integer("k", k) <= most:
        raise Refused(
            f"k = {k} eigenpairs cannot be had from a {d} x {d} matrix of rank {most} at most: choose 1 ≤ k ≤ {most}"
        )
    epsilon = float(torch.finfo(like.dtype).eps)
    tolerance = epsilon**0.5 if tolerance is None else real("tolerance", tolerance, above=0, high=0.5)
    if start is not None and (tensor("start", start).ndim not in (1, 2) or len(start) != d):
        raise Refused(f"the start has shape {tuple(start.shape)}: it must be ({d},) or ({d}, m)")
    if start is not None:
        finite(start)
    if torch.is_tensor(operator):
        _refuse_asymmetric(operator)
    if d <= _DENSE or k > d // 2:
        dense = operator if torch.is_tensor(operator) else _dense(operator, like)
        values, vectors = np.linalg.eigh(finite(dense).double().cpu().numpy())
    else:
        values, vectors = _lanczos(_product(operator, like), d, k, which, start, tolerance, epsilon)
    order = np.argsort(-_EXTREME[which](values))[:k]
    return Spectrum(
        *(torch.as_tensor(np.ascontiguousarray(found)).to(like) for found in (values[order], vectors[:, order]))
    )


# --- Lanczos iterations -----------------------------------------------------------------------------------------------


def _lanczos(product: Callable, d: int, k: int, which: str, start, tolerance: float, epsilon: float):
    """k eigenpairs, with every copy of those that are more extreme than the k-th by more than the tolerance."""
    rng, norm = np.random.default_rng(0), 0.0

    def watched(u):
        nonlocal norm
        image = product(u)
        norm = max(norm, np.linalg.norm(image) / max(np.linalg.norm(u), 1e-300))
        return image

    v0 = rng.standard_normal(d) / d**0.5
    room = max(2 * k, k + 20) if start is None else k + max(3, k // 2)
    if start is not None:
        # a Krylov space that starts inside the wanted one fills it first; a little of everything else finds what has
        # come up since
        v0 = start.double().reshape(d, -1).sum(1).cpu().numpy() + 0.01 * v0
    values, vectors = _arpack(watched, d, k, which, v0, room, tolerance)
    while True:
        extreme = _EXTREME[which](values)
        order = np.argsort(-extreme)[:k]
        values, vectors, extreme = values[order], vectors[:, order], extreme[order]
        margin = max(tolerance * abs(values[-1]), 100 * epsilon * norm)
        repeated = extreme[extreme > extreme[-1] + margin]  # another copy of these would belong to the k
        if not len(repeated):
            return values, vectors
        far = {"LA": -2.0, "SA": 2.0, "LM": 0.0}[which] * norm  # what was found moves to the unwanted end

        def rest(u, vectors=vectors, far=far):
            along = vectors.T @ u
            image = watched(u - vectors @ along)
            return image + vectors @ (far * along - vectors.T @ image)

        v0 = rng.standard_normal(d)
        v0 -= vectors @ (vectors.T @ v0)
        sure = repeated[-1] - margin / 2
        # who follows a moving matrix looks often: what came up beyond the k-th is found by one of the next looks
        bound = sure if start is not None else min(sure, extreme[-1] + margin)
        if not _holds(rest, v0, which, bound, sure):
            return values, vectors
        count = len(repeated)
        more = _arpack(rest, d, count, which, v0, max(2 * count, count + 20), tolerance)
        if _EXTREME[which](more[0]).max() <= extreme[-1]:
            return values, vectors
        # as few digits as the tolerance asks for would leave them oblique to what is there
        fresh = np.linalg.qr(more[1] - vectors @ (vectors.T @ more[1]))[0]
        values, vectors = np.append(values, more[0]), np.hstack([vectors, fresh])


def _arpack(product: Callable, d: int, k: int, which: str, v0: np.ndarray, room: int, tolerance: float):
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh

    linear = LinearOperator((d, d), matvec=lambda u: product(u.reshape(-1)), dtype=float)
    try:
        return eigsh(linear, k, which=which, v0=v0, ncv=min(d, room), tol=tolerance)
    except ArpackNoConvergence as error:
        found = len(error.eigenvalues)
        raise NotConverged(
            f"Lanczos iterations found {found} of {k} eigenpairs: ask for fewer, or raise the tolerance of "
            f"{tolerance:g}"
        ) from None
    except ArpackError:
        if np.any(product(v0)):
            raise
        return np.zeros(k), np.eye(d, k)  # the operator is zero


def _holds(product: Callable, v0: np.ndarray, which: str, bound: float, sure: float) -> bool:
    """Whether Lanczos iterations from v0 find an eigenvalue more extreme than ``bound``. They stop where none can be
    more extreme than ``sure``, unless v0 has less than a thousandth of its usual component along its eigenvector.

    With the Lanczos vectors q_j = p_j(A) v0, an eigenvector u of eigenvalue λ has ⟨u, q_j⟩ = p_j(λ) ⟨u, v0⟩, and these
    numbers have squares that sum to 1 at most: ⟨u, v0⟩² ≤ 1/Σ p_j(λ)². Beyond all Ritz values the sum grows with |λ|.
    """
    from scipy.linalg import eigvalsh_tridiagonal

    d, ends = len(v0), np.array({"LA": [1.0], "SA": [-1.0], "LM": [1.0, -1.0]}[which]) * sure
    q, before, across = v0 / np.linalg.norm(v0), np.zeros(d), 0.0
    diagonal, off = [], []
    here, last, total = np.ones_like(ends), np.zeros_like(ends), np.ones_like(ends)
    while len(diagonal) < d:
        w = product(q) - across * before
        along = float(q @ w)
        w -= along * q
        diagonal.append(along)
        if _EXTREME[which](eigvalsh_tridiagonal(diagonal, off)).max() > bound:
            return True
        before, across_before, across = q, across, float(np.linalg.norm(w))
        if total.min() > 1e6 * d or across <= 1e-12 * np.abs(diagonal).max():
            return False
        q = w / across
        off.append(across)
        here, last = ((ends - along) * here - across_before * last) / across, here
        total += here**2
    return False


class NotConverged(Refused, RuntimeError):
    """Iterations that ended before their tolerance was reached."""


# --- the density of all eigenvalues -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Density:
    """The spectral density ``Σ_i δ(x − h_i)/d`` of a d x d matrix, as seen from random vectors.

    nodes, weights: (probes, steps), float64; for each probe the nodes and weights of a Gauss rule, ``Σ_j w_j f(x_j)`` ≈
    Tr f(A)/d, whose weights sum to 1.  d: eigenvalues in all, so that ``d · w`` counts them.
    """

    nodes: torch.Tensor
    weights: torch.Tensor
    d: int

    def mean(self, function: Callable, confidence: float = 0.95) -> Interval:
        """``Tr f(A)/d``, the mean of f over the eigenvalues, with Student's interval over the probes. f: from a tensor
        to numbers of its shape.

        >>> found = density(torch.diag(torch.tensor([1.0, 2.0, 3.0])), 4, 3, torch.Generator().manual_seed(0))
        >>> round(float(found.mean(torch.log).value), 6)  # log det A / d = log 6 / 3
        0.597253
        """
        if not callable(function):
            raise WrongType(f"function = {function!r} cannot be called: give one of a tensor, such as torch.log")
        return student((self.weights * function(self.nodes)).sum(1), confidence)

    def moment(self, power: int, confidence: float = 0.95) -> Interval:
        """``Tr A^p/d``, the p-th moment: unbiased for p < 2·steps, and exact in each probe's ``vᵀA^p v``."""
        integer("power", power, low=0)
        return self.mean(lambda nodes: nodes**power, confidence)

    def smoothed(self, grid: torch.Tensor, width: float, confidence: float = 0.95) -> Interval:
        """The density on a grid of shape (m,), as a sum of Gaussians of that standard deviation, in units of one over
        the eigenvalues'; its integral is 1. With Student's interval over the probes, at each point alone.
        """
        grid, width = tensor("grid", grid, (None,)).to(self.nodes), real("width", width, above=0)
        away = (grid - self.nodes[..., None]) / width
        bells = (-0.5 * away**2).exp() / (width * (2 * torch.pi) ** 0.5)
        return student((self.weights[..., None] * bells).sum(1), confidence)


def density(operator, probes: int, steps: int, generator: torch.Generator) -> Density:
    """The density of all eigenvalues by stochastic Lanczos quadrature (Golub and Meurant 1994; Ghorbani et al. 2019):
    probes · steps products.

    From a vector v of random signs over √d, ``steps`` Lanczos iterations give a tridiagonal matrix; its eigenvalues are
    the nodes, the squares of its eigenvectors' first entries the weights. Every moment below 2·steps is exact for v,
    and for random v unbiased. Iterations are reorthogonalised in full, in memory steps · d: copies of converged
    eigenvalues do not come up. probes ≥ 2, for intervals; steps ≤ d. Raises Refused, WrongType, NotFinite.

    >>> found = density(torch.diag(torch.tensor([1.0, 1.0, 5.0])), 2, 2, torch.Generator().manual_seed(0))
    >>> print(found.nodes[0].numpy().round(6), found.weights[0].numpy().round(6))
    [1. 5.] [0.666667 0.333333]
    """
    d, like = _size(operator), _like(operator)
    steps = integer("steps", steps, 1, d, f"a {d} x {d} matrix has at most {d} Lanczos steps")
    if torch.is_tensor(operator):
        _refuse_asymmetric(operator)
    starts = signs(operator, probes, generator) / d**0.5
    rules = [_rule(lambda u: finite(operator @ u.to(like)), start, steps) for start in starts.T]
    return Density(torch.stack([nodes for nodes, _ in rules]), torch.stack([weights for _, weights in rules]), d)


def _rule(product: Callable, q: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights of one start; where its Krylov space ends early, further nodes lie at vᵀAv with weight 0."""
    basis = q.new_zeros(steps, len(q))
    tridiagonal = torch.zeros(steps, steps, dtype=torch.float64)
    for j in range(steps):
        basis[j] = q
        w = product(q)
        tridiagonal[j, j] = float(q @ w)
        for _ in range(2):
            w = w - basis[: j + 1].T @ (basis[: j + 1] @ w)
        length = float(w.norm())
        if j + 1 == steps or length <= 10 * torch.finfo(q.dtype).eps * float(tridiagonal.abs().max()):
            tridiagonal.diagonal()[j + 1 :] = tridiagonal[0, 0]
            break
        tridiagonal[j, j + 1] = tridiagonal[j + 1, j] = length
        q = w / length
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    return nodes, vectors[0].square()


# --- the trace, and pairs that are given ------------------------------------------------------------------------------


def signs(operator, probes: int, generator: torch.Generator) -> torch.Tensor:
    """Independent vectors of random signs in the operator's type, shape (d, probes), drawn by a torch generator.

    >>> signs(torch.eye(3), 2, torch.Generator().manual_seed(0)).square().sum(0)
    tensor([3., 3.])
    """
    integer("probes", probes, low=2, why="draw at least 2 for an interval")
    shape = (_size(operator), probes)
    draws = torch.randint(0, 2, shape, generator=torch_generator(generator), device=generator.device)
    return (2 * draws - 1).to(_like(operator))


def trace_draws(operator, probes: int, generator: torch.Generator, known: Spectrum | None = None) -> torch.Tensor:
    """Observations ``zᵀAz`` of mean Tr A, shape (probes,), for independent vectors z of random signs (Hutchinson 1990).

    known: eigenpairs (h_k, u_k) of A from `leading`; ``Σ h_k ((u_k·z)² − |u_k|²)`` is taken out of each, so that their
    part of the trace is exact. Its mean is 0 whatever the pairs: those of another matrix widen the spread and change no
    expectation. Raises Refused for fewer than 2 probes or pairs of another size, WrongType.

    >>> trace_draws(torch.diag(torch.tensor([1.0, 2.0])), 3, torch.Generator().manual_seed(0))
    tensor([3., 3., 3.])
    """
    z = signs(operator, probes, generator)
    if known is not None:
        a_spectrum(known, len(z))
    found = finite((z * (operator @ z)).sum(0))
    if known is None:
        return found
    return found - known.values @ ((known.vectors.T @ z).square() - known.vectors.square().sum(0)[:, None])


def a_spectrum(value, d: int) -> Spectrum:
    """The spectrum as it came. Raises WrongType for anything else, Refused for one of another size or without pairs.

    >>> a_spectrum(leading(torch.eye(2), 1), d=2).values
    tensor([1.])
    """
    if not isinstance(value, Spectrum):
        raise WrongType(f"eigenpairs of type {type(value).__name__}: give leading(operator, k)")
    k, d = len(tensor("values", value.values, (None,))), integer("d", d, low=1)
    if tuple(tensor("vectors", value.vectors).shape) != (d, k) or not k:
        found = tuple(value.vectors.shape)
        raise Refused(f"eigenvectors of shape {found} are not those of a {d} x {d} matrix: give leading(operator, k)")
    return value


def refuse_other_pairs(operator, spectrum: Spectrum) -> None:
    """Raise unless the operator is symmetric and the first pair of a spectrum is its leading one: seven products.

    A residual |Au₁ − h₁u₁| or a larger eigenvalue is held against a tenth of |h₁|, as what `leading` gives at the
    loosest tolerances in use. Larger eigenvalues and asymmetry are looked for in a Krylov space of six random steps.
    Raises Refused, or WrongType for anything but a `Spectrum`.

    >>> A = torch.diag(torch.tensor([1.0, 3.0]))
    >>> refuse_other_pairs(A, leading(A, 1))
    """
    d, like = _size(operator), _like(operator)
    a_spectrum(spectrum, d)
    product = _product(operator, like)
    h, u = float(spectrum.values[0]), spectrum.vectors[:, 0].double().cpu().numpy()
    basis, images = np.zeros((d, 0)), np.zeros((d, 0))
    w = np.random.default_rng(0).standard_normal(d)
    for _ in range(min(6, d)):
        w = w - basis @ (basis.T @ w)
        w = (w - basis @ (basis.T @ w)) / max(np.linalg.norm(w), 1e-300)
        basis, images = np.column_stack([basis, w]), np.column_stack([images, product(w)])
        w = images[:, -1] if images[:, -1].any() else np.random.default_rng(1).standard_normal(d)
    inside = basis.T @ images
    size = max(float(np.linalg.norm(images, axis=0).max()), abs(h))
    rounding = 1e3 * float(torch.finfo(like.dtype).eps) * size
    if (off := float(np.abs(inside - inside.T).max())) > max(rounding, 1e-3 * size):
        raise Refused(
            f"the matrix is not symmetric (uᵀAv and vᵀAu differ by {off:.2g}): give (A + Aᵀ)/2 if that is meant"
        )
    residual = float(np.linalg.norm(product(u) - h * u))
    if residual > 0.1 * abs(h) + rounding or abs(np.linalg.norm(u) - 1) > 0.01:
        raise Refused(
            f"the first pair is none of this matrix (|Au − hu| = {residual:.2g} for h = {h:.2g}): give those of "
            f"leading(operator, k)"
        )
    if (more := float(np.linalg.eigvalsh((inside + inside.T) / 2)[-1])) > h + 0.1 * abs(h) + rounding:
        raise Refused(f"the first pair is not the leading one ({h:.3g}, but there is {more:.3g}): give which='LA'")


# --- operators --------------------------------------------------------------------------------------------------------


def _size(operator) -> int:
    shape = tuple(getattr(operator, "shape", ()))
    if not hasattr(type(operator), "__matmul__") or isinstance(operator, np.ndarray):
        raise WrongType(f"an operator of type {type(operator).__name__}: give a torch tensor, or what has `@`, `shape`")
    if len(shape) != 2 or shape[0] != shape[1]:
        raise Refused(f"a matrix of shape {shape} is not square: give a symmetric matrix")
    return int(shape[0])


def _like(operator) -> torch.Tensor:
    """A tensor of the operator's type, on its device."""
    return torch.empty(0, dtype=operator.dtype, device=operator.device)


def _product(operator, like: torch.Tensor) -> Callable:
    """The product as a function of arrays in double precision, computed in the operator's type."""
    return lambda u: finite(operator @ torch.as_tensor(u).to(like)).double().cpu().numpy()


def _dense(operator, like: torch.Tensor) -> torch.Tensor:
    if hasattr(operator, "dense"):
        return operator.dense()
    return operator @ torch.eye(_size(operator)).to(like)


def _refuse_asymmetric(matrix: torch.Tensor) -> None:
    """Raise Refused unless a square tensor is its own transpose, up to rounding."""
    off, scale = float((matrix - matrix.T).abs().max()), float(finite(matrix).abs().max())
    if off > 1e3 * torch.finfo(matrix.dtype).eps * scale:
        raise Refused(
            f"the matrix is not symmetric (entries differ by {off:.2g} from their mirror images): give (A + Aᵀ)/2 if "
            f"that is what is meant"
        )
