"""Matrix-free gradient operators against dense float64 references; what is refused."""

import pytest
import torch
from torch import nn

from support.gradients import GradientMatrix
from support.risk import EmpiricalRisk
from support.sampling import NAMES, FullBatch, GaussianCovariance, MiniBatch, by_name
from support.trust import CoupledLossError

N = 13


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


NETWORKS = {
    "linear": lambda: nn.Linear(16, 3),
    "tanh": lambda: nn.Sequential(nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)
    ),
    "batch norm in eval mode": lambda: nn.Sequential(nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).eval(),
    "group norm": lambda: nn.Sequential(nn.Linear(16, 6), nn.GroupNorm(2, 6), nn.Linear(6, 3)),
    "frozen layer": lambda: nn.Sequential(nn.Linear(16, 6).requires_grad_(False), nn.Tanh(), nn.Linear(6, 3)),
}


def problem(network="tanh"):
    torch.manual_seed(0)
    model = NETWORKS[network]().double()
    generator = torch.Generator().manual_seed(1)
    return (
        model,
        cross_entropy,
        torch.randn(N, 16, generator=generator, dtype=torch.float64),
        torch.randint(0, 3, (N,), generator=generator),
    )


def matrix(model, loss, inputs, targets, **options):
    return GradientMatrix(EmpiricalRisk(model, loss, (inputs, targets), **options))


