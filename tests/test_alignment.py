"""Sharpness, indicator, projection coefficient and likeness: exact on quadratics, against dense automatic
differentiation, and their intervals.
"""

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
    expected_sharpness,
    indicator,
    likeness,
)
from support.curvature import GaussNewton, Hessian
from support.gradients import GradientMatrix
from support.risk import EmpiricalRisk
from support.sampling import GaussianFisher, MiniBatch
from support.spectra import leading

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


def test_estimated_alignment_covers_the_exact_one():
    gradients = classifier()
    operator, covariance = GaussNewton(gradients.risk), gradients.covariance(MiniBatch(30, 4))
    operator = Dense(operator.dense(), operator)
    pairs = leading(operator.dense(), 2)
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


def test_sharpness_of_a_quadratic_is_half_the_trace_times_the_variance():
    gradients = linear()
    H = dense_hessian(gradients)
    sigma = 0.7  # no small number: the formula is exact here
    estimate = expected_sharpness(gradients.risk, sigma, 10_000, torch.Generator().manual_seed(1))
    assert float(estimate.low) <= sigma**2 / 2 * float(H.trace()) <= float(estimate.high)
    assert float(estimate.high - estimate.low) < 0.1 * float(estimate.value)
    # a pair's mean is νᵀHν/2, without the slope: its spread is that of the quadratic form alone
    spread = sigma**2 / 2 * float((2 * (H @ H).trace()).sqrt())
    assert float(estimate.high - estimate.low) == pytest.approx(2 * 1.96 * spread / 5000**0.5, rel=0.05)


def test_paired_and_plain_draws_estimate_the_same_and_pairs_are_sharper():
    gradients = classifier()
    paired, plain = (
        expected_sharpness(gradients.risk, 0.05, 4000, torch.Generator().manual_seed(2), paired=paired)
        for paired in (True, False)
    )
    assert paired.probes == 2000 and plain.probes == 4000
    assert max(float(paired.low), float(plain.low)) < min(float(paired.high), float(plain.high))
    assert float(paired.high - paired.low) < float(plain.high - plain.low) / 3


def test_absolute_sharpness_measures_the_gradient_where_there_is_one():
    gradients = classifier()
    sigma = 1e-4
    estimate = expected_sharpness(gradients.risk, sigma, 5000, torch.Generator().manual_seed(3), absolute=True)
    slope = sigma * (2 / np.pi) ** 0.5 * float(gradients.mean.norm())
    assert float(estimate.low) * 0.999 <= slope <= float(estimate.high) * 1.001


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
        for name, (low, high) in estimate.intervals.items():
            hits[name] += low <= getattr(exact, name) <= high
    assert min(hits.values()) >= 33


def test_bad_input_is_refused_with_the_remedy():
    gradients, generator = classifier(), torch.Generator().manual_seed(0)
    operator, covariance = Hessian(gradients.risk), gradients.covariance(MiniBatch(30, 4))
    other = leading(Hessian(linear().risk), 1)
    with pytest.raises(ValueError, match=r"they must be \(43, 43\) and \(43,\)"):
        alignment(operator, covariance, other)
    with pytest.raises(ValueError, match="draw at least 2"):
        estimate_indicator(operator, covariance, 1, generator)
    with pytest.raises(ValueError, match="no probability"):
        estimate_indicator(operator, covariance, 5, generator, level=1.0)
    flat = torch.zeros(gradients.d, gradients.d, dtype=torch.float64)
    with pytest.raises(ValueError, match="use more probes"):
        estimate_alignment(Dense(-operator.dense(), operator), covariance, leading(operator, 1), 5, generator)
    with pytest.raises(ValueError, match="sigma > 0"):
        expected_sharpness(gradients.risk, 0.0, 10, generator)
    with pytest.raises(ValueError, match="paired=False"):
        expected_sharpness(gradients.risk, 0.1, 11, generator)
    with pytest.raises(ValueError, match="draw at least 2"):
        expected_sharpness(gradients.risk, 0.1, 2, generator)
    with pytest.raises(ValueError, match="matrices of one size"):
        likeness(flat, flat[1:, 1:])
    with pytest.raises(ValueError, match="second matrix is zero"):
        likeness(flat + 1, flat)
    with pytest.raises(ValueError, match="first matrix is zero"):
        likeness(flat, flat + 1)
    with pytest.raises(ValueError, match="confidence = 2 is no probability"):
        likeness(flat + 1, flat + 1, probes=5, generator=generator, level=2)
    with pytest.raises(ValueError, match="at least 3 probes"):
        likeness(flat, flat + 1, probes=2, generator=generator)
    with pytest.raises(ValueError, match="a generator to draw them"):
        likeness(flat, flat + 1, probes=5)


class Dense(Hessian):
    """A curvature operator whose products are those of a matrix at hand."""

    def __init__(self, matrix, operator):
        super().__init__(operator.risk)
        self.matrix = matrix

    def _times(self, columns):
        return self.matrix @ columns

    def dense(self):
        return self.matrix
