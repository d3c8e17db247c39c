"""Recorded runs on a page: those of a plan, and those that explore."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support import page, recorded
from support.errors import Refused, WrongType
from support.experiments import plans, records, runs
from support.experiments.records import RecordError

PLAN = """
question = "Is it so?"
claims = ["wu.fig1a"]
date = 2026-11-26
preset = "wu.fig1a"
scale = "smoke"
methods = ["SGD"]
seeds = [1, 2]
baseline = "SGD"
level = 0.05
correction = "None."
power = "Enough."
outcomes = [{name = "test_accuracy", unit = "points", test = "Student.", margin = 1.0, reason = "It counts."}]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A page's folder with a plan beside it."""
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    for name in ("part", "plans", "records"):
        (tmp_path / name).mkdir()
    (tmp_path / "plans" / "small.toml").write_text(PLAN, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "part")
    monkeypatch.setattr(page, "_used", {"claims": set(), "records": set()})
    return tmp_path


def test_a_plan_as_far_as_its_records_are_there(folder):
    plan = plans.read(folder / "plans" / "small.toml")
    found = recorded.planned("small")
    assert not found.runs and not found.complete and found.line.endswith("0 of 2 seeds, 1 methods, no device yet")
    for seed in (1, 2):
        spec = runs.RunSpec("wu.fig1a", "smoke", "SGD", seed)
        runs.record(spec, folder / "records", folder / "work", plan=plan, show=False)
        found = recorded.planned("small")
        assert found.seeds == list(range(1, seed + 1)) and found.complete == (seed == 2)
    assert found.runs["SGD", 2]["config"]["seed"] == 2 and "2 of 2 seeds, 1 methods, CPU, 20" in found.line
    assert page.dependencies()["records"] == ["plans/small", "wu.fig1a/smoke"]
    assert not recorded.exploratory({"one": found.runs["SGD", 1]})


def test_a_record_of_another_digest_or_of_none_is_refused(folder):
    plan = plans.read(folder / "plans" / "small.toml")
    spec = runs.RunSpec("wu.fig1a", "smoke", "SGD", 1)
    runs.record(spec, folder / "records", folder / "work", plan=replace(plan, level=0.1), show=False)
    with pytest.raises(RecordError, match="belongs to plan small as it read then, not to small: move it away"):
        recorded.planned("small")
    record = json.loads(spec.path(folder / "records").read_text(encoding="utf-8"))
    del record["plan"]
    spec.path(folder / "records").write_text(json.dumps(record), encoding="utf-8")
    assert records.read(spec.path(folder / "records")), "the checksum is of what was found"
    with pytest.raises(RecordError, match="belongs to no plan: it explores"):
        recorded.planned("small")


def record(folder, method, seed, accuracy, loss=(2.0, 1.0), plan=None):
    """A record as a run would have written it."""
    curves = {"step": [0, 10], "train_loss": list(loss), "step_loss": [None, 0.5]}
    spec = runs.RunSpec("wu.fig1a", "smoke", method, seed)
    records.save(
        spec.path(folder / "records"), config=spec.config, curves=curves, final={"test_accuracy": accuracy},
        wall_s=1.0, started="2026-11-26T10:00:00+00:00", plan=plan,
        measured={"step": [10], "sharpness": [seed / 2]},
    )  # fmt: skip


