"""Laws of the sampling vector: exact moments by enumeration in rationals, sampled moments at a stated error rate, bad
input.
"""

import math
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy import stats

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


# --- the weighted loss


def weighed(law, generator, count=None):
    """The weights that `weigh` drew, as the gradient with respect to losses of 0."""
    losses = torch.zeros(count or law.slots, dtype=torch.float64, requires_grad=True)
    law.weigh(losses, generator).backward()
    return losses.grad


@pytest.mark.parametrize("law", [law for law in every_law() if not isinstance(law, Compensated)], ids=str)
def test_a_law_on_all_samples_weighs_by_its_sampling_vector(law):
    expected = law.sample(None, torch.Generator().manual_seed(3))
    losses = torch.tensor([3.0, -1.0, 4.0, 1.0, -5.0, 9.0])
    assert law.weigh(losses, torch.Generator().manual_seed(3)).item() == pytest.approx(
        sum(w * x for w, x in zip(expected.tolist(), losses.tolist(), strict=True)), rel=1e-6
    )
    assert torch.equal(weighed(law, torch.Generator().manual_seed(3)), expected.double())


@pytest.mark.parametrize("kind", ["covariance", "fisher"])
def test_the_weights_of_a_loaders_batch_have_the_variance_of_algorithm_2(kind):
    """Mean 1/B and τ², less what centring takes, by normal intervals of level ALPHA over B means and B variances."""
    law, generator = Compensated(50, 2, 5, kind), torch.Generator().manual_seed(1)
    draws = torch.stack([weighed(law, generator) for _ in range(4000)]).numpy() - 1 / 5
    truth = (5 - 2) / (2 * 5 * (4 if kind == "covariance" else 5)) * (1 - 1 / 5 if kind == "covariance" else 1)
    quantile = stats.norm.ppf(1 - ALPHA / 20)
    assert (np.abs(draws.mean(0)) <= quantile * math.sqrt(truth / len(draws))).all()
    assert (np.abs(draws.var(0) / truth - 1) <= quantile * math.sqrt(2 / len(draws))).all()
    np.testing.assert_allclose(draws.sum(1), 0, atol=1e-6) if kind == "covariance" else None


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_losses_are_summed_in_float32(kind):
    """1,000 losses of 1 have the mean 1; summed in their own type they would not."""
    losses = torch.ones(1000, dtype=kind, requires_grad=True)
    found = FullBatch(1000, 1).weigh(losses, torch.Generator())
    assert found.dtype == torch.float32 and found.item() == pytest.approx(1, abs=1e-6)
    found.backward()
    assert losses.grad.dtype == kind and losses.grad[0].item() == pytest.approx(1e-3, rel=4e-3)


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        (
            torch.ones(4, 1),
            ValueError,
            r"shape \(4, 1\): give one number a sample, shape \(m,\), by losses.squeeze\(1\)",
        ),
        (torch.ones(4, 4), ValueError, r"shape \(4, 4\): .* reduction='none'"),
        (torch.ones(()), ValueError, r"shape \(\): give one number a sample, .* not their mean .*reduction='none'"),
        (torch.ones(1), ValueError, r"weighs 4 losses but 1 came: give batches of exactly 4 \(drop_last=True\)"),
        (torch.ones(6), ValueError, "weighs 4 losses but 6 came"),
        (torch.ones(4, dtype=torch.int64), TypeError, r"of type torch.int64: give real numbers"),
        (torch.ones(4, dtype=torch.complex64), TypeError, "of type torch.complex64"),
        (np.ones(4), TypeError, "losses is of type ndarray: give a torch tensor"),
        ([1.0] * 4, TypeError, "losses is of type list"),
        (None, TypeError, "losses is of type NoneType"),
    ],
)
def test_losses_that_are_not_one_a_sample_are_refused(losses, error, message):
    with pytest.raises(error, match=message) as caught:
        by_name("[MSGD-Cov]-4", 6, 2).weigh(losses, torch.Generator())
    assert "\n" not in str(caught.value)


def test_a_law_on_all_samples_weighs_all_of_them_and_needs_a_torch_generator():
    with pytest.raises(ValueError, match="MSGD-Cov weighs 6 losses but 4 came: give all samples"):
        GaussianCovariance(6, 2).weigh(torch.ones(4), torch.Generator())
    for generator in (None, 0, np.random.default_rng(0)):
        with pytest.raises(TypeError, match=r"is no torch generator: give torch\.Generator"):
            GaussianCovariance(6, 2).weigh(torch.ones(6), generator)


