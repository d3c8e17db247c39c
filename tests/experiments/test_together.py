"""Many runs in one program: each is the run that its trainer makes alone, up to rounding; killed, resumed, recorded."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from support.errors import Refused
from support.experiments import bands, checkpoints, records, runs, together
from support.experiments.bands import JoinError, Program, why_alone
from support.experiments.memory import Fitting
from support.experiments.models import DigitsNet, LeNet, normal_init
from support.experiments.runs import RunSpec
from support.experiments.training import CURVES, Data, Diverged, OutOfTime, Trainer
from support.sampling import by_name

METHODS = ("GD", "SGD", "MSGD-Cov", "MSGD-Fisher", "MSGD-Bernoulli", "MSGD-[Fisher-6]", "[MSGD-Cov]-8", "SGD")
N, B = 24, 4


@pytest.fixture(autouse=True)
def one_thread_and_the_digits(monkeypatch):
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(seed, shape, tests=30):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(N + tests, *shape, generator=generator)
    labels = torch.randint(0, 10, (N + tests,), generator=generator)
    return Data.on("cpu", (inputs[:N], labels[:N]), (inputs[N:], labels[N:]), watched=10)


def trainer(method, seed, kind=DigitsNet, data=None, lr=0.2, **knobs):
    model = normal_init(kind(), 0.1, torch.Generator().manual_seed(seed))
    data = data or images(seed % 2, (1, 28, 28) if kind is LeNet else (1, 8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr, **knobs)
    own = {"generator": torch.Generator().manual_seed(100 + seed), "chunk": 7}
    return Trainer(model, optimizer, by_name(method, N, B), data, **own)


def all_of(kind=DigitsNet, **knobs):
    return [trainer(method, seed, kind, **knobs) for seed, method in enumerate(METHODS)]


def agree(one, other, rel=2e-5):
    """The curves of two runs, number by number; accuracies may differ by an image that stands on the edge."""
    for name in CURVES:
        assert len(one.curves[name]) == len(other.curves[name])
        if name.endswith("loss"):
            pairs = [(a, b) for a, b in zip(one.curves[name], other.curves[name], strict=True) if b is not None]
            assert [a for a, _ in pairs] == pytest.approx([b for _, b in pairs], rel=rel), name
    assert one.curves["step"] == other.curves["step"]
    assert one.final["test_loss"] == pytest.approx(other.final["test_loss"], rel=rel)
    assert set(one.final) == set(other.final) and one.final["tested"] == other.final["tested"]
    assert one.final["test_accuracy"] == pytest.approx(other.final["test_accuracy"], abs=1.01 / other.final["tested"])


# --- each run is its own


@pytest.mark.parametrize("knobs", [{}, {"momentum": 0.5, "weight_decay": 0.01}])
@pytest.mark.parametrize(("kind", "unfold"), [(DigitsNet, False), (LeNet, False), (LeNet, True)])
def test_each_run_is_the_one_that_its_trainer_makes_alone(kind, unfold, knobs):
    """Every law, two training sets; passes of 60 samples over all runs, so that a step takes several. Few steps: a unit
    that another rounding turns on or off shows in the fourth digit soon.
    """
    alone = [one.run(5, evaluate_every=2, show=False) for one in all_of(kind, **knobs)]
    joint = together.run(all_of(kind, **knobs), 5, evaluate_every=2, show=False, at_once=60, unfold=unfold)
    for one, other in zip(joint, alone, strict=True):
        assert one.curves["step"] == [0, 2, 4, 5]
        agree(one, other)


def test_runs_may_share_their_images():
    sets = [images(seed, (1, 8, 8)) for seed in range(2)]

    def all_runs():
        return [trainer(method, seed, data=sets[seed]) for method in ("GD", "MSGD-Cov", "SGD") for seed in range(2)]

    assert [len(band.inputs) for band in Program(all_runs()).bands] == [2, 2]
    alone = [one.run(4, evaluate_every=2, show=False) for one in all_runs()]
    for one, other in zip(together.run(all_runs(), 4, evaluate_every=2, show=False), alone, strict=True):
        agree(one, other)


def test_the_numbers_of_a_trainer_stay_its_own():
    """Rates, momenta and decays of a band that differ."""
    own = [{"lr": 0.2}, {"lr": 0.02}, {"momentum": 0.9}, {"momentum": 0.5}, {"weight_decay": 0.3}]
    alone = [trainer("SGD", seed, **knobs).run(9, evaluate_every=3, show=False) for seed, knobs in enumerate(own)]
    joint = together.run([trainer("SGD", s, **knobs) for s, knobs in enumerate(own)], 9, evaluate_every=3, show=False)
    for one, other in zip(joint, alone, strict=True):
        agree(one, other)


def test_generators_stand_where_they_would_alone():
    lone, joint = all_of(), all_of()
    for one in lone:
        one.run(7, show=False)
    together.run(joint, 7, show=False)
    for one, other in zip(lone, joint, strict=True):
        assert torch.equal(one.generator.get_state(), other.generator.get_state())
        for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_runs_of_few_samples_do_not_pass_many():
    """SGD of 4 images beside GD of 24: the passes have the samples that the runs need, and hardly more."""
    program = Program([trainer(method, seed) for seed, method in enumerate(("GD", "SGD", "MSGD-Bernoulli", "SGD"))])
    seen, original = [], bands._Band._losses

    def counted(self, part):
        seen.append(self.kept[:, part].shape)
        return original(self, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands._Band, "_losses", counted)
        program.advance(3)
    assert {tuple(shape) for shape in seen} <= {(1, 24), (3, 8), (3, 16)}


def test_a_batch_that_outgrows_its_room_gets_more():
    """Bernoulli batches of about 4 of 24: the step is recorded anew wherever the largest so far is exceeded."""
    alone = trainer("MSGD-Bernoulli", 3).run(120, evaluate_every=60, show=False)
    joint = trainer("MSGD-Bernoulli", 3)
    program = Program([joint])
    assert program.bands[0].kept.shape[1] == 0
    (done,) = together.run([joint], 120, evaluate_every=60, show=False)
    agree(done, alone, rel=1e-4)


# --- killed and gone on


@pytest.mark.parametrize("knobs", [{}, {"momentum": 0.9, "weight_decay": 0.01}])
def test_a_group_stopped_in_time_goes_on_together_and_alone(tmp_path, knobs):
    paths = [tmp_path / f"{number}.pt" for number in range(len(METHODS))]
    whole = together.run(all_of(**knobs), 20, evaluate_every=4, show=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "_PIECE", 3)
        late = together.run(all_of(**knobs), 20, evaluate_every=4, show=False, checkpoints=paths, deadline=1.0)
    assert all(isinstance(one, OutOfTime) and "out of time at step 3 of 20" in str(one) for one in late)
    assert {checkpoints.load(path)["steps_done"] for path in paths} == {3}
    ahead = all_of(**knobs)[2]
    ahead.run(9, evaluate_every=4, checkpoint=paths[2], show=False)  # one goes on alone; the others catch up with it
    ahead = trainer(METHODS[2], 2, **knobs)
    done = together.run(all_of(**knobs), 20, evaluate_every=4, show=False, checkpoints=paths)
    for number, (one, other) in enumerate(zip(done, whole, strict=True)):
        if number != 2:  # whose curves have a point at step 9 too
            agree(one, other)
    assert done[2].curves["step"] == [0, 4, 8, 9, 12, 16, 20] and done[2].final["test_loss"] == pytest.approx(
        whole[2].final["test_loss"], rel=2e-5
    )
    assert all(one.wall_s > 0 for one in done)


def test_a_complete_group_is_judged_again(tmp_path):
    paths = [tmp_path / f"{number}.pt" for number in range(2)]
    first = together.run(all_of()[:2], 6, show=False, checkpoints=paths)
    again = together.run(all_of()[:2], 6, show=False, checkpoints=paths)
    assert [one.final for one in again] == [one.final for one in first]


def test_a_run_that_fails_leaves_the_others_as_they_are(tmp_path):
    """One diverges, one has another run's checkpoint."""

    def group():
        own = all_of()[:4]
        own[1] = trainer("SGD", 1, lr=1e38)
        return own

    paths, identities = [tmp_path / f"{number}.pt" for number in range(4)], [{"run": number} for number in range(4)]
    trainer("GD", 0).run(2, checkpoint=paths[3], identity={"run": 9}, show=False)
    done = together.run(group(), 10, evaluate_every=5, show=False, checkpoints=paths, identities=identities)
    alone = together.run([group()[0], group()[2]], 10, evaluate_every=5, show=False)
    assert isinstance(done[1], Diverged) and "learning rate 1e+38" in str(done[1])
    assert "is of another run (run = 9, now 3)" in str(done[3])
    for one, other in zip((done[0], done[2]), alone, strict=True):
        agree(one, other)


