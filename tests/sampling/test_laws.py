"""Laws of the sampling vector: exact moments by enumeration in rationals, sampled moments at a stated error rate."""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy import stats

from support import sampling
from support.sampling import (
    NAMES,
    Bernoulli,
    Compensated,
    Exchangeable,
    FullBatch,
    GaussianCovariance,
    GaussianFisher,
    Law,
    MiniBatch,
    Rademacher,
    SparseCovariance,
    SparseFisher,
    by_name,
    sgd_scale,
)

# chance that a right sampler fails one moment test; every test states how many comparisons share it
ALPHA = 1e-6


def moments(atoms):
    """Mean and covariance of a finite law, from its atoms, in rationals."""
    atoms = list(atoms)
    n = len(atoms[0][1])
    assert sum(p for p, _ in atoms) == 1
    mean = [sum(p * w[i] for p, w in atoms) for i in range(n)]
    second = [[sum(p * w[i] * w[j] for p, w in atoms) for j in range(n)] for i in range(n)]
    return mean, np.array([[second[i][j] - mean[i] * mean[j] for j in range(n)] for i in range(n)], dtype=object)


def small_cases():
    return [(n, b) for n in range(2, 6) for b in range(1, n + 1)] + [(7, 3)]


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(("n", "b"), small_cases())
def test_minibatch_moments_by_enumeration(n, b, replace):
    law = MiniBatch(n, b, replace=replace)
    mean, covariance = moments(law.atoms())
    assert mean == [law.mean] * n
    assert (covariance == law.covariance.dense(exact=True)).all()


@pytest.mark.parametrize(("n", "b"), small_cases())
def test_bernoulli_moments_by_enumeration(n, b):
    law = Bernoulli(n, b)
    mean, covariance = moments(law.atoms())
    assert mean == [law.mean] * n
    assert (covariance == law.covariance.dense(exact=True)).all()


@pytest.mark.parametrize(("n", "b"), [(2, 2), (4, 1), (4, 4), (8, 2)])
def test_rademacher_moments_by_enumeration(n, b):
    law = Rademacher(n, b)
    mean, covariance = moments(law.atoms())
    assert mean == [law.mean] * n
    assert (covariance == law.covariance.dense(exact=True)).all()


def test_full_batch_is_the_mean():
    mean, covariance = moments(FullBatch(4, 2).atoms())
    assert mean == [Fraction(1, 4)] * 4
    assert not covariance.any()


def test_printed_numbers_of_proposition_1():
    with_, without = MiniBatch(7, 3).covariance, MiniBatch(7, 3, replace=False).covariance
    assert (with_.diagonal, with_.off_diagonal) == (Fraction(2, 49), Fraction(-1, 147))
    assert (without.diagonal, without.off_diagonal) == (Fraction(4, 147), Fraction(-2, 441))
    assert MiniBatch(7, 7, replace=False).covariance.diagonal == 0


def conditional_noise(n, slots, block):
    """Covariance in R^n of noise on the given slots (sample indices) with covariance ``block`` between slots."""
    out = [[Fraction(0)] * n for _ in range(n)]
    for (r, i), (s, j) in product(enumerate(slots), repeat=2):
        out[i][j] += block[r][s]
    return np.array(out, dtype=object)


