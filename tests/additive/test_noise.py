"""What all noises share: schedules, checkpoints, parameters without a gradient, what is refused."""

import copy

import pytest
import torch
from small_network import N, added, close, cross_entropy, move, problem, random, sgd_noise, with_gradients
from torch import nn

from support.additive import NAMES, SgdNoise, by_name, langevin

MATCHED = tuple(name for name in NAMES if name != "GLD-const")


@pytest.mark.parametrize("name", MATCHED)
@pytest.mark.parametrize("replace", [True, False])
def test_the_trace_is_that_of_sgd_at_every_look_and_at_every_scaling_in_between(name, replace):
    model, *samples = problem()
    sgd = sgd_noise(*samples, replace=replace)
    noise = by_name(name, sgd, every=6, rescale_every=2)
    structures = []
    for step in range(13):
        with_gradients(model, *samples)
        noise(model, random(step))
        if step % 2 == 0:
            close(noise.covariance.trace(), sgd.covariance(model).trace())
        structures.append(noise.covariance.of_trace(1.0))
        move(model)
    # between looks the structure stands
    before, first, last = (structures[i].dense() for i in (0, 6, 11))
    close(first, last)
    if name != "GLD-dynamic":
        assert not torch.allclose(before, first)


def test_between_scalings_the_covariance_stands():
    model, *samples = problem()
    noise = by_name("GLD-dynamic", sgd_noise(*samples), every=10, rescale_every=5)
    seen = []
    for step in range(6):
        with_gradients(model, *samples)
        noise(model, random(step))
        seen.append(float(noise.covariance.trace()))
        move(model)
    assert len(set(seen[:5])) == 1 and seen[5] != seen[0]


def test_frozen_layers_get_no_noise():
    model, *samples = problem()
    model[0].requires_grad_(False)
    noise = by_name("GLD-leading", sgd_noise(*samples), k=2)
    noise(with_gradients(model, *samples), random())
    assert noise.covariance.shape == (21, 21) and model[0].weight.grad is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("released", [False, True])
def test_a_noise_that_is_put_away_and_taken_up_goes_on_as_it_was(name, released, tmp_path):
    options = ({"k": 3} if name in ("GLD-leading", "GLD-Hessian") else {}) | ({} if released else {"rescale_every": 2})

    def fresh(samples):
        return by_name(name, sgd_noise(*samples, released=released), released=released, every=4, **options)

    model, *samples = problem()
    noise, generator = fresh(samples), random()
    other = fresh(samples)
    other.load_state_dict(noise.state_dict())
    assert other.covariance is None and other.steps == 0
    for _ in range(3):
        noise(with_gradients(model, *samples), generator)
        move(model, 0.05)
    torch.save(noise.state_dict(), tmp_path / "noise.pt")
    other.load_state_dict(torch.load(tmp_path / "noise.pt", weights_only=True))
    torch.manual_seed(0)
    twin, twin_generator = copy.deepcopy(model), random()
    twin_generator.set_state(generator.get_state())
    for _ in range(6):
        one = added(noise, with_gradients(model, *samples), generator)
        two = added(other, with_gradients(twin, *samples), twin_generator)
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", MATCHED)
def test_where_sgd_has_no_noise_the_others_have_none(name):
    """Batches of all samples, without replacement; later the noise is there and is matched again."""
    model, *samples = problem()
    sgd = SgdNoise(cross_entropy, *samples, N, replace=False)
    noise = by_name(name, sgd, every=4, rescale_every=2)
    assert not added(noise, with_gradients(model, *samples), random()).any()
    noise.sgd = sgd_noise(*samples)
    noise(model, random()), noise(model, random())
    close(noise.covariance.trace(), noise.sgd.diagonal(model, random()).sum())


def test_parameters_without_a_gradient_take_noise_too():
    model, *samples = problem()
    model.unused = nn.Linear(2, 2).double()
    model.forward = lambda x: model[2](model[1](model[0](x)))
    cross_entropy(model(samples[0]), samples[1]).mean().backward()
    by_name("GLD-const", sgd_noise(*samples), sigma=1.0)(model, random())
    assert model.unused.weight.grad.all()


def test_options_that_a_noise_does_not_take_are_named():
    _, *samples = problem()
    with pytest.raises(ValueError, match=r"GLD-dynamic takes no k: its options are every, rescale_every$"):
        by_name("GLD-dynamic", sgd_noise(*samples), k=3)
    with pytest.raises(
        ValueError, match="GLD-1st-eigenvector takes no k: its options are every, rescale_every, tolerance"
    ):
        by_name("GLD-1st-eigenvector", sgd_noise(*samples), k=3)
    assert isinstance(by_name("gld-leading", sgd_noise(*samples), k=3), langevin.Leading)
    with pytest.raises(ValueError, match=r"every = 1\.5 is not an integer"):
        by_name("GLD-diag", sgd_noise(*samples), every=1.5)


def test_the_state_of_another_noise_is_refused():
    model, *samples = problem()
    noise = by_name("GLD-leading", sgd_noise(*samples), k=3)
    noise(with_gradients(model, *samples), random())
    with pytest.raises(ValueError, match="another noise than DiagonalOfC"):
        by_name("GLD-diag", sgd_noise(*samples)).load_state_dict(noise.state_dict())


def test_what_is_no_noise_of_sgd_no_model_and_no_state_is_refused():
    _, *samples = problem()
    with pytest.raises(TypeError, match="sgd = 'SGD' is of type str: give SgdNoise"):
        by_name("GLD-diag", "SGD")
    noise = by_name("GLD-diag", sgd_noise(*samples))
    with pytest.raises(TypeError, match=r"is of type function: give a torch\.nn\.Module"):
        noise(lambda x: x, random())
    for state in ({}, None, [1], {"steps": 1}):
        with pytest.raises(ValueError, match="is not what state_dict gave"):
            noise.load_state_dict(state)
