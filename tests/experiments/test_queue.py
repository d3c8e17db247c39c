"""The queue: the missing runs of every plan, many at once, stopped in time, packed, filed; rehearsed end to end."""

import errno
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from support import files, page, recorded
from support import jobs as queue_jobs
from support.__main__ import main
from support.experiments import checkpoints, failures, plans, presets, queue, records, runs
from support.experiments.queue import QueueError

ROOT = Path(__file__).parents[2]
PLAN = """
question = "Is it so?"
claims = ["wu.fig1a"]
date = 2026-11-26
preset = "{preset}"
scale = "smoke"
methods = [{methods}]
seeds = [{seeds}]
baseline = "SGD"
level = 0.05
correction = "None."
power = "Enough."

[[outcomes]]
name = "test_accuracy"
unit = "points"
test = "Student."

[queue]
order = {order}
cpu_s = 30
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A tree with two small plans: five runs with one seed's escape, and two more."""
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "notebooks" / "plans"
    folder.mkdir(parents=True)
    (tmp_path / "notebooks" / "records").mkdir()
    first = PLAN.format(preset="wu.fig1a", methods='"SGD", "GD"', seeds="1, 2", order=1)
    later = PLAN.format(preset="zhu.fig3", methods='"SGD", "GLD-diag"', seeds="3", order=2)
    (folder / "b.first.toml").write_text(first, encoding="utf-8")
    (folder / "a.later.toml").write_text(later, encoding="utf-8")
    return tmp_path


