"""The noises of Table 1 by their covariance matrices, not by sampling; their schedules; the authors' variants; what is
refused.
"""

import copy

import pytest
import torch
from torch import nn

from support import covariances
from support.additive import langevin as dynamics
from support.additive.langevin import NAMES, SgdNoise, by_name
from support.covariances import Diagonal, LowRank
from support.curvature import Hessian
from support.gradients import GradientMatrix
from support.sampling import MiniBatch
from support.spectra import leading

N, B = 24, 4
MATCHED = tuple(name for name in NAMES if name != "GLD-const")


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def problem(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    generator = torch.Generator().manual_seed(1)
    return (
        model,
        torch.randn(N, 5, generator=generator, dtype=torch.float64),
        torch.randint(0, 3, (N,), generator=generator),
    )


def sgd_noise(inputs, targets, **options):
    return SgdNoise(cross_entropy, inputs, targets, B, **{"chunk": 7, **options})


def random(seed=3):
    return torch.Generator().manual_seed(seed)


def with_gradients(model, inputs, targets):
    model.zero_grad()
    cross_entropy(model(inputs), targets).mean().backward()
    return model


def move(model, size=0.3):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn_like(p))


def added(noise, model, generator):
    """What one call adds to the gradients, as one vector."""
    before = [p.grad.clone() for p in model.parameters()]
    noise(model, generator)
    return torch.cat([(p.grad - old).flatten() for p, old in zip(model.parameters(), before, strict=True)])


def close(ours, dense, atol=1e-12):
    torch.testing.assert_close(ours, dense, rtol=1e-8, atol=atol)


# --- covariances with a sampler


@pytest.mark.parametrize(
    "covariance",
    [Diagonal(torch.tensor([1.0, 0.0, 4.0])), LowRank(torch.tensor([4.0, 1.0]), torch.eye(3)[:, 1:])],
    ids=["diagonal", "low rank"],
)
def test_a_draw_is_a_root_of_the_covariance_times_white_noise(covariance, monkeypatch):
    """With unit vectors in place of white noise the draws are the columns of a root R, and R Rᵀ is the covariance:
    exact, without sampling.
    """
    units = iter(torch.eye(len(covariance.variances if isinstance(covariance, Diagonal) else covariance.values)))
    monkeypatch.setattr(covariances, "_white", lambda size, like, generator: next(units))
    root = torch.stack([covariance.draw(None) for _ in range(len(next(iter(vars(covariance).values()))))], 1)
    dense = covariance.dense()
    close(root @ root.T, dense)
    close(covariance.trace(), dense.trace())
    close(covariance @ torch.arange(6.0).reshape(3, 2), dense @ torch.arange(6.0).reshape(3, 2))
    close(covariance @ torch.arange(3.0), dense @ torch.arange(3.0))
    close(covariance.of_trace(2.0).dense(), dense * 2 / dense.trace())
    assert covariance.shape == (3, 3)
    with pytest.raises(ValueError, match="GiB: use products"):
        covariance.dense(limit_bytes=10)


def test_negative_variances_are_refused():
    with pytest.raises(ValueError, match="cannot have the eigenvalue -2: keep the positive"):
        Diagonal(torch.tensor([1.0, -2.0]))
    with pytest.raises(FloatingPointError, match="the variances of a noise are not finite"):
        LowRank(torch.tensor([float("nan")]), torch.ones(3, 1))


# --- the covariance of SGD


@pytest.mark.parametrize("replace", [True, False])
def test_diagonal_and_eigenpairs_are_those_of_the_dense_covariance(replace):
    model, *samples = problem()
    sgd = sgd_noise(*samples, replace=replace)
    dense = GradientMatrix(model, cross_entropy, *samples).covariance(MiniBatch(N, B, replace=replace)).dense()
    close(sgd.covariance(model).dense(), dense)
    close(sgd.diagonal(model, random()), dense.diagonal())
    pairs, trace = sgd.leading(model, 5, random())
    close(trace, dense.trace())
    close(pairs.values, torch.linalg.eigvalsh(dense).flip(0)[:5])
    close(dense @ pairs.vectors, pairs.vectors * pairs.values)
    close(pairs.vectors.T @ pairs.vectors, torch.eye(5, dtype=torch.float64), atol=1e-9)


