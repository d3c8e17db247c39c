"""What the gradient operators cost: a product with C against a gradient, a dense C by chunks against stored per-sample
gradients.
"""

from __future__ import annotations

from functools import partial

from support.bench import measure

# the product: LeNet on n images; the dense matrix: the digits network on many samples, where stored gradients outweigh
# C
N, B, CHUNK, PAIRS = 1000, 50, 200, 60
MANY = 20_000
PRODUCT = "C·u / gradient"
BY_CHUNKS, STORED = "by chunks of 200", "from stored gradients"


def _gradients(network: str, n: int):
    import torch

    from support.experiments import models
    from support.gradients import GradientMatrix
    from support.risk import EmpiricalRisk

    torch.manual_seed(1)
    data = measure.images(n, flat=network == "DigitsNet")
    return GradientMatrix(EmpiricalRisk(getattr(models, network)(), measure.cross_entropy, data, chunk=CHUNK))


def product() -> dict:
    """Time of C·u over that of a full gradient by the same chunks, one thread."""
    import torch

    from support.sampling import MiniBatch

    measure.threads(1)
    gradients = _gradients("LeNet", N)
    covariance, u, ones = gradients.covariance(MiniBatch(N, B)), torch.randn(gradients.d), torch.full((N,), 1 / N)
    return measure.ratio(lambda: covariance @ u, lambda: gradients @ ones, PAIRS)


def dense(how: str) -> dict:
    """Peak memory of making a dense C, in bytes above the model and its data."""
    from support.sampling import MiniBatch

    measure.threads(1)
    _gradients("DigitsNet", 4).covariance(MiniBatch(4, 2)).dense()
    gradients = _gradients("DigitsNet", MANY)
    law = MiniBatch(MANY, B)

    def stored():
        matrix = gradients.dense()
        centred = matrix - matrix.mean(1, keepdim=True)
        return float(law.covariance.a) * centred @ centred.T

    return {
        "peak_bytes": measure.peak_above(gradients.covariance(law).dense if how == BY_CHUNKS else stored),
        "d": gradients.d,
    }


ROWS = {
    "gradient_product": {PRODUCT: product},
    "gradient_dense": {how: partial(dense, how) for how in (BY_CHUNKS, STORED)},
}


def section(final: dict) -> str:
    """The part of the page about the gradient operators, from the numbers of a record."""
    d = final["gradient_dense"][BY_CHUNKS]["d"]
    memory = [f"| {how} | {measure.mebibytes(row['peak_bytes'])} |" for how, row in final["gradient_dense"].items()]
    ratios = measure.ratio_rows({PRODUCT: product}, final["gradient_product"], {PRODUCT: "≤ 5"})
    return _SECTION.format(n=N, many=MANY, d=d, ratios=ratios, memory="\n".join(memory), c=measure.mebibytes(4 * d * d))


_SECTION = """## The gradient covariance

A product with C costs one forward-mode and one backward pass, and stores no per-sample gradient (LeNet, n = {n}, one
thread).

| compared | ratio of times | quartiles | goal | medians |
|---|---|---|---|---|
{ratios}

A dense C of the digits network (d = {d:,}, n = {many:,}; C itself takes {c}):

| how | peak memory above the model and data |
|---|---|
{memory}
"""
