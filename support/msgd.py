r"""Multiplicative SGD (Wu et al. 2020, Algorithms 1 and 2) on any torch model, per-sample loss and torch optimiser.

The gradient commutes with the weighting: ``∇(Σ_i W_i ℓ_i) = ∇𝓛 · W``. So a step with any noise class costs one weighted
backward pass, no matter the covariance: draw W, weigh the per-sample losses, sum, backward, and let the optimiser step.

* Algorithm 1: W in R^n is drawn from a law on all n samples (`support.sampling`); only samples with a weight that is
not zero are evaluated.
* Algorithm 2: the same with the law `support.sampling.Compensated`, whose W is zero outside a batch of B.

**Ghost batches** (Hoffer et al. 2017). Where BatchNorm uses the statistics of the batch, a sample's loss depends on
those evaluated with it, and so would the step on the chunks that memory allows. ``ghost=g`` makes that part of the
definition: the samples are cut, in their order, into batches of exactly g, each is normalised by itself, and ``∇(Σ W_i
ℓ_i)`` is that of these losses, covariance of C only if the statistics stood still. A layer with a ``ghost`` of its own
(`support.experiments.ghost`) does the same, and takes chunks of any multiple of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from support import batches
from support.errors import NotFinite, Refused, WrongType, instance, integer, tensor, torch_generator
from support.sampling import Law
from support.sampling.law import checked, per_sample

PerSampleLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Losses:
    """Losses of one step, before its update.

    weighted: ``Σ_i W_i ℓ_i``, what was differentiated; its mean is the loss, but it carries the step's noise.
    clean: mean of ℓ_i over the `samples` that were evaluated: for laws that weigh all n samples, the training loss
    L(θ).

    >>> Losses(weighted=0.9, clean=1.0, samples=20).clean
    1.0
    """

    weighted: float
    clean: float
    samples: int


def weighted_backward(
    model: torch.nn.Module,
    loss: PerSampleLoss,
    inputs,
    targets,
    weights: torch.Tensor,
    *,
    chunk: int | None = None,
    ghost: int | None = None,
) -> Losses:
    """Add ``∇_θ Σ_i w_i ℓ_i(θ)``, the gradient matrix times w, to the parameters' ``.grad``.

    inputs, targets: m ≥ 1 samples along the first axis, in tensors or nests of them (`support.batches`).  weights: a
    tensor of shape (m,).  loss(outputs, targets): per-sample losses of shape (m,), not their mean.
    chunk: samples evaluated at once (None: all). Memory is that of one chunk; the result equals that of a single chunk
    up to rounding.  ghost: size of the ghost batches (see above), which are then what is evaluated at once.
    Raises WrongType, or Refused for losses that are not one number a sample, weights of another length, BatchNorm on
    batch statistics in more than one chunk without ``ghost``, or m samples that are no multiple of it.

    >>> model, square = torch.nn.Linear(2, 1, bias=False), lambda outputs, targets: outputs[:, 0].square() / 2
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> weighted_backward(model, square, torch.eye(2), torch.zeros(2), torch.tensor([0.25, 0.75]))
    Losses(weighted=0.5, clean=0.5, samples=2)
    >>> model.weight.grad
    tensor([[0.2500, 0.7500]])
    """
    total = sum(torch.stack(pair) for pair in backward_in_chunks(model, loss, inputs, targets, weights, chunk, ghost))
    weighted, summed = total.tolist()  # both at once: a device is waited for a single time
    return Losses(weighted, summed / len(weights), len(weights))


def backward_in_chunks(
    model: torch.nn.Module,
    loss: PerSampleLoss,
    inputs,
    targets,
    weights: torch.Tensor,
    chunk: int | None,
    ghost: int | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The passes of `weighted_backward`, one a chunk or ghost batch: yields its ``Σ w_i ℓ_i`` and ``Σ ℓ_i``.

    They are tensors in float32 or better, so that no device has to be waited for. Arguments and errors are those of
    `weighted_backward`, with the first pass.

    >>> model, identity = torch.nn.Identity(), lambda outputs, targets: outputs
    >>> losses = torch.ones(3, requires_grad=True)
    >>> [(w.item(), s.item()) for w, s in backward_in_chunks(model, identity, losses, losses, torch.ones(3), 2)]
    [(2.0, 2.0), (1.0, 1.0)]
    """
    _check_callables(model, loss)
    m = _samples(inputs, targets)
    tensor("weights", weights, (m,))
    size = _passes(model, m, chunk, ghost)
    for start in range(0, m, size):
        part = slice(start, start + size)
        # copies, since a model may work in place, and a slice is a view of the caller's data
        here, labels = (batches.copied(batches.take(nest, part)) for nest in (inputs, targets))
        given, named = batches.arguments(model, here)
        losses = per_sample(loss(model(*given, **named), labels))
        if len(losses) != len(weights[part]):
            raise Refused(
                f"the losses have shape {tuple(losses.shape)} for {len(weights[part])} samples: return one number a "
                f"sample (in torch: reduction='none')"
            )
        losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
        weighted = torch.dot(weights[part].to(losses), losses)
        weighted.backward()
        yield weighted.detach(), losses.detach().sum()


