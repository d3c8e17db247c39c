"""Records: what they hold, what is refused, how pages read them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from support import page, recorded
from support.experiments import records, runs
from support.experiments.presets import PRESETS
from support.experiments.records import RecordError
from support.experiments.runs import RunSpec
from support.experiments.training import CURVES

ROOT = Path(__file__).parents[2]
WU = PRESETS["wu.fig1a"]
SGD, SPARSE = RunSpec("wu.fig1a", "smoke", "SGD", 1), RunSpec("wu.fig1a", "smoke", "MSGD-[Fisher-10]", 2)


@pytest.fixture(autouse=True)
def one_thread_and_the_digits(monkeypatch):
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- records


def test_a_record_holds_what_was_run(tmp_path):
    path = runs.record(SPARSE, tmp_path, tmp_path / "work", show=False)
    assert path == tmp_path / "wu.fig1a" / "smoke" / "msgd-sparse-fisher-10-seed2.json"
    found = records.read(path)
    assert found["config"] == SPARSE.config
    assert found["config"]["B"] == 10 and found["config"]["law"] == "SparseFisher" and found["config"]["seed"] == 2
    assert found["curves"]["step"] == [0, 20, 40] and found["final"]["tested"] == 797
    assert found["started"][:2] == "20" and found["started"].endswith("+00:00") and "plan" not in found
    assert set(found["provenance"]) == {"commit", "device", "threads", "versions", "wall_s"}
    assert path.stat().st_size < 20_000
    written = path.stat().st_mtime_ns
    runs.record(SPARSE, tmp_path, tmp_path / "work", show=False)
    assert path.stat().st_mtime_ns == written


def test_a_long_record_stays_small(tmp_path):
    points = WU.setting("paper").steps // WU.setting("paper").evaluate_every + 1
    curves = {name: [float(f"{x:.6g}") for x in np.random.default_rng(0).random(points)] for name in CURVES}
    path = records.save(
        tmp_path / "r.json", config=RunSpec("wu.fig1a", "paper", "SGD", 1).config, curves=curves, final={}, wall_s=1
    )
    assert path.stat().st_size < 20_000


def test_every_method_has_a_name_of_its_own():
    methods = (
        "MSGD-Fisher",
        "MSGD-[Fisher-10]",
        "[MSGD-Fisher]-10",
        "MSGD-Cov",
        "MSGD-[Cov-10]",
        "[MSGD-Cov]-10",
        "MSGD-[Fisher-100]",
    )
    names = [records.run_name("p", "book", method, 1) for method in methods]
    assert len(set(names)) == len(methods) and all("[" not in name for name in names)
    assert names[2] == "p/book/msgd-compensated-fisher-10-seed1"


def test_a_record_of_another_configuration_is_not_taken_for_this_one(tmp_path, monkeypatch):
    path = runs.record(SGD, tmp_path, tmp_path / "work", show=False)
    other = replace(WU, scales=WU.scales | {"smoke": replace(SGD.setting, lr=0.2)})
    with monkeypatch.context() as patch:
        patch.setitem(PRESETS, "wu.fig1a", other)
        with pytest.raises(
            RecordError, match=r"sgd-seed1.json is of another configuration \(lr = 0.1, now 0.2\): move it away"
        ):
            SGD.is_done(tmp_path)
    older = json.loads(path.read_text(encoding="utf-8"))
    for younger in ("momentum", "additive", "additive_every"):
        del older["config"][younger]
    for later in ("schema", "checksum", "started"):
        del older[later]
    path.write_text(json.dumps(older), encoding="utf-8")
    assert SGD.is_done(tmp_path), "a knob that came later has its default in an older record"
    older["config"]["momentum"] = 0.9
    path.write_text(json.dumps(older), encoding="utf-8")
    with pytest.raises(RecordError, match=r"momentum = 0.9, now 0.0"):
        SGD.is_done(tmp_path)
    escape = RunSpec("zhu.fig3", "paper", "SGD", 1)
    del (older := json.loads(json.dumps(escape.config)))["escape"]["spectrum"]
    escape.path(tmp_path).parent.mkdir(parents=True)
    content = {"config": older, "curves": {}, "final": {}, "provenance": {}}
    escape.path(tmp_path).write_text(json.dumps(content), encoding="utf-8")
    assert escape.is_done(tmp_path), "and so has a knob of the escape"


def test_a_changed_digit_anywhere_in_what_was_found_is_refused(tmp_path):
    text = runs.record(SGD, tmp_path, tmp_path / "work", show=False).read_text(encoding="utf-8")
    end = text.index('"provenance"')
    places = [k for k in range(text.index('"config"'), end) if text[k].isdigit()]
    assert len(places) > 100
    for k in places[:: max(1, len(places) // 60)]:
        changed = text[:k] + str((int(text[k]) + 1) % 10) + text[k + 1 :]
        if json.loads(changed) == json.loads(text):  # a seventeenth digit that no number has
            continue
        with pytest.raises(RecordError):
            records.parse(changed, "r.json")
    assert records.parse(text, "r.json")["schema"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("null", "lacks config"),
        ("3", "lacks config"),
        ('{"config": null, "curves": {}, "final": {}, "provenance": {}}', "lacks config"),
        ('{"config": {}, "curves": "x", "final": {}, "provenance": {}}', "lacks curves"),
        ('{"config": {}, "curves": {"step": "x"}, "final": {}, "provenance": {}}', "a curve that is no list"),
        ('{"config": {}, "config": {}, "curves": {}, "final": {}, "provenance": {}}', "a key stands there twice"),
        ('{"schema": 9, "config": {}, "curves": {}, "final": {}, "provenance": {}}', "of schema 9"),
        ('{"schema": 2, "config": {}, "curves": {}, "final": {}, "provenance": {}}', "not what was written"),
        ("[" * 100_000, "is no JSON"),
        ("{", "is no JSON"),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RecordError, match=message) as refused:
        records.read(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_pipe_and_a_folder_are_no_records(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path):
        with pytest.raises(RecordError, match="is no file"):
            records.read(path)
    with pytest.raises(RecordError, match="is missing"):
        records.read(tmp_path / "none.json")


def test_records_of_before_have_a_checksum_and_no_plan():
    """Their content is what it was: the checksum was added, and nothing else."""
    older = [records.read(path) for path in (ROOT / "notebooks" / "records").glob("*/*/*.json")]
    first = [record for record in older if "schema" not in record]
    assert len(first) == 51 and all("checksum" in record and "plan" not in record for record in first)
    assert recorded.exploratory({"one": first[0]})


def test_a_record_says_which_additive_noise_it_had():
    assert RunSpec("zhu.fig3", "smoke", "GLD-diag", 1).config["additive"] == "GLD-diag"
    assert SGD.config["additive"] is None


def test_load_all_gives_records_by_name_and_notes_their_folder(tmp_path, monkeypatch):
    (tmp_path / "part").mkdir()
    monkeypatch.chdir(tmp_path / "part")
    monkeypatch.setattr(page, "_used", {"claims": set(), "records": set()})
    for seed in (1, 2):
        runs.record(replace(SGD, seed=seed), tmp_path / "records", tmp_path / "work", show=False)
    found = recorded.load_all("wu.fig1a/smoke/sgd-*")
    assert (
        list(found) == ["wu.fig1a/smoke/sgd-seed1", "wu.fig1a/smoke/sgd-seed2"]
        and found["wu.fig1a/smoke/sgd-seed2"]["config"]["seed"] == 2
    )
    assert page.dependencies()["records"] == ["wu.fig1a/smoke"]
    with pytest.raises(RecordError, match=r"no record matches wu.fig1b"):
        recorded.load_all("wu.fig1b/*")
