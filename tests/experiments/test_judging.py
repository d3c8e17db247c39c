"""What a run is judged on, and that judging leaves no trace."""

import numpy as np
import pytest
import torch
from torch import nn

from support.errors import Refused
from support.experiments import judging
from support.experiments.judging import Data, cross_entropy


def pair(m, kind=np.float32):
    return np.arange(2 * m, dtype=kind).reshape(m, 2), np.arange(m) % 2


@pytest.mark.parametrize("at_once", [1, 3, 500])
def test_mean_loss_and_accuracy(at_once):
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0], [-1.0, 3.0], [5.0, 0.0]])
    targets = torch.tensor([1, 0, 0, 0, 1])
    loss, accuracy = judging.judge(nn.Identity(), cross_entropy, logits, targets, at_once)
    margins = torch.tensor([1.0, 2.0, 0.0, -4.0, -5.0], dtype=torch.float64)
    assert loss == pytest.approx(float(torch.log1p(torch.exp(-margins)).mean()), rel=1e-6)
    assert accuracy == 0.6


def test_modes_and_running_statistics_stay_also_of_frozen_modules_and_after_a_failure():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.BatchNorm1d(2).eval())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    judging.judge(model, cross_entropy, torch.randn(6, 2, generator=torch.Generator()), torch.zeros(6).long())
    with pytest.raises(RuntimeError):
        judging.judge(model, cross_entropy, torch.zeros(6, 3), torch.zeros(6).long())
    assert [module.training for module in model] == [True, True, False] and model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_data_is_moved_as_it_is_and_watched_is_at_most_all():
    data = Data.on("cpu", pair(3), pair(5), watched=np.int64(9))
    assert data.watched == 5 and torch.equal(data.train[0], torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]))
    images = torch.rand(2, 3, 4, 4)
    moved = Data.on("cpu", (images, [0, 1]), (images, [0, 1]), 1).train[0]
    assert torch.equal(moved, images) and moved.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Data.on("cpu", pair(3), pair(3), watched=-5), "watched = -5 is out of range: give at least 1"),
        (lambda: Data.on("cpu", pair(3), pair(3), watched=2.0), "watched = 2.0 is not an integer"),
        (lambda: Data.on("cpu", pair(3)[0], pair(3), 1), "train is of type ndarray: give a pair"),
        (lambda: Data.on("cpu", pair(3), None, 1), "test is of type NoneType: give a pair"),
        (lambda: Data.on("cpu", (pair(3)[0], pair(4)[1]), pair(3), 1), "train has 3 inputs and 4 targets"),
        (lambda: Data.on("cpu", pair(3), (["a"], [1]), 1), "test cannot be moved to 'cpu'"),
        (lambda: Data.on("moon", pair(3), pair(3), 1), "train cannot be moved to 'moon'"),
        (lambda: Data(pair(3), pair(3), 1), "the train part is of type ndarray: give a torch tensor"),
        (lambda: cross_entropy(np.zeros((2, 2)), torch.zeros(2).long()), "outputs is of type ndarray"),
    ],
)
def test_bad_data_is_refused(build, message):
    with pytest.raises(Refused, match=message):
        build()


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        (nn.ReLU(inplace=True), cross_entropy, "the model writes into its inputs"),
        (nn.Flatten(0), cross_entropy, r"outputs are of shape \(4,\) for 2 samples"),
        (nn.Identity(), nn.CrossEntropyLoss(), r"the loss has shape \(\) for 2 samples: return one number a sample"),
    ],
)
def test_what_cannot_be_judged_is_refused_and_the_data_stay(model, loss, message):
    inputs, targets = torch.full((5, 2), -1.0), torch.zeros(5).long()
    with pytest.raises(judging.JudgingError, match=message):
        judging.probe(model, loss, inputs, targets)
    assert torch.equal(inputs, torch.full((5, 2), -1.0))
