"""Runs: the trainer of a `RunSpec`, and its record.

A seed fixes initialisation and training subset for all methods of a setting, so that two methods of one seed are a
pair; the noise of each method has a stream of its own (`support.experiments.seeding`). Where a setting has an `Escape`,
all methods of a seed leave from one point that gradient descent has found: `start` finds it once and keeps it.

>>> small = RunSpec("wu.fig1a", "smoke", "SGD", 1)
>>> run(small, show=False).final["steps"]
40
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch.optim.lr_scheduler import MultiStepLR

from support import files
from support.experiments import checkpoints, data, distributed, models, optimizers, records, regularised, variants
from support.experiments.captured import Captured
from support.experiments.escape import Escape, Measurement, additive_noise
from support.experiments.inputs import Augment, Pixels
from support.experiments.judging import LOSSES
from support.experiments.memory import Fitting
from support.experiments.plans import Plan
from support.experiments.presets import PresetError, Setting
from support.experiments.seeding import stream
from support.experiments.spec import START, RunSpec, law
from support.experiments.spread import Spread
from support.experiments.training import Data, Run, Trainer, differences
from support.msgd import backward_in_chunks
from support.sampling import Bernoulli, MiniBatch

_AT_ONCE = 2000  # samples of a pass on a device, whatever the setting's chunk: its memory is not a processor's cache


def check_device(device: str, there: bool = True) -> None:
    """Refuse a device that does not exist, or, unless it need not be ``there``, that this machine lacks. Raises
    PresetError.
    """
    if device not in ("cpu", "cuda"):
        raise PresetError(f"device = {device!r} is unknown: choose cpu or cuda")
    if there and device == "cuda" and not torch.cuda.is_available():
        raise PresetError(
            "device = 'cuda' was asked for, but torch sees no CUDA device: choose cpu, or install a torch built for "
            "CUDA"
        )


def trainer(
    setting: Setting,
    method: str,
    seed: int,
    device: str = "cpu",
    *,
    start: dict | None = None,
    drawn: Data | None = None,
) -> Trainer:
    """The trainer of one run, before its first step. start: state of the model where an escape begins.  drawn: its
    images, where they are at hand.

    On a device a pass takes all samples that fit, and sums are in full float32. Raises DataError if the data is
    missing.
    """
    setting = variants.setting(setting, method)
    escape, loss = setting.escape, LOSSES[setting.loss]
    if device != "cpu":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        ghosts = _AT_ONCE // (setting.ghost or 1) * (setting.ghost or 1)  # whole ones
        setting = replace(setting, chunk=max(setting.chunk, ghosts))
        escape = escape and replace(escape, chunk=max(escape.chunk, _AT_ONCE))
    drawn = _data(setting, seed, device) if drawn is None else drawn
    model = _model(setting, drawn.train[0].shape[1:], seed, device, start)
    knobs = {"momentum": setting.momentum, "weight_decay": setting.weight_decay}
    optimizer = optimizers.by_name(setting.optimizer, model.parameters(), setting.lr, **knobs)
    sgd, looks = MiniBatch(setting.n, setting.b, replace=setting.replace), escape
    if escape is None:
        looks = Escape(every=setting.additive_every, first_every=setting.additive_every)
    options = {"additive": additive_noise(method, looks, drawn.train, sgd, setting.protocol, loss)}
    if escape:
        measurement = Measurement(escape, drawn.train, sgd, loss, seed)
        options |= {"measure": measurement, "measure_at": escape.measure_at}
    if local := setting.complexity:
        options["additive"] = regularised.penalty(method, local, drawn.train, setting.b, loss)
        options |= {
            "measure": regularised.Look(local, drawn.train, loss, seed),
            "measure_at": local.measure_at,
        }
    if setting.spread:
        spread = Spread(loss)
        options |= {"measure": spread, "measure_at": (setting.steps,)}
        loss = spread.loss
    own = torch.Generator().manual_seed(stream(seed, "noise", variants.base(method)))
    options |= {"generator": own, "loss": loss, "chunk": setting.chunk}
    passes = backward_in_chunks
    if device != "cpu":
        # a loss that watches itself is run, not replayed
        passes = Fitting(backward_in_chunks if setting.spread else Captured())
    options["passes"] = distributed.shared(passes)
    if setting.milestones:
        options |= {"schedule": MultiStepLR(optimizer, list(setting.milestones), 0.1)}
    drawing = law(setting, method)
    # a coin for each sample leaves a number that no ghost divides
    options |= {"dense": setting.ghost is not None and isinstance(drawing, Bernoulli)}
    return Trainer(model, optimizer, drawing, drawn, **options)


def images(setting: Setting) -> data.Images:
    """The data set of a setting. Raises DataError where it is missing."""
    return data.load(setting.dataset, half=setting.halved)


def _data(setting: Setting, seed: int, device: str) -> Data:
    chosen = {"draw_from": setting.draw_from, "corrupted": setting.corrupted, "pixels": setting.pixels}
    chosen |= {"as_bytes": True} if setting.as_bytes else {}
    parts = data.split(images(setting), setting.n, protocol=setting.protocol, seed=seed, **chosen)
    return Data.on(device, parts.train, parts.test, setting.watched)


def _model(setting: Setting, shape: tuple[int, ...], seed: int, device: str, start: dict | None) -> torch.nn.Module:
    """The network at its start, for images of a shape; behind what scales bytes, where images are bytes."""
    generator = torch.Generator().manual_seed(stream(seed, "initialisation"))
    classes = images(setting).classes
    pixels = math.prod((3, *shape[1:]) if setting.as_bytes else shape)
    network = models.by_name(setting.model, pixels=pixels, width=setting.width, ghost=setting.ghost, classes=classes)
    if setting.init == "fan_in":
        models.fan_in_init(network, generator)
    elif setting.init == "he":
        models.he_init(network, generator)
    else:
        models.normal_init(network, setting.init_std, generator, truncated=setting.truncated)
    model = _behind_inputs(setting, network, seed) if setting.as_bytes else network
    if start is not None:
        model.load_state_dict(start)
    return model.to(device, memory_format=torch.channels_last)


def _behind_inputs(setting: Setting, network: torch.nn.Module, seed: int) -> torch.nn.Module:
    scale, shift = data.scaling(setting.pixels, data.load(setting.dataset).brightest)
    parts = OrderedDict(pixels=Pixels(scale, shift, colour=True), network=network)
    if setting.augment:
        own = torch.Generator().manual_seed(stream(seed, "augmentation"))
        parts = OrderedDict(augment=Augment(own, protocol=setting.protocol), **parts)
    return torch.nn.Sequential(parts)


# --- one run ----------------------------------------------------------------------------------------------------------


def run(spec: RunSpec, *, device: str = "cpu", folder: Path | None = None, work: Path | None = None, **options) -> Run:
    """One run; options: ``checkpoint``, ``save_every_s``, ``deadline`` and ``show`` of `Trainer.run`.

    folder, work: where the start of an escape is recorded and kept (None: it is found anew).
    Raises what `data.load`, `Trainer` and it raise.
    """
    check_device(device)
    with torch.random.fork_rng():
        torch.manual_seed(stream(spec.seed, "model", spec.method))
        begin = None
        if spec.start:
            own = {name: value for name, value in options.items() if name != "checkpoint"}
            begin = start(spec.start, folder=folder, work=work, device=device, **own)
        setting = spec.setting
        return trainer(setting, spec.method, spec.seed, device, start=begin).run(
            setting.steps,
            evaluate_every=setting.evaluate_every,
            name=spec.title,
            identity=spec.config,
            **options,
        )


def start(
    spec: RunSpec, *, folder: Path | None = None, work: Path | None = None, device: str = "cpu", **options
) -> dict:
    """State of the model where all methods of an escape begin: GD from the initialisation until it fits every label, by
    the rule of `Escape`. spec: its method is "start".

    It is found once: kept in ``work``, with a record of its own in ``folder`` (curves, and the largest eigenvalues of
    H); a second process waits for it. options: as for `run`, and ``plan``.
    """
    plan = options.pop("plan", None)
    if work is None:
        return _found_by_descent(spec, device, {"identity": spec.config, **options})[1]
    kept = work / f"{spec.name}.pt"
    with files.lock(work / f"{spec.name}.lock", wait=True):
        found = checkpoints.load(kept, keys=("identity", "model"))
        if found is None or (folder and not spec.is_done(folder)):
            on_its_way, begun = work / f"{spec.name}-running.pt", _begun(work / f"{spec.name}.begun")
            own = {"identity": spec.config, "checkpoint": on_its_way, **options}
            done, state, spectrum = _found_by_descent(spec, device, own)
            if folder:
                done.measured = {"eigenvalues": spectrum}
                _save(spec, done, folder, device=device, plan=plan, started=begun)
            found = {"identity": spec.config, "model": state}
            checkpoints.save(kept, found)
            on_its_way.unlink(missing_ok=True)
            (work / f"{spec.name}.begun").unlink(missing_ok=True)
    there = Setting().knobs | found["identity"]
    there.setdefault("additive", None)
    if changed := differences(there, spec.config):
        raise records.RecordError(
            f"start {kept} is of another configuration ({changed}): move it away to find this one"
        )
    return found["model"]


def _found_by_descent(spec: RunSpec, device: str, options: dict) -> tuple[Run, dict, list[float]]:
    escape = spec.setting.escape
    alone = replace(spec.setting, lr=escape.start_lr, steps=escape.start_limit, escape=None)
    gd = trainer(alone, "GD", spec.seed, device)

    def fitted(point: dict) -> bool:
        return point["step"] >= escape.start_steps and point["train_accuracy"] == 1

    every = min(50, spec.setting.evaluate_every)
    done = gd.run(escape.start_limit, evaluate_every=every, until=fitted, name=f"start seed {spec.seed}", **options)
    sgd = MiniBatch(spec.setting.n, spec.setting.b, replace=spec.setting.replace)
    seen = Measurement(escape, gd.data.train, sgd, LOSSES[alone.loss], spec.seed)
    return done, {name: tensor.cpu() for name, tensor in gd.model.state_dict().items()}, seen.spectrum(gd.model)


# --- its record -------------------------------------------------------------------------------------------------------


def record(spec: RunSpec, folder: Path, work: Path, *, plan: Plan | None = None, **options) -> Path:
    """Make a run's record ``folder/<name>.json`` unless it is there; checkpoints and the lock stand in ``work``.

    plan: the plan that the run belongs to; its name and digest stand in the record. options: as for `run`.
    Raises LockError if another process makes this record, and what `run` raises; a checkpoint is then kept.
    """
    if spec.method == START:  # it has a lock of its own, for which all that leave from it wait
        start(spec, folder=folder, work=work, plan=plan, **options)
        return spec.path(folder)
    checkpoint, begun = work / f"{spec.name}.pt", work / f"{spec.name}.begun"
    with files.lock(work / f"{spec.name}.lock"):
        if not spec.is_done(folder):
            if spec.start:
                start(spec.start, folder=folder, work=work, plan=plan, **options)
            since = _begun(begun)
            done = run(spec, checkpoint=checkpoint, folder=folder, work=work, **options)
            _save(spec, done, folder, device=options.get("device", "cpu"), plan=plan, started=since)
        checkpoint.unlink(missing_ok=True)
        begun.unlink(missing_ok=True)
    if spec.start:
        _clear_start(spec, folder, work, plan)
    return spec.path(folder)


def _clear_start(spec: RunSpec, folder: Path, work: Path, plan: Plan | None) -> None:
    """Remove the state that all methods of a seed leave from, once the last of them has its record."""
    methods = plan.methods if plan else spec.chosen.methods
    with contextlib.suppress(records.RecordError):
        if all(replace(spec, method=method).is_done(folder) for method in methods):
            (work / f"{spec.start.name}.pt").unlink(missing_ok=True)


def _begun(path: Path) -> str:
    """When a run began, over all its parts: a text in UTC, kept beside its checkpoint."""
    if not path.is_file():
        files.write_whole(path, datetime.now(UTC).isoformat(timespec="seconds"))
    return path.read_text(encoding="utf-8").strip()


def _save(spec: RunSpec, done: Run, folder: Path, *, device: str, plan: Plan | None, started: str) -> None:
    records.save(
        spec.path(folder),
        config=spec.config,
        curves=_shortened(done.curves),
        measured=_shortened(done.measured),
        final=done.final,
        wall_s=done.wall_s,
        device=device,
        plan=plan and {"name": plan.name, "digest": plan.digest},
        started=started,
    )


def _shortened(curves: dict[str, list]) -> dict[str, list]:
    return {key: [_short(x) for x in values] for key, values in curves.items()}


def _short(x):
    if isinstance(x, list):
        return [_short(one) for one in x]
    return float(f"{x:.6g}") if isinstance(x, float) else x
