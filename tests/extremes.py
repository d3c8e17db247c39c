"""Every page at the ends of what it takes: all parameters at their lower ends, all at their upper ends, and drawn ones.

Not part of `make test`, since it takes half an hour: run it with ``python -m pytest tests/extremes.py``, one page with
``-k zoo``, more or other draws with ``EXTREMES=10 EXTREMES_SEED=2`` in the environment. Each case is a run of the
command line, ``python -m support run PAGE -p NAME VALUE …``, and must end well: valid parameters are never refused,
and no page needs more than five minutes. Where a page takes numbers without an end, the upper end stands for them.
"""

import itertools
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DRAWS, SEED = int(os.environ.get("EXTREMES", "2")), os.environ.get("EXTREMES_SEED", "1")
LIMIT = 300  # seconds


def anything(**_):
    """Every combination is valid."""
    return True


SEEDS = [0, 1, 10]
# page: values from the lower to the upper end of each parameter, and which combinations the page takes
PAGES = {
    "escaping_efficiency": (
        {
            "d": [2, 20, 200],
            "condition": [1.001, 1000.0, 1e8],
            "n": [2, 5, 7],
            "b": [1, 2, 5],
            "lr": [0.001, 0.1, 1.999],
            "seed": SEEDS,
        },
        lambda n, b, **_: b <= n and n**b <= 20_000,
    ),
    "noise_meets_curvature": (
        {
            "few": [10, 30, 200],
            "many": [11, 300, 3000],
            "steps": [20, 300, 2000],
            "delta": [0.001, 0.1, 0.2],
            "s": [0.1, 0.5, 0.9],
            "seed": SEEDS,
        },
        lambda few, many, **_: few < many,
    ),
    "one_hidden_layer": (
        {
            "widths": [[8, 10], [16, 64], [32, 128, 512]],
            "runs": [2, 3, 5],
            "n": [100, 400, 1000],
            "steps": [60, 200, 310],
            "delta": [1e-6, 0.001, 0.19],
            "seed": [1, 10, 16],
        },
        anything,
    ),
    "sharp_minimum": (
        {
            "level": [0.01, 0.95, 0.999],
            "live_n": [60, 240, 700],
            "live_b": [1, 20, 59],
            "live_lr": [0.01, 0.35, 1.0],
            "live_k": [1, 11, 59],
            "live_steps": [20, 100, 300],
            "live_seeds": [1, 2, 3],
        },
        lambda live_n, live_b, live_k, **_: max(live_b, live_k) < live_n,
    ),
    "two_basins": (
        {
            "runs": [50, 500, 2000],
            "steps": [20, 200, 500],
            "trace": [0.001, 0.01, 0.1],
            "n": [3, 100],
            "level": [0.01, 0.95, 0.999],
            "seed": SEEDS,
        },
        anything,
    ),
    "which_noise_escapes": (
        {"d": [400, 11330, 100_000], "k": [2, 100, 25_000], "level": [1e-6, 0.01, 0.99], "trials": [1, 2000]}
        | {"seed": SEEDS},
        lambda d, k, **_: k <= d // 4,
    ),
    "which_classes_generalise": (
        {
            "margin": [0.01, 1.0, 50.0],
            "level": [0.001, 0.05, 0.49],
            "loss_goal": [0.001, 0.1, 1.99],
            "accuracy_goal": [0.21, 0.75, 0.99],
            "live_b": [1, 10, 100],
            "live_seeds": [2, 6],
            "live_steps": [20, 300, 1000],
        },
        anything,
    ),
    "figure_1_line_by_line": ({"confidence": [0.01, 0.5, 0.999]}, anything),
    "fisher_or_covariance": (
        {"n": [50, 500, 1797], "b": [1, 4, 50], "steps": [20, 300, 1000], "runs": [2, 5], "seed": SEEDS},
        lambda n, b, **_: b <= min(50, n // 5),
    ),
    "multiplicative_sgd": (
        {
            "n": [40, 500, 1500],
            "b": [1, 5, 20],
            "B": [2, 39, 100],
            "steps": [8, 100, 400],
            "runs": [2, 6],
            "lr": [0.01, 0.15, 0.3],
            "seed": SEEDS,
        },
        lambda n, b, B, **_: max(b, 2) <= B <= n,
    ),
    "sampling_noise": (
        {"n": [3, 7, 30], "b": [1, 2, 3], "draws": [2, 200, 2000], "seed": SEEDS},
        lambda n, b, **_: b <= n and n ** (b + 2) <= 1_000_000,
    ),
    "zoo": (
        {"n": [3, 7, 12], "b": [1, 2, 3], "B": [2, 3, 4], "seed": SEEDS},
        lambda n, b, B, **_: b < B <= n and math.comb(n + B - 1, B) <= 5000,
    ),
    "averaged_least_squares": (
        {
            "b": [1, 4, 32],
            "B": [2, 64, 512],
            "share": [0.001, 0.5, 0.999],
            "steps": [10, 100, 300],
            "laws": [10, 1000],
            "runs": [2, 200],
            "seed": SEEDS,
        },
        lambda b, B, **_: b < B,
    ),
    "from_steps_to_diffusion": (
        {"n": [2, 8, 64], "b": [1, 2, 8], "time": [1, 2, 8], "paths": [40, 200], "seed": SEEDS},
        lambda n, b, time, paths, **_: b <= n and n * time * paths <= 20_000,
    ),
    "what_the_class_changes": (
        {
            "rare": [2, 5, 1000],
            "b": [1, 4, 20],
            "B": [2, 4, 60],
            "lr": [0.37, 1.9, 9.7],
            "steps": [10, 200, 1000],
            "seed": SEEDS,
        },
        lambda b, B, **_: max(b, 2) <= B,
    ),
}


def cases(page: str) -> list[dict]:
    """The lower ends, the upper ends where they go together, and drawn combinations; none twice."""
    values, valid = PAGES[page]
    picks = random.Random(f"{page} {SEED}")
    drawn = ({name: picks.choice(several) for name, several in values.items()} for _ in itertools.count())
    ends = [{name: several[end] for name, several in values.items()} for end in (0, -1)]
    found = [case for case in ends if valid(**case)]
    for case in drawn:
        if len(found) >= 2 + DRAWS:
            return found
        if valid(**case) and case not in found:
            found.append(case)


def test_every_page_has_its_ends():
    assert set(PAGES) == {path.stem for path in ROOT.glob("notebooks/*/*.ipynb")}


@pytest.mark.parametrize(
    ("page", "parameters"),
    [
        pytest.param(page, case, id=f"{page}: " + ", ".join(f"{name} = {value}" for name, value in case.items()))
        for page in PAGES
        for case in cases(page)
    ],
)
def test_valid_parameters_run(page, parameters, tmp_path):
    (notebook,) = ROOT.glob(f"notebooks/*/{page}.ipynb")
    options = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "support", "run", str(notebook), *options, "-o", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
