r"""What a law of the sampling vector does to gradients: the gradient matrix, the empirical Fisher F and the gradient
covariance C(θ).

For n samples and d parameters the gradient matrix ``∇𝓛(θ)`` is d x n with columns ∇ℓ_i(θ). All else is made of it (Wu
et al. 2020, Section 2 and Eq. (1)):

    ∇L = ∇𝓛 1/n          loss gradient
    F  = ∇𝓛 ∇𝓛ᵀ / n       empirical Fisher
    C  = ∇𝓛 Var[W] ∇𝓛ᵀ    covariance of one step's gradient noise under a law of W; with Var[W] = aI + c11ᵀ it is n a F
    + n² c ∇L ∇Lᵀ

Nothing here stores ∇𝓛 unless asked to: ``∇𝓛 w`` is one backward pass of a weighted loss, ``∇𝓛ᵀ u`` one forward-mode
pass, so a product with F or C costs one of each, in chunks of bounded memory. Per-sample gradients are for measuring,
never for training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from support.errors import NotFinite, Refused
from support.sampling import Exchangeable, Law

PerSampleLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class CoupledLossError(Refused):
    """The loss of a sample depends on the other samples of its batch, so that there is no gradient matrix; the message
    says why and what to use.
    """


@dataclass(frozen=True)
class Estimate:
    """An estimated number or vector with its interval of confidence `level`, from `probes` independent draws."""

    value: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    level: float
    probes: int


class GradientMatrix:
    """``∇𝓛(θ)``, d x n, of a model and a per-sample loss on n samples, without storing it.

    model: any torch module whose loss of sample i depends on sample i alone.  loss(outputs, targets): per-sample
    losses, shape (m,).
    inputs, targets: n samples along the first axis.  theta: the parameters that require a gradient as one vector of
    shape (d,) and of the model's type, in the order of ``model.named_parameters()`` (None: the model's own, as they are
    now).  chunk: samples evaluated at once (None: all). Raises CoupledLossError for BatchNorm on batch statistics,
    active dropout, or any other coupling; ValueError for empty data, a model without parameters, a loss that already
    averages, theta of another shape, chunk < 1; FloatingPointError where a product is not finite.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: PerSampleLoss,
        inputs,
        targets,
        *,
        theta: torch.Tensor | None = None,
        chunk: int | None = None,
    ):
        if len(inputs) == 0 or len(inputs) != len(targets):
            raise Refused(
                f"{len(inputs)} inputs came with {len(targets)} targets: give at least one sample, and one target for "
                f"each"
            )
        if chunk is not None and chunk < 1:
            raise Refused(f"chunk = {chunk} samples cannot be evaluated: give chunk ≥ 1, or None for all at once")
        self.model, self.loss, self.inputs, self.targets = model, loss, inputs, targets
        self.chunk = min(chunk or len(inputs), len(inputs))
        own = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        if not own:
            raise Refused(
                f"{type(model).__name__} has no parameter that requires a gradient: give a model with some, or "
                f"unfreeze it"
            )
        self._shapes = {name: p.shape for name, p in own.items()}
        self._fixed = {
            name: t.detach() for name, t in [*model.named_parameters(), *model.named_buffers()] if name not in own
        }
        self.n, self.d = len(inputs), sum(p.numel() for p in own.values())
        self.theta = (
            torch.cat([p.reshape(-1) for p in own.values()])
            if theta is None
            else self._of_length(theta.detach().clone(), self.d, "theta")
        )
        _refuse_coupled(model)
        self._refuse_other_coupling()
        self._mean: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(d, n)."""
        return self.d, self.n

    def __matmul__(self, w: torch.Tensor) -> torch.Tensor:
        """``∇𝓛 w = ∇(Σ_i w_i ℓ_i)`` for weights of shape (n,): shape (d,), one backward pass."""
        w = self._of_length(w, self.n, "the vector of weights")
        total = torch.zeros_like(self.theta)
        for part in self.parts():
            total += grad(lambda theta, part=part: w[part].to(theta.dtype) @ self.losses_at(theta, part))(self.theta)
        return finite(total)

    def transposed(self, u: torch.Tensor) -> torch.Tensor:
        """``∇𝓛ᵀ u``, the slope of every sample's loss along u of shape (d,): shape (n,), one forward-mode pass."""
        u = self._of_length(u, self.d, "the direction").to(self.theta.dtype)
        return finite(torch.cat([self._slopes(u, part) for part in self.parts()]))

    @property
    def mean(self) -> torch.Tensor:
        """The loss gradient ``∇L = ∇𝓛 1/n``, shape (d,)."""
        if self._mean is None:
            self._mean = self @ torch.full((self.n,), 1 / self.n, dtype=self.theta.dtype, device=self.theta.device)
        return self._mean

    def losses(self) -> torch.Tensor:
        """The losses ℓ_i(θ), shape (n,)."""
        with torch.no_grad():
            return torch.cat([self.losses_at(self.theta, part) for part in self.parts()])

    def columns(self) -> Iterator[torch.Tensor]:
        """Per-sample gradients, chunk by chunk: tensors of shape (d, at most chunk)."""
        return (self._columns(part) for part in self.parts())

    def dense(self) -> torch.Tensor:
        """The matrix itself, shape (d, n): n·d numbers."""
        return torch.cat(list(self.columns()), dim=1)

    def fisher(self) -> NoiseCovariance:
        """The empirical Fisher ``F = ∇𝓛∇𝓛ᵀ/n`` as an operator."""
        return NoiseCovariance(self, Exchangeable(self.n, 1 / self.n, 0.0))

    def covariance(self, law: Law) -> NoiseCovariance:
        """``C = ∇𝓛 Var[W] ∇𝓛ᵀ`` of one step under a law of W on these n samples, as an operator. Raises ValueError for
        a law of another n.
        """
        if law.n != self.n:
            raise Refused(
                f"the law is for n = {law.n} samples, the gradient matrix has {self.n}: give the law this number of "
                f"samples"
            )
        return NoiseCovariance(self, law.covariance)

    # --- what the above is made of

    def parts(self) -> Iterator[slice]:
        """The chunks of samples, in their order."""
        return (slice(start, min(start + self.chunk, self.n)) for start in range(0, self.n, self.chunk))

    def _outputs(self, theta: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        pieces = theta.split([shape.numel() for shape in self._shapes.values()])
        parameters = {
            name: piece.view(shape) for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }
        with sdpa_kernel(
            SDPBackend.MATH
        ):  # the faster kernels of attention have neither forward-mode nor second derivatives
            return functional_call(self.model, {**parameters, **self._fixed}, (inputs,))

    def outputs_at(self, theta: torch.Tensor, part: slice) -> torch.Tensor:
        """The model's outputs for one chunk at any parameters: a function of theta that can be differentiated, as often
        as the model can.
        """
        return self._outputs(theta, self.inputs[part])

    def losses_at(self, theta: torch.Tensor, part: slice) -> torch.Tensor:
        """The losses of one chunk at any parameters, shape (m,): a function of theta like `outputs_at`. Raises
        ValueError for a loss that already averages.
        """
        losses = self.loss(self.outputs_at(theta, part), self.targets[part])
        if losses.shape != (part.stop - part.start,):
            shape, m = tuple(losses.shape), part.stop - part.start
            raise Refused(
                f"the loss has shape {shape} for {m} samples: return one number a sample, not their mean (in torch: "
                f"reduction='none')"
            )
        return losses

    def _columns(self, part: slice) -> torch.Tensor:
        def one(theta, x, y):
            return self.loss(self._outputs(theta, x[None]), y[None])[0]

        samples = self.inputs[part], self.targets[part]
        try:
            columns = vmap(grad(one), in_dims=(None, 0, 0))(self.theta, *samples)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # a module that torch cannot batch, such as a recurrent one: sample by sample
            columns = torch.stack([grad(one)(self.theta, x, y) for x, y in zip(*samples, strict=True)])
        return finite(columns.T)

    def _slopes(self, u: torch.Tensor, part: slice) -> torch.Tensor:
        try:
            return jvp(lambda theta: self.losses_at(theta, part), (self.theta,), (u,))[1]
        except NotImplementedError:  # a module without a forward-mode derivative, such as an LSTM in float32
            return u @ self._columns(part)

    def _refuse_other_coupling(self) -> None:
        """Evaluate a few samples together and one by one: whatever couples them shows as a difference."""
        few = min(self.n, 4)
        with torch.no_grad():
            together = self.losses_at(self.theta, slice(0, few))
            alone = torch.cat([self.losses_at(self.theta, slice(i, i + 1)) for i in range(few)])
        tolerance = 1e3 * torch.finfo(together.dtype).eps
        if torch.isfinite(together).all() and not torch.allclose(together, alone, rtol=tolerance, atol=tolerance):
            raise CoupledLossError(
                f"the loss of a sample changes by {float((together - alone).abs().max()):.2g} with the batch it is "
                f"in, and the gradient matrix needs losses "
                "of one sample alone: call model.eval(), or replace what looks at the whole batch or draws at random"
            )

    @staticmethod
    def _of_length(vector: torch.Tensor, length: int, name: str) -> torch.Tensor:
        if tuple(vector.shape) != (length,):
            raise Refused(f"{name} has shape {tuple(vector.shape)}: it must be ({length},)")
        return vector


class SymmetricOperator:
    """A symmetric d x d matrix that is known by its products ``operator @ u`` with u of shape (d,) or (d, m), in the
    type and on the device of ``θ``.
    """

    def __init__(self, gradients: GradientMatrix):
        self.gradients = gradients

    @property
    def shape(self) -> tuple[int, int]:
        """(d, d)."""
        return self.gradients.d, self.gradients.d

    def to_scipy(self):
        """A `scipy.sparse.linalg.LinearOperator` (float64 outside, the model's type inside), for `eigsh` and its like."""
        from scipy.sparse.linalg import LinearOperator

        like = self.gradients.theta
        product = lambda u: (
            (self @ torch.as_tensor(u, dtype=like.dtype, device=like.device).reshape(-1)).double().cpu().numpy()
        )
        return LinearOperator(self.shape, matvec=product, rmatvec=product, dtype=float)

    def refuse_dense(self, limit_bytes: float) -> None:
        """Raise ValueError where the d² numbers of the dense matrix exceed ``limit_bytes``."""
        d, size = self.gradients.d, self.gradients.d**2 * self.gradients.theta.element_size()
        if size > limit_bytes:
            raise Refused(
                f"a dense {d} x {d} matrix takes {size / 2**30:.1f} GiB: use products (operator @ u), or raise "
                f"limit_bytes"
            )


class NoiseCovariance(SymmetricOperator):
    """``∇𝓛 (aI + c11ᵀ) ∇𝓛ᵀ``, d x d, symmetric, without storing it: the empirical Fisher, or the gradient covariance
    C(θ) of a law.

    A product costs one forward-mode and one backward pass over the samples (and, the first time, one backward pass for
    ∇L where c is not 0).
    """

    def __init__(self, gradients: GradientMatrix, weights: Exchangeable):
        super().__init__(gradients)
        self.weights = weights
        self._a, self._c = float(weights.a), float(weights.c)

    @property
    def rank(self) -> int:
        """The largest rank that the matrix can have: d, or the rank of the weights' covariance, n, less one where the
        weights have a fixed sum.
        """
        return min(self.gradients.d, self.gradients.n - (self.weights.total_variance == 0))

    def __matmul__(self, u: torch.Tensor) -> torch.Tensor:
        """The product with u of shape (d,) or (d, m)."""
        if u.ndim == 2:
            return torch.stack([self @ column for column in u.T], dim=1)
        g = self.gradients
        u = g._of_length(u, g.d, "the direction").to(g.theta.dtype)
        total = torch.zeros_like(g.theta)
        for part in g.parts():
            slopes = g._slopes(u, part)
            total += grad(lambda theta, part=part, slopes=slopes: slopes @ g.losses_at(theta, part))(g.theta)
        total *= self._a
        if self._c:
            total += self._c * g.n**2 * (g.mean @ u) * g.mean
        return finite(total)

    def dense(self, limit_bytes: float = 2**31) -> torch.Tensor:
        """The matrix itself, shape (d, d), summed over chunks of per-sample gradients. Raises ValueError where its d²
        numbers exceed ``limit_bytes``.
        """
        g = self.gradients
        self.refuse_dense(limit_bytes)
        total = torch.zeros(g.d, g.d, dtype=g.theta.dtype, device=g.theta.device)
        for columns in g.columns():
            total.addmm_(columns, columns.T)
        total *= self._a
        return total.add_(torch.outer(g.mean, g.mean), alpha=self._c * g.n**2) if self._c else total

    def diagonal(self) -> torch.Tensor:
        """The diagonal, shape (d,), exact: sums of squared per-sample gradients, less their mean where that does not
        count, chunk by chunk.
        """
        g = self.gradients
        if not self._c:
            return sum(columns.square().sum(1) for columns in g.columns()) * self._a
        # squares of deviations, not a difference of squares: a mean gradient far above the noise would leave only its
        # rounding
        spread = sum((columns - g.mean[:, None]).square().sum(1) for columns in g.columns())
        return self._a * spread + g.n * float(self.weights.a + g.n * self.weights.c) * g.mean.square()

    def trace(self) -> torch.Tensor:
        """The trace, exact."""
        return self.diagonal().sum()

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One Gaussian vector with this covariance, shape (d,), for one backward pass: ``∇𝓛 V`` with V Gaussian of
        covariance aI + c11ᵀ.

        generator: a torch generator on the CPU, as everywhere in this package.
        """
        g = self.gradients
        white = torch.randn(g.n, generator=generator, dtype=g.theta.dtype).to(g.theta.device)
        # aI + c11ᵀ has eigenvalue a on vectors that sum to zero and a + nc along 1: its root changes the mean of white
        # noise alone
        along = math.sqrt(max(self._a + g.n * self._c, 0.0)) - math.sqrt(self._a)
        return g @ (math.sqrt(self._a) * white + along * white.mean())

    def estimate_trace(self, probes: int, generator: torch.Generator, level: float = 0.95) -> Estimate:
        """The trace from `probes` draws, ``E|v|²``: one backward pass each, no per-sample gradients; Student interval.

        Raises ValueError for fewer than 2 probes, or a level outside (0, 1).
        """
        return student_interval(torch.stack([v.square().sum() for v in self._draws(probes, generator, level)]), level)

    def estimate_diagonal(self, probes: int, generator: torch.Generator, level: float = 0.95) -> Estimate:
        """The diagonal from `probes` draws; the exact χ² interval of a Gaussian variance, each coordinate at `level`.
        Sums as it goes: memory 2d.

        Raises as `estimate_trace`.
        """
        from scipy import stats

        total = sum(v.square() for v in self._draws(probes, generator, level))
        low, high = stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], probes)
        return Estimate(total / probes, total / low, total / high, level, probes)

    def _draws(self, probes: int, generator: torch.Generator, level: float) -> Iterator[torch.Tensor]:
        check_probes(probes, level)
        return (self.draw(generator) for _ in range(probes))


def check_probes(probes: int, level: float) -> None:
    """Refuse what gives no interval. Raises ValueError for fewer than 2 probes, or a level outside (0, 1)."""
    if probes < 2:
        raise Refused(f"probes = {probes} give no interval: draw at least 2")
    if not 0 < level < 1:
        raise Refused(f"level = {level} is no probability between 0 and 1: give one such as 0.95")


def student_interval(draws: torch.Tensor, level: float) -> Estimate:
    """The mean of independent draws along the first axis, with Student's interval of confidence `level`."""
    from scipy import stats

    half = stats.t.ppf((1 + level) / 2, len(draws) - 1) * draws.std(0) / math.sqrt(len(draws))
    return Estimate(draws.mean(0), draws.mean(0) - half, draws.mean(0) + half, level, len(draws))


def finite(vector: torch.Tensor) -> torch.Tensor:
    """The tensor as it came. Raises FloatingPointError where a number is not finite."""
    bad = int((~torch.isfinite(vector)).sum())
    if bad:
        raise NotFinite(
            f"{bad} of {vector.numel()} numbers of a gradient product are not finite: look for infinite losses or "
            f"parameters"
        )
    return vector


def _refuse_coupled(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and (
            module.training or module.running_mean is None
        ):
            raise CoupledLossError(
                f"module {name!r} ({type(module).__name__}) normalises by the statistics of the batch, so a sample's "
                f"loss depends on the other samples "
                "and there is no gradient matrix: call model.eval() to use its running statistics, or use GroupNorm"
            )
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise CoupledLossError(
                f"module {name!r} ({type(module).__name__}) draws at random, so a sample's loss is no function of θ: "
                f"call model.eval()"
            )
