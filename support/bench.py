"""Benchmarks as ratios in one run: `make bench` measures them and writes the page "How fast it runs".

Every route is timed in a process of its own, one after another, so that its peak memory is its own. A ratio compares two routes of the same run;
seconds are shown for orientation only. Each route does the same work: one stochastic gradient of the 11,330-parameter LeNet on n = 1000 images.
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
from pathlib import Path

from support import bench_training

N, B = 1000, 50
RECORD = "bench/noise_cost"


# --- the routes: each takes (model, inputs, targets, generator) and returns a function that draws one stochastic gradient --------------------------------


def _loss(outputs, targets):
    import torch

    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def _msgd(name: str, chunk: int | None = None):
    def route(model, inputs, targets, generator):
        import torch

        from support.msgd import MSGD
        from support.sampling import by_name

        step = MSGD(model, _loss, torch.optim.SGD(model.parameters(), 0.0), by_name(name, len(inputs), min(B, len(inputs))), generator=generator, chunk=chunk)
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
    import torch
    from torch.func import functional_call, grad, vmap

    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def one(parameters, x, y):
        return _loss(functional_call(model, parameters, (x[None],)), y[None])[0]

    gradients = vmap(grad(one), in_dims=(None, 0, 0))(parameters, inputs, targets)
    return torch.cat([g.flatten(1) for g in gradients.values()], dim=1)


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
    """N(0, C) from the eigenvectors U of the n x n Gram matrix AAᵀ: the draw is Aᵀ(Uε), which is the gradient matrix times a Gaussian again."""
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
STEPS = {"full batch, n = 1000": (N, 100), "batch of 100": (100, 1000)}


# --- measuring ------------------------------------------------------------------------------------------------------------------------------------------


def _problem(samples: int):
    import torch

    from support.experiments.models import LeNet

    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    return LeNet(), torch.randn(samples, 1, 28, 28, generator=generator), torch.randint(0, 10, (samples,), generator=generator), generator


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str) -> dict:
    """Seconds of one draw (median) and peak memory above what the process held before it, in bytes. To be called in a fresh process."""
    route, repetitions = ROUTES[name]
    model, inputs, targets, generator = _problem(N)
    # a first small pass loads what torch loads once, so that the peak is the route's own
    route(model, inputs[:2], targets[:2], generator)() if repetitions > 1 else _gradient_matrix(model, inputs[:2], targets[:2])
    before = _peak_bytes()
    draw = route(model, inputs, targets, generator)
    if repetitions > 1:
        draw()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        draw()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "peak_bytes": _peak_bytes() - before, "repetitions": repetitions}


def step_ratio(samples: int, law: str, pairs: int) -> dict:
    """MSGD step / plain step of the same samples, measured in alternating pairs with one thread: median ratio and its quartiles."""
    import torch

    torch.set_num_threads(1)  # a second thread that waits for a busy core would be most of what is measured
    model, inputs, targets, generator = _problem(samples)
    routes = [_msgd(law)(model, inputs, targets, generator), _plain(model, inputs, targets, generator)]
    ratios = []
    for pair in range(pairs + 3):
        times = [0.0, 0.0]
        for which in (0, 1) if pair % 2 else (1, 0):
            start = time.perf_counter()
            routes[which]()
            times[which] = time.perf_counter() - start
        ratios.append(times[0] / times[1])
    low, median, high = statistics.quantiles(ratios[3:], n=4)
    return {"median": median, "quartiles": [low, high], "pairs": pairs}


def _in_own_process(*arguments: str) -> dict:
    done = subprocess.run([sys.executable, "-m", "support.bench", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmark {' '.join(arguments)} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def run() -> dict:
    """Measure everything, each in its own process, and return the numbers of the record."""
    from tqdm import tqdm

    results: dict = {}
    rows = [("step_ratio", name, ("--ratio", str(samples), "MSGD-Cov", str(pairs))) for name, (samples, pairs) in STEPS.items()]
    rows += [("routes", name, ("--route", name)) for name in ROUTES]
    jobs = [(kind, name, partial(_in_own_process, *arguments)) for kind, name, arguments in rows] + bench_training.jobs()
    with tqdm(jobs, disable=None, unit="row") as progress:
        for kind, name, job in progress:
            progress.set_description(name)
            results.setdefault(kind, {})[name] = job()
    return results


# --- the page -------------------------------------------------------------------------------------------------------------------------------------------

_PAGE = """# How fast it runs

