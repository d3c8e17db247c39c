"""Covariances with a sampler: the draw is a root of the matrix times white noise."""

import pytest
import torch

from support import covariances
from support.covariances import Diagonal, LowRank


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
    root = torch.stack([covariance.draw(None) for _ in range(len(next(iter(vars(covariance).values()))))], 1)
    dense = covariance.dense()
    close(root @ root.T, dense)
    close(covariance.trace(), dense.trace())
    close(covariance @ torch.arange(6.0).reshape(3, 2), dense @ torch.arange(6.0).reshape(3, 2))
    close(covariance @ torch.arange(3.0), dense @ torch.arange(3.0))
    close(covariance.of_trace(2.0).dense(), dense * 2 / dense.trace())
    assert covariance.shape == (3, 3)
    with pytest.raises(ValueError, match="GiB: use products"):
        covariance.dense(limit_bytes=10)


def test_negative_variances_are_refused():
    with pytest.raises(ValueError, match="cannot have the eigenvalue -2: keep the positive"):
        Diagonal(torch.tensor([1.0, -2.0]))
    with pytest.raises(FloatingPointError, match="the variances of a noise are not finite"):
        LowRank(torch.tensor([float("nan")]), torch.ones(3, 1))
