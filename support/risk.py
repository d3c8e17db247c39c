r"""The empirical risk ``L(θ) = Σ ℓ_i(θ) / n`` of a torch model on n samples: what all matrices here stand on.

Gradient matrix, Hessian, Gauss-Newton matrix, sharpness and additive noises ask the same of a model: the losses ℓ_i of
some samples at some θ, as a function that can be differentiated. This is the one place that knows what data may be,
which parameters count and how θ is laid out, and the one place that refuses what has no gradient matrix at all: a loss
that couples its samples, draws at random, averages already or does not depend on θ. Measuring leaves model, data and
random generators as they were.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

import torch
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from support import batches
from support.derivatives import pull, push, way
from support.errors import Refused, WrongType, instance, integer, tensor
from support.trust import refuse

PerSampleLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Part = slice | torch.Tensor
_LOOK = 64  # samples, drawn over the whole set, on which a loss is looked at before it is trusted


class EmpiricalRisk:
    """``L(θ) = Σ ℓ_i(θ) / n`` and its n losses, evaluated in chunks.

    model: any torch module whose loss of sample i depends on sample i alone. loss(outputs, targets): per-sample losses,
    shape (m,), not their mean.
    data: a tuple (inputs, targets), each a tensor or a nest of dicts, tuples and lists of tensors with the samples
    along the first axis; or a loader of such pairs, such as a DataLoader, which is read once and kept: the samples are
    numbered as they came, so that a loader that shuffles or augments may be given too. A dict of inputs goes to the
    model by keyword where its ``forward`` takes these names, else whole; a tuple or list goes positionally. Data on
    another device are moved chunk by chunk.
    parameters: which make up θ: a name, a prefix such as ``"0"``, a pattern such as ``"*.weight"``, a module of the
    model, or several of these (None: all); only those that require a gradient. theta: where to look, shape (d,), in the
    order of ``model.named_parameters()`` (None: where the model is now). Its type is that of the parameters, at least
    float32: sums of half-precision losses are taken there.
    chunk: samples evaluated at once (None: all, or as many as the first batch of a loader has; one ghost batch).
    ghost: the "samples" are batches of so many, in the order of the data, each with the mean loss under its own batch
    statistics: for models with BatchNorm in training mode, which have no loss of one sample.

    Raises CoupledLossError for BatchNorm on batch statistics (without ghost) and any other coupling, and for dropout
    and any other draw, looked for among up to 64 samples over the whole set, in float64 where the model can;
    Refused for empty data, targets of another number, losses of another shape than (m,) or that do not depend on θ,
    no or complex parameters, theta of another shape, chunk < 1, n that is no multiple of ghost; WrongType for the rest.

    >>> model = torch.nn.Linear(3, 1, bias=False)
    >>> squares = lambda outputs, targets: (outputs - targets).square().sum(1)
    >>> risk = EmpiricalRisk(model, squares, (torch.ones(5, 3), torch.full((5, 1), 2.0)), theta=torch.ones(3))
    >>> risk.n, risk.d, risk.mean, risk.losses().shape
    (5, 3, tensor(1.), torch.Size([5]))
    >>> risk.named(torch.ones(3))["weight"].shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: PerSampleLoss,
        data,
        *,
        parameters=None,
        theta: torch.Tensor | None = None,
        chunk: int | None = None,
        ghost: int | None = None,
    ):
        if not isinstance(model, torch.nn.Module):
            raise WrongType(f"model is of type {type(model).__name__}: give a torch.nn.Module")
        if not callable(loss):
            raise WrongType(f"loss = {loss!r} cannot be called: give a function of outputs and targets")
        self.model, self.loss = model, loss
        self.inputs, self.targets, first = _samples_of(data)
        self.ghost = None if ghost is None else integer("ghost", ghost, low=1)
        self.n = _count(self.inputs, self.targets, self.ghost)
        usual = first if ghost is None else 1
        self.chunk = min(integer("chunk", usual if chunk is None else chunk, low=1), self.n)
        own = _chosen(model, parameters)
        self.shapes = {name: p.shape for name, p in own.items()}
        self._kinds = {name: p.dtype for name, p in own.items()}
        self.d = sum(p.numel() for p in own.values())
        self.theta = self.flat({name: p.detach() for name, p in own.items()})
        if theta is not None:
            self.theta = tensor("theta", theta, (self.d,)).detach().to(self.theta, copy=True)
        self._modes = [module.training for module in model.modules()]
        self.writes = False  # whether the model changes what it is given, so that it must be given copies
        self._found: dict = {}  # what was found out about the model, shared with the risks that `at` gives
        refuse(self)

    def __repr__(self):
        return f"{type(self).__name__}({type(self.model).__name__}, n = {self.n}, d = {self.d})"

    @property
    def dtype(self) -> torch.dtype:
        """The type of θ."""
        return self.theta.dtype

    @property
    def device(self) -> torch.device:
        """The device of θ."""
        return self.theta.device

    @property
    def eps(self) -> float:
        """The rounding error of the model: that of its coarsest parameters."""
        return max(torch.finfo(kind).eps for kind in self._kinds.values())

    # --- θ

    def at(self, theta: torch.Tensor) -> EmpiricalRisk:
        """The same risk at other parameters, shape (d,), on the same data: nothing is checked again but the shape."""
        other = copy.copy(self)
        other.theta = tensor("theta", theta, (self.d,)).detach().to(self.theta, copy=True)
        return other

    def here(self) -> EmpiricalRisk:
        """The same risk where the model's parameters are now, for looks at a model in training. What is refused is
        looked for again only where a module has gone from training to evaluation or back.
        """
        other, own = copy.copy(self), dict(self.model.named_parameters())
        other.theta = self.flat({name: own[name].detach() for name in self.shapes})
        other._kinds = {name: own[name].dtype for name in self.shapes}
        if other._modes != (modes := [module.training for module in self.model.modules()]):
            other._modes, other._found = modes, {}
            refuse(other)
        return other

    def named(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """A vector (d,) as tensors of the parameters' shapes, by their names; a block (d, m) keeps m as last axis."""
        if tensor("vector", vector).ndim not in (1, 2) or len(vector) != self.d:
            raise Refused(f"the vector has shape {tuple(vector.shape)}: it must be ({self.d},) or ({self.d}, m)")
        pieces = vector.split([shape.numel() for shape in self.shapes.values()])
        named = zip(self.shapes.items(), pieces, strict=True)
        return {name: piece.reshape(*shape, *vector.shape[1:]) for (name, shape), piece in named}

    def flat(self, named: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The vector (d,) of tensors by the parameters' names: the inverse of `named`. Raises Refused for other names
        or shapes.
        """
        instance("named", named, Mapping, "give {name: tensor}, such as dict(model.named_parameters())")
        wanted = {name: tuple(shape) for name, shape in self.shapes.items()}
        found = {name: tuple(tensor(name, value).shape) for name, value in named.items()}
        if found != wanted:
            off = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
            raise Refused(f"{', '.join(off)}: other names or shapes than the parameters' {', '.join(wanted)}")
        devices = {value.device for value in named.values()}
        if len(devices) > 1:
            raise Refused(f"the parameters lie on {', '.join(map(str, devices))}: move the model to one device")
        kind = torch.float32
        for value in named.values():
            kind = torch.promote_types(kind, value.dtype)
        return torch.cat([named[name].reshape(-1).to(kind) for name in wanted])

    # --- losses

    def parts(self) -> Iterator[slice]:
        """The chunks of samples, in their order."""
        return (slice(start, min(start + self.chunk, self.n)) for start in range(0, self.n, self.chunk))

    def outputs_at(self, theta: torch.Tensor, part: Part):
        """The model's outputs for some samples at any θ: a function of theta that can be differentiated as often as the
        model can. part: a slice, or a tensor of indices.
        """
        return self._outputs(theta, self.samples(part)[0])

    def losses_of(self, outputs, part: Part) -> torch.Tensor:
        """The losses of some samples with given outputs, shape (m,), in float32 or better. Raises Refused for losses of
        another shape.
        """
        return self._losses(outputs, self.samples(part)[1])

    def losses_at(self, theta: torch.Tensor, part: Part) -> torch.Tensor:
        """The losses of some samples at any θ, shape (m,): a function of theta like `outputs_at`."""
        if self.ghost is not None:
            return torch.stack([self.evaluated(theta, *self._batch(i)).mean() for i in _indices(part)])
        return self.evaluated(theta, *self.samples(part))

    def losses(self) -> torch.Tensor:
        """The losses ℓ_i(θ), shape (n,)."""
        with torch.no_grad():
            return torch.cat([self.losses_at(self.theta, part) for part in self.parts()])

    def loss_at(self, theta: torch.Tensor) -> torch.Tensor:
        """The mean loss L at any θ of shape (d,), a number without a graph."""
        return self.at(theta).losses().mean()

    @property
    def mean(self) -> torch.Tensor:
        """The mean loss L(θ)."""
        return self.losses().mean()

    # --- first derivatives, of some samples

    def pull(self, part: Part) -> Callable[[torch.Tensor], torch.Tensor]:
        """The function from weights w of shape (m,) of some samples to ``Σ w_i ∇ℓ_i``, shape (d,): a backward pass."""
        return pull(lambda theta: self.losses_at(theta, part), self.theta)

    def push(self, part: Part) -> Callable[[torch.Tensor], torch.Tensor]:
        """The function from u of shape (d,) to the slopes ``∇ℓ_i · u`` of some samples, shape (m,): one forward-mode
        pass, or two backward passes, or per-sample gradients, whichever first agrees with the backward pass.
        """
        how = self.looked_at("slopes", lambda: way(lambda t: self.losses_at(t, self.few()), self.theta, self.eps))
        if how is None:
            columns = self.columns(part)
            return lambda u: u @ columns
        forth = push(lambda theta: self.losses_at(theta, part), self.theta, how)
        return lambda u: forth(u).to(self.dtype)

    def columns(self, part: Part) -> torch.Tensor:
        """The gradients of some samples as columns, shape (d, m), in one batched pass where torch has one that agrees
        with its backward pass, else sample by sample.
        """
        return self._batched(part) if self.looked_at("batched", self._can_be_batched) else self._one_by_one(part)

    def looked_at(self, what: str, look: Callable):
        """What a look at the model finds, once for this risk and for those that `at` gives."""
        if what not in self._found:
            self._found[what] = look()
        return self._found[what]

    def _batched(self, part: Part) -> torch.Tensor:
        def one(theta, x, y):  # a batch of one
            return self.evaluated(theta, batches.take(x, None), batches.take(y, None))[0]

        return vmap(grad(one), in_dims=(None, 0, 0))(self.theta, *self.samples(part)).T

    def _one_by_one(self, part: Part) -> torch.Tensor:
        one = torch.ones(1, dtype=self.dtype, device=self.device)
        return torch.stack([self.pull(slice(i, i + 1))(one) for i in _indices(part)], dim=1)

    def _can_be_batched(self) -> bool:
        if self.ghost is not None:
            return False
        few = self.few()[: self.chunk]
        w = torch.randn(len(few), generator=torch.Generator().manual_seed(0)).to(self.theta)
        try:
            ours = self._batched(few) @ w
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # a module that torch cannot batch, such as a recurrent one
            return False
        whole = self.pull(few)(w)
        return bool((ours - whole).norm() <= self.eps**0.5 * whole.norm())

    # --- what the above is made of

    def samples(self, part: Part):
        """Inputs and targets of a part, as the model may have them: copies, where it writes on what it is given."""
        found = (batches.to(batches.take(nest, part), self.device) for nest in (self.inputs, self.targets))
        return tuple(batches.copied(nest) for nest in found) if self.writes else tuple(found)

    def _batch(self, i: int):
        return self.samples(slice(i * self.ghost, (i + 1) * self.ghost))

    def evaluated(self, theta, inputs, targets, kind: torch.dtype | None = None) -> torch.Tensor:
        """The losses of any samples, with parameters and buffers of a type that may not be their own."""
        return self._losses(self._outputs(theta, inputs, kind), targets)

    def _outputs(self, theta, inputs, kind: torch.dtype | None = None):
        """kind: the type of parameters and buffers, where it is not their own."""
        chosen = {name: piece.to(kind or self._kinds[name]) for name, piece in self.named(theta).items()}
        others = {name: p.detach() for name, p in self.model.named_parameters() if name not in chosen}
        # copies, since a forward pass may change its buffers
        others |= {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}
        if kind is not None:
            others = {name: t.to(kind) if t.is_floating_point() else t for name, t in others.items()}
        positional, by_keyword = batches.arguments(self.model, inputs)
        # the faster kernels of attention have neither forward-mode nor second derivatives
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(self.model, chosen | others, positional, by_keyword)

    def _losses(self, outputs, targets) -> torch.Tensor:
        losses, m = self.loss(outputs, targets), batches.length(targets)
        if tensor("the loss", losses).shape != (m,):
            raise Refused(
                f"the loss has shape {tuple(losses.shape)} for {m} samples: return one number a sample, shape ({m},), "
                f"not their mean (in torch: reduction='none')"
            )
        if not losses.is_floating_point():
            raise Refused(f"the losses are of type {losses.dtype}: return real floating-point numbers")
        return losses.to(torch.promote_types(losses.dtype, torch.float32))

    def few(self) -> torch.Tensor:
        """The indices of the samples on which a model is looked at: up to 64 over the whole set, the same each time."""
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(0))
        return order[: max(1, _LOOK // (self.ghost or 1))]


def a_risk(value) -> EmpiricalRisk:
    """The risk as it came. Raises WrongType for anything else.

    >>> a_risk(torch.nn.Linear(2, 1))
    Traceback (most recent call last):
    ...
    support.errors.WrongType: risk is of type Linear: give support.risk.EmpiricalRisk(model, loss, (inputs, targets))
    """
    if not isinstance(value, EmpiricalRisk):
        raise WrongType(
            f"risk is of type {type(value).__name__}: give support.risk.EmpiricalRisk(model, loss, (inputs, targets))"
        )
    return value


def _samples_of(data):
    """Inputs, targets and how many to evaluate at once."""
    if isinstance(data, tuple) and len(data) == 2:
        return *data, batches.length(data[0], "inputs") or 1
    if isinstance(data, (torch.Tensor, Mapping, str, torch.utils.data.Dataset)) or not isinstance(data, Iterable):
        raise WrongType(
            f"data is of type {type(data).__name__}: give a tuple (inputs, targets), or a loader of such pairs, such "
            f"as torch.utils.data.DataLoader(dataset, batch_size=100)"
        )
    read = list(data)
    for pair in read:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise WrongType(
                f"the loader gave a {type(pair).__name__}: it must give pairs (inputs, targets), and data without a "
                f"loader are a tuple (inputs, targets)"
            )
    if not read:
        raise Refused("the loader gave 0 inputs: give at least one sample")
    inputs, targets = (batches.join([pair[k] for pair in read]) for k in (0, 1))
    return inputs, targets, batches.length(read[0][0], "inputs")


def _count(inputs, targets, ghost: int | None) -> int:
    """The number of samples, or of ghost batches."""
    n, found = batches.length(inputs, "inputs"), batches.length(targets, "targets")
    if n == 0 or n != found:
        raise Refused(f"{n} inputs came with {found} targets: give at least one sample, and one target for each")
    if ghost is not None and n % ghost:
        raise Refused(f"{n} samples cannot be parted into batches of ghost = {ghost}: choose a divisor of n")
    return n // (ghost or 1)


def _chosen(model: torch.nn.Module, parameters) -> dict[str, torch.nn.Parameter]:
    """The parameters that make up θ, by name, in the model's order."""
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not own:
        raise Refused(
            f"{type(model).__name__} has no parameter that requires a gradient: give a model with some, or unfreeze it"
        )
    if parameters is not None:
        single = isinstance(parameters, (str, torch.nn.Module)) or not isinstance(parameters, Iterable)
        kept = {name for choice in ([parameters] if single else parameters) for name in _named_by(choice, own)}
        own = {name: p for name, p in own.items() if name in kept}
    if imaginary := [name for name, p in own.items() if not p.is_floating_point()]:
        raise Refused(f"the parameters {', '.join(imaginary)} are complex: write the model with real ones")
    return own


def _named_by(choice, own: Mapping[str, torch.nn.Parameter]) -> list[str]:
    if isinstance(choice, torch.nn.Module):
        inside = {id(p) for p in choice.parameters()}
        found = [name for name, p in own.items() if id(p) in inside]
    elif isinstance(choice, str):
        found = [name for name in own if fnmatchcase(name, choice) or name.startswith(f"{choice}.")]
    else:
        raise WrongType(f"parameters: {choice!r} names none: give names, patterns such as '*.weight', or modules")
    if not found:
        what = choice if isinstance(choice, str) else type(choice).__name__
        raise Refused(f"parameters: {what!r} is none that requires a gradient: choose among {', '.join(own)}")
    return found


def _indices(part: Part) -> list[int]:
    return list(range(part.start, part.stop)) if isinstance(part, slice) else part.tolist()
