"""The calculator's numbers, against closed forms, moments carried on by hand, and a simulated run."""

import itertools
import math

import numpy as np
import pytest

from support.errors import NotFinite, Refused, WrongType
from support.exact.approximations import APPROXIMATIONS
from support.intervals import student
from support.strength import CLOSE, strength

X = np.array([[1.0, 0.2], [-0.5, 1.0], [0.3, -0.8], [1.2, 0.7]])
Y = np.array([1.0, -0.4, 0.6, 2.0])


def line(a, lr, b, sigma):
    """Σ of a line through the origin: ησ²/(2b − (b + 2)aη)."""
    return lr * sigma / (2 * b - (b + 2) * a * lr)


@pytest.mark.parametrize(("a", "lr", "b", "sigma"), [(1.5, 1.0, 12, 0.25), (0.3, 0.5, 1, 2.0), (4.0, 0.1, 64, 1.0)])
def test_one_direction_has_a_closed_form(a, lr, b, sigma):
    one = strength(a, lr=lr, b=b, variance=sigma)
    assert one.covariance[0, 0] == pytest.approx(line(a, lr, b, sigma))
    assert one.excess == pytest.approx(a * line(a, lr, b, sigma) / 2)
    assert one.train == pytest.approx(one.excess + sigma / 2)
    assert one.largest_lr == pytest.approx(2 * b / (b + 2) / a)
    least = 2 * a * lr / (2 - a * lr)  # 2b > (b + 2) aη
    assert one.smallest_b == math.floor(least) + 1
    assert one.gain == pytest.approx(least / b)
    root = math.sqrt(1 - 2 * (a * lr) ** 2 / b)
    assert one.decays == pytest.approx(((1 - a * lr - root) / lr, (1 - a * lr + root) / lr))
    assert one.bias == 0


def test_the_batch_at_the_edge_is_not_stable():
    assert strength(1.5, lr=1.0, b=12).smallest_b == 7  # b = 6 is the edge
    with pytest.raises(Refused, match=r"lr = 1 is unstable: .* take lr below 1, or b of at least 7"):
        strength(1.5, lr=1.0, b=6)
    strength(1.5, lr=1.0, b=7)


def test_decay_has_the_losses_of_corollary_4():
    a, lr, b, gamma, u = 4.0, 1.0, 64, -2.53069, 1.5
    one = strength(a, lr=lr, b=b, decay=gamma, target=u, variance=0)
    k = a + gamma
    assert one.excess == pytest.approx(
        a * gamma**2 / (2 * k) * (2 - lr * k) / (2 * k - lr * (k * k + 2 * a * a / b)) * u**2
    )
    assert one.bias == pytest.approx(a * (gamma / k * u) ** 2 / 2)
    assert one.decays == pytest.approx((-3.70711, -2.29289), abs=1e-5)


def test_input_noise_is_label_noise_and_a_bias():
    one = strength([2.0], lr=0.3, b=5, blur=1.0, target=1.0, variance=0.5)
    sigma = 0.5 + 2 * 1 / 3  # σ² + uABu/(A + B)
    assert one.covariance[0, 0] == pytest.approx(line(3.0, 0.3, 5, sigma))
    assert one.excess == pytest.approx(2 * (one.covariance[0, 0] + 1 / 9) / 2)


def test_eigenvalues_and_matrices_are_one_problem():
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    values = np.array([2.0, 0.5, 0.1])
    first = strength(values, lr=0.3, b=6, momentum=0.4)
    second = strength(turn @ np.diag(values) @ turn.T, lr=0.3, b=6, momentum=0.4)
    np.testing.assert_allclose(second.by_direction, first.by_direction, rtol=1e-10)
    np.testing.assert_allclose(first.by_direction[:, 0], values)
    np.testing.assert_allclose(first.by_direction[:, 1], np.diag(first.covariance))
    assert second.excess == pytest.approx(first.excess)
    assert first.tail == pytest.approx(second.tail)


