"""What the trainer costs: against a plain loop of the authors' shape, against itself without noise, and in memory.

The plain loop has the shape of the authors' code: all parameters in one flat vector, images as they come in memory, all
n of them in one pass, per-sample cross-entropy times a mask of mean one, its mean, a backward pass, and an update of
the vector in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from support.bench import measure

N, B = 1000, 50
# name: (first route, second route, threads, pairs of steps, goal); a ratio is the time of the first over that of the
# second
RATIOS = {
    "plain loop / trainer, two threads": ("plain", "MSGD-Cov", 2, 40, "≥ 1.5"),
    "plain loop / trainer, one thread": ("plain", "MSGD-Cov", 1, 40, "≥ 1.5"),
    "MSGD-Cov / GD, both by the trainer": ("MSGD-Cov", "GD", 1, 60, "≤ 1.02"),
}
# name: samples of one forward and backward pass
CHUNKS = {"chunks of 100": 100, "chunks of 200": 200, "one chunk of 1000": 1000}


def _images():
    import torch

    generator = torch.Generator().manual_seed(1)
    return 255 * torch.rand(N, 1, 28, 28, generator=generator), torch.randint(0, 10, (N,), generator=generator)


def _plain() -> Callable[[], object]:
    import torch
    from torch.nn import functional

    from support.experiments.models import LeNet
    from support.sampling import by_name

    shapes = [parameter.shape for parameter in LeNet().parameters()]
    inputs, targets = _images()
    generator = torch.Generator().manual_seed(2)
    theta = (0.02 * torch.randn(sum(shape.numel() for shape in shapes), generator=generator)).requires_grad_()
    law = by_name("MSGD-Cov", N, B, replace=False)

    def step():
        w1, b1, w2, b2, w3, b3, w4, b4 = (
            part.view(shape) for part, shape in zip(theta.split([s.numel() for s in shapes]), shapes, strict=True)
        )
        hidden = functional.relu(functional.max_pool2d(functional.conv2d(inputs, w1, b1), 2))
        hidden = functional.relu(functional.max_pool2d(functional.conv2d(hidden, w2, b2), 2))
        outputs = functional.linear(functional.relu(functional.linear(hidden.flatten(1), w3, b3)), w4, b4)
        mask = N * law.sample(None, generator)
        loss = (functional.cross_entropy(outputs, targets, reduction="none") * mask).mean()
        (gradient,) = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            theta.sub_(0.01 * gradient)
        return loss.item()

    return step


def _trainer(method: str, chunk: int = 200) -> Callable[[], object]:
    import torch

    from support.experiments.models import LeNet, normal_init
    from support.experiments.training import Data, Trainer
    from support.sampling import by_name

    model = normal_init(LeNet(), 0.02, torch.Generator().manual_seed(2)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    data = Data.on("cpu", _images(), _images(), watched=N)
    return Trainer(
        model,
        optimizer,
        by_name(method, N, B, replace=False),
        data,
        generator=torch.Generator().manual_seed(3),
        chunk=chunk,
    ).step


def ratio(name: str) -> dict:
    """Time of the first route's step over that of the second's."""
    first, second, threads, pairs, _ = RATIOS[name]
    measure.threads(threads)
    steps = [_plain() if route == "plain" else _trainer(route) for route in (first, second)]
    return measure.ratio(*steps, pairs) | {"threads": threads}


def peak(name: str) -> dict:
    """Peak memory of a few full-batch steps in bytes, above the model and its data."""
    measure.threads(1)
    _trainer("GD", 1)()  # a first pass loads what torch loads once
    step = _trainer("GD", CHUNKS[name])
    return {"peak_bytes": measure.peak_above(lambda: [step() for _ in range(3)])}


ROWS = {
    "training_ratio": {name: partial(ratio, name) for name in RATIOS},
    "training_memory": {name: partial(peak, name) for name in CHUNKS},
}


def section(final: dict) -> str:
    """The part of the page about the trainer, from the numbers of a record."""
    ratios = measure.ratio_rows(RATIOS, final["training_ratio"], {name: row[-1] for name, row in RATIOS.items()})
    memory = [f"| {name} | {measure.mebibytes(final['training_memory'][name]['peak_bytes'])} |" for name in CHUNKS]
    return _SECTION.format(n=N, ratios=ratios, memory="\n".join(memory))


_SECTION = """## The trainer

A full-batch step of the LeNet on n = {n} images: the trainer against a plain PyTorch loop of the shape of the authors'
code (parameters in one flat vector, all images in one pass, per-sample losses times a mask). The trainer keeps channels
last in memory and passes chunks that fit the processor's cache.

| steps compared | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{ratios}

| full-batch step | peak memory above the model and data |
|---|---|
{memory}
"""
