r"""First derivatives of a function of θ as products: ``Jᵀw`` by a backward pass, ``J u`` by a way that agrees with it.

f takes θ of shape (d,) to any shape; J is its derivative. The backward pass is what training uses; it is the measure:

    forward       J u by one forward-mode pass
    two passes    J u = ∂(uᵀJᵀw)/∂w: ``Jᵀw`` is linear in w, so a second backward pass through it gives J u for any w

torch has no forward mode for some modules (LSTM, the fused attention of an evaluated encoder layer), and another one
than its backward pass for some (``no_grad`` or a hook inside the model, ``padding_idx``): there ``uᵀ(Jᵀw) = wᵀ(J u)``
fails. `way` tries both in this order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.func import jvp

from support.errors import WrongType, choice, tensor

Function = Callable[[torch.Tensor], torch.Tensor]


def pull(f: Function, theta: torch.Tensor) -> Function:
    """The function from w, of the shape of ``f(theta)``, to ``Jᵀw``, shape (d,); f is evaluated once for all w.

    >>> pull(lambda theta: theta**2, torch.tensor([1.0, 3.0]))(torch.tensor([1.0, 10.0]))
    tensor([ 2., 60.])
    """
    return value_and_pull(f, theta)[1]


def value_and_pull(f: Function, theta: torch.Tensor) -> tuple[torch.Tensor, Function]:
    """``f(theta)``, without a graph, and `pull`, for one evaluation of f.

    >>> value_and_pull(lambda theta: theta**2, torch.tensor([1.0, 3.0]))[0]
    tensor([1., 9.])
    """
    theta = _checked(f, theta).detach().requires_grad_()
    with torch.enable_grad():
        value = f(theta)
    if not value.requires_grad:  # f does not depend on θ
        return value, lambda w: torch.zeros_like(theta)
    options = {"retain_graph": True, "materialize_grads": True}
    return value.detach(), lambda w: torch.autograd.grad(value, theta, w.to(value.dtype), **options)[0]


def push(f: Function, theta: torch.Tensor, how: str = "forward") -> Function:
    """The function from u of shape (d,) to ``J u``, of the shape of ``f(theta)``. how: "forward" or "two passes".

    >>> push(lambda theta: theta**2, torch.tensor([1.0, 3.0]), "two passes")(torch.tensor([1.0, 10.0]))
    tensor([ 2., 60.])
    """
    _checked(f, theta)
    if choice("how", how, ("forward", "two passes")) == "forward":
        return lambda u: jvp(f, (theta,), (u,))[1]
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        value = f(theta)
        if not value.requires_grad:
            return lambda u: torch.zeros_like(value)
        w = torch.zeros_like(value, requires_grad=True)
        (back,) = torch.autograd.grad(value, theta, w, create_graph=True)
    return lambda u: torch.autograd.grad(back, w, u, retain_graph=True, materialize_grads=True)[0]


def way(f: Function, theta: torch.Tensor, eps: float | None = None) -> str | None:
    """The first of "forward" and "two passes" that torch has for f and that agrees with its backward pass along two
    random directions, to √ε; None where neither does. eps: ε, where f computes in another precision than θ has.

    >>> way(torch.sin, torch.ones(3))
    'forward'
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        value = f(_checked(f, theta))
    eps, back = eps or torch.finfo(theta.dtype).eps, pull(f, theta)
    looks = [[torch.randn(like.shape, generator=generator).to(like) for like in (theta, value)] for _ in range(2)]
    for how in ("forward", "two passes"):
        try:
            forth = push(f, theta, how)
            if all(_agree(forth(u), u, w, back(w), eps) for u, w in looks):
                return how
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # what torch says where it lacks a derivative
            continue
    return None


def _checked(f: Function, theta: torch.Tensor) -> torch.Tensor:
    if not callable(f):
        raise WrongType(f"f = {f!r} cannot be called: give a function of theta")
    return tensor("theta", theta)


def _agree(forth: torch.Tensor, u: torch.Tensor, w: torch.Tensor, back: torch.Tensor, eps: float) -> bool:
    gap = (w * forth).sum() - (u * back).sum()
    return bool(gap.abs() <= eps**0.5 * w.norm() * forth.norm() + 10 * eps * u.norm() * back.norm())
