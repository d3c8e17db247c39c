"""Presets: what they reproduce, and in which knobs their scales depart."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from support import sampling
from support.errors import WrongType
from support.experiments import runs
from support.experiments.presets import PRESETS, Setting
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
    assert set(preset.scales) - {"gpu"} == {"smoke", "book", "paper"}
    for scale, setting in preset.scales.items():
        knobs = asdict(setting)
        knobs |= {f"escape.{knob}": value for knob, value in (knobs["escape"] or {}).items()}
        assert {knob: knobs[knob] for knob in preset.changes(scale)} == {
            knob: here for knob, (here, _) in preset.changes(scale).items()
        }
        for method in preset.methods:
            found = RunSpec(preset.name, scale, method, 3).config
            assert set(asdict(Setting())) | {"preset", "scale", "method", "law", "additive", "B", "seed"} == set(found)
            assert getattr(sampling, found["law"]) is type(runs.law(setting, method))
            json.dumps(found, allow_nan=False)


def test_only_the_laws_named_cov_share_the_whole_covariance_of_sgd():
    setting = WU.setting("paper")
    sgd = runs.law(setting, "SGD").covariance
    assert {method for method in WU.methods if runs.law(setting, method).covariance == sgd} == {
        "SGD",
        "MSGD-Cov",
        "MSGD-[Cov-10]",
    }


def test_the_released_bernoulli_noise_is_that_of_a_smaller_batch():
    released = runs.law(PRESETS["wu.fig1a.released"].setting("paper"), "MSGD-Bernoulli")
    assert released.b / released.n == 0.02 and released.b != WU.setting("paper").b


@pytest.mark.parametrize("wrong", [None, 3, ["x"], np.ones((2, 2))], ids=lambda wrong: type(wrong).__name__)
@pytest.mark.parametrize("name", ["preset", "scale", "method"])
def test_a_name_of_another_type_is_refused_in_one_line(name, wrong):
    valid = {"preset": "wu.fig1a", "scale": "smoke", "method": "GD", "seed": 1}
    with pytest.raises(WrongType, match=f"^{name} = .* is of type") as refused:
        RunSpec(**valid | {name: wrong})
    assert "\n" not in str(refused.value)


# --- deep networks

DEEP = [preset for preset in PRESETS.values() if "gpu" in preset.scales]


@pytest.mark.parametrize("preset", DEEP, ids=lambda preset: preset.name)
def test_a_deep_preset_has_the_papers_network_where_a_device_is(preset):
    """The paper's network at "paper" and "gpu", a small one at "book" and "smoke"; no scale but "paper" needs more than
    the 20,000 images of CIFAR-10 that fit a small pack, and batch normalisation always has its ghosts.
    """
    paper, gpu, book, smoke = (preset.setting(scale) for scale in ("paper", "gpu", "book", "smoke"))
    assert paper.model == gpu.model in ("VGG11", "ResNet18") and book.model == smoke.model in ("VGG5", "ResNet8")
    assert gpu.dataset == book.dataset == "cifar10" and smoke.dataset == "digits"
    assert max(gpu.n, book.n) <= 20_000 and (book.halved, smoke.halved) == (True, False)
    for setting in (paper, gpu, book, smoke):
        assert setting.as_bytes and setting.init == "he"
        assert (setting.ghost is None) == setting.model.startswith("VGG")
        assert setting.ghost is None or setting.b % setting.ghost == setting.chunk % setting.ghost == 0
        assert all(0 < step < setting.steps for step in setting.milestones)
    assert bool(paper.milestones) == bool(book.milestones) == bool(gpu.milestones)


def test_the_deep_presets_have_the_numbers_of_the_papers():
    """Wu et al. (2020), C.2 and C.3; Zhu et al. (2019), Section 5.4."""
    vgg, resnet, tricks = (PRESETS[name].setting("paper") for name in ("wu.fig4", "wu.fig2b", "wu.fig2c"))
    assert (vgg.lr, vgg.momentum, vgg.milestones, vgg.b) == (0.01, 0.9, (40_000, 60_000), 100)
    assert (resnet.lr, resnet.momentum, resnet.milestones, resnet.b) == (0.1, 0.9, (40_000, 60_000), 100)
    assert not (resnet.augment or resnet.weight_decay) and tricks.augment and tricks.weight_decay == 5e-4
    svhn, zhu = PRESETS["wu.fig1b"].setting("paper"), PRESETS["zhu.fig6"].setting("paper")
    assert (svhn.dataset, svhn.n, svhn.draw_from, svhn.lr, svhn.momentum) == ("svhn", 25_000, "test", 0.05, 0.0)
    assert (zhu.lr, zhu.b, zhu.escape.start_steps, zhu.escape.sharpness_draws) == (0.05, 100, 4000, 100)


def test_under_batch_normalisation_coins_leave_every_sample_in():
    """A coin a sample keeps a number of samples that no ghost divides."""
    setting = PRESETS["wu.fig1c"].setting("smoke")
    coins, sgd = runs.trainer(setting, "MSGD-Bernoulli", 1), runs.trainer(setting, "SGD", 1)
    assert (coins.dense, sgd.dense) == (True, False)
    coins.step()
    sgd.step()
    assert not runs.trainer(PRESETS["wu.fig4"].setting("smoke"), "MSGD-Bernoulli", 1).dense


def test_a_large_batch_passes_as_its_ghosts_whatever_the_chunk():
    setting = replace(PRESETS["wu.fig2b"].setting("smoke"), steps=2)
    gradients = []
    for chunk in (50, 250):
        trainer = runs.trainer(replace(setting, chunk=chunk), "[MSGD-Cov]-500", 1)
        trainer.step()
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()


def test_the_learning_rate_falls_at_the_milestones():
    trainer = runs.trainer(replace(PRESETS["wu.fig2b"].setting("smoke"), milestones=(1, 2)), "SGD", 1)
    rates = []
    for _ in range(3):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.step()
    assert rates == pytest.approx([0.1, 0.01, 0.001])