What multiplicative SGD costs, measured as ratios in one run of `make bench`. Every row draws one stochastic gradient of the 11,330-parameter LeNet on
n = {n} images with {threads} threads; each route runs in a process of its own. Seconds depend on the machine; ratios hardly do.

## A step against a plain step

The floor of a multiplicative step is one step of ordinary training on the same samples: it draws n random numbers more, and nothing else.
Steps alternate between the two loops, so that a busy machine slows both; they use one thread.

| samples | MSGD-Cov step / plain step | quartiles | goal |
|---|---|---|---|
{ratios}

## Gaussian noise with the covariance of SGD

Four routes to the same law N(0, C). The gradient noise is the gradient matrix times a Gaussian vector, so the weighted backward pass needs no matrix.
The d × d route, which the paper compares with, forms C (d² numbers) and decomposes it. The n × n route is what a careful programmer would do instead,
and against it the advantage is a small factor.

| route | time of a draw | time / MSGD-Cov | peak memory above the model and data |
|---|---|---|---|
{routes}

Chunks bound the memory of the backward pass; the gradient is the same up to rounding.

{training}
Measured with Python {python}, torch {torch}, commit `{commit}`; the whole run took {wall:.0f} s. The numbers are in `notebooks/records/{record}.json`.
"""


def write_page(record: dict, path: Path) -> None:
    """Write the Markdown page from a record of `run`, atomically."""
    routes, source = record["final"]["routes"], record["provenance"]
    base = routes["MSGD-Cov"]["seconds"]
    text = _PAGE.format(
        n=N,
        threads=record["config"]["threads"],
        ratios="\n".join(_ratio_row(name, record["final"]["step_ratio"][name]) for name in STEPS),
        routes="\n".join(_route_row(name, routes[name], base) for name in ROUTES),
        training=bench_training.section(record["final"]),
        python=source["versions"]["python"],
        torch=source["versions"]["torch"],
        commit=source["commit"],
        wall=source["wall_s"],
        record=RECORD,
    )
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _ratio_row(name: str, ratio: dict) -> str:
    low, high = ratio["quartiles"]
    return f"| {name} | {ratio['median']:.3f} | {low:.3f} to {high:.3f} | ≤ 1.02 |"


def _route_row(name: str, route: dict, base: float) -> str:
    seconds = route["seconds"]
    time_of_draw = f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"
    return f"| {name} | {time_of_draw} | {seconds / base:,.2f} | {route['peak_bytes'] / 2**20:,.0f} MiB |"


def main(root: Path = Path()) -> int:
    """Measure, record under ``notebooks/records``, write ``book/how_fast_it_runs.md``, and print the page's tables. Returns an exit code."""
    import torch

    from support.experiments import records

    pages = root / "book"
    if not pages.is_dir():
        print(f"error: {pages.resolve()} is missing: run the benchmark in the repository's root", file=sys.stderr)
        return 2
    start = time.perf_counter()
    final = run()
    config = {"preset": "bench.noise_cost", "n": N, "b": B, "d": 11_330, "threads": torch.get_num_threads()}
    path = records.save(root / "notebooks" / "records" / f"{RECORD}.json", config=config, final=final, wall_s=time.perf_counter() - start)
    write_page(records.read(path), pages / "how_fast_it_runs.md")
    print((pages / "how_fast_it_runs.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument("--route", choices=ROUTES)
    parser.add_argument("--ratio", nargs=3, metavar=("SAMPLES", "LAW", "PAIRS"))
    chosen = parser.parse_args()
    samples, law, pairs = chosen.ratio or (0, "", 0)
    print(json.dumps(measure(chosen.route) if chosen.route else step_ratio(int(samples), law, int(pairs))))
