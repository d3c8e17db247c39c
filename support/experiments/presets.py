"""Presets: every run of the book's experiments by name, scale, method and seed.

A preset is named after what it reproduces. Its `Setting` holds every knob; a scale is a setting, and `Preset.changes` says in which knobs a scale departs
from the preset's ``paper`` scale. `run` makes one run and its record. A seed fixes initialisation and training subset for all methods of a setting, so that
two methods of one seed are a pair; the noise of each method has a stream of its own (`support.experiments.seeding`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from support.experiments import checkpoints, data, models, records
from support.experiments.seeding import stream
from support.experiments.training import Data, Run, Trainer, differences
from support.sampling import Law, by_name


class PresetError(ValueError):
    """A preset, scale, method or device that does not exist; the message names what does."""


@dataclass(frozen=True)
class Setting:
    """Every knob of a run but its method and seed. Defaults: Wu et al. (2020, C.1) as their code has it.

    protocol: which images are trained on (`support.experiments.data.split`).  replace: how SGD draws its batches, and so which covariance is meant.
    init_std: every parameter starts from N(0, init_std²).  pixels: "raw" or "unit".  watched: test images judged every ``evaluate_every`` steps.
    chunk: samples of one forward and backward pass; it changes speed, memory, and the result by rounding alone.
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


@dataclass(frozen=True)
class Preset:
    """What a preset reproduces, with which methods (names of `support.sampling.by_name`), and its settings by scale. note: what a reader must know."""

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
        """The knobs in which a scale departs from the scale "paper", as {knob: (here, there)}."""
        here, there = asdict(self.setting(scale)), asdict(self.setting("paper"))
        return {knob: (here[knob], there[knob]) for knob in here if here[knob] != there[knob]}


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


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("wu.fig1a", "Wu et al. (2020), Figures 1(a) and 3(a), as their code has it", _METHODS, _scales()),
        Preset(
            "wu.fig1a.pixels01",
            "Wu et al. (2020), Figure 1(a), with pixels in [0, 1], 1,000 images drawn by seed and batches with replacement, as the paper states",
            ("GD", "SGD"),
            _scales(protocol="paper", pixels="unit", replace=True),
        ),
        Preset(
            "wu.fig1a.released",
            "Wu et al. (2020), Figure 1(a), at the defaults of the released code: Bernoulli noise of b = 20 beside SGD of b = 50",
            ("MSGD-Bernoulli",),
            _scales(b=20),
            note="Its noise of standard deviation 0 makes MSGD-Fisher, MSGD-Cov and both sparse methods GD, bit for bit; GD and SGD are those of wu.fig1a.",
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises PresetError for an unknown one."""
    if name not in PRESETS:
        raise PresetError(f"there is no preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def law(setting: Setting, method: str) -> Law:
    """The law of the sampling vector under a method's name, at the setting's n, b and way of drawing batches."""
    return by_name(method, setting.n, setting.b, replace=setting.replace)


def config(chosen: Preset, scale: str, method: str, seed: int) -> dict:
    """What fixes a run's numbers, as it stands in the record."""
    setting = chosen.setting(scale)
    noise = law(setting, method)
    own = {"preset": chosen.name, "scale": scale, "method": method, "law": type(noise).__name__, "B": getattr(noise, "B", None), "seed": seed}
    return own | asdict(setting)


def check_device(device: str) -> None:
    """Refuse a device that is not there. Raises PresetError."""
    if device not in ("cpu", "cuda"):
        raise PresetError(f"device = {device!r} is unknown: choose cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise PresetError("device = 'cuda' was asked for, but torch sees no CUDA device: choose cpu, or install a torch built for CUDA")


def trainer(setting: Setting, method: str, seed: int, device: str = "cpu") -> Trainer:
    """The trainer of one run, before its first step. Raises DataError if the data is missing."""
    images = data.load(setting.dataset)
    parts = data.split(images, setting.n, protocol=setting.protocol, seed=seed, pixels=setting.pixels)
    model = models.normal_init(getattr(models, setting.model)(), setting.init_std, torch.Generator().manual_seed(stream(seed, "initialisation")))
    flat = setting.model == "DigitsNet"
    train, test = ((inputs.reshape(len(inputs), -1) if flat else inputs, labels) for inputs, labels in (parts.train, parts.test))
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = getattr(torch.optim, setting.optimizer)(model.parameters(), setting.lr, momentum=setting.momentum, weight_decay=setting.weight_decay)
    noise = torch.Generator().manual_seed(stream(seed, "noise", method))
    return Trainer(model, optimizer, law(setting, method), Data.on(device, train, test, setting.watched), generator=noise, chunk=setting.chunk)


def run(chosen: Preset, scale: str, method: str, seed: int, *, device: str = "cpu", **options) -> Run:
    """One run of a preset; options: ``checkpoint``, ``save_every_s`` and ``show`` of `Trainer.run`. Raises what `data.load`, `Trainer` and it raise."""
    check_device(device)
    setting = chosen.setting(scale)
    with torch.random.fork_rng():
        torch.manual_seed(stream(seed, "model", method))
        return trainer(setting, method, seed, device).run(
            setting.steps,
            evaluate_every=setting.evaluate_every,
            name=f"{chosen.name} {scale} {method} seed {seed}",
            identity=config(chosen, scale, method, seed),
            **options,
        )


def record(chosen: Preset, scale: str, method: str, seed: int, folder: Path, work: Path, **options) -> Path:
    """One run, its checkpoint in ``work`` until it is done, its record in ``folder``; a record that exists is left as it is. Returns the record's path.

    Raises CheckpointError if another process is at this run, RecordError if a record of another configuration stands in its place, and what `run` raises.
    """
    name = records.run_name(chosen.name, scale, method, seed)
    path, checkpoint = folder / f"{name}.json", work / f"{name}.pt"
    what = config(chosen, scale, method, seed)
    with checkpoints.lock(work / f"{name}.lock"):
        if not is_done(path, what):
            done = run(chosen, scale, method, seed, checkpoint=checkpoint, **options)
            curves = {key: [_short(x) for x in values] for key, values in done.curves.items()}
            records.save(path, config=what, curves=curves, final=done.final, wall_s=done.wall_s, device=options.get("device", "cpu"))
        checkpoint.unlink(missing_ok=True)
    return path


def is_done(path: Path, what: dict) -> bool:
    """Whether a record stands at ``path``; a knob that is younger than the record has its default there.

    Raises RecordError if the record is of another configuration than ``what``.
    """
    if not path.is_file():
        return False
    if changed := differences(asdict(Setting()) | records.read(path)["config"], what):
        raise records.RecordError(f"record {path} is of another configuration ({changed}): move it away to run this one")
    return True


def _short(x):
    return float(f"{x:.6g}") if isinstance(x, float) else x
