"""Presets: every run of the book's experiments by name, scale, method and seed.

A preset is named after what it reproduces. Its `Setting` holds every knob; a scale is a setting, and `Preset.changes`
says in which knobs a scale departs from the preset's ``paper`` scale. `run` makes one run and its record. A seed fixes
initialisation and training subset for all methods of a setting, so that two methods of one seed are a pair; the noise
of each method has a stream of its own (`support.experiments.seeding`). Where a setting has an `Escape`, all methods of
a seed leave from one point that gradient descent has found: `start` finds it once and keeps it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from support import additive, files
from support.errors import Refused
from support.experiments import checkpoints, data, models, records
from support.experiments.escape import Escape, Measurement, additive_noise
from support.experiments.seeding import stream
from support.experiments.training import Data, Run, Trainer, cross_entropy, differences
from support.sampling import Law, MiniBatch, by_name


class PresetError(Refused):
    """A preset, scale, method or device that does not exist; the message names what does."""


@dataclass(frozen=True)
class Setting:
    """Every knob of a run but its method and seed. Defaults: Wu et al. (2020, C.1) as their code has it.

    protocol: which images are trained on (`support.experiments.data.split`, as are draw_from, pixels and corrupted).
    replace: how SGD draws its batches, and so which covariance is meant.  init_std: every parameter starts from N(0,
    init_std²), cut at two standard deviations if ``truncated``.  watched: test images judged every ``evaluate_every``
    steps.  chunk: samples of one forward and backward pass; it changes speed, memory, and the result by rounding alone.
    escape: for methods that leave from a point which GD has found; None starts from the initialisation.
    """

    dataset: str = "fashion_mnist"
    protocol: str = "code"
    pixels: str = "raw"
    n: int = 1000
    b: int = 50
    replace: bool = False
    model: str = "LeNet"
    init_std: float = 0.02
    optimizer: str = "SGD"
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    steps: int = 10_000
    evaluate_every: int = 200
    watched: int = 10_000
    chunk: int = 200
    draw_from: str = "test"
    corrupted: tuple[int, int] | None = None
    truncated: bool = False
    escape: Escape | None = None


@dataclass(frozen=True)
class Preset:
    """What a preset reproduces, with which methods (names of `support.sampling` and `support.additive`), and
    its settings by scale.

    note: what a reader must know.
    """

    name: str
    reproduces: str
    methods: tuple[str, ...]
    scales: dict[str, Setting] = field(repr=False)
    note: str = ""

    def setting(self, scale: str) -> Setting:
        """The setting of a scale. Raises PresetError for a scale that the preset does not have."""
        if scale not in self.scales:
            raise PresetError(f"preset {self.name} has no scale {scale!r}: choose one of {', '.join(self.scales)}")
        return self.scales[scale]

    def method(self, name: str) -> str:
        """A method as the preset spells it, whatever the case. Raises PresetError for one that it does not have."""
        known = {method.lower(): method for method in self.methods}
        if name.strip().lower() not in known:
            raise PresetError(f"preset {self.name} has no method {name!r}: choose among {', '.join(self.methods)}")
        return known[name.strip().lower()]

    def changes(self, scale: str) -> dict[str, tuple]:
        """The knobs in which a scale departs from the scale "paper", as {knob: (here, there)}; a knob of the escape is
        called ``escape.knob``.
        """
        here, there = _knobs(self.setting(scale)), _knobs(self.setting("paper"))
        return {knob: (here[knob], there[knob]) for knob in here if here[knob] != there[knob]}


def _knobs(setting: Setting) -> dict:
    knobs = asdict(setting)
    escape = knobs.pop("escape") or {}
    return knobs | {f"escape.{knob}": value for knob, value in escape.items()}


_CODE = Setting()
_BOOK = Setting(dataset="digits", pixels="unit", model="DigitsNet", init_std=0.1, lr=0.1, steps=4000, watched=797)
_METHODS = ("GD", "SGD", "MSGD-Cov", "MSGD-Fisher", "MSGD-Bernoulli", "MSGD-[Fisher-10]", "MSGD-[Cov-10]")


def _scales(**knobs) -> dict[str, Setting]:
    book = {**knobs, "pixels": "unit"}
    return {
        "smoke": replace(_BOOK, **book | {"n": 200, "steps": 40, "evaluate_every": 20, "watched": 200, "chunk": 100}),
        "book": replace(_BOOK, **book),
        "paper": replace(_CODE, **knobs),
    }


_ZHU = Setting(
    protocol="paper", pixels="centred", n=1200, b=20, replace=True, lr=0.07, steps=6000, evaluate_every=100, draw_from="train", corrupted=(1000, 1200),
    truncated=True, escape=Escape(),
)  # fmt: skip
_ZHU_METHODS = ("GD", "SGD", *additive.NAMES)


def _escapes(small: dict, **knobs) -> dict[str, Setting]:
    """The scales of an escape; ``knobs`` are those of its paper scale, ``small`` those of its digits beyond a book's."""
    paper = replace(_ZHU, **knobs)
    digits = {
        "dataset": "digits",
        "model": "DigitsNet",
        "init_std": 0.1,
        "evaluate_every": 50,
        "watched": 1000,
        "lr": 0.35,
        **small,
    }
    brief = replace(
        paper.escape, start_lr=0.5, start_steps=2000, start_limit=6000, measure_at=(0, 20, 100, 500, 1500), spectrum=60
    )
    book = replace(paper, **digits | {"steps": 1500, "escape": brief})
    tiny = replace(
        brief,
        start_steps=40,
        start_limit=60,
        k=3,
        every=10,
        measure_at=(0, 15, 30),
        eigenpairs=3,
        probes=4,
        sharpness_draws=10,
        spectrum=5,
    )
    return {"smoke": replace(book, steps=30, evaluate_every=15, watched=200, escape=tiny), "book": book, "paper": paper}


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("wu.fig1a", "Wu et al. (2020), Figures 1(a) and 3(a), as their code has it", _METHODS, _scales()),
        Preset(
            "wu.fig1a.pixels01",
            "Wu et al. (2020), Figure 1(a), with pixels in [0, 1], 1,000 images drawn by seed and batches with "
            "replacement, as the paper states",
            ("GD", "SGD"),
            _scales(protocol="paper", pixels="unit", replace=True),
        ),
        Preset(
            "wu.fig1a.released",
            "Wu et al. (2020), Figure 1(a), at the defaults of the released code: Bernoulli noise of b = 20 beside "
            "SGD of b = 50",
            ("MSGD-Bernoulli",),
            _scales(b=20),
            note="Its noise of standard deviation 0 makes MSGD-Fisher, MSGD-Cov and both sparse methods GD, bit for "
            "bit; GD and SGD are those of wu.fig1a.",
        ),
        Preset(
            "zhu.fig3",
            "Zhu et al. (2019), Figures 3 and 5: noises that leave the minimum GD has found, FashionMNIST with 1,000 "
            "right and 200 random labels",
            _ZHU_METHODS,
            _escapes({"n": 600, "corrupted": (500, 600)}),
            note="Beyond the paper: GD goes on after its 3,000 steps until it fits every label, as the paper says it "
            "does; images are drawn by seed; the first "
            "eigenvector is taken anew every 10 steps, 20 of them every 50, and the noise scaled to the trace of C "
            "every 10.",
        ),
        Preset(
            "zhu.fig3.released",
            "Zhu et al. (2019), Figure 3, as the released code has it: 6,000 images of which 200 have random labels, "
            "its noises and their schedules",
            _ZHU_METHODS,
            _escapes(
                {"n": 600, "corrupted": (500, 600)},
                protocol="code",
                n=6000,
                replace=False,
                escape=Escape(start_limit=3000, every=10, first_every=1),
            ),
            note="C is estimated from one shuffled partition into batches; GLD-leading adds noise at every 10th step "
            "only, and does not scale it.",
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises PresetError for an unknown one."""
    if name not in PRESETS:
        raise PresetError(f"there is no preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def law(setting: Setting, method: str) -> Law:
    """The law of the sampling vector under a method's name, at the setting's n, b and way of drawing batches; GD's
    where the noise is additive.
    """
    return by_name("GD" if method in additive.NAMES else method, setting.n, setting.b, replace=setting.replace)


def config(chosen: Preset, scale: str, method: str, seed: int) -> dict:
    """What fixes a run's numbers, as it stands in the record."""
    setting = chosen.setting(scale)
    noise = law(setting, method)
    own = {
        "preset": chosen.name,
        "scale": scale,
        "method": method,
        "law": type(noise).__name__,
        "B": getattr(noise, "B", None),
        "seed": seed,
    }
    return own | _as_json(setting)


def _as_json(setting: Setting) -> dict:
    """The knobs as a record has them: JSON knows no tuples."""
    return json.loads(json.dumps(asdict(setting)))


def check_device(device: str) -> None:
    """Refuse a device that is not there. Raises PresetError."""
    if device not in ("cpu", "cuda"):
        raise PresetError(f"device = {device!r} is unknown: choose cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise PresetError(
            "device = 'cuda' was asked for, but torch sees no CUDA device: choose cpu, or install a torch built for "
            "CUDA"
        )


def trainer(setting: Setting, method: str, seed: int, device: str = "cpu", *, start: dict | None = None) -> Trainer:
    """The trainer of one run, before its first step. start: state of the model where an escape begins. Raises DataError
    if the data is missing.
    """
    images = data.load(setting.dataset)
    chosen = {"draw_from": setting.draw_from, "corrupted": setting.corrupted, "pixels": setting.pixels}
    parts = data.split(images, setting.n, protocol=setting.protocol, seed=seed, **chosen)
    generator = torch.Generator().manual_seed(stream(seed, "initialisation"))
    model = models.normal_init(
        getattr(models, setting.model)(), setting.init_std, generator, truncated=setting.truncated
    )
    if start is not None:
        model.load_state_dict(start)
    flat = setting.model == "DigitsNet"
    train, test = (
        (inputs.reshape(len(inputs), -1) if flat else inputs, labels) for inputs, labels in (parts.train, parts.test)
    )
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = getattr(torch.optim, setting.optimizer)(
        model.parameters(), setting.lr, momentum=setting.momentum, weight_decay=setting.weight_decay
    )
    drawn = Data.on(device, train, test, setting.watched)
    options: dict = {}
    if escape := setting.escape:
        sgd = MiniBatch(setting.n, setting.b, replace=setting.replace)
        options["additive"] = additive_noise(method, escape, drawn.train, sgd, setting.protocol, cross_entropy)
        options |= {
            "measure": Measurement(escape, drawn.train, sgd, cross_entropy, seed),
            "measure_at": escape.measure_at,
        }
    own = torch.Generator().manual_seed(stream(seed, "noise", method))
    return Trainer(model, optimizer, law(setting, method), drawn, generator=own, chunk=setting.chunk, **options)


def start(
    chosen: Preset,
    scale: str,
    seed: int,
    *,
    folder: Path | None = None,
    work: Path | None = None,
    device: str = "cpu",
    **options,
) -> dict:
    """State of the model where all methods of an escape begin: GD from the initialisation until it fits every label, by
    the rule of `Escape`.

    It is found once: kept in ``work``, with a record of its own in ``folder`` (curves, and the largest eigenvalues of
    H); a second process waits for it. options: as for `run`.
    """
    setting = chosen.setting(scale)
    escape = setting.escape
    alone = replace(setting, lr=escape.start_lr, steps=escape.start_limit, escape=None)
    what = config(chosen, scale, "GD", seed) | _as_json(replace(alone, escape=escape)) | {"method": "start"}
    if work is None:
        return _start(alone, escape, seed, device, {"identity": what, **options})[1]
    name = records.run_name(chosen.name, scale, "start", seed)
    kept, record_path = work / f"{name}.pt", folder / f"{name}.json" if folder else None
    with files.lock(work / f"{name}.lock", wait=True):
        if (found := checkpoints.load(kept)) is None or (record_path and not is_done(record_path, what)):
            on_its_way = work / f"{name}-running.pt"
            done, state, spectrum = _start(
                alone, escape, seed, device, {"identity": what, "checkpoint": on_its_way, **options}
            )
            if record_path:
                measured = {"eigenvalues": [_short(x) for x in spectrum]}
                records.save(
                    record_path,
                    config=what,
                    curves=_shortened(done.curves),
                    final=done.final,
                    measured=measured,
                    wall_s=done.wall_s,
                    device=device,
                )
            found = {"identity": what, "model": state}
            checkpoints.save(kept, found)
            on_its_way.unlink(missing_ok=True)
    if changed := differences(found["identity"], what):
        raise records.RecordError(
            f"start {kept} is of another configuration ({changed}): move it away to find this one"
        )
    return found["model"]


def _start(setting: Setting, escape: Escape, seed: int, device: str, options: dict) -> tuple[Run, dict, list[float]]:
    gd = trainer(setting, "GD", seed, device)

    def fitted(point: dict) -> bool:
        return point["step"] >= escape.start_steps and point["train_accuracy"] == 1

    every = min(50, setting.evaluate_every)
    done = gd.run(setting.steps, evaluate_every=every, until=fitted, name=f"start seed {seed}", **options)
    seen = Measurement(
        escape, gd.data.train, MiniBatch(setting.n, setting.b, replace=setting.replace), cross_entropy, seed
    )
    return done, {name: tensor.cpu() for name, tensor in gd.model.state_dict().items()}, seen.spectrum(gd.model)


def run(
    chosen: Preset,
    scale: str,
    method: str,
    seed: int,
    *,
    device: str = "cpu",
    folder: Path | None = None,
    work: Path | None = None,
    **options,
) -> Run:
    """One run of a preset; options: ``checkpoint``, ``save_every_s`` and ``show`` of `Trainer.run`. Raises what
    `data.load`, `Trainer` and it raise.

    folder, work: where the start of an escape is recorded and kept (None: it is found anew).
    """
    check_device(device)
    setting = chosen.setting(scale)
    with torch.random.fork_rng():
        torch.manual_seed(stream(seed, "model", method))
        begin = None
        if setting.escape:
            own = {name: value for name, value in options.items() if name != "checkpoint"}
            begin = start(chosen, scale, seed, folder=folder, work=work, device=device, **own)
        return trainer(setting, method, seed, device, start=begin).run(
            setting.steps,
            evaluate_every=setting.evaluate_every,
            name=f"{chosen.name} {scale} {method} seed {seed}",
            identity=config(chosen, scale, method, seed),
            **options,
        )


def record(chosen: Preset, scale: str, method: str, seed: int, folder: Path, work: Path, **options) -> Path:
    """One run, its checkpoint in ``work`` until it is done, its record in ``folder``; a record that exists is left as
    it is. Returns the record's path.

    Raises CheckpointError if another process is at this run, RecordError if a record of another configuration stands in
    its place, and what `run` raises.
    """
    name = records.run_name(chosen.name, scale, method, seed)
    path, checkpoint = folder / f"{name}.json", work / f"{name}.pt"
    what = config(chosen, scale, method, seed)
    with files.lock(work / f"{name}.lock"):
        if not is_done(path, what):
            done = run(chosen, scale, method, seed, checkpoint=checkpoint, folder=folder, work=work, **options)
            made = {"curves": _shortened(done.curves), "measured": _shortened(done.measured), "final": done.final}
            records.save(path, config=what, **made, wall_s=done.wall_s, device=options.get("device", "cpu"))
        checkpoint.unlink(missing_ok=True)
    return path


def is_done(path: Path, what: dict) -> bool:
    """Whether a record stands at ``path``; a knob that is younger than the record has its default there.

    Raises RecordError if the record is of another configuration than ``what``.
    """
    if not path.is_file():
        return False
    there = _as_json(Setting()) | records.read(path)["config"]
    if there["escape"]:
        there["escape"] = _as_json(Setting(escape=Escape()))["escape"] | there["escape"]
    if changed := differences(there, what):
        raise records.RecordError(
            f"record {path} is of another configuration ({changed}): move it away to run this one"
        )
    return True


def _shortened(curves: dict[str, list]) -> dict[str, list]:
    return {key: [_short(x) for x in values] for key, values in curves.items()}


def _short(x):
    if isinstance(x, list):
        return [_short(one) for one in x]
    return float(f"{x:.6g}") if isinstance(x, float) else x
