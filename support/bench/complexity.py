"""What local complexities cost: the ascent on a network against plain gradients, the count over all signs against its
product.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from support.bench import measure

N, SIGNS, FUNCTIONS = 1000, 20, 10
# name: (draws, steps, pairs); what a draw costs once, such as its certificate, weighs more in a short ascent
ASCENTS = {"10 draws × 5 steps": (10, 5, 5)}
COUNTS = {"all 2²⁰ patterns of 20 signs": 7}
GOALS = dict.fromkeys(ASCENTS, "≤ 1.5") | dict.fromkeys(COUNTS, "≤ 5")
OURS, PLAIN = "100 draws, one step", "a gradient"


def _problem():
    import torch

    from support.experiments.models import LeNet

    measure.threads(1)
    torch.manual_seed(1)
    return LeNet(), *measure.images(N)


def _ascent(problem, draws: int, steps: int):
    import torch

    from support.complexity import local_complexity
    from support.risk import EmpiricalRisk

    model, *data = problem
    risk, generator = EmpiricalRisk(model, measure.cross_entropy, tuple(data)), torch.Generator().manual_seed(1)
    return lambda: local_complexity(risk, "signs", 0.5, draws=draws, steps=steps, restarts=1, generator=generator)


def _gradients(problem, count: int):
    """As many gradients of a weighted loss, the loop of any tutorial."""
    import torch

    model, inputs, targets = problem
    weights = torch.ones(len(inputs)) / len(inputs)

    def work():
        for _ in range(count):
            model.zero_grad(set_to_none=True)
            (weights @ measure.cross_entropy(model(inputs), targets)).backward()

    return work


def ascent(name: str) -> dict:
    """Time of a local complexity / time of one gradient for each draw and step, one thread."""
    (draws, steps, pairs), problem = ASCENTS[name], _problem()
    return measure.ratio(_ascent(problem, draws, steps), _gradients(problem, draws * steps), pairs)


def memory(name: str) -> dict:
    """Peak memory above the model and its data, in bytes; it does not grow with the steps."""
    model, inputs, targets = problem = _problem()
    small = model, inputs[:2], targets[:2]  # loads what torch loads once
    _ascent(small, 2, 1)(), _gradients(small, 1)()
    return {"peak_bytes": measure.peak_above(_ascent(problem, 100, 1) if name == OURS else _gradients(problem, 1))}


def signs(name: str) -> dict:
    """Time of the exact complexity of a class of functions / time of the product of all signs with their losses."""
    from support.exact import complexity, multipliers

    losses = np.random.default_rng(1).standard_normal((FUNCTIONS, SIGNS))
    values = multipliers.signs(SIGNS).values.astype(float)
    return measure.ratio(
        lambda: complexity.given_data(complexity.Finite(losses), multipliers.signs(SIGNS)),
        lambda: values @ losses.T,
        COUNTS[name],
    )


ROWS = {
    "complexity_ascent": {name: partial(ascent, name) for name in ASCENTS},
    "complexity_memory": {name: partial(memory, name) for name in (OURS, PLAIN)},
    "complexity_signs": {name: partial(signs, name) for name in COUNTS},
}


def section(final: dict) -> str:
    """The part of the page about local complexities, from the numbers of a record."""
    held = [f"| {name} | {measure.mebibytes(row['peak_bytes'])} |" for name, row in final["complexity_memory"].items()]
    return _SECTION.format(
        n=N,
        ascents=measure.ratio_rows(ASCENTS, final["complexity_ascent"], GOALS),
        memory="\n".join(held),
        functions=FUNCTIONS,
        signs=measure.ratio_rows(COUNTS, final["complexity_signs"], GOALS),
    )


_SECTION = """## Local complexities

The ascent takes one gradient of the weighted losses for each draw and step, and a draw needs its start and its
certificate besides. LeNet, n = {n}, one thread. A longer ascent, such as 100 draws × 20 steps, costs as many times
more.

| local complexity / a gradient for each draw and step | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{ascents}

| what | peak memory above the model and data |
|---|---|
{memory}

The exact complexity of {functions} functions on 20 samples is a mean over all signs, and its floor their product with
the losses.

| exact complexity / product | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{signs}
"""
