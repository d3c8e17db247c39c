"""The losses of all steps: those of the trainer's own batches, whole when a run is resumed."""

import numpy as np
import pytest
import torch

from support.errors import Refused
from support.experiments import runs
from support.experiments.judging import CEILING, cross_entropy, mean_squares, squares
from support.experiments.presets import PRESETS
from support.experiments.spread import Spread
from support.msgd import draw

SMALL = PRESETS["ziyin.fig1.width"].setting("smoke")


@pytest.fixture(autouse=True)
def one_thread_and_the_digits(monkeypatch):
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_what_is_measured_is_the_loss_of_each_batch_before_its_step():
    run = runs.trainer(SMALL, "SGD-width=25", 1).run(SMALL.steps, evaluate_every=4, show=False)
    twin = runs.trainer(SMALL, "SGD-width=25", 1)
    losses = []
    for _ in range(SMALL.steps):  # plain SGD by hand
        inputs, targets, _ = draw(twin.law, twin.generator, *twin.data.train)
        loss = cross_entropy(twin.model(inputs), targets).mean()
        parts = torch.autograd.grad(loss, list(twin.model.parameters()))
        with torch.no_grad():
            for parameter, part in zip(twin.model.parameters(), parts, strict=True):
                parameter.sub_(0.5 * part)
        losses.append(loss.item())
    assert run.measured["step"] == [SMALL.steps]
    expected = {"mean": np.mean(losses), "variance": np.var(losses), "late_variance": np.var(losses[4:])}
    for name, value in (expected | {"largest": max(losses)}).items():
        assert run.measured[name] == [pytest.approx(value, rel=1e-4)]


def test_a_resumed_run_has_the_losses_of_all_its_steps(tmp_path):
    whole = runs.trainer(SMALL, "Adam", 1).run(SMALL.steps, evaluate_every=4, show=False)
    runs.trainer(SMALL, "Adam", 1).run(3, evaluate_every=4, checkpoint=tmp_path / "c.pt", show=False)
    broken = runs.trainer(SMALL, "Adam", 1)
    found = broken.run(SMALL.steps, evaluate_every=4, checkpoint=tmp_path / "c.pt", show=False)
    assert found.measured == whole.measured and len(broken.track.measure.losses) == SMALL.steps


def test_a_run_that_explodes_stands_still_with_finite_numbers():
    run = runs.trainer(SMALL, "SGD-loss=squares-width=1600", 1).run(SMALL.steps, evaluate_every=4, show=False)
    assert 1 < run.measured["variance"][0] <= CEILING**2 / 4 and run.measured["largest"][0] <= CEILING
    quiet = runs.trainer(SMALL, "SGD-loss=squares-width=1600-lr=0.0078125", 1)
    assert quiet.run(SMALL.steps, show=False).measured["variance"][0] < 1


def test_squared_errors_by_hand():
    outputs = torch.tensor([[0.2, 0.9, -1.0], [2e3, 0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([1, 2])
    found = squares(outputs, labels)
    assert found[0].item() == pytest.approx(0.04 + 0.01 + 1.0) and found[1].item() == CEILING
    assert torch.equal(mean_squares(outputs, labels), found / 3)
    found.sum().backward()
    torch.testing.assert_close(outputs.grad, torch.tensor([[0.4, -0.2, -2.0], [0.0, 0.0, 0.0]]))


def test_too_few_steps_have_no_spread():
    with pytest.raises(Refused, match="0 steps have no spread"):
        Spread(cross_entropy)(None, 0)
