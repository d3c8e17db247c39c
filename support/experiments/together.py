"""Many runs in one program: their way through the steps, and their records.

What they share is in `support.experiments.bands`; here runs are put together that can share it, judged at the points of
their curves, kept in checkpoints and recorded, each as if it had been alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from tqdm import tqdm

from support import files
from support.errors import Refused, instance, integer, real
from support.experiments import judging, models, runs, signals
from support.experiments.bands import LARGEST, JoinError, Program, check, why_alone
from support.experiments.judging import Data
from support.experiments.plans import Plan
from support.experiments.spec import RunSpec
from support.experiments.training import OutOfTime, Run, Trainer

MOST = 100  # runs of a program
_PIECE = 50  # steps between two looks at the clock
# knobs in which runs of one program may differ; those that are younger than this list must agree
_FREE = (
    *("protocol", "b", "replace", "init_std", "lr", "momentum", "weight_decay", "chunk", "draw_from", "corrupted"),
    *("truncated", "additive_every", "init"),
)


def run(
    trainers: Sequence[Trainer],
    steps: int,
    *,
    evaluate_every: int = 200,
    checkpoints: Sequence[Path] | None = None,
    identities: Sequence[dict] | None = None,
    save_every_s: float = 60.0,
    deadline: float | None = None,
    show: bool | None = None,
    at_once: int | None = None,
    unfold: bool | None = None,
) -> list[Run | Refused]:
    """Train all until each has done ``steps`` steps, as `Trainer.run` trains one; what became of each, in their order.

    checkpoints, identities: of each run, in the form that `Trainer.run` writes and reads: a run that was begun together
    goes on alone, and the other way round.  at_once, unfold: as in `Program`.
    A run that fails (its loss is not finite, its checkpoint is another run's) gives its error in its place, and leaves
    the others as they are; so does OutOfTime at the ``deadline``, with all checkpoints written. The seconds of a run
    are its share of those of all. Raises JoinError for runs that cannot go together, before any work.

    >>> import torch
    >>> from support.sampling import by_name
    >>> images, labels = torch.rand(60, 4), torch.arange(60) % 3
    >>> def trainer(method, seed):
    ...     model, data = torch.nn.Linear(4, 3), Data.on("cpu", (images, labels), (images, labels), watched=60)
    ...     optimizer, generator = torch.optim.SGD(model.parameters(), 0.1), torch.Generator().manual_seed(seed)
    ...     return Trainer(model, optimizer, by_name(method, n=60, b=10), data, generator=generator)
    >>> both = run([trainer("SGD", 1), trainer("MSGD-Cov", 2)], 20, evaluate_every=10, show=False)
    >>> [done.curves["step"] for done in both]
    [[0, 10, 20], [0, 10, 20]]
    """
    trainers = [instance("a trainer", one, Trainer, "give those of support.experiments.training") for one in trainers]
    check(trainers)
    steps, every = integer("steps", steps, 1), integer("evaluate_every", evaluate_every, 1)
    save_every_s = real("save_every_s", save_every_s, 0)
    deadline = math.inf if deadline is None else real("deadline", deadline)
    for number, (name, given) in enumerate((("checkpoints", checkpoints), ("identities", identities))):
        if given is not None and len(given) != len(trainers):
            raise JoinError(
                f"{len(given)} {name} came with {len(trainers)} runs: give {('a path', 'a dict')[number]} each"
            )
    journey = _Journey(trainers, steps, every, checkpoints, identities, save_every_s, deadline)
    return journey.made(show, {"at_once": at_once, "unfold": unfold})


class _Journey:
    """The way of all runs through the steps: what is looked at, kept and lost on it."""

    def __init__(self, trainers, steps, every, checkpoints, identities, save_every_s, deadline):
        count = len(trainers)
        self.trainers, self.steps, self.every, self.keeps = trainers, steps, every, checkpoints is not None
        self.checkpoints = dict(zip(trainers, checkpoints or [None] * count, strict=True))
        self.identities = dict(zip(trainers, identities or [{}] * count, strict=True))
        self.save_every_s, self.deadline = save_every_s, deadline
        self.lost: dict[Trainer, Refused] = {}
        self.stop: list[int] = []

    def made(self, show: bool | None, options: dict) -> list[Run | Refused]:
        """All there is to do."""
        if self.keeps:
            self._each(self.trainers, lambda one: one._resume(self.checkpoints[one], self.identities[one], self.steps))
        final: dict[Trainer, Run] | None = None
        with signals.held() if self.keeps else contextlib.nullcontext([]) as self.stop:
            # those that a killed process left behind catch up first
            levels = sorted({one.steps_done for one in self._left(self.trainers)})
            for level, following in itertools.pairwise([*levels, self.steps]):
                here = [one for one in self._left(self.trainers) if one.steps_done == level]
                if here and not (self._ends and final is not None):
                    program = Program(here, **options)
                    self._go(program, following, show)
                    final = self._finals(program)
        for one in self._left(self.trainers):
            if one not in (final or {}):
                self.lost[one] = OutOfTime(
                    f"out of time at step {one.steps_done:,} of {self.steps:,}: run it again, it goes on"
                )
        return [self.lost.get(one) or final[one] for one in self.trainers]

    @property
    def _ends(self) -> bool:
        return bool(self.stop) or time.time() > self.deadline

    def _left(self, trainers: Iterable[Trainer]) -> list[Trainer]:
        """Those of the runs that have not failed."""
        return [one for one in trainers if one not in self.lost]

    def _each(self, trainers: Iterable[Trainer], does: Callable[[Trainer], object]) -> None:
        """Do something with each run that is left; one that fails is lost, and the others go on."""
        for one in self._left(trainers):
            try:
                does(one)
            except Refused as error:
                self.lost[one] = error

    def _go(self, program: Program, to: int, show: bool | None) -> None:
        """The steps of a program; a call makes some, whatever the time."""
        hidden, count = None if show is None else not show, len(program.trainers)
        self.since = saved = time.perf_counter()
        new = [one for one in program.trainers if not one.curves["step"]]
        self._each(new, lambda one: judging.probe(one.model, one.loss, *one.data.train))
        if new:
            self._point(program)
        self._save(program)
        with tqdm(total=to, initial=program.steps_done, desc=f"{count} runs", unit="step", disable=hidden) as bar:
            while program.steps_done < to and self._left(program.trainers):
                done = program.steps_done
                program.advance(min(to - done, self.every - done % self.every, _PIECE))
                if program.steps_done in (self.steps, done - done % self.every + self.every):
                    self._point(program)
                bar.update(program.steps_done - done)
                if self._ends:
                    break
                if time.perf_counter() - saved >= self.save_every_s:
                    self._save(program)
                    saved = time.perf_counter()
        self._save(program)

    def _point(self, program: Program) -> None:
        """One more point of all curves."""
        judged = program.judged()
        program.give()
        self._each(program.trainers, lambda one: one._evaluate(judged[one]))
        program.forget_losses()

    def _save(self, program: Program) -> None:
        """Leave all trainers as if each had stepped alone, with its share of the seconds; write their checkpoints."""
        program.give()
        now = time.perf_counter()
        for one in program.trainers:
            one.seconds += (now - self.since) / len(program.trainers)
        self.since = now
        if self.keeps:
            self._each(program.trainers, lambda one: one._save(self.checkpoints[one], self.identities[one]))

    def _finals(self, program: Program) -> dict[Trainer, Run]:
        """The runs that have done all steps, judged on all images."""
        if program.steps_done < self.steps:
            return {}
        judged, left = program.judged(every=True), self._left(program.trainers)
        share = (time.perf_counter() - self.since) / len(program.trainers)
        tested = {"tested": len(program.trainers[0].data.test[0])}
        return {
            one: Run(one.curves, {"steps": one.steps_done, **judged[one], **tested}, one.seconds + share)
            for one in left
        }


# --- their records ----------------------------------------------------------------------------------------------------


def parted(specs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    """The runs that can go together, in groups of two or more, at most `MOST`, in their order; those that stand alone
    are left out.

    >>> specs = [RunSpec("wu.fig1a", "smoke", method, seed) for seed in (1, 2) for method in ("SGD", "GD")]
    >>> [len(group) for group in parted([*specs, RunSpec("zhu.fig3", "smoke", "SGD", 1)])]
    [4]
    """
    groups: dict[str, list[RunSpec]] = {}
    for spec in specs:
        knobs = {knob: value for knob, value in spec.setting.knobs.items() if knob not in _FREE}
        if not _apart(spec):
            groups.setdefault(json.dumps(knobs), []).append(spec)
    parts = [group[at : at + MOST] for group in groups.values() for at in range(0, len(group), MOST)]
    return [part for part in parts if len(part) > 1]


def _apart(spec: RunSpec) -> str:
    """Why a run must go alone, as far as its name tells; empty if nothing speaks against company."""
    setting = spec.setting
    reasons = {
        "it leaves from a start": setting.escape,
        "it is measured on its way": setting.complexity or setting.spread,
        "it has an additive noise": spec.config["additive"],
        "its rate falls": setting.milestones,
        "its images are augmented": setting.augment,
        "its network has BatchNorm": setting.ghost,
        "its network is large": _parameters(setting.model, setting.width) > LARGEST,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


@lru_cache
def _parameters(model: str, width: int | None) -> int:
    """Parameters of a network for colour images of 32 x 32."""
    with torch.device("meta"):
        return models.count_parameters(models.by_name(model, pixels=3072, width=width))


def record(
    specs: Sequence[RunSpec],
    folder: Path,
    work: Path,
    *,
    planned: Sequence[Plan | None] | None = None,
    device: str = "cpu",
    **options,
) -> list[Path | Refused]:
    """Make the records of runs together, as `support.experiments.runs.record` makes that of one; of each the path, or
    what kept it from being made, in their order.

    planned: the plan of each.  options: ``save_every_s``, ``deadline``, ``show``, ``at_once``, ``unfold`` of `run`. A
    JoinError in a run's place says that it must go alone.
    """
    runs.check_device(device)
    plan_of = dict(zip(specs, planned or [None] * len(specs), strict=True))
    found: dict[RunSpec, Path | Refused] = {}
    trainers: dict[RunSpec, Trainer] = {}
    drawn: dict[tuple, Data] = {}
    with contextlib.ExitStack() as held:
        for spec in specs:
            try:
                held.enter_context(files.lock(work / f"{spec.name}.lock"))
                if spec.is_done(folder):
                    found[spec] = spec.path(folder)
                else:
                    trainers[spec] = _trainer(spec, device, drawn)
            except Refused as error:
                found[spec] = error
        found |= _recorded(trainers, folder, work, plan_of, device, options)
        for spec in specs:
            if isinstance(found[spec], Path):
                (work / f"{spec.name}.pt").unlink(missing_ok=True)
                (work / f"{spec.name}.begun").unlink(missing_ok=True)
    return [found[spec] for spec in specs]


def _trainer(spec: RunSpec, device: str, drawn: dict[tuple, Data]) -> Trainer:
    """The trainer of a run, which shares its images with other methods of its seed. Raises JoinError if it must go
    alone.
    """
    if why := _apart(spec):
        raise JoinError(f"{spec.title} cannot go with others, since {why}: run it alone")
    images = spec.chosen.setting(spec.scale), spec.seed
    if images not in drawn:
        drawn[images] = runs._data(spec.setting, spec.seed, device)
    trainer = runs.trainer(spec.setting, spec.method, spec.seed, device, drawn=drawn[images])
    if why := why_alone(trainer):
        raise JoinError(f"{spec.title} cannot go with others, since {why}: run it alone")
    return trainer


def _recorded(trainers, folder, work, plan_of, device, options) -> dict[RunSpec, Path | Refused]:
    specs = list(trainers)
    if not specs:
        return {}
    setting, begun = specs[0].setting, {spec: runs._begun(work / f"{spec.name}.begun") for spec in specs}
    own = {"evaluate_every": setting.evaluate_every, "checkpoints": [work / f"{spec.name}.pt" for spec in specs]}
    own["identities"] = [spec.config for spec in specs]
    try:
        done = run(list(trainers.values()), setting.steps, **own, **options)
    except JoinError as error:
        return dict.fromkeys(specs, error)
    made: dict[RunSpec, Path | Refused] = dict(zip(specs, done, strict=True))
    for spec, one in made.items():
        if isinstance(one, Run):
            try:
                runs._save(spec, one, folder, device=device, plan=plan_of[spec], started=begun[spec])
                made[spec] = spec.path(folder)
            except Refused as error:  # its checkpoint is kept
                made[spec] = error
    return made
