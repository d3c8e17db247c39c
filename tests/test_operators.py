"""The contract of operators against dense matrices: products, sums, multiples, transposes, scipy; what is refused."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import cg, eigsh, gmres, lobpcg

from support.errors import NotFinite, Refused, WrongType
from support.operators import Matrix, Operator, as_operator

torch.manual_seed(0)
A = torch.randn(5, 5, dtype=torch.float64)
S, M = A @ A.T + torch.eye(5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)


class Known(Operator):
    """A matrix that is known by its products alone."""

    def __init__(self, matrix):
        super().__init__(matrix.shape, matrix.dtype, matrix.device)
        self.matrix, self.symmetric = matrix, matrix.shape[0] == matrix.shape[1] and torch.equal(matrix, matrix.T)

    def _times(self, columns):
        return self.matrix @ columns

    def _transposed_times(self, rows):
        return self.matrix.T @ rows


def close(ours, dense):
    torch.testing.assert_close(ours, dense, rtol=1e-12, atol=1e-12)


EXPRESSIONS = {
    "itself": lambda a, s, m: s,
    "oblong": lambda a, s, m: m,
    "sum": lambda a, s, m: a + s,
    "sum with a tensor": lambda a, s, m: s + A,
    "a tensor and it": lambda a, s, m: A + s,
    "difference": lambda a, s, m: s - a,
    "from a tensor": lambda a, s, m: A - s,
    "multiple": lambda a, s, m: 2 * s,
    "from the right": lambda a, s, m: s * 0.5,
    "of numpy": lambda a, s, m: np.float64(3) * s,
    "of torch": lambda a, s, m: torch.tensor(3.0) * s,
    "quotient": lambda a, s, m: -s / 4,
    "product": lambda a, s, m: m @ a,
    "product of three": lambda a, s, m: m @ (s @ a),
    "transpose": lambda a, s, m: m.T,
    "of a sum": lambda a, s, m: (m @ (a + s) - 2 * m).T,
    "twice": lambda a, s, m: a.T.T,
}


@pytest.mark.parametrize("kind", [Known, Matrix])
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expressions_are_those_of_dense_matrices(kind, name):
    build = EXPRESSIONS[name]
    ours, dense = build(*map(kind, (A, S, M))), build(A, S, M)
    rows, columns = dense.shape
    assert ours.shape == (rows, columns) and (ours.dtype, ours.device) == (torch.float64, A.device)
    block = torch.arange(columns * 2.0).reshape(columns, 2)
    close(ours @ block, dense @ block.double())
    close(ours @ block[:, 0], dense @ block[:, 0].double())
    close(ours.T @ torch.ones(rows), dense.T.sum(1))
    close(torch.ones(rows) @ ours, dense.sum(0))
    close(torch.ones(4, rows) @ ours, dense.sum(0).expand(4, -1))
    close(ours.dense(), dense)
    linear = ours.to_scipy()
    np.testing.assert_allclose(linear @ block.double().numpy(), dense @ block.double(), rtol=1e-12)
    np.testing.assert_allclose(linear.rmatvec(np.ones(rows)), dense.sum(0), rtol=1e-12)
    if rows == columns:
        close(ours.trace(), dense.trace())
        close(ours.diagonal(), dense.diagonal())


def test_blocks_of_unit_vectors_cover_more_columns_than_one_block_holds():
    diagonal = torch.arange(600.0)
    ours = Known(torch.diag(diagonal))
    close(ours.diagonal(), diagonal)
    assert float(ours.trace()) == 599 * 300
    close(ours.dense(), torch.diag(diagonal))


def test_scipys_solvers_take_any_operator():
    operator, right = Known(S) + 2 * Matrix(torch.eye(5, dtype=torch.float64)), np.arange(5.0)
    dense = (S + 2 * torch.eye(5)).numpy()
    exact = np.linalg.solve(dense, right)
    for solver in (cg, gmres):
        np.testing.assert_allclose(solver(operator.to_scipy(), right, rtol=1e-12)[0], exact, rtol=1e-8)
    largest = np.linalg.eigvalsh(dense)[-2:]
    np.testing.assert_allclose(np.sort(eigsh(operator.to_scipy(), 2)[0]), largest, rtol=1e-10)
    big = Matrix(torch.diag(torch.arange(1.0, 21.0).double()))
    start = np.random.default_rng(0).standard_normal((20, 2))
    np.testing.assert_allclose(lobpcg(big.to_scipy(), start, maxiter=200, tol=1e-6)[0], [20, 19], rtol=1e-6)


def test_types_are_those_of_the_operator():
    single = Matrix(S.float())
    assert (single @ torch.ones(5, dtype=torch.float64)).dtype == torch.float32
    assert (single @ torch.ones(5, dtype=torch.int64)).dtype == torch.float32
    assert (single + Matrix(S)).dtype == torch.float64
    close((single + Matrix(S)).dense(), S.float().double() + S)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda o: o @ torch.ones(4), Refused, r"direction has shape \(4,\): it must be \(5,\) or \(5, m\)"),
        (lambda o: o @ torch.ones(5, 2, 2), Refused, r"direction has shape \(5, 2, 2\)"),
        (lambda o: o @ torch.tensor(1.0), Refused, r"direction has shape \(\)"),
        (lambda o: o @ np.ones(5), WrongType, "direction is of type ndarray: give a torch tensor"),
        (lambda o: np.ones(5) @ o, WrongType, "left factor is of type ndarray"),
        (lambda o: o @ [1.0] * 5, WrongType, "direction is of type list"),
        (lambda o: o @ None, WrongType, "direction is of type NoneType"),
        (lambda o: o @ torch.ones(5, dtype=torch.complex64), WrongType, "complex"),
        (lambda o: o @ torch.full((5,), torch.nan), NotFinite, "5 of 5 numbers"),
        (lambda o: o * "2", WrongType, "a str is no factor"),
        (lambda o: o * o, WrongType, "a Known is no factor of a matrix: give a number, or @ for a product"),
        (lambda o: o * True, WrongType, "a bool is no factor"),
        (lambda o: o + 1, WrongType, "a int is no matrix"),
        (lambda o: o + M, Refused, r"shape \(5, 5\) and \(3, 5\) have no sum"),
        (lambda o: o @ Matrix(M), Refused, r"shape \(5, 5\) and \(3, 5\) have no product"),
        (lambda o: Matrix(M).trace(), Refused, r"shape \(3, 5\) has no trace"),
        (lambda o: Matrix(M).diagonal(), Refused, r"shape \(3, 5\) has no diagonal"),
        (lambda o: o.dense(limit_bytes="much"), WrongType, "limit_bytes = 'much' is not a number"),
        (lambda o: o.dense(limit_bytes=10), Refused, "dense 5 x 5 matrix takes 0.0 GiB: use products"),
        (lambda o: Matrix(torch.ones(3)), Refused, r"matrix has shape \(3,\)"),
        (lambda o: Matrix(torch.ones(3, 3, dtype=torch.int64)), Refused, "type torch.int64: give real numbers"),
        (lambda o: Matrix(None), WrongType, "matrix is of type NoneType"),
        (lambda o: as_operator(np.eye(2)), WrongType, "a ndarray is no matrix"),
        (lambda o: Operator((2, 2), torch.float32, A.device) @ torch.ones(2), WrongType, "Operator has no products"),
    ],
)
def test_what_is_no_product_sum_or_multiple_is_one_clear_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(Known(S))
    assert "\n" not in str(caught.value)
