"""Several processes that share the passes of a run: two ranks on the CPU end where one process ends, up to rounding."""

import contextlib
import io
import os
import signal
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from support import jobs
from support.__main__ import main
from support.experiments import distributed, presets, records, runs, torchrun
from support.experiments.distributed import RankError, RankLost, slices
from support.experiments.ghost import GhostBatchNorm2d
from support.experiments.inputs import Augment
from support.experiments.runs import RunSpec
from support.experiments.spread import Spread
from support.experiments.training import Data, Diverged, Trainer, cross_entropy
from support.sampling import by_name

N, B, STEPS = 24, 4, 4
SPEC = RunSpec("wu.fig1a", "smoke", "MSGD-Cov", 1)
LAWS = ("GD", "SGD", "MSGD-Cov", "MSGD-[Fisher-6]", "[MSGD-Cov]-8")


class Idle(nn.Module):
    """A network with a layer that no sample passes."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(2 * 36, 3), nn.Linear(3, 3)

    def forward(self, images):
        return self.used(images.flatten(1))


def network(kind):
    torch.manual_seed(3)
    if kind == "idle":
        return Idle()
    first, last = nn.Conv2d(2, 4, 3), [nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)]
    norm = {"plain": [], "norm": [nn.BatchNorm2d(4, momentum=0.3)], "ghost": [GhostBatchNorm2d(4, 4)]}
    front = {"augmented": [Augment(torch.Generator().manual_seed(2), pad=1)], "drop": [nn.Dropout(0.5)]}
    return nn.Sequential(*front.get(kind, []), first, *norm.get(kind, []), *last)


def trained(kind, law="MSGD-Cov", passes=None, loss=cross_entropy, b=B, seed=5, **options):
    """A run of a few steps: its trainer, when it is done."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(N + 9, 2, 6, 6, generator=generator), torch.arange(N + 9) % 3
    model, data = network(kind), Data.on("cpu", (images[:N], labels[:N]), (images[N:], labels[N:]), watched=9)
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.5, weight_decay=0.1)
    noise = torch.Generator().manual_seed(seed)
    options = {"chunk": 8, "passes": passes or distributed.shared(), **options}
    ours = Trainer(model, optimizer, by_name(law, N, b), data, generator=noise, loss=loss, **options)
    ours.run(STEPS, evaluate_every=2, show=False)
    return ours


CASES = {
    **{law: partial(trained, "plain", law) for law in LAWS},
    "one sample, and none for the second rank": partial(trained, "plain", "SGD", b=1),
    "a layer that idles": partial(trained, "idle"),
    "a layer that idles, and no sample": partial(trained, "idle", "SGD", b=1),
    "ghost batches: two and one": partial(trained, "norm", ghost=8),
    "ghost batches for the first rank alone": partial(trained, "norm", "SGD", ghost=4),
    "a layer of ghost batches": partial(trained, "ghost", chunk=12),
    "augmented": partial(trained, "augmented", "SGD"),
}
REFUSED = {
    "dropout": (partial(trained, "drop"), "draws numbers that depend on the samples"),
    "a whole batch": (partial(trained, "norm", chunk=N), "normalises by the statistics of the batch"),
    "other noise": (lambda: trained("plain", seed=distributed.distributed.get_rank()), "begin with other parameters"),
    "a loss that keeps": (lambda: trained("plain", loss=Spread(cross_entropy).loss), "keeps what it sees"),
    "parts of a ghost": (partial(trained, "norm", "SGD", b=6, ghost=4), "6 samples cannot be parted"),
}


def state(ours):
    """Parameters and buffers as arrays, which a pipe takes, and curves."""
    return {name: tensor.detach().numpy().copy() for name, tensor in ours.model.state_dict().items()}, ours.curves


def member(rank, folder):
    """The life of a rank: every case, then every refusal."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    with torchrun.joined("cpu", f"file://{folder}/meet"):
        found, refused = {name: state(case()) for name, case in CASES.items()}, {}
        for name, (case, _) in REFUSED.items():
            try:
                case()
            except ValueError as error:
                refused[name] = str(error)
    return found, refused


def both(function, *arguments):
    ended = jobs.run(function, [(0, *arguments), (1, *arguments)], workers=2, timeout=300, preload=(torchrun.__name__,))
    return {one.call[0]: one for one in ended}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    ended = both(member, tmp_path_factory.mktemp("ranks"))
    assert not (errors := [one.error for one in ended.values() if one.error]), errors
    return [ended[rank].result for rank in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_end_where_one_process_ends(ranks, name):
    """Parameters, running statistics and curves; and both ranks have the same, bit for bit."""
    alone, curves = state(CASES[name]())
    (first, its_curves), (second, _) = (found[name] for found, _ in ranks)
    assert first.keys() == alone.keys()
    for key, values in alone.items():
        np.testing.assert_allclose(first[key], values, rtol=1e-5, atol=2e-6)
        np.testing.assert_array_equal(first[key], second[key])
    for key, values in curves.items():
        np.testing.assert_allclose(np.array(its_curves[key], float), np.array(values, float), rtol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_slices_would_change_is_refused_by_both(ranks, name):
    assert all(REFUSED[name][1] in refused[name] and "\n" not in refused[name] for _, refused in ranks)


@pytest.mark.parametrize(("m", "unit", "count"), [(1, 1, 3), (7, 1, 2), (24, 8, 2), (24, 4, 5), (5, 5, 4)])
def test_slices_are_whole_units_in_order_none_left_out_and_even(m, unit, count):
    found = slices(m, unit, count)
    assert found[0][0] == 0 and found[-1][1] == m and all(a[1] == b[0] for a, b in pairwise(found))
    sizes = [last - first for first, last in found]
    assert all(size % unit == 0 for size in sizes) and sizes[0] and max(sizes) - min(sizes) <= unit


def leaver(rank, folder, leaves):
    """A rank that makes a record; the second leaves after 7 steps."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ.pop("SUPPORT_DATA", None)
    steps, step = [], runs.Trainer.step

    def counted(self):
        steps.append(1)
        if rank == 1 and len(steps) > leaves:
            raise Diverged("gone")
        step(self)

    runs.Trainer.step = counted
    with torchrun.joined("cpu", f"file://{folder}/meet-{leaves}"):
        every = 0 if leaves < 40 else 60
        torchrun.record(SPEC, folder / "records", folder / "work", show=False, save_every_s=every)
    return len(steps)


