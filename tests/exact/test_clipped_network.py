"""The closed forms of the clipped network against automatic differentiation, against each other, and in rationals."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import Refused
from support.exact.clipped_network import ClippedNetwork, descend, loewner_at_least


def network(seed=0, n=40, width=6, delta=0.05, exact=False):
    """A network on n points of the plane and weights with several samples on both sides of both thresholds."""
    rng = np.random.default_rng(seed)
    points = np.c_[rng.integers(-16, 17, (n, 2)) / 8, np.ones(n)]
    theta = rng.integers(-16, 17, (width, 3)) / 16 + 1 / 64  # off the kinks
    labels, output = (points[:, 0] >= points[:, 1]).astype(int), np.resize([1, -1], width)
    if exact:
        points, theta = (np.vectorize(Fraction, otypes=[object])(array) for array in (points, theta))
        labels, output, delta = labels.astype(object), output.astype(object), Fraction(delta).limit_denominator(100)
    return ClippedNetwork(points, labels, output, delta), theta


def by_autograd(net, theta):
    """Loss, gradient, per-sample gradients and Hessian by torch."""
    x, y, o = (torch.tensor(array, dtype=torch.float64) for array in (net.inputs, net.labels, net.output))

    def losses(flat):
        return (torch.clamp(torch.relu(x @ flat.view(theta.shape).T) @ o, net.delta, 1 - net.delta) - y) ** 2

    flat = torch.tensor(theta.reshape(-1))
    one = torch.autograd.functional.jacobian(losses, flat)
    return (
        losses(flat).mean(),
        one.mean(0),
        one,
        torch.autograd.functional.hessian(lambda flat: losses(flat).mean(), flat),
    )


@pytest.mark.parametrize("seed", range(3))
def test_closed_forms_equal_automatic_differentiation(seed):
    net, theta = network(seed)
    loss, gradient, one, hessian = by_autograd(net, theta)
    assert 3 < net.unsaturated(net.outputs(theta)).sum() < net.n
    np.testing.assert_allclose(net.loss(theta), loss, rtol=1e-13)
    np.testing.assert_allclose(net.gradient(theta).reshape(-1), gradient, atol=1e-14)
    np.testing.assert_allclose(net.hessian(theta), hessian, atol=1e-13)
    np.testing.assert_allclose(net.fisher(theta), one.T @ one / net.n, atol=1e-13)
    np.testing.assert_allclose(net.covariance(theta), np.cov(one.T, bias=True), atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_gram_matrix_gives_the_traces_of_the_dense_matrices(seed):
    net, theta = network(seed, width=10)
    ours, H, C = net.alignment(theta), net.hessian(theta), net.covariance(theta)
    values, vectors = np.linalg.eigh(H)
    u = vectors[:, -1]
    assert (ours.d, net.d) == (30, 30)
    dense = [np.trace(H), np.trace(C), np.trace(H @ C), values[-1], u @ C @ u]
    np.testing.assert_allclose(
        [ours.trace_hessian, ours.trace_covariance, ours.trace_product, ours.largest, ours.along], dense, rtol=1e-10
    )
    curvatures = net.curvatures(theta)
    np.testing.assert_allclose(
        np.r_[curvatures, np.zeros(30)][:30], np.r_[values[::-1], np.zeros(len(curvatures))][:30], atol=1e-12
    )


def test_accuracy_counts_the_right_side_of_one_half():
    net, theta = network()
    right = [(f > 0.5) == bool(y) for f, y in zip(net.outputs(theta), net.labels, strict=True)]
    assert net.accuracy(theta) == sum(right) / len(right)


def test_rationals_stay_rational_and_agree_with_floats():
    exact, theta = network(exact=True)
    rough, same = network()
    for name in ("gradient", "hessian", "fisher", "covariance"):
        value = getattr(exact, name)(theta)
        assert all(isinstance(entry, (int, Fraction)) for entry in value.flat)
        np.testing.assert_allclose(value.astype(float), getattr(rough, name)(same), atol=1e-13)
    assert isinstance(exact.loss(theta), Fraction)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.01, 0.1, 0.3]))
def test_fisher_lies_between_the_multiples_of_the_hessian(seed, delta):
    net, theta = network(seed, n=15, width=2, delta=delta, exact=True)
    H, F = net.hessian(theta), net.fisher(theta)
    active = net.unsaturated(net.outputs(theta))
    residual = max(abs(net.residuals(net.outputs(theta))[active]), default=net.delta)
    assert loewner_at_least(F, 2 * net.delta**2 * H)
    assert loewner_at_least(2 * residual**2 * H, F)


def test_order_of_matrices_is_decided_exactly():
    tiny = Fraction(1, 10**40)
    A = np.array([[1, 1], [1, 1]], dtype=object) * Fraction(1)
    E = np.array([[1, 0], [0, 0]], dtype=object) * tiny
    assert loewner_at_least(A, 0 * A)
    assert loewner_at_least(A + E, A)
    assert not loewner_at_least(A - E, 0 * A)
    assert not loewner_at_least(np.array([[0, 1], [1, 0]], dtype=object), 0 * A)
    assert loewner_at_least(0 * A, 0 * A)


def test_descending_gradient_descent_and_adam():
    net, theta = network(1)
    path = list(descend(net, theta, [0.01, 0.02], adam=False))
    np.testing.assert_allclose(path[2], path[1] - 0.02 * net.gradient(path[1]))
    parameter = torch.nn.Parameter(torch.tensor(theta))
    optimizer = torch.optim.Adam([parameter], lr=0.003)
    for _ in range(5):
        parameter.grad = torch.tensor(net.gradient(parameter.detach().numpy()))
        optimizer.step()
    *_, last = descend(net, theta, [0.003] * 5)
    np.testing.assert_allclose(last, parameter.detach(), rtol=1e-12)
    assert next(iter(descend(net, theta, []))) is not theta


def test_bad_input_is_refused_with_the_remedy():
    net, theta = network()
    with pytest.raises(ValueError, match=r"labels of shape \(39,\) cannot be taken: .*\(40,\)"):
        ClippedNetwork(net.inputs, net.labels[1:], net.output, 0.1)
    with pytest.raises(ValueError, match="zeros and ones"):
        ClippedNetwork(net.inputs, 2 * net.labels, net.output, 0.1)
    with pytest.raises(ValueError, match="delta < 1/2"):
        ClippedNetwork(net.inputs, net.labels, net.output, 0.5)
    with pytest.raises(ValueError, match=r"theta of shape .* cannot be taken"):
        net.loss(theta.T)
    with pytest.raises(ValueError, match="every sample is saturated"):
        net.alignment(100 * np.abs(theta) * net.output[:, None])
    with pytest.raises(ValueError, match=r"learning rate of step 1 = 0\.0 is out of range"):
        list(descend(net, theta, [0.0]))
    with pytest.raises(ValueError, match="no Fraction"):
        loewner_at_least(np.eye(2), np.zeros((2, 2)))
    square = np.array([[0, 1], [0, 0]], dtype=object)
    with pytest.raises(ValueError, match="no symmetric matrix"):
        loewner_at_least(square, 0 * square)


@pytest.mark.parametrize("other", [0, [[0]], [0, 0], [[0] * 3] * 3, [[0, 0]]])
def test_matrices_of_unequal_shapes_have_no_order(other):
    """Numpy would spread the smaller one: [[2, 1], [1, 2]] ⪰ [[0]] was True."""
    matrix = np.array([[2, 1], [1, 2]], dtype=object)
    for pair in ((matrix, other), (other, matrix)):
        with pytest.raises(Refused, match="cannot be taken"):
            loewner_at_least(*pair)
    assert loewner_at_least(matrix, 0 * matrix) and not loewner_at_least(0 * matrix, matrix)
