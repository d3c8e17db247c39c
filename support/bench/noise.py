"""What multiplicative SGD costs: against a plain step, and against other ways to Gaussian noise with the covariance of
SGD.

Every route draws one stochastic gradient of the 11,330-parameter LeNet on n = 1000 images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from support.bench import measure

N, B = 1000, 50


def _msgd(name: str, chunk: int | None = None):
    def route(model, inputs, targets, generator):
        import torch

        from support.msgd import MSGD
        from support.sampling import by_name

        law = by_name(name, len(inputs), min(B, len(inputs)))
        step = MSGD(
            model,
            measure.cross_entropy,
            torch.optim.SGD(model.parameters(), 0.0),
            law,
            generator=generator,
            chunk=chunk,
        )
        return lambda: step(inputs, targets)

    return route


def _plain(model, inputs, targets, generator):
    """The loop of any tutorial on the same samples: mean loss, backward, step."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), 0.0)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _gradient_matrix(model, inputs, targets):
    """Per-sample gradients, shape (n, d), by vmap over `torch.func.grad`."""
    from support.gradients import GradientMatrix
    from support.risk import EmpiricalRisk

    return GradientMatrix(EmpiricalRisk(model, measure.cross_entropy, (inputs, targets))).dense().T


def _per_sample(model, inputs, targets, generator):
    """The gradient matrix, then its product with the sampling vector: n x d numbers stored."""
    from support.sampling import GaussianCovariance

    law = GaussianCovariance(len(inputs), min(B, len(inputs)))
    return lambda: law.sample(None, generator) @ _gradient_matrix(model, inputs, targets)


def _centred(model, inputs, targets):
    """The (n, d) matrix A with AᵀA = C, the covariance of SGD's gradient noise (with replacement)."""
    matrix = _gradient_matrix(model, inputs, targets)
    return (matrix - matrix.mean(0)) / (len(inputs) * B) ** 0.5


def _gram(model, inputs, targets, generator):
    """N(0, C) from the eigenvectors U of the n x n Gram matrix AAᵀ: the draw is Aᵀ(Uε), which is the gradient matrix
    times a Gaussian again.
    """
    import torch

    def draw():
        centred = _centred(model, inputs, targets)
        _, vectors = torch.linalg.eigh(centred @ centred.T)
        return (vectors @ torch.randn(len(inputs), generator=generator)) @ centred

    return draw


def _svd(model, inputs, targets, generator):
    """What the paper compares with: form the d x d covariance C, decompose it, transform white noise."""
    import torch

    def draw():
        centred = _centred(model, inputs, targets)
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        return vectors @ (values.clamp(min=0).sqrt() * torch.randn(len(values), generator=generator))

    return draw


# name: (route, timed repetitions); the last one takes minutes, so it runs once
ROUTES: dict[str, tuple[Callable, int]] = {
    "MSGD-Cov": (_msgd("MSGD-Cov"), 15),
    "MSGD-Cov, chunks of 300": (_msgd("MSGD-Cov", 300), 15),
    "MSGD-Cov, chunks of 100": (_msgd("MSGD-Cov", 100), 15),
    "MSGD-Cov, chunks of 30": (_msgd("MSGD-Cov", 30), 15),
    "per-sample gradients": (_per_sample, 5),
    "Gram matrix, n × n": (_gram, 5),
    "covariance, d × d": (_svd, 1),
}
# name: (samples of a step, pairs of steps)
STEPS = {"full batch, n = 1000": (N, 150), "batch of 100": (100, 1500)}
GOALS = dict.fromkeys(STEPS, "≤ 1.02")


def _problem(samples: int):
    import torch

    from support.experiments.models import LeNet

    torch.manual_seed(1)
    return LeNet(), *measure.images(samples), torch.Generator().manual_seed(1)


def route(name: str) -> dict:
    """Seconds of one draw (median) and peak memory above the model and its data, in bytes."""
    measure.threads(1)
    make, repetitions = ROUTES[name]
    model, inputs, targets, generator = _problem(N)
    # a first small pass loads what torch loads once, so that the peak is the route's own
    (
        make(model, inputs[:2], targets[:2], generator)
        if repetitions > 1
        else partial(_gradient_matrix, model, inputs[:2], targets[:2])
    )()
    return measure.timed(make(model, inputs, targets, generator), repetitions, warm_up=repetitions > 1)


def step_ratio(name: str) -> dict:
    """MSGD-Cov step / plain step of the same samples, one thread."""
    measure.threads(1)
    samples, pairs = STEPS[name]
    problem = _problem(samples)
    return measure.ratio(_msgd("MSGD-Cov")(*problem), _plain(*problem), pairs)


ROWS = {
    "step_ratio": {name: partial(step_ratio, name) for name in STEPS},
    "routes": {name: partial(route, name) for name in ROUTES},
}


def section(final: dict) -> str:
    """The part of the page about multiplicative SGD, from the numbers of a record."""
    base = final["routes"]["MSGD-Cov"]["seconds"]
    lines = [_line(name, final["routes"][name], base) for name in ROUTES]
    return _SECTION.format(n=N, ratios=measure.ratio_rows(STEPS, final["step_ratio"], GOALS), routes="\n".join(lines))


def _line(name: str, row: dict, base: float) -> str:
    seconds = row["seconds"]
    shown = f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"
    return f"| {name} | {shown} | {seconds / base:,.2f} | {measure.mebibytes(row['peak_bytes'])} |"


_SECTION = """## A multiplicative step against a plain step

The floor of a multiplicative step is one step of ordinary training on the same samples: it draws the weights as well,
and nothing else. One thread. On a small batch the draw and the bookkeeping of a step, a few tenths of a millisecond,
can be seen.

| MSGD-Cov step / plain step | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{ratios}

## Gaussian noise with the covariance of SGD

Four routes to the same law N(0, C), on the LeNet with n = {n} images, one thread. The gradient noise is the gradient
matrix times a Gaussian vector, so the weighted backward pass needs no matrix. The d × d route, which the paper compares
with, forms C (d² numbers) and decomposes it. The n × n route is what a careful programmer would do instead, and against
it the advantage is a small factor.

| route | time of a draw | time / MSGD-Cov | peak memory above the model and data |
|---|---|---|---|
{routes}

Chunks bound the memory of the backward pass; the gradient is the same up to rounding.
"""