def test_the_codes_covariance_is_that_of_a_partition_into_batches():
    model, inputs, targets = problem()
    sgd = sgd_noise(inputs, targets, protocol="code")
    order = torch.randperm(N, generator=random())
    gradients = GradientMatrix(model, cross_entropy, inputs, targets).dense()[:, order]
    expected = torch.cov(gradients.reshape(-1, N // B, B).mean(2))
    close(sgd.diagonal(model, random()), expected.diagonal())
    pairs, trace = sgd.leading(model, N // B - 1, random())
    close(LowRank(*pairs).dense(), expected)  # of rank n/b − 1, so these are all
    close(trace, expected.trace())
    assert not torch.equal(sgd.diagonal(model, random(3)), sgd.diagonal(model, random(4)))


def test_the_codes_covariance_is_on_average_that_with_replacement_times_n_over_n_less_one():
    """Over all partitions: two samples share a batch with chance (b−1)/(n−1); checked by enumeration for n = 4, b = 2,
    three partitions.
    """
    model, inputs, targets = problem()
    gradients = GradientMatrix(model, cross_entropy, inputs[:4], targets[:4])
    columns = gradients.dense()
    partitions = [[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2]]
    average = sum(torch.cov(columns[:, order].reshape(-1, 2, 2).mean(2)) for order in partitions) / 3
    close(average, gradients.covariance(MiniBatch(4, 2)).dense() * 4 / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "talk"}, "protocol = 'talk' is unknown: choose 'paper' or 'code'"),
        ({"protocol": "code", "b": 5}, "24 samples cannot be parted into two or more batches of b = 5"),
        ({"protocol": "code", "b": 24}, "cannot be parted"),
        ({"b": 25}, "b = 25 is out of range"),
    ],
)
def test_batches_that_cannot_be_are_refused(options, message):
    _, inputs, targets = problem()
    with pytest.raises(ValueError, match=message):
        SgdNoise(cross_entropy, inputs, targets, **{"b": B, **options})


# --- Table 1


def by_hand(name, model, inputs, targets, k):
    """Table 1 from dense matrices."""
    C = GradientMatrix(model, cross_entropy, inputs, targets).covariance(MiniBatch(N, B)).dense()
    H, identity = Hessian(model, cross_entropy, inputs, targets).dense(), torch.eye(len(C), dtype=torch.float64)

    def top(matrix, count):
        values, vectors = torch.linalg.eigh(matrix)
        return (vectors[:, -count:] * values[-count:]) @ vectors[:, -count:].T

    shape = {
        "GLD-dynamic": lambda: identity,
        "GLD-diag": lambda: torch.diag(C.diagonal()),
        "GLD-leading": lambda: top(C, k),
        "GLD-Hessian": lambda: top(H, k),
        "GLD-1st-eigenvector": lambda: top(H, 1),
    }
    if name == "GLD-const":
        return 1e-6 * identity
    found = shape[name]()
    return found * C.trace() / found.trace()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lanczos", [False, True])
def test_every_noise_has_the_covariance_of_table_1(name, lanczos, monkeypatch):
    monkeypatch.setattr("support.spectra._DENSE", 0 if lanczos else 300)
    model, *samples = problem()
    options = {"tolerance": 1e-10} if name in ("GLD-Hessian", "GLD-1st-eigenvector") else {}
    noise = by_name(name, sgd_noise(*samples), **options | ({"k": 4} if name in ("GLD-leading", "GLD-Hessian") else {}))
    with_gradients(model, *samples)
    drawn = added(noise, model, random())
    close(noise.covariance.dense(), by_hand(name, model, *samples, 4), atol=1e-8)
    close(drawn, noise.covariance.draw(random()))
    close(noise.covariance.dense(), noise.covariance.dense().T)


