"""What the additive noises cost: a step of GLD-leading and a look at the Hessian, matrix-free and with the dense
matrices of the authors' code.
"""

from __future__ import annotations

from functools import partial

from support.bench import measure

# Zhu et al. (2019), Section 5.3: samples, batch, kept directions
N, B, K = 1200, 20, 20
# samples on which the digits network's Hessian is made dense; rows of the LeNet's dense Hessian that are timed
DIGITS, TIMED = 600, 30
GRAM, DENSE = "Gram matrix of the batch gradients", "dense d × d covariance, `eigsh`"
LANCZOS, WHOLE = "Lanczos on products", "all d products, dense `eigh`"
BY_PRODUCTS, BY_ROWS = "Lanczos on products, LeNet", "row by row, LeNet"


def _network(name: str, n: int):
    import torch

    from support.experiments import models

    torch.manual_seed(1)
    return getattr(models, name)(), *measure.images(n, flat=name == "DigitsNet")


def _dense_pairs(columns):
    """The k leading eigenpairs of the covariance of columns, as the authors' code finds them."""
    from scipy.sparse.linalg import eigsh

    columns = columns.numpy() - columns.numpy().mean(1, keepdims=True)
    return eigsh(columns @ columns.T / (columns.shape[1] - 1), K, which="LM")


def _batch_gradients():
    """The LeNet with its data, SGD's noise in the form of the code, and a generator; what torch loads once is loaded
    before anything is measured.
    """
    import torch

    from support.additive import PartitionNoise

    measure.threads(1)
    generator = torch.Generator().manual_seed(1)
    model, inputs, targets = _network("LeNet", N)
    for _ in range(2):
        PartitionNoise(measure.cross_entropy, inputs[: 2 * B], targets[: 2 * B], B).leading(model, 1, generator)
    return model, inputs, targets, PartitionNoise(measure.cross_entropy, inputs, targets, B), generator


def leading_step(how: str) -> dict:
    """One step of GLD-leading that looks at C, as the code has it: full gradient, gradients of n/b batches, k leading
    eigenpairs, draw.
    """
    import torch

    from support.additive import by_name
    from support.msgd import backward_in_chunks

    model, inputs, targets, sgd, generator = _batch_gradients()
    ones = torch.full((N,), 1 / N)

    def dense(model, generator):
        values, vectors = _dense_pairs(torch.cat(list(sgd.blocks(model, generator)), 1))
        noise = torch.as_tensor(vectors) @ (torch.as_tensor(abs(values)).sqrt() * torch.randn(K, generator=generator))
        for p, piece in zip(model.parameters(), noise.split([p.numel() for p in model.parameters()]), strict=True):
            p.grad += piece.view(p.shape)

    def step():
        model.zero_grad()
        for _ in backward_in_chunks(model, measure.cross_entropy, inputs, targets, ones, 200):
            pass
        (by_name("GLD-leading", sgd, released=True, k=K) if how == GRAM else dense)(model, generator)

    return measure.timed(step, 15 if how == GRAM else 3)


def leading_pairs(how: str) -> dict:
    """The part of that step in which the routes differ: from the batch gradients to the k leading eigenpairs of C."""
    import torch

    model, _, _, sgd, generator = _batch_gradients()
    X = torch.cat(list(sgd.blocks(model, generator)), 1)
    sgd.blocks = lambda *_: [X]  # what is timed finds the gradients there
    return measure.timed(
        (lambda: sgd.leading(model, K, generator)) if how == GRAM else (lambda: _dense_pairs(X)),
        15 if how == GRAM else 3,
    )


def hessian_pairs(how: str) -> dict:
    """The k largest eigenpairs of the digits network's Hessian; their sum stands in the record, so that the two can be
    compared.
    """
    import torch

    from support.curvature import Hessian
    from support.risk import EmpiricalRisk
    from support.spectra import leading

    measure.threads(1)
    model, inputs, targets = _network("DigitsNet", DIGITS)
    Hessian(EmpiricalRisk(model, measure.cross_entropy, (inputs[:20], targets[:20]))) @ torch.ones(2410, 2)
    sums = []

    def work():
        hessian = Hessian(EmpiricalRisk(model, measure.cross_entropy, (inputs, targets)), keep=True)
        pairs = leading(hessian, K) if how == LANCZOS else leading(hessian.dense(), 2410)
        sums.append(float(pairs.values[:K].sum()))

    return measure.timed(work, 7 if how == LANCZOS else 3) | {"sum": sums[-1], "d": 2410}