def carried(b, replace, lr, mu, decay, steps=4000):
    """Σ and the mean of SGD on X, Y by carrying E (θ, m, 1)(θ, m, 1)ᵀ on over all batches."""
    n, d = X.shape
    draws = itertools.product(range(n), repeat=b) if replace else itertools.combinations(range(n), b)
    maps = []
    for batch in map(list, draws):
        x, y = X[batch], Y[batch]
        pull, push = x.T @ x / b + decay * np.eye(d), -x.T @ y / b
        m = np.hstack([pull, mu * np.eye(d), push[:, None]])
        theta = np.hstack([np.eye(d), np.zeros((d, d + 1))]) - lr * m
        maps.append(np.vstack([theta, m, np.eye(2 * d + 1)[-1:]]))
    moment = np.zeros((2 * d + 1,) * 2)
    moment[-1, -1] = 1
    maps = np.array(maps)
    for _ in range(steps):
        moment = (maps @ moment @ maps.transpose(0, 2, 1)).mean(0)
    mean = moment[:d, -1]
    return moment[:d, :d] - np.outer(mean, mean), mean


@pytest.mark.parametrize(
    ("b", "replace", "mu", "decay"),
    [(1, True, 0.0, 0.0), (2, True, 0.5, 0.1), (2, False, 0.3, -0.05), (3, False, 0.0, 0.2)],
)
def test_a_data_set_by_all_its_batches(b, replace, mu, decay):
    one = strength(data=(X, Y), lr=0.3, b=b, momentum=mu, decay=decay, replace=replace)
    covariance, mean = carried(b, replace, 0.3, mu, decay, steps=900)
    np.testing.assert_allclose(one.covariance, covariance, rtol=1e-8)
    np.testing.assert_allclose(one.found.centre, mean, rtol=1e-8)
    residual = X @ mean - Y
    assert one.train == pytest.approx((residual @ residual / 4 + np.trace(X @ covariance @ X.T) / 4) / 2)
    assert one.train == pytest.approx(one.loss_on(X, Y))
    best = np.linalg.lstsq(X, Y, rcond=None)[0]
    assert one.excess == pytest.approx(one.train - np.mean((X @ best - Y) ** 2) / 2)


@pytest.mark.parametrize("replace", [True, False])
def test_the_smallest_batch_of_a_data_set_is_the_smallest(replace):
    found = strength(data=(X, Y), lr=1.9, b=4, replace=replace).smallest_b
    assert 1 < found < 4
    strength(data=(X, Y), lr=1.9, b=found, replace=replace)
    with pytest.raises(Refused, match=f"or b of at least {found}"):
        strength(data=(X, Y), lr=1.9, b=found - 1, replace=replace)


def test_a_singular_data_set_leaves_directions_still():
    wide = np.hstack([X, X.sum(1, keepdims=True)])
    one = strength(data=(wide, Y), lr=0.2, b=2)
    plain = strength(data=(wide @ np.linalg.svd(wide)[2][:2].T, Y), lr=0.2, b=2)
    assert one.still == 1 and plain.still == 0
    assert one.by_direction[-1] == pytest.approx([0, 0], abs=1e-12)
    np.testing.assert_allclose(one.by_direction[:2], plain.by_direction, rtol=1e-9)
    assert one.train == pytest.approx(plain.train)
    assert "; 1 without data, where θ stands still" in str(one)
    assert strength(data=(wide, Y), lr=0.2, b=2, decay=0.1).still == 0


def test_augmentation_of_a_data_set_by_simulation():
    lr, b, blur, chains = 0.15, 2, 0.3, 3000
    one = strength(data=(X, Y), lr=lr, b=b, blur=blur, variance=0.2, momentum=0.3)
    rng, theta, m = np.random.default_rng(3), np.zeros((chains, 2)), np.zeros((chains, 2))
    for _ in range(150):
        rows = rng.integers(4, size=(chains, b))
        x = X[rows] + math.sqrt(blur) * rng.normal(size=(chains, b, 2))
        error = np.einsum("cbi,ci->cb", x, theta) - Y[rows] - math.sqrt(0.2) * rng.normal(size=(chains, b))
        m = 0.3 * m + np.einsum("cbi,cb->ci", x, error) / b
        theta = theta - lr * m
    losses = ((X @ theta.T - Y[:, None]) ** 2).mean(0) / 2
    best = np.linalg.lstsq(X, Y, rcond=None)[0]
    low, high = student(losses - ((X @ best - Y) ** 2).mean() / 2, 0.999).ends
    assert low < one.excess < high
    assert (high - low) < 0.2 * one.excess


