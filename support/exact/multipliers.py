r"""Random multipliers V of N losses, counted out, and the exact constants that relate their complexities.

With `R` as in `support.exact.complexity`, for every class of losses, every θ and δ (A signs, G Gaussian, V_sgd SGD):

    c R(A, N) ≤ R(G, N) ≤ E max|g_i| R(A, N)        c = √(2/π), E max|g_i| ≤ √(2 ln 2N)
    R(V_sgd, N) ≤ 2(k−1)/k R(A, b)                  N = kb, batches drawn without replacement, iid data

The first is Jensen's inequality on |g_i|, and meets equality where the losses follow every pattern of signs. The second
is the contraction of the |g_i| to their maximum, and meets equality for the N losses e_i that see one sample each. Both
hold without the absolute value too. The third is ``mean_B − mean_N = (1 − 1/k)(mean_B − mean_{B^c})``; B^c is the mean
of k − 1 batches (Jensen); then signs for the pairs of two batches. It holds for given data too, R(A, b) averaged over
the sets of b, and meets equality for a rare spike, a loss that is 1/p with probability p and else 0, in the limit
p → 0, where ``R(V) → E|v_1|`` (`Multipliers.size`). With replacement it fails: by (1 − 1/N)^b/(1 − 1/k) for the spike,
and by (E max c_i/b − 1/N)/(2(1 − 1/k)/b) for the losses e_i (`expected_fullest`), which grows with b without bound;
and it is never less than without (Hoeffding 1963, Theorem 4). There is no bound from below: equal losses have
R(V_sgd) = 0. Source: Wu's talk, Theorem 1, with the best constants.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from support.errors import Refused, array, boolean, integer

LIMIT = 2**20  # values of V that are enumerated at most
FLOOR = math.sqrt(2 / math.pi)  # c, the largest with c R(A) ≤ R(G)
LOGARITHM = 2 / (math.sqrt(math.pi) * math.log(2))  # C, the least with R(G) ≤ C ln N R(A) for N ≥ 2, reached at N = 2


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Finitely many values of V, (m, N), and their probabilities, (m,); equal if left out.

    Raises WrongType, NotFinite, Refused for shapes that do not fit or probabilities that are negative or do not sum to
    one.

    >>> Multipliers([[1.0, -1.0], [-1.0, 1.0]]).n
    2
    """

    values: Any
    probabilities: Any = None

    def __post_init__(self):
        small = isinstance(self.values, np.ndarray) and self.values.dtype == np.int8
        values = self.values if small else array("values", self.values, ("m", "N"))
        if not values.size:
            raise Refused(f"values of shape {values.shape}: give at least one value of V, for at least one sample")
        given = np.full(len(values), 1 / len(values)) if self.probabilities is None else self.probabilities
        given = shares(given, len(values))
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "probabilities", given)

    @property
    def n(self) -> int:
        """N, the number of samples."""
        return self.values.shape[1]

    @property
    def size(self) -> float:
        """``E (1/N) Σ|v_i|``: the complexity of a rare spike."""
        return float(self.probabilities @ abs(self.values.astype(float)).mean(1))


@dataclass(frozen=True)
class Gaussian:
    """N independent standard normal multipliers, G.

    >>> Gaussian(3).size == FLOOR
    True
    """

    n: int

    def __post_init__(self):
        object.__setattr__(self, "n", integer("n", self.n, 1))

    @property
    def size(self) -> float:
        """``E|g_1| = √(2/π)``: the complexity of a rare spike."""
        return FLOOR


def signs(n: int) -> Multipliers:
    """All 2^N patterns of N independent fair signs, A. Raises WrongType, Refused for N above 20.

    >>> signs(2).values
    array([[-1, -1],
           [ 1, -1],
           [-1,  1],
           [ 1,  1]], dtype=int8)
    """
    n = integer("n", n, 1)
    if n > 20:
        many = f"2^{n} = {2**n:,}" if n <= 64 else f"2^{n}"
        raise Refused(f"N = {n} has {many} patterns of signs: give N ≤ 20, or draws of V, (draws, N)")
    bits = np.arange(2**n, dtype="<u4").view(np.uint8).reshape(-1, 4)
    patterns = np.unpackbits(bits, axis=1, count=n, bitorder="little").astype(np.int8)
    return Multipliers(2 * patterns - 1)


def batches(n: int, b: int, replace: bool = True) -> Multipliers:
    """The multipliers ``v_i = c_i n/b − 1`` of SGD, V_sgd = n(W − 1/n), for every batch of b of the n samples: sample i
    is in it c_i times. With replacement, the C(n+b−1, b) multisets, with their probabilities; without, the C(n, b)
    sets. Raises WrongType, Refused for too many.

    >>> batches(4, 2, replace=False).values[0], batches(4, 2).size
    (array([ 1.,  1., -1., -1.]), 1.125)
    """
    n, replace = integer("n", n, 1), boolean("replace", replace)
    b = integer("b", b, 1, None if replace else n, f"without replacement a batch holds between 1 and n = {n} samples")
    count, words = combinations(n + b - 1, b) if replace else combinations(n, b)
    if count * max(n, b) > 32 * LIMIT:
        raise Refused(f"n = {n}, b = {b} have {words} batches: give fewer samples, or draws of V, (draws, n)")
    choose = itertools.combinations_with_replacement if replace else itertools.combinations
    drawn = np.fromiter(itertools.chain.from_iterable(choose(range(n), b)), np.int64, count * b).reshape(count, b)
    counts = np.zeros((count, n))
    np.add.at(counts, (np.arange(count)[:, None], drawn), 1)
    weights = multinomial(counts) * float(n) ** -b if replace else np.full(count, 1 / count)
    return Multipliers(counts * n / b - 1, weights / weights.sum())


