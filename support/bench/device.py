"""``python -m support.bench.device``: what the minutes of a GPU buy, as ratios in one run of about two minutes.

Printed are the goals of the experiments: all runs of Wu et al.'s Figure 1(a) in one program, against one after another;
the steps of a ResNet-18 against the device's own matrix rate; a step that a graph replays against one that is not; a
step of MSGD against one of gradient descent. Images are random: no data set is needed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

FIGURE = ("GD", "SGD", "MSGD-Cov", "MSGD-Fisher", "MSGD-Bernoulli", "MSGD-[Fisher-10]", "MSGD-[Cov-10]")


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are a device's."""

    n: int = 1000
    b: int = 50
    seeds: int = 10
    steps: int = 30
    length: int = 10_000  # steps of a run, for its minutes
    network: str = "ResNet18"
    pixels: int = 32
    batch: int = 2000
    chunk: int = 1000
    matrix: int = 8192


def seconds(work: Callable[[], object], device: str, repetitions: int) -> float:
    """Seconds of one of many calls, after two that do not count; a device is waited for before and after."""
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    work(), work(), wait()
    began = time.perf_counter()
    for _ in range(repetitions):
        work()
    wait()
    return (time.perf_counter() - began) / repetitions


# --- the small network ------------------------------------------------------------------------------------------------


def lenets(device: str, sizes: Sizes, methods: tuple[str, ...], seeds: int, **options) -> list:
    """Trainers of the LeNet on random images, a set for each seed; the rate is small, so that no run diverges."""
    import torch

    from support.experiments.models import LeNet, normal_init
    from support.experiments.training import Data, Trainer
    from support.sampling import by_name

    made = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(sizes.n, 1, 28, 28, generator=generator), torch.arange(sizes.n) % 10
        data = Data.on(device, images, (images[0][:100].clone(), images[1][:100]), 100)
        for method in methods:
            model = normal_init(LeNet(), 0.1, torch.Generator().manual_seed(seed))
            model = model.to(device, memory_format=torch.channels_last)
            law = by_name(method, sizes.n, sizes.b, replace=False)
            own = {
                "generator": torch.Generator().manual_seed(seed),
                "chunk": 2000 if device == "cuda" else 200,
                **options,
            }
            made.append(Trainer(model, torch.optim.SGD(model.parameters(), 0.001), law, data, **own))
    return made


