r"""The empirical risk ``L(θ) = Σ ℓ_i(θ) / n`` of a torch model on n samples: what all matrices here stand on.

Gradient matrix, Hessian, Gauss-Newton matrix, sharpness and additive noises ask the same of a model: the losses ℓ_i of
some samples at some θ, as a function that can be differentiated. This is the one place that knows what data may be,
which parameters count and how θ is laid out, and the one place that refuses what has no gradient matrix at all: a loss
that couples its samples, draws at random, averages already or does not depend on θ. Measuring leaves model, data and
random generators as they were.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from support import batches
from support.derivatives import pull, push, way
from support.errors import Refused, WrongType, instance, integer, tensor

PerSampleLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Part = slice | torch.Tensor
_LOOK = 64  # samples, drawn over the whole set, on which a loss is looked at before it is trusted


class CoupledLossError(Refused):
    """The loss of a sample depends on the other samples of its batch or on chance, so that there is no gradient matrix;
    the message says why and what to use.
    """


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
        self._by_keyword = isinstance(self.inputs, dict) and _takes(model, self.inputs)
        self._writes = False  # whether the model changes what it is given, so that it must be given copies
        self._found: dict = {}  # what was found out about the model, shared with the risks that `at` gives
        self._refuse()

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
            other._refuse()
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
        return self._outputs(theta, self._samples(part)[0])

    def losses_of(self, outputs, part: Part) -> torch.Tensor:
        """The losses of some samples with given outputs, shape (m,), in float32 or better. Raises Refused for losses of
        another shape.
        """
        return self._losses(outputs, self._samples(part)[1])

    def losses_at(self, theta: torch.Tensor, part: Part) -> torch.Tensor:
        """The losses of some samples at any θ, shape (m,): a function of theta like `outputs_at`."""
        if self.ghost is not None:
            return torch.stack([self._evaluated(theta, *self._batch(i)).mean() for i in _indices(part)])
        return self._evaluated(theta, *self._samples(part))

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
            return self._evaluated(theta, batches.take(x, None), batches.take(y, None))[0]

        return vmap(grad(one), in_dims=(None, 0, 0))(self.theta, *self._samples(part)).T

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

    def _samples(self, part: Part):
        found = (batches.to(batches.take(nest, part), self.device) for nest in (self.inputs, self.targets))
        return tuple(batches.copied(nest) for nest in found) if self._writes else tuple(found)

    def _batch(self, i: int):
        return self._samples(slice(i * self.ghost, (i + 1) * self.ghost))

    def _evaluated(self, theta, inputs, targets, kind: torch.dtype | None = None) -> torch.Tensor:
        return self._losses(self._outputs(theta, inputs, kind), targets)

    def _outputs(self, theta, inputs, kind: torch.dtype | None = None):
        """kind: the type of parameters and buffers, where it is not their own."""
        chosen = {name: piece.to(kind or self._kinds[name]) for name, piece in self.named(theta).items()}
        others = {name: p.detach() for name, p in self.model.named_parameters() if name not in chosen}
        # copies, since a forward pass may change its buffers
        others |= {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}
        if kind is not None:
            others = {name: t.to(kind) if t.is_floating_point() else t for name, t in others.items()}
        by_keyword = self._by_keyword and isinstance(inputs, dict)
        arguments = () if by_keyword else tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
        # the faster kernels of attention have neither forward-mode nor second derivatives
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(self.model, chosen | others, arguments, inputs if by_keyword else {})

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

    # --- what is refused

    def few(self) -> torch.Tensor:
        """The indices of the samples on which a model is looked at: up to 64 over the whole set, the same each time."""
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(0))
        return order[: max(1, _LOOK // (self.ghost or 1))]

    def _refuse(self) -> None:
        _refuse_by_name(self.model, self.ghost)
        try:
            self._look()
        except (Refused, torch.OutOfMemoryError):
            raise
        except Exception as error:
            first = str(error).partition("\n")[0]
            raise Refused(
                f"{type(self.model).__name__} and its loss cannot be evaluated on these samples ({first}): give inputs "
                f"and targets of the shape and type that they take"
            ) from error

    def _look(self) -> None:
        """Evaluate a few samples together, again and apart, and differentiate them."""
        few = self.few()
        with _Dice(self.model, self.device) as dice:
            together, tolerance = self._precisely(few)
            if dice.thrown() or not _alike(together, self._precisely(few)[0], tolerance):
                raise CoupledLossError(
                    "the loss of a sample is drawn at random (a random generator moved, or a second evaluation gave "
                    "another number), so it is no function of θ: call model.eval(), or take the draw out of model and "
                    "loss"
                )
            third = len(few) // 3
            for places in (torch.arange(len(few)).flip(0), *torch.arange(len(few)).split([third, len(few) - third])):
                self._refuse_coupled(few, places, together, tolerance)
            for place in torch.arange(len(few))[:3]:
                self._refuse_coupled(few, place[None], together, tolerance)
            theta = self.theta.clone().requires_grad_()
            with torch.enable_grad():
                total = self.losses_at(theta, few).sum()
        if not total.requires_grad or torch.autograd.grad(total, theta, allow_unused=True)[0] is None:
            raise Refused(
                f"the loss does not depend on the parameters {', '.join(list(self.shapes)[:3])}: look for detach(), "
                f"no_grad or .data between them and the loss"
            )

    def _refuse_coupled(
        self, few: torch.Tensor, places: torch.Tensor, together: torch.Tensor, tolerance: float
    ) -> None:
        """Raise CoupledLossError where some of the few samples have other losses among themselves."""
        if not len(places):
            return
        same, apart = together[places.to(together.device)], self._precisely(few[places])[0]
        if not _alike(same, apart, tolerance):
            raise CoupledLossError(
                f"the loss of a sample changes by {float((same - apart).abs().max()):.2g} with the batch it is in, and "
                f"the gradient matrix needs losses of one sample alone: call model.eval(), or replace what looks at "
                f"the whole batch"
            )

    def _precisely(self, part: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The losses in float64, and what they may differ by from batch to batch; in the model's own type, and by more,
        where the model cannot be evaluated in float64.
        """
        if self.ghost is not None:  # batch by batch, whatever the part: nothing can be coupled
            with torch.no_grad():
                return self.losses_at(self.theta, part), 1e-3
        samples = self._samples(part)
        try:
            wide = (batches.mapped(lambda t: t.double() if t.is_floating_point() else t, nest) for nest in samples)
            return self._watched(self.theta.double(), *wide, torch.float64), 1e-8
        except (Refused, torch.OutOfMemoryError):
            raise
        except Exception:
            return self._watched(self.theta, *samples), min(1e3 * self.eps, 1.5 * self.eps**0.5)

    def _watched(self, theta, inputs, targets, kind=None) -> torch.Tensor:
        given = [*batches.leaves(inputs), *batches.leaves(targets)]
        before = [leaf._version for leaf in given]
        with torch.no_grad():
            losses = self._evaluated(theta, inputs, targets, kind)
        self._writes |= before != [leaf._version for leaf in given]
        return losses