def _check_callables(model, loss) -> None:
    instance("model", model, torch.nn.Module, "give a torch.nn.Module")
    if not callable(loss):
        raise WrongType(f"loss = {loss!r} is no function: give loss(outputs, targets), one number a sample")


def _samples(inputs, targets) -> int:
    m, labels = batches.length(inputs, "inputs"), batches.length(targets, "targets")
    if m == 0 or m != labels:
        raise Refused(f"{m} inputs came with {labels} targets: give at least one sample, and one target for each")
    return m


def _passes(model: torch.nn.Module, m: int, chunk: int | None, ghost: int | None) -> int:
    """The samples of one pass. Raises Refused where it would change what BatchNorm makes of them."""
    _check(chunk, ghost)
    if ghost is not None and m % ghost:
        raise Refused(
            f"{m} samples cannot be parted into ghost batches of exactly {ghost}: choose a divisor of their number"
        )
    size = ghost or chunk or m
    for name, module in _batch_norms(model):
        own = getattr(module, "ghost", None)  # a layer that parts what it gets into ghost batches of its own
        if own is None and ghost is None and size < m:
            raise Refused(
                f"module {name!r} normalises by the statistics of the batch, so chunks of {size} would change the loss "
                f"of {m} samples: give chunk=None, ghost={size} for ghost batches of that size, or call model.eval()"
            )
        if own is not None and (m % own or (size < m and size % own)):
            what = f"{m} samples are" if m % own else f"a chunk of {size} is"
            raise Refused(
                f"module {name!r} normalises ghost batches of {own}, and {what} no multiple of them: give one that is"
            )
    return size


def _check(chunk: int | None, ghost: int | None) -> None:
    for name, value in (("chunk", chunk), ("ghost", ghost)):
        if value is not None:
            integer(name, value, 1, None, "give at least 1 sample, or None")


def batch_statistics(model: torch.nn.Module) -> str | None:
    """The name of the first BatchNorm that normalises by the batch at hand; None where every sample stands alone.

    Raises WrongType for what is no module.

    >>> batch_statistics(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)))
    '1'
    """
    return next((name for name, _ in _batch_norms(model)), None)


