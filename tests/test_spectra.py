"""Leading eigenpairs of matrices with a known spectrum: every copy of what is repeated, at what cost; of curvature
operators against dense eigenpairs; what is refused.
"""

import numpy as np
import pytest
import torch
from torch import nn

from support import spectra
from support.curvature import Hessian
from support.errors import NotFinite, Refused, WrongType
from support.gradients import GradientMatrix
from support.intervals import Interval, student
from support.operators import Matrix
from support.risk import EmpiricalRisk
from support.sampling import MiniBatch
from support.spectra import density, leading

N = 14


class Known:
    """An operator with the given eigenvalues, whose eigenvectors are a random rotation; it counts its products."""

    def __init__(self, values, dtype=torch.float64, seed=0):
        d = len(values)
        rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]
        self.matrix = torch.as_tensor(rotation * np.asarray(values) @ rotation.T).to(dtype)
        self.shape, self.dtype, self.device, self.products = (d, d), dtype, self.matrix.device, 0

    def __matmul__(self, u):
        self.products += 1 if u.ndim == 1 else u.shape[1]
        return self.matrix @ u


class Counted(Matrix):
    """A matrix that counts its products."""

    def __init__(self, matrix):
        super().__init__(matrix)
        self.products = 0

    def _times(self, columns):
        self.products += columns.shape[1]
        return super()._times(columns)


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(N, 16, generator=generator, dtype=torch.float64)
    return model, cross_entropy, inputs, torch.randint(0, 3, (N,), generator=generator)


def risk(model, loss, inputs, targets, **options):
    return EmpiricalRisk(model, loss, (inputs, targets), **options)


def dense_hessian(*data):
    g = risk(*data)
    return torch.func.hessian(lambda theta: g.losses_at(theta, slice(0, N)).mean())(g.theta)


def close(ours, dense, atol=1e-12):
    torch.testing.assert_close(ours, dense, rtol=1e-9, atol=atol)


@pytest.fixture
def always_lanczos(monkeypatch):
    monkeypatch.setattr(spectra, "_DENSE", 0)


# --- repeated eigenvalues

BULK = np.random.default_rng(1).uniform(-0.9, 0.9, 290)
REPEATED = {
    "one eigenvalue three times": [5, 5, 5, 3, 2, 1, *BULK],
    "nine copies of each": [*np.repeat([5, 4, 3, 2], 9), *BULK],
    "twenty copies": [*np.repeat(2.0, 20), *BULK],
    "nearly equal": [5, 5 + 1e-9, 5 - 1e-9, 3, 3, 3, 2, *BULK],
    "both signs": [*np.repeat([-5, 4, -3], 5), *BULK],
    "all negative": -np.array([*np.repeat([1, 2, 3], 4), *(3.5 + np.abs(BULK))]),
    "two values in all": np.repeat([2.0, 1.0], 155),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("values", REPEATED.values(), ids=REPEATED)
def test_every_copy_of_a_repeated_eigenvalue_is_found(values, which, dtype):
    values, k = np.asarray(values, dtype=float), 12
    extreme = {"LA": values, "SA": -values, "LM": np.abs(values)}[which]
    expected = extreme[np.argsort(-extreme)[:k]]
    operator = Known(values, dtype)
    found = leading(operator, k, which=which)
    ours = {"LA": found.values, "SA": -found.values, "LM": found.values.abs()}[which]
    accuracy = 1e-7 if dtype == torch.float64 else 1e-3
    np.testing.assert_allclose(ours.double(), expected, rtol=accuracy)
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(k, dtype=dtype), rtol=0, atol=1e-5)
    residual = (operator.matrix @ found.vectors - found.vectors * found.values).norm(dim=0).max()
    assert residual < (1e-7 if dtype == torch.float64 else 2e-3) * np.abs(values).max()


