r"""The one contract of every matrix of the book: a matrix that is known by its products.

An operator A with r rows and c columns has a shape, a dtype and a device, and

    A @ u                      a vector (c,) or a block of vectors (c, m): one product a column
    A + B, A − B, 2 * A, A @ B operators again, that hold nothing but their parts
    A.T                        the transpose; a symmetric A is its own
    A.trace(), A.diagonal()    exact, by products with unit vectors unless a matrix knows better
    A.dense(), A.to_scipy()    all numbers, or a `scipy.sparse.linalg.LinearOperator` for eigsh, cg, gmres, lobpcg

A matrix in hand, a tensor, takes part as it is: ``A + M``, ``A @ M``, or wrapped as `Matrix`. A subclass gives
``_times`` for blocks (and ``_transposed_times`` where it is not symmetric), and overrides what it knows better.
"""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real

import torch

from support.errors import NotFinite, Refused, WrongType, real, shape_text, tensor

_BLOCK = 256  # columns of the identity that are multiplied at once


class Operator:
    """A matrix known by its products. shape: (rows, columns); dtype, device: those of its vectors.

    >>> A = Matrix(torch.tensor([[2.0, 1.0], [1.0, 3.0]]))
    >>> (2 * A + torch.eye(2)) @ torch.tensor([1.0, 0.0])
    tensor([5., 2.])
    >>> (A @ A).trace()
    tensor(15.)
    """

    __array_ufunc__ = None  # numpy leaves its operators to ours, which say what they take
    symmetric = True

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device):
        self._shape, self.dtype, self.device = tuple(shape), dtype, device

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._shape

    @property
    def T(self) -> Operator:
        """The transpose."""
        return self if self.symmetric else _Transposed(self)

    # --- what a subclass gives

    def _times(self, columns: torch.Tensor) -> torch.Tensor:
        """The product with a block of shape (columns, m)."""
        raise WrongType(f"{type(self).__name__} has no products: use one of its subclasses")

    def _transposed_times(self, rows: torch.Tensor) -> torch.Tensor:
        """The product of the transpose with a block of shape (rows, m)."""
        if self.symmetric:
            return self._times(rows)
        raise WrongType(f"{type(self).__name__} has no products with its transpose")

    # --- products, sums, multiples

    def __matmul__(self, other):
        """The product with a vector (columns,), a block (columns, m) or another operator.

        Raises WrongType for what is none of these, Refused for another length, NotFinite where a product is not.
        """
        if isinstance(other, Operator):
            return _Product(self, other)
        return self._applied(self._times, other, self.shape[1], "direction")

    def __rmatmul__(self, other):
        rows = tensor("the left factor", other)
        if rows.ndim != 2:
            return self._applied(self._transposed_times, rows, self.shape[0], "left factor")
        return self._applied(self._transposed_times, rows.T, self.shape[0], "left factor").T

    def _applied(self, product, u, length: int, name: str) -> torch.Tensor:
        if tensor(f"the {name}", u).ndim not in (1, 2) or len(u) != length:
            raise Refused(f"the {name} has shape {tuple(u.shape)}: it must be ({length},) or ({length}, m)")
        if u.is_complex():
            raise WrongType(f"the {name} is complex: give real numbers")
        found = product(u.to(self.dtype).to(self.device).reshape(length, -1))
        return finite(found).reshape(len(found), *u.shape[1:])

    def __add__(self, other):
        return _Sum(self, as_operator(other))

    def __radd__(self, other):
        return _Sum(as_operator(other), self)

    def __sub__(self, other):
        return self + -as_operator(other)

    def __rsub__(self, other):
        return as_operator(other) - self

    def __neg__(self):
        return -1.0 * self

    def __mul__(self, factor):
        scalar = isinstance(factor, torch.Tensor) and factor.ndim == 0
        if not scalar and (isinstance(factor, bool) or not isinstance(factor, Real)):
            raise WrongType(f"a {type(factor).__name__} is no factor of a matrix: give a number, or @ for a product")
        return _Multiple(self, float(factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor):
        return self * (1 / divisor)

    # --- what all can do, by products

    def units(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The identity of the operator's columns in blocks of at most 256, each with the number of its first column."""
        length = self.shape[1]
        for start in range(0, length, _BLOCK):
            block = torch.zeros(length, min(_BLOCK, length - start), dtype=self.dtype, device=self.device)
            block[start : start + block.shape[1]].fill_diagonal_(1)
            yield start, block

    def diagonal(self) -> torch.Tensor:
        """The diagonal of a square matrix, shape (d,), by d products unless the matrix knows it. Raises Refused."""
        self._refuse_oblong("diagonal")
        return torch.cat([(self @ block)[start : start + block.shape[1]].diagonal() for start, block in self.units()])

    def trace(self) -> torch.Tensor:
        """The trace of a square matrix, the sum of its `diagonal`. Raises Refused for another shape."""
        self._refuse_oblong("trace")
        return self.diagonal().sum()

    def dense(self, limit_bytes: float = 2**31) -> torch.Tensor:
        """All numbers, in the operator's shape. Raises Refused where they exceed ``limit_bytes``."""
        self.refuse_dense(limit_bytes)
        matrix = torch.cat([self @ block for _, block in self.units()], dim=1)
        return (matrix + matrix.T) / 2 if self.symmetric else matrix

    def refuse_dense(self, limit_bytes: float) -> None:
        """Raise Refused where the numbers of the dense matrix exceed ``limit_bytes``."""
        (rows, columns), size = self.shape, self.dtype.itemsize
        if rows * columns * size > real("limit_bytes", limit_bytes, 0):
            raise Refused(
                f"a dense {rows} x {columns} matrix takes {rows * columns * size / 2**30:.1f} GiB: use products "
                f"(operator @ u), or raise limit_bytes"
            )

    def to_scipy(self):
        """A `scipy.sparse.linalg.LinearOperator` (float64 outside, the operator's type inside).

        >>> from scipy.sparse.linalg import cg
        >>> print(cg(Matrix(torch.tensor([[2.0, 0.0], [0.0, 4.0]])).to_scipy(), [2.0, 4.0])[0])
        [1. 1.]
        """
        from scipy.sparse.linalg import LinearOperator

        def applied(operator):
            return lambda u: (operator @ torch.as_tensor(u, dtype=self.dtype)).double().cpu().numpy()

        there, back = applied(self), applied(self.T)
        return LinearOperator(self.shape, matvec=there, rmatvec=back, matmat=there, rmatmat=back, dtype=float)

    def _refuse_oblong(self, what: str) -> None:
        if self.shape[0] != self.shape[1]:
            raise Refused(f"a matrix of shape {self.shape} has no {what}: give a square one")

    def __repr__(self):
        return f"{type(self).__name__}{self.shape}"


class Matrix(Operator):
    """A matrix in hand, a tensor of shape (rows, columns), as an operator. Raises WrongType or Refused.

    >>> Matrix(torch.ones(2, 3)).T @ torch.ones(2)
    tensor([2., 2., 2.])
    """

    def __init__(self, matrix: torch.Tensor):
        if tensor("matrix", matrix).ndim != 2 or not matrix.is_floating_point():
            raise Refused(
                f"matrix has shape {tuple(matrix.shape)} and numbers of type {matrix.dtype}: give real numbers of "
                f"shape {shape_text((None, None))}"
            )
        super().__init__(matrix.shape, matrix.dtype, matrix.device)
        self.matrix = matrix
        self.symmetric = self.shape[0] == self.shape[1] and torch.equal(matrix, matrix.T)

    def _times(self, columns):
        return self.matrix @ columns

    def _transposed_times(self, rows):
        return self.matrix.T @ rows

    def diagonal(self):
        self._refuse_oblong("diagonal")
        return self.matrix.diagonal()

    def dense(self, limit_bytes: float = 2**31):
        return self.matrix


def as_operator(matrix) -> Operator:
    """An operator as it is, a tensor as `Matrix`. Raises WrongType for anything else.

    >>> as_operator(torch.eye(3)).trace()
    tensor(3.)
    """
    if isinstance(matrix, Operator):
        return matrix
    if isinstance(matrix, torch.Tensor):
        return Matrix(matrix)
    raise WrongType(f"a {type(matrix).__name__} is no matrix: give an operator or a torch tensor")


def finite(numbers: torch.Tensor) -> torch.Tensor:
    """The tensor as it came. Raises NotFinite where a number is not finite.

    >>> finite(torch.ones(2))
    tensor([1., 1.])
    """
    bad = int((~torch.isfinite(numbers)).sum())
    if bad:
        raise NotFinite(
            f"{bad} of {numbers.numel()} numbers of a gradient product are not finite: look for infinite losses or "
            f"parameters"
        )
    return numbers


# --- what the operations give


class _Sum(Operator):
    def __init__(self, first: Operator, second: Operator):
        if first.shape != second.shape:
            raise Refused(f"matrices of shape {first.shape} and {second.shape} have no sum: give two of one shape")
        super().__init__(first.shape, torch.promote_types(first.dtype, second.dtype), first.device)
        self.parts, self.symmetric = (first, second), first.symmetric and second.symmetric

    def _times(self, columns):
        return self._added(part @ columns for part in self.parts)

    def _transposed_times(self, rows):
        return self._added(part.T @ rows for part in self.parts)

    def diagonal(self):
        return self._added(part.diagonal() for part in self.parts)

    def trace(self):
        return self._added(part.trace() for part in self.parts)

    def dense(self, limit_bytes: float = 2**31):
        self.refuse_dense(limit_bytes)
        return self._added(part.dense(limit_bytes) for part in self.parts)

    def _added(self, found):
        first, second = found
        return first.to(self.dtype) + second.to(self.dtype)


class _Multiple(Operator):
    def __init__(self, part: Operator, factor: float):
        super().__init__(part.shape, part.dtype, part.device)
        self.part, self.factor, self.symmetric = part, factor, part.symmetric

    def _times(self, columns):
        return self.factor * (self.part @ columns)

    def _transposed_times(self, rows):
        return self.factor * (self.part.T @ rows)

    def diagonal(self):
        return self.factor * self.part.diagonal()

    def trace(self):
        return self.factor * self.part.trace()

    def dense(self, limit_bytes: float = 2**31):
        return self.factor * self.part.dense(limit_bytes)


class _Product(Operator):
    symmetric = False

    def __init__(self, first: Operator, second: Operator):
        if first.shape[1] != second.shape[0]:
            raise Refused(
                f"matrices of shape {first.shape} and {second.shape} have no product: the columns of the first must "
                f"be the rows of the second"
            )
        dtype = torch.promote_types(first.dtype, second.dtype)
        super().__init__((first.shape[0], second.shape[1]), dtype, first.device)
        self.first, self.second = first, second

    def _times(self, columns):
        return (self.first @ (self.second @ columns)).to(self.dtype)

    def _transposed_times(self, rows):
        return (self.second.T @ (self.first.T @ rows)).to(self.dtype)


class _Transposed(Operator):
    symmetric = False

    def __init__(self, part: Operator):
        super().__init__(part.shape[::-1], part.dtype, part.device)
        self.part = part

    @property
    def T(self):
        return self.part

    def _times(self, columns):
        return self.part._transposed_times(columns)

    def _transposed_times(self, rows):
        return self.part._times(rows)