@pytest.mark.parametrize("name", MATCHED)
@pytest.mark.parametrize("replace", [True, False])
def test_the_trace_is_that_of_sgd_at_every_look_and_at_every_scaling_in_between(name, replace):
    model, *samples = problem()
    sgd = sgd_noise(*samples, replace=replace)
    noise = by_name(name, sgd, every=6, rescale_every=2)
    structures = []
    for step in range(13):
        with_gradients(model, *samples)
        noise(model, random(step))
        if step % 2 == 0:
            close(noise.covariance.trace(), sgd.covariance(model).trace())
        structures.append(noise.covariance.of_trace(1.0))
        move(model)
    # between looks the structure stands
    first, last = (tuple(vars(structures[i]).values()) for i in (6, 11))
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(first, last, strict=True))
    if name != "GLD-dynamic":
        assert not torch.allclose(tuple(vars(structures[0]).values())[-1], tuple(vars(structures[6]).values())[-1])


def test_between_scalings_the_covariance_stands():
    model, *samples = problem()
    noise = by_name("GLD-dynamic", sgd_noise(*samples), every=10, rescale_every=5)
    seen = []
    for step in range(6):
        with_gradients(model, *samples)
        noise(model, random(step))
        seen.append(float(noise.covariance.trace()))
        move(model)
    assert len(set(seen[:5])) == 1 and seen[5] != seen[0]


def test_the_constant_noise_stays_what_it_is():
    model, *samples = problem()
    noise = by_name("GLD-const", sgd_noise(*samples), sigma=0.5, every=1)
    for step in range(3):
        noise(with_gradients(model, *samples), random(step))
        move(model)
    close(noise.covariance.variances, torch.full_like(noise.covariance.variances, 0.25))


def test_frozen_layers_get_no_noise():
    model, *samples = problem()
    model[0].requires_grad_(False)
    noise = by_name("GLD-leading", sgd_noise(*samples), k=2)
    noise(with_gradients(model, *samples), random())
    assert noise.covariance.shape == (21, 21) and model[0].weight.grad is None


# --- the authors' variants


def test_the_codes_leading_noise_is_not_scaled_and_comes_at_every_tenth_step_only():
    model, *samples = problem()
    noise = by_name("GLD-leading", sgd_noise(*samples, protocol="code"), k=2, every=10)
    energy = []
    for step in range(20):
        with_gradients(model, *samples)
        energy.append(float(added(noise, model, random(step)).square().sum()))
        if step == 0:
            pairs, trace = sgd_noise(*samples, protocol="code").leading(model, 2, random(0))
            close(noise.covariance.dense(), LowRank(*pairs).dense())
            assert noise.covariance.trace() < 0.95 * trace
    assert [step for step, found in enumerate(energy) if found > 0] == [0, 10]


def test_the_codes_hessian_noise_exceeds_the_trace_where_curvature_is_negative():
    model, *samples = problem()
    sgd, k = sgd_noise(*samples, protocol="code"), 6
    pairs = leading(Hessian(model, cross_entropy, *samples), k, which="LM")
    assert (pairs.values < 0).any() and pairs.values.sum() > 0
    noise = by_name("GLD-Hessian", sgd, k=k, tolerance=1e-10)
    noise(with_gradients(model, *samples), random())
    trace = sgd.diagonal(model, random()).sum()
    close(noise.covariance.trace(), trace * pairs.values.abs().sum() / pairs.values.sum(), atol=1e-8)
    close(
        noise.covariance.dense(),
        (pairs.vectors * pairs.values.abs()) @ pairs.vectors.T * trace / pairs.values.sum(),
        atol=1e-8,
    )
    assert noise.covariance.trace() > 1.01 * trace
    paper = by_name("GLD-Hessian", sgd_noise(*samples), k=k)
    paper(with_gradients(model, *samples), random())
    close(paper.covariance.trace(), sgd.covariance(model).trace())


