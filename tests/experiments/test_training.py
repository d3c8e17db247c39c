"""The trainer against MSGD and autograd, what it logs, and that a run killed at any step ends as the unbroken one."""

import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from support import files
from support.errors import Refused, WrongType
from support.experiments import checkpoints, presets, training
from support.experiments.checkpoints import CheckpointError
from support.experiments.models import LeNet, normal_init
from support.experiments.training import Data, Diverged, Trainer, TrainingError, cross_entropy
from support.msgd import MSGD
from support.sampling import FullBatch, GaussianCovariance, GaussianFisher, by_name

N, B = 24, 4
METHODS = ("GD", "SGD", "MSGD-Cov", "MSGD-Bernoulli", "MSGD-[Fisher-6]", "[MSGD-Cov]-8")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(seed=0, tests=40):
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = (
        torch.randn(N + tests, 5, generator=generator),
        torch.randint(0, 3, (N + tests,), generator=generator),
    )
    return Data.on("cpu", (inputs[:N], targets[:N]), (inputs[N:], targets[N:]), watched=10)


def network(dropout=0.0):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Dropout(dropout), nn.Linear(7, 3))


def trainer(law=None, model=None, lr=0.5, data=None, momentum=0.0, **options):
    model = model or network()
    law = law or GaussianCovariance(N, B)
    return Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr, momentum=momentum),
        law,
        data or problem(),
        generator=torch.Generator().manual_seed(5),
        **{"chunk": 100, **options},
    )


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- the step


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_msgd_bit_for_bit(name):
    data, law, model = problem(), by_name(name, N, B), network()
    step = MSGD(
        model, cross_entropy, torch.optim.SGD(model.parameters(), 0.5), law, generator=torch.Generator().manual_seed(5)
    )
    for _ in range(6):
        step(*data.train)
    ours = trainer(law)
    ours.run(6)
    assert torch.equal(parameters(ours.model), parameters(model))


@pytest.mark.parametrize("chunk", [1, 7, 24])
def test_chunks_change_a_run_by_rounding_alone(chunk):
    whole, parts = trainer(), trainer(chunk=chunk)
    whole.run(5), parts.run(5)
    torch.testing.assert_close(parameters(parts.model), parameters(whole.model), rtol=0, atol=2e-6)


def test_memory_layout_changes_a_run_by_rounding_alone():
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(8, 1, 28, 28, generator=generator), torch.arange(8)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = normal_init(LeNet(), 0.1, torch.Generator().manual_seed(2)).to(memory_format=layout)
        ours = trainer(
            FullBatch(8, 2), model, data=Data.on("cpu", (images, labels), (images, labels), 8), lr=0.1, chunk=4
        )
        ours.run(3)
        found.append(parameters(model))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


