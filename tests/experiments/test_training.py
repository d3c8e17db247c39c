"""The trainer against MSGD and autograd, what it logs, and that a run killed at any step ends as the unbroken one."""

import errno
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from support import files
from support.errors import Refused
from support.experiments import checkpoints, optimizers, runs, training
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


def sgd(model, lr=0.5):
    return torch.optim.SGD(model.parameters(), lr)


def built(**parts):
    """A trainer with parts of its own."""
    model = network()
    usual = {"model": model, "optimizer": sgd(model), "law": FullBatch(N, B), "data": problem()}
    return Trainer(**{**usual, "generator": torch.Generator().manual_seed(5), **parts})


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["MSGD-Cov", "SGD", "MSGD-Bernoulli"])
def test_no_step_waits_for_a_device(name):
    parts = [(inputs.cuda(), targets.cuda()) for inputs, targets in (problem().train, problem().test)]
    ours = trainer(by_name(name, N, B), network().cuda(), data=Data(*parts, watched=10), chunk=10)
    ours.step()  # the first is looked at
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            ours.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- optimisers and schedules of every kind


def test_lbfgs_asks_several_times_for_the_one_loss_of_its_step(tmp_path):
    """Against the optimiser on its own, with the noise of each step drawn once."""
    law, reference, data = GaussianFisher(N, B), network(), problem()
    lone, generator = torch.optim.LBFGS(reference.parameters(), 0.3, max_iter=4), torch.Generator().manual_seed(5)
    losses, evaluations = [], 0
    for _ in range(5):
        weights = law.sample(None, generator)

        def closure(weights=weights):
            nonlocal evaluations
            evaluations += 1
            lone.zero_grad()
            loss = weights @ cross_entropy(reference(data.train[0]), data.train[1])
            loss.backward()
            return loss

        losses.append(lone.step(closure).item())
    model = network()
    parts = {"model": model, "optimizer": torch.optim.LBFGS(model.parameters(), 0.3, max_iter=4), "law": law}
    run = built(**parts).run(5, evaluate_every=1)
    assert evaluations > 10 and torch.equal(parameters(model), parameters(reference))
    assert run.curves["weighted_loss"][1:] == pytest.approx(losses, rel=1e-6)
    for steps, until in ((2, lambda point: True), (5, None)):  # and its memory goes through a checkpoint
        model = network()
        parts = {"model": model, "optimizer": torch.optim.LBFGS(model.parameters(), 0.3, max_iter=4), "law": law}
        built(**parts).run(steps, evaluate_every=1, until=until, checkpoint=tmp_path / "run.pt")
    assert torch.equal(parameters(model), parameters(reference))
    with pytest.raises(TrainingError, match="LBFGS evaluates a step's loss several times"):
        built(**parts, additive=lambda model, generator: None)


@pytest.mark.parametrize("name", [name for name in optimizers.NAMES if name not in ("LBFGS", "SparseAdam", "Muon")])
def test_every_optimiser_of_torch_steps_as_on_its_own_and_is_resumed(tmp_path, name):
    reference, data = network(), problem()
    lone = optimizers.by_name(name, reference.parameters(), 0.01)
    for _ in range(6):
        lone.zero_grad()
        (cross_entropy(reference(data.train[0]), data.train[1]) @ torch.full((N,), 1 / N)).backward()
        lone.step()
    for steps in (3, 6):
        model = network()
        ours = built(model=model, optimizer=optimizers.by_name(name, model.parameters(), 0.01))
        ours.run(steps, checkpoint=tmp_path / "run.pt")
    assert torch.equal(parameters(model), parameters(reference))


def test_a_rate_is_lowered_on_a_plateau_of_the_training_loss(tmp_path):
    def begin():
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 3.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.1)
        return built(model=model, optimizer=optimizer, law=GaussianFisher(N, 1), schedule=schedule)

    ours = begin()
    losses = ours.run(30, evaluate_every=2).curves["train_loss"][1:]
    rate, best = 3.0, math.inf
    for loss in losses:
        best, rate = (loss, rate) if loss < 0.9 * best else (best, rate / 2)
    assert ours.optimizer.param_groups[0]["lr"] == rate < 1
    for steps in (14, 30):
        resumed = begin()
        resumed.run(steps, evaluate_every=2, checkpoint=tmp_path / "run.pt")
    assert torch.equal(parameters(resumed.model), parameters(ours.model))