def test_the_whole_way_from_plans_to_filed_records(tree, capsys):
    """On two processes: what is worth most first, a start before what leaves from it; packed, filed, none left."""
    assert main(["experiments", "queue", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "b.first  4 of 4   smoke  30 s" in said and said.index("b.first") < said.index("a.later")
    assert said.endswith("in all\ndata: digits.npz\n")
    assert main(["experiments", "queue", "--dry-run", "--device", "cuda"]) == 0
    said = capsys.readouterr().out
    assert "2 GiB" in said and (torch.cuda.is_available() or "6 runs, 1 at a time on cuda: about 6 minutes" in said)
    assert main(["experiments", "queue", "--budget", "1h", "-j", "2", "-o", "out", "--work", "work"]) == 0
    lines = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if "test accuracy" in line]
    assert len(lines) == 7 and set(lines[:2]) <= {f"wu.fig1a smoke {m} seed {s}" for m in ("SGD", "GD") for s in (1, 2)}
    assert lines.index("zhu.fig3 smoke start seed 3") < lines.index("zhu.fig3 smoke GLD-diag seed 3")
    with tarfile.open(tree / "out" / "records.tar.gz") as tar:
        assert len([name for name in tar.getnames() if name.startswith("records/")]) == 7
    assert main(["experiments", "import", "out/records.tar.gz", "--work", "work2"]) == 0
    assert "7 filed, 0 refused" in capsys.readouterr().out
    for plan in plans.read_all():
        for spec in plan.runs():
            record = records.read(spec.path(tree / "notebooks" / "records"))
            assert record["plan"] == {"name": plan.name, "digest": plan.digest} and record["started"]
    assert main(["experiments", "queue", "-o", "out3", "--work", "work3"]) == 0
    assert "0 runs" in capsys.readouterr().out
    assert main(["experiments", "import", "out/records.tar.gz", "--work", "work2"]) == 0
    assert "0 filed, 0 refused" in capsys.readouterr().out, "the same record again is no news"


def test_a_run_is_stopped_in_time_packed_and_goes_on_elsewhere(tree, monkeypatch):
    """The deadline falls after 7 of 40 steps; the archive carries the checkpoint; the record is that of an unbroken
    run.
    """
    spec = runs.RunSpec("wu.fig1a", "smoke", "SGD", 1)
    (plan,) = [plan for plan in plans.read_all() if plan.holds(spec)]
    step, clock = runs.Trainer.step, []

    def counted(self):
        clock.append(1)
        return step(self)

    monkeypatch.setattr(runs.Trainer, "step", counted)
    with monkeypatch.context() as patch:
        patch.setattr("support.experiments.training.time.time", lambda: float(len(clock)))
        outcome, line = queue._one(plan, spec, tree / "work", "cpu", 6.5)
    assert outcome == "late" and "out of time at step 7 of 40" in line
    queue.pack(tree / "a.tar.gz", tree / "work" / "records", unfinished=tree / "work")
    filed, refused = queue.file_archive(tree / "a.tar.gz", tree / "notebooks" / "records", tree / "else", [plan])
    assert sorted(filed) == [f"work/wu.fig1a/smoke/sgd-seed1.{end}: goes on" for end in ("begun", "pt")] and not refused
    clock.clear()
    assert queue._one(plan, spec, tree / "else", "cpu", time.time() + 600)[0] == "made"
    assert len(clock) == 33
    resumed = records.read(spec.path(tree / "else" / "records"))
    begun = (tree / "work" / "wu.fig1a" / "smoke" / "sgd-seed1.begun").read_text(encoding="utf-8")
    assert resumed["started"] == begun.strip() and not list((tree / "else").rglob("*.pt"))
    torch.set_num_threads(1)
    whole = runs.run(spec, show=False)
    assert resumed["curves"] == runs._shortened(whole.curves) and resumed["final"] == whole.final


def test_runs_of_one_network_go_together_and_are_filed_as_any_other(tree, capsys):
    own = ["--budget", "1h", "-j", "1", "--work", "work", "--plans", "b.first", "--together"]
    assert main(["experiments", "queue", *own, "-o", "out"]) == 0
    said = capsys.readouterr().out
    assert said.count("test accuracy") == 4 and "4 of 4 records made" in said
    assert main(["experiments", "import", "out/records.tar.gz", "--work", "work2"]) == 0
    assert "4 filed, 0 refused" in capsys.readouterr().out
    plan = next(plan for plan in plans.read_all() if plan.name == "b.first")
    walls = [records.read(spec.path(tree / "notebooks" / "records"))["provenance"]["wall_s"] for spec in plan.runs()]
    assert len(set(walls)) == 1, "their shares of one program's time"


def test_a_group_is_stopped_in_time_and_goes_on_alone(tree, monkeypatch):
    """What must go alone is left to the others; a group that is late leaves its checkpoints to them."""
    plan, later = sorted(plans.read_all(), key=lambda plan: plan.name, reverse=True)
    jobs = [queue.Job(plan, spec) for spec in plan.runs()] + [queue.Job(later, next(iter(later.runs())))]
    with monkeypatch.context() as patch:
        patch.setattr("support.experiments.together._PIECE", 5)
        told = queue._many(jobs, tree / "work", "cpu", 1.0)
    assert [outcome for outcome, _ in told] == ["late"] * 4 + ["alone"]
    assert "out of time at step 5 of 40" in told[0][1] and "it leaves from a start: run it alone" in told[4][1]
    assert queue._one(plan, jobs[0].spec, tree / "work", "cpu", time.time() + 600)[0] == "made"
    assert [outcome for outcome, _ in queue._many(jobs[:4], tree / "work", "cpu", time.time() + 600)] == ["made"] * 4
    assert not list((tree / "work").rglob("*.pt")) and not list((tree / "work").rglob("*.begun"))


def test_a_group_whose_process_is_lost_goes_alone(tree, monkeypatch):
    plan = next(plan for plan in plans.read_all() if plan.name == "b.first")
    jobs, tally = [queue.Job(plan, spec) for spec in plan.runs()], []

    def run_jobs(function, calls, **options):
        for call in calls:
            if function is queue._many:
                yield queue_jobs.Ended(call, error=queue_jobs.Lost("its process ended twice"))
            else:
                yield queue_jobs.Ended(call, result=("made", call[1].title))

    monkeypatch.setattr(queue, "run_jobs", run_jobs)
    own = {"device": "cpu", "budget_s": 60, "output": tree / "out", "work": tree / "work", "workers": 1}
    found = queue.run(jobs, **own, together=True, say=tally.append)
    assert (found.made, found.failed, found.late) == (4, 0, 0)
    assert tally[0] == "alone: wu.fig1a smoke SGD seed 1: its process ended twice"


def children(process):
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False).stdout
    return [int(number) for number in found.split()]


