"""Escaping from a sharp minimum (Zhu et al. 2019, Section 5.3): the noises that leave the point which GD found, and
what is measured on their way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from support.additive import NAMES, AdditiveNoise, PartitionNoise, SgdNoise, by_name
from support.alignment import estimate_indicator
from support.curvature import Hessian
from support.errors import instance, integer, real
from support.experiments.seeding import stream
from support.gradients import GradientMatrix
from support.intervals import Interval
from support.risk import EmpiricalRisk, PerSampleLoss
from support.sampling import MiniBatch
from support.sharpness import expected_sharpness
from support.spectra import leading


@dataclass(frozen=True)
class Escape:
    """The knobs of an escape beyond those of a `support.experiments.presets.Setting`; defaults for Zhu et al. (2019,
    Section 5.3).

    start_lr, start_steps, start_limit: the common start is where GD at this rate stands after these steps, and from
    there on as soon as it fits every training label, or at the limit.
    k, sigma: directions of the leading noises; standard deviation of GLD-const.  every, first_every: steps between two
    looks at k eigenpairs, or at the first.  rescale_every: steps between two looks at the trace of C
    (`support.additive.AdditiveNoise`). measure_at: numbers of steps after which to measure.  eigenpairs,
    probes: of H, for its traces.  sharpness_sigma, sharpness_draws: of the expected sharpness.  spectrum: eigenvalues
    of H at the start.  chunk: samples evaluated at once for noises and measurements.
    Raises WrongType or Refused for knobs out of their range.

    >>> Escape(k=5).start_steps
    3000
    """

    start_lr: float = 0.1
    start_steps: int = 3000
    start_limit: int = 6000
    k: int = 20
    sigma: float = 1e-3
    every: int = 50
    first_every: int = 10
    rescale_every: int = 10
    measure_at: tuple[int, ...] = (0, 50, 200, 500, 1000, 2000, 4000, 6000)
    eigenpairs: int = 10
    probes: int = 10
    sharpness_sigma: float = 0.01
    sharpness_draws: int = 60
    spectrum: int = 150
    chunk: int = 100

    def __post_init__(self):
        for name in ("start_lr", "sigma", "sharpness_sigma"):
            real(name, getattr(self, name), 0)
        counts = ("start_steps", "start_limit", "k", "every", "first_every", "rescale_every", "eigenpairs")
        for name in (*counts, "probes", "sharpness_draws", "spectrum", "chunk"):
            integer(name, getattr(self, name), 1)
        integer("start_limit", self.start_limit, self.start_steps, None, "give at least start_steps")
        for step in instance("measure_at", self.measure_at, tuple, "give a tuple of steps, such as (0, 100)"):
            integer("a step in measure_at", step, 0)


def additive_noise(
    method: str,
    escape: Escape,
    train: tuple[torch.Tensor, torch.Tensor],
    law: MiniBatch,
    protocol: str,
    loss: PerSampleLoss,
) -> AdditiveNoise | None:
    """The additive noise of a method; None for GD and SGD, whose noise is their law's. law: the SGD that is to be
    matched.  protocol: "paper", or "code" for the noise as released.
    """
    if method not in NAMES:
        return None
    released = protocol == "code"
    sgd = (PartitionNoise if released else SgdNoise)(loss, *train, law.b, replace=law.replace, chunk=escape.chunk)
    # between two looks the released noises stand as they are
    options = {"every": escape.every} | ({} if released else {"rescale_every": escape.rescale_every})
    if method == "GLD-const":
        options |= {"sigma": escape.sigma}
    elif method in ("GLD-leading", "GLD-Hessian"):
        options |= {"k": escape.k}
    else:
        options |= {"every": escape.first_every}
    return by_name(method, sgd, released=released, **options)


@dataclass(frozen=True)
class Measurement:
    """What Figures 3 and 5 show of a model on its training set. Called by the trainer; draws from a stream of its own,
    so that it leaves the run as it is.

    Gives sharpness (signed) and sharpness_absolute (the authors' code), trace_hessian and trace_product = Tr(HC), each
    with ``_low`` and ``_high`` at 95 %; trace_covariance = Tr C and along = u₁ᵀCu₁, exact; eigenvalues, the largest
    ones of H.
    """

    escape: Escape
    train: tuple[torch.Tensor, torch.Tensor]
    law: MiniBatch
    loss: PerSampleLoss
    seed: int

    def __post_init__(self):
        instance("escape", self.escape, Escape, "give an Escape")
        instance("law", self.law, MiniBatch, "give the MiniBatch law that is matched")
        integer("seed", self.seed)

    def __call__(self, model: torch.nn.Module, step: int) -> dict:
        generator = torch.Generator().manual_seed(stream(self.seed, "measurement", str(step)))
        escape, risk = self.escape, self._risk(model)
        hessian, covariance = Hessian(risk, keep=True), GradientMatrix(risk).covariance(self.law)
        pairs = leading(hessian, escape.eigenpairs, tolerance=0.01)
        first = pairs.vectors[:, 0]
        shaken = {
            name: expected_sharpness(risk, escape.sharpness_sigma, escape.sharpness_draws, generator, absolute=absolute)
            for name, absolute in (("sharpness", False), ("sharpness_absolute", True))
        }
        traces = {
            "trace_hessian": hessian.estimate_trace(escape.probes, generator, known=pairs),
            "trace_product": estimate_indicator(hessian, covariance, escape.probes, generator, known=pairs),
        }
        numbers = {
            "trace_covariance": float(covariance.trace()),
            "along": float(first @ (covariance @ first)),
            "eigenvalues": pairs.values.tolist(),
        }
        return numbers | _ends(shaken | traces)

    def spectrum(self, model: torch.nn.Module) -> list[float]:
        """The largest eigenvalues of H, in descending order."""
        return leading(Hessian(self._risk(model), keep=True), self.escape.spectrum, tolerance=0.01).values.tolist()

    def _risk(self, model: torch.nn.Module) -> EmpiricalRisk:
        return EmpiricalRisk(model, self.loss, self.train, chunk=self.escape.chunk)


def _ends(estimates: dict[str, Interval]) -> dict[str, float]:
    return {
        name + end: float(getattr(found, which))
        for name, found in estimates.items()
        for end, which in (("", "value"), ("_low", "low"), ("_high", "high"))
    }
