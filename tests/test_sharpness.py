"""Expected sharpness: exact on quadratics; its interval and those of traces cover what they say."""

import math

import numpy as np
import pytest
import torch

from support.curvature import Hessian
from support.errors import Refused, WrongType
from support.gradients import GradientMatrix
from support.intervals import skewed, student
from support.risk import EmpiricalRisk
from support.sampling import MiniBatch
from support.sharpness import expected_sharpness
from support.spectra import Spectrum, leading

torch.set_num_threads(1)


def squares(outputs, targets):
    return (outputs - targets).square().sum(1) / 2


def linear(n=12, k=3, seed=0):
    """Least squares: d = k parameters, a quadratic loss whose Hessian is the second moment of the inputs."""
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Linear(k, 1, bias=False).double()
    x = torch.randn(n, k, generator=generator, dtype=torch.float64)
    y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return EmpiricalRisk(model, squares, (x, y), chunk=5)


def classifier(n=30, seed=0):
    """A small network with cross-entropy, at random parameters."""
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    x, y = torch.randn(n, 4, generator=generator, dtype=torch.float64), torch.randint(0, 3, (n,), generator=generator)
    theta = torch.randn(sum(p.numel() for p in model.parameters()), generator=generator, dtype=torch.float64)
    return EmpiricalRisk(model, torch.nn.CrossEntropyLoss(reduction="none"), (x, y), theta=theta, chunk=11)


def quadratic(values):
    """A risk of two samples with Hessian diag(values): the inputs are ± its root, one number a parameter."""
    root = torch.as_tensor(np.sqrt(values))

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = torch.nn.Parameter(torch.zeros(len(root), dtype=torch.float64))

        def forward(self, x):
            return x * (root * self.theta)

    signs = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    return EmpiricalRisk(Scaled(), squares, (signs, torch.zeros(2, 1, dtype=torch.float64)))


def dense_hessian(risk):
    return torch.autograd.functional.hessian(lambda theta: risk.losses_at(theta, slice(0, risk.n)).mean(), risk.theta)


def test_sharpness_of_a_quadratic_is_half_the_trace_times_the_variance():
    risk = linear()
    H = dense_hessian(risk)
    sigma = 0.7  # no small number: the formula is exact here
    estimate = expected_sharpness(risk, sigma, 10_000, torch.Generator().manual_seed(1))
    assert float(estimate.low) <= sigma**2 / 2 * float(H.trace()) <= float(estimate.high)
    assert float(estimate.high - estimate.low) < 0.1 * float(estimate.value)
    # a pair's mean is νᵀHν/2, without the slope: its spread is that of the quadratic form alone
    spread = sigma**2 / 2 * float((2 * (H @ H).trace()).sqrt())
    assert float(estimate.high - estimate.low) == pytest.approx(2 * 1.96 * spread / 5000**0.5, rel=0.05)


def test_paired_and_plain_draws_estimate_the_same_and_pairs_are_sharper():
    risk = classifier()
    paired, plain = (
        expected_sharpness(risk, 0.05, 4000, torch.Generator().manual_seed(2), paired=paired)
        for paired in (True, False)
    )
    assert paired.count == 2000 and plain.count == 4000
    assert max(float(paired.low), float(plain.low)) < min(float(paired.high), float(plain.high))
    assert float(paired.high - paired.low) < float(plain.high - plain.low) / 3


def test_absolute_sharpness_measures_the_gradient_where_there_is_one():
    risk = classifier()
    sigma = 1e-4
    estimate = expected_sharpness(risk, sigma, 5000, torch.Generator().manual_seed(3), absolute=True)
    slope = sigma * (2 / np.pi) ** 0.5 * float(GradientMatrix(risk).mean.norm())
    assert float(estimate.low) * 0.999 <= slope <= float(estimate.high) * 1.001


# --- coverage

NETS = {
    "one outlier, all of the trace": [1.0, *[0.0] * 60],
    "one outlier, half of the trace": [0.5, *[0.5 / 60] * 60],
    "nine outliers and a power law": [*(2.0 ** -np.arange(9)), *(0.4 / np.arange(1, 61))],
    "a power law": 1 / np.arange(1, 61),
}


def share(found, truth):
    return float(((found.low <= truth) & (truth <= found.high)).mean())


