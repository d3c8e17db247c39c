"""Measures of gradient noise against their definitions from stored gradients; coverage of the intervals."""

import math

import pytest
import torch
from torch import nn

from support.curvature import Hessian
from support.errors import Refused, WrongType
from support.gradients import GradientMatrix
from support.measures import (
    critical_batch_size,
    estimate_critical_batch_size,
    estimate_gradient_noise_scale,
    gradient_diversity,
    gradient_noise_scale,
)
from support.risk import EmpiricalRisk


def with_gradients(columns):
    """A linear model whose sample gradients are these columns, d x n."""
    model = nn.Linear(len(columns), 1, bias=False).double()
    return GradientMatrix(EmpiricalRisk(model, lambda o, _: o[:, 0], (columns.T.contiguous(), columns.T), chunk=7))


def classifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = torch.randn(30, 4, dtype=torch.float64), torch.randint(0, 3, (30,))
    return EmpiricalRisk(model, nn.CrossEntropyLoss(reduction="none"), data, chunk=11)


def test_measures_are_their_definitions():
    risk = classifier()
    gradients = GradientMatrix(risk)
    G, H = gradients.dense(), Hessian(risk).dense()
    g, C = G.mean(1), torch.cov(G, correction=0)
    assert gradient_noise_scale(gradients) == pytest.approx(float(C.trace() / (g @ g)))
    assert gradient_diversity(gradients) == pytest.approx(float(G.square().sum() / G.sum(1).square().sum()))
    assert 30 * gradient_diversity(gradients) == pytest.approx(1 + gradient_noise_scale(gradients))
    wanted = float((H @ C).trace() / (g @ H @ g))
    assert critical_batch_size(gradients, Hessian(risk)) == pytest.approx(wanted)
    assert critical_batch_size(gradients, 3 * torch.eye(risk.d).double()) == pytest.approx(
        gradient_noise_scale(gradients)
    )
    found = estimate_critical_batch_size(gradients, H, 400, torch.Generator().manual_seed(1), 0.999)
    assert found.low < wanted < found.high < 2 * found.low


def test_half_the_gain_of_a_gd_step_at_the_critical_batch_size():
    """On a quadratic, with the best learning rate of each: E[L − L'] = (gᵀg)² / (2 (gᵀHg + Tr(HC₁)/B)) (McCandlish et
    al. 2018, Section 2.2), a half of its limit at B = B_noise.
    """
    risk = classifier()
    gradients, H = GradientMatrix(risk), Hessian(risk).dense()
    g, C = gradients.mean, torch.cov(gradients.dense(), correction=0)
    B = critical_batch_size(gradients, H)
    rates = torch.linspace(0, 3 * float(g @ g / (g @ H @ g)), 20001)
    gain = lambda size: float((rates * (g @ g) - rates**2 / 2 * (g @ H @ g + (H @ C).trace() / size)).max())  # noqa: E731
    assert gain(B) == pytest.approx(gain(math.inf) / 2, rel=1e-6)


@pytest.mark.parametrize(("d", "signal"), [(3, 1.0), (50, 0.3)])
def test_the_interval_of_the_noise_scale_covers(d, signal):
    """Of a normal population with |g|² = signal² and Tr C₁ = d: 95 % of 200 samples of 60 gradients."""
    generator = torch.Generator().manual_seed(0)
    true, hits, values = d / signal**2, 0, []
    mean = signal * torch.eye(d, dtype=torch.float64)[0]
    for _ in range(200):
        columns = mean[:, None] + torch.randn(d, 60, generator=generator, dtype=torch.float64)
        found = estimate_gradient_noise_scale(Stored(columns))
        hits += bool(found.low <= true <= found.high)
        values.append(1 / float(found.value))
    assert hits >= 180  # 190 expected, standard deviation 3; more where the signal is weak
    assert d > 3 or hits <= 199
    assert sum(values) / 200 == pytest.approx(1 / true, abs=4 * torch.tensor(values).std().item() / 200**0.5)


class Stored(GradientMatrix):
    """Gradients in hand."""

    def __init__(self, columns):
        super().__init__(_RISK)
        self.stored = columns

    n = property(lambda self: self.stored.shape[1])
    mean = property(lambda self: self.stored.mean(1))

    def columns(self):
        return iter([self.stored])


_RISK = with_gradients(torch.ones(1, 3, dtype=torch.float64)).risk


def test_where_noise_is_all_there_is_the_scale_has_no_upper_end():
    columns = torch.randn(40, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = estimate_gradient_noise_scale(with_gradients(columns))
    assert found.high == math.inf and 0 < found.low < math.inf
    centred = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    assert gradient_noise_scale(with_gradients(centred)) == math.inf
    assert gradient_diversity(with_gradients(centred)) == math.inf


def test_what_has_no_scale_is_refused():
    flat, risk = with_gradients(torch.zeros(2, 5, dtype=torch.float64)), classifier()
    for measure in (gradient_noise_scale, gradient_diversity):
        with pytest.raises(Refused, match=r"every gradient is 0.*before an exact fit"):
            measure(flat)
        with pytest.raises(WrongType, match=r"give a support\.gradients\.GradientMatrix"):
            measure(risk)
    with pytest.raises(Refused, match="5 gradients with a sum of squared deviations 0 have no noise scale"):
        estimate_gradient_noise_scale(with_gradients(torch.ones(2, 5, dtype=torch.float64)))
    with pytest.raises(Refused, match="confidence = 95"):
        estimate_gradient_noise_scale(GradientMatrix(risk), 95)
    with pytest.raises(Refused, match="there is no critical batch size where the loss is not curved upwards"):
        critical_batch_size(GradientMatrix(risk), -torch.eye(risk.d).double())
    with pytest.raises(Refused, match=r"hessian is no matrix of shape \(43, 43\)"):
        critical_batch_size(GradientMatrix(risk), torch.eye(3))
    with pytest.raises(WrongType, match="generator = None is no torch generator"):
        estimate_critical_batch_size(GradientMatrix(risk), Hessian(risk), 5, None)