def test_a_run_that_lost_its_process_is_tried_once_more(tree, capsys):
    """SIGKILL of a worker while it runs: all records are made all the same."""
    code = [sys.executable, "-m", "support", "experiments", "queue", "--budget", "1h", "-j", "1", "-o", "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*code, "--work", "work"], env=environment, cwd=tree, stdout=subprocess.PIPE, text=True
    ) as done:
        for line in done.stdout:
            if "test accuracy" in line:
                break
        for below in children(done.pid):
            for worker in children(below):  # forked from the process that has imported what they need
                os.kill(worker, signal.SIGKILL)
        rest = done.stdout.read()
    assert "6 of 6 records made" in rest and done.returncode == 0


def made(tree):
    spec = runs.RunSpec("wu.fig1a", "smoke", "SGD", 1)
    (plan,) = [plan for plan in plans.read_all() if plan.holds(spec)]
    queue._one(plan, spec, tree / "work", "cpu", time.time() + 600)
    return plan, spec, spec.path(tree / "work" / "records").read_bytes()


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_what_an_archive_may_not_bring_is_refused(tree):
    plan, spec, good = made(tree)
    record = json.loads(good)
    other = json.dumps(record | {"config": record["config"] | {"lr": 0.2}})
    hostile = {
        "../evil.json": (good, "no place"),
        "/evil/evil.json": (good, "no place"),
        "elsewhere/x.json": (good, "no place"),
        "records/wu.fig1a/smoke/gd-seed1.json": (good, "of another run"),
        f"records/{spec.name}.json": (good[:-40], "no JSON"),
        "records/x.json": (b"\xff", "no text"),
        "records/y.json": (other.encode(), "not what was written"),
    }
    for name, (content, why) in hostile.items():
        bad = archive(tree / "bad.tar.gz", {name: content})
        filed, refused = queue.file_archive(bad, tree / "notebooks" / "records", tree / "else", [plan])
        assert not filed and why in refused[0] and not (tree / "evil.json").exists()
    assert not list((tree / "notebooks" / "records").rglob("*.json"))
    fine = archive(tree / "good.tar.gz", {f"records/{spec.name}.json": good})
    folder = tree / "notebooks" / "records"
    filed, refused = queue.file_archive(fine, folder, tree / "else", [])
    assert not filed and "plan b.first is not here" in refused[0]
    filed, refused = queue.file_archive(fine, folder, tree / "else", [plan])
    assert len(filed) == 1 and not refused
    changed = record | {"final": record["final"] | {"test_accuracy": 0.5}}
    changed["checksum"] = records.checksum(changed)
    twin = archive(tree / "twin.tar.gz", {f"records/{spec.name}.json": json.dumps(changed).encode()})
    filed, refused = queue.file_archive(twin, folder, tree / "else", [plan])
    assert not filed and "another record stands at" in refused[0]
    lines = records.checksum(record)
    wrong = record | {"config": record["config"] | {"lr": 0.2}}
    wrong["checksum"] = records.checksum(wrong)
    assert wrong["checksum"] != lines
    spec.path(folder).unlink()
    knobs = archive(tree / "knobs.tar.gz", {f"records/{spec.name}.json": json.dumps(wrong).encode()})
    filed, refused = queue.file_archive(knobs, folder, tree / "else", [plan])
    assert not filed and "of another configuration" in refused[0] and not spec.path(folder).exists()


def test_a_missing_or_damaged_archive_is_one_line(tree):
    (tree / "cut.tar.gz").write_bytes(b"\x1f\x8b cut")
    for path, why in ((tree / "none.tar.gz", "there is no archive"), (tree / "cut.tar.gz", "cannot be read")):
        with pytest.raises(QueueError, match=why):
            queue.file_archive(path, tree, tree, [])


