"""Every public callable says in one line what it does not take: a table of valid calls, in which each argument is
replaced in turn by values of other kinds. Each must end in a `Refused`, never in an error of the inside.

A module that stands in `CALLS` is covered whole: a new public callable of it needs a line here.
"""

import importlib
import inspect
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from support.covariances import Diagonal, LowRank
from support.curvature import Hessian
from support.errors import Refused
from support.exact.approximations import APPROXIMATIONS, EXAMPLE
from support.exact.batch_noise import BatchNoise
from support.exact.clipped_network import ClippedNetwork
from support.exact.complexity import Finite, Linear
from support.exact.mixtures import online_noise
from support.exact.multipliers import signs
from support.exact.ornstein_uhlenbeck import OrnsteinUhlenbeck
from support.exact.populations import FinitePopulation
from support.exact.products import log_products
from support.exact.second_moments import Descent
from support.exact.tails import GaussianFactor
from support.exact.theorem_one import outcomes
from support.exact.two_basins_runs import Setting
from support.experiments import presets
from support.experiments.judging import Data, cross_entropy
from support.gradients import GradientMatrix
from support.risk import EmpiricalRisk
from support.sampling import GaussianCovariance, MiniBatch
from support.spectra import Density, leading
from support.strength import strength

X, Y, THETA = np.array([[1.0, 0.0], [1.0, 2.0], [-1.0, 1.0]]), np.array([1.0, 0.0, 2.0]), np.array([1.0, -1.0])
LAW, NOISE, POPULATION = MiniBatch(3, 2), BatchNoise(0.5), FinitePopulation(X, Y)
REGRESSION = {"features": X, "targets": Y, "law": LAW, "lr": 0.1, "theta": THETA}
AVERAGED = {"population": POPULATION, "noise": NOISE, "lr": 0.1, "theta": THETA}
RATIONAL = FinitePopulation([[Fraction(1)], [Fraction(2)]], [0, 1])
DESCENT = Descent(POPULATION, NOISE, 0.05)
SQUARE, PAIR, EXPANDING = np.array([[1.0, 0.2], [0.2, 2.0]]), np.array([1.0, -1.0]), GaussianFactor(0.5, 2)
LABELS = {"features": SQUARE, "lr": 0.1, "b": 4.0, "variance": 1.0, "momentum": 0.1}
STABLE = {"features": SQUARE, "lr": 0.1, "b": 4.0, "momentum": 0.1, "decay": 0.1, "column": "exact"}
COLUMN = {"column": "exact", "printed": True}
STEPS = outcomes(RATIONAL, MiniBatch(2, 1).atoms())
PATHS = {"paths": 2, "substeps": 2, "generator": np.random.default_rng(1)}
GAUSSIAN = GaussianCovariance(3, 2)
WEIGHTS = GAUSSIAN.sample(4, np.random.default_rng(1))[None]
FACTOR = online_noise("SGD", {0.0: 0.5, 1.0: 0.5}, 1).affine(1, -0.5)
NETWORK, UNITS = ClippedNetwork(X, [0.0, 1.0, 1.0], [1.0, -1.0], 0.1), np.array([[0.3, 0.1], [0.1, 0.2]])
PROCESS = OrnsteinUhlenbeck([1.0, 2.0], [1.0, 1.0])
LINE = torch.nn.Linear(2, 1, bias=False).requires_grad_(True)
RISK = EmpiricalRisk(
    LINE, lambda outputs, targets: (outputs[:, 0] - targets).square(), (torch.as_tensor(X).float(), torch.ones(3))
)
HESSIAN, COVARIANCE = Hessian(RISK), GradientMatrix(RISK).covariance(LAW)
DRAWN = {"probes": 3, "generator": torch.Generator().manual_seed(1)}
ALIGNED = {"hessian": HESSIAN, "covariance": COVARIANCE}
BALL_SHOWN = {"knots": np.array([0.0, 1.0]), "losses": np.ones((2, 1)), "centre": 0.5, "radii": np.array([0.1, 0.2])}
BALL = {**BALL_SHOWN, "multipliers": signs(1)}
BALL_SHOWN["noises"] = {"signs": signs(1)}
CLASS = {"at_centre": Y, "slopes": X, "delta": 0.5}
TOY = {"dynamics": "GLD const", "steps": 3, "trace": 0.01}
CLAIM = {"claim_id": "wu.sec2.unbiased", "measured": np.ones(1), "here": np.ones(1)}
LABELLED = plt.subplots()[1]
LABELLED.plot([0, 1], [0, 1], label="a")


