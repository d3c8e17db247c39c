"""Runs: pairs by seed, escapes and their start, killed and gone on."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from support.__main__ import main
from support.additive import PartitionNoise, released
from support.experiments import records, runs
from support.experiments.presets import PRESETS
from support.experiments.records import RecordError
from support.experiments.runs import RunSpec

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


def experiments(tmp_path, *arguments):
    return main(["experiments", *arguments, "-o", str(tmp_path / "records"), "--work", str(tmp_path / "work")])


# --- pairs


def test_methods_of_a_seed_share_start_and_data_but_no_noise():
    setting = PRESETS["wu.fig1a.pixels01"].setting("smoke")
    one, two, other = (runs.trainer(setting, method, seed) for method, seed in (("GD", 1), ("SGD", 1), ("GD", 2)))

    def start(trainer):
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

    assert torch.equal(start(one), start(two)) and torch.equal(one.data.train[0], two.data.train[0])
    assert not torch.equal(start(one), start(other)) and not torch.equal(one.data.train[0], other.data.train[0])
    assert not torch.equal(one.generator.get_state(), two.generator.get_state())
    assert torch.equal(one.data.test[0], other.data.test[0])


def test_a_run_is_the_same_again_and_in_another_process(tmp_path):
    for folder, jobs in (("a", "1"), ("b", "2")):
        assert (
            experiments(
                tmp_path / folder,
                "run",
                "wu.fig1a",
                "--scale",
                "smoke",
                "--methods",
                "MSGD-Cov",
                "--jobs",
                jobs,
                "--threads",
                "1",
            )
            == 0
        )
    one, two = (
        records.read(tmp_path / folder / "records" / "wu.fig1a" / "smoke" / "msgd-cov-seed1.json") for folder in "ab"
    )
    assert one["curves"] == two["curves"] and one["final"] == two["final"] and one["config"] == two["config"]


def test_the_book_scale_learns():
    setting = replace(WU.setting("book"), steps=300)
    run = runs.trainer(setting, "SGD", 1).run(300, evaluate_every=300)
    assert run.final["test_accuracy"] > 0.8 and run.final["train_loss"] < 0.5


# --- the escape from what GD has found


@pytest.fixture(scope="module")
def begun():
    return {
        name: runs.start(RunSpec(name, "smoke", "start", 1), show=False) for name in ("zhu.fig3", "zhu.fig3.released")
    }


class Stopped(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("method", PRESETS["zhu.fig3"].methods)
@pytest.mark.parametrize("name", ["zhu.fig3", "zhu.fig3.released"])
def test_an_escape_stopped_and_resumed_ends_as_the_unbroken_one(tmp_path, begun, name, method):
    setting = PRESETS[name].setting("smoke")

    def trainer(stop):
        ours = runs.trainer(setting, method, 1, start=begun[name])
        step = ours.step

        def stopping():
            if ours.steps_done == stop:
                raise Stopped
            step()

        ours.step = stopping
        return ours

    unbroken = trainer(None).run(30, evaluate_every=15, show=False)
    for stop in (3, 17):  # within a schedule of noises, and between two measurements
        with pytest.raises(Stopped):
            trainer(stop).run(30, evaluate_every=15, show=False, checkpoint=tmp_path / "run.pt", save_every_s=0)
    resumed = trainer(None).run(30, evaluate_every=15, show=False, checkpoint=tmp_path / "run.pt", save_every_s=0)
    assert (resumed.curves, resumed.final, resumed.measured) == (unbroken.curves, unbroken.final, unbroken.measured)
    assert unbroken.measured["step"] == [0, 15, 30] and all(len(values) == 3 for values in unbroken.measured.values())


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from support.experiments import runs

original, left = torch.optim.SGD.step, int(sys.argv[2])

def killing(*arguments, **options):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)

torch.optim.SGD.step = killing
torch.set_num_threads(1)
folder = Path(sys.argv[1])
runs.record(runs.RunSpec("zhu.fig3", "smoke", "GLD-leading", 1), folder, folder / "work", save_every_s=0)
"""


