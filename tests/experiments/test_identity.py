"""What a run is stays what it was: every committed record is recognised as done, and every preset starts as it did.

``first_points.json`` holds the curves of each preset and method at scale "smoke", seed 1, as they were when the first
records were made; the records of scale "paper" hold the first points of the long runs.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from support.experiments import data, presets, records, runs
from support.experiments.runs import RunSpec

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "notebooks" / "records").glob("*/*/*.json"))
FIRST = json.loads((Path(__file__).parent / "first_points.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same_digits(here, there):
    """Equal up to one unit in the sixth digit, in which another processor's kernels may round otherwise."""
    if here == there or None in (here, there):
        return here == there
    return abs(here - there) <= 1.01 * 10.0 ** (math.floor(math.log10(max(abs(there), 1e-12))) - 5)


def test_the_records_of_before_are_all_there():
    assert len(RECORDS) >= 51


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.relative_to(ROOT / "notebooks" / "records").as_posix())
def test_a_committed_record_is_recognised_as_done(path):
    found = records.read(path)["config"]
    spec = RunSpec(found["preset"], found["scale"], found["method"], found["seed"])
    assert path == spec.path(ROOT / "notebooks" / "records") and spec.is_done(ROOT / "notebooks" / "records")


@pytest.mark.parametrize("name", FIRST)
def test_a_preset_starts_as_it_did(name, monkeypatch):
    """Smoke scale, seed 1: the curves of loss and accuracy, in the six digits of a record."""
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    preset, _, method = name.partition("/")
    run = runs.run(RunSpec(preset, "smoke", method, 1), show=False)
    for key, there in FIRST[name].items():
        assert len(run.curves[key]) == len(there)
        assert all(map(same_digits, run.curves[key], there)), (key, run.curves[key], there)


@pytest.mark.parametrize(("preset", "steps"), [("wu.fig1a", 0), ("wu.fig1a.pixels01", 200)])
def test_a_long_run_starts_as_its_record_says(preset, steps):
    """SGD, seed 1, at the paper's scale, against the record: images and initialisation, and where pixels are in [0, 1]
    200 steps too. At raw pixels training is chaotic: another processor's rounding shows in the second digit by then.
    """
    try:
        data.load("fashion_mnist")
    except data.DataError as error:
        pytest.skip(f"needs FashionMNIST in SUPPORT_DATA: {error}")
    setting = presets.preset(preset).setting("paper")
    trainer = runs.trainer(setting, "SGD", 1)
    trainer.run(max(steps, 1), evaluate_every=setting.evaluate_every, show=False)
    there = records.read(ROOT / "notebooks" / "records" / preset / "paper" / "sgd-seed1.json")["curves"]
    points = there["step"].index(steps) + 1
    for key, values in trainer.curves.items():
        assert all(map(same_digits, values[:points], there[key][:points])), (key, values, there[key][:points])
