"""What every benchmark row is made with: steps in alternating pairs, peak memory, the row's own process."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def ratio(first: Callable[[], object], second: Callable[[], object], pairs: int) -> dict:
    """Time of ``first`` over that of ``second``, run in alternating order so that a busy machine slows both: median,
    quartiles, median seconds of each.
    """
    seconds: tuple[list, list] = ([], [])
    for pair in range(pairs + 3):
        for which in (0, 1) if pair % 2 else (1, 0):
            start = time.perf_counter()
            (first, second)[which]()
            seconds[which].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(seconds[0][3:], seconds[1][3:], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return {
        "median": median,
        "quartiles": [low, high],
        "pairs": pairs,
        "seconds": [statistics.median(times[3:]) for times in seconds],
    }


def peak_above(work: Callable[[], object]) -> int:
    """Bytes of memory that ``work`` needs at its peak above what the process holds when it starts. Call it in a fresh
    process: a peak is never forgotten.
    """
    held = _memory("VmRSS")
    work()
    return max(0, _memory("VmHWM") - held)


def timed(work: Callable[[], object], repetitions: int, *, warm_up: bool = False) -> dict:
    """Median seconds of ``work`` and the peak memory of all its repetitions; warm_up: one more, first, whose time does
    not count. As `peak_above`.
    """
    seconds: list[float] = []

    def repeated():
        if warm_up:
            work()
        for _ in range(repetitions):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)

    peak = peak_above(repeated)
    return {"seconds": statistics.median(seconds), "peak_bytes": peak, "repetitions": repetitions}


def _memory(field: str) -> int:
    """What the process holds now (VmRSS) or has held at most (VmHWM), in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # the peak of getrusage would include the parent's, from before the process became this program
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_own_process(kind: str, name: str) -> dict:
    """Measure one row in a process of its own. Raises RuntimeError with what it said if it failed."""
    # numpy's and scipy's own threads would share the cores with torch's: one for them, torch's number is each row's
    # affair
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "support.bench", kind, name],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"benchmark row {name!r} failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def threads(count: int) -> None:
    """Set torch's threads: one where two things are compared, because a second thread that waits for a busy core would
    be most of what is measured.
    """
    import torch

    torch.set_num_threads(count)


def cross_entropy(outputs, targets):
    """Cross-entropy of each sample."""
    import torch

    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def images(samples: int, flat: bool = False):
    """Random inputs and labels of the LeNet's shape, or of the digits network's."""
    import torch

    generator = torch.Generator().manual_seed(1)
    shape = (64,) if flat else (1, 28, 28)
    return torch.randn(samples, *shape, generator=generator), torch.randint(0, 10, (samples,), generator=generator)


def ratio_rows(rows: dict, final: dict, goals: dict[str, str]) -> str:
    """Lines of a Markdown table: name, ratio, quartiles, goal, median milliseconds of both."""
    lines = []
    for name in rows:
        row = final[name]
        (low, high), (first, second) = row["quartiles"], row["seconds"]
        lines.append(
            f"| {name} | {row['median']:.3f} | {low:.3f} to {high:.3f} | {goals[name]} | {first * 1e3:.1f} ms, "
            f"{second * 1e3:.1f} ms |"
        )
    return "\n".join(lines)


def mebibytes(count: int) -> str:
    """Bytes as a reader wants them."""
    return f"{count / 2**20:,.0f} MiB"
