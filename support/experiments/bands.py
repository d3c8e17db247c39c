"""One program for the steps of many runs, which share network, number of images and loss.

A step of a LeNet leaves a device idle: its kernels are short, and the processor that starts them is what takes the
time. Seventy runs step in the time of a few where each kernel serves all of them (`support.experiments.stacked`), and
where one graph replays the whole step (`support.experiments.recording`). Each run draws its weights W by its own
generator, in its own order, as it does alone: so it is the run that `Trainer` makes, up to the rounding of other
kernels. Runs that evaluate equally many samples pass together, so that SGD of 50 images never costs all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from support.errors import Refused, instance, integer
from support.experiments import generators, judging
from support.experiments.memory import Fitting, halving
from support.experiments.models import count_parameters
from support.experiments.recording import recorded, undone
from support.experiments.stacked import Stacked, StackingError
from support.experiments.training import Trainer
from support.msgd import backward_in_chunks, batch_statistics, draw

_BLOCK = 10  # steps whose weights are drawn, and sent to a device, at once
_AT_ONCE = {"cpu": 1000, "cuda": 2**16}  # samples of a pass, over all its runs
LARGEST = 1_000_000  # parameters of a network that does not fill a device by itself
_ROUND = 8  # samples to which the room for a random batch is rounded up


class JoinError(Refused):
    """A run that cannot go together with others; the message says why."""


def why_alone(trainer: Trainer) -> str:
    """Why a trainer's run cannot go together with any other; empty if it can.

    Only plain SGD does, with momentum and weight decay, of small networks without BatchNorm and random numbers; the
    noise is that of a law of W.
    """
    optimizer = instance("trainer", trainer, Trainer, "give one of support.experiments.training").optimizer
    group = optimizer.param_groups[0]
    plain = type(optimizer) is torch.optim.SGD and len(optimizer.param_groups) == 1
    drawn = generators.hanging_on(model=trainer.model, loss=trainer.loss)
    dropout = any(isinstance(module, torch.nn.modules.dropout._DropoutNd) for module in trainer.model.modules())
    reasons = {
        "it has an additive noise": trainer.additive is not None,
        "it is measured on its way": trainer.track is not None,
        "it has a schedule": trainer.schedule is not None,
        "its samples pass in a way of their own": not (
            trainer.passes is backward_in_chunks or isinstance(trainer.passes, Fitting)
        ),
        "its network has BatchNorm": trainer.ghost is not None or batch_statistics(trainer.model) is not None,
        "its network has buffers": any(True for _ in trainer.model.buffers()),
        "its network draws random numbers": bool(drawn) or dropout,
        f"its network has more than {LARGEST:,} parameters, which fill a device": count_parameters(trainer.model)
        > LARGEST,
        f"its optimiser is {type(optimizer).__name__}, not plain SGD": not plain
        or any(group[knob] for knob in ("nesterov", "dampening", "maximize")),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def check(trainers: Sequence[Trainer]) -> None:
    """Raise JoinError unless the runs can go together: none must go alone, and all agree in loss, device, and in shape
    and number of images.
    """
    if not trainers:
        raise JoinError("no run came: give at least one")
    for number, trainer in enumerate(trainers):
        if why := why_alone(trainer):
            raise JoinError(f"run {number} cannot go with others, since {why}: run it alone")
    kinds = {
        "losses": {trainer.loss for trainer in trainers},
        "devices": {trainer.device for trainer in trainers},
        "numbers of judged images": {(len(trainer.data.test[0]), trainer.data.watched) for trainer in trainers},
        "shapes of images": {(one.data.train[0].shape, one.data.train[0].dtype) for one in trainers},
    }
    if unlike := next((f"{len(found)} {what}" for what, found in kinds.items() if len(found) > 1), ""):
        raise JoinError(f"the runs have {unlike}: put those together that agree")


# --- runs that evaluate equally many samples --------------------------------------------------------------------------


class _Band:
    """Runs that evaluate equally many samples a step, or about so many: the pass of all, and their update."""

    def __init__(self, trainers: Sequence[Trainer], unfold: bool):
        self.trainers, first = list(trainers), trainers[0]
        self.network = Stacked([trainer.model for trainer in trainers], unfold=unfold)
        self.loss, self.device, self.count = first.loss, first.device, len(trainers)
        sets = {id(trainer.data): trainer.data.train for trainer in trainers}
        places = {which: place for place, which in enumerate(sets)}
        self.inputs, self.targets = (torch.stack(same) for same in zip(*sets.values(), strict=True))
        self.which = torch.tensor([[places[id(trainer.data)]] for trainer in trainers], device=self.device)
        knobs = [trainer.optimizer.param_groups[0] for trainer in trainers]
        self.lr, self.momentum, self.decay = (
            torch.tensor([float(one[knob]) for one in knobs], device=self.device)
            for knob in ("lr", "momentum", "weight_decay")
        )
        self.moves, self.decays = (any(one[knob] for one in knobs) for knob in ("momentum", "weight_decay"))
        self.velocities = [torch.zeros_like(one) for one in self.network.trained] if self.moves else []
        self.dense = not first.law.sparse or first.dense
        self.indices = torch.arange(first.law.n)
        self.sums = torch.stack([trainer.sums for trainer in trainers])
        self._take_velocities()
        self._make_room(first.law.n if self.dense else 0)

    # what a step reads

    def _make_room(self, samples: int) -> None:
        """Tensors that a step reads: of each run's samples the index, the weight W, and the share in their mean."""
        shape = self.count, samples
        self.kept = torch.zeros(shape, dtype=torch.int64, device=self.device)
        self.weights, self.shares = (torch.zeros(shape, device=self.device) for _ in range(2))
        if self.dense:
            self.kept += torch.arange(samples, device=self.device)
            self.shares += 1 / samples

    def draw(self, steps: int) -> bool:
        """Draw the weights of so many steps, each run's by its own generator; whether more room was needed."""
        drawn = [
            [draw(one.law, one.generator, self.indices, self.indices, dense=one.dense) for one in self.trainers]
            for _ in range(steps)
        ]
        most = max(len(weights) for step in drawn for _, _, weights in step)
        room = self.kept.shape[1]
        if grows := most > room:
            most += most // 8 if room else 0  # a random size has been met: it will be exceeded again
            self._make_room(-(-most // _ROUND) * _ROUND)
        shape = steps, *self.kept.shape
        weights = torch.zeros(shape)
        kept, shares = (None, None) if self.dense else (torch.zeros(shape, dtype=torch.int64), torch.zeros(shape))
        for number, step in enumerate(drawn):
            for run, (indices, _, own) in enumerate(step):
                m = len(own)
                weights[number, run, :m] = own
                if not self.dense:
                    kept[number, run, :m], kept[number, run, m:] = indices, indices[0]  # what fills up weighs nothing
                    shares[number, run, :m] = 1 / m
        self.block = [(here, _sent(there, self.device)) for here, there in self._pairs(weights, kept, shares)]
        return grows

    def _pairs(self, weights, kept, shares) -> list[tuple]:
        return [(self.weights, weights)] + ([] if self.dense else [(self.kept, kept), (self.shares, shares)])

    def load(self, number: int) -> None:
        """Put what was drawn for one of the steps where a step reads it."""
        for here, drawn in self.block:
            here.copy_(drawn[number])

    # the step itself

    @property
    def changes(self) -> list[torch.Tensor]:
        """What a step writes into."""
        return [*self.network.parameters.values(), *self.velocities, self.sums]

    def step(self, at_once: int) -> None:
        """One step of all runs, from what stands in the tensors that it reads."""
        samples, gradient = self.kept.shape[1], None
        for start in range(0, samples, size := max(1, at_once // self.count)):
            part = slice(start, start + size)
            losses = self._losses(part)
            weighted = self.weights[:, part].to(losses) * losses
            found = torch.autograd.grad(weighted.sum(), self.network.trained)
            gradient = (
                found if gradient is None else [one.add_(more) for one, more in zip(gradient, found, strict=True)]
            )
            with torch.no_grad():
                self.sums[:, 0] += weighted.sum(1)
                self.sums[:, 1] += (self.shares[:, part].to(losses) * losses).sum(1)
        self._update(gradient)

    def _losses(self, part: slice) -> torch.Tensor:
        kept = self.kept[:, part]
        return self._losses_of(self.network(self.inputs[self.which, kept]), self.targets[self.which, kept])

    def _losses_of(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = self.loss(outputs.flatten(0, 1), targets.flatten()).view(self.count, -1)
        return losses.to(torch.promote_types(losses.dtype, torch.float32))

    @torch.no_grad()
    def _update(self, gradient: Sequence[torch.Tensor]) -> None:
        """``v ← μv + g + λθ, θ ← θ − ηv``, as torch.optim.SGD has it, with the numbers of each run."""
        for number, (parameter, slope) in enumerate(zip(self.network.trained, gradient, strict=True)):
            lr, momentum, decay = (
                one.view(-1, *[1] * (parameter.ndim - 1)) for one in (self.lr, self.momentum, self.decay)
            )
            push = slope + decay * parameter if self.decays else slope
            parameter.sub_(lr * (self.velocities[number].mul_(momentum).add_(push) if self.moves else push))

    # judging, and giving back

    @torch.no_grad()
    def probe(self) -> None:
        """Pass a sample of each run. Raises StackingError for networks that cannot pass as one."""
        self.network(self.inputs[self.which, 0 * self.which])

    @torch.no_grad()
    def judged(self, parts: Sequence[tuple], name: str, at_once: int) -> list[dict[str, float]]:
        """Mean loss and accuracy of each run on inputs and targets of its own, as `judging.judge` has them."""
        many, totals = len(parts[0][0]), torch.zeros(2, self.count, dtype=torch.float64, device=self.device)
        for start in range(0, many, size := max(1, at_once // self.count)):
            part = slice(start, start + size)
            inputs, targets = (torch.stack([one[part] for one in same]) for same in zip(*parts, strict=True))
            with judging.evaluating(self.network.template):
                outputs = self.network(inputs)
            totals[0] += self._losses_of(outputs, targets).sum(1, dtype=torch.float64)
            totals[1] += (outputs.argmax(2) == targets).sum(1)
        return [{f"{name}_loss": loss, f"{name}_accuracy": right} for loss, right in (totals / many).T.tolist()]

    def _take_velocities(self) -> None:
        for number, trainer in enumerate(self.trainers):
            for velocity, parameter in zip(self.velocities, _trained(trainer), strict=False):
                if (kept := trainer.optimizer.state.get(parameter, {}).get("momentum_buffer")) is not None:
                    velocity[number].copy_(kept)

    def give(self, steps_done: int) -> None:
        """Leave every trainer as if it had done the steps itself."""
        self.network.give()
        for number, trainer in enumerate(self.trainers):
            trainer.steps_done = steps_done
            trainer.sums.copy_(self.sums[number])
            if steps_done and trainer.optimizer.param_groups[0]["momentum"]:
                for velocity, parameter in zip(self.velocities, _trained(trainer), strict=True):
                    trainer.optimizer.state[parameter]["momentum_buffer"] = velocity[number].clone()


def _trained(trainer: Trainer) -> list[torch.Tensor]:
    return [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]


def _sent(drawn: torch.Tensor, device: torch.device) -> torch.Tensor:
    # from pinned memory, which torch keeps until the copy is over, so that nobody waits for it
    return drawn if device.type == "cpu" else drawn.pin_memory().to(device, non_blocking=True)


# --- all of them ------------------------------------------------------------------------------------------------------


class Program:
    """Runs that step together, from where their trainers stand, which all have done the same number of steps.

    `advance` steps; `give` leaves every trainer as if it had done the steps itself. at_once: samples of a pass, over
    all its runs (None: what suits the device); halved, which is said once, until a pass fits the memory.  unfold: as in
    `Stacked` (None: on a device what is measured to be faster there). Raises JoinError for runs that cannot go together
    (`check`), networks of two architectures, and runs of which some have done more steps.

    >>> from support.experiments.judging import Data
    >>> from support.sampling import by_name
    >>> images, model = torch.rand(60, 4), torch.nn.Linear(4, 3)
    >>> data, optimizer = Data.on("cpu", *[(images, torch.arange(60) % 3)] * 2, 60), torch.optim.SGD(model.parameters())
    >>> trainer = Trainer(model, optimizer, by_name("SGD", 60, 10), data, generator=torch.Generator().manual_seed(1))
    >>> program = Program([trainer])
    >>> program.advance(5), program.give(), trainer.steps_done
    (None, None, 5)
    """

    def __init__(self, trainers: Sequence[Trainer], *, at_once: int | None = None, unfold: bool | None = None):
        check(trainers)
        if len(levels := {trainer.steps_done for trainer in trainers}) > 1:
            raise JoinError(f"the runs have done {sorted(levels)} steps: bring them to one number first")
        self.trainers, self.steps_done = list(trainers), trainers[0].steps_done
        self.device = trainers[0].device
        self.at_once = _AT_ONCE[self.device.type] if at_once is None else integer("at_once", at_once, 1)
        self.unfold = unfold
        self.bands = self._parted(bool(unfold))
        self._play = None

    def _parted(self, unfold: bool) -> list[_Band]:
        sizes: dict[int, list[Trainer]] = {}
        for trainer in self.trainers:
            law = trainer.law
            dense = not law.sparse or trainer.dense
            sizes.setdefault(law.n if dense else -getattr(law, "B", law.b), []).append(trainer)
        try:
            bands = [_Band(alike, unfold) for alike in sizes.values()]
            for band in bands:
                band.probe()
        except StackingError as error:
            raise JoinError(f"the runs cannot go together: {error}") from error
        return bands

    def advance(self, steps: int) -> None:
        """So many steps more of every run."""
        for start in range(0, steps, _BLOCK):
            here = min(_BLOCK, steps - start)
            grown = [band.draw(here) for band in self.bands]
            if any(grown):
                self._play = None  # what a step reads has moved
            for number in range(here):
                for band in self.bands:
                    band.load(number)
                self._play = self._play or self._recorded()
                self._play()
            self.steps_done += here

    @property
    def _changes(self) -> list[torch.Tensor]:
        return [one for band in self.bands for one in band.changes]

    def _recorded(self) -> Callable[[], None]:
        """The step, recorded with the largest pass that fits, its convolutions in the faster of their two ways."""
        ways = (False, True) if self.unfold is None and self.device.type == "cuda" else (bool(self.unfold),)
        plays = {}
        for way in ways:
            self._unfold(way)
            plays[way], self.at_once = halving(self._record, self.at_once)
        self.unfold = min(ways, key=lambda way: self._seconds(plays[way])) if len(ways) > 1 else ways[0]
        self._unfold(self.unfold)
        return plays[self.unfold]

    def _unfold(self, way: bool) -> None:
        for band in self.bands:
            band.network.unfold(way)

    def _record(self, at_once: int) -> Callable[[], None]:
        def step() -> None:
            for band in self.bands:
                band.step(at_once)

        return recorded(step, self.device, self._changes)

    def _seconds(self, play: Callable[[], None]) -> float:
        """The seconds of a few steps on a device, which are then undone."""
        with undone(self._changes):
            play(), torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(5):
                play()
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def judged(self, *, every: bool = False) -> dict[Trainer, dict[str, float]]:
        """Losses and accuracies of every run, of test images the watched ones or every one."""

        def judge(band: _Band, name: str, at_once: int) -> list[dict[str, float]]:
            watched = slice(None if name == "train" or every else band.trainers[0].data.watched)
            parts = [tuple(part[watched] for part in getattr(one.data, name)) for one in band.trainers]
            return band.judged(parts, name, at_once)

        found: dict[Trainer, dict[str, float]] = {trainer: {} for trainer in self.trainers}
        for band in self.bands:
            for name in ("train", "test"):
                numbers, _ = halving(lambda at_once: judge(band, name, at_once), self.at_once)  # noqa: B023, called here
                for trainer, one in zip(band.trainers, numbers, strict=True):
                    found[trainer] |= one
        return found

    def give(self) -> None:
        """Leave every trainer as if it had done the steps itself."""
        for band in self.bands:
            band.give(self.steps_done)

    def forget_losses(self) -> None:
        """Begin the means of the logged losses anew, at a point of the curves."""
        for band in self.bands:
            band.sums.zero_()