def hessian_look(how: str) -> dict:
    """A look of GLD-Hessian at the LeNet; the dense Hessian of the authors' code, d products and an `eigsh`, is scaled
    up from the time of some rows.
    """
    import torch

    from support.curvature import Hessian
    from support.risk import EmpiricalRisk
    from support.spectra import leading

    measure.threads(1)
    model, inputs, targets = _network("LeNet", N)
    Hessian(EmpiricalRisk(model, measure.cross_entropy, (inputs[:20], targets[:20]))) @ torch.ones(11_330)

    def look():
        risk = EmpiricalRisk(model, measure.cross_entropy, (inputs, targets), chunk=100)
        return leading(Hessian(risk, keep=True), K, tolerance=0.05)

    def rows():
        hessian = Hessian(EmpiricalRisk(model, measure.cross_entropy, (inputs, targets), chunk=100), keep=True)
        for i in range(TIMED):
            unit = torch.zeros(11_330)
            unit[i] = 1
            hessian @ unit

    found = measure.timed(look if how == BY_PRODUCTS else rows, 3)
    return (
        found
        if how == BY_PRODUCTS
        else found | {"seconds": found["seconds"] * 11_330 / TIMED, "peak_bytes": found["peak_bytes"] + 4 * 11_330**2}
    )


ROWS = {
    "leading_step": {how: partial(leading_step, how) for how in (GRAM, DENSE)},
    "leading_pairs": {how: partial(leading_pairs, how) for how in (GRAM, DENSE)},
    "hessian_pairs": {how: partial(hessian_pairs, how) for how in (LANCZOS, WHOLE)},
    "hessian_look": {how: partial(hessian_look, how) for how in (BY_PRODUCTS, BY_ROWS)},
}


def section(final: dict) -> str:
    """The part of the page about the additive noises, from the numbers of a record."""
    tables = {}
    for kind, named in ROWS.items():
        (first, ours), (second, theirs) = ((how, final[kind][how]) for how in named)
        times, memory = theirs["seconds"] / ours["seconds"], theirs["peak_bytes"] / max(ours["peak_bytes"], 2**20)
        tables[kind] = "\n".join(
            (_line(first, ours, "1", "1"), _line(second, theirs, f"{times:,.1f}", f"{memory:,.1f}"))
        )
    return _SECTION.format(n=N, b=B, k=K, batches=N // B, digits=DIGITS, timed=TIMED, **tables)


def _line(how: str, row: dict, times: str, memory: str) -> str:
    seconds = row["seconds"]
    shown = f"{seconds * 1e3:,.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"
    return f"| {how} | {shown} | {times} | {measure.mebibytes(row['peak_bytes'])} | {memory} |"


_SECTION = """## Additive noises

A step of GLD-leading that looks at C: the LeNet with n = {n}, {batches} batches of {b}, k = {k} directions, one thread.
Both routes compute the full gradient and the batch gradients; the dense one then forms C, d² numbers, as the authors'
code does.

| route | time of a step | ratio | peak memory above the model and data | ratio |
|---|---|---|---|---|
{leading_step}

Most of the first row is gradients, which every route needs. What the routes differ in is the way from the batch
gradients to the k eigenpairs:

| route | time | ratio | peak memory above the gradients | ratio |
|---|---|---|---|---|
{leading_pairs}

A look at the Hessian of the LeNet for GLD-Hessian. The authors' code makes all d rows; {timed} of them are timed here
and the time scaled up, and the matrix that they fill is added to the memory.

| route | time of a look | ratio | peak memory above the model and data | ratio |
|---|---|---|---|---|
{hessian_look}

The {k} largest eigenpairs where the dense matrix is within reach, the digits network (d = 2,410, n = {digits}):

| route | time | ratio | peak memory above the model and data | ratio |
|---|---|---|---|---|
{hessian_pairs}
"""
