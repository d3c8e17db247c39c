"""The gradient of a local complexity, against finite differences of exact suprema and against multiplicative SGD."""

import itertools

import pytest
import torch

from support.complexity import expansion, local_complexity, multipliers
from support.errors import Refused, WrongType
from support.regulariser import ComplexityPenalty
from support.risk import EmpiricalRisk
from support.sampling import MiniBatch, Rademacher

N, D, DELTA = 12, 3, 0.3


def squares(outputs, targets):
    return (outputs[:, 0] - targets).square() / 2


def setting(seed=0):
    generator = torch.Generator().manual_seed(seed)
    data = (
        torch.randn(N, D, generator=generator, dtype=torch.float64),
        torch.randn(N, generator=generator, dtype=torch.float64),
    )
    model = torch.nn.Linear(D, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(1, D, generator=generator, dtype=torch.float64))
    return model, data


def added(penalty, model, seed=1):
    """What a call adds to the gradient, as a vector."""
    model.zero_grad(set_to_none=True)
    penalty(model, torch.Generator().manual_seed(seed))
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def signs(draws, seed=1):
    return multipliers("signs", N, draws, torch.Generator().manual_seed(seed)).double()


def test_without_supremum_and_absolute_value_it_is_multiplicative_sgd():
    model, data = setting()
    b = 3
    weight = (N / b) ** 0.5
    model.zero_grad()
    squares(model(data[0]), data[1]).mean().backward()
    plain = model.weight.grad.flatten().clone()
    descent = plain + added(ComplexityPenalty(squares, data, 1.0, weight=weight, steps=0, absolute=False), model)
    weights = (1 + weight * signs(1)[0]) / N
    of_the_law = {float(w) for _, row in itertools.islice(Rademacher(N, b).atoms(), 2) for w in row}
    assert sorted(of_the_law) == pytest.approx(sorted({round(float(w), 12) for w in weights}))
    model.zero_grad()
    (weights @ squares(model(data[0]), data[1])).backward()
    torch.testing.assert_close(descent, model.weight.grad.flatten(), rtol=1e-12, atol=1e-14)


def test_with_the_absolute_value_alone_it_is_the_gradient_of_the_mean_size():
    model, data = setting()
    given = added(ComplexityPenalty(squares, data, 1.0, weight=2.0, draws=5, steps=0), model)
    model.zero_grad()
    losses = squares(model(data[0]), data[1])
    (2 * (signs(5) @ losses / N).abs().mean()).backward()
    torch.testing.assert_close(given, model.weight.grad.flatten(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("absolute", [True, False])
def test_it_is_the_slope_of_the_exact_supremum(absolute):
    """Quadratic losses: the supremum over the ball is a trust region's, moved by finite differences of θ."""
    model, data = setting(3)
    how = {"draws": 3, "steps": 200, "restarts": 1 + absolute, "absolute": absolute}
    given = added(ComplexityPenalty(squares, data, DELTA, weight=1.5, **how), model)
    V, theta, h = signs(3).numpy(), model.weight.detach().flatten().clone(), 1e-5

    def supremum(at):
        risk = EmpiricalRisk(model, squares, data, theta=at)
        return 1.5 * expansion(risk, DELTA).suprema(V, absolute).mean()

    slope = [(supremum(theta + h * e) - supremum(theta - h * e)) / (2 * h) for e in torch.eye(D, dtype=torch.float64)]
    torch.testing.assert_close(given, torch.tensor(slope), rtol=1e-5, atol=1e-7)


def test_its_supremum_is_that_of_the_measured_complexity():
    model, data = setting(4)
    found = local_complexity(
        EmpiricalRisk(model, squares, data), "signs", DELTA, draws=3, generator=torch.Generator().manual_seed(1)
    )
    at = model.weight.detach().flatten()
    mean = torch.zeros(D, dtype=torch.float64)
    for v, u in zip(found.multipliers, found.points, strict=True):
        there = (at + u).requires_grad_()
        loss = v @ squares(data[0] @ there[:, None], data[1]) / N
        mean += torch.autograd.grad(loss.abs(), there)[0] / 3
    given = added(ComplexityPenalty(squares, data, DELTA, weight=1.0, draws=3, steps=20, restarts=2), model)
    torch.testing.assert_close(given, mean, rtol=1e-6, atol=1e-9)


def test_it_looks_at_the_model_anew_at_each_call_and_takes_any_law():
    model, data = setting()
    penalty = ComplexityPenalty(squares, data, DELTA, weight=1.0, law=MiniBatch(N, 3, replace=False))
    before = added(penalty, model)
    with torch.no_grad():
        model.weight += 1
    after = added(penalty, model)
    assert not torch.allclose(before, after)
    fresh = ComplexityPenalty(squares, data, DELTA, weight=1.0, law=penalty.law)
    torch.testing.assert_close(after, added(fresh, model))


def test_it_adds_to_what_is_there_and_leaves_frozen_parameters():
    model = torch.nn.Sequential(torch.nn.Linear(D, 2), torch.nn.Linear(2, 1)).double()
    model[0].requires_grad_(False)
    _, data = setting()
    squares(model(data[0]), data[1]).mean().backward()
    before = model[1].weight.grad.clone()
    ComplexityPenalty(squares, data, DELTA, weight=1.0)(model, torch.Generator().manual_seed(1))
    assert not torch.equal(model[1].weight.grad, before) and model[0].weight.grad is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"delta": 0.0}, Refused, "delta = 0"),
        ({"weight": -1.0}, Refused, "weight = -1"),
        ({"steps": -1}, Refused, "steps = -1"),
        ({"draws": 0}, Refused, "draws = 0"),
        ({"restarts": 3}, Refused, "restarts = 3"),
        ({"restarts": 2, "absolute": False}, Refused, "restarts = 2"),
        ({"absolute": 1}, WrongType, "absolute"),
    ],
)
def test_bad_values_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        ComplexityPenalty(squares, setting()[1], **{"delta": DELTA, "weight": 1.0} | options)


def test_a_law_of_another_size_is_refused():
    model, data = setting()
    with pytest.raises(Refused, match="n = 5"):
        ComplexityPenalty(squares, data, DELTA, weight=1.0, law=MiniBatch(5, 2))(model, torch.Generator())
