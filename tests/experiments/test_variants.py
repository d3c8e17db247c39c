"""Methods with knobs of their own: the name gives them, to the setting, the record and the trainer."""

import pytest
import torch

from support.errors import Refused
from support.experiments import runs, variants
from support.experiments.presets import PRESETS, Setting
from support.experiments.presets.ziyin import WIDTHS, curve
from support.experiments.runs import RunSpec
from support.experiments.seeding import stream
from support.sampling import MiniBatch

WIDTH, DECAY = PRESETS["ziyin.fig1.width"], PRESETS["ziyin.fig1.decay"]


@pytest.fixture(autouse=True)
def one_thread_and_the_digits(monkeypatch):
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_name_is_read_as_it_was_written():
    name = variants.name("SGD", loss="mean_squares", width=1600, lr=0.5 * 25 / 1600, decay=-0.00003)
    assert name == "SGD-loss=mean_squares-width=1600-lr=0.0078125-decay=-0.00003"
    found = variants.setting(Setting(), name)
    assert (found.loss, found.width, found.lr, found.weight_decay) == ("mean_squares", 1600, 0.0078125, -3e-5)
    assert variants.base(name) == "SGD" and found.optimizer == "SGD"


@pytest.mark.parametrize("method", ["GD", "SGD-500", "MSGD-[Fisher-10]", "GD-complexity-0.1", "GLD-1st-eigenvector"])
def test_methods_without_knobs_stay_what_they_were(method):
    setting = Setting()
    assert variants.base(method) == method and variants.setting(setting, method) is setting


def test_a_value_that_is_none_is_refused():
    with pytest.raises(Refused, match="'SGD-width=wide' has width = 'wide': write a number"):
        variants.setting(Setting(), "SGD-width=wide")


def test_the_knobs_stand_in_the_record_and_reach_the_trainer():
    spec = RunSpec(WIDTH.name, "smoke", "adam-loss=mean_squares-width=50-lr=0.005", 3)
    assert spec.name == "ziyin.fig1.width/smoke/adam-loss=mean_squares-width=50-lr=0.005-seed3"
    assert {key: spec.config[key] for key in ("width", "lr", "loss", "optimizer", "law")} == {
        "width": 50, "lr": 0.005, "loss": "mean_squares", "optimizer": "Adam", "law": "MiniBatch"
    }  # fmt: skip
    trainer = runs.trainer(WIDTH.setting("smoke"), spec.method, 3)
    assert trainer.model[1].weight.shape == (50, 64) and isinstance(trainer.optimizer, torch.optim.Adam)
    assert trainer.optimizer.param_groups[0]["lr"] == 0.005 and isinstance(trainer.law, MiniBatch)


def test_variants_of_a_seed_see_the_same_batches_and_others_do_not():
    first, other = (runs.trainer(DECAY.setting("smoke"), method, 1) for method in DECAY.methods[1::8])
    assert first.optimizer.param_groups[0]["weight_decay"] == -0.001
    assert torch.equal(first.generator.get_state(), other.generator.get_state())
    assert first.generator.initial_seed() == stream(1, "noise", "SGD")
    assert all(torch.equal(p, q) for p, q in zip(first.model.parameters(), other.model.parameters(), strict=True))


def test_a_rate_over_the_width_is_the_fixed_one_at_the_narrowest():
    fixed, scaled = (curve("SGD", 0.5, "squares", rule) for rule in (False, True))
    assert fixed[0] == scaled[0] and {*fixed, *scaled} <= {*WIDTH.methods}
    for width, method in zip(WIDTHS, scaled, strict=True):
        assert variants.setting(Setting(), method).lr * width == pytest.approx(0.5 * 25)


def test_a_negative_decay_lets_the_weights_grow():
    """Pixels of zero have no gradient: their weights move by the decay alone, by (1 − ηγ) a step."""
    setting = DECAY.setting("smoke")
    for method, factor in (("SGD-decay=-0.001", 1 + 1.5e-3), ("SGD-decay=0.001", 1 - 1.5e-3)):
        trainer = runs.trainer(setting, method, 1)
        trainer.data.train[0][:, :, 0, 0] = 0
        before = trainer.model[1].weight[:, 0].clone()
        for _ in range(3):
            trainer.step()
        torch.testing.assert_close(trainer.model[1].weight[:, 0], before * factor**3)
