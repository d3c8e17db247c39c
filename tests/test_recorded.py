"""Recorded runs on a page: those of a plan, and those that explore."""

import json
from dataclasses import replace

import pytest

from support import page, recorded
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
    assert found.runs["SGD", 2]["config"]["seed"] == 2 and found.line.endswith("2 of 2 seeds, 1 methods, CPU")
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
