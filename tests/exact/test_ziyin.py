"""The closed forms against the exact stationary second moment, which uses none of them, over random problems; where the
printed ones differ, by how much.
"""

import itertools
import math

import numpy as np
import pytest

from support.errors import Refused
from support.exact import stationary as judge
from support.exact.batch_noise import matched
from support.exact.populations import GaussianPopulation
from support.exact.second_moments import Descent
from support.exact.stationary import growth, stationary
from support.exact.ziyin import (
    COLUMNS,
    input_noise,
    kappa_mu,
    label_noise,
    label_noise_stable,
    largest_factor,
    lemma_1,
    proposition_3,
    proposition_8,
    stable_rate,
    theorem_1,
    theorem_3,
    weight_decay,
)

RNG = np.random.default_rng(11)


def positive(d, low=0.2):
    """A random symmetric matrix with eigenvalues between low and low + 1."""
    turn = np.linalg.qr(RNG.standard_normal((d, d)))[0]
    return (turn * (low + RNG.random(d))) @ turn.T


A, B, OTHER, U = positive(3), positive(3, 0.05), positive(3), RNG.standard_normal(3)
SAME = 0.3 * A @ A + 0.1 * np.eye(3)  # commutes with A
TURN = np.linalg.eigh(A)[1]
INDEFINITE = (TURN * np.array([0.3, -0.1, 0.05])) @ TURN.T


