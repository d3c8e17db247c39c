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
    assert set(preset.scales) == {"smoke", "book", "paper"}
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