@pytest.mark.parametrize("tolerance", [1e-6, 0.01])
def test_copies_are_found_near_a_start_and_at_a_loose_tolerance(tolerance):
    values = [*np.repeat([5, 4, 3], 5), *BULK]
    before = leading(Known(values), 12)
    start = before.vectors + 0.01 * torch.randn(len(values), 12, generator=torch.Generator().manual_seed(0)).double()
    found = leading(Known(values), 12, start=start, tolerance=tolerance)
    np.testing.assert_allclose(found.values, np.repeat([5, 4, 3], [5, 5, 2]), rtol=tolerance)


SIMPLE = {
    "1/i": 1 / np.arange(1, 501),
    "geometric": np.exp(-np.arange(500) / 20),
    "outliers and a power law": np.r_[[50, 30, 20, 10, 8, 7, 6, 5, 4], 1 / np.arange(1, 492)],
    "two signs": np.r_[1 / np.arange(1, 251), -0.3 / np.arange(1, 251)],
    "evenly spaced": 1 - np.arange(500) / 500,
}


@pytest.mark.parametrize("k", [1, 10, 20])
@pytest.mark.parametrize("values", SIMPLE.values(), ids=SIMPLE)
def test_looking_for_copies_costs_a_third_more_where_there_are_none(values, k):
    from scipy.sparse.linalg import LinearOperator, eigsh

    once, ours = Known(values), Known(values)
    plain = LinearOperator(once.shape, matvec=lambda u: (once @ torch.as_tensor(u).reshape(-1)).numpy(), dtype=float)
    v0 = np.random.default_rng(0).standard_normal(500)
    ends = eigsh(plain, k, which="LA", v0=v0, ncv=max(2 * k, k + 20), tol=2**-26)[0]
    found = leading(ours, k)
    np.testing.assert_allclose(found.values, np.sort(ends)[::-1], rtol=1e-9)
    assert ours.products <= 1.34 * once.products


# --- the density