def test_additive_noise_is_added_to_the_gradient_and_a_schedule_is_followed():
    drawn = []

    def additive(model, generator):
        drawn.append([torch.randn(p.shape, generator=generator) for p in model.parameters()])
        for p, noise in zip(model.parameters(), drawn[-1], strict=True):
            p.grad += noise

    model, reference = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
    data = problem()
    Trainer(
        model,
        optimizer,
        FullBatch(N, B),
        data,
        generator=torch.Generator().manual_seed(5),
        schedule=schedule,
        additive=additive,
        chunk=100,
    ).run(5)
    for step, noises in enumerate(drawn):
        reference.zero_grad()
        cross_entropy(reference(data.train[0]), data.train[1]).mean().backward()
        with torch.no_grad():
            for p, noise in zip(reference.parameters(), noises, strict=True):
                p.sub_(0.5 * 0.1 ** (step // 2) * (p.grad + noise))
    assert len(drawn) == 5
    torch.testing.assert_close(parameters(model), parameters(reference), rtol=0, atol=1e-6)


def test_noise_of_standard_deviation_zero_is_gradient_descent_bit_for_bit():
    class Silent(GaussianFisher):
        """MSGD-Fisher as the released code runs by default."""

        def _draw(self, size, random):
            return 1 / self.n + 0.0 * random.normal((size, self.n))

    silent, descent = trainer(Silent(N, B)).run(20), trainer(FullBatch(N, B)).run(20)
    assert silent.curves == descent.curves and silent.final == descent.final
    assert trainer(GaussianFisher(N, B)).run(20).final != descent.final


# --- what is logged


def test_losses_are_means_since_the_last_point_clean_and_weighted_apart():
    run = trainer(GaussianFisher(N, B)).run(6, evaluate_every=1)
    data, model, law, generator = problem(), network(), GaussianFisher(N, B), torch.Generator().manual_seed(5)
    step = MSGD(model, cross_entropy, torch.optim.SGD(model.parameters(), 0.5), law, generator=generator)
    losses = [step(*data.train) for _ in range(6)]
    assert run.curves["weighted_loss"][0] is run.curves["step_loss"][0] is None
    assert run.curves["weighted_loss"][1:] == pytest.approx([x.weighted for x in losses], rel=1e-6)
    assert run.curves["step_loss"][1:] == pytest.approx([x.clean for x in losses], rel=1e-6)
    # the clean loss of a step is the training loss where it started; the weighted one is not
    assert run.curves["step_loss"][1:] == pytest.approx(run.curves["train_loss"][:-1], rel=1e-6)
    assert run.curves["weighted_loss"][1:] != pytest.approx(run.curves["train_loss"][:-1], rel=0.01)
    sparser = trainer(GaussianFisher(N, B)).run(6, evaluate_every=3)
    assert sparser.curves["step"] == [0, 3, 6]
    assert sparser.curves["step_loss"][1:] == pytest.approx(
        [sum(x.clean for x in losses[:3]) / 3, sum(x.clean for x in losses[3:]) / 3], rel=1e-6
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_judged_on_the_same_images(name):
    data = problem()
    run = trainer(by_name(name, N, B)).run(5, evaluate_every=2)
    model = network()
    with torch.no_grad():
        for part, images in (("train", data.train), ("test", tuple(x[:10] for x in data.test))):
            outputs = model(images[0])
            assert run.curves[f"{part}_loss"][0] == pytest.approx(
                float(cross_entropy(outputs, images[1]).mean()), rel=1e-6
            )
            assert run.curves[f"{part}_accuracy"][0] == float((outputs.argmax(1) == images[1]).double().mean())
    assert run.curves["step"] == [0, 2, 4, 5] and {len(curve) for curve in run.curves.values()} == {4}
    assert (
        run.final["tested"] == 40
        and run.final["train_loss"] == run.curves["train_loss"][-1]
        and run.final["steps"] == 5
    )


def test_judging_uses_the_evaluation_mode_and_leaves_no_trace():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    ours = trainer(FullBatch(N, B), model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ours._evaluate()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items()) and model.training


def test_a_run_is_measured_at_the_steps_that_are_named_and_not_changed_by_it():
    seen = []

    def measure(model, step):
        seen.append(parameters(model))
        return {"length": float(parameters(model).norm()), "first": parameters(model)[:2].tolist()}

    plain = trainer().run(6, evaluate_every=2)
    run = trainer(measure=measure, measure_at=(0, 3, 6, 99)).run(6, evaluate_every=2)
    assert run.measured["step"] == [0, 3, 6] and run.measured["length"] == [float(theta.norm()) for theta in seen]
    assert run.measured["first"] == [theta[:2].tolist() for theta in seen]
    assert (run.curves, run.final) == (plain.curves, plain.final) and plain.measured == {}


def test_a_run_is_over_when_a_point_of_the_curves_says_so():
    whole = trainer().run(8, evaluate_every=2)
    cut = trainer().run(8, evaluate_every=2, until=lambda point: point["step"] >= 3)
    assert cut.curves == {name: values[:3] for name, values in whole.curves.items()}
    assert cut.final["steps"] == 4 and cut.final["train_loss"] == cut.curves["train_loss"][-1]


def test_the_last_point_of_a_run_that_is_over_is_measured_too():
    measured = trainer(measure=lambda model, step: {"n": step}, measure_at=(0, 4, 8)).run(
        8, evaluate_every=2, until=lambda point: point["step"] >= 3
    )
    assert measured.measured == {"step": [0, 4], "n": [0, 4]}


def test_the_seconds_of_a_run_are_those_of_all_its_parts():
    ours = trainer()
    first, second = ours.run(30), ours.run(31)
    assert second.wall_s > first.wall_s


# --- stopping and going on


class Stopped(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("stops", [(1,), (7,), (3, 4, 5)])
def test_a_run_stopped_and_resumed_ends_as_the_unbroken_one(tmp_path, stops):
    """Momentum, a schedule, dropout (torch's own generator), additive noise and a law, all at once."""
    path = tmp_path / "run.pt"

    def begin(stop):
        model = network(dropout=0.3)
        optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9, weight_decay=0.01)
        calls = itertools.count(1)

        def additive(model, generator):
            if next(calls) == stop:
                raise Stopped
            for p in model.parameters():
                p.grad += 0.1 * torch.randn(p.shape, generator=generator)

        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        generator = torch.Generator().manual_seed(5)
        return Trainer(
            model,
            optimizer,
            by_name("MSGD-Bernoulli", N, B),
            problem(),
            generator=generator,
            schedule=schedule,
            additive=additive,
            chunk=2,
        )

    torch.manual_seed(8)
    unbroken = begin(None).run(14, evaluate_every=4)
    torch.manual_seed(8)
    for stop in stops:
        with pytest.raises(Stopped):
            begin(stop).run(14, evaluate_every=4, checkpoint=path, save_every_s=0)
        torch.manual_seed(999)  # a new process has another state
    if stops == (1,):
        torch.manual_seed(8)  # it ended before its first checkpoint
    resumed = begin(None).run(14, evaluate_every=4, checkpoint=path, save_every_s=0)
    assert resumed.curves == unbroken.curves and resumed.final == unbroken.final


SCRIPT = """
    import os, signal, sys, torch
    from pathlib import Path
    from support.experiments import presets

    folder, where, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    owner, name = {"update": (torch.optim.SGD, "step"), "rename": (Path, "replace")}[where]
    original, calls = getattr(owner, name), []

    def killing(*arguments, **options):
        calls.append(1)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, killing)
    torch.set_num_threads(1)
    presets.record(presets.preset("wu.fig1a"), "smoke", "MSGD-Cov", 1, folder, folder / "work", save_every_s=0)
"""


def test_a_killed_process_leaves_what_the_next_one_needs(tmp_path):
    """SIGKILL between a gradient and its update, and between a checkpoint and its renaming; the record is that of an
    unbroken run.
    """
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    checkpoint = broken / "work" / "wu.fig1a" / "smoke" / "msgd-cov-seed1.pt"
    for where, step, done in (("update", 14, 13), ("rename", 9, 21)):
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(broken), where, str(step)]
        killed = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert checkpoints.load(checkpoint)["steps_done"] == done
    records = []
    for folder in (broken, whole):
        path = presets.record(
            presets.preset("wu.fig1a"), "smoke", "MSGD-Cov", 1, folder, folder / "work", save_every_s=0, show=False
        )
        records.append(json.loads(path.read_text(encoding="utf-8")))
        del records[-1]["provenance"]["wall_s"], records[-1]["provenance"]["commit"]
    assert records[0] == records[1]
    assert [path.name for path in checkpoint.parent.iterdir()] == ["msgd-cov-seed1.lock"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    trainer().run(3, checkpoint=path, save_every_s=0, identity={"lr": 0.5, "seed": 1})
    with pytest.raises(TrainingError, match=r"run.pt is of another run \(lr = 0.5, now 0.1\): delete it"):
        trainer().run(3, checkpoint=path, identity={"lr": 0.1, "seed": 1})
    with pytest.raises(TrainingError, match="has done 3 steps, more than steps = 2"):
        trainer().run(2, checkpoint=path, identity={"lr": 0.5, "seed": 1})


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "run.pt"
    trainer().run(2, checkpoint=path, save_every_s=0)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"run.pt cannot be read .* delete it"):
        trainer().run(3, checkpoint=path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    calls = itertools.count(1)

    def additive(model, generator):
        if next(calls) == 4:
            for p in model.parameters():
                p.grad += math.inf

    with pytest.raises(Diverged, match=r"not finite at step 4 under MSGD-Cov, learning rate 0.5: lower"):
        trainer(additive=additive).run(9, checkpoint=path, save_every_s=0)
    state = checkpoints.load(path)
    assert state["steps_done"] == 3 and all(torch.isfinite(value).all() for value in state["parts"]["model"].values())
    with pytest.raises(Diverged, match=r"step 0 under MSGD-Cov"):
        trainer(
            data=Data.on(
                "cpu", *[(torch.full((m, 5), math.inf), torch.zeros(m, dtype=torch.int64)) for m in (N, 9)], watched=9
            )
        ).run(3)


def test_a_device_is_asked_for_the_loss_once_in_a_while_and_still_stops():
    ours = trainer(lr=3e38)
    ours.check_every = 50
    with pytest.raises(Diverged, match=r"not finite at step [0-9]+ under MSGD-Cov, learning rate 3e"):
        ours.run(100, evaluate_every=1000)
    assert ours.steps_done <= 50


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    trainer().run(3, checkpoint=path, save_every_s=0)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"run.pt cannot be written \(No space left on device\): make room"):
        trainer().run(5, checkpoint=path, save_every_s=0)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_lock_keeps_another_process_out_until_its_holder_is_gone(tmp_path):
    path = tmp_path / "x.lock"
    code = f"import sys, time\nsys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\nfrom support.files import lock\n"
    code += f"with lock(Path({str(path)!r})):\n    print('held', flush=True)\n    time.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(files.LockError, match=f"x in .* is in use by process {process.pid}: wait"),
            files.lock(path),
        ):
            pass
        process.kill()
        process.wait()
        with files.lock(path):
            assert files.holder(path) == str(os.getpid())
    assert files.holder(path) == ""
    with pytest.raises(Stopped), files.lock(path):
        raise Stopped
    assert files.holder(path) == ""  # nor after a run that failed


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: trainer(FullBatch(10, 2)), "n = 10 samples, the training set has 24"),
        (lambda: trainer(chunk=0), "chunk = 0"),
        (
            lambda: trainer(data=replace(problem(), train=(problem().train[0], torch.ones(N, 1)))),
            r"shape \(24, 1\) and type torch.float32: the trainer judges",
        ),
        (lambda: trainer(data=problem(tests=0)), "the test set is empty"),
        (lambda: trainer().run(0), "steps = 0"),
        (lambda: trainer().run(5, evaluate_every=0), "evaluate_every = 0"),
    ],
)
def test_bad_input_is_refused(build, message):
    with pytest.raises(Refused, match=message):
        build()


def test_the_curves_are_the_documented_ones():
    assert tuple(trainer().run(1).curves) == training.CURVES
