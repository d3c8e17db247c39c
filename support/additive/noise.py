r"""What every additive noise shares: looks at the model, scalings in between, the draw, and the state for a checkpoint.

    θ ← θ − η (∇L(θ) + ε),    ε ~ N(0, Σ)                                            (Zhu et al. 2019, Eq. (7))

A noise is a `support.experiments.training.Trainer`'s ``additive``, or stands between ``backward()`` and
``optimizer.step()`` in any loop: it adds its draw to ``.grad``.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from support.additive.sgd import SgdNoise, trained
from support.covariances import Diagonal, LowRank
from support.errors import Refused, WrongType, instance, integer, torch_generator


class AdditiveNoise:
    """A noise N(0, Σ): called at each step with the model and a CPU generator, it adds one draw to ``.grad``.

    sgd: the noise whose trace is matched.  every: steps between two looks at the structure of Σ.  rescale_every: steps
    after which, in between, Σ is scaled to the trace of C at the parameters of that moment. The trace is matched
    exactly at both.  covariance: Σ of the last step (None before the first).  `state_dict` and `load_state_dict` serve
    checkpoints.  A subclass says what Σ is (`look`), and in which form.

    >>> from support.additive import by_name
    >>> sgd = SgdNoise(lambda outputs, targets: outputs[:, 0], torch.eye(2), torch.zeros(2), b=1)
    >>> noise, model = by_name("GLD-dynamic", sgd), torch.nn.Linear(2, 1, bias=False)
    >>> noise(model, torch.Generator())  # between loss.backward() and optimizer.step()
    >>> noise.steps, noise.covariance.trace(), model.weight.grad.shape
    (1, tensor(0.5000), torch.Size([1, 2]))
    """

    form: ClassVar[type] = LowRank

    def __init__(self, sgd: SgdNoise, *, every: int = 10, rescale_every: int = 10):
        self.sgd = instance("sgd", sgd, SgdNoise, "give SgdNoise(loss, inputs, targets, b)")
        self.every = integer("every", every, 1)
        self.rescale_every = integer("rescale_every", rescale_every, 1)
        self.steps = 0
        self.covariance: Diagonal | LowRank | None = None

    def __call__(self, model: torch.nn.Module, generator: torch.Generator) -> None:
        """Add one draw to the gradients of the trained parameters. Raises WrongType, and what `look` raises."""
        parameters, _ = trained(model), torch_generator(generator)
        if self.steps % self.every == 0:
            self.covariance = self.look(model, generator)
        elif self.steps % self.rescale_every == 0:
            self.covariance = self.rescaled(model, generator)
        self.steps += 1
        _add(parameters, self.covariance.draw(generator))

    def look(self, model: torch.nn.Module, generator: torch.Generator) -> Diagonal | LowRank:
        """Σ at the model's parameters."""
        raise WrongType(f"{type(self).__name__} has no covariance of its own: use support.additive.by_name")

    def rescaled(self, model: torch.nn.Module, generator: torch.Generator) -> Diagonal | LowRank:
        """Σ of the last step with the trace of C at the model's parameters; where that was zero, a new look."""
        if not self.covariance.trace() > 0:
            return self.look(model, generator)
        return self.covariance.of_trace(self.sgd.diagonal(model, generator).sum())

    def state_dict(self) -> dict:
        """What a resumed run needs: the count of steps and Σ."""
        tensors = None if self.covariance is None else [getattr(self.covariance, name) for name in self._fields()]
        return {"steps": self.steps, "covariance": tensors}

    def load_state_dict(self, state: dict) -> None:
        """Take up what `state_dict` gave. Raises Refused for anything else, the state of another form included."""
        if not isinstance(state, dict) or set(state) != {"steps", "covariance"}:
            raise WrongType(f"state = {state!r:.60} is not what state_dict gave: load that")
        tensors = state["covariance"]
        if tensors is not None and len(tensors) != len(self._fields()):
            raise Refused(
                f"the state is of another noise than {type(self).__name__}, with its {self.form.__name__} covariance: "
                f"load it where it is from"
            )
        self.steps = integer("steps", state["steps"], 0)
        self.covariance = None if tensors is None else self.form(*tensors)

    def _fields(self) -> list[str]:
        return list(self.form.__dataclass_fields__)


def _add(parameters: list[torch.nn.Parameter], noise: torch.Tensor) -> None:
    """Add a vector of shape (d,) to the gradients in this order; a parameter without one gets it."""
    for p, piece in zip(parameters, noise.split([p.numel() for p in parameters]), strict=True):
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        p.grad += piece.view(p.shape)