@pytest.mark.parametrize(("n", "b", "B", "parts"), [(6, 2, 4, 2), (9, 3, 6, 3), (9, 3, 9, 3), (8, 2, 4, 1)])
@pytest.mark.parametrize("replace", [True, False])
def test_parts_of_a_batch_with_the_law_of_a_part_have_the_noise_of_b(n, b, B, parts, replace):
    """README: R micro-batches or R ranks, each of B/R samples under the law of (b/R, B/R), averaged. The whole batch is
    one of B, and the noise of each part is independent: a sum by hand, in fractions.
    """
    law = Compensated(n, b // parts, B // parts, replace=replace)
    drawn = MiniBatch(n, B, replace=replace).covariance
    own = law.covariance.a - MiniBatch(n, B // parts, replace=replace).covariance.a  # what a part's noise adds
    assert drawn.a + own / parts == MiniBatch(n, b, replace=replace).covariance.a


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


def test_exchangeable_product_and_dense_agree():
    matrix = MiniBatch(6, 2).covariance
    x = np.random.default_rng(0).standard_normal((6, 3))
    np.testing.assert_allclose(matrix @ x, matrix.dense() @ x, atol=1e-15)
    np.testing.assert_allclose((matrix @ torch.tensor(x)).numpy(), matrix.dense() @ x, atol=1e-15)
    with pytest.raises(ValueError, match=r"first axis must be n = 6"):
        matrix @ np.ones(5)
    assert Exchangeable(3, Fraction(1, 2), Fraction(0)).dense(exact=True)[0, 0] == Fraction(1, 2)


def test_by_name_understands_the_papers_names():
    for name in NAMES:
        law = by_name(name.replace("B]", "10]").replace("]-B", "]-100"), n=1000, b=50)
        assert law.name == name
        assert law.citation
    assert by_name("msgd-[cov-10]", 1000, 50).B == 10
    assert by_name(" [MSGD-Cov]-200", 1000, 50, replace=False) == Compensated(1000, 50, 200, replace=False)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MiniBatch(5, 6), ValueError, "b = 6 .* n = 5"),
        (lambda: MiniBatch(5, 0), ValueError, "b = 0"),
        (lambda: MiniBatch(1, 1), ValueError, "n = 1 .* at least n = 2"),
        (lambda: MiniBatch(5.0, 2), TypeError, "n = 5.0 is not an integer"),
        (lambda: GaussianFisher(5, True), TypeError, "b = True is not an integer"),
        (lambda: MiniBatch(5, 2, replace="no"), TypeError, "replace = 'no'"),
        (lambda: Compensated(9, 4, 3), ValueError, "B = 3 is smaller than b = 4"),
        (lambda: Compensated(9, 1, 1), ValueError, "B = 1 .* B ≥ 2"),
        (lambda: Compensated(9, 2, 10), ValueError, "B = 10 .* n = 9"),
        (lambda: Compensated(9, 2, 4, "diagonal"), ValueError, "kind = 'diagonal'"),
        (lambda: Compensated(9, 2, 4, scale=-1), ValueError, "scale = -1"),
        (lambda: Compensated(9, 2, 4, scale=float("nan")), ValueError, "scale = nan"),
        (lambda: Compensated(9, 2, 4, scale="small"), TypeError, "scale = 'small' is not a number"),
        (lambda: Compensated(9, 2, 4, kind=None), ValueError, "kind = None is unknown: choose covariance, fisher"),
        (lambda: Compensated(9, 2, 4.0), TypeError, "B = 4.0 is not an integer"),
        (lambda: MiniBatch(5, 2).sample(-1, np.random.default_rng(0)), ValueError, "size = -1 .* draws ≥ 0"),
        (lambda: MiniBatch(5, 2).sample(2.5, np.random.default_rng(0)), TypeError, "size = 2.5 is not an integer"),
        (lambda: MiniBatch(5, 2).sample(True, np.random.default_rng(0)), TypeError, "size = True is not an integer"),
        (lambda: MiniBatch(5, 2).sample(3, None), TypeError, "generator = None .*default_rng"),
        (lambda: MiniBatch(5, 2).sample(3, torch.zeros(3)), TypeError, "is no random generator"),
        (lambda: MiniBatch(5, 2).sample(3, np.random.RandomState(0)), TypeError, "is no random generator"),
        (lambda: MiniBatch(5, 2).covariance @ ([1.0] * 5), TypeError, "x is of type list: give a numpy array"),
        (lambda: MiniBatch(5, 2).covariance.dense("yes"), TypeError, "exact = 'yes' is not a boolean"),
        (lambda: Exchangeable(2.0, 1, 0), TypeError, "n = 2.0 is not an integer"),
        (lambda: Exchangeable(2, None, 0), TypeError, "a = None is not a number"),
        (lambda: sgd_scale(5, 9, False), ValueError, "b = 9 is out of range: without replacement .* n = 5"),
        (lambda: sgd_scale(5, 0), ValueError, "b = 0 is out of range"),
        (lambda: sgd_scale(1, 1, False), ValueError, "n = 1 is out of range"),
        (lambda: sgd_scale(5, 2.0), TypeError, "b = 2.0 is not an integer"),
        (lambda: sgd_scale(5, 2, 1), TypeError, "replace = 1 is not a boolean"),
        (lambda: Exchangeable(2, float("nan"), 0), ValueError, "a = nan is out of range"),
        (
            lambda: MiniBatch(np.ones((2, 2)), 1),
            TypeError,
            r"n = array\(\[\[1., 1.\], \[1., 1.\]\]\) is not an integer",
        ),
        (lambda: Compensated(9, 2, 4, np.zeros(2)), ValueError, "kind = .* is unknown"),
        (lambda: Law(5, 2).covariance, TypeError, "Law names no covariance"),
        (lambda: by_name(None, 5, 2), TypeError, "name = None"),
        (lambda: by_name("noise", 5, 2), ValueError, "unknown noise class 'noise': Known are SGD, GD"),
        (lambda: SparseCovariance(9, 2, 1), ValueError, "B = 1"),
        (lambda: by_name("MSGD-Kov", 5, 2), ValueError, "did you mean 'MSGD-Cov'"),
        (lambda: by_name("[MSGD-Cov]-1", 5, 1), ValueError, "B = 1"),
        (lambda: MiniBatch(5, 2).sample(3, 0), TypeError, "generator = 0 .*default_rng"),
        (lambda: list(Rademacher(3, 1).atoms()), ValueError, "b = 1, n = 3"),
    ],
)
def test_bad_input_is_one_clear_line(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
