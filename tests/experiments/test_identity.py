"""What a run is stays what it was: every committed record is recognised as done, and every preset starts as it did.

``first_points.json`` holds the curves of each preset and method at scale "smoke", seed 1, as they were when the first
records were made; the records of scale "paper" hold the first points of the long runs.
"""

import json
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
    """Equal up to one unit in the sixth digit, which another processor's kernels may turn."""
    return here == there or (None not in (here, there) and here == pytest.approx(there, rel=2e-5, abs=1e-9))


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


@pytest.mark.parametrize("preset", ["wu.fig1a", "wu.fig1a.pixels01"])
def test_a_long_run_starts_as_its_record_says(preset):
    """SGD, seed 1, at the paper's scale: initialisation, images, batches and 200 steps, against the record."""
    try:
        data.load("fashion_mnist")
    except data.DataError as error:
        pytest.skip(f"needs FashionMNIST in SUPPORT_DATA: {error}")
    setting = presets.preset(preset).setting("paper")
    trainer = runs.trainer(setting, "SGD", 1)
    trainer.run(setting.evaluate_every, evaluate_every=setting.evaluate_every, show=False)
    there = records.read(ROOT / "notebooks" / "records" / preset / "paper" / "sgd-seed1.json")["curves"]
    for key, values in trainer.curves.items():
        assert all(map(same_digits, values, there[key][:2])), (key, values, there[key][:2])
