"""How far plans are, as the command says it and as programs read it."""

import json

from support.__main__ import main
from support.experiments import failures, plans, records, status
from support.experiments.runs import RunSpec

PLAN = """
question = "Is it so?"
claims = ["wu.fig1a"]
date = 2026-11-26
preset = "wu.fig1a"
scale = "smoke"
methods = ["SGD", "GD"]
seeds = [1, 2]
baseline = "GD"
level = 0.05
correction = "None."
power = "Enough."

[[outcomes]]
name = "test_accuracy"
unit = "points"
test = "Student."
"""


def made(folder, method, seed, started, hours, device="cpu"):
    spec = RunSpec("wu.fig1a", "smoke", method, seed)
    final = {"test_accuracy": 0.5}
    records.save(spec.path(folder), config=spec.config, final=final, wall_s=3600 * hours, started=started)
    return spec


def test_the_progress_of_a_plan(tmp_path, monkeypatch, capsys):
    """Two of four records, in two folders, and a run that has failed once; then a damaged record."""
    monkeypatch.chdir(tmp_path)
    for folder in ("notebooks/plans", "notebooks/records"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "notebooks" / "plans" / "small.toml").write_text(PLAN, encoding="utf-8")
    folder, work = tmp_path / "notebooks" / "records", tmp_path / "work"
    made(folder, "SGD", 1, "2026-11-26T10:00:00+00:00", 0.5)
    late = made(work / "records", "GD", 1, "2026-11-27T09:00:00+00:00", 1.5)
    failures.note(work / f"{RunSpec('wu.fig1a', 'smoke', 'GD', 2).name}.failed", ValueError("the loss is not finite"))
    (plan,) = plans.read_all()
    found = status.Progress.of(plan, [folder, work / "records"], work)
    assert (found.made, found.missing, found.begun, found.failed) == (2, 2, 0, 1)
    assert (found.first, found.last, found.hours, found.latest) == ("2026-11-26", "2026-11-27", 2.0, late.name)
    assert main(["experiments", "status", "--work", "work"]) == 0
    shown = capsys.readouterr().out
    assert "small  2 of 4, 1 failed  smoke  CPU     2026-11-26 to 2026-11-27  2.0 h  wu.fig1a/smoke/gd-seed1" in shown
    assert main(["experiments", "status", "--work", "work", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["plans"][0]["latest"] == late.name and told["plans"][0]["devices"] == ["CPU"]
    assert told["runs"] == [
        {"preset": "wu.fig1a", "scale": "smoke", "method": "SGD", "done": [1], "damaged": [], "under_way": []}
    ]
    late.path(work / "records").write_text("{", encoding="utf-8")
    assert status.Progress.of(plan, [folder, work / "records"], work).missing == 3


def test_a_tree_without_records_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["experiments", "status"]) == 0
    assert capsys.readouterr().out == "no record in notebooks/records, no run on its way in _build/experiments\n"


def test_methods_that_are_alike_share_a_line():
    alike = [status.State("p", "paper", f"m{k}", [1, 2, 3], [], []) for k in range(13)]
    other = status.State("p", "paper", "x", [1], [1], ["seed 2, stopped"])
    assert status.lines([], [*alike, other]) == [
        "p paper",
        "  13 methods, m0 to m12: 3 records (seeds 1..3)",
        "  x: 1 record (seed 1); seed 1 cannot be read: delete it and run it again; seed 2, stopped",
    ]