def centring(B, variance):
    return [[variance * ((r == s) - Fraction(1, B)) for s in range(B)] for r in range(B)]


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(("n", "b", "B"), [(5, 2, 3), (5, 2, 5), (4, 3, 2), (6, 1, 4)])
def test_sparse_covariances_by_enumerating_subsets(n, b, B, replace):
    subsets = list(combinations(range(n), B))
    fisher = SparseFisher(n, b, B, replace=replace)
    white = [[Fraction(int(r == s), b * B) for s in range(B)] for r in range(B)]
    assert (
        sum(conditional_noise(n, S, white) for S in subsets) / Fraction(len(subsets))
        == fisher.covariance.dense(exact=True)
    ).all()
    cov = SparseCovariance(n, b, B, replace=replace)
    block = centring(B, sgd_scale(n, b, replace) * Fraction(n - 1, B - 1))
    assert (
        sum(conditional_noise(n, S, block) for S in subsets) / Fraction(len(subsets))
        == cov.covariance.dense(exact=True)
    ).all()
    assert cov.covariance == MiniBatch(n, b, replace=replace).covariance


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("kind", ["covariance", "fisher"])
@pytest.mark.parametrize("scale", [None, Fraction(1, 10), Fraction(0)])
@pytest.mark.parametrize(("n", "b", "B"), [(4, 2, 3), (5, 1, 2), (4, 1, 4), (5, 3, 3)])
def test_compensated_covariance_by_enumerating_batches(n, b, B, kind, scale, replace):
    law = Compensated(n, b, B, kind, scale, replace=replace)
    batches = list(product(range(n), repeat=B) if replace else combinations(range(n), B))
    tau2 = law.tau_squared
    block = centring(B, tau2) if kind == "covariance" else [[tau2 * (r == s) for s in range(B)] for r in range(B)]
    noise = sum(conditional_noise(n, batch, block) for batch in batches) / Fraction(len(batches))
    _, base = moments(MiniBatch(n, B, replace=replace).atoms())
    assert (base + noise == law.covariance.dense(exact=True)).all()


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(("n", "b", "B"), [(7, 3, 5), (1000, 50, 1000), (10, 4, 4), (9, 1, 2)])
def test_algorithm_2_matches_the_small_batch_exactly(n, b, B, replace):
    target = MiniBatch(n, b, replace=replace).covariance
    assert Compensated(n, b, B, "covariance", replace=replace).covariance == target
    fisher = Compensated(n, b, B, "fisher", replace=replace).covariance
    assert fisher.a == target.a  # equal to K on vectors that sum to zero
    left_over = n * B * Compensated(n, b, B, "fisher", replace=replace).tau_squared / n
    assert fisher.total_variance == left_over  # the learning-rate jitter
    if replace:
        assert fisher.total_variance == Fraction(1, b) - Fraction(1, B)


def every_law(n=6, b=2, B=4):
    for replace in (True, False):
        yield from (
            law(n, b, replace=replace)
            for law in (MiniBatch, FullBatch, GaussianCovariance, GaussianFisher, Rademacher, Bernoulli)
        )
        yield from (law(n, b, B, replace=replace) for law in (SparseFisher, SparseCovariance))
        yield from (Compensated(n, b, B, kind, replace=replace) for kind in ("covariance", "fisher"))


@pytest.mark.parametrize(
    "make", [lambda: np.random.default_rng(7), lambda: torch.Generator().manual_seed(7)], ids=["numpy", "torch"]
)
@pytest.mark.parametrize("law", list(every_law()), ids=lambda law: f"{type(law).__name__}-{law.replace}")
def test_sampled_moments(law, make):
    """Mean and every product of two weights within a normal interval; two-sided level ALPHA over all n + n² comparisons
    of one law.
    """
    draws = np.asarray(law.sample(40_000, make()), dtype=float)
    assert draws.shape == (40_000, law.n)
    noise = draws - float(law.mean)
    quantile = stats.norm.ppf(1 - ALPHA / (2 * (law.n + law.n**2)))
    for values, truth in [(noise, np.zeros(law.n)), (np.einsum("si,sj->sij", noise, noise), law.covariance.dense())]:
        error = quantile * values.std(0) / math.sqrt(len(draws)) + 1e-7
        assert (np.abs(values.mean(0) - truth) <= error).all()


@pytest.mark.parametrize("law", list(every_law()), ids=lambda law: f"{type(law).__name__}-{law.replace}")
def test_numpy_and_torch_draw_the_same_law(law):
    """Two-sample Kolmogorov-Smirnov test of one weight, level ALPHA (for laws with atoms the test is conservative)."""
    ours = law.sample(20_000, np.random.default_rng(3))[:, 0]
    theirs = law.sample(20_000, torch.Generator().manual_seed(3))[:, 0].numpy()
    assert stats.ks_2samp(np.round(ours, 5), np.round(theirs.astype(float), 5)).pvalue >= ALPHA