def reference(model, loss, inputs, targets):
    """The gradient matrix, one backward pass a sample."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    columns = []
    for x, y in zip(inputs, targets, strict=True):
        columns.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss(model(x[None]), y[None])[0], parameters)])
        )
    return torch.stack(columns, 1)


def close(ours, dense, rtol=1e-10):
    torch.testing.assert_close(ours, dense, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_products_with_the_gradient_matrix(network, chunk):
    data = problem(network)
    dense = reference(*data)
    g = matrix(*data, chunk=chunk)
    assert g.shape == tuple(dense.shape)
    w, u = torch.randn(N, dtype=torch.float64), torch.randn(g.d, dtype=torch.float64)
    close(g @ w, dense @ w)
    close(g.T @ u, dense.T @ u)
    close(g.mean, dense.mean(1))
    close(g.dense(), dense)
    close(g.risk.losses(), data[1](data[0](data[2]), data[3]).detach())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("replace", [True, False])
def test_the_covariance_of_every_law(name, replace):
    data = problem()
    dense = reference(*data)
    law = by_name(name.replace("B]", "5]").replace("]-B", "]-6"), N, 3, replace=replace)
    expected = dense @ torch.tensor(law.covariance.dense()) @ dense.T
    operator = matrix(*data, chunk=4).covariance(law)
    several = torch.randn(operator.shape[0], 2, dtype=torch.float64)
    close(operator @ several, expected @ several)
    close(operator.dense(), expected)
    close(operator.diagonal(), expected.diagonal())
    close(operator.trace(), expected.trace())


def test_fisher_and_equation_1_of_wu():
    data = problem("convolution")
    dense, g = reference(*data), matrix(*data)
    fisher = dense @ dense.T / N
    close(g.fisher().dense(), fisher)
    mean = dense.mean(1)
    close(g.covariance(MiniBatch(N, 4)).dense(), (fisher - torch.outer(mean, mean)) / 4)
    assert torch.linalg.matrix_rank(g.covariance(MiniBatch(N, 4)).dense()) <= N - 1
    assert not g.covariance(FullBatch(N, 4)).dense().any()


@pytest.mark.parametrize("name", ["MSGD-Cov", "MSGD-Fisher"])
def test_draws_and_estimates_have_the_covariance(name):
    """Trace within its interval at confidence 1 - 1e-6, and all coordinates of the diagonal within theirs, whose errors
    share 1e-6.
    """
    operator = matrix(*problem()).covariance(by_name(name, N, 3))
    trace = operator.estimate_trace(300, torch.Generator().manual_seed(0), confidence=1 - 1e-6)
    assert trace.low <= operator.trace() <= trace.high
    assert trace.high - trace.low < operator.trace()
    each = 1 - 1e-6 / operator.shape[0]
    diagonal = operator.estimate_diagonal(300, torch.Generator().manual_seed(0), confidence=each)
    assert ((diagonal.low <= operator.diagonal() + 1e-15) & (operator.diagonal() <= diagonal.high + 1e-15)).all()


def test_an_interval_is_not_there_by_luck():
    """A trace wrong by a factor 1.5 is outside the interval that holds the right one."""
    operator = matrix(*problem()).covariance(GaussianCovariance(N, 3))
    trace = operator.estimate_trace(2000, torch.Generator().manual_seed(0))
    assert not trace.low <= 1.5 * operator.trace() <= trace.high


def test_leading_eigenvectors_through_scipy():
    from scipy.sparse.linalg import eigsh

    data = problem()
    dense = reference(*data)
    operator = matrix(*data).covariance(MiniBatch(N, 2))
    ours = eigsh(operator.to_scipy(), k=3, return_eigenvectors=False)
    expected = torch.linalg.eigvalsh(dense @ torch.tensor(MiniBatch(N, 2).covariance.dense()) @ dense.T)[-3:]
    close(torch.tensor(sorted(ours)), expected, rtol=1e-8)


def test_theta_is_where_one_says():
    model, loss, inputs, targets = problem()
    theta = torch.cat([p.detach().flatten() for p in model.parameters()]) * 1.5
    moved = matrix(model, loss, inputs, targets, theta=theta).mean
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    close(moved, matrix(model, loss, inputs, targets).mean)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: nn.BatchNorm1d(16), r"module '0' \(BatchNorm1d\) .* model\.eval\(\) .* GroupNorm"),
        (lambda: nn.BatchNorm1d(16, track_running_stats=False).eval(), "BatchNorm1d"),
        (lambda: nn.Dropout(0.5), r"\(Dropout\) draws at random.*model.eval\(\)"),
    ],
)
def test_coupled_losses_are_refused(layer, message):
    _, loss, inputs, targets = problem()
    model = nn.Sequential(layer(), nn.Linear(16, 3)).double()
    with pytest.raises(CoupledLossError, match=message):
        matrix(model, loss, inputs[:4], targets[:4])


class Centred(nn.Module):
    """Looks at its whole batch, but is no BatchNorm."""

    def forward(self, x):
        return x - x.mean(0)


def test_a_coupling_without_a_name_is_found():
    _, loss, inputs, targets = problem()
    with pytest.raises(CoupledLossError, match=r"changes by .* with the batch it is in"):
        matrix(nn.Sequential(Centred(), nn.Linear(16, 3)).double(), loss, inputs, targets)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m, f, x, y: matrix(m, nn.functional.cross_entropy, x, y),
            ValueError,
            r"shape \(\) for 13 samples.*not their mean",
        ),
        (lambda m, f, x, y: matrix(m, f, x[:0], y[:0]), ValueError, "0 inputs .* at least one sample"),
        (lambda m, f, x, y: matrix(m, f, x, y[:3]), ValueError, "13 inputs came with 3 targets"),
        (lambda m, f, x, y: matrix(m, f, x, y, chunk=0), ValueError, "chunk = 0"),
        (
            lambda m, f, x, y: matrix(m, f, x, y, theta=torch.zeros(5)),
            ValueError,
            r"theta has shape \(5,\): it must be \(123,\)",
        ),
        (
            lambda m, f, x, y: matrix(m, f, x, y) @ torch.ones(5),
            ValueError,
            r"direction has shape \(5,\): it must be \(13,\)",
        ),
        (
            lambda m, f, x, y: matrix(m, f, x, y).T @ torch.ones(5),
            ValueError,
            r"direction has shape \(5,\)",
        ),
        (
            lambda m, f, x, y: matrix(m, f, x, y).fisher() @ torch.ones(5),
            ValueError,
            r"direction has shape \(5,\)",
        ),
        (
            lambda m, f, x, y: matrix(m, f, x, y).covariance(MiniBatch(5, 2)),
            ValueError,
            "n = 5 samples, the gradient matrix has 13",
        ),
        (
            lambda m, f, x, y: matrix(m, f, x, y).fisher().dense(limit_bytes=100),
            ValueError,
            "dense 123 x 123 .*operator @ u",
        ),
        (
            lambda m, f, x, y: matrix(m, f, x, y).fisher().estimate_trace(1, torch.Generator()),
            ValueError,
            "probes = 1",
        ),
        (
            lambda m, f, x, y: matrix(m, f, x, y).fisher().estimate_diagonal(9, torch.Generator(), confidence=95),
            ValueError,
            "confidence = 95",
        ),
        (
            lambda m, f, x, y: matrix(m.requires_grad_(False), f, x, y),
            ValueError,
            "Sequential has no parameter that requires a gradient",
        ),
        (
            lambda m, f, x, y: matrix(m, f, x * float("inf"), y).mean,
            FloatingPointError,
            "123 of 123 numbers .* not finite",
        ),
    ],
)
def test_bad_input_is_one_clear_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(*problem())
    assert "\n" not in str(caught.value)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell, self.last = getattr(nn, kind)(4, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, inputs):
        return self.last(self.cell(inputs.view(-1, 4, 4))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.last(self.layer(inputs.view(-1, 4, 4)).mean(1))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    "network", [lambda: Recurrent("GRU"), lambda: Recurrent("LSTM"), Attention], ids=["GRU", "LSTM", "attention"]
)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_modules_that_torch_cannot_batch_or_push_forward_are_taken_sample_by_sample(network, kind):
    torch.manual_seed(0)
    model = network().to(kind)
    _, loss, inputs, targets = problem()
    data = (model, loss, inputs.to(kind), targets)
    dense, g = reference(*data), matrix(*data, chunk=5)
    u, atol = torch.ones(g.d, dtype=kind), 1e-5 if kind == torch.float32 else 1e-12
    torch.testing.assert_close(g.dense(), dense, rtol=1e-4, atol=atol)
    torch.testing.assert_close(g.T @ u, dense.T @ u, rtol=1e-4, atol=atol)
    torch.testing.assert_close(g @ torch.ones(N, dtype=kind), dense.sum(1), rtol=1e-4, atol=atol)


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_a_large_mean_gradient_does_not_drown_the_noise(offset):
    """In float32, of a mean: C is the variance of the targets over b, whatever their mean."""
    targets = torch.randn(400, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    loss = lambda outputs, t: (outputs[:, 0] - t).square() / 2  # noqa: E731
    shifted = (targets + offset).float()
    C = matrix(model, loss, torch.ones(400, 1), shifted, chunk=90).covariance(MiniBatch(400, 4))
    exact = float(shifted.double().var(correction=0)) / 4
    assert float(C.trace()) == pytest.approx(exact, rel=2e-3)
