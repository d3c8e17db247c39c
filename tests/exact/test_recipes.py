"""The zoo's recipes against the laws and their enumeration, exactly."""

from fractions import Fraction

import numpy as np
import pytest

from support.exact import recipes
from support.sampling import (
    Bernoulli,
    Compensated,
    FullBatch,
    GaussianCovariance,
    GaussianFisher,
    Law,
    MiniBatch,
    Rademacher,
    SparseFisher,
)

SIZES = [(3, 1, 2), (4, 2, 4), (5, 5, 5), (7, 3, 5), (9, 2, 3)]


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(("n", "b", "B"), SIZES)
def test_recipes_have_the_mean_and_covariance_of_their_laws(n, b, B, replace):
    laws = recipes.menagerie(n, b, B, replace=replace)
    assert len(laws) == 10
    for law in laws.values():
        assert recipes.moments(recipes.parts(law, [1] + [0] * (n - 1)))[0] == 0
        assert recipes.counted(law) == (
            law.covariance.diagonal,
            law.covariance.off_diagonal,
            law.covariance.total_variance,
        ), law


def test_a_recipe_followed_by_hand_is_the_law():
    """Slots, floor and noise as the picture's script uses them: the sampler of the law has the same sets of zeros and
    of floors.
    """
    rng = np.random.default_rng(1)
    for law in recipes.menagerie(7, 2, 3, replace=False).values():
        recipe, w = recipes.recipe(law), law.sample(200, rng)
        if recipe.pick == "subset":
            assert set((w != float(recipe.floor)).sum(1)) == {recipe.size}
        if recipe.centred or (recipe.noise == "none" and recipe.pick != "coins"):
            np.testing.assert_allclose(w.sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("replace", [True, False])
def test_picks_are_all_of_them(replace):
    for law in recipes.menagerie(5, 2, 3, replace=replace).values():
        recipe = recipes.recipe(law)
        probabilities, counts = zip(*recipe.picks(), strict=True)
        assert sum(probabilities) == 1
        assert all(
            sum(p * c[i] for p, c in zip(probabilities, counts, strict=True)) == Fraction(recipe.size, 5)
            for i in range(5)
        )
    recipe = recipes.recipe(MiniBatch(4, 3, replace=replace))
    ours = {tuple(recipe.slot * c for c in counts): p for p, counts in recipe.picks()}
    theirs = {}
    for p, w in MiniBatch(4, 3, replace=replace).atoms():
        theirs[w] = theirs.get(w, 0) + p
    assert ours == theirs


def test_agreement_says_what_is_shared():
    shared = {name: recipes.agreement(law) for name, law in recipes.menagerie(7, 3, 5).items()}
    assert {name for name, what in shared.items() if what == "whole matrix"} == {
        "SGD",
        "MSGD-Cov",
        "MSGD-[Cov-5]",
        "[MSGD-Cov]-5",
    }
    assert shared["MSGD-Fisher"] == shared["[MSGD-Fisher]-5"] == "all but the sum"
    assert shared["MSGD-Bernoulli"] == shared["GD"] == "nothing"
    without = {name: recipes.agreement(law) for name, law in recipes.menagerie(7, 3, 5, replace=False).items()}
    assert (without["MSGD-Bernoulli"], without["MSGD-Fisher"], without["[MSGD-Fisher]-5"]) == (
        "diagonal only",
        "nothing",
        "all but the sum",
    )


@pytest.mark.parametrize(
    "law",
    [MiniBatch(4, 3), MiniBatch(5, 2, replace=False), Bernoulli(4, 2), Rademacher(4, 1), Rademacher(3, 3)],
    ids=str,
)
def test_moments_of_a_finite_law_equal_its_enumeration(law):
    g = [Fraction(x) for x in (3, -1, 0, 5, 2)][: law.n]
    noises = [(p, sum(x * (w - law.mean) for x, w in zip(g, weights, strict=True))) for p, weights in law.atoms()]
    assert recipes.moments(recipes.parts(law, g)) == tuple(sum(p * v**k for p, v in noises) for k in (1, 2, 3, 4))


def test_kurtosis_of_gaussian_and_sparse_weights():
    first = [1, 0, 0, 0, 0, 0]
    assert recipes.kurtosis(recipes.moments(recipes.parts(GaussianFisher(6, 2), first))) == 3
    assert recipes.kurtosis(recipes.moments(recipes.parts(SparseFisher(6, 2, 4), first))) == Fraction(3 * 6, 4)
    assert recipes.kurtosis(recipes.moments(recipes.parts(Rademacher(6, 2), first))) == 1
    # n equal signs: E (Σ s)⁴ / n² = 3 − 2/n
    assert recipes.kurtosis(recipes.moments(recipes.parts(Rademacher(6, 2), [1] * 6))) == 3 - Fraction(2, 6)
    with pytest.raises(ValueError, match="a law of variance 0 has no kurtosis"):
        recipes.kurtosis(recipes.moments(recipes.parts(FullBatch(6, 2), first)))


@pytest.mark.parametrize("replace", [True, False])
def test_a_batch_of_2b_with_the_exact_noise_has_the_third_moments_of_sgd(replace):
    g = [Fraction(x) for x in (3, -1, 0, 5, 2, -4)]
    for b in (1, 2, 3):
        ours, sgd = (
            recipes.moments(recipes.parts(law, g))
            for law in (Compensated(6, b, 2 * b, replace=replace), MiniBatch(6, b, replace=replace))
        )
        assert ours[:3] == sgd[:3]


def test_a_law_without_a_recipe_is_refused():
    with pytest.raises(TypeError, match="Law has no recipe"):
        recipes.recipe(Law(4, 2))
    with pytest.raises(TypeError, match="law = 'SGD' is of type str"):
        recipes.recipe("SGD")
    for call in (recipes.agreement, recipes.counted):
        with pytest.raises(TypeError, match="law = None is of type NoneType"):
            call(None)
    with pytest.raises(TypeError, match=r"B = 4\.5 is not an integer"):
        recipes.menagerie(6, 2, 4.5)
    with pytest.raises(ValueError, match=r"g has shape \(2,\): give one number for each of the n = 3"):
        list(recipes.parts(MiniBatch(3, 2), [1, 2]))


@pytest.mark.parametrize("replace", [True, False])
def test_the_affine_map_is_that_of_the_draws(replace):
    """Against the noise itself, drawn again from the same seed, and a covariance counted over all batches."""
    n, b = 6, 2
    for law, sgd in ((GaussianCovariance(n, b, replace=replace), True), (GaussianFisher(n, b, replace=replace), False)):
        w, A = recipes.affine(law)
        draws, white = (np.random.default_rng(1) for _ in range(2))
        np.testing.assert_allclose(law.sample(50, draws), w + white.standard_normal((50, n)) @ A.T, atol=1e-12)
        one, off, _ = recipes.counted(MiniBatch(n, b, replace=replace))
        expected = np.full((n, n), float(off)) + np.eye(n) * float(one - off) if sgd else np.eye(n) / (b * n)
        np.testing.assert_allclose(A @ A.T, expected, atol=1e-15)
    with pytest.raises(TypeError, match="SGD is not affine in white noise: give GaussianCovariance"):
        recipes.affine(MiniBatch(n, b))
