"""Indicator, projection coefficient and likeness against dense automatic differentiation; their intervals, and what is
refused.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.alignment import (
    Alignment,
    alignment,
    estimate_alignment,
    estimate_indicator,
    indicator,
    likeness,
)
from support.curvature import GaussNewton, Hessian
from support.errors import Refused, WrongType
from support.gradients import GradientMatrix
from support.risk import EmpiricalRisk
from support.sampling import GaussianFisher, MiniBatch
from support.spectra import Spectrum, leading

torch.set_num_threads(1)


def squares(outputs, targets):
    return (outputs - targets).square().sum(1) / 2


def linear(n=12, k=3, seed=0):
    """Least squares: d = k parameters, a quadratic loss whose Hessian is the second moment of the inputs."""
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Linear(k, 1, bias=False).double()
    x = torch.randn(n, k, generator=generator, dtype=torch.float64)
    y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return GradientMatrix(EmpiricalRisk(model, squares, (x, y), chunk=5))


def classifier(n=30, seed=0):
    """A small network with cross-entropy, at random parameters."""
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    x, y = torch.randn(n, 4, generator=generator, dtype=torch.float64), torch.randint(0, 3, (n,), generator=generator)
    theta = torch.randn(sum(p.numel() for p in model.parameters()), generator=generator, dtype=torch.float64)
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    return GradientMatrix(EmpiricalRisk(model, loss, (x, y), theta=theta, chunk=11))


def dense_hessian(gradients):
    risk, whole = gradients.risk, slice(0, gradients.n)
    return torch.autograd.functional.hessian(lambda theta: risk.losses_at(theta, whole).mean(), risk.theta)


@pytest.mark.parametrize("law", [MiniBatch(30, 4), MiniBatch(30, 4, replace=False), GaussianFisher(30, 4)], ids=str)
def test_exact_numbers_equal_those_of_dense_matrices(law):
    gradients = classifier()
    covariance, H = gradients.covariance(law), dense_hessian(gradients)
    C = covariance.dense()
    values, vectors = torch.linalg.eigh(H)
    operator = Hessian(gradients.risk)
    ours = alignment(operator, covariance, leading(operator, 2))
    u = vectors[:, -1]
    dense = [H.trace(), C.trace(), (H @ C).trace(), values[-1], u @ C @ u]
    found = [ours.trace_hessian, ours.trace_covariance, ours.trace_product, ours.largest, ours.along]
    np.testing.assert_allclose(found, [float(x) for x in dense], rtol=1e-9)
    assert ours.ratio == pytest.approx(float((H @ C).trace() / (H.trace() * C.trace() / len(H))))
    assert ours.projection == pytest.approx(float(u @ C @ u * H.trace() / values[-1] / C.trace()))


def test_ratio_does_not_depend_on_the_batch_size():
    gradients = classifier()
    operator = Hessian(gradients.risk)
    pairs = leading(operator, 1)
    small, large = (alignment(operator, gradients.covariance(MiniBatch(30, b)), pairs) for b in (1, 10))
    assert small.trace_product == pytest.approx(10 * large.trace_product)
    assert (small.ratio, small.projection) == pytest.approx((large.ratio, large.projection))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10**6))
def test_ratio_lies_between_its_bounds_for_positive_semidefinite_hessians(d, seed):
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(2, d, d)) * rng.exponential(size=(2, 1, d)) ** 3
    H, C = A @ A.T, B @ B.T
    values, vectors = np.linalg.eigh(H)
    u = vectors[:, -1]
    found = Alignment(d, np.trace(H), np.trace(C), np.trace(H @ C), values[-1], u @ C @ u)
    assert found.lower_bound <= found.ratio * (1 + 1e-9)
    assert found.ratio <= found.upper_bound * (1 + 1e-9)


def test_proportional_matrices_have_coefficient_one():
    h = np.array([5.0, 2.0, 1.0, 0.0])
    found = Alignment(4, h.sum(), 3 * h.sum(), 3 * (h**2).sum(), h[0], 3 * h[0])
    assert found.projection == pytest.approx(1)
    assert found.ratio == pytest.approx(4 * (h**2).sum() / h.sum() ** 2)


@pytest.mark.parametrize("known", [0, 3])
def test_estimated_indicator_covers_the_exact_one(known):
    gradients = classifier()
    operator = Hessian(gradients.risk)
    operator, covariance = operator.dense(), gradients.covariance(MiniBatch(30, 4))
    exact = float(indicator(operator, covariance))
    pairs = leading(operator, known) if known else None
    hits = sum(
        float(estimate.low) <= exact <= float(estimate.high)
        for seed in range(60)
        for estimate in [estimate_indicator(operator, covariance, 12, torch.Generator().manual_seed(seed), known=pairs)]
    )
    assert hits >= 50  # 57 expected; fewer than 50 has a probability below one in a thousand


def test_known_eigenpairs_narrow_the_interval_and_all_of_them_close_it():
    gradients = classifier()
    operator, covariance = Hessian(gradients.risk), gradients.covariance(MiniBatch(30, 4))
    widths = []
    for k in (1, gradients.d):
        estimate = estimate_indicator(
            operator, covariance, 20, torch.Generator().manual_seed(0), known=leading(operator, k)
        )
        widths.append(float(estimate.high - estimate.low))
    assert widths[1] < 1e-9 * widths[0]
    assert float(estimate.value) == pytest.approx(float(indicator(operator, covariance)))


@pytest.mark.parametrize(
    ("known", "error", "message"),
    [
        ((torch.ones(2), torch.eye(3)[:, :2]), WrongType, "eigenpairs of type tuple: give leading"),
        (torch.eye(3), WrongType, "eigenpairs of type Tensor"),
        (leading(torch.eye(4), 1), Refused, "are not those of a 3 x 3 matrix"),
    ],
)
def test_known_pairs_that_are_none_are_refused_by_every_estimate(known, error, message):
    gradients, generator = linear(), torch.Generator().manual_seed(0)
    hessian, covariance = Hessian(gradients.risk), gradients.covariance(MiniBatch(12, 3))
    for estimate in (hessian.estimate_trace, hessian.estimate_diagonal):
        with pytest.raises(error, match=message):
            estimate(4, generator, known=known)
    with pytest.raises(error, match=message):
        estimate_indicator(hessian, covariance, 4, generator, known=known)


def test_known_pairs_of_another_matrix_change_no_expectation():
    """The second of the pairs is none of H: counted as one, h₂ in the place of uᵀHu, it would shift Tr H."""
    gradients = classifier()
    operator, covariance = Hessian(gradients.risk), gradients.covariance(MiniBatch(30, 4))
    H, C = dense_hessian(gradients), covariance.dense()
    first, other = leading(operator, 2), leading(operator, 1, which="SA")
    pairs = Spectrum(first.values, torch.stack([first.vectors[:, 0], other.vectors[:, 0]], dim=1))
    generator = torch.Generator().manual_seed(0)
    intervals = estimate_alignment(operator, covariance, pairs, 400, generator, 1 - 1e-4)[1]
    assert float(H.trace()) in intervals["trace_hessian"]
    assert float((H @ C).trace()) in intervals["trace_product"]
    u = pairs.vectors[:, 1]
    assert float(H.trace() + first.values[1] - u @ H @ u) not in intervals["trace_hessian"]


def test_estimated_alignment_covers_the_exact_one():
    gradients = classifier()
    operator, covariance = GaussNewton(gradients.risk), gradients.covariance(MiniBatch(30, 4))
    operator = operator.dense()
    pairs = leading(operator, 2)
    exact = alignment(operator, covariance, pairs)
    hits = dict.fromkeys(("trace_hessian", "trace_product", "ratio", "projection"), 0)
    for seed in range(30):
        central, intervals = estimate_alignment(operator, covariance, pairs, 20, torch.Generator().manual_seed(seed))
        assert central.ratio == pytest.approx(float(intervals["ratio"].value))
        assert central.projection == pytest.approx(float(intervals["projection"].value))
        for name, estimate in intervals.items():
            hits[name] += float(estimate.low) <= getattr(exact, name) <= float(estimate.high)
    assert min(hits.values()) >= 24
    assert hits["ratio"] >= 27


def test_likeness_of_dense_matrices_and_operators():
    gradients = classifier()
    operator, fisher = Hessian(gradients.risk), gradients.fisher()
    A, B = fisher.dense(), dense_hessian(gradients)
    exact = likeness(fisher, operator)
    assert exact.intervals is None
    numbers = [A.trace() / B.trace(), (A * B).sum() / A.norm() / B.norm(), (A - B).norm() / B.norm()]
    np.testing.assert_allclose(
        [exact.trace_ratio, exact.cosine, exact.distance], [float(x) for x in numbers], rtol=1e-9
    )
    same = likeness(A, A)
    assert (same.trace_ratio, same.cosine, same.distance) == pytest.approx((1, 1, 0))
    double = likeness(2 * A, A)
    assert (double.trace_ratio, double.cosine, double.distance) == pytest.approx((2, 1, 1))
    hits = dict.fromkeys(("trace_ratio", "cosine", "distance"), 0)
    by_products, by_tensors = (
        likeness(*pair, probes=5, generator=torch.Generator().manual_seed(0)) for pair in ((fisher, operator), (A, B))
    )
    assert by_products.distance == pytest.approx(by_tensors.distance)
    for seed in range(40):
        estimate = likeness(A, B, probes=60, generator=torch.Generator().manual_seed(seed))
        for name, interval in estimate.intervals.items():
            hits[name] += getattr(exact, name) in interval
    assert min(hits.values()) >= 33


def test_bad_input_is_refused_with_the_remedy():
    gradients, generator = classifier(), torch.Generator().manual_seed(0)
    operator, covariance = Hessian(gradients.risk), gradients.covariance(MiniBatch(30, 4))
    other = leading(Hessian(linear().risk), 1)
    with pytest.raises(Refused, match=r"eigenvectors of shape \(3, 1\) are not those of a 43 x 43 matrix"):
        alignment(operator, covariance, other)
    with pytest.raises(Refused, match=r"hessian of shape \(3, 3\) does not fit"):
        alignment(torch.eye(3), covariance, other)
    with pytest.raises(WrongType, match="covariance is of type Tensor"):
        alignment(operator, torch.eye(43), leading(operator, 1))
    with pytest.raises(WrongType, match="eigenpairs of type Tensor"):
        alignment(operator, covariance, torch.ones(43))
    with pytest.raises(Refused, match="draw at least 2"):
        estimate_indicator(operator, covariance, 1, generator)
    with pytest.raises(Refused, match="no probability"):
        estimate_indicator(operator, covariance, 5, generator, confidence=1.0)
    with pytest.raises(WrongType, match="generator = None"):
        estimate_indicator(operator, covariance, 5, None)
    flat = torch.zeros(gradients.d, gradients.d, dtype=torch.float64)
    with pytest.raises(Refused, match="square matrices of one size"):
        likeness(flat, flat[1:, 1:])
    with pytest.raises(Refused, match="second matrix is zero"):
        likeness(flat + 1, flat)
    with pytest.raises(Refused, match="first matrix is zero"):
        likeness(flat, flat + 1)
    with pytest.raises(Refused, match="confidence = 2 is no probability"):
        likeness(flat + 1, flat + 1, probes=5, generator=generator, confidence=2)
    with pytest.raises(Refused, match="at least 3 probes"):
        likeness(flat, flat + 1, probes=2, generator=generator)
    with pytest.raises(WrongType, match="generator = None"):
        likeness(flat, flat + 1, probes=5)
    with pytest.raises(WrongType, match="list"):
        likeness([[1.0]], flat)


def test_pairs_of_another_matrix_and_pairs_that_are_not_the_first_are_refused():
    gradients = classifier()
    operator, covariance = Hessian(gradients.risk), gradients.covariance(MiniBatch(30, 4))
    dense, pairs = operator.dense(), leading(operator, 3)
    for loose in (pairs, leading(operator, 3, tolerance=0.05), Spectrum(pairs.values[:1], -pairs.vectors[:, :1])):
        assert alignment(dense, covariance, loose).largest == pytest.approx(float(pairs.values[0]), rel=0.05)
    second = Spectrum(pairs.values[1:], pairs.vectors[:, 1:])
    skew = dense + torch.triu(0.1 * torch.ones_like(dense), 1)
    for matrix, pair, message in (
        (dense, second, "is not the leading one"),
        (dense, leading(operator, 1, which="SA"), "is not the leading one"),
        (dense, leading(covariance, 1), "is none of this matrix"),
        (dense, Spectrum(pairs.values * 2, pairs.vectors), "is none of this matrix"),
        (skew, pairs, "the matrix is not symmetric"),
    ):
        with pytest.raises(Refused, match=message):
            alignment(matrix, covariance, pair)
        with pytest.raises(Refused, match=message):
            estimate_alignment(matrix, covariance, pair, 4, torch.Generator().manual_seed(0))


def exact_fit():
    """Least squares at the solution of consistent data: every gradient is 0, the noise too."""
    model = torch.nn.Linear(3, 1, bias=False).double()
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    return GradientMatrix(EmpiricalRisk(model, squares, (x, x @ theta[:, None]), theta=theta))


def test_an_exact_fit_has_traces_and_no_quotients():
    gradients = exact_fit()
    operator, covariance = Hessian(gradients.risk), gradients.covariance(MiniBatch(8, 2))
    pairs = leading(operator, 1)
    found = alignment(operator, covariance, pairs)
    x = gradients.risk.inputs
    assert found.trace_hessian == pytest.approx(float(x.square().sum() / 8))
    assert found.trace_covariance == found.trace_product == found.along == 0
    for quotient in ("ratio", "projection", "lower_bound"):
        with pytest.raises(Refused, match="nothing to compare"):
            getattr(found, quotient)
    estimated, intervals = estimate_alignment(operator, covariance, pairs, 4, torch.Generator().manual_seed(0))
    assert intervals["ratio"] is None and intervals["projection"] is None
    assert intervals["trace_product"].ends == (0, 0) and estimated.trace_covariance == 0


def test_without_curvature_there_is_no_direction_to_compare():
    gradients = classifier()
    covariance, flat = gradients.covariance(MiniBatch(30, 4)), torch.zeros(43, 43, dtype=torch.float64)
    found, intervals = estimate_alignment(flat, covariance, leading(flat, 1), 4, torch.Generator().manual_seed(0))
    assert intervals["ratio"] is None and intervals["projection"] is None
    with pytest.raises(Refused, match="Tr H Tr C/d = 0"):
        found.ratio  # noqa: B018


def test_a_trace_that_may_be_zero_leaves_the_ratio_unbounded_and_gives_the_rest():
    """H with eigenvalues of both signs: Tr H = 0.1, far below its scatter."""
    gradients = classifier()
    covariance = gradients.covariance(MiniBatch(30, 4))
    rotation = torch.linalg.qr(torch.randn(43, 43, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    values = torch.cat([torch.linspace(-5, 5, 42, dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)])
    H = rotation * values @ rotation.T
    H = (H + H.T) / 2
    exact = alignment(H, covariance, pairs := leading(H, 1))
    found, intervals = estimate_alignment(H, covariance, pairs, 8, torch.Generator().manual_seed(0))
    assert intervals["ratio"].ends == (-math.inf, math.inf) and math.isfinite(intervals["ratio"].value)
    assert intervals["ratio"].value == pytest.approx(found.ratio)
    assert 0.1 in intervals["trace_hessian"] and exact.trace_product in intervals["trace_product"]
    assert exact.projection in intervals["projection"]