def test_as_many_steps_as_distinct_eigenvalues_give_these_and_their_shares():
    """Three values, 10, 20 and 30 times: exact nodes, and shares that are 1/6, 2/6 and 3/6 in the mean over probes."""
    found = density(Known(np.repeat([-2.0, 1.0, 4.0], [10, 20, 30])), 200, 3, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(found.nodes, np.tile([-2.0, 1.0, 4.0], (200, 1)), atol=1e-9)
    np.testing.assert_allclose(found.weights.sum(1), 1)
    shares = student(found.weights, 1 - 1e-4)
    assert torch.tensor([1 / 6, 2 / 6, 3 / 6]).double() in shares and shares.half_width.max() < 0.05
    more = density(Known(np.repeat([-2.0, 1.0, 4.0], [10, 20, 30])), 2, 10, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(more.mean(torch.exp).value, found.mean(torch.exp, 0.9).value, rtol=0.5)
    assert torch.isfinite(more.nodes).all() and more.nodes.min() > -2 - 1e-9 and more.nodes.max() < 4 + 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_moments_are_those_of_the_probes_and_cover_those_of_the_matrix(dtype):
    values = np.r_[10.0, 1 / np.arange(1, 80)]
    operator, generator = Known(values, dtype), torch.Generator().manual_seed(3)
    found = density(operator, 30, 4, generator)
    z = spectra.signs(operator, 30, torch.Generator().manual_seed(3)) / 80**0.5
    power = z
    for p in range(8):  # exact below 2·4
        mine = (found.weights * found.nodes**p).sum(1).to(dtype)
        torch.testing.assert_close(
            mine,
            (z * power).sum(0),
            rtol=1e-3 if dtype == torch.float32 else 1e-9,
            atol=1e-4 if dtype == torch.float32 else 1e-9,
        )
        assert p == 0 or (values**p).mean() in found.moment(p, 1 - 1e-4)
        power = operator.matrix @ power
    assert found.moment(0).value == pytest.approx(1)


def test_all_steps_give_all_eigenvalues():
    values = np.linspace(-1, 2, 12)
    found = density(Known(values), 2, 12, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(found.nodes[1], values, atol=1e-10)
    # f at the eigenvalues, weighted by the probe: here compared through a function that is no polynomial
    smooth = found.mean(lambda x: 1 / (1 + x**2), 1 - 1e-6)
    assert (1 / (1 + values**2)).mean() in smooth


def test_the_smoothed_density_is_that_of_a_semicircle():
    """Eigenvalues at the quantiles of Wigner's law: density √(4 − x²)/2π; its integral is 1."""
    d = 400
    grid = np.linspace(-2, 2, 40_001)
    law = np.sqrt(np.maximum(4 - grid**2, 0)) / (2 * np.pi)
    values = np.interp((np.arange(d) + 0.5) / d, np.cumsum(law) * (grid[1] - grid[0]), grid)
    found = density(Known(values), 40, 40, torch.Generator().manual_seed(0))
    x = torch.linspace(-4, 4, 401, dtype=torch.float64)
    smooth = found.smoothed(x, 0.15)
    assert float(torch.trapezoid(smooth.value, x)) == pytest.approx(1, abs=1e-6)
    exact = np.exp(-0.5 * ((x.numpy()[:, None] - values) / 0.15) ** 2).mean(1) / (0.15 * np.sqrt(2 * np.pi))
    wide = found.smoothed(x, 0.15, 1 - 1e-5)
    assert torch.as_tensor(exact) in Interval(wide.value, wide.low - 1e-6, wide.high + 1e-6, 1.0, 40, "")
    inside = x.abs() < 1.5
    expected = torch.sqrt(4 - x[inside] ** 2) / (2 * torch.pi)
    assert float((smooth.value[inside] - expected).abs().max()) < 0.03


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"probes": 1}, Refused, "probes = 1 is out of range: draw at least 2"),
        ({"steps": 0}, Refused, "steps = 0"),
        ({"steps": 5}, Refused, "a 4 x 4 matrix has at most 4 Lanczos steps"),
        ({"generator": 1}, WrongType, "generator = 1"),
        ({"operator": torch.ones(2, 3)}, Refused, "not square"),
        ({"operator": torch.triu(torch.ones(4, 4))}, Refused, "not symmetric"),
    ],
)
def test_densities_that_cannot_be_had_are_refused(options, error, message):
    valid = {"operator": torch.eye(4), "probes": 2, "steps": 2, "generator": torch.Generator().manual_seed(0)}
    with pytest.raises(error, match=message):
        density(**valid | options)


# --- of operators


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("dense", [True, False])
def test_leading_pairs_are_those_of_the_dense_matrix(which, dense, monkeypatch):
    monkeypatch.setattr(spectra, "_DENSE", 1000 if dense else 0)
    data = problem()
    matrix, k = dense_hessian(*data), 6
    values = torch.linalg.eigvalsh(matrix)
    order = {"LA": -values, "SA": values, "LM": -values.abs()}[which].argsort()
    for operator in (Hessian(risk(*data, chunk=5)), matrix):
        found = leading(operator, k, which=which)
        close(found.values, values[order][:k], atol=1e-9)
        close(found.vectors.T @ found.vectors, torch.eye(k, dtype=torch.float64), atol=1e-9)
        close(matrix @ found.vectors, found.vectors * found.values, atol=1e-7)


def test_leading_pairs_of_the_gradient_covariance(always_lanczos):
    covariance = GradientMatrix(risk(*problem())).covariance(MiniBatch(N, 4))
    found = leading(covariance, 5)
    close(found.values, torch.linalg.eigvalsh(covariance.dense()).flip(0)[:5], atol=1e-10)


def test_a_start_near_the_wanted_space_saves_products(always_lanczos):
    hessian = dense_hessian(*problem())
    hessian = (hessian + hessian.T) / 2
    once = leading(hessian, 1)
    cold, warm = Counted(hessian), Counted(hessian)
    found = [
        leading(operator, 1, start=start, tolerance=1e-4).values
        for operator, start in ((cold, None), (warm, once.vectors))
    ]
    close(found[0], found[1], atol=1e-3)
    assert warm.products <= cold.products / 2