# --- statistics of a batch


def normalised():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def test_batch_statistics_and_chunks_are_refused():
    with pytest.raises(Refused, match=r"statistics .*ghost=7"):
        trainer(model=normalised(), chunk=7).run(1)
    trainer(model=normalised(), chunk=24).run(1)
    trainer(by_name("SGD", N, 7), normalised(), chunk=7).run(1)
    frozen = normalised()
    frozen[1].eval()
    trainer(model=frozen, chunk=7).run(1)
    assert frozen[1].num_batches_tracked == 0 and not frozen[1].training


@pytest.mark.parametrize("chunk", [3, 8, 100])
def test_ghost_batches_are_that_large_whatever_the_chunk(chunk):
    ours = trainer(FullBatch(N, B), normalised(), chunk=chunk, ghost=8)
    ours.step()
    model, data = normalised(), problem()
    losses = torch.cat(
        [cross_entropy(model(data.train[0][part]), data.train[1][part]) for part in torch.arange(N).split(8)]
    )
    losses.mean().backward()
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(0.5 * p.grad)
    torch.testing.assert_close(parameters(ours.model), parameters(model), rtol=0, atol=1e-6)
    with pytest.raises(Refused, match="24 samples cannot be parted into ghost batches of exactly 10"):
        trainer(FullBatch(N, B), normalised(), ghost=10).run(1)


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
    regular = trainer(measure=measure, measure_at=(3,), measure_every=4).run(9, evaluate_every=2)
    assert regular.measured["step"] == [0, 3, 4, 8]


def test_a_run_is_over_when_a_point_of_the_curves_says_so():
    whole = trainer().run(8, evaluate_every=2)
    cut = trainer().run(8, evaluate_every=2, until=lambda point: point["step"] >= 3)
    assert cut.curves == {name: values[:3] for name, values in whole.curves.items()}
    assert cut.final["steps"] == 4 and cut.final["train_loss"] == cut.curves["train_loss"][-1]


def test_a_run_that_is_over_stays_over_when_it_is_resumed(tmp_path):
    """Killed between its stop and its record: the checkpoint says so, also to a rule that would not say it again."""
    path, asked = tmp_path / "run.pt", []

    def patient(point):  # stops at the second point that it sees, wherever that is
        asked.append(point["step"])
        return len(asked) == 2

    unbroken = trainer().run(20, evaluate_every=3, until=patient, checkpoint=path)
    again = trainer().run(20, evaluate_every=3, until=patient, checkpoint=path)
    assert asked == [3, 6] and checkpoints.load(path)["over"] is True
    assert (again.curves, again.final) == (unbroken.curves, unbroken.final) and again.final["steps"] == 6
    # without the rule the same run goes on, to the end of one that was never stopped
    whole = trainer().run(12, evaluate_every=3)
    assert trainer().run(12, evaluate_every=3, checkpoint=path).curves == whole.curves


def test_a_run_stopped_by_its_rule_can_go_on_in_memory():
    ours = trainer()
    ours.run(12, evaluate_every=3, until=lambda point: point["step"] == 6)
    whole = trainer().run(12, evaluate_every=3)
    assert ours.run(12, evaluate_every=3, until=lambda point: False).curves == whole.curves


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


def test_a_run_out_of_time_keeps_what_it_has_done(tmp_path):
    path = tmp_path / "run.pt"
    for done in (1, 2, 3):  # a call makes a step at least
        with pytest.raises(training.OutOfTime, match=f"out of time at step {done} of 4"):
            trainer().run(4, evaluate_every=2, checkpoint=path, save_every_s=1e9, deadline=0)
        assert checkpoints.load(path)["steps_done"] == done
    late = trainer().run(4, evaluate_every=2, checkpoint=path, save_every_s=1e9, deadline=0)
    whole = trainer().run(4, evaluate_every=2, deadline=1e12)
    assert (late.curves, late.final) == (whole.curves, whole.final)


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