def combinations(n: int, k: int) -> tuple[float, str]:
    """``C(n, k)``, as a number and in words; one that is surely above 10^15 is ∞, for it may take minutes to count:
    ``C(n, k) ≥ (n/k)^k``. Raises WrongType, Refused for k above n.

    >>> combinations(30, 15), combinations(10_000, 5_000)
    ((155117520, '155,117,520'), (inf, 'more than 10^1505'))
    """
    n = integer("n", n, 0)
    k = integer("k", k, 0, n)
    k = min(k, n - k)
    power = int(k * (math.log10(n) - math.log10(k))) if k else 0
    if power > 15:
        return math.inf, f"more than 10^{power}"
    return (count := math.comb(n, k)), f"{count:,}"


def shares(probabilities, count: int) -> np.ndarray:
    """Probabilities of so many values, (count,). Raises WrongType, NotFinite, Refused for negative ones or another sum
    than one.

    >>> shares([0.5, 0.5], 2)
    array([0.5, 0.5])
    """
    found = array("probabilities", probabilities, (integer("count", count, 1),))
    if (found < 0).any():
        raise Refused(f"the least of the probabilities is {found.min():g}: give {count} numbers ≥ 0 with sum 1")
    if abs(found.sum() - 1) > 1e-9:
        raise Refused(f"the probabilities sum to {found.sum():g}: give {count} numbers ≥ 0 with sum 1")
    return found


def multinomial(counts) -> np.ndarray:
    """``(Σ c)!/Π c!`` of each row of counts, (m, k), as (m,): in how many orders a multiset can be drawn. Raises
    WrongType, Refused for what are no counts.

    >>> multinomial([[2, 0, 1]])
    array([3.])
    """
    from scipy.special import gammaln

    counts = array("counts", counts, ("m", "k"))
    if ((counts < 0) | (counts % 1 != 0)).any():
        raise Refused("counts hold numbers that are no counts: give whole numbers ≥ 0")
    return np.exp(gammaln(counts.sum(1) + 1) - gammaln(counts + 1).sum(1))


def expected_maximum(n: int) -> float:
    """``E max|g_i|`` of N standard normal numbers, ``∫ (1 − (2Φ(x) − 1)^N) dx``: the least factor of R(A) above R(G).

    >>> [round(expected_maximum(n), 4) for n in (1, 2, 100, 1_000_000)]
    [0.7979, 1.1284, 2.747, 4.9986]
    """
    from scipy.integrate import quad
    from scipy.special import erfc

    n = integer("n", n, 1, 10**300)

    def above(x):  # 1 − P(all |g_i| ≤ x), precise where it is small
        tail = erfc(x / math.sqrt(2))
        return -math.expm1(n * math.log1p(-tail)) if tail < 1 else 1.0

    middle = ceiling(n)
    cuts = (0.0, middle / 2, middle, middle + 2, middle + 8)
    return sum(quad(above, *ends, epsabs=1e-14, epsrel=1e-13)[0] for ends in itertools.pairwise(cuts))


def ceiling(n: int) -> float:
    """``√(2 ln 2N)``, above `expected_maximum` for every N ≥ 1.

    >>> round(ceiling(100), 3)
    3.255
    """
    return math.sqrt(2 * math.log(2 * integer("n", n, 1)))


def sgd_factor(n: int, b: int) -> Fraction:
    """``2(k−1)/k`` with N = kb: R(V_sgd, N) is at most so many times R(A, b), for batches drawn without replacement.

    Raises WrongType, Refused where k = N/b is no integer above 1.

    >>> sgd_factor(12, 4)
    Fraction(4, 3)
    """
    n, b = integer("n", n, 1), integer("b", b, 1)
    k = Fraction(n, b)
    if k.denominator > 1 or k < 2:
        raise Refused(f"k = n/b = {n}/{b} is no integer above 1: give n a multiple of b, at least {2 * b}")
    return 2 * (k - 1) / k


def expected_fullest(n: int, b: int) -> float:
    """``E max c_i``, c_i how often sample i is among b draws with replacement from n: by counting.

    The losses e_i that see one sample each have ``R(V_sgd, n) = E max c_i/b − 1/n`` for n ≥ 2b, against R(A, b) = 1/b.

    >>> round(expected_fullest(4, 2), 12)
    1.25
    """
    from scipy.special import gammaln

    n, b = integer("n", n, 1), integer("b", b, 1, 1000)
    # b!/b^b times the coefficient of x^b in (Σ (bx/n)^c/c!)^n, c up to the most; x is scaled by e to stay within floats
    at = np.arange(b + 1)
    terms = np.exp(at * (math.log(b) - math.log(n) - 1) - gammaln(at + 1))
    scale = math.exp(gammaln(b + 1) - b * (math.log(b) - 1))
    expected = 0.0
    for most in range(b):
        above = 1 - scale * _power(np.where(at <= most, terms, 0.0), n)[b]  # P(max c_i > most)
        expected += above
        if above < 1e-13:  # as for all that follow
            break
    return float(expected)


def _power(polynomial, exponent: int) -> np.ndarray:
    """A power of a polynomial with coefficients ≥ 0, up to its own degree, by squaring."""
    found, size = np.eye(1, len(polynomial))[0], len(polynomial)
    for digit in f"{exponent:b}":
        found = np.convolve(found, found)[:size]
        found = np.convolve(found, polynomial)[:size] if digit == "1" else found
    return found
