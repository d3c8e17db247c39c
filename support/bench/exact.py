"""What exact averaged risks cost: a step of the recursion against one product of two d x d matrices, the floor of
anything dense, and against Kronecker.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from support.bench import measure

# name: (d, atoms of the population, pairs); a population of 2d atoms needs two products of d x 2d with 2d x d numbers,
# so 4 is its arithmetic's floor
SIZES = {
    "d = 50, 100 atoms": (50, 100, 200),
    "d = 100, 200 atoms": (100, 200, 100),
    "d = 200, 400 atoms": (200, 400, 40),
}
GAUSSIAN = {
    "d = 50, Gaussian": (50, None, 200),
    "d = 100, Gaussian": (100, None, 200),
    "d = 200, Gaussian": (200, None, 100),
}
GOALS = dict(zip(SIZES, ("≤ 10", "≤ 8", "≤ 8"), strict=True)) | dict(zip(GAUSSIAN, ("≤ 4", "≤ 1", "≤ 1"), strict=True))
KRONECKER = {"d = 16, 32 atoms": (16, 32, 60), "d = 24, 48 atoms": (24, 48, 20), "d = 32, 64 atoms": (32, 64, 4)}
STEPS = 50


def _problem(d: int, atoms: int | None):
    from support.exact.populations import FinitePopulation, GaussianPopulation

    rng = np.random.default_rng(1)
    if atoms is None:
        return GaussianPopulation(np.diag(1 / np.arange(1.0, d + 1)), np.ones(d))
    inputs = rng.standard_normal((atoms, d)) / np.sqrt(np.arange(1, d + 1))
    return FinitePopulation(inputs, inputs.sum(1) + rng.standard_normal(atoms))


def _ours(population, steps: int):
    from support.exact.averaged import lr_limit, risks
    from support.exact.batch_noise import matched

    noise = matched(4)
    lr, start = 0.5 * lr_limit(population, noise), np.zeros(len(population.optimum))
    _ = population.frame
    return lambda: risks(population, noise, lr, start, steps)


def step(name: str) -> dict:
    """Time of STEPS steps / time of STEPS products of two d x d matrices."""
    d, atoms, pairs = (SIZES | GAUSSIAN)[name]
    matrix = np.random.default_rng(2).standard_normal((d, d))

    def floor():
        for _ in range(STEPS):
            matrix @ matrix

    return measure.ratio(_ours(_problem(d, atoms), STEPS), floor, pairs)


def kronecker_map(population, noise, lr: float) -> np.ndarray:
    """The map of the second moment as a dense d² x d² matrix,
    ``(I − ηΣ) ⊗ (I − ηΣ) + η²[p E (x ⊗ x)(x ⊗ x)ᵀ + (j − p) Σ ⊗ Σ]``; made in O(m d⁴).
    """
    sigma, p, j = population.second_moment, float(noise.strength), float(noise.jitter)
    mean = np.eye(len(sigma)) - lr * sigma
    squares = (population.inputs[:, :, None] * population.inputs[:, None, :]).reshape(len(population.inputs), -1)
    spread = (squares.T * population.probabilities) @ squares
    return np.kron(mean, mean) + lr * lr * (p * spread + (j - p) * np.kron(sigma, sigma))


def kronecker(name: str) -> dict:
    """Time of 50 steps of ours / time of the Kronecker route to E δδᵀ after 50 steps: the matrix power in O(d⁶)."""
    from support.exact.averaged import lr_limit
    from support.exact.batch_noise import matched

    d, atoms, pairs = KRONECKER[name]
    population, noise = _problem(d, atoms), matched(4)
    lr = 0.5 * lr_limit(population, noise)
    return measure.ratio(
        _ours(population, STEPS), lambda: np.linalg.matrix_power(kronecker_map(population, noise, lr), STEPS), pairs
    )


ROWS = {
    "exact_step": {name: partial(step, name) for name in SIZES | GAUSSIAN},
    "exact_kronecker": {name: partial(kronecker, name) for name in KRONECKER},
}


def section(final: dict) -> str:
    """The part of the page about exact averaged risks, from the numbers of a record."""
    steps = measure.ratio_rows(SIZES | GAUSSIAN, final["exact_step"], GOALS)
    others = measure.ratio_rows(KRONECKER, final["exact_kronecker"], dict.fromkeys(KRONECKER, "< 1"))
    return _SECTION.format(steps=steps, others=others, count=STEPS)


_SECTION = """## Exact risks of averaged least squares

{count} steps of the second-moment recursion, against as many products of two d × d matrices. A population of 2d atoms
needs two products of twice that size, so 4 is the floor of its arithmetic; with Gaussian inputs the diagonal of the
second moment suffices, and a step is O(d), less than a product as soon as d is large enough to hide the interpreter.

| {count} steps / {count} products of d × d matrices | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{steps}

The same recursion as a matrix of d² × d² numbers, raised to the {count}th power, costs O(d⁶); it gives the last second
moment only.

| {count} steps / Kronecker route | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{others}
"""
