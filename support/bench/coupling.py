"""What it costs to couple mini-batches to a Brownian path: the tree of quantiles against its floors, drawing the noise
and taking the step.
"""

from __future__ import annotations

from functools import partial

from support.bench import measure

# ten thousand paths of 64 steps; two samples are one walk of signs, eight are seven counts a step
PATHS, STEPS, B, PAIRS = 10_000, 64, 1, 10
SAMPLES = (2, 8)


def _draw(n: int):
    import numpy as np

    from support.sampling import GaussianCovariance

    law, generator = GaussianCovariance(n, B), np.random.default_rng(1)
    return lambda: law.sample(PATHS * STEPS, generator).reshape(PATHS, STEPS, n)


def against_draw(n: int) -> dict:
    """Time of the tree over that of drawing the Gaussian weights it starts from."""
    from support.coupling import mini_batches

    draw = _draw(n)
    weights = draw()
    return measure.ratio(lambda: mini_batches(weights, B), draw, PAIRS)


def against_step(n: int) -> dict:
    """Time of the tree over that of an Euler–Maruyama step, noise included, on a regression in two dimensions: each for
    all steps.
    """
    import numpy as np

    from support.coupling import descend, huber, mini_batches, regression

    generator = np.random.default_rng(2)
    gradient = regression(generator.standard_normal((n, 2)), generator.standard_normal(n), huber)
    draw = _draw(n)
    weights = draw()
    return measure.ratio(lambda: mini_batches(weights, B), lambda: descend(gradient, [1.0, 1.0], 0.1, draw()), PAIRS)


FLOORS = {"Gaussian weights": (against_draw, "≤ 10"), "Euler step": (against_step, "≤ 6")}
NAMED = {f"tree / {floor}, n = {n}": (partial(row, n), goal) for floor, (row, goal) in FLOORS.items() for n in SAMPLES}
ROWS = {"coupling": {name: row for name, (row, _) in NAMED.items()}}


def section(final: dict) -> str:
    """The part of the page about the coupling, from the numbers of a record."""
    ratios = measure.ratio_rows(ROWS["coupling"], final["coupling"], {name: goal for name, (_, goal) in NAMED.items()})
    return _SECTION.format(paths=PATHS, steps=STEPS, ratios=ratios)


_SECTION = """## SGD on a Brownian path

Mini-batches that follow Gaussian noise (`mini_batches`: conditional quantiles on a tree), for {paths:,} paths of
{steps} steps, one thread. Floors: drawing the Gaussian weights that the tree starts from, and an Euler–Maruyama step
with its draw.

| compared | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{ratios}
"""