def test_an_escape_killed_before_and_after_its_start_leaves_what_the_next_one_needs(tmp_path):
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    work = broken / "work" / "zhu.fig3" / "smoke"
    for update, kept in ((20, {"start-seed1-running.pt"}), (42 + 11, {"start-seed1.pt", "gld-leading-seed1.pt"})):
        command = [sys.executable, "-c", KILLED, str(broken), str(update)]
        killed = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
        assert killed.returncode == -9, killed.stderr
        assert {path.name for path in work.glob("*.pt")} == kept
    found = []
    for folder in (broken, whole):
        spec = RunSpec("zhu.fig3", "smoke", "GLD-leading", 1)
        runs.record(spec, folder, folder / "work", save_every_s=0, show=False)
        found.append(
            [records.read(folder / "zhu.fig3" / "smoke" / f"{name}-seed1.json") for name in ("gld-leading", "start")]
        )
        for record in found[-1]:
            del record["provenance"], record["started"]
    assert found[0] == found[1]
    escape, start = found[0]
    assert escape["measured"]["step"] == [0, 15, 30] and len(escape["measured"]["eigenvalues"][0]) == 3
    assert start["config"]["method"] == "start" and start["config"]["lr"] == 0.5 and start["final"]["steps"] == 60
    assert len(start["measured"]["eigenvalues"]) == 5 and start["measured"]["eigenvalues"] == sorted(
        start["measured"]["eigenvalues"], reverse=True
    )
    # all methods leave from where GD stood
    assert (
        escape["curves"]["train_loss"][0] == start["curves"]["train_loss"][-1]
        and escape["curves"]["test_loss"][0] != start["curves"]["test_loss"][0]
    )


def test_methods_of_an_escape_share_their_start_but_no_noise(begun):
    setting = PRESETS["zhu.fig3"].setting("smoke")
    one, two = (runs.trainer(setting, method, 1, start=begun["zhu.fig3"]) for method in ("GLD-dynamic", "GLD-diag"))
    assert all(
        torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True)
    )
    assert all(torch.equal(value, begun["zhu.fig3"][name]) for name, value in one.model.state_dict().items())
    assert not torch.equal(one.generator.get_state(), two.generator.get_state())
    assert runs.trainer(setting, "SGD", 1, start=begun["zhu.fig3"]).additive is None


def test_a_start_of_another_configuration_is_not_taken_for_this_one(tmp_path, monkeypatch):
    spec = RunSpec("zhu.fig3", "smoke", "start", 1)
    runs.start(spec, work=tmp_path, show=False)
    tiny = replace(PRESETS["zhu.fig3"], scales={"smoke": replace(spec.setting, init_std=0.2)})
    monkeypatch.setitem(PRESETS, "zhu.fig3", tiny)
    with pytest.raises(
        RecordError, match=r"start-seed1.pt is of another configuration \(init_std = 0.1, now 0.2\): move it away"
    ):
        runs.start(spec, work=tmp_path, show=False)


def test_the_start_is_cleared_when_its_seed_is_complete(tmp_path, monkeypatch):
    brief = replace(PRESETS["zhu.fig3"], methods=("GD", "GLD-const"))
    monkeypatch.setitem(PRESETS, "zhu.fig3", brief)
    kept = tmp_path / "work" / "zhu.fig3" / "smoke" / "start-seed1.pt"
    for method, left in (("GD", True), ("GLD-const", False)):
        runs.record(RunSpec("zhu.fig3", "smoke", method, 1), tmp_path, tmp_path / "work", show=False)
        assert kept.is_file() is left
    assert not list((tmp_path / "work").rglob("*.begun"))


def test_the_escapes_of_the_paper_and_of_its_code(begun):
    paper, code = (PRESETS[name].setting("paper") for name in ("zhu.fig3", "zhu.fig3.released"))
    assert (paper.n, paper.b, paper.lr, paper.steps, paper.corrupted, paper.escape.start_steps) == (
        1200,
        20,
        0.07,
        6000,
        (1000, 1200),
        3000,
    )
    assert (code.n, code.protocol, code.replace, code.escape.every, code.escape.first_every) == (
        6000,
        "code",
        False,
        10,
        1,
    )
    small, begin = PRESETS["zhu.fig3.released"].setting("smoke"), begun["zhu.fig3.released"]
    methods = PRESETS["zhu.fig3"].methods[2:]
    noises = {method: runs.trainer(small, method, 1, start=begin).additive for method in methods}
    assert {type(noise.sgd) for noise in noises.values()} == {PartitionNoise}
    assert type(noises["GLD-Hessian"]) is released.OfHessian
    assert (
        noises["GLD-leading"].every == noises["GLD-Hessian"].every == 10
        and noises["GLD-diag"].every == noises["GLD-1st-eigenvector"].every == 1
    )
