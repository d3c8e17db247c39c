"""Passes that a graph replays, on a CPU by its stand-in: those of MSGD bit for bit, or left as they are."""

import pytest
import torch
from torch import nn

from support.experiments import captured, training
from support.experiments.captured import Captured
from support.experiments.ghost import GhostBatchNorm2d
from support.experiments.judging import cross_entropy
from support.experiments.memory import Fitting
from support.experiments.models import LeNet, normal_init
from support.experiments.training import Data, Trainer
from support.msgd import backward_in_chunks
from support.sampling import by_name

N, B = 24, 4


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lenet():
    return normal_init(LeNet(), 0.1, torch.Generator().manual_seed(2)).to(memory_format=torch.channels_last)


def normalised():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, 10))


def ghostly():
    torch.manual_seed(3)
    layers = nn.Conv2d(1, 2, 9, stride=9), GhostBatchNorm2d(2, ghost=4), nn.ReLU(inplace=True), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(18, 10)).to(memory_format=torch.channels_last)


class Half(nn.Module):
    """Some of its parameters have no part in the loss, one is frozen."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.layer, self.unused, self.frozen = nn.Linear(784, 10), nn.Linear(3, 3), nn.Parameter(torch.ones(10))
        self.frozen.requires_grad_(False)

    def forward(self, images):
        return self.layer(images.flatten(1)) * self.frozen


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.Linear(784, 10)

    def forward(self, images):
        return self.layer(images.mul_(0.5).flatten(1))


def run(model, method, passes, steps=5, chunk=10, momentum=0.9, **options):
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(N, 1, 28, 28, generator=generator), torch.arange(N) % 10
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=momentum, weight_decay=0.1)
    data = Data.on("cpu", (images, labels), (images[:5].clone(), labels[:5]), 5)
    own = {"generator": torch.Generator().manual_seed(5), "chunk": chunk, "passes": passes, **options}
    trainer = Trainer(model, optimizer, by_name(method, N, B), data, **own)
    return trainer.run(steps, evaluate_every=2, show=False)


def same(one, other):
    """Equal curves; torch's inner product that is logged depends on where the weights begin in memory."""
    for name in training.CURVES:
        found, expected = one.curves[name][1:], other.curves[name][1:]
        assert found == (pytest.approx(expected, rel=1e-6) if name == "weighted_loss" else expected), name


def state(model):
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


@pytest.mark.parametrize("method", ["GD", "SGD", "MSGD-Cov", "MSGD-Bernoulli", "[MSGD-Fisher]-8"])
@pytest.mark.parametrize("chunk", [5, 10, 24, 100])
def test_a_run_is_the_same_bit_for_bit(method, chunk):
    """Whole chunks, a last one that is smaller, batches of another size each step."""
    plain, ours, passes = lenet(), lenet(), Captured()
    one, other = run(plain, method, backward_in_chunks, chunk=chunk), run(ours, method, passes, chunk=chunk)
    assert torch.equal(state(plain), state(ours))
    same(one, other)
    assert method == "MSGD-Bernoulli" or [one for one in passes.recordings.values() if one]


@pytest.mark.parametrize("make", [Half, InPlace])
def test_models_of_other_habits_step_as_they_do(make):
    plain, ours, passes = make(), make(), Captured()
    if make is InPlace:  # the trainer refuses to judge it
        for one, way in ((plain, backward_in_chunks), (ours, passes)):
            for _ in range(3):
                one.zero_grad()
                list(way(one, cross_entropy, torch.ones(4, 784), torch.arange(4), torch.ones(4), 2))
        assert torch.equal(plain.layer.weight.grad, ours.layer.weight.grad)
    else:
        run(plain, "GD", backward_in_chunks), run(ours, "GD", passes)
        assert torch.equal(state(plain), state(ours)) and ours.unused.weight.grad is None
    assert any(passes.recordings.values())