def a_risk(value) -> EmpiricalRisk:
    """The risk as it came. Raises WrongType for anything else."""
    if not isinstance(value, EmpiricalRisk):
        raise WrongType(
            f"risk is of type {type(value).__name__}: give support.risk.EmpiricalRisk(model, loss, (inputs, targets))"
        )
    return value


def _alike(some: torch.Tensor, others: torch.Tensor, tolerance: float) -> bool:
    if not (torch.isfinite(some).all() and torch.isfinite(others).all()):
        return True  # what is not finite is refused where a product needs it
    floor = 1e-4 * tolerance  # of an exact fit nothing but rounding is left
    return torch.allclose(some, others, rtol=tolerance, atol=tolerance * float(some.abs().max()) + floor)


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


def _takes(model: torch.nn.Module, inputs: Mapping) -> bool:
    """Whether the model's forward takes these names as keywords."""
    names = inspect.signature(model.forward).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in names.values())
    return all(isinstance(key, str) and (every or key in names) for key in inputs)


def _indices(part: Part) -> list[int]:
    return list(range(part.start, part.stop)) if isinstance(part, slice) else part.tolist()


def _refuse_by_name(model: torch.nn.Module, ghost: int | None) -> None:
    for name, module in model.named_modules():
        normalises = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        if normalises and ghost is None and (module.training or module.running_mean is None):
            raise CoupledLossError(
                f"module {name!r} ({type(module).__name__}) normalises by the statistics of the batch, so a sample's "
                f"loss depends on the other samples and there is no gradient matrix: call model.eval() to use its "
                f"running statistics, use GroupNorm, or measure whole batches with ghost=100"
            )
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise CoupledLossError(
                f"module {name!r} ({type(module).__name__}) draws at random, so a sample's loss is no function of θ: "
                f"call model.eval()"
            )


class _Dice:
    """Every random generator that a model may draw from: torch's, Python's and numpy's global ones, and those that its
    modules hold. `thrown` tells whether one moved; when the context ends, all are as they were.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device):
        self.held = [(torch.get_rng_state, torch.set_rng_state), (random.getstate, random.setstate)]
        self.held += [(np.random.get_state, np.random.set_state)]
        if device.type == "cuda":
            self.held += [(lambda: torch.cuda.get_rng_state(device), lambda s: torch.cuda.set_rng_state(s, device))]
        for own in (value for module in model.modules() for value in vars(module).values()):
            if isinstance(own, torch.Generator):
                self.held += [(own.get_state, own.set_state)]
            elif isinstance(own, np.random.Generator):
                bits = own.bit_generator
                self.held += [(lambda bits=bits: bits.state, lambda s, bits=bits: setattr(bits, "state", s))]

    def __enter__(self) -> _Dice:
        self.before = [copy.deepcopy(get()) for get, _ in self.held]
        return self

    def thrown(self) -> bool:
        return not _same([get() for get, _ in self.held], self.before)

    def __exit__(self, *_) -> None:
        for (_, put), state in zip(self.held, self.before, strict=True):
            put(state)


def _same(state, other) -> bool:
    if isinstance(state, dict):
        return _same(list(state.values()), list(other.values()))
    if isinstance(state, (tuple, list)):
        return all(map(_same, state, other))
    return bool(np.all(np.asarray(state) == np.asarray(other)))