@pytest.mark.parametrize("values", NETS.values(), ids=NETS)
def test_ten_quadratic_forms_are_covered_by_the_skewed_interval_and_not_by_students(values):
    """What an observation of the sharpness, of Tr(HC) and of Tr H is: Σ h_i z_i², 5,000 times ten of them."""
    values = np.asarray(values)
    z = np.random.default_rng(0).standard_normal((10, 5000, len(values)), dtype=np.float32)
    draws = (z**2) @ values
    ours, plain = share(skewed(draws), values.sum()), share(student(draws), values.sum())
    assert 0.925 < ours < 0.965  # what the docstring says
    assert plain < ours
    rest = np.sort(values)[::-1][5:]  # the five largest are known
    assert not rest.any() or 0.93 < share(skewed((z[..., 5:] ** 2) @ rest), rest.sum()) < 0.965


@pytest.mark.parametrize("known", [0, 2])
@pytest.mark.parametrize("values", [[1.0, *[0.01] * 30], [4.0, 2.0, 1.0, *[0.02] * 30]], ids=["one", "three outliers"])
def test_the_interval_covers_at_the_settings_of_the_readme(values, known):
    """sigma = 0.01, 20 draws in pairs, 300 times: 95 % within three standard errors."""
    risk = quadratic(values)
    pairs = leading(Hessian(risk), known) if known else None
    generator, truth = torch.Generator().manual_seed(0), 0.01**2 / 2 * sum(values)
    found = [expected_sharpness(risk, 0.01, 20, generator, known=pairs) for _ in range(300)]
    hits = sum(truth in interval for interval in found)
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 300) <= hits / 300 <= 1
    above = sum(bool(interval.low > truth) for interval in found)
    assert above > 0 or known  # misses on both sides


def test_known_pairs_change_no_expectation_and_close_the_interval_of_a_quadratic():
    risk = linear()
    H = dense_hessian(risk)
    pairs = leading(H, 3)
    found = expected_sharpness(risk, 0.1, 4, torch.Generator().manual_seed(0), known=pairs)
    assert float(found.value) == pytest.approx(0.01 / 2 * float(H.trace()), rel=1e-9)
    assert float(found.half_width) < 1e-9 * float(found.value)
    wrong = Spectrum(pairs.values * 0.5, pairs.vectors)
    found = expected_sharpness(risk, 0.1, 2000, torch.Generator().manual_seed(0), known=wrong)
    assert 0.01 / 2 * float(H.trace()) in found


@pytest.mark.parametrize("known", [0, 1])
def test_estimated_traces_cover_with_few_probes_and_one_known_pair(known):
    """Tr H by random signs, and Tr C by its draws, of a network, 200 times with eight probes."""
    risk = classifier()
    hessian, generator = Hessian(risk), torch.Generator().manual_seed(0)
    pairs, true = leading(hessian, 1) if known else None, float(dense_hessian(risk).trace())
    wrapped = Dense(hessian)
    hits = sum(true in wrapped.estimate_trace(8, generator, known=pairs) for _ in range(300))
    assert hits / 300 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 300)
    covariance = GradientMatrix(risk).covariance(MiniBatch(30, 4))
    root = torch.linalg.cholesky(covariance.dense() + 1e-12 * torch.eye(risk.d, dtype=risk.dtype))
    powers = (root @ torch.randn(risk.d, 8, 2000, generator=generator, dtype=risk.dtype).flatten(1)).square().sum(0)
    found = skewed(powers.reshape(8, 2000))
    assert 0.92 < float(((found.low <= covariance.trace()) & (covariance.trace() <= found.high)).double().mean()) < 0.97


class Dense(Hessian):
    """A Hessian whose products are those of its dense matrix."""

    def __init__(self, hessian):
        super().__init__(hessian.risk)
        self.matrix = hessian.dense()

    def _times(self, columns):
        return self.matrix @ columns


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"sigma": 0.0}, Refused, "sigma = 0.0"),
        ({"sigma": "a"}, WrongType, "sigma = 'a'"),
        ({"draws": 11}, Refused, "paired=False"),
        ({"draws": 2}, Refused, "draw at least 4"),
        ({"draws": 1, "paired": False}, Refused, "draw at least 2"),
        ({"draws": 4.0}, WrongType, "draws = 4.0"),
        ({"generator": None}, WrongType, "generator = None"),
        ({"confidence": 95}, Refused, "confidence = 95 is no probability"),
        ({"risk": "model"}, WrongType, "risk is of type str"),
        ({"known": leading(torch.eye(3), 1), "absolute": True}, Refused, "serve the signed sharpness"),
        ({"known": leading(torch.eye(4), 1)}, Refused, r"eigenvectors of shape \(4, 1\) are not those of a 3 x 3"),
    ],
)
def test_bad_input_names_value_and_remedy(options, error, message):
    valid = {"risk": linear(), "sigma": 0.1, "draws": 10, "generator": torch.Generator().manual_seed(0)}
    with pytest.raises(error, match=message):
        expected_sharpness(**valid | options)