@pytest.mark.parametrize("name", ["GLD-dynamic", "GLD-diag", "GLD-leading"])
def test_the_codes_other_noises_are_silent_between_looks(name):
    model, *samples = problem()
    noise = by_name(name, sgd_noise(*samples, protocol="code"), every=3, **({"k": 2} if name == "GLD-leading" else {}))
    energy = [float(added(noise, with_gradients(model, *samples), random(step)).square().sum()) for step in range(7)]
    assert [step for step, found in enumerate(energy) if found > 0] == [0, 3, 6]


def negative(protocol):
    """A loss that is concave in the parameters of a linear model: H has no positive eigenvalue."""
    return SgdNoise(
        lambda outputs, _: -outputs.square().sum(1),
        torch.eye(4, dtype=torch.float64),
        torch.zeros(4),
        2,
        protocol=protocol,
    )


@pytest.mark.parametrize("name", ["GLD-Hessian", "GLD-1st-eigenvector"])
def test_a_hessian_without_positive_curvature_is_refused(name):
    model = nn.Linear(4, 1, bias=False).double()
    noise = by_name(name, negative("paper"), **({"k": 2} if name == "GLD-Hessian" else {}))
    with pytest.raises(ValueError, match="no positive curvature to make a noise of"):
        noise(model, random())


def test_the_codes_first_eigenvector_takes_either_sign_and_its_hessian_noise_cannot():
    model = nn.Linear(4, 1, bias=False).double()
    model.weight.grad = torch.zeros_like(model.weight)
    noise = by_name("GLD-1st-eigenvector", negative("code"))
    noise(model, random())
    close(noise.covariance.trace(), negative("code").diagonal(model, random()).sum())
    with pytest.raises(ValueError, match=r"eigenvalues of H sum to -.*: use protocol='paper'"):
        by_name("GLD-Hessian", negative("code"), k=2)(model, random())


# --- what is refused


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("GLD-best", {}, "no additive noise 'GLD-best': choose one of GLD-const"),
        (
            "GLD-leading",
            {"k": N},
            "k = 24 leading directions cannot be had: C of 24 samples has rank 23 at most; choose 1 ≤ k ≤ 23",
        ),
        ("GLD-leading", {"k": 0}, "k = 0 leading directions"),
        ("GLD-Hessian", {"k": 0}, "k = 0 leading directions make no noise"),
        ("GLD-const", {"sigma": -1.0}, "sigma = -1.0 is no standard deviation"),
        ("GLD-diag", {"every": 0}, "every = 0 steps make no schedule"),
        ("GLD-diag", {"rescale_every": 0}, "rescale_every = 0 steps"),
    ],
)
def test_noises_that_cannot_be_are_refused(name, options, message):
    _, *samples = problem()
    with pytest.raises(ValueError, match=message):
        by_name(name, sgd_noise(*samples), **options)


def test_more_directions_than_batches_or_parameters_are_refused():
    _, *samples = problem()
    with pytest.raises(ValueError, match="C of 6 batches has rank 5 at most"):
        by_name("GLD-leading", sgd_noise(*samples, protocol="code"), k=6)
    model, *samples = problem()
    with pytest.raises(ValueError, match="k = 58 eigenpairs cannot be had from a 57 x 57 matrix"):
        by_name("GLD-Hessian", sgd_noise(*samples), k=58)(with_gradients(model, *samples), random())


def test_gradients_that_do_not_fit_are_refused():
    model, *samples = problem()
    with pytest.raises(ValueError, match=r"24 gradients of 57 parameters take .* GiB: raise limit_bytes"):
        sgd_noise(*samples, limit_bytes=1000).leading(model, 2, random())


