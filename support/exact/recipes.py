r"""The zoo of noise classes from one recipe, and every moment of theirs by counting, in fractions.

A second way to what `support.sampling` says, on purpose: there a law states its covariance and draws; here it is only a
recipe, whose moments are counted over all picks (`counted`, `moments`). Neither takes a covariance from the other, and
pages and tests hold them against each other.

Ten laws of `support.sampling`, one recipe: pick slots, give each the same weight, add noise to it, centre the noise or
not.

    W_i = floor + Σ_{slots r that hold i} ( slot + σ ε_r  [ − σ mean(ε) ] )

Given the picked slots, ``Σ g_i W_i`` is Gaussian; with signs for noise it is not, and has a fourth cumulant besides.
There are finitely many picks, so moments are finite sums.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from support.errors import Refused, WrongType, integer
from support.sampling import (
    Bernoulli,
    Compensated,
    FullBatch,
    GaussianCovariance,
    GaussianFisher,
    Law,
    MiniBatch,
    Rademacher,
    SparseCovariance,
    SparseFisher,
    by_name,
)
from support.sampling.law import checked

# the left column of the zoo has weights that sum to one, the right column their counterparts that do not
ZOO = (
    ("SGD", "MSGD-Bernoulli"),
    ("MSGD-Cov", "MSGD-Fisher"),
    ("MSGD-[Cov-B]", "MSGD-[Fisher-B]"),
    ("[MSGD-Cov]-B", "[MSGD-Fisher]-B"),
    ("GD", "M-SGD-Rademacher"),
)
NAMES = tuple(pair[column] for column in (0, 1) for pair in ZOO)
AGREEMENTS = ("whole matrix", "all but the sum", "diagonal only", "nothing")


@dataclass(frozen=True)
class Recipe:
    """How a law makes its weights, in fractions.

    floor: weight of every sample before anything is picked.  pick: the slots are "all" samples, a "subset", "draws"
    with replacement, or "coins" (every sample with probability size/n).  size: number of slots (for coins, the expected
    one).  slot, variance: mean and variance of the weight that a slot adds. noise: "none", "gauss" or "signs".
    centred: whether the mean of the slots' noise is subtracted.

    >>> batch = Recipe(2, floor=Fraction(0), pick="draws", size=2, slot=Fraction(1, 2))  # SGD, n = b = 2
    >>> [(str(probability), counts) for probability, counts in batch.picks()]
    [('1/4', (2, 0)), ('1/2', (1, 1)), ('1/4', (0, 2))]
    """

    n: int
    floor: Fraction
    pick: str
    size: int
    slot: Fraction = Fraction(0)
    variance: Fraction = Fraction(0)
    noise: str = "none"
    centred: bool = False

    def picks(self) -> Iterator[tuple[Fraction, tuple[int, ...]]]:
        """Every pick as (probability, number of slots of each sample): 1, C(n, size), C(n + size − 1, size) or 2^n of
        them.
        """
        n, size = self.n, self.size
        if self.pick == "all":
            yield Fraction(1), (1,) * n
        elif self.pick == "coins":
            p = Fraction(size, n)
            for on in itertools.product((0, 1), repeat=n):
                yield p ** sum(on) * (1 - p) ** (n - sum(on)), on
        elif self.pick == "subset":
            for chosen in itertools.combinations(range(n), size):
                yield Fraction(1, math.comb(n, size)), tuple(int(i in chosen) for i in range(n))
        else:
            for drawn in itertools.combinations_with_replacement(range(n), size):
                counts = tuple(drawn.count(i) for i in range(n))
                yield Fraction(math.factorial(size), n**size * math.prod(map(math.factorial, counts))), counts


def recipe(law: Law) -> Recipe:
    """The recipe of one of the ten laws. Raises WrongType for anything else.

    >>> recipe(MiniBatch(n=4, b=2)).pick
    'draws'
    """
    n, b, mean = checked(law).n, law.b, law.mean
    drawn = "draws" if law.replace else "subset"
    match law:
        case MiniBatch():
            return Recipe(n, Fraction(0), drawn, b, slot=Fraction(1, b))
        case Bernoulli():
            return Recipe(n, Fraction(0), "coins", b, slot=Fraction(1, b))
        case FullBatch():
            return Recipe(n, mean, "all", n)
        case Compensated():
            return Recipe(
                n,
                Fraction(0),
                drawn,
                law.B,
                Fraction(1, law.B),
                Fraction(law.tau_squared),
                "gauss",
                law.kind == "covariance",
            )
        case SparseFisher():
            return Recipe(n, mean, "subset", law.B, variance=Fraction(1, b * law.B), noise="gauss")
        case SparseCovariance():
            return Recipe(
                n,
                mean,
                "subset",
                law.B,
                variance=law.sgd_covariance.a * Fraction(n - 1, law.B - 1),
                noise="gauss",
                centred=True,
            )
        case GaussianCovariance():
            return Recipe(n, mean, "all", n, variance=law.sgd_covariance.a, noise="gauss", centred=True)
        case GaussianFisher() | Rademacher():
            return Recipe(
                n,
                mean,
                "all",
                n,
                variance=Fraction(1, b * n),
                noise="signs" if isinstance(law, Rademacher) else "gauss",
            )
    raise WrongType(f"{type(law).__name__} has no recipe here: use one of {', '.join(NAMES)}")


def menagerie(n: int, b: int, B: int, *, replace: bool = True) -> dict[str, Law]:
    """The ten laws by their names, in the order of `NAMES`, with B in place of the letter.

    >>> list(menagerie(6, 2, 4))[:3]
    ['SGD', 'MSGD-Cov', 'MSGD-[Cov-4]']
    """
    B = integer("B", B, 1)
    named = [name.replace("-B]", f"-{B}]").replace("]-B", f"]-{B}") for name in NAMES]
    return {name: by_name(name, n, b, replace=replace) for name in named}


def agreement(law: Law) -> str:
    """What the covariance of a law shares with that of SGD.

    "whole matrix"; "all but the sum": equal in every direction whose entries sum to zero; "diagonal only"; or
    "nothing".

    >>> agreement(GaussianFisher(n=4, b=2))
    'all but the sum'
    """
    ours, sgd = checked(law).covariance, law.sgd_covariance
    if ours == sgd:
        return "whole matrix"
    if ours.a == sgd.a:
        return "all but the sum"
    return "diagonal only" if ours.diagonal == sgd.diagonal else "nothing"


def parts(law: Law, g) -> Iterator[tuple]:
    """``Σ g_i V_i`` given the picked slots: (probability, mean, variance) of a Gaussian for every pick.

    Fractions for g of fractions or integers, n of them; V = W − 1/n. Where the noise is signs it is no Gaussian, and
    its fourth cumulant stands besides: that of a sign times c is −2c⁴, and those of independent signs add.
    Raises Refused for g of another length.

    >>> [tuple(map(str, part)) for part in parts(MiniBatch(n=2, b=1), [1, 0])]
    [('1/2', '1/2', '0'), ('1/2', '-1/2', '0')]
    """
    r, g = recipe(law), np.array(g, dtype=object)
    if g.shape != (law.n,):
        raise Refused(f"g has shape {g.shape}: give one number for each of the n = {law.n} samples")
    for p, counts in r.picks():
        slots = np.array(counts)
        total = slots @ g
        # what the noise of a slot is multiplied by
        factors = g - total * Fraction(1, r.size) if r.centred else g
        fourth = (-2 * r.variance**2 * (slots @ factors**4),) if r.noise == "signs" else ()
        mean = r.floor * g.sum() + r.slot * total - g.sum() * law.mean
        yield p, mean, r.variance * (slots @ factors**2), *fourth


def moments(parts: Iterable[tuple]) -> tuple:
    """First to fourth moment of a mixture of Gaussians (probability, mean, variance), or of what else `parts` gives.

    >>> moments([(1, 0, 2)])  # N(0, 2)
    (0, 2, 0, 12)
    """
    first = second = third = fourth = 0
    for p, m, s, *cumulant in parts:
        first += p * m
        second += p * (m**2 + s)
        third += p * (m**3 + 3 * m * s)
        fourth += p * (m**4 + 6 * m**2 * s + 3 * s**2 + sum(cumulant))
    return first, second, third, fourth


def kurtosis(moments: tuple):
    """Fourth moment over the square of the second, for a law of mean zero: 3 for a Gaussian. Raises Refused where the
    law has no variance.

    >>> kurtosis(moments(parts(Rademacher(n=6, b=2), [1, 0, 0, 0, 0, 0])))  # a sign has 1
    Fraction(1, 1)
    """
    if not moments[1] > 0:
        raise Refused(f"a law of variance {moments[1]} has no kurtosis: give one that varies")
    return moments[3] / moments[1] ** 2


def counted(law: Law) -> tuple[Fraction, Fraction, Fraction]:
    """Diagonal, off-diagonal and total variance of the weights, counted over all picks instead of taken from
    `Law.covariance`.

    >>> [str(number) for number in counted(MiniBatch(n=4, b=2))]
    ['3/32', '-1/32', '0']
    """
    first, both, ones = [1] + [0] * (checked(law).n - 1), [1, 1] + [0] * (law.n - 2), [1] * law.n
    one, two, total = (moments(parts(law, g))[1] for g in (first, both, ones))
    return one, (two - 2 * one) / 2, total


class _Units(np.random.Generator):
    """White noise that is none: the unit vectors in turn, then zero."""

    def standard_normal(self, size=None):
        return np.eye(*size)


def affine(law: Law) -> tuple[np.ndarray, np.ndarray]:
    """The vector w, shape (n,), and the matrix A, shape (n, n), of a law that draws ``W = w + A ε`` with ε white.

    Read off its sampler, to which the unit vectors are handed in place of the noise: w is the mean and AAᵀ the
    covariance of what is drawn, whatever the law says of itself. Raises WrongType for a law that is not Gaussian.

    >>> w, A = affine(GaussianFisher(n=4, b=1))
    >>> w, A[0]
    (array([0.25, 0.25, 0.25, 0.25]), array([0.5, 0. , 0. , 0. ]))
    """
    if not isinstance(checked(law), (GaussianCovariance, GaussianFisher)):
        raise WrongType(f"{law.name} is not affine in white noise: give GaussianCovariance or GaussianFisher")
    *moved, start = law.sample(law.n + 1, _Units(np.random.PCG64()))
    return start, (np.array(moved) - start).T