def together(device: str, sizes: Sizes) -> dict[str, float]:
    """The runs of Figure 1(a) in one program, convolutions in both their ways, against one step of each in turn."""
    from support.experiments.bands import Program
    from support.experiments.captured import Captured

    def measured(unfold: bool) -> tuple[float, float]:
        joint = Program(lenets(device, sizes, FIGURE, sizes.seeds), unfold=unfold)
        block = min(10, sizes.steps)
        took = seconds(lambda: joint.advance(block), device, sizes.steps // block) / block
        return took, seconds(lambda: [band.draw(1) for band in joint.bands], "cpu", 3)

    program = {}
    for unfold in (False, True):
        program[unfold], drawing = measured(unfold)
    best = min(program.values())
    found = {
        f"one program, {len(FIGURE)} methods x {sizes.seeds} seeds: ms a step, convolutions as they are": program[False]
        * 1e3,
        "  convolutions unfolded": program[True] * 1e3,
        "  of which the processor draws, beside the device": drawing * 1e3,
        f"  minutes for {sizes.length:,} steps (goal: 3)": best * sizes.length / 60,
    }
    for name, options in (("one after another", {}), ("one after another, replayed", {"passes": Captured})):
        each = []
        for trainer in lenets(device, sizes, FIGURE, 1):
            trainer.passes = options["passes"]() if options else trainer.passes
            each.append(seconds(trainer.step, device, sizes.steps))
        found[f"{name} / one program (goal: 20)"] = sum(each) * sizes.seeds / best
    return found


def steps(device: str, sizes: Sizes) -> dict[str, float]:
    """A step of the LeNet alone: replayed or not, with noise or without."""
    from support.experiments.captured import Captured

    times = {}
    for method in ("GD", "MSGD-Cov"):
        for passes in (None, Captured()):
            (trainer,) = lenets(device, sizes, (method,), 1, **({"passes": passes} if passes else {}))
            times[method, bool(passes)] = seconds(trainer.step, device, sizes.steps)
    return {
        "LeNet, full batch: ms a step": times["GD", False] * 1e3,
        "  as it is / replayed": times["GD", False] / times["GD", True],
        "  MSGD-Cov / GD (goal: 1.02)": times["MSGD-Cov", False] / times["GD", False],
        "  MSGD-Cov / GD, replayed": times["MSGD-Cov", True] / times["GD", True],
    }


# --- the large network ------------------------------------------------------------------------------------------------


def kinds() -> Iterator[tuple[str, bool, bool]]:
    """How a large network may be computed: its name, whether TF32 is allowed, whether in bfloat16."""
    yield from (("float32", False, False), ("TF32", True, False), ("bfloat16", False, True))


def large(device: str, sizes: Sizes) -> dict[str, float]:
    """A large-batch step of the ResNet-18 as a share of the device's matrix rate in the same arithmetic."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from support.experiments import models
    from support.experiments.captured import Captured
    from support.experiments.training import cross_entropy
    from support.msgd import backward_in_chunks

    pixels = 3 * sizes.pixels**2
    network = models.by_name(sizes.network, pixels=pixels, ghost=sizes.chunk).to(
        device, memory_format=torch.channels_last
    )
    images = torch.rand(sizes.batch, 3, sizes.pixels, sizes.pixels).to(device, memory_format=torch.channels_last)
    labels, weights = torch.arange(sizes.batch).to(device) % 10, torch.full((sizes.batch,), 1 / sizes.batch).to(device)
    with FlopCounterMode(display=False) as counter:
        cross_entropy(network(images[: sizes.chunk]), labels[: sizes.chunk]).sum().backward()
    work = counter.get_total_flops() * sizes.batch / sizes.chunk
    found = {f"{sizes.network}, {sizes.batch:,} images of {sizes.pixels} x {sizes.pixels}: TFLOP a step": work / 1e12}
    for name, tf32, half in kinds():
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32

        def loss(outputs, targets):
            return cross_entropy(outputs.float(), targets)

        square = torch.randn(sizes.matrix, sizes.matrix, device=device, dtype=torch.bfloat16 if half else torch.float32)
        rate = 2 * sizes.matrix**3 / seconds(lambda: square @ square, device, 10)  # noqa: B023, called here
        for way, passes in (("", backward_in_chunks), (", replayed", Captured())):

            def step():
                network.zero_grad()
                with torch.autocast(device, torch.bfloat16, enabled=half, cache_enabled=False):  # noqa: B023
                    list(passes(network, loss, images, labels, weights, sizes.chunk, None))  # noqa: B023

            took = seconds(step, device, 5)
            found[f"  {name}{way}: ms a step"] = took * 1e3
            found[f"  {name}{way}: share of the matrix rate (goal: 0.35)"] = work / took / rate
        found[f"  {name}: TFLOP/s of a product of matrices of {sizes.matrix:,}"] = rate / 1e12
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return found


PARTS = (together, steps, large)


def main(device: str = "cuda", sizes: Sizes | None = None) -> int:
    """Measure and print every part. Returns an exit code."""
    from support.errors import Refused
    from support.experiments import runs

    try:
        runs.check_device(device)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    print(torch.cuda.get_device_name() if device == "cuda" else "a processor, which proves nothing", flush=True)
    began = time.perf_counter()
    for part in PARTS:
        for name, value in part(device, sizes or Sizes()).items():
            print(f"{name}: {value:.3g}", flush=True)
    print(f"measured in {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
