"""The knobs of an escape, what is measured on its way, and the point where all its methods begin."""

from dataclasses import replace

import pytest
import torch

from support.errors import Refused
from support.experiments import checkpoints, escape, presets, records, runs
from support.experiments.escape import Escape, Measurement
from support.experiments.judging import cross_entropy
from support.sampling import FullBatch, MiniBatch

TINY = Escape(eigenpairs=2, probes=3, sharpness_draws=10, spectrum=3, chunk=7)


@pytest.fixture(autouse=True)
def one_thread_and_the_digits(monkeypatch):
    monkeypatch.delenv("SUPPORT_DATA", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(n=12):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, generator=generator), torch.arange(n) % 3


def test_what_is_measured_is_the_trace_of_c_and_the_curvature_and_leaves_no_trace():
    """Tr C and u₁ᵀCu₁ against per-sample gradients by autograd, the eigenvalues against a dense Hessian."""
    torch.manual_seed(2)
    model, (inputs, targets), law = torch.nn.Linear(3, 3), problem(), MiniBatch(12, 4)
    state = torch.get_rng_state()
    found = Measurement(TINY, (inputs, targets), law, cross_entropy, seed=1)(model, 5)
    assert torch.equal(state, torch.get_rng_state())

    def losses(theta):
        weights = {"weight": theta[:9].reshape(3, 3), "bias": theta[9:]}
        return cross_entropy(torch.func.functional_call(model, weights, inputs), targets)

    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    gradients = torch.func.jacrev(losses)(theta)
    covariance = torch.cov(gradients.T, correction=0) / 4
    values, vectors = torch.linalg.eigh(torch.func.hessian(lambda point: losses(point).mean())(theta))
    assert found["trace_covariance"] == pytest.approx(float(covariance.trace()), rel=1e-4)
    assert found["eigenvalues"] == pytest.approx(values.flip(0)[:2].tolist(), rel=1e-3)
    assert found["along"] == pytest.approx(float(vectors[:, -1] @ covariance @ vectors[:, -1]), rel=1e-2)
    assert found["trace_hessian_low"] <= found["trace_hessian"] <= found["trace_hessian_high"]
    assert Measurement(TINY, (inputs, targets), law, cross_entropy, seed=1)(model, 5) == found


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Escape(k=0), "k = 0 is out of range"),
        (lambda: Escape(every=2.0), "every = 2.0 is not an integer"),
        (lambda: Escape(sigma=float("nan")), "sigma = nan is out of range"),
        (lambda: Escape(start_steps=10, start_limit=9), "start_limit = 9 is out of range: give at least start_steps"),
        (lambda: Escape(measure_at=[0]), r"measure_at = \[0\] is of type list"),
        (lambda: Escape(measure_at=(0, -1)), "a step in measure_at = -1 is out of range"),
        (lambda: Measurement(TINY, problem(), FullBatch(12, 4), cross_entropy, 1), "law = .* give the MiniBatch law"),
        (lambda: Measurement(TINY, problem(), MiniBatch(12, 4), cross_entropy, "1"), "seed = '1' is not an integer"),
    ],
)
def test_knobs_out_of_their_range_are_refused(build, message):
    with pytest.raises(Refused, match=message):
        build()


class Stopped(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("save_every_s", [0, 1e9])
def test_a_start_that_ends_while_it_looks_at_the_spectrum_is_where_the_unbroken_one_is(
    tmp_path, monkeypatch, save_every_s
):
    """GD fits every label long before its limit: the run is over by its rule, and not a step is made when resumed."""
    easy = {"n": 30, "corrupted": None, "evaluate_every": 5}
    easy["escape"] = replace(TINY, start_lr=0.5, start_steps=10, start_limit=400)
    known = presets.PRESETS["zhu.fig3"]
    preset = replace(known, scales={**known.scales, "smoke": replace(known.setting("smoke"), **easy)})
    monkeypatch.setitem(presets.PRESETS, "zhu.fig3", preset)
    spec, options = runs.RunSpec("zhu.fig3", "smoke", runs.START, 1), {"show": False, "save_every_s": save_every_s}
    whole = runs.start(spec, folder=tmp_path / "whole", work=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:

        def killed(self, model):
            raise Stopped

        patch.setattr(escape.Measurement, "spectrum", killed)
        with pytest.raises(Stopped):
            runs.start(spec, folder=tmp_path, work=tmp_path, **options)
    left = checkpoints.load(tmp_path / f"{spec.name}-running.pt")
    assert left["over"] and left["curves"]["train_accuracy"][-1] == 1
    found = runs.start(spec, folder=tmp_path, work=tmp_path, **options)
    assert all(torch.equal(whole[name], found[name]) for name in whole)
    one, two = (records.read(spec.path(folder)) for folder in (tmp_path / "whole", tmp_path))
    assert one["final"] == two["final"] and one["curves"] == two["curves"] and one["measured"] == two["measured"]
    assert one["final"]["steps"] == left["steps_done"] < 400
