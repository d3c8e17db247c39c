r"""Additive noises of chosen covariance: the gradient Langevin dynamics (GLD) of Zhu et al. (2019), Table 1, beside GD
and SGD.

    θ ← θ − η (∇L(θ) + ε),    ε ~ N(0, Σ)                                                                       (Eq.
    (7))

with Σ made from the covariance C(θ) of the gradient noise of SGD with batches of b, or from the Hessian H(θ):

    GLD-const            σ² I                       σ given; the trace is whatever it is
    GLD-dynamic          (Tr C / d) I
    GLD-diag             diag C
    GLD-leading          s Σ_{i≤k} γ_i v_i v_iᵀ     eigenpairs of C
    GLD-Hessian          s Σ_{i≤k} h_i u_i u_iᵀ     eigenpairs of H
    GLD-1st-eigenvector  s u₁ u₁ᵀ

The numbers s make ``Tr Σ = Tr C`` (Eq. (14)), so that E|ε|² is that of SGD. A noise is a
`support.experiments.training.Trainer`'s ``additive``: it looks at the model every so many steps (``every``), in between
scales itself to the trace of C at hand (``rescale_every``), and adds its draw to ``.grad``. GD and SGD need no additive
noise, only a law (`support.sampling`). No d x d matrix is stored: C acts through n gradients, H through products.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from typing import ClassVar

import torch
from torch.func import grad

from support.covariances import Diagonal, LowRank
from support.curvature import Hessian
from support.errors import Refused, WrongType
from support.gradients import GradientMatrix, NoiseCovariance, PerSampleLoss
from support.sampling import MiniBatch, sgd_scale
from support.spectra import Spectrum, leading

PROTOCOLS = ("paper", "code")


# --- the covariance of SGD --------------------------------------------------------------------------------------------


class SgdNoise:
    """The gradient noise of SGD on n samples in batches of b, at any model: its covariance is ``C = s X Xᵀ`` with
    centred gradients X as columns.

    protocol "paper": X are the n per-sample gradients and s is exact, 1/(bn) with replacement, (n−b)/(bn(n−1)) without.
    protocol "code", as the authors have it: X are the gradients of n/b batches that part the shuffled samples, s =
    1/(n/b − 1); drawn anew each time, of rank n/b − 1, and on average n/(n−1) times the C with replacement.
    inputs, targets: samples along the first axis.  loss: per-sample losses.  chunk: samples evaluated at once.
    limit_bytes: what X may take. Raises ValueError for b out of range, an unknown protocol, or "code" with b not a
    divisor of n or a single batch.
    """

    def __init__(
        self,
        loss: PerSampleLoss,
        inputs,
        targets,
        b: int,
        *,
        replace: bool = True,
        protocol: str = "paper",
        chunk: int = 100,
        limit_bytes: float = 2**31,
    ):
        self.law = MiniBatch(len(inputs), b, replace=replace)
        if protocol not in PROTOCOLS:
            raise Refused(f"protocol = {protocol!r} is unknown: choose {' or '.join(map(repr, PROTOCOLS))}")
        if protocol == "code" and (self.law.n % b or self.law.n // b < 2):
            raise Refused(
                f"{self.law.n} samples cannot be parted into two or more batches of b = {b}: choose a divisor of n, "
                f"or protocol='paper'"
            )
        self.loss, self.inputs, self.targets, self.protocol, self.chunk, self.limit_bytes = (
            loss,
            inputs,
            targets,
            protocol,
            chunk,
            limit_bytes,
        )

    @property
    def columns(self) -> int:
        """The number of columns of X; the rank of C is less."""
        return self.law.n if self.protocol == "paper" else self.law.n // self.law.b

    @property
    def scale(self) -> float:
        """The number s in ``C = s X Xᵀ``."""
        return (
            float(sgd_scale(self.law.n, self.law.b, self.law.replace))
            if self.protocol == "paper"
            else 1 / (self.columns - 1)
        )

    def gradients(self, model: torch.nn.Module) -> GradientMatrix:
        """The gradient matrix at a model's parameters."""
        return GradientMatrix(model, self.loss, self.inputs, self.targets, chunk=self.chunk)

    def covariance(self, model: torch.nn.Module) -> NoiseCovariance:
        """The exact C at a model's parameters as an operator."""
        return self.gradients(model).covariance(self.law)

    def diagonal(self, model: torch.nn.Module, generator: torch.Generator) -> torch.Tensor:
        """The diagonal of C, shape (d,); its sum is Tr C. One pass of gradients; ``generator`` shuffles under protocol
        "code".
        """
        squares, total, before = 0.0, 0.0, generator.get_state()
        for block in self.blocks(model, generator):
            squares, total = squares + block.square().sum(1), total + block.sum(1)
        spread = (squares - total.square() / self.columns).clamp(min=0)
        if (
            spread.sum() < 1e-3 * squares.sum()
        ):  # little is left but rounding: again, as squares of deviations, on the same columns
            generator.set_state(before)
            centre = total[:, None] / self.columns
            spread = sum((block - centre).square().sum(1) for block in self.blocks(model, generator))
        return self.scale * spread

    def leading(self, model: torch.nn.Module, k: int, generator: torch.Generator) -> tuple[Spectrum, torch.Tensor]:
        """The k leading eigenpairs of C and Tr C, from the Gram matrix XᵀX: the two have the same eigenvalues up to s.

        Raises ValueError for k above the rank, or where X exceeds ``limit_bytes``.
        """
        self.refuse_rank(k)
        theta = _flat(model)
        if (size := theta.element_size() * len(theta) * self.columns) > self.limit_bytes:
            raise Refused(
                f"{self.columns} gradients of {len(theta)} parameters take {size / 2**30:.1f} GiB: raise limit_bytes, "
                f"or use fewer samples"
            )
        X, filled = theta.new_empty(len(theta), self.columns), 0
        for block in self.blocks(model, generator):
            X[:, filled : (filled := filled + block.shape[1])] = block
        X -= X.mean(1, keepdim=True)
        found = leading(X.T @ X, k)
        # divided by their own lengths, and not by √γ, the eigenvectors have length 1 even where γ is lost in rounding
        vectors = torch.nn.functional.normalize(X @ found.vectors, dim=0)
        return Spectrum(self.scale * found.values.clamp(min=0), vectors), self.scale * X.square().sum()

    def refuse_rank(self, k: int) -> None:
        """Raise ValueError unless C can have k eigenvalues that are not 0."""
        if not 1 <= k < self.columns:
            what = f"{self.columns} {'samples' if self.protocol == 'paper' else 'batches'}"
            raise Refused(
                f"k = {k} leading directions cannot be had: C of {what} has rank {self.columns - 1} at most; choose 1 "
                f"≤ k ≤ {self.columns - 1}"
            )

    def blocks(self, model: torch.nn.Module, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """The columns of X before they are centred, in blocks of shape (d, some)."""
        if self.protocol == "paper":
            yield from self.gradients(model).columns()
            return
        order = torch.randperm(self.law.n, generator=generator).to(self.inputs.device)
        parted = GradientMatrix(model, self.loss, self.inputs[order], self.targets[order], chunk=self.law.b)
        for batch in parted.parts():
            yield grad(lambda theta, batch=batch: parted.losses_at(theta, batch).mean())(parted.theta)[:, None]


# --- the noises of Table 1 --------------------------------------------------------------------------------------------


class AdditiveNoise:
    """A noise of Table 1, called by the trainer at each step with the model and a CPU generator: adds one draw of N(0,
    Σ) to the parameters' ``.grad``.

    sgd: the noise whose trace is matched.  every: steps between two looks at the structure of Σ.  rescale_every: steps
    after which, in between, Σ is scaled to the trace of C at the parameters of that moment.  The trace is matched
    exactly at both.  Under ``sgd.protocol == "code"`` nothing is rescaled in between, and some noises depart further;
    their docstrings say how. covariance: Σ of the last step (None before the first).  `state_dict` and
    `load_state_dict` serve checkpoints.
    """

    form: ClassVar[type] = LowRank
    silent: ClassVar[bool] = False  # under protocol "code": nothing is added at steps that do not look at the structure

    def __init__(self, sgd: SgdNoise, *, every: int = 10, rescale_every: int = 10):
        for name, value in (("every", every), ("rescale_every", rescale_every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise Refused(f"{name} = {value!r} steps make no schedule: give a whole number, at least 1")
        self.sgd, self.every, self.rescale_every = sgd, every, rescale_every
        self.steps = 0
        self.covariance: Diagonal | LowRank | None = None

    def __call__(self, model: torch.nn.Module, generator: torch.Generator) -> None:
        looks, code = self.steps % self.every == 0, self.sgd.protocol == "code"
        if looks:
            self.covariance = self.look(model, generator)
        elif not code and self.steps % self.rescale_every == 0:
            self.covariance = self.rescaled(model, generator)
        self.steps += 1
        if not (code and self.silent and not looks):
            _add(model, self.covariance.draw(generator))

    def look(self, model: torch.nn.Module, generator: torch.Generator) -> Diagonal | LowRank:
        """Σ at the model's parameters."""
        raise WrongType(f"{type(self).__name__} has no covariance of its own: use one of {', '.join(NAMES)}")

    def rescaled(self, model: torch.nn.Module, generator: torch.Generator) -> Diagonal | LowRank:
        """Σ of the last step with the trace of C at the model's parameters; where that was zero, a new look."""
        if not self.covariance.trace() > 0:
            return self.look(model, generator)
        return self.covariance.of_trace(self.sgd.diagonal(model, generator).sum())

    def state_dict(self) -> dict:
        """What a resumed run needs: the count of steps and Σ."""
        tensors = (
            None
            if self.covariance is None
            else [getattr(self.covariance, name) for name in self.form.__dataclass_fields__]
        )
        return {"steps": self.steps, "covariance": tensors}

    def load_state_dict(self, state: dict) -> None:
        """Take up what `state_dict` gave. Raises ValueError for the state of a noise of another form."""
        tensors = state["covariance"]
        if tensors is not None and len(tensors) != len(self.form.__dataclass_fields__):
            raise Refused(
                f"the state is of another noise than {type(self).__name__}, with its {self.form.__name__} covariance: "
                f"load it where it is from"
            )
        self.steps, self.covariance = state["steps"], None if tensors is None else self.form(*tensors)


class Constant(AdditiveNoise):
    """GLD-const: Σ = σ² I. Its trace, d σ², is not matched; σ was tuned to 0.001 by the authors."""

    form = Diagonal

    def __init__(self, sgd: SgdNoise, *, sigma: float = 1e-3, **schedule):
        super().__init__(sgd, **schedule)
        if not 0 <= sigma < float("inf"):
            raise Refused(f"sigma = {sigma} is no standard deviation: give a finite number ≥ 0")
        self.sigma = sigma

    def look(self, model, generator):
        return Diagonal(self.sigma**2 * torch.ones_like(_flat(model))) if self.covariance is None else self.covariance

    def rescaled(self, model, generator):
        return self.covariance


class Dynamic(AdditiveNoise):
    """GLD-dynamic: Σ = (Tr C / d) I."""

    form = Diagonal
    silent = True

    def look(self, model, generator):
        return Diagonal(torch.ones_like(_flat(model))).of_trace(self.sgd.diagonal(model, generator).sum())


class DiagonalOfC(AdditiveNoise):
    """GLD-diag: Σ = diag C, which has the trace of C."""

    form = Diagonal
    silent = True

    def look(self, model, generator):
        return Diagonal(self.sgd.diagonal(model, generator))


class Leading(AdditiveNoise):
    """GLD-leading: the k leading eigenpairs of C, scaled to the trace of C. The authors' code does not scale, and adds
    noise at every 10th step only.
    """

    silent = True

    def __init__(self, sgd: SgdNoise, *, k: int = 20, **schedule):
        super().__init__(sgd, **schedule)
        sgd.refuse_rank(k)
        self.k = k

    def look(self, model, generator):
        found, trace = self.sgd.leading(model, self.k, generator)
        kept = LowRank(*found)
        return kept if self.sgd.protocol == "code" else kept.of_trace(trace)


class OfHessian(AdditiveNoise):
    """GLD-Hessian: the k largest eigenpairs of H, the positive ones of them, scaled to the trace of C.

    The authors' code takes the k eigenvalues h_i that are largest in magnitude and gives direction i the variance
    ``|h_i| Tr C / Σ h_i``: with negative ones among them the trace exceeds that of C. Raises ValueError where there is
    no positive eigenvalue (code: no positive sum). tolerance: relative error of the eigenvalues. The graph of the
    gradient is kept from product to product, in memory that grows with n.
    """

    def __init__(self, sgd: SgdNoise, *, k: int = 20, tolerance: float = 0.05, **schedule):
        super().__init__(sgd, **schedule)
        if k < 1:
            raise Refused(f"k = {k} leading directions make no noise: choose k ≥ 1")
        self.k, self.tolerance = k, tolerance

    def look(self, model, generator):
        values, vectors = self.eigenpairs(model)
        trace = self.sgd.diagonal(model, generator).sum()
        if self.sgd.protocol == "code":
            if values.sum() <= 0:
                raise Refused(
                    f"the {self.k} largest eigenvalues of H sum to {float(values.sum()):g}, by which the code "
                    f"divides: use protocol='paper'"
                )
            return LowRank(values.abs() * (trace / values.sum()), vectors)
        kept = values > 0
        if not kept.any():
            raise Refused(
                f"the largest eigenvalue of H is {float(values[0]):g}: there is no positive curvature to make a noise "
                f"of; start elsewhere"
            )
        return LowRank(values[kept], vectors[:, kept]).of_trace(trace)

    def eigenpairs(self, model: torch.nn.Module) -> Spectrum:
        """The k eigenpairs of H that the protocol asks for, from where those of the last look stand."""
        hessian = Hessian(model, self.sgd.loss, self.sgd.inputs, self.sgd.targets, chunk=self.sgd.chunk, keep=True)
        start = None if self.covariance is None else self.covariance.vectors
        return leading(
            hessian, self.k, which="LM" if self.sgd.protocol == "code" else "LA", start=start, tolerance=self.tolerance
        )


class FirstEigenvector(OfHessian):
    """GLD-1st-eigenvector: all of the trace of C along the first eigenvector of H. The authors' code takes that of the
    largest |eigenvalue|.
    """

    def __init__(self, sgd: SgdNoise, *, tolerance: float = 0.01, **schedule):
        super().__init__(sgd, k=1, tolerance=tolerance, **schedule)

    def look(self, model, generator):
        if self.sgd.protocol == "paper":
            return super().look(model, generator)
        return LowRank(self.sgd.diagonal(model, generator).sum()[None], self.eigenpairs(model).vectors)


_NOISES = {
    "GLD-const": Constant,
    "GLD-dynamic": Dynamic,
    "GLD-diag": DiagonalOfC,
    "GLD-leading": Leading,
    "GLD-Hessian": OfHessian,
    "GLD-1st-eigenvector": FirstEigenvector,
}
NAMES = tuple(_NOISES)


def by_name(name: str, sgd: SgdNoise, **options) -> AdditiveNoise:
    """The noise of Table 1 of that name (`NAMES`, in any case), such as
    ``by_name("GLD-leading", sgd, k=20, every=50)``.

    Raises ValueError for an unknown name, or an option that this noise does not take.
    """
    found = {own.lower(): noise for own, noise in _NOISES.items()}.get(name.lower())
    if found is None:
        raise Refused(f"there is no additive noise {name!r}: choose one of {', '.join(NAMES)}")
    takes = {
        "every",
        "rescale_every",
        *(p.name for p in signature(found).parameters.values() if p.kind is p.KEYWORD_ONLY),
    }
    if unknown := [option for option in options if option not in takes]:
        raise Refused(f"{name} takes no {', '.join(unknown)}: its options are {', '.join(sorted(takes))}")
    return found(sgd, **options)


def _trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in _trained(model)])


def _add(model: torch.nn.Module, noise: torch.Tensor) -> None:
    """Add a vector of shape (d,) to the gradients, in the order of ``model.parameters()``; a parameter that the loss
    does not use has none yet.
    """
    trained = _trained(model)
    for p, piece in zip(trained, noise.split([p.numel() for p in trained]), strict=True):
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        p.grad += piece.view(p.shape)
