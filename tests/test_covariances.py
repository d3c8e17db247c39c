"""Covariances with a sampler: the draw is a root of the matrix times white noise."""

import math

import pytest
import torch

from support import covariances
from support.covariances import Diagonal, LowRank
from support.errors import NotFinite, Refused, WrongType
from support.spectra import leading


def close(ours, dense, atol=1e-12):
    torch.testing.assert_close(ours, dense, rtol=1e-8, atol=atol)


@pytest.mark.parametrize(
    "covariance",
    [Diagonal(torch.tensor([1.0, 0.0, 4.0])), LowRank(torch.tensor([4.0, 1.0]), torch.eye(3)[:, 1:])],
    ids=["diagonal", "low rank"],
)
def test_a_draw_is_a_root_of_the_covariance_times_white_noise(covariance, monkeypatch):
    """With unit vectors in place of white noise the draws are the columns of a root R, and R Rᵀ is the covariance:
    exact, without sampling.
    """
    units = iter(torch.eye(len(covariance.variances if isinstance(covariance, Diagonal) else covariance.values)))
    monkeypatch.setattr(covariances, "_white", lambda size, like, generator: next(units))
    root = torch.stack([covariance.draw(None) for _ in range(getattr(covariance, "rank", 3))], 1)
    dense = covariance.dense()
    close(root @ root.T, dense)
    close(covariance.trace(), dense.trace())
    close(covariance @ torch.arange(6.0).reshape(3, 2), dense @ torch.arange(6.0).reshape(3, 2))
    close(covariance @ torch.arange(3.0), dense @ torch.arange(3.0))
    close(covariance.of_trace(2.0).dense(), dense * 2 / dense.trace())
    close(covariance.diagonal(), dense.diagonal())
    assert covariance.shape == (3, 3)
    with pytest.raises(ValueError, match="GiB: use products"):
        covariance.dense(limit_bytes=10)


def test_covariances_obey_the_contract_of_operators():
    diagonal = Diagonal(torch.tensor([1.0, 2.0, 4.0]))
    low = LowRank(torch.tensor([4.0, 1.0]), torch.linalg.qr(torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]]))[0])
    mixed, dense = 0.5 * diagonal + low, 0.5 * diagonal.dense() + low.dense()
    close(mixed.dense(), dense, 1e-6)
    close(mixed.trace(), dense.trace(), 1e-6)
    close(mixed.diagonal(), dense.diagonal(), 1e-6)
    close(torch.as_tensor(mixed.to_scipy() @ torch.ones(3).numpy()).float(), dense @ torch.ones(3), 1e-6)
    values = torch.linalg.eigvalsh(dense).flip(0)
    close(leading(mixed, 2).values, values[:2], 1e-5)
    close(leading(low, 2).values, low.values, 1e-5)
    with pytest.raises(Refused, match=r"k = 3 eigenpairs .* of rank 2"):
        leading(low, 3)


def test_draws_are_those_of_the_generator():
    covariance = Diagonal(torch.tensor([4.0, 9.0]))
    draw, white = (torch.Generator().manual_seed(1) for _ in range(2))
    close(covariance.draw(draw), torch.tensor([2.0, 3.0]) * torch.randn(2, generator=white))


def test_vectors_that_are_not_orthonormal_are_refused_where_they_count():
    oblique = torch.tensor([[1.0, 0.6], [0.0, 0.8]])
    with pytest.raises(Refused, match=r"not orthonormal .variances are off by 0.85"):
        LowRank(torch.tensor([2.0, 1.0]), oblique)
    with pytest.raises(Refused, match="not orthonormal"):
        LowRank(torch.tensor([1.0]), torch.tensor([[1.0], [1.0]]))
    close(LowRank(torch.tensor([2.0, 0.0]), oblique).dense(), torch.diag(torch.tensor([2.0, 0.0])))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Diagonal(torch.tensor([1.0, -2.0])), Refused, "cannot have the eigenvalue -2: keep the positive"),
        (lambda: LowRank(torch.tensor([math.nan]), torch.ones(3, 1)), NotFinite, "variances of a noise are not finite"),
        (lambda: Diagonal([1.0]), WrongType, "variances is of type list"),
        (lambda: Diagonal(torch.tensor([1, 2])), WrongType, "give floats"),
        (lambda: Diagonal(torch.ones(2, 2)), Refused, r"variances has shape \(2, 2\)"),
        (lambda: LowRank(torch.ones(2), torch.eye(3)), Refused, r"vectors has shape \(3, 3\)"),
        (lambda: Diagonal(torch.ones(3)) @ torch.ones(1), Refused, r"direction has shape \(1,\)"),
        (lambda: LowRank(torch.ones(1), torch.eye(3)[:, :1]) @ torch.ones(1), Refused, r"direction has shape \(1,\)"),
        (lambda: Diagonal(torch.ones(3)).draw(None), WrongType, "generator = None"),
        (lambda: Diagonal(torch.zeros(3)).of_trace(1.0), Refused, "cannot be scaled to trace 1"),
        (lambda: Diagonal(torch.ones(3)).of_trace(-1.0), Refused, "trace = -1.0"),
        (lambda: Diagonal(torch.ones(3)).of_trace("1"), WrongType, "trace = '1'"),
    ],
)
def test_what_is_no_covariance_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
