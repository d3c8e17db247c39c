"""Ascent of weighted losses ``Σ v_i ℓ_i(θ + u)/n`` within a ball |u| ≤ δ, for many multipliers V at once: what a local
complexity and a penalty of it share.
"""

from __future__ import annotations

import math

import torch
from torch.func import grad_and_value, vmap

from support.derivatives import value_and_pull
from support.errors import NotFinite
from support.risk import EmpiricalRisk

TINY = 1e-30
SMALL = 500_000  # n·d up to which many θ' are evaluated at once; above it one after another is faster


def at_centre(risk: EmpiricalRisk, V):
    """``Σ v_i ℓ_i(θ)/n`` and its gradient for every draw, (draws,) and (draws, d), from one forward pass."""
    losses, slopes = [], torch.zeros(len(V), risk.d).to(V)
    for part in risk.parts():
        found, pull = value_and_pull(lambda theta, part=part: risk.losses_at(theta, part), risk.theta)
        losses.append(found.to(V))
        slopes += torch.stack([pull(v) for v in V[:, part]]) / risk.n
    return finite(V @ torch.cat(losses) / risk.n, "at θ"), finite(slopes, "at θ")


def ascend(risk, V, centre, slopes, delta: float, *, steps, restarts, absolute, generator=None, together=None):
    """The largest ``±V·ℓ(θ + u)/n`` found for each draw, its u and the gradient there, (draws,) and twice (draws, d).

    The first restart starts from θ, with the sign of the weighted loss there; with |·| the second starts from θ with
    the other sign, and so on in turn; further ones from random points of the ball.
    """
    draws = len(V)
    turns = torch.ones(restarts, 1).to(V)
    if absolute:
        turns = torch.where(centre < 0, -1, 1) * (-1) ** torch.arange(restarts).to(V)[:, None]
    turns = turns.expand(restarts, draws)
    rising = turns[..., None] * slopes
    starts = delta * rising / rising.norm(dim=2, keepdim=True).clamp(min=TINY)
    if restarts > (fixed := 2 if absolute else 1):
        starts[fixed:] = in_ball(starts[fixed:], delta, generator)
    together = (20 if risk.n * risk.d <= SMALL else 1) if together is None else together
    evaluate, own = weighted(risk, together), (turns[..., None] * V).flatten(0, 1)
    climbed = climb(evaluate, own, (turns * centre).flatten(), rising.flatten(0, 1), starts, delta, steps)
    best = climbed[0].reshape(restarts, draws).argmax(0), torch.arange(draws).to(V.device)
    return tuple(found.reshape(restarts, draws, *found.shape[1:])[best] for found in climbed)


def weighted(risk: EmpiricalRisk, together: int):
    """The function from points u = θ' − θ and V, (rows, d) and (rows, n), to ``V·ℓ(θ + u)/n`` and its gradients."""

    def one(u, v, part):
        return (v * risk.losses_at(risk.theta + u, part)).sum() / risk.n

    def singly(U, V, part):
        found = []
        for u, v in zip(U.detach(), V, strict=True):
            with torch.enable_grad():
                value = one(u.requires_grad_(), v, part)
            found.append((torch.autograd.grad(value, u)[0], value.detach()))
        return tuple(map(torch.stack, zip(*found, strict=True)))

    many = vmap(grad_and_value(one), in_dims=(0, 0, None))

    def fits() -> bool:
        """Whether torch can batch the model over θ: a recurrent one it cannot."""
        try:
            many(torch.zeros(2, risk.d).to(risk.theta), torch.ones(2, 1).to(risk.theta), slice(0, 1))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return False
        return True

    how = many if together > 1 and risk.looked_at("batched over θ", fits) else singly

    def evaluate(U, V):
        slopes, values = torch.zeros_like(U), torch.zeros_like(U[:, 0])
        for rows in torch.arange(len(U)).split(together):
            for part in risk.parts():
                slope, value = how(U[rows], V[rows][:, part], part)
                slopes[rows] += slope
                values[rows] += value
        return finite(values, "in the ball"), finite(slopes, "in the ball")

    return evaluate


def climb(evaluate, V, value, rise, starts, delta: float, steps: int):
    """The largest ``V·ℓ(θ + u)/n`` found with |u| ≤ δ, its u and the gradient there, for each row, by ascent from the
    starts; value and rise: those of θ itself.

    A step goes along the gradient, by the length that the last one's change of gradient asks for (Barzilai and Borwein
    1988), or to the boundary where the sum curves upwards; a step down is taken back, and tried at a quarter of it.
    """
    at = candidate = starts.flatten(0, 1)
    best, point, slope, step = value, torch.zeros_like(at), torch.zeros_like(at), torch.zeros_like(value)
    for k in range(steps):
        there, ahead = evaluate(candidate, V)
        up = (there >= value) | (k == 0)  # a start is taken as it is
        moved = candidate - at
        bend = -(moved * (ahead - slope)).sum(1)
        stride = torch.where(bend > 0, moved.square().sum(1) / bend.clamp(min=TINY), math.inf)
        at, slope = torch.where(up[:, None], candidate, at), torch.where(up[:, None], ahead, slope)
        value, step = torch.where(up, there, value), torch.where(up, stride, step / 4)
        higher = (value > best)[:, None]
        point, rise = torch.where(higher, at, point), torch.where(higher, slope, rise)
        best = torch.maximum(best, value)
        # no further than to where the gradient alone would decide
        step = torch.minimum(step, 100 * delta / slope.norm(dim=1).clamp(min=TINY))
        candidate = at + step[:, None] * slope
        candidate = candidate * (delta / candidate.norm(dim=1, keepdim=True).clamp(min=delta))
    return best, point, rise


def in_ball(like, delta: float, generator):
    """Random points of the ball, uniform, of the shape of `like`, whose last axis is θ's."""
    drawn = torch.randn(like.shape, generator=generator, device=generator.device).to(like)
    share = torch.rand(like.shape[:-1], generator=generator, device=generator.device).to(like) ** (1 / like.shape[-1])
    return delta * share[..., None] * drawn / drawn.norm(dim=-1, keepdim=True).clamp(min=TINY)


def finite(numbers, where: str):
    """The numbers as they came. Raises NotFinite, which says where, if one of them is not finite."""
    if bad := int((~torch.isfinite(numbers)).sum()):
        raise NotFinite(
            f"{bad} of {numbers.numel()} weighted losses or slopes {where} are not finite: choose a smaller "
            f"delta, or look for infinite losses"
        )
    return numbers
