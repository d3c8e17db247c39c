"""The authors' variants: C of a partition, silence between looks, eigenvalues of either sign."""

import pytest
import torch
from small_network import B, N, added, close, cross_entropy, problem, random, sgd_noise, with_gradients
from torch import nn

from support.additive import PartitionNoise, SgdNoise, by_name
from support.covariances import LowRank
from support.curvature import Hessian
from support.gradients import GradientMatrix
from support.risk import EmpiricalRisk
from support.sampling import MiniBatch
from support.spectra import leading


def test_the_codes_covariance_is_that_of_a_partition_into_batches():
    model, inputs, targets = problem()
    sgd = sgd_noise(inputs, targets, released=True)
    order = torch.randperm(N, generator=random())
    gradients = GradientMatrix(EmpiricalRisk(model, cross_entropy, (inputs, targets))).dense()[:, order]
    expected = torch.cov(gradients.reshape(-1, N // B, B).mean(2))
    close(sgd.diagonal(model, random()), expected.diagonal())
    pairs, trace = sgd.leading(model, N // B - 1, random())
    close(LowRank(*pairs).dense(), expected)  # of rank n/b − 1, so these are all
    close(trace, expected.trace())
    assert not torch.equal(sgd.diagonal(model, random(3)), sgd.diagonal(model, random(4)))


def test_the_codes_covariance_is_on_average_that_with_replacement_times_n_over_n_less_one():
    """Over all partitions: two samples share a batch with chance (b−1)/(n−1); checked by enumeration for n = 4, b = 2,
    three partitions.
    """
    model, inputs, targets = problem()
    gradients = GradientMatrix(EmpiricalRisk(model, cross_entropy, (inputs[:4], targets[:4])))
    columns = gradients.dense()
    partitions = [[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2]]
    average = sum(torch.cov(columns[:, order].reshape(-1, 2, 2).mean(2)) for order in partitions) / 3
    close(average, gradients.covariance(MiniBatch(4, 2)).dense() * 4 / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"b": 5}, "24 samples cannot be parted into two or more batches of b = 5"),
        ({"b": 24}, "cannot be parted"),
        ({"b": 25}, "b = 25 is out of range"),
    ],
)
def test_batches_that_cannot_be_are_refused(options, message):
    _, inputs, targets = problem()
    with pytest.raises(ValueError, match=message):
        PartitionNoise(cross_entropy, inputs, targets, **options)


def test_the_codes_leading_noise_is_not_scaled_and_comes_at_every_tenth_step_only():
    model, *samples = problem()
    noise = by_name("GLD-leading", sgd_noise(*samples, released=True), released=True, k=2, every=10)
    energy = []
    for step in range(20):
        with_gradients(model, *samples)
        energy.append(float(added(noise, model, random(step)).square().sum()))
        if step == 0:
            pairs, trace = sgd_noise(*samples, released=True).leading(model, 2, random(0))
            close(noise.covariance.dense(), LowRank(*pairs).dense())
            assert noise.covariance.trace() < 0.95 * trace
    assert [step for step, found in enumerate(energy) if found > 0] == [0, 10]


def test_the_codes_hessian_noise_exceeds_the_trace_where_curvature_is_negative():
    model, *samples = problem()
    sgd, k = sgd_noise(*samples, released=True), 6
    pairs = leading(Hessian(EmpiricalRisk(model, cross_entropy, tuple(samples))), k, which="LM")
    assert (pairs.values < 0).any() and pairs.values.sum() > 0
    noise = by_name("GLD-Hessian", sgd, released=True, k=k, tolerance=1e-10)
    noise(with_gradients(model, *samples), random())
    trace = sgd.diagonal(model, random()).sum()
    close(noise.covariance.trace(), trace * pairs.values.abs().sum() / pairs.values.sum(), atol=1e-8)
    close(
        noise.covariance.dense(),
        (pairs.vectors * pairs.values.abs()) @ pairs.vectors.T * trace / pairs.values.sum(),
        atol=1e-8,
    )
    assert noise.covariance.trace() > 1.01 * trace
    paper = by_name("GLD-Hessian", sgd_noise(*samples), k=k)
    paper(with_gradients(model, *samples), random())
    close(paper.covariance.trace(), sgd.covariance(model).trace())