# --- checkpoints


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", ["paper", "code"])
def test_a_noise_that_is_put_away_and_taken_up_goes_on_as_it_was(name, protocol, tmp_path):
    options = {"k": 3} if name in ("GLD-leading", "GLD-Hessian") else {}

    def fresh(samples):
        return by_name(name, sgd_noise(*samples, protocol=protocol), every=4, rescale_every=2, **options)

    model, *samples = problem()
    noise, generator = fresh(samples), random()
    other = fresh(samples)
    other.load_state_dict(noise.state_dict())
    assert other.covariance is None and other.steps == 0
    for _ in range(3):
        noise(with_gradients(model, *samples), generator)
        move(model, 0.05)
    torch.save(noise.state_dict(), tmp_path / "noise.pt")
    other.load_state_dict(torch.load(tmp_path / "noise.pt", weights_only=True))
    torch.manual_seed(0)
    twin, twin_generator = copy.deepcopy(model), random()
    twin_generator.set_state(generator.get_state())
    for _ in range(6):
        one = added(noise, with_gradients(model, *samples), generator)
        two = added(other, with_gradients(twin, *samples), twin_generator)
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", MATCHED)
def test_where_sgd_has_no_noise_the_others_have_none(name):
    """Batches of all samples, without replacement; later the noise is there and is matched again."""
    model, *samples = problem()
    sgd = SgdNoise(cross_entropy, *samples, N, replace=False)
    noise = by_name(name, sgd, every=4, rescale_every=2)
    assert not added(noise, with_gradients(model, *samples), random()).any()
    noise.sgd = sgd_noise(*samples)
    noise(model, random()), noise(model, random())
    close(noise.covariance.trace(), noise.sgd.diagonal(model, random()).sum())


def test_parameters_without_a_gradient_take_noise_too():
    model, *samples = problem()
    model.unused = nn.Linear(2, 2).double()
    model.forward = lambda x: model[2](model[1](model[0](x)))
    cross_entropy(model(samples[0]), samples[1]).mean().backward()
    by_name("GLD-const", sgd_noise(*samples), sigma=1.0)(model, random())
    assert model.unused.weight.grad.all()


@pytest.mark.parametrize("protocol", ["paper", "code"])
def test_a_large_mean_gradient_does_not_drown_the_diagonal(protocol):
    torch.manual_seed(0)
    targets = 1e4 + torch.randn(N, generator=random())
    data = lambda kind: (nn.Linear(1, 1, bias=False).to(kind), torch.ones(N, 1, dtype=kind), targets.to(kind))  # noqa: E731
    loss = lambda outputs, t: (outputs[:, 0] - t).square() / 2  # noqa: E731
    found = []
    for kind in (torch.float32, torch.float64):
        model, *samples = data(kind)
        nn.init.zeros_(model.weight)
        found.append(float(SgdNoise(loss, *samples, B, protocol=protocol).diagonal(model, random()).sum()))
    assert found[0] == pytest.approx(found[1], rel=5e-3)


def test_options_that_a_noise_does_not_take_are_named():
    _, *samples = problem()
    with pytest.raises(ValueError, match=r"GLD-dynamic takes no k: its options are every, rescale_every$"):
        by_name("GLD-dynamic", sgd_noise(*samples), k=3)
    with pytest.raises(
        ValueError, match="GLD-1st-eigenvector takes no k: its options are every, rescale_every, tolerance"
    ):
        by_name("GLD-1st-eigenvector", sgd_noise(*samples), k=3)
    assert isinstance(by_name("gld-leading", sgd_noise(*samples), k=3), dynamics.Leading)
    with pytest.raises(ValueError, match=r"every = 1\.5 steps make no schedule"):
        by_name("GLD-diag", sgd_noise(*samples), every=1.5)


def test_the_state_of_another_noise_is_refused():
    model, *samples = problem()
    noise = by_name("GLD-leading", sgd_noise(*samples), k=3)
    noise(with_gradients(model, *samples), random())
    with pytest.raises(ValueError, match="another noise than DiagonalOfC"):
        by_name("GLD-diag", sgd_noise(*samples)).load_state_dict(noise.state_dict())