def test_a_seed_fixes_the_draw_and_size_none_is_one_vector():
    law = by_name("[MSGD-Fisher]-4", 6, 2)
    first, again = (law.sample(3, np.random.default_rng(5)) for _ in range(2))
    assert (first == again).all()
    assert law.sample(None, torch.Generator().manual_seed(1)).shape == (6,)
    assert law.sample(2, np.random.default_rng(0)).dtype == np.float64


def test_weights_of_sgd_and_centred_laws_sum_to_one():
    for law in (
        MiniBatch(50, 7),
        MiniBatch(50, 7, replace=False),
        GaussianCovariance(50, 7),
        SparseCovariance(50, 7, 9),
        Compensated(50, 7, 9),
    ):
        assert law.covariance.total_variance == 0
        np.testing.assert_allclose(law.sample(20, np.random.default_rng(0)).sum(1), 1, atol=1e-12)


def test_sparse_laws_touch_only_their_batch():
    rng = np.random.default_rng(1)
    assert ((SparseFisher(30, 2, 5).sample(50, rng) != 1 / 30).sum(1) == 5).all()
    assert ((MiniBatch(30, 4, replace=False).sample(50, rng) > 0).sum(1) == 4).all()
    for law in every_law():
        assert law.sparse == bool((law.sample(200, rng) == 0).any())


def test_counts_of_numpy_do_not_overflow():
    law = Bernoulli(np.int32(60_000), np.uint8(50))
    assert law == Bernoulli(60_000, 50)
    assert law.covariance == Bernoulli(60_000, 50).covariance
    assert SparseFisher(300, np.uint8(20), np.uint8(200)).covariance.a == Fraction(1, 6000)


def test_no_draws_are_an_empty_array():
    for law in every_law():
        assert law.sample(0, np.random.default_rng(0)).shape == law.sample(0, torch.Generator()).shape == (0, 6)


def test_scales_of_the_authors_weights():
    """The standard deviations of n·W that match SGD(b) without replacement, computed by hand for the settings of the
    paper.
    """
    assert math.sqrt(1000**2 * GaussianFisher(1000, 20).covariance.a) == pytest.approx(7.0711, abs=5e-5)
    assert math.sqrt(1000**2 * GaussianCovariance(1000, 20, replace=False).covariance.a) == pytest.approx(
        7.0035, abs=5e-5
    )
    assert math.sqrt(1000**2 * GaussianCovariance(1000, 50, replace=False).covariance.a) == pytest.approx(
        4.3611, abs=5e-5
    )
    assert math.sqrt(50_000**2 * GaussianCovariance(50_000, 100, replace=False).covariance.a) == pytest.approx(
        22.3385, abs=5e-5
    )


def test_by_name_understands_the_papers_names():
    for name in NAMES:
        law = by_name(name.replace("B]", "10]").replace("]-B", "]-100"), n=1000, b=50)
        assert law.name == name
        assert law.citation
    assert by_name("msgd-[cov-10]", 1000, 50).B == 10
    assert by_name(" [MSGD-Cov]-200", 1000, 50, replace=False) == Compensated(1000, 50, 200, replace=False)


@dataclass(frozen=True)
class HalfSigns(Law):
    """A law of one's own: ``W = (1 ± 1/2)/n`` with fair signs, covariance I/(4n²)."""

    name = "half signs"
    citation = "this test"

    @property
    def covariance(self):
        return Exchangeable(self.n, Fraction(1, 4 * self.n**2), Fraction(0))

    def _draw(self, size, random):
        return (1 + random.signs((size, self.n)) / 2) / self.n


def test_a_law_of_ones_own_is_a_class_and_a_line(monkeypatch):
    monkeypatch.setitem(sampling._LAWS, "half signs", HalfSigns)
    law = by_name("Half signs", 4, 2)
    for generator in (np.random.default_rng(0), torch.Generator().manual_seed(0)):
        draws = np.asarray(law.sample(50, generator), dtype=float)
        assert set(np.unique(draws)) == {1 / 8, 3 / 8}
    assert float(((draws - 1 / 4) ** 2).mean()) == float(law.covariance.diagonal) == 1 / 64
    assert 0.5 <= float(law.weigh(torch.ones(4), torch.Generator())) <= 1.5
