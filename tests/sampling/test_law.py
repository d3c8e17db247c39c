"""What every law has: the weighted loss of a step, the exchangeable matrix, and one clear line for bad input."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from support.errors import Refused, WrongType
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
    by_name,
    counted_moments,
    sgd_scale,
)

# chance that a right sampler fails one test
ALPHA = 1e-6


def weighed(law, generator, count=None):
    """The weights that `weigh` drew, as the gradient with respect to losses of 0."""
    losses = torch.zeros(count or law.slots, dtype=torch.float64, requires_grad=True)
    law.weigh(losses, generator).backward()
    return losses.grad


@pytest.mark.parametrize(
    "law", [by_name(name.replace("-B]", "-4]"), 6, 2) for name in NAMES if not name.endswith("B")], ids=str
)
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


def test_the_weights_go_to_the_losses_device():
    """From a generator on the CPU; the device without numbers stands for any other."""
    found = by_name("[MSGD-Cov]-4", 6, 2).weigh(torch.ones(4, device="meta"), torch.Generator())
    assert found.device.type == "meta" and found.shape == ()


def test_exchangeable_product_and_dense_agree():
    matrix = MiniBatch(6, 2).covariance
    x = np.random.default_rng(0).standard_normal((6, 3))
    np.testing.assert_allclose(matrix @ x, matrix.dense() @ x, atol=1e-15)
    np.testing.assert_allclose((matrix @ torch.tensor(x)).numpy(), matrix.dense() @ x, atol=1e-15)
    with pytest.raises(ValueError, match=r"first axis must be n = 6"):
        matrix @ np.ones(5)
    assert Exchangeable(3, Fraction(1, 2), Fraction(0)).dense(exact=True)[0, 0] == Fraction(1, 2)


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


@pytest.mark.parametrize(
    "law",
    [MiniBatch(4, 3), MiniBatch(5, 2, replace=False), FullBatch(3, 1), Rademacher(4, 1), Bernoulli(4, 3)],
    ids=str,
)
def test_moments_counted_over_atoms_are_those_of_the_formula(law):
    mean, covariance = counted_moments(law.atoms())
    assert (mean == law.mean).all() and (covariance == law.covariance.dense(exact=True)).all()
    A = np.array([[Fraction(1), Fraction(-2), *[Fraction(1, 3)] * (law.n - 2)], [Fraction(k) for k in range(law.n)]])
    mean, covariance = counted_moments((p, A @ np.array(w)) for p, w in law.atoms())
    assert (mean == A.sum(1) / law.n).all() and (covariance == A @ law.covariance.dense(exact=True) @ A.T).all()
    assert all(type(entry) is Fraction for entry in covariance.flat)


def test_moments_of_floats_are_those_of_numpy():
    values = np.random.default_rng(0).standard_normal((7, 3))
    mean, covariance = counted_moments((1 / 7, row) for row in values)
    np.testing.assert_allclose(mean.astype(float), values.mean(0))
    np.testing.assert_allclose(covariance.astype(float), np.cov(values.T, bias=True))


@pytest.mark.parametrize(
    ("atoms", "error", "said"),
    [
        ([(Fraction(1, 2), (1, 2))], Refused, "the probabilities sum to 1/2: they must sum to 1"),
        ([], Refused, "the probabilities sum to 0"),
        ([(Fraction(1, 2), (1, 2)), (Fraction(1, 2), (1,))], Refused, "no vectors of one length"),
        ([0.5], WrongType, "an atom is 0.5: give pairs"),
        (3, WrongType, "atoms = 3 is of type int: give pairs"),
    ],
)
def test_what_has_no_moments_is_refused(atoms, error, said):
    with pytest.raises(error, match=said):
        counted_moments(atoms)
