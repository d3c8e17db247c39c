"""Benchmark rows of the gradient operators, as ratios in one run; `support.bench` measures them beside its own and shows them on the page "How fast it runs".

A product with the gradient covariance C must cost a few gradients and store no per-sample gradient; a dense C must need the memory of C and of one chunk.
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

# the product: LeNet on n images; the dense matrix: the digits network on many samples, where stored gradients outweigh C
N, B, CHUNK, PAIRS = 1000, 50, 200, 30
MANY = 20_000
DENSE = ("by chunks of 200", "from stored gradients")


def _gradients(network: str, n: int, chunk: int):
    import torch

    from support.experiments import models
    from support.experiments.training import cross_entropy
    from support.gradients import GradientMatrix

    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    shape = (1, 28, 28) if network == "LeNet" else (64,)
    inputs, targets = torch.randn(n, *shape, generator=generator), torch.randint(0, 10, (n,), generator=generator)
    return GradientMatrix(getattr(models, network)(), cross_entropy, inputs, targets, chunk=chunk)


def product() -> dict:
    """Time of C·u over that of a full gradient by the same chunks, steps in alternating pairs, one thread: median ratio and quartiles."""
    import torch

    from support.sampling import MiniBatch

    torch.set_num_threads(1)
    gradients = _gradients("LeNet", N, CHUNK)
    covariance, u, ones = gradients.covariance(MiniBatch(N, B)), torch.randn(gradients.d), torch.full((N,), 1 / N)
    routes: tuple[Callable, Callable] = (lambda: covariance @ u, lambda: gradients @ ones)
    ratios = []
    for pair in range(PAIRS + 2):
        seconds = [0.0, 0.0]
        for which in (0, 1) if pair % 2 else (1, 0):
            start = time.perf_counter()
            routes[which]()
            seconds[which] = time.perf_counter() - start
        ratios.append(seconds[0] / seconds[1])
    low, median, high = statistics.quantiles(ratios[2:], n=4)
    return {"median": median, "quartiles": [low, high], "pairs": PAIRS}


def dense(route: str) -> dict:
    """Peak memory of making a dense C, in bytes above that of the model and its data. To be called in a fresh process."""
    import torch

    from support.sampling import MiniBatch

    torch.set_num_threads(1)
    _gradients("DigitsNet", 4, 2).covariance(MiniBatch(4, 2)).dense()
    gradients = _gradients("DigitsNet", MANY, CHUNK)
    covariance = gradients.covariance(MiniBatch(MANY, B))
    _ = gradients.mean
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if route == DENSE[0]:
        covariance.dense()
    else:
        matrix = gradients.dense()
        covariance._a * matrix @ matrix.T + covariance._c * MANY**2 * torch.outer(gradients.mean, gradients.mean)
    return {"peak_bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), "d": gradients.d}


def jobs() -> list[tuple[str, str, Callable[[], dict]]]:
    """The rows to measure: (kind, name, function), each in a process of its own."""
    rows = [("gradient_product", "C·u / gradient", ("--product",))] + [("gradient_dense", route, ("--dense", route)) for route in DENSE]
    return [(kind, name, partial(_in_own_process, *arguments)) for kind, name, arguments in rows]


def _in_own_process(*arguments: str) -> dict:
    done = subprocess.run([sys.executable, "-m", "support.bench_gradients", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmark {' '.join(arguments)} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def section(final: dict) -> str:
    """The part of the page about the gradient operators, from the numbers of a record."""
    row = final["gradient_product"]["C·u / gradient"]
    low, high = row["quartiles"]
    memory = [f"| {route} | {final['gradient_dense'][route]['peak_bytes'] / 2**20:,.0f} MiB |" for route in DENSE]
    d = final["gradient_dense"][DENSE[0]]["d"]
    text = {"n": N, "many": MANY, "d": d, "ratio": f"{row['median']:.2f} | {low:.2f} to {high:.2f}", "memory": "\n".join(memory), "c": 4 * d * d / 2**20}
    return _SECTION.format(**text)


_SECTION = """## The gradient covariance

A product with C costs one forward-mode and one backward pass, and stores no per-sample gradient (LeNet, n = {n}, one thread).

| compared | ratio of times | quartiles | goal |
|---|---|---|---|
| C·u / gradient | {ratio} | ≤ 5 |

A dense C of the digits network (d = {d:,}, n = {many:,}; C itself takes {c:.0f} MiB):

| how | peak memory above the model and data |
|---|---|
{memory}
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="one row of the benchmark")
    parser.add_argument("--product", action="store_true")
    parser.add_argument("--dense", choices=DENSE)
    chosen = parser.parse_args()
    print(json.dumps(product() if chosen.product else dense(chosen.dense)))