@pytest.mark.parametrize(("options", "chunk"), [({}, 24), ({"ghost": 8}, 100), ({"ghost": 8}, 3)])
def test_statistics_of_batches_and_ghosts_are_kept_as_they_are(options, chunk):
    """Running statistics too: neither the rehearsal nor the comparison leaves a trace in them."""
    plain, ours, passes = normalised(), normalised(), Captured()
    run(plain, "GD", backward_in_chunks, chunk=chunk, **options), run(ours, "GD", passes, chunk=chunk, **options)
    assert torch.equal(state(plain), state(ours)) and any(passes.recordings.values())
    assert ours[2].num_batches_tracked == 5 * (24 // options.get("ghost", 24))


def test_ghost_batches_of_a_layer_are_kept_too():
    plain, ours, passes = ghostly(), ghostly(), Captured()
    run(plain, "GD", backward_in_chunks, chunk=8), run(ours, "GD", passes, chunk=8)
    assert torch.equal(state(plain), state(ours)) and any(passes.recordings.values())
    assert ours[1].num_batches_tracked == 5 * 24 // 4


def test_gradients_that_are_there_are_added_to():
    model, passes = Half(), Captured()
    step = model, cross_entropy, torch.ones(4, 784), torch.arange(4), torch.full((4,), 0.25), 2
    for _ in range(2):
        model.zero_grad()
        list(passes(*step))
    once = model.layer.weight.grad.clone()
    list(passes(*step))
    torch.testing.assert_close(model.layer.weight.grad, 2 * once)
    model.layer.weight.grad = torch.ones_like(once)
    list(passes(*step))
    torch.testing.assert_close(model.layer.weight.grad, 1 + once)


@pytest.mark.parametrize("where", ["dropout", "generator"])
def test_random_numbers_are_not_recorded_and_go_on(where, capsys):
    def make():
        torch.manual_seed(7)
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.Dropout(0.5 * (where == "dropout")), nn.Linear(8, 10))
        if where == "generator":
            model.own = torch.Generator()
        return model

    found = []
    for passes in (backward_in_chunks, Captured()):
        model = make()
        torch.manual_seed(8)
        run(model, "GD", passes)
        found.append(state(model))
    assert torch.equal(*found) and passes.recordings and not any(passes.recordings.values())
    assert capsys.readouterr().out.count("draws random numbers): they go on as they are\n") == 1


def test_what_cannot_be_recorded_is_said_once_and_left_as_it_is(capsys, monkeypatch):
    def fails(*_):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with more. Or less.")

    monkeypatch.setattr(captured, "recorded", fails)
    plain, ours = lenet(), lenet()
    run(plain, "GD", backward_in_chunks, chunk=24), run(ours, "GD", Captured(), chunk=24)
    said = capsys.readouterr().out
    assert said.startswith("passes of 24 samples are not recorded (CUDA error: operation not permitted when stream")
    assert said.count("\n") == 1 and torch.equal(state(plain), state(ours))


def test_a_recording_with_another_gradient_is_not_used(capsys, monkeypatch):
    def wrong(work, device, changes):
        return lambda: (work(), [one.mul_(1.01) for one in changes[:1]])

    monkeypatch.setattr(captured, "recorded", wrong)
    plain, ours = lenet(), lenet()
    run(plain, "GD", backward_in_chunks, chunk=24), run(ours, "GD", Captured(), chunk=24)
    assert "(their gradient is another one)" in capsys.readouterr().out and torch.equal(state(plain), state(ours))


def test_a_model_that_changes_is_recorded_anew():
    model, passes = normalised(), Captured()
    step = model, cross_entropy, torch.rand(4, 784), torch.arange(4), torch.ones(4), 4
    for mode, half in ((True, False), (True, True), (False, False)):
        model.train(mode)
        with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False):
            for _ in range(3):
                model.zero_grad()
                list(passes(*step))
    model.zero_grad()
    list(backward_in_chunks(*step))
    expected = model[1].weight.grad
    model.zero_grad()
    list(passes(*step))
    assert torch.equal(model[1].weight.grad, expected) and len(passes.recordings) == 3


def test_recordings_are_few():
    model, passes = Half(), Captured()
    for m in range(1, 9):
        for _ in range(2):
            model.zero_grad()
            list(passes(model, cross_entropy, torch.ones(m, 784), torch.zeros(m).long(), torch.ones(m), None))
    assert len(passes.recordings) == captured._MOST


def test_losses_are_logged_as_they_are_and_memory_may_be_small():
    passes = Fitting(Captured())
    same(run(lenet(), "MSGD-Cov", backward_in_chunks), run(lenet(), "MSGD-Cov", passes))
    assert any(passes.passes.recordings.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["GD", "SGD", "MSGD-Cov"])
def test_a_device_gives_the_same_run_by_graphs(method):
    found = []
    for passes in (backward_in_chunks, Captured()):
        model = lenet().cuda()
        generator = torch.Generator().manual_seed(1)
        images, labels = torch.rand(N, 1, 28, 28, generator=generator), torch.arange(N) % 10
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        data = Data.on("cuda", (images, labels), (images, labels), N)
        own = {"generator": torch.Generator().manual_seed(5), "chunk": 10, "passes": passes}
        found.append(Trainer(model, optimizer, by_name(method, N, B), data, **own).run(6, evaluate_every=2, show=False))
    assert any(passes.recordings.values())
    assert found[0].curves["train_loss"] == pytest.approx(found[1].curves["train_loss"], rel=1e-4)