def test_the_errors_of_approximations_in_one_direction():
    a, lr, b = 1.0, 0.2, 4
    one, sigma = strength(a, lr=lr, b=b, variance=0.7), line(a, lr, b, 0.7)
    guesses = {
        "small rate": lr * 0.7 / (2 * b),
        "general minimum": lr * 0.7 / b / (2 - a * lr),
        "Gaussian, corrected": sigma,
    }
    for name, guess in guesses.items():
        assert one.misses[name].loss == pytest.approx(guess / sigma - 1, abs=1e-12)
        assert one.misses[name].worst == pytest.approx(guess / sigma - 1, abs=1e-12)
    assert list(one.misses) == [other.name for other in APPROXIMATIONS if other.name in one.misses]


def test_the_simplest_is_the_first_that_is_close():
    for lr, wanted in ((0.01, "small rate"), (1.0, "Gaussian, corrected")):
        one = strength(1.5, lr=lr, b=12)
        assert one.simplest("loss") == one.simplest() == wanted
        before = [name for name in list(one.misses)[: list(one.misses).index(wanted)] if name != "bare Hessian"]
        assert all(abs(one.misses[name].loss) > CLOSE for name in before if "printed" not in name)
    apart = strength(data=(X, Y), lr=0.3, b=2)
    assert apart.simplest("loss") == "loss-proportional" and apart.simplest("worst") == "constant noise"
    assert abs(apart.misses["loss-proportional"].worst) > CLOSE
    assert "loss-proportional: -2.7 % for the loss; constant noise: -8.1 % for every direction" in str(apart)
    none = strength(data=(X[:, :1], Y), lr=1.2, b=1)
    assert none.simplest() is None and "none within 10 % for the loss" in str(none)


def test_the_gain_bounds_what_constant_noise_misses():
    """1 − Tr[AΣ_c]/Tr[AΣ] lies between (Σw + Σw²/Σw)/b, by Jensen, and the gain; w = η²a²/D, Theorem 1's D."""
    rng = np.random.default_rng(5)
    for _ in range(25):
        a, mu, b = rng.uniform(0.05, 1, size=rng.integers(1, 8)), rng.choice([0.0, 0.6, 0.9]), int(rng.integers(4, 40))
        try:
            one = strength(a, lr=rng.uniform(0.01, 0.6), b=b, momentum=mu, variance=0.3)
        except Refused:
            continue
        w = (pull := one.lr * a) ** 2 / (2 * (1 - mu) * pull - (1 - mu) / (1 + mu) * pull**2)
        missed = -one.misses["constant noise"].loss
        assert (w.sum() + (w**2).sum() / w.sum()) / b <= missed + 1e-12 <= one.gain + 1e-9
        assert len(a) > 1 or missed == pytest.approx(one.gain)
        assert 0 < -one.misses["small rate"].loss <= one.lr / one.largest_lr + 1e-9


def test_noise_that_vanishes():
    one = strength(1.0, lr=0.5, b=2, variance=0)
    assert one.misses == {} and one.simplest() is None and one.tail == (math.inf,) * 2
    assert "nothing fluctuates" in str(one) and one.excess == 0


def test_labels_that_are_met_exactly():
    wide = np.random.default_rng(2).normal(size=(4, 6))
    one = strength(data=(wide, Y), lr=0.05, b=2)
    assert one.still == 2 and one.misses == {} and one.tail == (math.inf,) * 2
    assert one.train == pytest.approx(0, abs=1e-20) and "nothing fluctuates" in str(one)
    assert strength(data=(wide, Y), lr=0.05, b=4, replace=False).misses == {}  # all samples: no noise
    assert strength(data=(X, Y), lr=0.05, b=4, replace=False).misses == {}


def test_curves_along_a_setting_are_settings():
    one = strength([1.0, 0.3], lr=0.2, b=4, momentum=0.2, decay=0.1, target=1.0)
    own = {"lr": 0.2, "b": 4, "momentum": 0.2, "decay": 0.1}
    for name, values in {"lr": [0.1, 5.0], "b": [2, 9], "momentum": [0.0, 0.7], "decay": [0.0, -0.1]}.items():
        curves = one.along(name, values)
        for k, value in enumerate(values):
            if name == "lr" and k:
                assert np.isnan([curve[k] for curve in curves.values()]).all()
                continue
            other = strength([1.0, 0.3], target=1.0, **{**own, name: value})
            assert curves["exact"][k] == pytest.approx(other.excess)
            for key, found in other.misses.items():
                guess = other.bias + (other.excess - other.bias) * (1 + found.loss)
                assert curves[key][k] == pytest.approx(guess)
    data = strength(data=(X, Y), lr=0.2, b=4, replace=False).along("b", [1, 4])["exact"]
    assert data[0] > data[1] == pytest.approx(0, abs=1e-12)  # all samples: no noise


