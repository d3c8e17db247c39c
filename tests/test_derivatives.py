"""Products with a Jacobian both ways, against torch's own Jacobian; which way is taken."""

import pytest
import torch
from torch.autograd.function import once_differentiable

from support.derivatives import pull, push, way
from support.errors import WrongType

THETA = torch.linspace(-1, 2, 6, dtype=torch.float64)


def curved(theta):
    return torch.stack([theta.sin().outer(theta.exp()).sum(0), theta**3])


@pytest.mark.parametrize("how", ["forward", "two passes"])
def test_products_are_those_of_the_jacobian(how):
    J = torch.autograd.functional.jacobian(curved, THETA)
    forth, back = push(curved, THETA, how), pull(curved, THETA)
    for seed in range(2):  # one graph serves several products
        u, w = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.testing.assert_close(forth(u[0]), J @ u[0])
        torch.testing.assert_close(back(w), torch.einsum("ijk,ij->k", J, w))


@pytest.mark.parametrize("how", ["forward", "two passes"])
def test_constants_and_linear_functions(how):
    still = lambda theta: torch.ones(3, dtype=torch.float64)  # noqa: E731
    assert not push(still, THETA, how)(THETA).any() and not pull(still, THETA)(torch.ones(3)).any()
    torch.testing.assert_close(push(lambda theta: 2 * theta, THETA, how)(THETA), 2 * THETA)


class Once(torch.autograd.Function):
    """Another backward pass than the derivative, that cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 3 * grad


def stopped(theta):
    with torch.no_grad():
        factor = theta.exp()
    return factor * theta


@pytest.mark.parametrize(("f", "expected"), [(curved, "forward"), (stopped, "two passes"), (Once.apply, None)])
def test_the_way_is_the_first_that_agrees_with_the_backward_pass(f, expected):
    assert way(f, THETA) == expected


def test_two_passes_give_the_derivative_that_training_uses():
    torch.testing.assert_close(push(stopped, THETA, "two passes")(torch.ones_like(THETA)), THETA.exp())


@pytest.mark.parametrize("take", [pull, push, way])
def test_what_is_no_function_and_no_theta_is_refused_in_one_line(take):
    with pytest.raises(WrongType, match="f = 3 cannot be called: give a function of theta"):
        take(3, torch.ones(2))
    with pytest.raises(WrongType, match="theta is of type list: give a torch tensor"):
        take(torch.sin, [1.0, 2.0])
