"""Benchmarks as ratios in one run: `make bench` measures them and writes the page "How fast it runs".

Every row is measured in a process of its own, one after another, so that its peak memory is its own. A ratio compares
two routes whose steps alternate; seconds are shown for orientation only.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

RECORD = "bench/noise_cost"


def parts():
    """The modules that hold the rows, in the page's order."""
    from support.bench import complexity, coupling, dynamics, exact, gradients, noise, stationary, toy, training

    return noise, gradients, training, exact, stationary, complexity, coupling, dynamics, toy


def rows() -> dict:
    """All rows: kind, then name, then the function that measures it."""
    return {kind: named for part in parts() for kind, named in part.ROWS.items()}


def run() -> dict:
    """Measure every row, each in its own process, and return the numbers of the record. Raises RuntimeError, at the
    end, with what failed rows said.
    """
    from tqdm import tqdm

    from support.bench.measure import in_own_process

    jobs = [(kind, name) for kind, named in rows().items() for name in named]
    results: dict = {kind: {} for kind in rows()}
    failed: list[str] = []
    with tqdm(jobs, disable=None, unit="row") as progress:
        for kind, name in progress:
            progress.set_description(name)
            try:
                results[kind][name] = in_own_process(kind, name)
            except RuntimeError as error:  # the other rows are measured all the same
                failed.append(str(error))
    if failed:
        raise RuntimeError("\n".join(failed))
    return results


_HEAD = """# How fast it runs

What things cost, measured as ratios in one run of `make bench`. Two routes that are compared run in turns, so that a
busy machine slows both; a route whose memory is measured runs in a process of its own. Seconds depend on the machine;
ratios hardly do.

"""
_FOOT = """
Measured with Python {python}, torch {torch}, commit `{commit}`; the whole run took {wall:.0f} s.
The numbers are in `notebooks/records/{record}.json`.
"""


def write_page(record: dict, path: Path) -> None:
    """Write the Markdown page from a record of `run`, in one piece."""
    from support import files

    source = record["provenance"]
    foot = {"commit": source["commit"], "wall": source["wall_s"], "record": RECORD}
    text = _HEAD + "\n".join(part.section(record["final"]) for part in parts())
    files.write_whole(
        path, text + _FOOT.format(python=source["versions"]["python"], torch=source["versions"]["torch"], **foot)
    )


def main(root: Path = Path()) -> int:
    """Measure, record under ``notebooks/records``, write ``book/how_fast_it_runs.md``, and print it. Returns an exit
    code.
    """
    from support.experiments import records

    page = root / "book" / "how_fast_it_runs.md"
    if not page.parent.is_dir():
        print(f"error: {page.parent.resolve()} is missing: run the benchmark in the repository's root", file=sys.stderr)
        return 2
    start = time.perf_counter()
    final = run()
    config = {"preset": "bench.noise_cost", "n": 1000, "b": 50, "d": 11_330, "threads": 1}
    path = records.save(
        root / "notebooks" / "records" / f"{RECORD}.json",
        config=config,
        final=final,
        wall_s=time.perf_counter() - start,
    )
    write_page(records.read(path), page)
    print(page.read_text(encoding="utf-8"))
    return 0
