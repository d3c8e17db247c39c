"""Presets, the records they make, and their command line, down to a machine that has torch, numpy, scipy and tqdm
alone.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from support import files, page, sampling
from support.__main__ import main
from support.additive import PartitionNoise, released
from support.experiments import data, presets, records
from support.experiments.command import RequestError, seeds_of
from support.experiments.presets import PRESETS, PresetError, Setting
from support.experiments.records import RecordError
from support.experiments.training import CURVES

ROOT = Path(__file__).parents[2]
WU = PRESETS["wu.fig1a"]


@pytest.fixture(autouse=True)
def one_thread_and_the_digits(monkeypatch):
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def experiments(tmp_path, *arguments):
    return main(["experiments", *arguments, "-o", str(tmp_path / "records"), "--work", str(tmp_path / "work")])


# --- what a preset is


def test_the_headline_preset_is_the_papers_setting_as_the_code_has_it():
    setting = WU.setting("paper")
    assert (setting.n, setting.b, setting.lr, setting.steps, setting.init_std) == (1000, 50, 0.01, 10_000, 0.02)
    assert (setting.dataset, setting.protocol, setting.pixels, setting.model, setting.momentum) == (
        "fashion_mnist",
        "code",
        "raw",
        "LeNet",
        0.0,
    )
    assert set(WU.methods) == {
        "GD",
        "SGD",
        "MSGD-Cov",
        "MSGD-Fisher",
        "MSGD-Bernoulli",
        "MSGD-[Fisher-10]",
        "MSGD-[Cov-10]",
    }
    assert WU.changes("paper") == {}
    assert PRESETS["wu.fig1a.pixels01"].setting("paper") == replace(
        setting, protocol="paper", pixels="unit", replace=True
    )


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_every_scale_is_a_setting_that_can_be_built(preset):
    assert set(preset.scales) == {"smoke", "book", "paper"}
    for scale, setting in preset.scales.items():
        knobs = asdict(setting)
        knobs |= {f"escape.{knob}": value for knob, value in (knobs["escape"] or {}).items()}
        assert {knob: knobs[knob] for knob in preset.changes(scale)} == {
            knob: here for knob, (here, _) in preset.changes(scale).items()
        }
        for method in preset.methods:
            found = presets.config(preset, scale, method, 3)
            assert set(asdict(Setting())) | {"preset", "scale", "method", "law", "B", "seed"} == set(found)
            assert getattr(sampling, found["law"]) is type(presets.law(setting, method))
            json.dumps(found, allow_nan=False)


def test_only_the_laws_named_cov_share_the_whole_covariance_of_sgd():
    setting = WU.setting("paper")
    sgd = presets.law(setting, "SGD").covariance
    assert {method for method in WU.methods if presets.law(setting, method).covariance == sgd} == {
        "SGD",
        "MSGD-Cov",
        "MSGD-[Cov-10]",
    }


def test_the_released_bernoulli_noise_is_that_of_a_smaller_batch():
    released = presets.law(PRESETS["wu.fig1a.released"].setting("paper"), "MSGD-Bernoulli")
    assert released.b / released.n == 0.02 and released.b != WU.setting("paper").b


# --- pairs


def test_methods_of_a_seed_share_start_and_data_but_no_noise():
    setting = PRESETS["wu.fig1a.pixels01"].setting("smoke")
    one, two, other = (presets.trainer(setting, method, seed) for method, seed in (("GD", 1), ("SGD", 1), ("GD", 2)))

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
    run = presets.trainer(setting, "SGD", 1).run(300, evaluate_every=300)
    assert run.final["test_accuracy"] > 0.8 and run.final["train_loss"] < 0.5


# --- the escape from what GD has found


@pytest.fixture(scope="module")
def begun():
    return {name: presets.start(PRESETS[name], "smoke", 1, show=False) for name in ("zhu.fig3", "zhu.fig3.released")}


class Stopped(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("method", PRESETS["zhu.fig3"].methods)
@pytest.mark.parametrize("name", ["zhu.fig3", "zhu.fig3.released"])
def test_an_escape_stopped_and_resumed_ends_as_the_unbroken_one(tmp_path, begun, name, method):
    setting = PRESETS[name].setting("smoke")

    def trainer(stop):
        ours = presets.trainer(setting, method, 1, start=begun[name])
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
from support.experiments import presets

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
presets.record(presets.preset("zhu.fig3"), "smoke", "GLD-leading", 1, folder, folder / "work", save_every_s=0)
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
        presets.record(
            PRESETS["zhu.fig3"], "smoke", "GLD-leading", 1, folder, folder / "work", save_every_s=0, show=False
        )
        found.append(
            [records.read(folder / "zhu.fig3" / "smoke" / f"{name}-seed1.json") for name in ("gld-leading", "start")]
        )
        for record in found[-1]:
            del record["provenance"]
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
    one, two = (presets.trainer(setting, method, 1, start=begun["zhu.fig3"]) for method in ("GLD-dynamic", "GLD-diag"))
    assert all(
        torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True)
    )
    assert all(torch.equal(value, begun["zhu.fig3"][name]) for name, value in one.model.state_dict().items())
    assert not torch.equal(one.generator.get_state(), two.generator.get_state())
    assert presets.trainer(setting, "SGD", 1, start=begun["zhu.fig3"]).additive is None


def test_a_start_of_another_configuration_is_not_taken_for_this_one(tmp_path):
    tiny = replace(PRESETS["zhu.fig3"], scales={"smoke": replace(PRESETS["zhu.fig3"].setting("smoke"), init_std=0.2)})
    presets.start(PRESETS["zhu.fig3"], "smoke", 1, work=tmp_path, show=False)
    with pytest.raises(
        RecordError, match=r"start-seed1.pt is of another configuration \(init_std = 0.1, now 0.2\): move it away"
    ):
        presets.start(tiny, "smoke", 1, work=tmp_path, show=False)


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
    noises = {method: presets.trainer(small, method, 1, start=begin).additive for method in methods}
    assert {type(noise.sgd) for noise in noises.values()} == {PartitionNoise}
    assert type(noises["GLD-Hessian"]) is released.OfHessian
    assert (
        noises["GLD-leading"].every == noises["GLD-Hessian"].every == 10
        and noises["GLD-diag"].every == noises["GLD-1st-eigenvector"].every == 1
    )


# --- records


def test_a_record_holds_what_was_run(tmp_path):
    path = presets.record(WU, "smoke", "MSGD-[Fisher-10]", 2, tmp_path, tmp_path / "work", show=False)
    assert path == tmp_path / "wu.fig1a" / "smoke" / "msgd-sparse-fisher-10-seed2.json"
    found = records.read(path)
    assert found["config"] == presets.config(WU, "smoke", "MSGD-[Fisher-10]", 2)
    assert found["config"]["B"] == 10 and found["config"]["law"] == "SparseFisher" and found["config"]["seed"] == 2
    assert found["curves"]["step"] == [0, 20, 40] and found["final"]["tested"] == 797
    assert set(found["provenance"]) == {"commit", "device", "threads", "versions", "wall_s"}
    assert path.stat().st_size < 20_000
    written = path.stat().st_mtime_ns
    presets.record(WU, "smoke", "MSGD-[Fisher-10]", 2, tmp_path, tmp_path / "work", show=False)
    assert path.stat().st_mtime_ns == written


def test_a_long_record_stays_small(tmp_path):
    points = WU.setting("paper").steps // WU.setting("paper").evaluate_every + 1
    curves = {name: [float(f"{x:.6g}") for x in np.random.default_rng(0).random(points)] for name in CURVES}
    path = records.save(
        tmp_path / "r.json", config=presets.config(WU, "paper", "SGD", 1), curves=curves, final={}, wall_s=1
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


def test_a_record_of_another_configuration_is_not_taken_for_this_one(tmp_path):
    path = presets.record(WU, "smoke", "SGD", 1, tmp_path, tmp_path / "work", show=False)
    what = presets.config(WU, "smoke", "SGD", 1)
    with pytest.raises(
        RecordError, match=r"sgd-seed1.json is of another configuration \(lr = 0.1, now 0.2\): move it away"
    ):
        presets.is_done(path, what | {"lr": 0.2})
    older = json.loads(path.read_text(encoding="utf-8"))
    del older["config"]["momentum"]
    path.write_text(json.dumps(older), encoding="utf-8")
    assert presets.is_done(path, what), "a knob that came later has its default in an older record"
    with pytest.raises(RecordError, match=r"momentum = 0.0, now 0.9"):
        presets.is_done(path, what | {"momentum": 0.9})
    escape = presets.config(PRESETS["zhu.fig3"], "paper", "SGD", 1)
    del (older := json.loads(json.dumps(escape)))["escape"]["spectrum"]
    path.write_text(json.dumps({"config": older, "curves": {}, "final": {}, "provenance": {}}), encoding="utf-8")
    assert presets.is_done(path, escape), "and so has a knob of the escape"


def test_load_all_gives_records_by_name_and_notes_their_folder(tmp_path, monkeypatch):
    (tmp_path / "part").mkdir()
    monkeypatch.chdir(tmp_path / "part")
    monkeypatch.setattr(page, "_used", {"claims": set(), "records": set()})
    for seed in (1, 2):
        presets.record(WU, "smoke", "SGD", seed, tmp_path / "records", tmp_path / "work", show=False)
    found = records.load_all("wu.fig1a/smoke/sgd-*")
    assert (
        list(found) == ["wu.fig1a/smoke/sgd-seed1", "wu.fig1a/smoke/sgd-seed2"]
        and found["wu.fig1a/smoke/sgd-seed2"]["config"]["seed"] == 2
    )
    assert page.dependencies()["records"] == ["wu.fig1a/smoke"]
    with pytest.raises(RecordError, match=r"no record matches wu.fig1b"):
        records.load_all("wu.fig1b/*")


# --- the command line


def test_list_names_presets_methods_and_what_a_scale_changes(capsys):
    assert main(["experiments", "list"]) == 0
    shown = capsys.readouterr().out
    assert (
        all(name in shown for name in PRESETS)
        and "MSGD-[Cov-10]" in shown
        and "dataset fashion_mnist → digits" in shown
    )


def test_runs_go_seed_by_seed_and_skip_what_is_there(tmp_path, capsys):
    arguments = ("run", "wu.fig1a", "--scale", "smoke", "--methods", "sgd,gd", "--threads", "1", "--seeds")
    assert experiments(tmp_path, *arguments, "1") == 0
    capsys.readouterr()
    assert experiments(tmp_path, *arguments, "1..3") == 0
    shown = capsys.readouterr().out
    assert "2 of 6 records are there" in shown
    assert [line.split(":")[0] for line in shown.splitlines() if "accuracy" in line] == [
        "SGD seed 2",
        "GD seed 2",
        "SGD seed 3",
        "GD seed 3",
    ]
    assert experiments(tmp_path, "status") == 0
    assert "SGD: 3 records (seeds 1, 2, 3)" in capsys.readouterr().out


def test_status_shows_a_run_on_its_way(tmp_path, capsys):
    class Stopped(Exception):
        pass

    def stop(model, generator):
        if trainer.steps_done == 5:
            raise Stopped

    trainer = presets.trainer(WU.setting("smoke"), "SGD", 4)
    trainer.additive = stop
    with pytest.raises(Stopped):
        trainer.run(40, checkpoint=tmp_path / "work" / "wu.fig1a" / "smoke" / "sgd-seed4.pt", save_every_s=0)
    assert experiments(tmp_path, "status") == 0
    assert "SGD: no record; seed 4 at step 5 of 40, stopped" in capsys.readouterr().out
    with files.lock(tmp_path / "work" / "wu.fig1a" / "smoke" / "sgd-seed5.lock"):
        assert experiments(tmp_path, "status") == 0
    assert f"seed 5, process {os.getpid()}" in capsys.readouterr().out


def test_a_run_that_diverges_is_reported_and_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    wild = replace(WU, scales=WU.scales | {"smoke": replace(WU.setting("smoke"), lr=3e38)})
    monkeypatch.setitem(PRESETS, "wild", replace(wild, name="wild"))
    assert experiments(tmp_path, "run", "wild", "--scale", "smoke", "--methods", "GD,SGD", "--threads", "1") == 1
    errors = capsys.readouterr().err
    assert (
        "error: GD seed 1: the loss is not finite at step" in errors
        and "error: SGD seed 1" in errors
        and "learning rate 3e+38" in errors
    )
    assert not list((tmp_path / "records").rglob("*.json"))


def test_a_noise_that_cannot_be_is_reported_and_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    setting = PRESETS["zhu.fig3"].setting("smoke")
    wide = replace(
        PRESETS["zhu.fig3"],
        name="wide",
        scales={"smoke": replace(setting, escape=replace(setting.escape, k=600)), "paper": setting},
    )
    monkeypatch.setitem(PRESETS, "wide", wide)
    assert (
        experiments(tmp_path, "run", "wide", "--scale", "smoke", "--methods", "GLD-leading,SGD", "--threads", "1") == 1
    )
    shown = capsys.readouterr()
    assert "error: GLD-leading seed 1: k = 600 is out of range: C of 600 samples has rank 599 at most" in shown.err
    assert "SGD seed 1: test accuracy" in shown.out and len(list((tmp_path / "records").rglob("*.json"))) == 2


def test_a_run_of_another_process_is_left_alone(tmp_path, capsys):
    with files.lock(tmp_path / "work" / "wu.fig1a" / "smoke" / "sgd-seed1.lock"):
        assert experiments(tmp_path, "run", "wu.fig1a", "--scale", "smoke", "--methods", "SGD", "--threads", "1") == 1
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wu.fig9"], "no preset 'wu.fig9': choose one of wu.fig1a"),
        (["wu.fig1a", "--scale", "huge"], "no scale 'huge': choose one of smoke, book, paper"),
        (["wu.fig1a", "--methods", "SGD,Adam"], "no method 'Adam': choose among GD, SGD"),
        (["wu.fig1a", "--methods", "SGD,sgd"], "methods 'SGD,sgd' name one twice"),
        (["wu.fig1a", "--seeds", "3..1"], "seeds '3..1' hold no seed"),
        (["wu.fig1a", "--seeds", "x"], "seeds 'x' are malformed"),
        (["wu.fig1a", "--jobs", "0"], "jobs = 0"),
        (["wu.fig1a", "--device", "tpu"], "device = 'tpu' is unknown"),
    ],
)
def test_bad_requests_are_refused_before_any_work(tmp_path, capsys, arguments, message):
    assert experiments(tmp_path, "run", *arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1 and not (tmp_path / "records").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "records").touch()
    assert experiments(tmp_path, "run", "wu.fig1a", "--scale", "smoke", "--methods", "GD") == 2
    shown = capsys.readouterr()
    assert (
        "records cannot be written (File exists): name another" in shown.err
        and shown.err.count("\n") == 1
        and shown.out == ""
    )
    assert not (tmp_path / "work").exists()


def test_a_missing_data_folder_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SUPPORT_DATA", str(tmp_path / "nowhere"))
    assert experiments(tmp_path, "run", "wu.fig1a", "--scale", "paper") == 2
    assert "nowhere is no folder" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_is_refused_where_there_is_none(tmp_path, capsys):
    assert experiments(tmp_path, "run", "wu.fig1a", "--scale", "smoke", "--device", "cuda") == 2
    assert "no CUDA device: choose cpu" in capsys.readouterr().err
    with pytest.raises(PresetError, match="no CUDA device"):
        presets.run(WU, "smoke", "SGD", 1, device="cuda")


def test_seeds():
    assert seeds_of("1..3") == [1, 2, 3] and seeds_of("4, 1,7..8") == [4, 1, 7, 8]
    with pytest.raises(RequestError, match="one twice"):
        seeds_of("1..3,2")


BLOCKED = """
import sys
from importlib.machinery import PathFinder
blocked = {"yaml", "papermill", "joblib", "matplotlib", "sklearn", "pooch", "IPython", "nbformat", "jupyter", "sphinx", "pytest"}

class Without:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else PathFinder.find_spec(name, path, target)

sys.meta_path = [finder for finder in sys.meta_path if finder is not PathFinder] + [Without]
from support.__main__ import main
from support.additive import PartitionNoise, released
sys.exit(main(sys.argv[1:]))
"""


def test_experiments_need_torch_numpy_scipy_and_tqdm_alone(tmp_path):
    digits = data.load("digits")
    images, labels = (np.concatenate([b, a]) for a, b in zip(digits.train, digits.test, strict=True))
    np.savez(tmp_path / "digits.npz", images=images, labels=labels)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SUPPORT_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        command = [sys.executable, "-c", BLOCKED, "experiments", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    listed = run("list")
    assert listed.returncode == 0 and "wu.fig1a" in listed.stdout, listed.stderr
    done = run("run", "wu.fig1a", "--scale", "smoke", "--methods", "GD", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "notebooks" / "records" / "wu.fig1a" / "smoke" / "gd-seed1.json").is_file()
