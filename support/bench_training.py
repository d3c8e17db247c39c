"""Benchmark rows of the trainer, as ratios in one run; `support.bench` measures them beside its own and shows them on the page "How fast it runs".

The plain loop has the shape of the authors' code: all parameters in one flat vector, images as they come in memory, all n of them in one pass, per-sample
cross-entropy times a mask of mean one, its mean, a backward pass, and an update of the vector in Python.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

N, B = 1000, 50
# name: (first route, second route, threads, pairs of steps, goal); a ratio is the time of the first over that of the second
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
        w1, b1, w2, b2, w3, b3, w4, b4 = (part.view(shape) for part, shape in zip(theta.split([s.numel() for s in shapes]), shapes, strict=True))
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
    return Trainer(model, optimizer, by_name(method, N, B, replace=False), data, generator=torch.Generator().manual_seed(3), chunk=chunk).step


def ratio(name: str) -> dict:
    """Median and quartiles of the ratio of two routes, whose steps alternate in pairs so that a busy machine slows both; median seconds of each."""
    import torch

    first, second, threads, pairs, _ = RATIOS[name]
    torch.set_num_threads(threads)
    steps = [_plain() if route == "plain" else _trainer(route) for route in (first, second)]
    seconds: list[list[float]] = [[], []]
    for pair in range(pairs + 3):
        for which in (0, 1) if pair % 2 else (1, 0):
            start = time.perf_counter()
            steps[which]()
            seconds[which].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(*(times[3:] for times in seconds), strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"median": median, "quartiles": [low, high], "pairs": pairs, "threads": threads, "seconds": [statistics.median(times[3:]) for times in seconds]}


def peak(name: str) -> dict:
    """Peak memory of a few full-batch steps in bytes, above that of a process that has made a step of two samples. To be called in a fresh process."""
    import torch

    torch.set_num_threads(1)
    warm, step = _trainer("GD", 1), _trainer("GD", CHUNKS[name])
    warm()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        step()
    return {"peak_bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)}


def jobs() -> list[tuple[str, str, Callable[[], dict]]]:
    """The rows to measure: (kind, name, function), each in a process of its own."""
    rows = [("training_ratio", name, "--ratio") for name in RATIOS] + [("training_memory", name, "--peak") for name in CHUNKS]
    return [(kind, name, partial(_in_own_process, flag, name)) for kind, name, flag in rows]


def _in_own_process(*arguments: str) -> dict:
    done = subprocess.run([sys.executable, "-m", "support.bench_training", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmark {' '.join(arguments)} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def section(final: dict) -> str:
    """The part of the page about the trainer, from the numbers of a record."""
    rows = []
    for name, (*_, goal) in RATIOS.items():
        row = final["training_ratio"][name]
        (low, high), (first, second) = row["quartiles"], row["seconds"]
        rows.append(f"| {name} | {row['median']:.2f} | {low:.2f} to {high:.2f} | {goal} | {first * 1e3:.0f} ms, {second * 1e3:.0f} ms |")
    memory = [f"| {name} | {final['training_memory'][name]['peak_bytes'] / 2**20:,.0f} MiB |" for name in CHUNKS]
    return _SECTION.format(n=N, ratios="\n".join(rows), memory="\n".join(memory))


_SECTION = """## The trainer

A full-batch step of the LeNet on n = {n} images: the trainer against a plain PyTorch loop of the shape of the authors' code (parameters in one flat vector,
all images in one pass, per-sample losses times a mask). The trainer keeps channels last in memory and passes chunks that fit the processor's cache.

| steps compared | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{ratios}

| full-batch step | peak memory above the model and data |
|---|---|
{memory}
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=ratio.__doc__)
    parser.add_argument("--ratio", choices=RATIOS)
    parser.add_argument("--peak", choices=CHUNKS)
    chosen = parser.parse_args()
    print(json.dumps(ratio(chosen.ratio) if chosen.ratio else peak(chosen.peak)))