def first(theta, weights):
    """A gradient that is one."""
    return theta * weights.sum()


class Optional:
    """A valid value beside which None is valid too."""

    def __init__(self, value):
        self.value = value


class AnyNumbers(Optional):
    """A tensor that is not looked into, such as the outputs of a run that may explode."""


EXAMPLES = (torch.zeros(3, 2), torch.tensor([0, 1, 1]))
JUDGED = {"outputs": AnyNumbers(EXAMPLES[0]), "targets": EXAMPLES[1]}
LOOKED_AT = {"model": torch.nn.Identity(), "loss": cross_entropy, "inputs": AnyNumbers(EXAMPLES[0])}
LOOKED_AT["targets"] = EXAMPLES[1]
OBJECTS = {
    "Data": Data(EXAMPLES, EXAMPLES, 1),
    "Density": Density(torch.zeros(2, 1).double(), torch.ones(2, 1).double(), 3),
    "Diagonal": Diagonal(torch.ones(2)),
    "LowRank": LowRank(torch.ones(1), torch.eye(2)[:, :1]),
    "ClippedNetwork": NETWORK,
    "Descent": DESCENT,
    "Finite": Finite(X.T),
    "Linear": Linear(**CLASS),
    "FinitePopulation": POPULATION,
    "GaussianFactor": EXPANDING,
    "LogProduct": log_products(FACTOR, [3])[0],
    "Mixture": FACTOR,
    "OrnsteinUhlenbeck": PROCESS,
    "Strength": strength(SQUARE, lr=0.1, b=2),
}
# module: {callable, or method of one of the objects: valid arguments by name}
CALLS = {
    "exact.batch_noise": {
        "BatchNoise": {"strength": 0.5, "jitter": 0.1, "samples": Optional(3)},
        "fresh": {"law": LAW},
        "fixed": {"law": LAW},
        "matched": {"b": 2, "B": Optional(3)},
        "a_law": {"law": LAW},
    },
    "exact.populations": {
        "FinitePopulation": {"inputs": X, "targets": Y, "probabilities": Optional(np.full(3, 1 / 3))},
        "GaussianPopulation": {
            "covariance": np.eye(2),
            "optimum": Optional(THETA),
            "variance": 1.0,
            "degrees": 5.0,
        },
        "a_population": {"value": POPULATION},
        "a_noise": {"value": NOISE, "population": POPULATION},
        "gaussian_points": {"covariance": np.eye(2)},
        "gaussian_regression": {
            "covariance": np.eye(2),
            "target": THETA,
            "variance": 0.5,
            "blur": Optional(np.eye(2) / 4),
        },
        "FinitePopulation.error_of": {"theta": THETA},
    },
    "exact.averaged": {
        "risks": {**AVERAGED, "steps": 2},
        "last_moment": {**AVERAGED, "steps": 2},
        "simulated": {
            "population": POPULATION,
            "law": LAW,
            "lr": 0.1,
            "theta": THETA,
            "stops": [1, 2],
            "runs": 3,
            "generator": np.random.default_rng(1),
        },
        "kappa": {"population": POPULATION, "noise": NOISE},
        "lr_limit": {"population": POPULATION, "noise": NOISE},
        "bound": {**AVERAGED, "form": "corrected"},
        "inverse_T": {"population": POPULATION, "noise": NOISE, "lr": 0.1, "matrix": np.eye(2)},
        "exact_constants": AVERAGED,
    },
    "exact.least_squares": {
        "expected_losses": {**REGRESSION, "steps": 2},
        "regression_arrays": {"features": X, "targets": Y, "theta": THETA},
        "growth": {"data": X, "noise": LAW, "lr": 0.1},
        "stability_limit": {"data": POPULATION, "noise": NOISE},
    },
    "exact.matrices": {
        "symmetric": {"value": SQUARE, "d": Optional(2)},
        "multiple": {"value": 0.1, "d": 2},
        "a_momentum": {"value": 0.5},
        "shared_axes": {"matrices": [SQUARE, np.eye(2)]},
        "commuting": {"features": SQUARE, "lr": np.eye(2)},
        "ridge": {"features": SQUARE, "decay": 0.1, "target": PAIR},
        "positive": {"value": SQUARE, "d": Optional(2), "strictly": True},
        "first_edge": {"drag": Y + 1, "noise": Y, "room": 2.0},
    },
    "exact.second_moments": {
        "Descent": {"population": POPULATION, "noise": NOISE, "lr": 0.05, "momentum": 0.1, "decay": 0.1},
        "a_descent": {"value": DESCENT},
        "Lyapunov": {"transition": SQUARE / 4},
        "Descent.step": {"joint": np.eye(4)},
    },
    "exact.stationary": {
        "stationary": {"descent": DESCENT, "method": Optional("krylov")},
        "gain": {"descent": DESCENT},
        "growth": {"descent": DESCENT},
        "headroom": {"descent": DESCENT},
        "decay_window": {"descent": DESCENT},
        "input_noise": {"covariance": SQUARE, "blur": np.eye(2), "target": PAIR, "variance": 1.0},
    },
    "exact.approximations": {
        **{approximation.evaluate.__name__: {"descent": DESCENT} for approximation in APPROXIMATIONS},
        "miss": {"covariance": SQUARE, "exact": SQUARE, "features": SQUARE},
        "bracket": {"descent": EXAMPLE},
    },
    "exact.blurred": {"BlurredPopulation": {"population": POPULATION, "blur": np.eye(2), "variance": 1.0}},
    "exact.tails": {
        "GaussianFactor": {"scale": 0.5, "b": 2, "keep": 1.0},
        "GaussianFactor.exponent": {"q": 1.0},
        "GaussianFactor.slope": {"q": 1.0},
        "data_factor": {"squares": Y, "lr": 0.5, "b": 2, "replace": False, "decay": 0.1},
        "bounded_below": {"squares": Y, "b": 2, "replace": False},
        "tail_index": {"factor": EXPANDING},
        "moment_exists": {"factor": EXPANDING, "order": 2.0},
        "edge": {"order": 2.0, "b": 2},
        "printed_index": {"scale": 1.0, "b": 4.0},
        "continuous_index": {"scale": 1.0, "b": 4.0, "gaussian": True},
        "small_rate_index": {},
        "large_batch_index": {"scale": 1.0},
        "hill": {"samples": THETA * 3 + 5, "k": 1, "confidence": 0.9},
    },
    "exact.tail_range": {
        "tail_range": {"descent": DESCENT, "b": 2, "replace": True},
        "fluctuates": {"descent": DESCENT},
        "even_moment_growth": {"order": 2, "scale": 0.5, "b": 2, "momentum": 0.1, "keep": 1.0},
    },
    "exact.ziyin": {
        "theorem_1": {"lr": SQUARE, "hessian": SQUARE, "covariance": SQUARE, "noise": SQUARE, "momentum": 0.1},
        "lemma_1": {"features": SQUARE, "covariance": SQUARE, "b": 4.0, "variance": 1.0},
        "proposition_3": {"features": SQUARE, "decay": 0.1, "target": PAIR, "covariance": SQUARE, "b": 4.0},
        "label_noise": {**LABELS, **COLUMN},
        "kappa_mu": {name: LABELS[name] for name in ("features", "lr", "b", "momentum")},
        "label_noise_stable": {name: LABELS[name] for name in ("features", "lr", "b", "momentum")},
        "largest_factor": STABLE,
        "stable_rate": STABLE,
        "theorem_3": LABELS,
        "input_noise": {
            "features": SQUARE,
            "blur": SQUARE,
            "target": PAIR,
            "lr": 0.1,
            "b": 4.0,
            "momentum": 0.1,
            **COLUMN,
        },
        "weight_decay": {
            "features": SQUARE,
            "decay": 0.1,
            "target": PAIR,
            "lr": 0.1,
            "b": 4.0,
            "momentum": 0.1,
            **COLUMN,
        },
        "proposition_8": {"gradients": X, "b": 2, "replace": False},
    },
    "exact.ziyin_applications": {
        "decay_losses": {"decay": 0.1, "a": 1.0, "lr": 0.1, "b": 4.0, "target": 1.0},
        "decay_ends": {"a": 1.0, "lr": 0.1, "b": 4.0},
        "best_decay": {"a": 1.0, "lr": 0.1, "b": 4.0},
        "negative_decay": {"scale": 1.0, "b": 4, "printed": True},
        "decay_quotient": {"features": SQUARE, "decay": 0.1, "target": PAIR, "lr": 0.1, "b": 4.0},
        "theorem_5": {"loss": 1.0, "hessian": SQUARE, "gradient": PAIR, "penalty": PAIR, "b": 4.0, "printed": True},
        "corollary_2": {"hessian": SQUARE, "b": 4.0, "loss": 1.0, "penalty": Optional(PAIR), "gaussian": True},
        "corollary_2_zero": {"hessian": SQUARE, "covariance": SQUARE, "b": 4.0, "gaussian": True},
        "corollary_3": {
            "hessian": SQUARE,
            "decay": 0.1,
            "minimum": PAIR,
            "loss": 1.0,
            "lr": 0.1,
            "b": 4.0,
            "momentum": 0.1,
            "printed": True,
            "gaussian": True,
        },
        "proposition_4": {"hessian": SQUARE, "covariance": SQUARE, "b": 4.0, "variance": 1.0, "alpha": 2.0},
        "theorem_6": {
            "hessian": SQUARE,
            "lr": 0.1,
            "b": 4.0,
            "variance": 1.0,
            "alpha": 2.0,
            "fixed_dimension": True,
        },
        "many_dimensions_edge": {"a": 1.0, "d": 2, "b": 4.0, "form": "printed"},
        "averaged_labels": {"inputs": X, "variance": 1.0},
        "newton": LABELS,
        "natural_gradient": LABELS,
        "natural_rate": {"d": 2, **{name: LABELS[name] for name in ("lr", "b", "variance", "momentum")}},
        "at_fixed_ratio": {"features": SQUARE, "ratio": 0.1, "lr": 0.1, "variance": 1.0, "momentum": 0.1},
        "student": {"beta": 3.0, "a": 1.0, "variance": 1.0},
    },
    "exact.diffusion": {
        "whole_steps": {"time": 1.0, "lr": 0.5},
        "strong_error": {**REGRESSION, "time": 0.2, "correlation": 1.0, "modified": False},
        "first_order": {"features": X, "targets": Y, "theta": THETA, "time": 1.0},
        "gronwall_bound": {"lr": 0.1, "time": 1.0, "lipschitz": 1.0, "bound": 1.0, "printed": False},
        "sharper_bound": {"lr": 0.1, "time": 1.0, "lipschitz": 1.0, "bound": 1.0, "b": 2.0},
    },
    "exact.higher_moments": {"loss_moments": {**REGRESSION, "steps": 1}},
    "exact.mixtures": {
        "Mixture": {"parts": ((1.0, 0.0, 1.0),)},
        "online_noise": {"kind": "[MSGD-Cov]-B", "squares": {0.0: 0.5, 1.0: 0.5}, "b": 2, "B": 3},
        "Mixture.affine": {"shift": 1.0, "scale": 2.0},
        "Mixture.moment": {"order": 2},
        "Mixture.exponent": {"q": 1.0},
        "Mixture.slope": {"q": 1.0},
        "Mixture.within": {"size": np.array([1.0])},
        "Mixture.sample": {"size": 3, "generator": np.random.default_rng(1)},
    },
    "exact.products": {
        "log_products": {"factor": FACTOR, "counts": [1, 3], "points": 1000},
        "LogProduct.cdf": {"x": np.array([0.0])},
        "LogProduct.quantile": {"probability": 0.5},
    },
    "exact.theorem_one": {
        "outcomes": {"population": RATIONAL, "weights": [(Fraction(1), (Fraction(1),))]},
        "expect": {"steps": STEPS, "value": lambda L, N: N},
        "paths": {"steps": STEPS, "length": 2},
        "product": {"path": tuple(STEPS), "lr": Fraction(1, 5), "i": 1, "k": 1},
        "walk": {"path": tuple(STEPS), "lr": Fraction(1, 5), "start": np.array([Fraction(1)])},
        "counted_risks": {
            "population": RATIONAL,
            "steps": STEPS,
            "lr": Fraction(1, 5),
            "theta": np.array([1.0]),
            "length": 1,
        },
        "chain": {**AVERAGED, "n": 3},
        "random_case": {"generator": np.random.default_rng(1), "well_specified": True},
        "survey": {"count": 1, "seed": 1, "steps": 2, "well_specified": True},
    },
    "exact.clipped_network": {
        "ClippedNetwork": {"inputs": X, "labels": np.array([0.0, 1.0, 1.0]), "output": np.ones(2), "delta": 0.1},
        "descend": {"network": NETWORK, "theta": UNITS, "rates": [0.1, 0.1], "adam": True},
        "loewner_at_least": {
            "larger": np.array([[2, 0], [0, 2]], dtype=object),
            "smaller": np.array([[1, 0], [0, 1]], dtype=object),
        },
        "ClippedNetwork.loss": {"theta": UNITS},
        "ClippedNetwork.alignment": {"theta": UNITS},
    },
    "exact.ornstein_uhlenbeck": {
        "OrnsteinUhlenbeck": {"hessian": np.eye(2), "diffusion": np.ones(2)},
        "discrete_efficiency": {"hessian": np.ones(2), "covariance": np.ones(2), "lr": 0.1, "steps": np.array([1, 2])},
        "OrnsteinUhlenbeck.efficiency": {"t": np.array([1.0])},
        "OrnsteinUhlenbeck.linear": {"t": np.array([1.0])},
        "OrnsteinUhlenbeck.ito": {"t": np.array([1.0])},
        "OrnsteinUhlenbeck.excess": {"t": np.array([1.0])},
        "OrnsteinUhlenbeck.covariance": {"t": 1.0},
    },
    "exact.multipliers": {
        "Multipliers": {"values": X, "probabilities": Optional(np.full(3, 1 / 3))},
        "Gaussian": {"n": 3},
        "signs": {"n": 3},
        "batches": {"n": 3, "b": 2, "replace": False},
        "combinations": {"n": 3, "k": 2},
        "shares": {"probabilities": np.full(3, 1 / 3), "count": 3},
        "multinomial": {"counts": np.ones((2, 3))},
        "expected_maximum": {"n": 3},
        "ceiling": {"n": 3},
        "sgd_factor": {"n": 4, "b": 2},
        "expected_fullest": {"n": 3, "b": 2},
    },
    "exact.complexity": {
        "Finite": {"losses": X},
        "Linear": CLASS,
        "Quadratic": {**CLASS, "curvatures": np.ones((3, 2, 2))},
        "Finite.take": {"index": np.array([0, 2])},
        "Linear.suprema": {"values": X.T, "absolute": True},
        "kinked": {"knots": np.array([0.0, 1.0]), "losses": np.ones((2, 3)), "centre": 0.5, "delta": 0.1},
        "ball_maximum": {"slopes": X, "curvatures": np.ones((3, 2, 2)), "delta": 0.5},
        "mean_norm": {"variances": np.ones(2)},
        "given_data": {
            "losses": Finite(X.T),
            "multipliers": X.T,
            "absolute": True,
            "confidence": 0.9,
        },
        "over_data": {
            "losses": Finite(X.T),
            "probabilities": np.full(3, 1 / 3),
            "multipliers": signs(2),
            "absolute": True,
        },
        "radius": {"value": 0.5},
    },
    "complexity": {
        "multipliers": {"law": LAW, "n": 3, "draws": 2, "generator": torch.Generator()},
        "local_complexity": {
            "risk": RISK,
            "law": "signs",
            "delta": 0.5,
            "draws": 2,
            "generator": torch.Generator(),
            "absolute": True,
            "steps": 2,
            "restarts": 2,
            "lipschitz": Optional(1.0),
            "smooth": Optional(np.ones(3)),
            "known": Optional(Linear(**CLASS)),
            "together": Optional(2),
            "confidence": 0.9,
        },
        "expansion": {"risk": RISK, "delta": 0.5},
    },
    "exact.two_basins": {
        "plane": {"points": X[:, :2]},
        "bowls": {"w": THETA, "x": THETA},
        "loss": {"w": THETA, "data": X},
        "expected_loss": {"w": THETA, "spread": 1.0, "nodes": 4},
        "edges": {"s": np.array([0.0])},
        "variances": {"dynamics": "GLD const", "bowl": "sharp", "trace": 0.01},
        "crossing_closed_form": TOY,
        "crossing": TOY,
        "arrival": {**TOY, "dynamics": "GLD 1st eigvec(H)", "cell": 0.02},
        "expected_gradient_along": {"u": np.array([1.0]), "spread": 1.0},
        "arrival_along": {"steps": 3, "trace": 0.01, "spread": 0.0},
    },
    "exact.two_basins_runs": {
        "Setting": {
            "trace": 0.01,
            "lr": 0.005,
            "n": 5,
            "spread": 1.0,
            "protocol": "code",
            "tie": "axis",
            "cumulative": False,
        },
        "simulate": {
            "dynamics": "GLD const",
            "runs": 2,
            "steps": 2,
            "setting": Setting(n=3),
            "generator": np.random.default_rng(1),
            "every": 1,
        },
    },
    "coupling": {
        "regression": {"features": X, "targets": Y, "slope": Optional(np.tanh)},
        "huber": {"residual": Y},
        "descend": {"gradient": first, "theta": THETA, "lr": 0.1, "weights": WEIGHTS},
        "brownian_weights": {"law": GAUSSIAN, "steps": 2, **PATHS},
        "coarse": {"weights": WEIGHTS, "substeps": 2},
        "paired_paths": {"gradient": first, "law": GAUSSIAN, "lr": 0.5, "theta": THETA, "time": 1.0, **PATHS},
        "mini_batches": {"weights": WEIGHTS, "b": 2, "block": Optional(2)},
        "hypergeometric_quantile": {"u": np.array([0.5]), "marked": Y, "unmarked": Y, "draws": np.zeros(3)},
    },
    "orders": {
        "fit_powers": {"lrs": np.array([0.5, 0.2]), "errors": Y[[0, 2]], "powers": (1, 2), "confidence": 0.9},
        "fit_order": {"lrs": np.array([0.5, 0.2]), "errors": Y[[0, 2]], "confidence": 0.9},
    },
    "intervals": {
        "student": {"observations": Y, "confidence": 0.9},
        "skewed": {"observations": Y, "confidence": 0.9},
        "paired": {"first": Y, "second": Y[::-1], "confidence": 0.9},
        "mean_square": {"count": 3, "confidence": 0.9, "degrees": Optional(2.0)},
        "bootstrap": {
            "observations": Y,
            "generator": np.random.default_rng(1),
            "statistic": np.mean,
            "confidence": 0.9,
            "resamples": 100,
        },
        "wilson": {"hits": 2, "count": 3, "confidence": 0.9},
        "newcombe": {"first": (1, 2), "second": (2, 3), "confidence": 0.9},
        "ratio": {"above": Y, "below": Y, "confidence": 0.9},
        "observed": {"values": Y},
    },
    "equivalence": {
        "equivalence": {"differences": Y, "margin": 1.0, "level": 0.1},
        "power": {"count": 3, "sigma": 1.0, "margin": 1.0, "level": 0.1, "truth": 0.0},
        "sample_size": {"sigma": 1.0, "margin": 1.0, "power": 0.5, "level": 0.1, "truth": 0.0},
        "holm": {"p_values": np.array([0.1, 0.2])},
        "reached": {"x": Y, "goal": 0.5},
    },
    "spectra": {
        "leading": {
            "operator": torch.eye(3),
            "k": 2,
            "which": "LA",
            "start": Optional(torch.ones(3)),
            "tolerance": Optional(0.1),
        },
        "density": {"operator": torch.eye(3), "steps": 2, **DRAWN},
        "signs": {"operator": HESSIAN, **DRAWN},
        "trace_draws": {"operator": torch.eye(2), "known": Optional(leading(torch.eye(2), 1)), **DRAWN},
        "a_spectrum": {"value": leading(torch.eye(2), 1), "d": 2},
        "refuse_other_pairs": {"operator": torch.eye(2), "spectrum": leading(torch.eye(2), 1)},
        "Density.mean": {"function": torch.exp, "confidence": 0.9},
        "Density.moment": {"power": 2, "confidence": 0.9},
        "Density.smoothed": {"grid": torch.ones(3), "width": 0.1, "confidence": 0.9},
    },
    "covariances": {
        "Diagonal": {"variances": torch.ones(2)},
        "LowRank": {"values": torch.ones(1), "vectors": torch.eye(2)[:, :1]},
        "Diagonal.draw": {"generator": torch.Generator()},
        "Diagonal.of_trace": {"trace": 1.0},
        "LowRank.draw": {"generator": torch.Generator()},
        "LowRank.of_trace": {"trace": 1.0},
    },
    "alignment": {
        "alignment": {**ALIGNED, "spectrum": leading(HESSIAN, 1)},
        "estimate_alignment": {**ALIGNED, "spectrum": leading(HESSIAN, 1), **DRAWN, "confidence": 0.9},
        "indicator": ALIGNED,
        "estimate_indicator": {**ALIGNED, **DRAWN, "confidence": 0.9, "known": Optional(leading(HESSIAN, 1))},
        "likeness": {"A": torch.eye(2), "B": HESSIAN, "confidence": 0.9, **DRAWN, "probes": Optional(3)},
    },
    "sharpness": {
        "expected_sharpness": {
            "risk": RISK,
            "sigma": 0.1,
            "draws": 4,
            "generator": torch.Generator(),
            "absolute": False,
            "paired": True,
            "known": Optional(leading(HESSIAN, 1)),
            "confidence": 0.9,
        },
    },
    "strength": {
        "strength": {
            "features": SQUARE,
            "lr": 0.1,
            "b": 2,
            "momentum": 0.1,
            "decay": 0.1,
            "variance": Optional(1.0),
            "blur": Optional(SQUARE),
            "target": PAIR,
            "replace": True,
        },
        "Strength.simplest": {"error": "loss"},
        "Strength.along": {"name": "lr", "values": np.array([0.1]), "theories": ("small rate",)},
        "Strength.loss_on": {"x": X[:, :2], "y": Y},
    },
    "experiments.variants": {
        "name": {"base": "SGD"},
        "base": {"method": "Adam-width=200"},
        "setting": {"general": presets.Setting(), "method": "Adam-width=200"},
    },
    "experiments.spread": {"Spread": {"watched": first}},
    "experiments.presets.ziyin": {"curve": {"base": "SGD", "rate": 0.5, "loss": "squares", "scaled": True}},
    "experiments.models": {
        "LeNet": {},
        "DigitsNet": {},
        "TanhNet": {"width": 3, "pixels": 4},
        "Softmax": {"pixels": 4},
        "by_name": {"name": "ResNet8", "pixels": 12, "width": Optional(3), "classes": 10, "ghost": Optional(2)},
        "count_parameters": {"model": LINE},
        "normal_init": {
            "model": torch.nn.Linear(2, 1),
            "std": 0.1,
            "generator": torch.Generator(),
            "truncated": True,
        },
        "fan_in_init": {"model": torch.nn.Linear(2, 1), "generator": torch.Generator()},
        "he_init": {"model": torch.nn.Linear(2, 1), "generator": torch.Generator()},
    },
    "experiments.judging": {
        "cross_entropy": JUDGED,
        "squares": JUDGED,
        "mean_squares": JUDGED,
        "Data": {"train": EXAMPLES, "test": EXAMPLES, "watched": 1},
        "evaluating": {"model": torch.nn.Identity()},
        "judge": {**LOOKED_AT, "at_once": 2},
        "probe": LOOKED_AT,
        "Data.on": {"device": Optional("cpu"), "train": EXAMPLES, "test": EXAMPLES, "watched": 1},
    },
    "claims.judge": {"judge": {**CLAIM, "relation": "==", "rtol": 0.1, "atol": 0.1, "note": "a line"}},
    "claims.check": {"check": {**CLAIM, "relation": "==", "rtol": 0.1, "atol": 0.1, "note": "a line"}},
    "ball": {
        "rising": BALL,
        "picture": {**BALL_SHOWN, "start": 0, "key": "x"},
    },
    "calculator": {
        "spectrum": {"d": 2, "power": 1.0},
        "setting": {"lr": 0.1, "b": 2, "momentum": 0.1, "decay": 0.1, "d": 2, "power": 1.0},
        "calculator": {"lr": 0.1, "b": 2, "momentum": 0.1, "decay": 0.1, "d": 2, "power": 1.0, "key": "x"},
    },
    "widget": {
        "large_batch": {"n": 5, "b": 2, "B": 3},
        "entry": {"law": LAW},
        "table": {"largest": 3, "B": 2},
        "zoo": {"n": 3, "b": 2, "B": 3, "chosen": "SGD", "largest": 3, "seed": 1, "key": "x"},
    },
    "style": {
        "figure": {"rows": 1, "columns": 1, "title": "It is so", "panels": ("a",), "width": 2.0, "height": 2.0},
        "known_colour": {"colour": "black"},
        "contrast": {"first": "black", "second": "white"},
        "readable": {"colour": "black"},
        "class_colour": {"method": "SGD"},
    },
    "plotting": {
        "band": {"ax": plt.subplots()[1], "x": Y, "runs": X.T, "confidence": 0.9},
        "seeds": {"ax": plt.subplots()[1], "x": Y, "runs": X.T, "geometric": False},
        "label_ends": {"ax": plt.subplots()[1], "labels": {"a": (0.5, "black")}, "gap": Optional(0.1), "pad": 0.1},
        "label_lines": {"ax": LABELLED, "gap": Optional(0.1)},
        "note": {"ax": plt.subplots()[1], "text": "a", "at": (0.5, 0.5), "offset": (1.0, 1.0), "colour": "black"},
        "multiples": {"x": Y, "runs": {"GD": X.T}, "title": "It is so", "columns": 1},
        "forest": {
            "ax": plt.subplots()[1],
            "rows": {"GD": [1.0, 2.0]},
            "confidence": 0.9,
            "test": Optional(0.8),
            "margin": Optional(1.0),
        },
        "ellipse": {
            "ax": plt.subplots()[1],
            "covariance": np.eye(2),
            "centre": (0.0, 0.0),
            "deviations": 1.0,
            "colour": "black",
            "fill": True,
        },
        "heat": {"ax": plt.subplots()[1], "matrix": X, "form": Optional(".2f"), "top": Optional(1.0)},
        "barcode": {"ax": plt.subplots()[1], "weights": X, "unit": Optional(1.0), "numbers": False},
    },
    "tables": {"table": {"head": ("a", "b"), "rows": [(1, 2)]}},
    "animation": {
        "gif": {
            "fig": plt.figure(),
            "draw": lambda frame: [],
            "seconds": 0.1,
            "rest": 1.0,
            "plays": 1,
            "colours": 8,
        },
        "html": {"moving": b"a", "still": b"b", "alt": "a dot"},
    },
}
FIXED = {
    "mean_square": {"value": 1.0},
    "reached": {"y": [2.0, math.nan, 0.0]},
    "band": {"colour": "black"},
    "seeds": {"colour": "black"},
    "known_colour": {"name": "colour"},
    "gif": {"frames": [1, 2]},
    "symmetric": {"name": "lr"},
    "positive": {"name": "lr"},
    "multiple": {"name": "lr", "above": 0.0},
}  # arguments that may be many things
# what functions give, and what they take only from each other
RESULTS = {
    *("Arrival", "Bound", "LogProduct", "Link", "Outcome", "Population", "Risks", "Runs", "Survey"),
    *("Verdict", "VerdictMismatch", "compositions", "Equivalence", "Interval", "Density", "NotConverged", "Spectrum"),
    *("Alignment", "EstimatedAlignment", "Likeness", "Covariance", "Losses", "LocalComplexity"),
    *("Approximation", "Forms", "JudgingError", "Miss", "Modes", "Stationary", "Strength"),
}