def test_too_little_memory_takes_smaller_passes(capsys, monkeypatch):
    alone, original = together.run(all_of(), 5, show=False), bands._Band._losses

    def small(self, part):
        if self.kept[:, part].numel() > 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return original(self, part)

    monkeypatch.setattr(bands._Band, "_losses", small)
    done = together.run(all_of(), 5, show=False, at_once=64)
    assert "the memory holds 8 samples at once, not 64" in capsys.readouterr().out
    for one, other in zip(done, alone, strict=True):
        agree(one, other)


# --- what must go alone


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.own = nn.Linear(64, 10), torch.Generator()

    def forward(self, images):
        return self.inner(images.flatten(1))


def of(model, optimizer=None, **options):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
    own = {"generator": torch.Generator().manual_seed(1)}
    return Trainer(model, optimizer, by_name("SGD", N, B), images(1, (1, 8, 8)), **own, **options)


def adam():
    model = DigitsNet()
    return of(model, torch.optim.Adam(model.parameters()))


def nesterov():
    model = DigitsNet()
    return of(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True))


def scheduled():
    model = DigitsNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return of(model, optimizer, schedule=torch.optim.lr_scheduler.StepLR(optimizer, 2))


def flat(*layers):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), *layers)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: of(DigitsNet(), additive=lambda model, generator: None), "additive noise"),
        (lambda: of(DigitsNet(), measure=lambda model, step: {}, measure_at=(1,)), "measured on its way"),
        (scheduled, "schedule"),
        (lambda: of(DigitsNet(), passes=lambda *arguments: iter(())), "a way of their own"),
        (lambda: of(flat(nn.BatchNorm1d(10))), "BatchNorm"),
        (lambda: of(flat(nn.BatchNorm1d(10).eval())), "buffers"),
        (lambda: of(flat(nn.Dropout())), "random numbers"),
        (lambda: of(Noisy()), "random numbers"),
        (adam, "optimiser is Adam, not plain SGD"),
        (nesterov, "optimiser is SGD, not plain SGD"),
    ],
)
def test_what_cannot_go_together_is_refused_in_a_line(make, why):
    assert why in why_alone(make())
    with pytest.raises(JoinError, match=f"run 1 cannot go with others, since .*{why}: run it alone"):
        together.run([of(DigitsNet()), make()], 3, show=False)


