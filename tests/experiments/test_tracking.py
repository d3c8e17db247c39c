"""Numbers at chosen steps, in a loop without a trainer."""

import numpy as np
import pytest
import torch

from support.errors import Refused
from support.experiments.tracking import Track


def test_a_loop_of_ones_own_is_followed():
    model = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    track = Track(lambda model, step: {"length": model.weight.norm(), "all": model.weight.detach()}, at=(1,), every=3)
    track(model, 0)
    for step in range(1, 8):
        optimizer.zero_grad()
        (model.weight**2).sum().div(2).backward()  # a step halves the weights
        optimizer.step()
        track(model, step)
    assert track.measured == {
        "step": [0, 1, 3, 6],
        "length": [5.0, 2.5, 0.625, 0.078125],
        "all": [[[3.0 / 2**k, 4.0 / 2**k]] for k in (0, 1, 3, 6)],
    }


def test_numbers_are_pythons_own():
    values = {"a": np.float32(0.5), "b": np.int64(2), "c": torch.tensor(True), "d": (1, np.arange(2))}
    track = Track(lambda model, step: values, every=1)
    track(torch.nn.ReLU(), 5)
    assert track.measured == {"step": [5], "a": [0.5], "b": [2], "c": [True], "d": [[1, [0, 1]]]}
    assert [type(track.measured[name][0]) for name in "abc"] == [float, int, bool]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Track("norm"), "measure = 'norm' cannot be called"),
        (lambda: Track(print, every=0), "every = 0 is out of range"),
        (lambda: Track(print, every=2.0), r"every = 2.0 is not an integer"),
        (lambda: Track(print, at=3), "at = 3 is of type int"),
        (lambda: Track(print, at=(0, "a")), "a step to measure at = 'a' is not an integer"),
        (lambda: Track(print, at=(0,))(None, 0.5), "step = 0.5 is not an integer"),
        (lambda: Track(lambda model, step: 3.0, at=(0,))(None, 0), "what the measure gives = 3.0 is of type float"),
        (lambda: Track(lambda model, step: {"x": "a"}, at=(0,))(None, 0), "measured 'x' = 'a' is of type str"),
    ],
)
def test_what_cannot_be_kept_is_refused(build, message):
    with pytest.raises(Refused, match=message):
        build()


def test_other_names_than_before_are_refused_before_anything_is_kept():
    track = Track(lambda model, step: {"x": 1} if step < 2 else {"y": 1}, every=1)
    track(None, 1)
    with pytest.raises(Refused, match="gave step, y at step 2, and step, x before"):
        track(None, 2)
    assert track.measured == {"step": [1], "x": [1]}
