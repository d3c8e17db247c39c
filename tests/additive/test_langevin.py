"""The noises of Table 1 by their covariance matrices, not by sampling."""

import pytest
import torch
from small_network import B, N, added, close, cross_entropy, move, problem, random, sgd_noise, with_gradients
from torch import nn

from support.additive import NAMES, SgdNoise, by_name
from support.curvature import Hessian
from support.gradients import GradientMatrix
from support.risk import EmpiricalRisk
from support.sampling import MiniBatch


def by_hand(name, model, inputs, targets, k):
    """Table 1 from dense matrices."""
    C = GradientMatrix(EmpiricalRisk(model, cross_entropy, (inputs, targets))).covariance(MiniBatch(N, B)).dense()
    H, identity = (
        Hessian(EmpiricalRisk(model, cross_entropy, (inputs, targets))).dense(),
        torch.eye(len(C), dtype=torch.float64),
    )

    def top(matrix, count):
        values, vectors = torch.linalg.eigh(matrix)
        return (vectors[:, -count:] * values[-count:]) @ vectors[:, -count:].T

    shape = {
        "GLD-dynamic": lambda: identity,
        "GLD-diag": lambda: torch.diag(C.diagonal()),
        "GLD-leading": lambda: top(C, k),
        "GLD-Hessian": lambda: top(H, k),
        "GLD-1st-eigenvector": lambda: top(H, 1),
    }
    if name == "GLD-const":
        return 1e-6 * identity
    found = shape[name]()
    return found * C.trace() / found.trace()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lanczos", [False, True])
def test_every_noise_has_the_covariance_of_table_1(name, lanczos, monkeypatch):
    monkeypatch.setattr("support.spectra._DENSE", 0 if lanczos else 300)
    model, *samples = problem()
    options = {"tolerance": 1e-10} if name in ("GLD-Hessian", "GLD-1st-eigenvector") else {}
    noise = by_name(name, sgd_noise(*samples), **options | ({"k": 4} if name in ("GLD-leading", "GLD-Hessian") else {}))
    with_gradients(model, *samples)
    drawn = added(noise, model, random())
    close(noise.covariance.dense(), by_hand(name, model, *samples, 4), atol=1e-8)
    close(drawn, noise.covariance.draw(random()))
    close(noise.covariance.dense(), noise.covariance.dense().T)


def test_the_constant_noise_stays_what_it_is():
    model, *samples = problem()
    noise = by_name("GLD-const", sgd_noise(*samples), sigma=0.5, every=1)
    for step in range(3):
        noise(with_gradients(model, *samples), random(step))
        move(model)
    close(noise.covariance.variances, torch.full_like(noise.covariance.variances, 0.25))


def negative():
    """A loss that is concave in the parameters of a linear model: H has no positive eigenvalue."""
    return SgdNoise(
        lambda outputs, _: -outputs.square().sum(1),
        torch.eye(4, dtype=torch.float64),
        torch.zeros(4),
        2,
    )


@pytest.mark.parametrize("name", ["GLD-Hessian", "GLD-1st-eigenvector"])
def test_a_hessian_without_positive_curvature_is_refused(name):
    model = nn.Linear(4, 1, bias=False).double()
    noise = by_name(name, negative(), **({"k": 2} if name == "GLD-Hessian" else {}))
    with pytest.raises(ValueError, match="no positive curvature to make a noise of"):
        noise(model, random())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("best", {}, "no additive noise 'best': choose one of GLD-const"),
        ("GLD-leding", {}, "no additive noise 'GLD-leding': did you mean 'GLD-leading'. Known are GLD-const"),
        (None, {}, "name = None is no text"),
        ("GLD-diag", {"released": "yes"}, "released = 'yes' is not a boolean"),
        (
            "GLD-leading",
            {"k": N},
            "k = 24 is out of range: C of 24 samples has rank 23 at most; choose 1 ≤ k ≤ 23",
        ),
        ("GLD-leading", {"k": 0}, "k = 0 is out of range"),
        ("GLD-leading", {"k": 2.0}, "k = 2.0 is not an integer"),
        ("GLD-Hessian", {"k": 0}, "k = 0 is out of range: give at least 1"),
        ("GLD-Hessian", {"k": True}, "k = True is not an integer"),
        ("GLD-Hessian", {"tolerance": 0}, "tolerance = 0 is out of range"),
        ("GLD-const", {"sigma": -1.0}, "sigma = -1.0 is out of range: give a finite number at least 0"),
        ("GLD-const", {"sigma": float("nan")}, "sigma = nan is out of range"),
        ("GLD-const", {"sigma": "small"}, "sigma = 'small' is not a number"),
        ("GLD-diag", {"every": 0}, "every = 0 is out of range: give at least 1"),
        ("GLD-diag", {"rescale_every": 0}, "rescale_every = 0 is out of range"),
    ],
)
def test_noises_that_cannot_be_are_refused(name, options, message):
    _, *samples = problem()
    with pytest.raises(ValueError, match=message):
        by_name(name, sgd_noise(*samples), **options)


def test_more_directions_than_parameters_are_refused():
    model, *samples = problem()
    with pytest.raises(ValueError, match="k = 58 eigenpairs cannot be had from a 57 x 57 matrix"):
        by_name("GLD-Hessian", sgd_noise(*samples), k=58)(with_gradients(model, *samples), random())