def test_a_rank_that_ends_ends_the_run_and_the_same_call_goes_on(tmp_path, monkeypatch):
    ended = both(leaver, tmp_path, 7)
    assert isinstance(ended[0].error, RankLost) and "another process of this run ended" in str(ended[0].error)
    assert not list(tmp_path.rglob("*.json")) and len(str(ended[0].error).splitlines()) == 1
    ended = both(leaver, tmp_path, 100)
    assert [ended[rank].result for rank in (0, 1)] == [33, 33], [one.error for one in ended.values()]
    record = records.read(SPEC.path(tmp_path / "records"))
    assert record["provenance"]["processes"] == 2 and not list((tmp_path / "work").rglob("*.pt"))
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    alone = runs.run(SPEC, show=False)
    assert record["curves"]["train_loss"] == pytest.approx(alone.curves["train_loss"], rel=1e-4)


def test_an_average_over_all_batches_is_refused():
    model = nn.Sequential(nn.BatchNorm2d(2, momentum=None))
    with pytest.raises(RankError, match="averages over all its batches"):
        distributed._Known.of(model, cross_entropy, 4)


@pytest.mark.parametrize(
    ("variables", "message"),
    [({}, "RANK"), ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}, "start this with torchrun")],
)
def test_processes_that_torchrun_did_not_start_are_refused(monkeypatch, variables, message):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RankError, match=message), torchrun.joined("cpu"):
        pass


def test_more_processes_than_devices_are_refused(monkeypatch):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    wanted = "process 3 has no device of its own: start --nproc-per-node 2"
    with pytest.raises(RankError, match=wanted), torchrun.joined("cuda"):
        pass


def test_a_process_that_is_told_to_stop_says_so_and_the_others_say_nothing(monkeypatch):
    """As torchrun tells all when one has died."""
    monkeypatch.setattr(torchrun, "joined", lambda device: contextlib.nullcontext(0))
    before = signal.getsignal(signal.SIGTERM)

    def stopped():
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RankLost, match="told to stop, as all are when one ends: start the same command again"):
        torchrun.together(stopped, "cpu")
    monkeypatch.setenv("RANK", "1")
    assert torchrun.together(stopped, "cpu") == 2 and signal.getsignal(signal.SIGTERM) == before
    assert torchrun.together(lambda: signal.raise_signal(signal.SIGINT), "cpu") == 130


def test_an_error_of_one_process_parts_it_from_the_others(monkeypatch):
    monkeypatch.setattr(torchrun, "world", lambda: 2)
    torchrun.part("SGD seed 1", Diverged("the loss is not finite"))
    with pytest.raises(RankError, match="No space left"):
        torchrun.part("SGD seed 1", OSError(28, "No space left on device"))


def commanded(rank, folder):
    """What the command gives in a rank, and what it prints: a run that diverges, and one that does not."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ.pop("SUPPORT_DATA", None)
    wild, joined = presets.PRESETS["wu.fig1a"], torchrun.joined
    setting = wild.setting("smoke")
    presets.PRESETS["wild"] = replace(wild, name="wild", scales=wild.scales | {"smoke": replace(setting, lr=3e38)})
    found = []
    for name in ("wild", "wu.fig1a", "wu.fig9"):
        torchrun.joined = partial(joined, at=f"file://{folder}/meet-{name}")
        arguments = ["--scale", "smoke", "--methods", "SGD,GD", "--threads", "1", "-o", str(folder / "records")]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = main(["experiments", "run", name, *arguments, "--work", str(folder / "work")])
        found.append((code, printed.getvalue()))
    return found


def test_the_command_speaks_once_and_goes_on_after_a_run_that_diverges_in_all_ranks(tmp_path):
    ended = both(commanded, tmp_path)
    assert not (errors := [one.error for one in ended.values() if one.error]), errors
    assert [code for code, _ in ended[0].result] == [1, 0, 2] == [code for code, _ in ended[1].result]
    assert [said for _, said in ended[1].result] == ["", "", ""]
    wild, fine, unknown = (said for _, said in ended[0].result)
    assert wild.count("the loss is not finite") == 2 and fine.count("test accuracy") == 2
    assert unknown.startswith("error: there is no preset 'wu.fig9'") and unknown.count("\n") == 1
    assert len(list((tmp_path / "records").rglob("*.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "wu.fig1a", "--jobs", "2"], "jobs = 2 beside 2 processes of torchrun: leave --jobs out"),
        (["queue"], "a queue is no work for 2 processes of torchrun"),
    ],
)
def test_what_processes_of_torchrun_cannot_share_is_refused(monkeypatch, capsys, arguments, message):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["experiments", *arguments]) == 2
    assert message in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert main(["experiments", *arguments]) == 2
    assert "WORLD_SIZE = 'two' is no number of processes" in capsys.readouterr().err