def test_the_report_has_eight_rows():
    for one in (strength(1.5, lr=1.0, b=12), strength(data=(X, Y), lr=0.3, b=2, momentum=0.9, decay=0.1)):
        assert len(one.rows) == 8 == len(str(one).splitlines())
        assert all(isinstance(text, str) and text for row in one.rows for text in row)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"b": 0}, "b = 0 is out of range: a batch holds at least 1"),
        ({"features": [[1.0, 0.5], [0.0, 1.0]]}, "features of shape .* is not a symmetric matrix"),
        ({"features": [1.0, -0.2]}, "features has the negative eigenvalue -0.2: give a covariance"),
        ({"features": -1.0}, "negative eigenvalue -1"),
        ({"features": 0.0}, "features is zero"),
        ({"features": [0.0, 0.0]}, "features is zero"),
        ({"features": np.ones((2, 3))}, "is not a symmetric matrix"),
        ({"features": None}, "give either features, .* or data = "),
        ({"data": (X, Y)}, "not both"),
        (
            {"lr": 1.9},
            r"lr = 1.9 is unstable: the second moment diverges, gain .*; take lr below 1.33333, or b of",
        ),
        ({"lr": 2.1}, r"lr = 2.1 is unstable: the mean of θ does not settle; take lr below 1.33333$"),
        ({"decay": -1.5, "target": 1.0}, "decay = -1.5 pushes the flattest direction away: take decay above -1"),
        ({"decay": 0.1}, "target is missing: what decay and blur cost depends on it"),
        ({"blur": 0.1}, "target is missing"),
        ({"target": [1.0, 2.0]}, "target of shape"),
        ({"replace": False}, "replace = False draws from a data set"),
        ({"momentum": 1.0}, "momentum = 1.0 never forgets"),
        ({"variance": -1.0}, "variance = -1.0 is out of range"),
        ({"lr": 0.0}, "lr = 0.0 is out of range"),
        ({"blur": [0.1, 0.1], "target": 1.0}, "blur"),
    ],
)
def test_bad_input_is_one_clear_line(given, message):
    with pytest.raises(Refused, match=message) as caught:
        strength(**{"features": 1.0, "lr": 0.5, "b": 4} | given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": X}, "data is no pair"),
        ({"data": (X, Y[:3])}, "y of shape"),
        ({"data": (X[:, 0], Y)}, "x of shape"),
        ({"target": 1.0}, "target is for features, data have their own"),
        ({"b": 5, "replace": False}, "b = 5"),
        ({"blur": 0.1, "replace": False}, "every draw a fresh one"),
        ({"data": (0 * X, Y)}, "all inputs are zero"),
    ],
)
def test_bad_data_is_one_clear_line(given, message):
    with pytest.raises(Refused, match=message) as caught:
        strength(**{"data": (X, Y), "lr": 0.1, "b": 2} | given)
    assert "\n" not in str(caught.value)


def test_other_wrong_values():
    with pytest.raises(NotFinite):
        strength(data=(X * math.nan, Y), lr=0.1, b=2)
    with pytest.raises(WrongType):
        strength("wide", lr=0.1, b=2)
    one = strength(1.0, lr=0.1, b=2)
    with pytest.raises(Refused, match="name = 'rate' is unknown: choose lr, b, momentum, decay"):
        one.along("rate", [1.0])
    with pytest.raises(Refused, match="theories = 'Newton' is unknown: choose small rate, "):
        one.along("lr", [1.0], ["Newton"])
    with pytest.raises(Refused, match=r"b = 1\.5 is not an integer"):
        one.along("b", [1.5])
    with pytest.raises(Refused, match="error = 'mean' is unknown: choose loss, worst"):
        one.simplest("mean")
    with pytest.raises(Refused, match="x of shape"):
        one.loss_on([[1.0, 2.0]], [1.0])