def strange(value) -> list:
    """Values of other kinds than this one."""
    if isinstance(value, bool):
        return [None, 1, "yes"]
    if isinstance(value, int):
        return [None, 1.5, "3", True, [1], math.nan]
    if isinstance(value, (float, Fraction)):
        return [None, "0.1", [0.1], 1j, math.nan]
    if isinstance(value, torch.Tensor):
        nan = [torch.full_like(value, math.nan)] if value.is_floating_point() else []
        return [None, "numbers", [1.0], np.ones(tuple(value.shape)), *nan]
    if isinstance(value, np.ndarray):
        return [None, "numbers", object(), [[1], [1, 2]], np.full(value.shape, math.nan), {"a": 1}]
    if isinstance(value, str):
        return [None, 3, b"text", ["text"]]
    if isinstance(value, (list, tuple, Mapping)):
        return [None, 3, object(), [object()]]
    return [None, 3, "thing", [1.0]]


def cases():
    for module, calls in CALLS.items():
        for call, arguments in calls.items():
            for argument, value in arguments.items():
                optional = isinstance(value, Optional)
                loose = isinstance(value, AnyNumbers)
                for wrong in strange(value.value if optional else value):
                    if not (loose and isinstance(wrong, torch.Tensor)) and not (
                        optional and not loose and wrong is None
                    ):
                        label = f"{module}.{call}-{argument}-{type(wrong).__name__}"
                        yield pytest.param(module, call, argument, wrong, id=label)


