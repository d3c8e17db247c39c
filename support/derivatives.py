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

Function = Callable[[torch.Tensor], torch.Tensor]


def pull(f: Function, theta: torch.Tensor, w) -> torch.Tensor:
    """``Jᵀw``, shape (d,). w: of the shape of ``f(theta)``; zeros where f does not depend on θ.

    >>> pull(lambda theta: theta**2, torch.tensor([1.0, 3.0]), torch.tensor([1.0, 10.0]))
    tensor([ 2., 60.])
    """
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        value = f(theta)
        if not value.requires_grad:
            return torch.zeros_like(theta)
        total = torch.dot(w.reshape(-1).to(value.dtype), value.reshape(-1))
        return torch.autograd.grad(total, theta, materialize_grads=True)[0]


def push(f: Function, theta: torch.Tensor, u: torch.Tensor, how: str = "forward") -> torch.Tensor:
    """``J u``, of the shape of ``f(theta)``, for u of shape (d,). how: "forward" or "two passes".

    >>> push(lambda theta: theta**2, torch.tensor([1.0, 3.0]), torch.tensor([1.0, 10.0]), "two passes")
    tensor([ 2., 60.])
    """
    if how == "forward":
        return jvp(f, (theta,), (u,))[1]
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        value = f(theta)
        if not value.requires_grad:
            return torch.zeros_like(value)
        w = torch.zeros_like(value, requires_grad=True)
        (back,) = torch.autograd.grad(value, theta, w, create_graph=True)
        return torch.autograd.grad(back, w, u, materialize_grads=True)[0].detach()


def way(f: Function, theta: torch.Tensor, eps: float | None = None) -> str | None:
    """The first of "forward" and "two passes" that torch has for f and that agrees with its backward pass along two
    random directions, to √ε; None where neither does. eps: ε, where f computes in another precision than θ has.

    >>> way(torch.sin, torch.ones(3))
    'forward'
    >>> way(lambda theta: theta.sin() + theta.detach().sin(), torch.ones(3))
    'forward'
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        value = f(theta)
    eps, looks = eps or torch.finfo(theta.dtype).eps, []
    for _ in range(2):
        u, w = (torch.randn(like.shape, generator=generator).to(like) for like in (theta, value))
        looks.append((u, w, pull(f, theta, w)))
    for how in ("forward", "two passes"):
        try:
            if all(_agree(push(f, theta, u, how), u, w, back, eps) for u, w, back in looks):
                return how
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # what torch says where it lacks a derivative
            continue
    return None


def _agree(forth: torch.Tensor, u: torch.Tensor, w: torch.Tensor, back: torch.Tensor, eps: float) -> bool:
    gap = (w * forth).sum() - (u * back).sum()
    return bool(gap.abs() <= eps**0.5 * w.norm() * forth.norm() + 10 * eps * u.norm() * back.norm())