class Wandering(nn.Module):
    """Noise from generators of its own, and from the global ones of Python and numpy."""

    def __init__(self):
        super().__init__()
        self.own, self.numpy, self.python = torch.Generator(), np.random.default_rng(4), random.Random(4)
        self.own.manual_seed(4)

    def forward(self, x):
        factors = float(torch.rand((), generator=self.own)), self.numpy.random(), self.python.random()
        return x * sum((*factors, random.random(), np.random.rand())) if self.training else x


def test_generators_of_the_model_and_of_a_noise_go_on_where_they_were(tmp_path):
    def begin():
        noise = np.random.default_rng(6)

        def additive(model, _):
            for p in model.parameters():
                p.grad += torch.as_tensor(0.1 * noise.standard_normal(p.shape), dtype=p.dtype)

        return trainer(model=nn.Sequential(Wandering(), network()), additive=additive)

    random.seed(1), np.random.seed(1)
    unbroken = begin().run(9, evaluate_every=3)
    random.seed(1), np.random.seed(1)
    begin().run(4, checkpoint=tmp_path / "run.pt", evaluate_every=3, until=lambda point: True)
    random.seed(2), np.random.seed(2)
    resumed = begin().run(9, checkpoint=tmp_path / "run.pt", evaluate_every=3)
    assert (resumed.curves, resumed.final) == (unbroken.curves, unbroken.final)


HELD = """
    import os, sys
    sys.path.insert(0, sys.argv[1])
    from test_training import stopping
    import torch

    torch.set_num_threads(1)
    stopping(sys.argv[2], lambda: os.kill(os.getpid(), int(sys.argv[3])))
    print("it went on")
"""