@pytest.mark.parametrize("name", ["GLD-dynamic", "GLD-diag", "GLD-leading"])
def test_the_codes_other_noises_are_silent_between_looks(name):
    model, *samples = problem()
    options = {"k": 2} if name == "GLD-leading" else {}
    noise = by_name(name, sgd_noise(*samples, released=True), released=True, every=3, **options)
    energy = [float(added(noise, with_gradients(model, *samples), random(step)).square().sum()) for step in range(7)]
    assert [step for step, found in enumerate(energy) if found > 0] == [0, 3, 6]


def negative(protocol):
    """A loss that is concave in the parameters of a linear model: H has no positive eigenvalue."""
    return SgdNoise(
        lambda outputs, _: -outputs.square().sum(1),
        torch.eye(4, dtype=torch.float64),
        torch.zeros(4),
        2,
        protocol=protocol,
    )


class Bent(nn.Module):
    """A loss ``Σ c_i θ_i² / 2`` in every sample, so that H = diag(c), and ``± θ_1`` beside it, so that C is not 0."""

    def __init__(self, curvatures):
        super().__init__()
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)
        self.theta = nn.Parameter(torch.ones(len(curvatures), dtype=torch.float64))

    def forward(self, x):
        return (self.curvatures @ self.theta.square()) / 2 + self.theta[0] * x[:, 0]


def bent(curvatures):
    signs = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)
    model = Bent(curvatures)
    model.theta.grad = torch.zeros_like(model.theta)
    return model, SgdNoise(lambda outputs, _: outputs, signs, torch.zeros(4), 2)


@pytest.mark.parametrize(
    ("curvatures", "k", "variances"),
    [
        ([1.0, 10.0, -6.0, 4.0], 3, [0, 10 / 8, 6 / 8, 4 / 8]),  # the ledger's example: the trace is 2.5 times Tr C
        ([1.0, 6.0, -10.0, -4.0], 3, [0, 6 / 8, 10 / 8, 4 / 8]),  # a negative sum: the authors' root is of |h/Σh|
        ([-1.0, -2.0, -6.0, -4.0], 2, [0, 0, 6 / 10, 4 / 10]),
    ],
)
def test_the_codes_hessian_noise_has_the_authors_variances_whatever_the_signs(curvatures, k, variances):
    """Tr C is 1/2: gradients that differ by ±1 in one parameter, batches of two."""
    model, sgd = bent(curvatures)
    noise = by_name("GLD-Hessian", sgd, released=True, k=k, tolerance=1e-10)
    noise(model, random())
    close(sgd.covariance(model).trace(), torch.tensor(0.5, dtype=torch.float64))
    close(noise.covariance.dense(), torch.diag(torch.tensor(variances, dtype=torch.float64)) / 2)


def test_the_codes_first_eigenvector_is_that_of_the_largest_magnitude():
    model, sgd = bent([1.0, 5.0, -6.0, 4.0])
    for released, kept in ((True, 2), (False, 1)):
        noise = by_name("GLD-1st-eigenvector", sgd, released=released, tolerance=1e-10)
        noise(model, random())
        close(noise.covariance.dense().diagonal(), 0.5 * torch.eye(4, dtype=torch.float64)[kept])


def test_eigenvalues_that_cancel_are_refused():
    model, sgd = bent([0.0, 3.0, -3.0])
    with pytest.raises(ValueError, match=r"the 2 largest eigenvalues of H sum to 0, by which this noise divides"):
        by_name("GLD-Hessian", sgd, released=True, k=2)(model, random())


def test_more_directions_than_batches_are_refused():
    _, *samples = problem()
    with pytest.raises(ValueError, match="C of 6 batches has rank 5 at most"):
        by_name("GLD-leading", sgd_noise(*samples, released=True), released=True, k=6)
