r"""Multiplicative SGD (Wu et al. 2020, Algorithms 1 and 2) on any torch model, per-sample loss and torch optimiser.

The gradient commutes with the weighting: ``∇(Σ_i W_i ℓ_i) = ∇𝓛 · W``. So a step with any noise class costs one weighted
backward pass, no matter the covariance: draw W, weigh the per-sample losses, sum, backward, and let the optimiser step.

* Algorithm 1: W in R^n is drawn from a law on all n samples (`support.sampling`); only samples with a weight that is
not zero are evaluated.
* Algorithm 2: the same with the law `support.sampling.Compensated`, whose W is zero outside a batch of B.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from support.errors import NotFinite, Refused, WrongType
from support.sampling import Law

PerSampleLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Losses:
    """Losses of one step, before its update.

    weighted: ``Σ_i W_i ℓ_i``, what was differentiated; its mean is the loss, but it carries the step's noise.
    clean: mean of ℓ_i over the `samples` that were evaluated: for laws that weigh all n samples, the training loss
    L(θ).
    """

    weighted: float
    clean: float
    samples: int


def weighted_backward(
    model: torch.nn.Module, loss: PerSampleLoss, inputs, targets, weights, *, chunk: int | None = None
) -> Losses:
    """Add ``∇_θ Σ_i w_i ℓ_i(θ)``, the gradient matrix times w, to the parameters' ``.grad``.

    inputs, targets: m ≥ 1 samples along the first axis; weights: a tensor of shape (m,).
    loss(outputs, targets) gives per-sample losses of shape (m,), not their mean.
    chunk: samples evaluated at once (None: all). Memory is that of one chunk; the result equals that of a single chunk
    up to rounding.
    Raises ValueError for a loss that is no vector of one number a sample, no samples, weights of another length, or
    chunk < 1.
    """
    m, shape = len(inputs), tuple(getattr(weights, "shape", ()))
    if m == 0:
        raise Refused("there are 0 inputs: give at least one sample")
    if shape != (m,) or len(targets) != m:
        raise Refused(
            f"{m} inputs came with {len(targets)} targets and weights of shape {shape}: give one target and one "
            f"weight a sample"
        )
    _check_chunk(chunk)
    weighted, clean = 0.0, 0.0
    for part_weighted, part_sum in backward_in_chunks(model, loss, inputs, targets, weights, chunk or m):
        weighted, clean = weighted + part_weighted, clean + part_sum
    weighted, clean = torch.stack((weighted, clean)).tolist()  # both at once: a device is waited for a single time
    return Losses(weighted, clean / m, m)


def _check_chunk(chunk: int | None) -> None:
    if chunk is not None and chunk < 1:
        raise Refused(f"chunk = {chunk} samples cannot be evaluated: give chunk ≥ 1, or None for all at once")


def backward_in_chunks(
    model: torch.nn.Module, loss: PerSampleLoss, inputs, targets, weights, chunk: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The passes of `weighted_backward`, one a chunk: yields the chunk's ``Σ w_i ℓ_i`` and ``Σ ℓ_i`` as tensors, so
    that no device has to be waited for.
    """
    for start in range(0, len(inputs), chunk):
        part = slice(start, start + chunk)
        losses = loss(model(inputs[part]), targets[part])
        if losses.shape != weights[part].shape:
            shape = tuple(losses.shape)
            raise Refused(
                f"the loss has shape {shape} for {len(weights[part])} samples: return one number a sample (in torch: "
                f"reduction='none')"
            )
        weighted = torch.dot(weights[part].to(losses.dtype), losses)
        weighted.backward()
        yield weighted.detach(), losses.detach().sum()


def draw(law: Law, generator: torch.Generator, inputs, targets):
    """One sampling vector and the samples that it weighs: inputs, targets and weights of those whose weight a sparse
    law left standing, or of all n.
    """
    weights = law.sample(None, generator)
    if law.sparse:
        kept = weights.nonzero().squeeze(1)
        # an empty Bernoulli batch is a step of gradient zero: one sample of weight zero gives it
        kept = kept if len(kept) else kept.new_zeros(1)
        weights, kept = weights[kept], kept.to(inputs.device)
        inputs, targets = inputs[kept], targets[kept]
    return inputs, targets, weights.to(inputs.device)


class MSGD:
    """Multiplicative SGD: a model, a per-sample loss, an optimiser and a law of the sampling vector.

        step = MSGD(model, loss, optimizer, by_name("MSGD-Cov", n=1000, b=50),
        generator=torch.Generator().manual_seed(1))
        for _ in range(10_000):
            losses = step(inputs, targets)

    law: a law with ``law.n`` equal to the number of samples that each call gets.  generator: torch generator that draws
    W (on the device of the weights). chunk: samples a forward and backward pass holds at once.  The whole of MSGD is
    `weighted_backward`; this class only draws W and steps. Raises TypeError for a law or a generator that is none (a
    numpy generator included), ValueError for chunk < 1.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: PerSampleLoss,
        optimizer: torch.optim.Optimizer,
        law: Law,
        *,
        generator: torch.Generator,
        chunk: int | None = None,
    ):
        if not isinstance(law, Law):
            raise WrongType(
                f"law = {law!r} is no law of the sampling vector: give one, such as "
                f"support.sampling.by_name('MSGD-Cov', n, b)"
            )
        if not isinstance(generator, torch.Generator):
            raise WrongType(
                f"generator = {generator!r} is no torch generator: give torch.Generator().manual_seed(seed)"
            )
        _check_chunk(chunk)
        self.model, self.loss, self.optimizer, self.law = model, loss, optimizer, law
        self.generator, self.chunk = generator, chunk
        self.steps = 0

    def __call__(self, inputs, targets) -> Losses:
        """One step on the n samples. Raises ValueError if there are not n, FloatingPointError (before the update) if
        the loss is not finite.
        """
        if len(inputs) != self.law.n:
            raise Refused(
                f"the law is for n = {self.law.n} samples but the step got {len(inputs)}: give the law the number of "
                f"samples"
            )
        inputs, targets, weights = draw(self.law, self.generator, inputs, targets)
        self.optimizer.zero_grad(set_to_none=True)
        losses = weighted_backward(self.model, self.loss, inputs, targets, weights, chunk=self.chunk)
        if not (math.isfinite(losses.weighted) and math.isfinite(losses.clean)):
            rates = sorted({group["lr"] for group in self.optimizer.param_groups})
            raise NotFinite(
                f"the loss is {losses.weighted} at step {self.steps} under {self.law.name}, learning rate "
                f"{', '.join(f'{float(r):g}' for r in rates)}: "
                "lower the learning rate or the noise"
            )
        self.optimizer.step()
        self.steps += 1
        return losses