def _batch_norms(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Every BatchNorm that normalises by the batch at hand, by name."""
    for name, module in instance("model", model, torch.nn.Module, "give a torch.nn.Module").named_modules():
        batch_norm = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        if batch_norm and (module.training or module.running_mean is None):
            yield name, module


def draw(law: Law, generator: torch.Generator, inputs, targets, *, dense: bool = False):
    """One sampling vector and the samples that it weighs: inputs, targets and weights of those whose weight a sparse
    law left standing, or of all n; ``dense`` leaves samples of weight zero in. Raises WrongType, or Refused where there
    are not n samples.

    >>> from support.sampling import MiniBatch
    >>> law = MiniBatch(n=4, b=1)
    >>> inputs, targets, weights = draw(law, torch.Generator().manual_seed(1), torch.eye(4), torch.arange(4))
    >>> inputs.shape, weights
    (torch.Size([1, 4]), tensor([1.]))
    """
    if (m := _samples(inputs, targets)) != checked(law).n:
        raise Refused(f"the law is for n = {law.n} samples but {m} came: give the law the number of samples")
    weights, device = law.sample(None, torch_generator(generator)), next(batches.leaves(inputs)).device
    if law.sparse and not dense:
        kept = weights.nonzero().squeeze(1)
        # an empty Bernoulli batch is a step of gradient zero: one sample of weight zero gives it
        kept = kept if len(kept) else kept.new_zeros(1)
        weights, kept = weights[kept], kept.to(device, non_blocking=True)
        inputs, targets = batches.take(inputs, kept), batches.take(targets, kept)
    return inputs, targets, weights.to(device, non_blocking=True)


class MSGD:
    """Multiplicative SGD: a model, a per-sample loss, an optimiser and a law of the sampling vector.

    law: a law with ``law.n`` equal to the number of samples that each call gets.  generator: torch generator that draws
    W (on the device of the weights).  chunk, ghost: as in `weighted_backward`, which is the whole of MSGD; this class
    only draws W and steps.  optimizer: any of torch's; one that evaluates several times a step, such as LBFGS, sees the
    same W each time.
    Raises WrongType for anything that is none of these (a numpy generator included), Refused for chunk or ghost < 1.

    >>> from support.sampling import by_name
    >>> model, square = torch.nn.Linear(2, 1), lambda outputs, targets: (outputs[:, 0] - targets).square() / 2
    >>> law, generator = by_name("MSGD-Cov", n=100, b=10), torch.Generator().manual_seed(1)
    >>> step = MSGD(model, square, torch.optim.SGD(model.parameters(), lr=0.1), law, generator=generator)
    >>> inputs = torch.randn(100, 2, generator=generator)
    >>> losses = [step(inputs, inputs.sum(1)).clean for _ in range(100)]
    >>> losses[-1] < 0.01 * losses[0]
    True
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
        ghost: int | None = None,
    ):
        instance("optimizer", optimizer, torch.optim.Optimizer, "give one such as torch.optim.SGD(parameters, lr)")
        _check_callables(model, loss)
        _check(chunk, ghost)
        self.model, self.loss, self.optimizer, self.law = model, loss, optimizer, checked(law)
        self.generator, self.chunk, self.ghost = torch_generator(generator), chunk, ghost
        self.steps = 0

    def __call__(self, inputs, targets) -> Losses:
        """One step on the n samples. Raises Refused if there are not n, NotFinite (before the update) if the loss is
        not finite.
        """
        drawn, seen = draw(self.law, self.generator, inputs, targets), []

        def evaluate() -> float:
            self.optimizer.zero_grad(set_to_none=True)
            seen.append(weighted_backward(self.model, self.loss, *drawn, chunk=self.chunk, ghost=self.ghost))
            self._check_finite(seen[-1])
            return seen[-1].weighted

        self.optimizer.step(evaluate)
        self.steps += 1
        return seen[0]

    def _check_finite(self, losses: Losses) -> None:
        if not (math.isfinite(losses.weighted) and math.isfinite(losses.clean)):
            rates = ", ".join(f"{rate:g}" for rate in sorted({float(g["lr"]) for g in self.optimizer.param_groups}))
            raise NotFinite(
                f"the loss is {losses.weighted} at step {self.steps} under {self.law.name}, learning rate {rates}: "
                f"lower the learning rate or the noise"
            )
