"""The command line of the experiments, down to a machine that has torch, numpy, scipy and tqdm alone."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from support import files
from support.__main__ import main
from support.experiments import data, runs, together
from support.experiments.command import RequestError, seconds_of, seeds_of
from support.experiments.presets import PRESETS, PresetError
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


# --- the command line


def test_list_names_presets_scales_and_plans_and_of_one_what_a_scale_changes(capsys):
    assert main(["experiments", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}: " in shown for name in PRESETS) and "MSGD-[Cov-10]" in shown
    assert "plan wu.fig1a.drawn: paper, 8 x 27 runs (methods x seeds)" in shown and "→" not in shown
    assert max(map(len, shown.splitlines())) < 200
    assert main(["experiments", "list", "talk.fig1"]) == 0
    shown = capsys.readouterr().out
    assert "dataset fashion_mnist → digits" in shown and "complexity.draws 10 → 2" in shown and "radii" not in shown
    assert "explicit regulariser" in shown and "wu.fig1a" not in shown
    assert main(["experiments", "list", "wu.fig9"]) == 2


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
    assert "GD, SGD: 3 records (seeds 1..3)" in capsys.readouterr().out


def test_status_shows_a_run_on_its_way(tmp_path, capsys):
    class Stopped(Exception):
        pass

    def stop(model, generator):
        if trainer.steps_done == 5:
            raise Stopped

    trainer = runs.trainer(WU.setting("smoke"), "SGD", 4)
    trainer.additive = stop
    with pytest.raises(Stopped):
        (tmp_path / "records").mkdir()
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
        runs.run(SGD, device="cuda")
    with pytest.raises(PresetError, match="no CUDA device"):
        together.record([SGD], tmp_path, tmp_path, device="cuda")


def test_a_device_that_is_hidden_is_refused_in_a_line(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "support", "experiments", "queue", "--device", "cuda", "-o", str(tmp_path)]
    command += ["--work", str(tmp_path / "work"), "--records", str(tmp_path), "--together"]
    refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "torch sees no CUDA device: choose cpu" in refused.stderr
    assert refused.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_seeds():
    assert seeds_of("1..3") == [1, 2, 3] and seeds_of("4, 1,7..8") == [4, 1, 7, 8]
    with pytest.raises(RequestError, match="one twice"):
        seeds_of("1..3,2")


BLOCKED = """
import sys
from importlib.machinery import PathFinder
blocked = {"yaml", "papermill", "joblib", "matplotlib", "sklearn", "pooch", "IPython", "nbformat", "jupyter", "sphinx"}
blocked |= {"pytest", "filelock"}

class Without:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else PathFinder.find_spec(name, path, target)

sys.meta_path = [finder for finder in sys.meta_path if finder is not PathFinder] + [Without]
from support.__main__ import main
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

    plan = tmp_path / "notebooks" / "plans" / "small.toml"
    plan.parent.mkdir()
    whole = (ROOT / "notebooks" / "plans" / "wu.fig1a.drawn.toml").read_text(encoding="utf-8")
    small = whole.replace('scale = "paper"', 'scale = "smoke"').partition("seeds = [")
    plan.write_text(small[0] + "seeds = [1]" + small[2].partition("]")[2], encoding="utf-8")
    queued = run("queue", "--budget", "1h", "-j", "1", "-o", "out")
    assert queued.returncode == 0 and "8 of 8 records made" in queued.stdout, queued.stderr
    assert run("import", "out/records.tar.gz").stdout.endswith("8 filed, 0 refused\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "wu.fig1a", "--seeds", "1..99999999999"], "are more than 10,000"),
        (["run", "wu.fig1a", "--seeds", "1..3000000"], "are more than 10,000"),
        (["run", "wu.fig1a", "--threads", "1000000"], "threads = 1000000 is too many"),
        (["run", "wu.fig1a", "--methods", ""], "no method ''"),
        (["run", "wu.fig1a", "-o", ""], "--output is empty"),
        (["status", "-o", "nowhere"], "nowhere is no folder"),
        (["import", "nowhere.tar.gz"], "there is no plan"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["experiments", *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1 and shown.out == ""


def test_a_link_that_leads_nowhere_is_named(tmp_path, capsys):
    (tmp_path / "records").symlink_to(tmp_path / "gone")
    assert experiments(tmp_path, "run", "wu.fig1a", "--scale", "smoke") == 2
    assert "records is a link that leads nowhere" in capsys.readouterr().err


def test_a_damaged_record_costs_its_own_run_and_the_exit_status(tmp_path, capsys):
    arguments = ("run", "wu.fig1a", "--scale", "smoke", "--methods", "SGD", "--threads", "1", "--seeds")
    assert experiments(tmp_path, *arguments, "1") == 0
    path = tmp_path / "records" / f"{SGD.name}.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"seed": 1', '"seed": 2'), encoding="utf-8")
    capsys.readouterr()
    assert experiments(tmp_path, *arguments, "1..2") == 1
    shown = capsys.readouterr()
    assert "error: SGD seed 1: record" in shown.err and "SGD seed 2: test accuracy" in shown.out
    assert experiments(tmp_path, "status") == 0
    assert "seed 1 cannot be read" in capsys.readouterr().out


def test_times():
    assert seconds_of("90s") == 90 and seconds_of("1.5h") == 5400
    for bad in ("9", "m", "-9m", "1e9s", "0s"):
        with pytest.raises(RequestError, match="is malformed"):
            seconds_of(bad)