def test_a_damaged_record_leaves_its_run_out_and_says_so(tree):
    plan, spec, good = made(tree)
    folder = tree / "notebooks" / "records"
    spec.path(folder).parent.mkdir(parents=True)
    spec.path(folder).write_bytes(good[:-40])
    said = []
    left = queue.missing([plan], [folder], warn=said.append)
    assert [job.spec.name for job in left] == [one.name for one in plan.runs() if one != spec] and len(said) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "9"], "budget '9' is malformed: write a time such as 90s"),
        (["--budget", "0m"], "budget '0m' is malformed"),
        (["--plans", "c"], "no plan 'c': choose among b.first, a.later"),
        (["-j", "0"], "jobs = 0 is too few"),
        (["--device", "tpu"], "device = 'tpu' is unknown"),
        (["-o", ""], "--output is empty"),
        (["--records", "nowhere"], "nowhere is no folder"),
    ],
)
def test_bad_requests_are_refused_before_any_work(tree, capsys, arguments, message):
    assert main(["experiments", "queue", *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1 and not (tree / "_build").exists()


# --- what goes wrong, and costs nothing but itself


@pytest.fixture
def here(monkeypatch):
    """The queue's runs in this process, one after another, so that faults can be put into them."""

    def one_by_one(function, calls, **_):
        for call in calls:
            yield queue_jobs.Ended(call, function(*call))

    monkeypatch.setattr(queue, "run_jobs", one_by_one)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def queued(*arguments):
    return main(["experiments", "queue", "--budget", "1h", "-j", "1", "-o", "out", "--work", "work", *arguments])


def test_a_budget_too_small_for_one_run_is_refused_unless_one_is_half_done(tree, capsys):
    assert queued("--budget", "20s") == 2
    shown = capsys.readouterr()
    wanted = (
        "a budget of 20 s is too small: the shortest run that is missing, wu.fig1a smoke SGD seed 1, takes about 30"
    )
    assert wanted in shown.err and shown.err.count("\n") == 1 and not (tree / "work").exists() and not shown.out
    chosen = queue.missing(plans.read_all(), [])
    checkpoints.save(tree / "work" / "zhu.fig3" / "smoke" / "start-seed3-running.pt", {"steps_done": 3})
    queue.check_budget(chosen, "cpu", 20, tree / "work")
    queue.check_budget(chosen, "cpu", 30, tree / "nowhere")
    queue.check_budget([], "cpu", 1, tree / "nowhere")


def test_a_run_that_fails_is_noted_tried_once_more_and_then_left_out(tree, here, capsys, monkeypatch):
    """A loss that is not finite: one line a call, the others are made, and the third call leaves it out."""
    wild = presets.PRESETS["wu.fig1a"]
    wild = replace(wild, name="wild", scales=wild.scales | {"smoke": replace(wild.setting("smoke"), lr=3e38)})
    monkeypatch.setitem(presets.PRESETS, "wild", wild)
    folder = tree / "notebooks" / "plans"
    (folder / "a.later.toml").unlink()
    (folder / "wild.toml").write_text(PLAN.format(preset="wild", methods='"SGD"', seeds="1", order=0), encoding="utf-8")
    assert queued() == 1
    shown = capsys.readouterr().out
    assert "error: wild smoke SGD seed 1: the loss is not finite at step" in shown and "4 of 5 records made" in shown
    with tarfile.open(tree / "out" / "records.tar.gz") as tar:
        assert "work/wild/smoke/sgd-seed1.failed" in tar.getnames()
    assert queued() == 1
    assert "0 of 1 records made" in capsys.readouterr().out
    assert queued() == 0
    shown = capsys.readouterr()
    assert "left out: wild smoke SGD seed 1 failed 2 times: the loss is not finite" in shown.err
    assert "0 runs" in shown.out
    note = tree / "work" / "wild" / "smoke" / "sgd-seed1.failed"
    assert f"delete {note.relative_to(tree)} to try it again" in shown.err
    note.unlink()
    assert len(queue.missing(plans.read_all(), [tree / "work" / "records"], work=tree / "work")) == 1


def test_a_run_that_is_made_after_all_loses_its_note(tree):
    plan, spec, _ = made(tree)
    spec.path(tree / "work" / "records").unlink()
    note = tree / "work" / f"{spec.name}.failed"
    failures.note(note, RuntimeError("out of memory"))
    assert queue._one(plan, spec, tree / "work", "cpu", time.time() + 600)[0] == "made" and not note.exists()


def test_a_process_that_died_twice_is_noted(tree):
    spec = runs.RunSpec("wu.fig1a", "smoke", "SGD", 1)
    outcome, line = queue._lost(
        spec, tree / "work", queue_jobs.Lost("its process ended twice without a result (SIGKILL)")
    )
    assert outcome == "failed" and "SIGKILL" in line
    assert "SIGKILL" in failures.read(tree / "work" / f"{spec.name}.failed")[0]
    assert queue._lost(spec, tree / "work", queue_jobs.TimeUp("it was stopped"))[0] == "late"


class Full:
    """A disk that takes so many more files, and then no more."""

    def __init__(self, monkeypatch, room):
        self.room, self.write = room, files.write_whole
        monkeypatch.setattr(files, "write_whole", self)

    def __call__(self, path, content):
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= 1
        self.write(path, content)


@pytest.mark.parametrize("room", [0, 1, 2, 3, 4, 5, 6, 9])
def test_a_full_disk_ends_the_queue_in_a_line_and_loses_nothing(tree, here, capsys, monkeypatch, room):
    """Wherever it fills up: records that were made are there and whole, no run is called a failure, and with room again
    the next call makes the rest.
    """
    (tree / "notebooks" / "plans" / "a.later.toml").unlink()
    with monkeypatch.context() as patch:
        full = Full(patch, room)
        code = queued()
    shown = capsys.readouterr()
    assert code == 2 and shown.err.count("\n") == 1 and "No space left on device" in shown.err
    assert shown.out.count("the queue ends here") == 1 and shown.out.count("error: ") == 1
    there = list((tree / "work" / "records").rglob("*.json"))
    assert [bool(records.read(path)) for path in there] == [True] * len(there)
    assert full.room == 0 and not list((tree / "work").rglob("*.failed"))
    assert queued() == 0
    assert f"{4 - len(there)} of {4 - len(there)} records made" in capsys.readouterr().out
    assert len(list((tree / "work" / "records").rglob("*.json"))) == 4


def test_a_group_that_finds_the_disk_full_ends_the_queue(tree, monkeypatch):
    (plan,) = [plan for plan in plans.read_all() if plan.name == "b.first"]
    jobs, said = [queue.Job(plan, spec) for spec in plan.runs()], []

    def run_jobs(function, calls, **_):
        for call in calls:
            assert function is queue._many, "no run is begun on a full disk"
            error = OSError(errno.ENOSPC, "No space left on device")
            yield queue_jobs.Ended(call, [queue._told(job.spec, error, 1.0, tree / "work") for job in call[0]])

    monkeypatch.setattr(queue, "run_jobs", run_jobs)
    own = {"device": "cpu", "budget_s": 60, "output": tree / "out", "work": tree / "work", "workers": 1}
    found = queue.run(jobs, **own, together=True, say=said.append)
    assert (found.made, found.failed, found.full) == (0, 4, 4) and len(said) == 5


@pytest.mark.parametrize("folder", ["out", "work"])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tree, capsys, folder):
    (tree / folder).touch()
    assert queued() == 2
    shown = capsys.readouterr()
    assert f"folder {folder} cannot be written" in shown.err and shown.err.count("\n") == 1


def unzipped(content):
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None


def test_an_archive_damaged_anywhere_is_one_line_and_files_nothing(tree):
    """A changed byte at a hundred places, and a cut at ten; a few bits of a gzip file mean nothing."""
    plan, spec, good = made(tree)
    whole = archive(tree / "a.tar.gz", {f"records/{spec.name}.json": good}).read_bytes()
    bad, folder = tree / "bad.tar.gz", tree / "notebooks" / "records"
    changed = [whole[:k] + bytes([whole[k] ^ 16]) + whole[k + 1 :] for k in range(0, len(whole), len(whole) // 100)]
    damaged = [one for one in changed if unzipped(one) != unzipped(whole)]
    assert len(damaged) > 90
    for content in [*damaged, *(whole[: len(whole) * k // 10] for k in range(10))]:
        bad.write_bytes(content)
        with pytest.raises(QueueError, match="cannot be read") as refused:
            queue.file_archive(bad, folder, tree / "else", [plan])
        assert "\n" not in str(refused.value)
    assert not list(folder.rglob("*.json"))


def test_what_an_archive_brings_of_another_schema_or_kind_is_refused(tree):
    plan, spec, good = made(tree)
    later = json.dumps(json.loads(good) | {"schema": records.SCHEMA + 1}).encode()
    members = {
        f"records/{spec.name}.json": (later, "and 2 is the newest known"),
        "work": (b"", "no place for it here"),
        "records": (b"", "no place for it here"),
        "work/wu.fig1a/smoke/sgd-seed1.sh": (b"", "it is no checkpoint"),
        "work/wu.fig1a/smoke/gd-seed1.pt": (b"no state", "it has no checksum"),
    }
    for name, (content, why) in members.items():
        bad = archive(tree / "bad.tar.gz", {name: content})
        filed, refused = queue.file_archive(bad, tree / "notebooks" / "records", tree / "else", [plan])
        assert not filed and len(refused) == 1 and why in refused[0]
    assert not (tree / "else").exists()


def test_an_archive_takes_no_run_back(tree):
    """Its checkpoint is filed where there is none or an earlier one, and not where the record is there."""
    plan, spec, _ = made(tree)
    folder, place = tree / "notebooks" / "records", tree / "else" / f"{spec.name}.pt"
    for steps, before, after in ((5, None, 5), (5, 3, 5), (5, 9, 9)):
        checkpoints.save(tree / "one.pt", {"steps_done": steps})
        place.unlink(missing_ok=True)
        if before:
            checkpoints.save(place, {"steps_done": before})
        brought = archive(tree / "a.tar.gz", {f"work/{spec.name}.pt": (tree / "one.pt").read_bytes()})
        filed, refused = queue.file_archive(brought, folder, tree / "else", [plan])
        assert checkpoints.load(place)["steps_done"] == after and not refused and len(filed) == (after != before)
    place.unlink()
    spec.path(folder).parent.mkdir(parents=True)
    spec.path(folder).touch()
    assert queue.file_archive(brought, folder, tree / "else", [plan]) == ([], []) and not place.exists()


# --- the rehearsal


def rehearsal(tree):
    """A small plan for each preset that has plans: their last method at the smoke scale, of one seed."""
    folder = tree / "notebooks" / "plans"
    for path in folder.glob("*.toml"):
        path.unlink()
    found = {plan.preset: plan for plan in plans.read_all(ROOT / "notebooks" / "plans")}
    for order, plan in enumerate(found.values()):
        baseline, own = plan.baseline, plan.methods[-1]
        text = PLAN.format(preset=plan.preset, methods=f'"{own}"', seeds="1", order=order).replace(
            "cpu_s = 30", "cpu_s = 1"
        )
        text = text.replace('baseline = "SGD"', f'baseline = "{baseline}"')
        (folder / f"{plan.preset}.toml").write_text(text, encoding="utf-8")
    return list(found)


def test_the_whole_queue_is_made_stopped_taken_elsewhere_filed_and_read_by_pages(tree, capsys, monkeypatch):
    names = rehearsal(tree)
    command = [sys.executable, "-m", "support", "experiments", "queue", "--budget", "1h", "-o", "out", "--work", "work"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, "-j", "2"], env=environment, stdout=subprocess.PIPE, text=True) as first:
        before = next(line for line in first.stdout if "test accuracy" in line)
        first.send_signal(signal.SIGINT)
    assert before.split()[0] in names and first.returncode == 130
    elsewhere = tree / "elsewhere"
    (elsewhere / "notebooks" / "records").mkdir(parents=True)
    (tree / "notebooks" / "plans").rename(elsewhere / "notebooks" / "plans")
    monkeypatch.chdir(elsewhere)
    assert main(["experiments", "import", "../out/records.tar.gz", "--work", "work"]) == 0
    there = len(list((elsewhere / "notebooks" / "records").rglob("*.json")))
    assert there >= 1
    assert queued("-j", "2") == 0
    assert f"{len(names) - there} of {len(names) - there} records made" in capsys.readouterr().out or there == len(
        names
    )
    if there < len(names):
        assert main(["experiments", "import", "out/records.tar.gz", "--work", "work"]) == 0
    (elsewhere / "notebooks" / "part").mkdir()
    monkeypatch.chdir(elsewhere / "notebooks" / "part")
    monkeypatch.setattr(page, "_used", {"claims": set(), "records": set()})
    for name in names:
        assert recorded.planned(name).complete