def test_the_same_call_gives_the_same_numbers(always_lanczos):
    hessian = Hessian(risk(*problem()))
    first, second = leading(hessian, 4), leading(hessian, 4)
    assert torch.equal(first.values, second.values) and torch.equal(first.vectors, second.vectors)


def test_single_precision_operators_give_single_precision_pairs(always_lanczos):
    model, loss, inputs, targets = problem()
    exact = torch.linalg.eigvalsh(dense_hessian(model, loss, inputs, targets)).flip(0)[:4]
    found = leading(Hessian(risk(model.float(), loss, inputs.float(), targets)), 4)
    assert found.values.dtype == found.vectors.dtype == torch.float32
    torch.testing.assert_close(found.values, exact.float(), rtol=1e-4, atol=1e-6)


def test_a_zero_operator_has_zero_eigenvalues(always_lanczos):
    found = leading(torch.zeros(40, 40, dtype=torch.float64), 3)
    assert not found.values.any()
    close(found.vectors.T @ found.vectors, torch.eye(3, dtype=torch.float64))


# --- what is refused


@pytest.mark.parametrize(
    ("matrix", "k", "options", "error", "message"),
    [
        (torch.ones(3, 4), 1, {}, Refused, "shape .3, 4. is not square"),
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), 1, {}, Refused, "not symmetric .entries differ by 2"),
        (np.eye(3), 1, {}, WrongType, "type ndarray: give a torch tensor"),
        ([[1.0]], 1, {}, WrongType, "type list: give a torch tensor"),
        (None, 1, {}, WrongType, "type NoneType: give a torch tensor"),
        (torch.eye(3), 4, {}, Refused, "k = 4 eigenpairs cannot be had from a 3 x 3 matrix"),
        (torch.eye(3), 0, {}, Refused, "choose 1 ≤ k ≤ 3"),
        (torch.eye(3), 1.5, {}, WrongType, "k = 1.5"),
        (torch.eye(3), True, {}, WrongType, "k = True"),
        (torch.eye(3), 1, {"which": "top"}, Refused, "which = 'top' is unknown: choose LA, SA, LM"),
        (torch.eye(3), 1, {"tolerance": 2}, Refused, "tolerance = 2 is out of range"),
        (torch.eye(3), 1, {"tolerance": 0.0}, Refused, "tolerance = 0.0 is out of range"),
        (torch.eye(3), 1, {"start": np.ones(3)}, WrongType, "start is of type ndarray"),
        (torch.eye(3), 1, {"start": torch.ones(5)}, Refused, r"start has shape \(5,\)"),
        (torch.full((3, 3), torch.nan), 1, {}, NotFinite, "not finite"),
    ],
)
def test_matrices_that_have_no_such_pairs_are_refused(matrix, k, options, error, message):
    with pytest.raises(error, match=message):
        leading(matrix, k, **options)


def test_more_pairs_than_the_rank_of_the_covariance_are_refused():
    covariance = GradientMatrix(risk(*problem())).covariance(MiniBatch(N, 4))
    with pytest.raises(Refused, match=r"k = 14 eigenpairs .* of rank 13 at most"):
        leading(covariance, N)


def test_products_that_are_not_finite_are_refused(always_lanczos):
    model, loss, inputs, targets = problem()
    inputs[0, 0] = torch.inf
    with pytest.raises(NotFinite, match="not finite"):
        leading(Hessian(risk(model, loss, inputs, targets)), 1)


def test_iterations_that_do_not_converge_are_refused(monkeypatch):
    from scipy.sparse import linalg

    def give_up(*_, **__):
        raise linalg.ArpackNoConvergence("", np.ones(1), np.ones((400, 1)))

    monkeypatch.setattr(linalg, "eigsh", give_up)
    with pytest.raises(spectra.NotConverged, match="found 1 of 2 eigenpairs: ask for fewer"):
        leading(Known(np.arange(400.0)), 2)
