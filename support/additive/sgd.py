r"""The gradient noise of mini-batch SGD on a data set, at any model: its covariance C, its diagonal and its eigenpairs.

    C = s X Xᵀ,    X = the n centred per-sample gradients,    s = 1/(bn), or (n−b)/(bn(n−1)) without replacement

(Wu et al. 2020, Proposition 1). What matches SGD is scaled to Tr C, the mean square norm of its noise. No d x d matrix
is stored: C acts through n gradients, and XᵀX has its eigenvalues.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch

from support import batches
from support.errors import Refused, WrongType, instance, integer, real, torch_generator
from support.gradients import GradientMatrix, NoiseCovariance
from support.risk import EmpiricalRisk, PerSampleLoss
from support.sampling import MiniBatch, sgd_scale
from support.spectra import Spectrum, leading


class SgdNoise:
    """The gradient noise of SGD on n samples in batches of b, at any model: ``C = s X Xᵀ`` with centred gradients X.

    loss(outputs, targets): per-sample losses, shape (m,).  inputs, targets: n samples along the first axis.
    b, replace: size of the batches, and how they are drawn.  chunk: samples evaluated at once.  limit_bytes: what X may
    take.
    Raises WrongType, or Refused for counts out of range or inputs and targets of unequal length.

    >>> square = lambda outputs, targets: (outputs[:, 0] - targets).square() / 2
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> sgd = SgdNoise(square, torch.eye(2), torch.ones(2), b=1)  # gradients (−1, 0) and (0, −1)
    >>> sgd.diagonal(model, torch.Generator()).tolist()
    [0.25, 0.25]
    """

    of: ClassVar[str] = "samples"  # what the columns of X are gradients of

    def __init__(
        self,
        loss: PerSampleLoss,
        inputs,
        targets,
        b: int,
        *,
        replace: bool = True,
        chunk: int = 100,
        limit_bytes: float = 2**31,
    ):
        if not callable(loss):
            raise WrongType(f"loss = {loss!r} is no function: give loss(outputs, targets), one number a sample")
        n, labels = batches.length(inputs, "inputs"), batches.length(targets, "targets")
        if n != labels:
            raise Refused(f"{n} inputs came with {labels} targets: give one target for each")
        self.law = MiniBatch(n, b, replace=replace)
        self.loss, self.inputs, self.targets = loss, inputs, targets
        self.chunk, self.limit_bytes = integer("chunk", chunk, 1), real("limit_bytes", limit_bytes, above=0)
        self._risk: EmpiricalRisk | None = None

    @property
    def columns(self) -> int:
        """The number of columns of X; the rank of C is less."""
        return self.law.n

    @property
    def scale(self) -> float:
        """The number s in ``C = s X Xᵀ``."""
        return float(sgd_scale(self.law.n, self.law.b, self.law.replace))

    def risk(self, model: torch.nn.Module) -> EmpiricalRisk:
        """The empirical risk where a model is now; what has no gradient matrix is refused at the first look."""
        if self._risk is None or self._risk.model is not model:
            self._risk = EmpiricalRisk(model, self.loss, (self.inputs, self.targets), chunk=self.chunk)
        return self._risk.here()

    def gradients(self, model: torch.nn.Module) -> GradientMatrix:
        """The gradient matrix at a model's parameters."""
        return GradientMatrix(self.risk(model))

    def covariance(self, model: torch.nn.Module) -> NoiseCovariance:
        """The exact C at a model's parameters as an operator."""
        return self.gradients(model).covariance(self.law)

    def diagonal(self, model: torch.nn.Module, generator: torch.Generator) -> torch.Tensor:
        """The diagonal of C, shape (d,); its sum is Tr C. One pass of gradients.

        generator: draws what a subclass draws, such as the partition of `released.PartitionNoise`.
        """
        squares, total, before = 0.0, 0.0, torch_generator(generator).get_state()
        for block in self.blocks(model, generator):
            squares, total = squares + block.square().sum(1), total + block.sum(1)
        spread = (squares - total.square() / self.columns).clamp(min=0)
        if spread.sum() < 1e-3 * squares.sum():
            # little is left but rounding: again, as squares of deviations, on the same columns
            generator.set_state(before)
            centre = total[:, None] / self.columns
            spread = sum((block - centre).square().sum(1) for block in self.blocks(model, generator))
        return self.scale * spread

    def leading(self, model: torch.nn.Module, k: int, generator: torch.Generator) -> tuple[Spectrum, torch.Tensor]:
        """The k leading eigenpairs of C and Tr C, from the Gram matrix XᵀX: the two have the same eigenvalues up to s.

        generator: as for `diagonal`. Raises Refused for k above the rank, or where X exceeds ``limit_bytes``.
        """
        k, _ = self.directions(k), torch_generator(generator)
        theta = flat(model)
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

    def directions(self, k: int) -> int:
        """The number k of leading directions. Raises Refused unless C can have k eigenvalues that are not 0."""
        most = self.columns - 1
        return integer("k", k, 1, most, f"C of {self.columns} {self.of} has rank {most} at most; choose 1 ≤ k ≤ {most}")

    def blocks(self, model: torch.nn.Module, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """The columns of X before they are centred, in blocks of shape (d, some)."""
        yield from self.gradients(model).columns()


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that require a gradient, in the order of ``model.parameters()``.

    >>> len(trained(torch.nn.Linear(2, 1)))
    2
    """
    parameters = instance("model", model, torch.nn.Module, "give a torch.nn.Module").parameters()
    return [p for p in parameters if p.requires_grad]


def flat(model: torch.nn.Module) -> torch.Tensor:
    """The values of `trained` as one vector of shape (d,).

    >>> flat(torch.nn.Linear(2, 1)).shape
    torch.Size([3])
    """
    return torch.cat([p.detach().reshape(-1) for p in trained(model)])
