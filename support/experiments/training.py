r"""The trainer of every experiment: ``θ ← θ − η (∇𝓛(θ) W + extra)`` for any law of W, any torch optimiser and schedule.

Full-batch, large-batch and mini-batch methods differ in the law alone: samples of weight zero are not evaluated, the
others pass in chunks that fit the processor's cache. Two losses are logged apart: the noise-weighted ``Σ W_i ℓ_i`` that
was differentiated, and the mean of the ℓ_i behind it. Every method is judged on the same fixed images, in evaluation
mode, at the same steps.

A run writes checkpoints; killed and started again, it goes on from the last one, and on a CPU with the same number of
threads ends with the numbers of an unbroken run, bit for bit. On a device no step waits for it: losses stay there, and
are looked at once in a while.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils._pytree import tree_map_only
from tqdm import tqdm

from support.errors import Refused, boolean, function, instance, integer, real, torch_generator
from support.experiments import checkpoints, generators, judging, signals
from support.experiments.judging import Data, cross_entropy
from support.experiments.tracking import Measure, Track
from support.msgd import PerSampleLoss, backward_in_chunks, draw
from support.sampling import Law

Additive = Callable[[torch.nn.Module, torch.Generator], None]

CURVES = ("step", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "step_loss", "weighted_loss")
_STATE = ("identity", "steps_done", "seconds", "over", "curves", "measured", "sums", "parts", "generators")


class TrainingError(Refused):
    """A run that cannot start, go on or be resumed; the message names the value and the remedy."""


class OutOfTime(TrainingError):
    """A run that met its deadline; its checkpoint is written, and the same command goes on from there."""


class Diverged(TrainingError):
    """A loss that is not finite; the message has the step, the law and the learning rate."""


def differences(there: dict, here: dict) -> str:
    """In what two configurations differ, for a message; empty if in nothing.

    >>> differences({"lr": 0.5, "seed": 1}, {"lr": 0.1, "seed": 1})
    'lr = 0.5, now 0.1'
    """
    return ", ".join(
        f"{key} = {there.get(key)!r}, now {here.get(key)!r}"
        for key in sorted(there | here)
        if there.get(key) != here.get(key)
    )


@dataclass
class Run:
    """What a run gives: ``curves`` (see `CURVES`), ``final`` numbers on all images, and the seconds it took, over all
    its parts if it was resumed.

    measured: what the trainer's ``measure`` gave, each number as a list beside ``measured["step"]``; empty without one.
    """

    curves: dict[str, list]
    final: dict[str, float]
    wall_s: float
    measured: dict[str, list] = field(default_factory=dict)


class Trainer:
    """One run.

    law: a law with ``law.n`` equal to the number of training samples.  generator: torch generator on the CPU, which
    draws W, so that a device sees the noise that the CPU sees.  loss: per-sample losses of a classifier, whose outputs
    are (m, classes).  optimizer: any of torch's; LBFGS evaluates a step's loss several times, always with the one W of
    that step, and the first of them is logged.  schedule: a torch learning-rate schedule of the optimiser, stepped
    after each step; `ReduceLROnPlateau` with the training loss at each new point of the curves.
    chunk: samples of one forward and backward pass.  ghost: for BatchNorm on batch statistics, whose gradients depend
    on the samples that pass together: a step passes in ghost batches of exactly so many samples, in their order,
    whatever the chunk; without it, a step of more than one chunk is refused.  dense: whether samples of weight zero
    pass too, whose number is random under some laws, so that no ghost divides what is left.  passes: how a step's
    samples pass, with the arguments and results of `support.msgd.backward_in_chunks`, which it is unless given.
    additive: called with the model and the generator after the backward pass; adds noise to the parameters' ``.grad``.
    measure: called with the model and the number of steps done when these are in ``measure_at`` (0: before the first),
    or multiples of ``measure_every`` (`support.experiments.tracking.Track`); must leave the model, and the trainer's
    generator, as they are.
    Checkpoints hold the state of whatever has a ``state_dict``, and of the generators that
    `support.experiments.generators` finds.

    >>> images, labels = torch.rand(60, 4), torch.arange(60) % 3
    >>> model, data = torch.nn.Linear(4, 3), Data.on("cpu", (images, labels), (images, labels), watched=60)
    >>> from support.sampling import by_name
    >>> trainer = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), by_name("MSGD-Cov", n=60, b=10), data,
    ...                   generator=torch.Generator().manual_seed(1))
    >>> trainer.run(20, evaluate_every=10, show=False).curves["step"]
    [0, 10, 20]
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        law: Law,
        data: Data,
        *,
        generator: torch.Generator,
        loss: PerSampleLoss = cross_entropy,
        chunk: int = 200,
        ghost: int | None = None,
        dense: bool = False,
        passes: Callable = backward_in_chunks,
        schedule: LRScheduler | None = None,
        additive: Additive | None = None,
        measure: Measure | None = None,
        measure_at: Collection[int] = (),
        measure_every: int | None = None,
    ):
        self.model = instance("model", model, torch.nn.Module, "give a torch module")
        self.optimizer = instance("optimizer", optimizer, torch.optim.Optimizer, "give one of torch.optim")
        self.law = instance("law", law, Law, "give a law, such as support.sampling.by_name('MSGD-Cov', n, b)")
        self.data = instance("data", data, Data, "give Data.on(device, train, test, watched)")
        self.generator, self.chunk = torch_generator(generator), integer("chunk", chunk, 1)
        self.ghost = None if ghost is None else integer("ghost", ghost, 2)
        self.loss, self.schedule, self.additive, self.passes = loss, schedule, additive, passes
        self.dense = boolean("dense", dense)
        self.track = None if measure is None else Track(measure, at=measure_at, every=measure_every)
        self.device = data.train[0].device
        self._check_parts()
        # a check of the loss waits for a device, so there it is made once in a while; the sums it looks at stay
        # non-finite once they are
        self.check_every, self.judged_at_once = (1, 500) if self.device.type == "cpu" else (50, 5000)
        self.steps_done, self.seconds, self.over = 0, 0.0, False
        self.curves: dict[str, list] = {name: [] for name in CURVES}
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)

    def _check_parts(self) -> None:
        """Refuse parts that do not fit together."""
        function("loss", self.loss)
        function("passes", self.passes)
        if self.additive is not None:
            function("additive", self.additive)
        if self.schedule is not None:
            instance("schedule", self.schedule, LRScheduler, "give one of torch.optim.lr_scheduler")
        (inputs, targets), tests = self.data.train, self.data.test[0]
        parameters = {id(parameter): parameter for parameter in self.model.parameters()}
        held = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        away = {str(parameter.device) for parameter in parameters.values() if parameter.device != self.device}
        refusals = {
            f"the law is for n = {self.law.n} samples, the training set has {len(inputs)}: give the law the number of "
            f"samples": self.law.n != len(inputs),
            "the test set is empty: every method is judged on it, so give some samples": not len(tests),
            f"the targets are of shape {tuple(targets.shape)} and type {targets.dtype}: the trainer judges "
            f"classifiers, so give whole numbers of shape (n,)": targets.ndim != 1 or targets.is_floating_point(),
            f"the model is on {', '.join(away)}, the data on {self.device}: move one to the other": away,
            "the optimiser has none of the model's parameters: make it of model.parameters()": not held & {*parameters},
            "the schedule is another optimiser's: make it of the trainer's": self.schedule is not None
            and self.schedule.optimizer is not self.optimizer,
            "LBFGS evaluates a step's loss several times, an additive noise is drawn once: take another optimiser": (
                self.additive is not None and isinstance(self.optimizer, torch.optim.LBFGS)
            ),
        }
        for message, holds in refusals.items():
            if holds:
                raise TrainingError(message)

    def run(
        self,
        steps: int,
        *,
        evaluate_every: int = 200,
        checkpoint: Path | str | None = None,
        save_every_s: float = 30.0,
        name: str = "",
        show: bool | None = None,
        identity: dict | None = None,
        until: Callable[[dict[str, float]], bool] | None = None,
        deadline: float | None = None,
    ) -> Run:
        """Train until ``steps`` steps are done, going on from ``checkpoint`` if it exists, and judge the result on all
        images.

        save_every_s: seconds between checkpoints (0: after every step); there is one before the first step too, one at
        the end, and one before ctrl-C or SIGTERM do what they do.  name, show: progress bar's title; None shows it on a
        terminal only.  identity: what the run is, stored in the checkpoint; a checkpoint of another run is refused.
        until: looks at each new point of the curves, as {name: value}; the run is over when it says so, and stays over
        when it is resumed.
        deadline: when to stop on the way, in seconds of `time.time`; a checkpoint is then written, and OutOfTime
        raised.
        Raises Diverged for a loss that is not finite, and CheckpointError; the last checkpoint is then kept.
        """
        steps, evaluate_every = integer("steps", steps, 1), integer("evaluate_every", evaluate_every, 1)
        save_every_s = real("save_every_s", save_every_s, 0)
        identity = instance("identity", {} if identity is None else identity, dict, "give {name: value}")
        deadline = math.inf if deadline is None else real("deadline", deadline)
        if until is not None:
            function("until", until)
        keeps = checkpoint is not None
        resumed = keeps and self._resume(checkpoint, identity, steps)
        self.over = self.over and resumed and until is not None
        began = time.perf_counter() - self.seconds
        if keeps and not resumed:
            # what cannot be stored, and a folder that cannot be written, are known before any work
            self._save(checkpoint, identity)
        saved, late = time.perf_counter(), False
        with signals.held() if keeps else contextlib.nullcontext(()) as stop, self._bar(steps, name, show) as bar:
            if not self.curves["step"]:
                self._look_at_start()
            while not (self._is_complete(steps) or stop or late):
                self._advance(steps, evaluate_every, until)
                self._show(bar)
                late, self.seconds = time.time() > deadline, time.perf_counter() - began
                ends = stop or late or self._is_complete(steps)
                if keeps and (ends or time.perf_counter() - saved >= save_every_s):
                    self._save(checkpoint, identity)
                    saved = time.perf_counter()
        if not self._is_complete(steps):
            raise OutOfTime(f"out of time at step {self.steps_done:,} of {steps:,}: run it again, it goes on")
        final = self._judged_on_all()
        self.seconds = time.perf_counter() - began
        return Run(self.curves, final, self.seconds, self.track.measured if self.track else {})

    def _is_complete(self, steps: int) -> bool:
        return self.over or self.steps_done >= steps

    def _look_at_start(self) -> None:
        judging.probe(self.model, self.loss, *self.data.train)
        self._evaluate()
        self._measure()

    def _advance(self, steps: int, evaluate_every: int, until: Callable | None) -> None:
        """A step, and what is looked at after it."""
        self.step()
        if self.steps_done % evaluate_every == 0 or self.steps_done == steps:
            point = self._evaluate()
            self.over = until is not None and bool(until(point))
        self._measure()

    def _show(self, bar: tqdm) -> None:
        loss, accuracy = (self.curves[name][-1] for name in ("train_loss", "test_accuracy"))
        bar.set_postfix(loss=f"{loss:.4f}", test=f"{accuracy:.4f}", refresh=False)
        bar.update()

    def _bar(self, steps: int, name: str, show: bool | None) -> tqdm:
        hidden = None if show is None else not show
        return tqdm(total=steps, initial=self.steps_done, desc=name or self.law.name, unit="step", disable=hidden)

    # --- a step -------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One step: draw W, pass the samples that it weighs, add the noise that is additive, let the optimiser and the
        schedule step.
        """
        inputs, targets, weights = draw(self.law, self.generator, *self.data.train, dense=self.dense)
        sums = self.sums

        def gradient() -> torch.Tensor:
            nonlocal sums
            self.optimizer.zero_grad(set_to_none=True)
            parts = []
            passing = self.passes(self.model, self.loss, inputs, targets, weights, self.chunk, self.ghost)
            for weighted, total in passing:
                sums += torch.stack((weighted, total / len(weights)))
                parts.append(weighted)
            sums = torch.zeros_like(sums)  # an optimiser that asks again is not logged again
            if self.steps_done % self.check_every == 0:
                self._check()
            if self.additive is not None:
                self.additive(self.model, self.generator)
            return sum(parts)

        self.optimizer.step(gradient)
        if self.schedule is not None and not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        self.steps_done += 1

    def _check(self, *others: torch.Tensor) -> None:
        """Raise Diverged unless the logged losses, and other tensors of the device, are finite; waits for it once."""
        if not torch.stack([torch.isfinite(found).all() for found in (self.sums, *others)]).all():
            raise self._diverged()

    def _diverged(self) -> Diverged:
        rates = ", ".join(f"{rate:g}" for rate in sorted({float(group["lr"]) for group in self.optimizer.param_groups}))
        return Diverged(
            f"the loss is not finite at step {self.steps_done} under {self.law.name}, learning rate {rates}: "
            f"lower the rate or the noise"
        )

    # --- judging ------------------------------------------------------------------------------------------------------

    def _judge(self, name: str, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        loss, accuracy = judging.judge(self.model, self.loss, inputs, targets, self.judged_at_once)
        return {f"{name}_loss": loss, f"{name}_accuracy": accuracy}

    def _judged_on_all(self) -> dict[str, float]:
        judged = self._judge("train", *self.data.train) | self._judge("test", *self.data.test)
        return {"steps": self.steps_done, **judged, "tested": len(self.data.test[0])}

    def _judged_on_the_way(self) -> dict[str, float]:
        watched = (part[: self.data.watched] for part in self.data.test)
        return self._judge("train", *self.data.train) | self._judge("test", *watched)

    def _evaluate(self, judged: dict[str, float] | None = None) -> dict[str, float]:
        """One more point of the curves; the two logged losses are means over the steps since the last point. judged:
        its losses and accuracies, where they are known.
        """
        self._check()
        since = self.steps_done - (self.curves["step"][-1] if self.curves["step"] else 0)
        weighted, clean = (self.sums / since).tolist() if since else (None, None)
        point = {"step": self.steps_done, "step_loss": clean, "weighted_loss": weighted}
        point |= self._judged_on_the_way() if judged is None else judged
        if not math.isfinite(point["train_loss"] + point["test_loss"]):
            raise self._diverged()
        for key in CURVES:
            self.curves[key].append(point[key])
        self.sums.zero_()
        if since and isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(point["train_loss"])
        return point

    def _measure(self) -> None:
        if self.track is not None:
            self.track(self.model, self.steps_done)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, object]:
        """What a run is made of, by name."""
        names = ("generator", "model", "optimizer", "schedule", "additive", "loss", "law", "data")
        return {name: getattr(self, name) for name in names} | {"measure": self.track and self.track.measure}

    def _save(self, checkpoint: Path | str, identity: dict) -> None:
        self._check(*self.model.parameters())
        parts = self._parts()
        state = {name: getattr(self, name) for name in ("steps_done", "seconds", "over", "curves", "sums")}
        state |= {"identity": identity, "measured": self.track.measured if self.track else {}}
        state |= {"parts": {name: part.state_dict() for name, part in parts.items() if hasattr(part, "state_dict")}}
        state |= {"generators": generators.states(generators.hanging_on(**parts))}
        checkpoints.save(checkpoint, state)

    def _resume(self, checkpoint: Path | str, identity: dict, steps: int) -> bool:
        """Take up the state in a checkpoint; whether there is one."""
        state = checkpoints.load(checkpoint, keys=_STATE)
        if state is None:
            return False
        if changed := differences(state["identity"], identity):
            raise TrainingError(f"checkpoint {checkpoint} is of another run ({changed}): delete it to start this one")
        if state["steps_done"] > steps:
            raise TrainingError(
                f"checkpoint {checkpoint} has done {state['steps_done']} steps, more than steps = {steps}: ask for "
                f"more steps, or delete it"
            )
        try:
            self._take_up(state)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise TrainingError(
                f"checkpoint {checkpoint} does not fit this run ({said}): build it as it was, or delete the checkpoint"
            ) from error
        return True

    def _take_up(self, state: dict) -> None:
        parts = self._parts()
        stateful = {name: part for name, part in parts.items() if hasattr(part, "state_dict")}
        if changed := sorted(stateful.keys() ^ state["parts"].keys()):
            raise Refused(f"it holds {'no' if changed[0] in stateful else 'a'} {changed[0]}")
        for name, part in stateful.items():
            kept = state["parts"][name]
            if name not in ("model", "optimizer"):  # these two move what they load, each tensor where it belongs
                kept = tree_map_only(torch.Tensor, lambda one: one.to(self.device), kept)
            part.load_state_dict(kept)
        generators.restore(generators.hanging_on(**parts), state["generators"])
        if self.track is not None:
            self.track.measured = state["measured"]
        self.steps_done, self.seconds, self.over = state["steps_done"], state["seconds"], state["over"]
        self.curves, self.sums = state["curves"], state["sums"].to(self.device)