def called(module, call, **replaced):
    """The call of the table with some arguments replaced."""
    name, _, method = call.partition(".")
    function = getattr(OBJECTS[name], method) if method else getattr(importlib.import_module(f"support.{module}"), call)
    arguments = {k: v.value if isinstance(v, Optional) else v for k, v in CALLS[module][call].items()}
    result = function(**FIXED.get(call, {}), **(arguments | replaced))
    with result if isinstance(result, AbstractContextManager) else nullcontext():  # refuses on entry
        return result


@pytest.mark.parametrize(
    ("module", "call"), [pytest.param(m, c, id=f"{m}.{c}") for m, calls in CALLS.items() for c in calls]
)
def test_the_valid_call_is_one(module, call):
    called(module, call)
    plt.close()


@pytest.mark.parametrize(("module", "call", "argument", "wrong"), list(cases()))
def test_a_value_of_another_kind_is_refused_in_one_line(module, call, argument, wrong):
    with pytest.raises(Refused) as caught:
        called(module, call, **{argument: wrong})
    assert str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("module", CALLS)
def test_every_public_callable_is_in_the_table(module):
    found = importlib.import_module(f"support.{module}")
    public = {
        name
        for name, value in vars(found).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == found.__name__
        and not name.startswith("_")
    }
    assert public - RESULTS == {call for call in CALLS[module] if "." not in call}
