"""What the two-dimensional toy costs: all runs of the six dynamics at once, against a plain loop over runs."""

from __future__ import annotations

import numpy as np

from support.bench import measure

RUNS, STEPS, PAIRS, PLAIN_RUNS = 2000, 500, 5, 1
NAME = "plain loop / all runs at once"


def plain(dynamics: str, runs: int, steps: int, generator) -> np.ndarray:
    """The same experiment as it is usually written, one run after another, every sample at every step; returns the end
    points in (w₁, w₂).

    Gradients, Hessian and covariance of the n samples by formulas on arrays of shape (n, 2), eigenvectors by LAPACK.
    """
    from support.exact import two_basins as toy

    turn = np.array([[1.0, 1.0], [1.0, -1.0]]) / toy.ROOT2  # columns: along and across the diagonal
    sharp, flat = turn @ np.diag(toy.SHARP) @ turn, np.diag(toy.FLAT)
    ends = []
    for _ in range(runs):
        x = (toy.SPREAD * generator.standard_normal((toy.SAMPLES, 2))) @ turn
        w = np.ones(2)
        for _ in range(steps):
            low, high = toy.bowls(w, x)
            inside = (low < high)[:, None]
            gradients = np.where(inside, (w - 1 - x) @ sharp, (w + 1 - x) @ flat)
            if dynamics in ("GLD diag", "GLD leading"):
                shape = np.cov(gradients.T)
                shape = np.diag(np.diag(shape)) if dynamics == "GLD diag" else shape
            else:
                shape = inside.mean() * sharp + (1 - inside.mean()) * flat
            values, vectors = np.linalg.eigh(np.eye(2) if dynamics == "GLD const" else shape)
            values = np.array([0.0, 1.0]) if dynamics == "GLD 1st eigvec(H)" else values / values.sum()
            noise = vectors @ (np.sqrt(toy.TRACE * np.maximum(values, 0)) * generator.standard_normal(2))
            w = w - toy.LR * gradients.mean(0) + (0.0 if dynamics == "GD" else noise)
        ends.append(w)
    return np.array(ends)


def cost() -> dict:
    """Time of the plain loop for RUNS runs, scaled from PLAIN_RUNS, over that of `simulate` for RUNS runs; STEPS steps
    of the six dynamics, one thread.
    """
    from support.exact import two_basins as toy
    from support.exact.two_basins_runs import simulate

    generator = np.random.default_rng(1)
    scale = RUNS / PLAIN_RUNS
    row = measure.ratio(
        lambda: [plain(name, PLAIN_RUNS, STEPS, generator) for name in toy.DYNAMICS],
        lambda: [simulate(name, RUNS, STEPS, generator=generator) for name in toy.DYNAMICS],
        PAIRS,
    )
    row["median"], row["quartiles"] = scale * row["median"], [scale * value for value in row["quartiles"]]
    row["seconds"][0] *= scale
    return row | {"runs": RUNS, "plain_runs": PLAIN_RUNS}


ROWS = {"toy": {NAME: cost}}


def section(final: dict) -> str:
    """The part of the page about the toy, from the numbers of a record."""
    row = final["toy"][NAME]
    plain_s, ours_s = row["seconds"]
    low, high = row["quartiles"]
    seconds = f"{plain_s:,.0f} s, {ours_s:.2f} s (goal: ≤ 10 s)"
    line = f"| {NAME} | {row['median']:,.0f} | {low:,.0f} to {high:,.0f} | ≥ 100 | {seconds} |"
    return _SECTION.format(
        runs=row["runs"],
        steps=STEPS,
        few="one run" if row["plain_runs"] == 1 else f"{row['plain_runs']} runs",
        line=line,
    )


_SECTION = """
## Two basins

The two-dimensional toy of the page *Two basins*: {runs:,} runs of {steps} steps of six dynamics, 100 samples each, one
thread (a second one has nothing to do). All runs advance together, and only those near the ridge look at single
samples; the plain loop visits every sample of every run. Its time is scaled from {few} of each dynamics.

| compared | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{line}
"""