def close(ours, theirs, rtol=1e-10):
    np.testing.assert_allclose(ours, theirs, atol=rtol * np.abs(theirs).max(), rtol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("lr", [0.2, SAME / 2], ids=["number", "matrix"])
def test_theorems_two_three_and_eight_are_exact(momentum, lr):
    found = stationary(Descent(GaussianPopulation(A, U, 0.7), matched(6), lr, momentum))
    forms = label_noise(A, lr, 6, 0.7, momentum)
    close(forms.covariance, found.covariance)
    close(theorem_3(A, lr, 6, 0.7, momentum), found.noise)
    close(lemma_1(A, found.covariance, 6, 0.7), found.noise)
    assert forms.train == pytest.approx(found.loss, rel=1e-10)
    assert forms.test == pytest.approx(found.loss - 0.35, rel=1e-9)
    if np.ndim(lr) == 0:
        kappa, _ = kappa_mu(A, lr, 6, momentum)
        assert forms.test == pytest.approx(0.7 * kappa / 12, rel=1e-10)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_theorem_one_and_the_noises_hold_without_commutation(momentum):
    for decay in (0.0, B):
        found = stationary(
            Descent(GaussianPopulation(A, U, 0.0 if np.ndim(decay) else 0.4), matched(5), OTHER / 4, momentum, decay)
        )
        residual = theorem_1(OTHER / 4, A + decay, found.covariance, found.noise, momentum)
        assert np.abs(residual).max() < 1e-12 * np.abs(found.noise).max()
    close(proposition_3(A, B, U, found.covariance, 5), found.noise)
    wrong = theorem_1(OTHER / 4, A + B, found.covariance, 1.01 * found.noise, momentum)
    assert np.abs(wrong).max() > 1e-4 * np.abs(found.noise).max()


def test_stability_of_theorem_two_is_the_spectral_radius():
    seen = []
    for _ in range(300):
        d, b, mu = int(RNG.integers(1, 5)), int(RNG.integers(1, 12)), RNG.choice([0.0, RNG.random()])
        a, lr = np.diag(RNG.random(d) + 0.05), math.exp(RNG.uniform(-3, 1.5))
        seen.append(label_noise_stable(a, lr, b, mu))
        assert seen[-1] == (growth(Descent(GaussianPopulation(a), matched(b), lr, mu)) < 1)
    assert 50 < sum(seen) < 250
    wide = np.diag([3.0, 1.0])  # κ > 0 and still no covariance
    assert kappa_mu(wide, 1.6, 8)[0] > 0 and not label_noise_stable(wide, 1.6, 8)


@pytest.mark.parametrize("u", [U, np.linalg.eigh(A + B)[1][:, 1]], ids=["any", "eigenvector of K"])
def test_theorem_nine(u):
    found = stationary(Descent(judge.input_noise(A, B, u), matched(4), 0.3))
    forms, printed = (input_noise(A, B, u, 0.3, 4, printed=p) for p in (False, True))
    close(forms.covariance, found.covariance)
    missed = found.centre - u
    test = np.sum(A * (found.covariance + np.outer(missed, missed))) / 2
    assert forms.train == printed.train == pytest.approx(found.loss, rel=1e-10)
    assert forms.test == pytest.approx(test, rel=1e-10)
    bias, k = missed @ A @ missed / 2, A + B
    g = 2 * np.eye(3) - 0.3 * 1.25 * k
    factor = np.trace(np.linalg.solve(g, k)) / np.trace(np.linalg.solve(g, A))
    assert (printed.test - bias) / (test - bias) == pytest.approx(factor, rel=1e-9)
    assert forms.train - forms.test == pytest.approx(
        (found.centre @ B @ found.centre + np.sum(B * found.covariance)) / 2, rel=1e-9
    )


@pytest.mark.parametrize("decay", [0.3, -0.05, INDEFINITE], ids=["positive", "negative", "matrix"])
def test_theorem_four(decay):
    found = stationary(Descent(GaussianPopulation(A, U, 0.0), matched(4), 0.3, 0.0, decay))
    forms = weight_decay(A, decay, U, 0.3, 4)
    close(forms.covariance, found.covariance)
    assert forms.test == pytest.approx(found.loss, rel=1e-9)
    assert forms.train == pytest.approx(found.penalised, rel=1e-9)
    close(proposition_3(A, decay, U, found.covariance, 4), found.noise)
    printed = weight_decay(A, decay, U, 0.3, 4, printed=True)
    assert (printed.train, printed.test) == pytest.approx(forms[1:])
    assert np.abs(printed.covariance - printed.covariance.T).max() > 0.01 * np.abs(found.covariance).max()
    eigen = TURN[:, 1]
    close(
        weight_decay(A, decay, eigen, 0.3, 4, printed=True).covariance, weight_decay(A, decay, eigen, 0.3, 4).covariance
    )


@pytest.mark.parametrize("momentum", [0.3, 0.9])
def test_with_momentum_too(momentum):
    """Not in the paper, which says that it can be done."""
    found = stationary(Descent(judge.input_noise(A, B, U), matched(4), 0.05, momentum))
    forms, missed = input_noise(A, B, U, 0.05, 4, momentum), found.centre - U
    close(forms.covariance, found.covariance)
    assert forms.test == pytest.approx(np.sum(A * (found.covariance + np.outer(missed, missed))) / 2, rel=1e-10)
    found = stationary(Descent(GaussianPopulation(A, U, 0.0), matched(4), 0.05, momentum, INDEFINITE))
    forms = weight_decay(A, INDEFINITE, U, 0.05, 4, momentum)
    close(forms.covariance, found.covariance)
    assert forms[1:] == pytest.approx((found.penalised, found.loss), rel=1e-9)


@pytest.mark.parametrize("replace", [True, False])
def test_the_noise_of_a_batch_is_the_list_of_all_batches(replace):
    gradients = RNG.standard_normal((5, 2))
    for b in (1, 3, 5):
        lists = itertools.product(range(5), repeat=b) if replace else itertools.combinations(range(5), b)
        means = np.array([gradients[list(batch)].mean(0) for batch in lists])
        np.testing.assert_allclose(proposition_8(gradients, b, replace), np.cov(means.T, bias=True), atol=1e-14)


def test_the_large_batch_limits_of_appendix_b():
    """At b = 10⁷ and a fixed η/b of the noise the exact solution is the limit; printed, Eq. (41) is not."""
    b, lr = 10**7, 0.4
    found = stationary(Descent(GaussianPopulation(A, U, 0.0), matched(b), lr, 0.0, 0.3))
    forms, printed = (weight_decay(A, 0.3, U, lr, b, column="large batch", printed=p) for p in (False, True))
    floor = weight_decay(A, 0.3, U, lr, 1e300, column="large batch")
    close(forms.covariance, found.covariance, 1e-6)
    assert forms.train - floor.train == pytest.approx(found.penalised - floor.train, rel=1e-5)
    assert forms.test - floor.test == pytest.approx(found.loss - floor.test, rel=1e-5)
    assert printed.train == forms.train
    assert (printed.test - floor.test) / (found.loss - floor.test) > 1.1
    labels = stationary(Descent(GaussianPopulation(A, U, 0.7), matched(b), lr, 0.5))
    close(label_noise(A, lr, b, 0.7, 0.5, column="large batch").covariance, labels.covariance, 1e-6)


def test_the_small_rate_limits_of_appendix_b():
    b, lr = 10**4, 1e-4
    found = stationary(Descent(GaussianPopulation(A, U, 0.0), matched(b), lr, 0.0, 0.3))
    forms, printed = (weight_decay(A, 0.3, U, lr, b, column="small rate", printed=p) for p in (False, True))
    floor = weight_decay(A, 0.3, U, lr, 1e300, column="small rate")
    close(forms.covariance, found.covariance, 3e-4)
    assert forms.train - floor.train == pytest.approx(found.penalised - floor.train, rel=1e-3)
    assert forms.test - floor.test == pytest.approx(found.loss - floor.test, rel=1e-3)
    assert (printed.test - floor.test) / (found.loss - floor.test) > 1.1
    labels = stationary(Descent(GaussianPopulation(A, U, 0.7), matched(b), lr))
    close(label_noise(A, lr, b, 0.7, column="small rate").covariance, labels.covariance, 3e-4)


@pytest.mark.parametrize("column", ["discrete", "continuous"])
def test_the_hessian_columns_solve_their_own_equations(column):
    """Theorem 1 with C = H/b; in continuous time without the term of second order in the rate."""
    lr, b = 0.3, 4
    rows = {
        "label": (A, label_noise(A, lr, b, 0.7, column=column, printed=True), 0.7),
        "input": (A + B, input_noise(A, B, U, lr, b, column=column, printed=True), 1.0),
        "decay": (A + INDEFINITE, weight_decay(A, INDEFINITE, U, lr, b, column=column, printed=True), 1.0),
    }
    for h, forms, _ in rows.values():
        rate = lr * np.eye(3)
        second = lr * lr * h @ forms.covariance @ h if column == "continuous" else 0.0
        residual = theorem_1(rate, h, forms.covariance, h / b) + second
        assert np.abs(residual).max() < 1e-14
    k, label, decay = A + B, rows["label"][1], rows["decay"][1]
    assert label.train - label.test == pytest.approx(0.35)
    missed, moved = np.linalg.solve(k, B @ U), np.linalg.solve(A + INDEFINITE, INDEFINITE @ U)
    assert rows["input"][1].test == pytest.approx(np.sum(A * rows["input"][1].covariance) / 2 + missed @ A @ missed / 2)
    assert rows["input"][1].train == pytest.approx(np.sum(k * rows["input"][1].covariance) / 2 + U @ A @ missed / 2)
    assert decay.test == pytest.approx(np.sum(A * decay.covariance) / 2 + moved @ A @ moved / 2)
    assert label_noise(A, lr, b, 0.7, column=column).test == pytest.approx(0.7 * label.test)


def test_corollary_three_is_one_over_b_away():
    """12.7 %, 1.26 %, 0.126 % at b = 10, 100, 1000 for η = μ = ½ and A = I, as in Theorem 2's κ and G."""
    errors = []
    for b in (10, 100, 1000):
        exact = stationary(Descent(GaussianPopulation(A, U), matched(b), 0.5, 0.5)).covariance
        near = label_noise(A, 0.5, b, 1.0, 0.5, column="discrete").covariance
        errors.append(np.linalg.norm(exact - near) / np.linalg.norm(exact))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.3) and errors[1] / errors[2] == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_noise(A, OTHER, 4, 1.0), "do not commute"),
        (lambda: label_noise(A, 0.1, 0.5, 1.0), "b = 0.5"),
        (lambda: label_noise([[1.0, 2.0], [0.0, 1.0]], 0.1, 4, 1.0), "not a symmetric"),
        (lambda: weight_decay(A, OTHER, U, 0.1, 4), "do not commute"),
        (lambda: weight_decay(np.eye(2), -1.0, [1.0, 1.0], 0.1, 4), "singular"),
        (lambda: label_noise([[1.5]], 1.1, 6, 1.0), "lr is unstable, .* below 1, or"),
        (lambda: theorem_3([[1.5]], 1.1, 6, 1.0), "lr is unstable, .* below 1, or"),
        (lambda: label_noise(A, 8 * A, 6, 1.0), r"below 0\.\d+ times the given one"),
        (lambda: label_noise([[1.0]], 2.1, 9, 1.0, column="discrete"), "below 2, or"),
        (lambda: label_noise([[1.0]], 3.1, 9, 1.0, 0.5, column="large batch"), "below 3, or"),
        (lambda: input_noise([[1.0]], [[1.0]], [1.0], 0.7, 4), "below 0.666667, or"),  # 2b/((A + B)(b + 2))
        (lambda: weight_decay([[1.0]], 0.5, [1.0], 1.2, 4), "below 1.09091, or"),  # 2k/(k² + 2a²/b)
        (lambda: weight_decay([[1.0]], -1.5, [1.0], 0.1, 4), "no lr is stable"),
        (lambda: weight_decay(np.diag([2.0, 0.5]), -1.0, [1.0, 1.0], 0.1, 4, column="continuous"), "no lr is stable"),
        (lambda: kappa_mu([[1.5]], 1.0, 6), "edge"),
        (lambda: kappa_mu([[1.0]], 1.5, 3), "singular"),
        (lambda: label_noise(np.diag([1.0, -0.1]), 0.1, 4, 1.0), "features has the negative eigenvalue -0.1"),
        (lambda: label_noise(np.diag([1.0, 0.0]), 0.1, 4, 1.0), "features has the eigenvalue 0"),
        (lambda: label_noise(np.eye(2), np.diag([0.1, -0.1]), 4, 1.0), "lr has the negative eigenvalue"),
        (lambda: input_noise(A, -B, U, 0.1, 4), "blur has the negative eigenvalue"),
        (lambda: lemma_1(-A, A, 4, 1.0), "features has the negative"),
        (lambda: weight_decay(-A, 2.0, U, 0.1, 4), "features has the negative"),
        (lambda: label_noise(A, 0.1, 4, 1.0, 1.0), "momentum"),
        (lambda: label_noise(A, 0.1, 4, 1.0, column="best"), "choose exact"),
    ],
)
def test_what_has_no_closed_form_is_refused(call, message):
    with pytest.raises(Refused, match=message):
        call()


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_the_largest_factor_is_where_the_solver_ends(momentum):
    """A matrix rate and a decay of any sign, which commute with A."""
    for rate, decay in [(0.1 * np.eye(3), 0.0), (SAME / 8, INDEFINITE), (SAME / 8, 0.2 * A)]:
        factor = largest_factor(A, rate, 5, momentum, decay)
        found = judge.headroom(Descent(GaussianPopulation(A), matched(5), rate, momentum, decay))
        assert factor == pytest.approx(found, rel=1e-9)
        stable_rate(A, 0.999 * factor * rate, 5, momentum, decay)
        with pytest.raises(Refused, match="times the given one"):
            stable_rate(A, 1.001 * factor * rate, 5, momentum, decay)
    assert largest_factor(A, SAME, 5, momentum, column="small rate") == math.inf


def test_every_column_exists():
    assert all(np.isfinite(label_noise(A, 0.1, 4, 1.0, column=c).test) for c in COLUMNS)