def test_passes_that_fit_the_memory_go_together():
    assert why_alone(of(DigitsNet(), passes=Fitting())) == ""


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: trainer("SGD", 1, LeNet), "2 shapes of images"),
        (lambda: of(flat()), "2 architectures"),
        (lambda: trainer("SGD", 1, data=replace(images(1, (1, 8, 8)), watched=5)), "2 numbers of judged images"),
    ],
)
def test_runs_that_differ_are_refused(other, message):
    with pytest.raises(JoinError, match=message):
        together.run([trainer("SGD", 0), other()], 3, show=False)


def test_what_vmap_cannot_do_is_refused():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, images):
            outputs = self.layer(images.flatten(1))
            return outputs if outputs.sum() > 0 else -outputs

    with pytest.raises(JoinError, match="the runs cannot go together: Branching cannot be stacked"):
        Program([of(Branching()), of(Branching())])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 3), "no run came"),
        ((["SGD"], 3), "a trainer = 'SGD' is of type str"),
        (([trainer("GD", 1)], 0), "steps = 0"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(Refused, match=message):
        together.run(*arguments, show=False)


def test_a_program_begins_where_all_its_runs_stand():
    ahead = trainer("SGD", 1)
    ahead.run(2, show=False)
    with pytest.raises(JoinError, match=r"the runs have done \[0, 2\] steps: bring them"):
        Program([trainer("SGD", 0), ahead])
    with pytest.raises(JoinError, match="no run came"):
        Program([])


def test_a_record_that_cannot_be_written_is_the_one_that_fails(tmp_path):
    specs = [RunSpec("wu.fig1a", "smoke", method, 1) for method in ("GD", "SGD")]
    original = runs.records.save

    def full(path, **found):
        if path == specs[0].path(tmp_path / "records"):
            raise records.RecordError("record gd-seed1.json cannot be written (No space left on device): make room")
        return original(path, **found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.records, "save", full)
        failed, made = together.record(specs, tmp_path / "records", tmp_path / "work", show=False)
    assert "No space left" in str(failed) and records.read(made)["final"]["steps"] == 40
    assert [path.stem for path in (tmp_path / "work").rglob("*.pt")] == ["gd-seed1"], "it goes on from there"
    assert together.record(specs[:1], tmp_path / "records", tmp_path / "work", show=False)[0].is_file()


def test_as_many_checkpoints_as_runs():
    with pytest.raises(JoinError, match="1 checkpoints came with 2 runs"):
        together.run(all_of()[:2], 3, checkpoints=["a"])


# --- records


def test_records_made_together_are_those_made_alone(tmp_path):
    """Two presets of one network, two seeds; one that has an additive noise goes alone."""
    methods = ("GD", "SGD", "MSGD-Bernoulli")
    specs = [RunSpec("wu.fig1a", "smoke", method, seed) for seed in (1, 2) for method in methods]
    specs.append(RunSpec("wu.fig1a.pixels01", "smoke", "SGD", 1))
    (group,) = together.parted([*specs, RunSpec("wu.fig1a.drawn", "smoke", "GLD-diag", 1)])
    assert group == specs
    noisy = RunSpec("wu.fig1a.drawn", "smoke", "GLD-diag", 1)
    found = together.record([*specs, noisy], tmp_path / "a", tmp_path / "work", show=False)
    assert isinstance(found[-1], JoinError) and "it has an additive noise: run it alone" in str(found[-1])
    assert [path.suffix for path in (tmp_path / "work").rglob("*") if path.is_file()] == [".lock"] * (len(specs) + 1)
    for spec, path in zip(specs, found, strict=False):
        assert path == spec.path(tmp_path / "a") and spec.is_done(tmp_path / "a")
        one = records.read(path)
        other = records.read(runs.record(spec, tmp_path / "b", tmp_path / "work", show=False))
        assert one["config"] == other["config"] and set(one) == set(other) and one["provenance"]["wall_s"] > 0
        assert {k for k in one["provenance"]} == {k for k in other["provenance"]}
        for name in CURVES:
            here, there = one["curves"][name], other["curves"][name]
            kind = {"abs": 1.01 / 200} if name.endswith("accuracy") else {"rel": 1e-4}
            assert here[0 if here[0] is not None else 1 :] == pytest.approx(
                there[0 if there[0] is not None else 1 :], **kind
            )
    again = together.record(specs, tmp_path / "a", tmp_path / "work", show=False)
    assert again == found[:-1], "what is there is not made again"


def test_a_run_that_another_process_makes_is_left_to_it(tmp_path):
    specs = [RunSpec("wu.fig1a", "smoke", method, 1) for method in ("GD", "SGD")]
    with runs.files.lock(tmp_path / f"{specs[0].name}.lock"):
        held, made = together.record(specs, tmp_path / "records", tmp_path, show=False)
    assert "in use by process" in str(held) and made == specs[1].path(tmp_path / "records")


def test_groups_are_of_runs_that_agree():
    specs = [
        RunSpec("wu.fig1a", "smoke", "SGD", 1),
        RunSpec("wu.fig1a", "book", "SGD", 1),
        RunSpec("zhu.fig3", "smoke", "SGD", 1),
        RunSpec("zhu.fig3", "smoke", "SGD", 2),
        RunSpec("wu.fig1a.released", "smoke", "MSGD-Bernoulli", 1),
    ]
    assert together.parted(specs) == [[specs[0], specs[4]]]
    many = [RunSpec("wu.fig1a", "smoke", "SGD", seed) for seed in range(together.MOST + 2)]
    assert [len(group) for group in together.parted(many)] == [together.MOST, 2]