def test_runs_without_a_plan_as_arrays(folder):
    for seed in (3, 1):
        for method in ("SGD", "GD"):
            record(folder, method, seed, accuracy=seed / 10 + (method == "SGD"), loss=(seed, seed / 4))
    record(folder, "SGD", 2, accuracy=0.9)  # GD's is missing: the seed is not complete
    record(folder, "SGD", 9, accuracy=0.0, plan={"name": "small", "digest": "0"})  # belongs to a plan
    found = recorded.Runs("wu.fig1a/smoke/*")
    assert found.methods == ("GD", "SGD") and found.seeds == [1, 3] and found.plan is None
    np.testing.assert_array_equal(found.x(), [0, 10])
    np.testing.assert_array_equal(found.curve("GD", "train_loss"), [[1, 0.25], [3, 0.75]])
    np.testing.assert_array_equal(found.curve("GD", "step_loss"), [[np.nan, 0.5]] * 2)
    np.testing.assert_array_equal(found.curve("SGD", "sharpness", "measured"), [[0.5], [1.5]])
    np.testing.assert_allclose(found.final("SGD"), [1.1, 1.3])
    np.testing.assert_allclose(found.difference("SGD", "GD"), [1, 1])
    assert found.line == ("wu.fig1a/smoke/*, without a plan (exploratory): 2 of 3 seeds, 2 methods, CPU, 2026-11-26")
    assert recorded.Runs("wu.fig1a/smoke/*", ["SGD"]).seeds == [1, 2, 3]
    assert recorded.provenance(found).data.startswith('<p class="provenance"><strong>wu.fig1a/smoke/*, without')
    for ask, said in (
        (lambda: found.final("MSGD-Cov"), "has no run of 'MSGD-Cov' with seed 1: it has GD, SGD"),
        (lambda: found.curve("SGD", "loss"), "SGD has no 'loss' under 'curves': it has step, step_loss, train_loss"),
        (lambda: found.curve("SGD", "step", "middle"), "under 'middle'"),
        (lambda: found.difference("SGD"), "has no plan with a baseline: name the other method"),
    ):
        with pytest.raises(Refused, match=said):
            ask()


def test_runs_of_unequal_length_are_read_one_by_one(folder):
    record(folder, "SGD", 1, 0.5)
    record(folder, "SGD", 2, 0.5, loss=(1.0, 2.0, 3.0))
    with pytest.raises(Refused, match=r"train_loss of SGD has \[2, 3\] points"):
        recorded.Runs("wu.fig1a/smoke/*").curve("SGD", "train_loss")


def test_runs_of_a_plan_are_paired_with_its_baseline_wherever_it_is(folder):
    plan = plans.read(folder / "plans" / "small.toml")
    mark = {"name": "small", "digest": plan.digest}
    for seed in (1, 2):
        record(folder, "SGD", seed, accuracy=seed / 10, plan=mark)
    found = recorded.planned("small")
    assert isinstance(found, recorded.Runs) and found.methods == ("SGD",)
    np.testing.assert_allclose(found.difference("SGD"), [0, 0])
    other = recorded.Planned(replace(plan, methods=("GD",)), {("GD", s): found.runs["SGD", 3 - s] for s in (1, 2)})
    np.testing.assert_allclose(other.difference("GD", of=found), [0.1, -0.1])
    with pytest.raises(Refused, match="plan small has no run of 'SGD' with seed 1"):
        other.difference("GD")
    with pytest.raises(Refused, match="no seed of plan small has all of GD: make the missing records"):
        recorded.Planned(other.plan, {}).final("GD")
    with pytest.raises(RecordError, match="belong to plan small: read them with recorded"):
        recorded.Runs("wu.fig1a/smoke/*")
    with pytest.raises(WrongType, match="give recorded"):
        recorded.provenance("small")


@pytest.mark.parametrize("name", ["wu.fig1a.drawn", "wu.fig1a.drawn.sparse", "zhu.fig3.repeated"])
def test_a_run_is_handed_out_under_its_own_method_and_seed_as_it_is(name, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent / "notebooks" / "experiments")
    found = recorded.planned(name)
    assert found.complete
    for (method, seed), run in found.runs.items():
        assert (run["config"]["method"], run["config"]["seed"]) == (method, seed)
        spec = runs.RunSpec(found.plan.preset, found.plan.scale, method, seed)
        text = spec.path(Path("../records")).read_text(encoding="utf-8")
        assert json.loads(text)["final"] == run["final"]