def stopping(path, at_five):
    """A run of 9 steps, during the fifth of which something happens."""
    calls = itertools.count(1)

    def additive(model, generator):
        if next(calls) == 5:
            at_five()

    return trainer(additive=additive).run(9, evaluate_every=4, checkpoint=path, save_every_s=1e9, show=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_end_the_step_and_write_a_checkpoint_first(tmp_path, number):
    path = tmp_path / "run.pt"
    if number == signal.SIGTERM:
        command = [sys.executable, "-c", textwrap.dedent(HELD), str(Path(__file__).parent), str(path), str(int(number))]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        stopped = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert stopped.returncode == -signal.SIGTERM and stopped.stdout == "", stopped.stderr
    else:
        with pytest.raises(KeyboardInterrupt):
            stopping(path, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert checkpoints.load(path)["steps_done"] == 5
    resumed, unbroken = stopping(path, int), trainer().run(9, evaluate_every=4)
    assert (resumed.curves, resumed.final) == (unbroken.curves, unbroken.final)


SCRIPT = """
    import os, signal, sys, torch
    from pathlib import Path
    from support.experiments import runs

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
    runs.record(runs.RunSpec("wu.fig1a", "smoke", "MSGD-Cov", 1), folder, folder / "work", save_every_s=0)
"""


def test_a_killed_process_leaves_what_the_next_one_needs(tmp_path):
    """SIGKILL within a step, and between a checkpoint and its renaming; the record is that of an
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
        spec = runs.RunSpec("wu.fig1a", "smoke", "MSGD-Cov", 1)
        path = runs.record(spec, folder, folder / "work", save_every_s=0, show=False)
        records.append(json.loads(path.read_text(encoding="utf-8")))
        del records[-1]["provenance"]["wall_s"], records[-1]["provenance"]["commit"], records[-1]["started"]
    assert records[0] == records[1]
    assert [path.name for path in checkpoint.parent.iterdir()] == ["msgd-cov-seed1.lock"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    trainer().run(3, checkpoint=path, save_every_s=0, identity={"lr": 0.5, "seed": 1})
    with pytest.raises(TrainingError, match=r"run.pt is of another run \(lr = 0.5, now 0.1\): delete it"):
        trainer().run(3, checkpoint=path, identity={"lr": 0.1, "seed": 1})
    with pytest.raises(TrainingError, match="has done 3 steps, more than steps = 2"):
        trainer().run(2, checkpoint=path, identity={"lr": 0.5, "seed": 1})


def test_a_checkpoint_of_other_parts_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    trainer().run(2, checkpoint=path)
    wider = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3))
    with pytest.raises(TrainingError, match=r"run.pt does not fit this run \(Error.* in loading state_dict"):
        trainer(model=wider).run(3, checkpoint=path)
    ours = built()
    ours.schedule = torch.optim.lr_scheduler.StepLR(ours.optimizer, 2)
    with pytest.raises(TrainingError, match=r"run.pt does not fit this run \(it holds no schedule\)"):
        ours.run(3, checkpoint=path)
    checkpoints.save(path, {"identity": {}, "model": {}})
    with pytest.raises(CheckpointError, match=r"run.pt lacks steps_done, .*generators: delete it"):
        trainer().run(3, checkpoint=path)


def test_what_cannot_be_stored_is_refused_before_any_work(tmp_path):
    for where, named in ((tmp_path, r"\['folder'\] = PosixPath"), (range(2), r"\['folder'\] = range\(0, 2\)")):
        ours = trainer()
        with pytest.raises(CheckpointError, match=f"could never be read again: state\\['identity'\\]{named}"):
            ours.run(3, checkpoint=tmp_path / "run.pt", identity={"folder": where})
        assert ours.steps_done == 0 and not ours.curves["step"]
    with pytest.raises(CheckpointError, match="cannot be written"):
        trainer().run(3, checkpoint="/proc/run.pt")


def test_numpy_numbers_in_a_schedule_a_measure_and_an_identity_are_kept(tmp_path):
    def begin():
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, np.int64(9), eta_min=np.float32(0.1))
        measure = {"measure": lambda model, step: {"norm": np.float32(0.1) * step}, "measure_every": np.int64(2)}
        return built(model=model, optimizer=optimizer, schedule=schedule, **measure)

    unbroken = begin().run(np.int64(9), evaluate_every=np.int64(3))
    for steps in (5, 9):
        resumed = begin().run(
            steps,
            evaluate_every=3,
            checkpoint=tmp_path / "run.pt",
            identity={"lr": np.float64(0.5), "seed": np.int64(1)},
            until=(lambda point: True) if steps == 5 else None,
        )
    assert (resumed.curves, resumed.final, resumed.measured) == (unbroken.curves, unbroken.final, unbroken.measured)
    json.dumps(resumed.measured)


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
    code = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from support.files import lock
with lock(Path({str(path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
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
        (lambda: trainer().run(1.5), "steps = 1.5 is not an integer"),
        (lambda: trainer().run(math.nan), "steps = nan is not an integer"),
        (lambda: trainer().run(True), "steps = True is not an integer"),
        (lambda: trainer().run(5, evaluate_every=0), "evaluate_every = 0"),
        (lambda: trainer().run(5, save_every_s=math.nan), "save_every_s = nan is out of range"),
        (lambda: trainer().run(5, until=3), "until = 3 cannot be called"),
        (lambda: trainer().run(5, identity="gd"), "identity = 'gd' is of type str"),
        (lambda: trainer().run(5, checkpoint=3), "path = 3 is of type int"),
        (lambda: trainer(chunk=2.0), "chunk = 2.0 is not an integer"),
        (lambda: trainer(ghost=1), "ghost = 1 is out of range"),
        (lambda: trainer(loss="nll"), "loss = 'nll' cannot be called"),
        (lambda: trainer(additive=3), "additive = 3 cannot be called"),
        (lambda: trainer(measure=3), "measure = 3 cannot be called"),
        (lambda: trainer(schedule=3), "schedule = 3 is of type int"),
        (lambda: trainer("SGD"), "law = 'SGD' is of type str"),
        (lambda: trainer(data=problem().train), "data = .* is of type tuple: give Data.on"),
        (lambda: built(model=None), "model = None is of type NoneType"),
        (lambda: built(optimizer="SGD"), "optimizer = 'SGD' is of type str"),
        (lambda: built(generator=None), "generator = None is no torch generator"),
        (lambda: built(generator=5), "generator = 5 is no torch generator"),
        (lambda: built(optimizer=torch.optim.SGD(network().parameters(), 0.1)), "none of the model's parameters"),
        (lambda: trainer(schedule=torch.optim.lr_scheduler.StepLR(sgd(network()), 2)), "is another optimiser's"),
        (lambda: trainer(model=network().to("meta")), "the model is on meta, the data on cpu"),
    ],
)
def test_bad_input_is_refused(build, message):
    with pytest.raises(Refused, match=message):
        build()


def test_the_curves_are_the_documented_ones():
    assert tuple(trainer().run(1).curves) == training.CURVES
