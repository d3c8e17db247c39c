r"""The trainer of every experiment: ``θ ← θ − η (∇𝓛(θ) W + extra)`` for any law of W, any torch optimiser and schedule.

Full-batch, large-batch and mini-batch methods differ in the law alone: samples of weight zero are not evaluated, the
others pass in chunks that fit the processor's cache. Two losses are logged apart: the noise-weighted ``Σ W_i ℓ_i`` that
was differentiated, and the mean of the ℓ_i behind it. Every method is judged on the same fixed images, in evaluation
mode, at the same steps.

A run writes checkpoints; killed and started again, it goes on from the last one, and on a CPU with the same number of
threads ends with the numbers of an unbroken run, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from support.errors import Refused
from support.experiments import checkpoints
from support.msgd import PerSampleLoss, backward_in_chunks, draw
from support.sampling import Law

Additive = Callable[[torch.nn.Module, torch.Generator], None]
Measure = Callable[[torch.nn.Module, int], dict[str, float]]

CURVES = ("step", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "step_loss", "weighted_loss")
_JUDGED_AT_ONCE = 500


class TrainingError(Refused):
    """A run that cannot start, go on or be resumed; the message names the value and the remedy."""


class OutOfTime(TrainingError):
    """A run that met its deadline; its checkpoint is written, and the same command goes on from there."""


class Diverged(TrainingError):
    """A loss that is not finite; the message has the step, the law and the learning rate."""


def differences(there: dict, here: dict) -> str:
    """In what two configurations differ, for a message; empty if in nothing."""
    return ", ".join(
        f"{key} = {there.get(key)!r}, now {here.get(key)!r}"
        for key in sorted(there | here)
        if there.get(key) != here.get(key)
    )


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of each sample: logits (m, classes), labels (m,), losses (m,)."""
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


