"""Work recorded once and replayed: what it leaves, what it refuses; and a device's way through it, by stand-ins that,
like a graph, do nothing while they record and the same again whenever they are replayed.
"""

import contextlib

import pytest
import torch

from support.experiments import bands, captured, recording
from support.experiments.bands import Program
from support.experiments.captured import Captured
from support.experiments.judging import Data
from support.experiments.models import LeNet, normal_init
from support.experiments.training import Trainer
from support.msgd import backward_in_chunks
from support.sampling import by_name

N, B = 12, 3


class Graph:
    """What torch.cuda.CUDAGraph is: calls that were made while it recorded, made again by a replay."""

    recording = None

    def __init__(self):
        self.calls = []

    def replay(self):
        for call in self.calls:
            call()


class Stream:
    def wait_stream(self, other):
        assert isinstance(other, Stream)


@pytest.fixture
def graphs(monkeypatch):
    """Graphs that were made; steps of a band and passes of a recording are what they record."""
    made = []

    @contextlib.contextmanager
    def graph(one):
        made.append(one)
        Graph.recording = one
        yield
        Graph.recording = None

    def recorded(owner, name):
        original = getattr(owner, name)

        def call(*arguments):
            if Graph.recording is None:
                original(*arguments)
            else:
                Graph.recording.calls.append(lambda: original(*arguments))

        monkeypatch.setattr(owner, name, call)

    recorded(bands._Band, "step"), recorded(captured._Recording, "_pass")
    stand_ins = {"Stream": Stream, "current_stream": Stream, "stream": lambda one: contextlib.nullcontext()}
    for name, one in (stand_ins | {"CUDAGraph": Graph, "graph": graph, "synchronize": lambda: None}).items():
        monkeypatch.setattr(f"torch.cuda.{name}", one)
    return made


def trainers(passes=backward_in_chunks):
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.rand(N, 1, 28, 28, generator=generator), torch.arange(N) % 10
    data = Data.on("cpu", (inputs, labels), (inputs[:3].clone(), labels[:3]), 3)
    for seed, method in enumerate(("GD", "SGD", "MSGD-Bernoulli")):
        model = normal_init(LeNet(), 0.1, torch.Generator().manual_seed(seed))
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        own = {"generator": torch.Generator().manual_seed(seed), "passes": passes, "chunk": 5}
        yield Trainer(model, optimizer, by_name(method, N, B), data, **own)


def parameters(trainer):
    return torch.cat([one.detach().flatten() for one in trainer.model.parameters()])


def test_a_program_on_a_device_records_both_ways_and_steps_as_its_runs_do(graphs):
    """A batch that outgrows its room is recorded again, in the way that was faster."""
    alone, joint = list(trainers()), list(trainers())
    program = Program(joint)
    program.device = torch.device("cuda")
    program.advance(5)
    assert len(graphs) >= 2 and program.unfold in (False, True)
    assert all(band.network.template is band.network._templates[program.unfold] for band in program.bands)
    program.give()
    for one, other in zip(alone, joint, strict=True):
        for _ in range(5):
            one.step()
        torch.testing.assert_close(parameters(other), parameters(one), rtol=0, atol=2e-6)
        torch.testing.assert_close(other.sums, one.sums, rtol=1e-6, atol=0)


def test_captured_passes_on_a_device_are_those_of_msgd(graphs, monkeypatch):
    monkeypatch.setattr(captured, "recorded", lambda work, _, changes: recording.recorded(work, "cuda", changes))
    for plain, ours in zip(trainers(), trainers(Captured()), strict=True):
        for _ in range(4):
            plain.step(), ours.step()
        assert torch.equal(parameters(ours), parameters(plain))
    assert len(graphs) >= 2 and all(len(one.calls) == 1 for one in graphs)


def test_warm_ups_come_before_the_recording(graphs):
    total, calls = torch.zeros(1), []

    def work():
        if Graph.recording is None:
            calls.append(len(graphs))
            total.add_(1)
        else:
            Graph.recording.calls.append(work)

    play = recording.recorded(work, "cuda", [total])
    assert calls[: recording.WARM_UPS] == [0] * recording.WARM_UPS and len(graphs) == 1 and total == 0
    play(), play()
    assert total == 2


def test_recording_leaves_what_it_was_told_of_as_it_was():
    total, calls = torch.ones(2), []
    play = recording.recorded(lambda: (calls.append(1), total.add_(1)), "cpu", [total])
    assert len(calls) == 3 and torch.equal(total, torch.ones(2))
    play()
    assert torch.equal(total, torch.full((2,), 2.0))


def test_a_replay_that_differs_from_its_work_is_refused(monkeypatch):
    total, broken = torch.ones(2), torch.full((2,), torch.nan)

    def work():
        total.add_(1), broken.mul_(2)

    monkeypatch.setattr(recording, "_rehearsed", lambda work: lambda: total.add_(1.001))
    recording.recorded(work, "cpu", [total, broken])
    monkeypatch.setattr(recording, "_rehearsed", lambda work: lambda: total.add_(1.1))
    with pytest.raises(recording.RecordingError, match=r"differs from what it replays by 0.1, where that moves 1"):
        recording.recorded(work, "cpu", [total, broken])
    assert torch.equal(total, torch.ones(2))
