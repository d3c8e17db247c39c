"""Descent with a complexity penalty, and complexities along the way: pairs, resumption, and numbers known otherwise."""

from dataclasses import replace

import pytest
import torch

from support.errors import Refused, WrongType
from support.experiments import runs
from support.experiments.judging import cross_entropy
from support.experiments.presets import PRESETS
from support.experiments.regularised import Complexity, Look, penalty, radius
from support.experiments.runs import RunSpec
from support.sampling import FullBatch

SMALL = PRESETS["talk.fig1"].setting("smoke")
METHOD = "GD-complexity-0.1"


@pytest.fixture(autouse=True)
def one_thread_and_the_digits(monkeypatch):
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_name_says_the_radius_and_the_law_is_that_of_descent():
    assert radius(METHOD) == 0.1 and radius("GD-complexity-1") == 1.0
    assert radius("GD-complexity") is None and radius("SGD-500") is None
    spec = RunSpec("talk.fig1", "smoke", METHOD.upper(), 1)
    assert isinstance(spec.law, FullBatch) and spec.name == "talk.fig1/smoke/gd-complexity-0.1-seed1"


def test_measuring_leaves_a_run_as_it_is():
    measured = runs.run(RunSpec("talk.fig1", "smoke", "MSGD-Cov", 2), show=False)
    plain = runs.run(RunSpec("wu.fig1a.drawn", "smoke", "MSGD-Cov", 2), show=False)
    assert measured.curves == plain.curves and not plain.measured
    assert measured.measured["step"] == [0, 40]


def test_a_penalised_run_goes_on_as_if_unbroken(tmp_path):
    brief = replace(SMALL, steps=8, evaluate_every=4, complexity=Complexity(ascent=1))
    whole = runs.trainer(brief, METHOD, 1).run(8, evaluate_every=4, show=False)
    runs.trainer(brief, METHOD, 1).run(3, evaluate_every=4, checkpoint=tmp_path / "c.pt", show=False)
    trainer = runs.trainer(brief, METHOD, 1)
    broken = trainer.run(8, evaluate_every=4, checkpoint=tmp_path / "c.pt", show=False)
    assert broken.final == whole.final
    assert broken.final != runs.trainer(brief, "GD", 1).run(8, show=False).final


def test_the_penalty_has_the_size_of_the_noise():
    train = runs.trainer(SMALL, "GD", 1).data.train
    found = penalty(METHOD, SMALL.complexity, train, 50, cross_entropy)
    assert found.weight == pytest.approx((SMALL.n / 50) ** 0.5) and found.delta == 0.1
    assert found.steps == SMALL.complexity.ascent and penalty("GD", SMALL.complexity, train, 50, cross_entropy) is None


def test_what_is_seen_uses_the_same_signs_at_every_step():
    trainer = runs.trainer(SMALL, "GD", 1)
    look = Look(Complexity(radii=(1e-6, 0.1), draws=4, steps=3), trainer.data.train, cross_entropy, 1)
    first, again = look(trainer.model, 0), look(trainer.model, 7)
    assert first == again
    losses = cross_entropy(trainer.model(trainer.data.train[0]), trainer.data.train[1]).detach()
    assert first["rms_loss"] == pytest.approx(float(losses.square().mean().sqrt()), rel=1e-6)
    # in a ball of no size the supremum is the size of the weighted loss itself
    assert first["largest_1e-06"] == pytest.approx([abs(x) for x in first["centre"]], abs=1e-5)
    assert all(large > small for large, small in zip(first["largest_0.1"], first["largest_1e-06"], strict=True))


@pytest.mark.parametrize(
    ("knobs", "error"),
    [({"radii": (0.0,)}, Refused), ({"radii": 0.1}, WrongType), ({"draws": 1}, Refused), ({"ascent": -1}, Refused),
     ({"measure_at": (-1,)}, Refused)],
)  # fmt: skip
def test_knobs_out_of_range_are_refused(knobs, error):
    with pytest.raises(error):
        Complexity(**knobs)