@dataclass(frozen=True)
class Data:
    """Inputs and labels on one device. watched: how many test images, the first ones, are judged during the run; all of
    them are at its end.
    """

    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    watched: int

    @classmethod
    def on(cls, device: str, train, test, watched: int) -> Data:
        """Arrays or tensors (inputs, labels), images with their channels last in memory, which is what convolutions are
        fast with.
        """

        def move(part):
            inputs, labels = (torch.as_tensor(array, device=device) for array in part)
            return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs, labels

        return cls(move(train), move(test), min(watched, len(test[0])))


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

        trainer = Trainer(model, optimizer, by_name("MSGD-Cov", n=1000, b=50), data,
        generator=torch.Generator().manual_seed(1))
        run = trainer.run(steps=10_000, checkpoint=Path("run.pt"))

    law: a law with ``law.n`` equal to the number of training samples.  generator: torch generator on the CPU, which
    draws W, so that a device sees the noise that the CPU sees.  loss: per-sample losses of a classifier, whose outputs
    are (m, classes).  chunk: samples of one forward and backward pass. schedule: a torch learning-rate schedule of the
    optimiser, stepped after each step.  additive: called with the model and the generator after the backward pass; adds
    noise to the parameters' ``.grad``; if it has ``state_dict`` and ``load_state_dict``, checkpoints hold its state.
    measure: called with the model and the number of steps done when these are in ``measure_at`` (0: before the first);
    must leave the model, and the trainer's generator, as they are.
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
        schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
        additive: Additive | None = None,
        measure: Measure | None = None,
        measure_at: Collection[int] = (),
    ):
        if law.n != len(data.train[0]):
            raise TrainingError(
                f"the law is for n = {law.n} samples, the training set has {len(data.train[0])}: give the law the "
                f"number of samples"
            )
        if chunk < 1:
            raise TrainingError(f"chunk = {chunk} samples cannot be evaluated: give chunk ≥ 1")
        if not len(data.test[0]):
            raise TrainingError("the test set is empty: every method is judged on it, so give some samples")
        if data.train[1].ndim != 1 or data.train[1].is_floating_point():
            shape, kind = tuple(data.train[1].shape), data.train[1].dtype
            raise TrainingError(
                f"the targets are of shape {shape} and type {kind}: the trainer judges classifiers, so give whole "
                f"numbers of shape (n,)"
            )
        self.model, self.optimizer, self.law, self.data = model, optimizer, law, data
        self.generator, self.loss, self.chunk, self.schedule, self.additive = generator, loss, chunk, schedule, additive
        self.measure, self.measure_at = measure, frozenset(measure_at)
        self.device = data.train[0].device
        # a check of the loss waits for a device, so there it is made once in a while; the sums it looks at stay
        # non-finite once they are
        self.check_every = 1 if self.device.type == "cpu" else 50
        self.steps_done = 0
        self.seconds = 0.0
        self.curves: dict[str, list] = {name: [] for name in CURVES}
        self.measured: dict[str, list] = {}
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)

    def run(
        self,
        steps: int,
        *,
        evaluate_every: int = 200,
        checkpoint: Path | None = None,
        save_every_s: float = 30.0,
        name: str = "",
        show: bool | None = None,
        identity: dict | None = None,
        until: Callable[[dict[str, float]], bool] | None = None,
        deadline: float | None = None,
    ) -> Run:
        """Train until ``steps`` steps are done, going on from ``checkpoint`` if it exists, and judge the result on all
        images.

        save_every_s: seconds between checkpoints (0: after every step).  name, show: progress bar's title; None shows
        it on a terminal only. identity: what the run is, stored in the checkpoint; a checkpoint of another run is
        refused.
        until: looks at each new point of the curves, as {name: value}; the run is over when it says so.
        deadline: when to stop on the way, in seconds of `time.time`; a checkpoint is then written, and OutOfTime
        raised.
        Raises Diverged for a loss that is not finite, and CheckpointError; the last checkpoint is then kept.
        """
        if steps < 1 or evaluate_every < 1:
            raise TrainingError(f"steps = {steps} and evaluate_every = {evaluate_every} make no run: give at least 1")
        self._resume(checkpoint, identity or {}, steps)
        started = time.perf_counter() - self.seconds
        if not self.curves["step"]:
            self._evaluate()
            self._measure()
        saved = time.perf_counter()
        with tqdm(
            total=steps,
            initial=self.steps_done,
            desc=name or self.law.name,
            unit="step",
            disable=None if show is None else not show,
        ) as bar:
            over = False
            while self.steps_done < steps and not over:
                self.step()
                bar.update()
                if self.steps_done % evaluate_every == 0 or self.steps_done == steps:
                    self._evaluate()
                    bar.set_postfix(
                        loss=f"{self.curves['train_loss'][-1]:.4f}", test=f"{self.curves['test_accuracy'][-1]:.4f}"
                    )
                    over = until is not None and until({name: values[-1] for name, values in self.curves.items()})
                self._measure()
                late = deadline is not None and time.time() > deadline and self.steps_done < steps and not over
                if checkpoint and (late or time.perf_counter() - saved >= save_every_s):
                    self.seconds = time.perf_counter() - started
                    self._check(*self.model.parameters())
                    checkpoints.save(checkpoint, self._state(identity or {}))
                    saved = time.perf_counter()
                if late:
                    raise OutOfTime(f"out of time at step {self.steps_done:,} of {steps:,}: run it again, it goes on")
        final = {
            "steps": self.steps_done,
            **self._judge("train", *self.data.train),
            **self._judge("test", *self.data.test),
            "tested": len(self.data.test[0]),
        }
        self.seconds = time.perf_counter() - started
        return Run(self.curves, final, self.seconds, self.measured)

    # --- a step -------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One step: draw W, pass the samples that it weighs, add the noise that is additive, let the optimiser and the
        schedule step.
        """
        inputs, targets, weights = draw(self.law, self.generator, *self.data.train)
        self.optimizer.zero_grad(set_to_none=True)
        for weighted, total in backward_in_chunks(self.model, self.loss, inputs, targets, weights, self.chunk):
            self.sums += torch.stack((weighted, total / len(inputs)))
        if self.steps_done % self.check_every == 0:
            self._check()
        if self.additive is not None:
            self.additive(self.model, self.generator)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        self.steps_done += 1

    def _check(self, *others: torch.Tensor) -> None:
        """Raise Diverged unless the logged losses, and the other tensors, are finite."""
        if not all(torch.isfinite(tensor).all() for tensor in (self.sums, *others)):
            rates = ", ".join(
                f"{rate:g}" for rate in sorted({float(group["lr"]) for group in self.optimizer.param_groups})
            )
            raise Diverged(
                f"the loss is not finite at step {self.steps_done} under {self.law.name}, learning rate {rates}: "
                f"lower the rate or the noise"
            )

    # --- judging ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _judge(self, name: str, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Mean loss and accuracy (a fraction) in evaluation mode."""
        training = self.model.training
        self.model.eval()
        total, correct = (
            torch.zeros((), dtype=torch.float64, device=self.device),
            torch.zeros((), dtype=torch.int64, device=self.device),
        )
        for start in range(0, len(inputs), _JUDGED_AT_ONCE):
            part = slice(start, start + _JUDGED_AT_ONCE)
            outputs = self.model(inputs[part])
            total += self.loss(outputs, targets[part]).sum(dtype=torch.float64)
            correct += (outputs.argmax(1) == targets[part]).sum()
        self.model.train(training)
        return {f"{name}_loss": float(total) / len(inputs), f"{name}_accuracy": int(correct) / len(inputs)}

    def _evaluate(self) -> None:
        """One more point of the curves; the two logged losses are means over the steps since the last point."""
        self._check()
        inputs, targets = self.data.test
        since = self.steps_done - (self.curves["step"][-1] if self.curves["step"] else 0)
        weighted, clean = (self.sums / since).tolist() if since else (None, None)
        point = {
            "step": self.steps_done,
            "step_loss": clean,
            "weighted_loss": weighted,
            **self._judge("train", *self.data.train),
        }
        point |= self._judge("test", inputs[: self.data.watched], targets[: self.data.watched])
        self._check(torch.tensor([point["train_loss"], point["test_loss"]]))
        for key in CURVES:
            self.curves[key].append(point[key])
        self.sums.zero_()

    def _measure(self) -> None:
        if self.measure is None or self.steps_done not in self.measure_at:
            return
        for key, value in ({"step": self.steps_done} | self.measure(self.model, self.steps_done)).items():
            self.measured.setdefault(key, []).append(value)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _state(self, identity: dict) -> dict:
        state = {
            "identity": identity,
            "steps_done": self.steps_done,
            "seconds": self.seconds,
            "curves": self.curves,
            "sums": self.sums,
        }
        state |= {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        # torch's own generators too: a model with dropout draws from them
        state |= {
            "torch": torch.get_rng_state(),
            "device": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        state |= {
            "schedule": self.schedule.state_dict() if self.schedule is not None else None,
            "measured": self.measured,
        }
        return state | {"additive": self.additive.state_dict() if hasattr(self.additive, "state_dict") else None}

    def _resume(self, checkpoint: Path | None, identity: dict, steps: int) -> None:
        """Take up the state in a checkpoint, if there is one."""
        state = checkpoints.load(checkpoint, str(self.device)) if checkpoint else None
        if state is None:
            return
        if changed := differences(state["identity"], identity):
            raise TrainingError(f"checkpoint {checkpoint} is of another run ({changed}): delete it to start this one")
        if state["steps_done"] > steps:
            raise TrainingError(
                f"checkpoint {checkpoint} has done {state['steps_done']} steps, more than steps = {steps}: ask for "
                f"more steps, or delete it"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["torch"].cpu())
        if state["device"] is not None:
            torch.cuda.set_rng_state(state["device"].cpu(), self.device)
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        if hasattr(self.additive, "load_state_dict"):
            self.additive.load_state_dict(state["additive"])
        self.steps_done, self.curves, self.sums = state["steps_done"], state["curves"], state["sums"].to(self.device)
        self.measured, self.seconds = state.get("measured", {}), state["seconds"]
