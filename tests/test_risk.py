"""The empirical risk: what data may be, which parameters count, what is refused, what stays as it was; derivatives that
agree with the backward pass, against references made sample by sample with plain autograd.
"""

import random
from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from support import batches
from support.curvature import GaussNewton, Hessian
from support.errors import Refused, WrongType
from support.gradients import GradientMatrix
from support.risk import EmpiricalRisk
from support.sampling import MiniBatch
from support.trust import CoupledLossError

N = 40
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randint(0, 3, (N,), generator=torch.Generator().manual_seed(2))


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def reference(model, call, loss=cross_entropy, n=N):
    """The gradient matrix, one plain backward pass a sample; call(model, i): the outputs of sample i, targets of it."""
    parameters, columns = [p for p in model.parameters() if p.requires_grad], []
    for i in range(n):
        total = loss(*call(model, i)).sum()
        grads = torch.autograd.grad(total, parameters, materialize_grads=True)
        columns.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(columns, 1)


def one(model, i):
    return model(X[i : i + 1]), Y[i : i + 1]


def close(ours, dense, rtol=1e-10):
    torch.testing.assert_close(ours, dense, rtol=rtol, atol=1e-12)


def everything_agrees(risk, dense):
    """All products with the gradient matrix and with C against a dense gradient matrix."""
    g, law = GradientMatrix(risk), MiniBatch(risk.n, 3)
    generator = torch.Generator().manual_seed(3)
    u, w = (torch.randn(size, generator=generator).to(dense) for size in dense.shape)
    C = dense @ torch.tensor(law.covariance.dense()).to(dense) @ dense.T
    close(g.dense(), dense)
    close(g @ w, dense @ w)
    close(g.T @ u, dense.T @ u)
    close(g.covariance(law) @ u, C @ u)
    close(g.covariance(law).dense(), C)


# --- what data may be


class Named(nn.Module):
    """Takes its inputs by keyword."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x, *, scale):
        return self.linear(x) * scale


class Whole(nn.Module):
    """Takes its inputs as one nest."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, batch):
        return self.linear(batch["x"]) * batch["more"][0]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x, scale):
        return self.linear(x) * scale


NESTS = {
    "keywords": (Named, {"x": X, "scale": X[:, :3]}),
    "keywords, of another mapping": (Named, UserDict({"x": X, "scale": X[:, :3]})),
    "a dict, whole": (Whole, {"x": X, "more": (X[:, :3],)}),
    "a tuple": (Two, (X, X[:, :3])),
    "a list": (Two, [X, X[:, :3]]),
}


@pytest.mark.parametrize("kind", NESTS)
@pytest.mark.parametrize("loaded", [False, True])
def test_nested_batches_and_loaders_of_them(kind, loaded):
    make, inputs = NESTS[kind]
    torch.manual_seed(0)
    model = make().double()
    data = (inputs, Y)
    if loaded:
        data = [(batches.take(inputs, slice(k, k + 16)), Y[k : k + 16]) for k in range(0, N, 16)]
    risk = EmpiricalRisk(model, cross_entropy, data)
    assert (risk.n, risk.chunk) == (N, 16 if loaded else N)
    outputs = lambda model, i: (model.linear(X[i : i + 1]) * X[i : i + 1, :3], Y[i : i + 1])  # noqa: E731
    everything_agrees(risk, reference(model, outputs))


def test_a_loader_that_shuffles_numbers_the_samples_as_they_came():
    model = network()
    torch.manual_seed(5)
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
    risk = EmpiricalRisk(model, cross_entropy, loader)
    assert not torch.equal(risk.targets, Y) and torch.equal(risk.targets.sort().values, Y.sort().values)
    losses = cross_entropy(model(risk.inputs), risk.targets).detach()
    close(risk.losses(), losses)
    w = torch.randn(N, dtype=torch.float64)
    for _ in range(2):  # the order stands
        close(GradientMatrix(risk) @ w, GradientMatrix(risk).dense() @ w)
    close(risk.mean, cross_entropy(model(X), Y).mean().detach())


@pytest.mark.parametrize(
    "bad", [None, 3, "data", X, {"x": X}, TensorDataset(X, Y), [X, Y], (X.numpy(), Y.numpy()), [], (X,)]
)
def test_what_is_no_data_is_one_clear_line(bad):
    with pytest.raises(Refused, match=r"data is of type|loader gave|holds a") as caught:
        EmpiricalRisk(network(), cross_entropy, bad)
    assert "\n" not in str(caught.value)


def test_batches_of_unequal_shapes_and_data_that_the_model_cannot_take_are_refused():
    with pytest.raises(Refused, match=r"do not fit together.*padded to one length"):
        EmpiricalRisk(network(), cross_entropy, [(X[:4], Y[:4]), (X[4:8, :5], Y[4:8])])
    with pytest.raises(Refused, match=r"Sequential and its loss cannot be evaluated on these samples.*type"):
        EmpiricalRisk(network(), cross_entropy, (X.float(), Y))


# --- which parameters count


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("0", ["0.weight", "0.bias"]),
        ("2.bias", ["2.bias"]),
        ("*.bias", ["0.bias", "2.bias"]),
        (["2", "0.bias"], ["0.bias", "2.weight", "2.bias"]),
    ],
)
def test_a_choice_of_parameters(choice, names):
    model = network()
    risk = EmpiricalRisk(model, cross_entropy, (X, Y), parameters=choice)
    assert list(risk.shapes) == names
    rows = EmpiricalRisk(model, cross_entropy, (X, Y)).named(reference(model, one))
    everything_agrees(risk, torch.cat([rows[name].reshape(-1, N) for name in names]))
    whole, u = EmpiricalRisk(model, cross_entropy, (X, Y)), torch.ones(risk.d, dtype=torch.float64)
    where = torch.cat([whole.named(torch.arange(whole.d))[name].flatten() for name in names])
    wide = torch.zeros(whole.d, dtype=torch.float64).index_fill(0, where, 1.0)
    close(Hessian(risk) @ u, (Hessian(whole) @ wide)[where])


def test_a_module_is_a_choice_and_frozen_parameters_are_none():
    model = network()
    assert list(EmpiricalRisk(model, cross_entropy, (X, Y), parameters=model[2]).shapes) == ["2.weight", "2.bias"]
    for choice, error, message in [
        ("3", Refused, "'3' is none that requires a gradient: choose among 0.weight"),
        (nn.Linear(2, 2), Refused, "'Linear' is none that requires a gradient"),
        (3, WrongType, "3 names none"),
        ([None], WrongType, "None names none"),
    ]:
        with pytest.raises(error, match=message):
            EmpiricalRisk(model, cross_entropy, (X, Y), parameters=choice)
    model[0].requires_grad_(False)
    with pytest.raises(Refused, match="'0' is none"):
        EmpiricalRisk(model, cross_entropy, (X, Y), parameters="0")


def test_vectors_to_named_parameters_and_back():
    risk = EmpiricalRisk(network(), cross_entropy, (X, Y))
    named = risk.named(risk.theta)
    for name, p in risk.model.named_parameters():
        assert torch.equal(named[name], p)
    close(risk.flat(named), risk.theta)
    assert risk.named(torch.zeros(risk.d, 7))["0.weight"].shape == (5, 6, 7)
    with pytest.raises(Refused, match=r"vector has shape \(3,\)"):
        risk.named(torch.zeros(3))
    with pytest.raises(Refused, match=r"^2.bias: other names or shapes than the parameters'"):
        risk.flat({name: t for name, t in named.items() if name != "2.bias"})
    with pytest.raises(WrongType):
        risk.flat(named | {"2.bias": [1.0]})


def test_at_and_here_look_again_without_repeating_the_checks():
    model = network()
    calls = []
    counting = lambda outputs, targets: calls.append(1) or cross_entropy(outputs, targets)  # noqa: E731
    risk = EmpiricalRisk(model, counting, (X, Y))
    there = risk.at(2 * risk.theta)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    calls.clear()
    here = risk.here()
    assert not calls
    close(there.losses(), here.losses())
    close(here.losses(), cross_entropy(model(X), Y).detach())
    close(risk.loss_at(here.theta), here.mean)
    assert not torch.equal(risk.theta, here.theta)
    model.float()
    close(EmpiricalRisk(model, cross_entropy, (X.float(), Y)).here().theta, here.theta.float(), rtol=1e-6)


def test_here_looks_again_where_a_module_has_gone_to_training():
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)).double().eval()
    risk = EmpiricalRisk(model, cross_entropy, (X, Y))
    model.train()
    with pytest.raises(CoupledLossError, match="draws at random"):
        risk.here()


# --- what is refused: coupling and chance


def weighted(outputs, targets):
    w = torch.where(targets == 2, 3.0, 1.0)
    return cross_entropy(outputs, targets) * w / w.mean()


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_coupling_that_begins_after_the_first_samples_is_refused_in_every_precision(kind):
    late = torch.where(torch.arange(N) < 20, 0, Y)
    with pytest.raises(CoupledLossError, match="with the batch it is in"):
        EmpiricalRisk(network().to(kind), weighted, (X.to(kind), late))
    EmpiricalRisk(network().to(kind), cross_entropy, (X.to(kind), late))


class Skips(nn.Module):
    """Stochastic depth without a class name; skips almost never."""

    def __init__(self, dice, chance=1e-6):
        super().__init__()
        self.linear, self.dice, self.chance = nn.Linear(6, 3), dice, chance
        self.held = dice if isinstance(dice, (torch.Generator, np.random.Generator)) else None

    def forward(self, x):
        toss = (
            self.dice()
            if callable(self.dice)
            else (torch.rand((), generator=self.dice) if isinstance(self.dice, torch.Generator) else self.dice.random())
        )
        return x[:, :3] if toss < self.chance else self.linear(x)


@pytest.mark.parametrize(
    "dice",
    [
        lambda: torch.rand(()),
        random.random,
        np.random.random,
        torch.Generator().manual_seed(0),
        np.random.default_rng(0),
    ],
    ids=["torch", "python", "numpy", "own torch", "own numpy"],
)
def test_chance_is_refused_always_and_the_generators_stand(dice):
    states = lambda: (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: E731
    for kind in (torch.float32, torch.bfloat16):
        model, before = Skips(dice).to(kind), states()
        with pytest.raises(CoupledLossError, match="drawn at random"):
            EmpiricalRisk(model, cross_entropy, (X.to(kind), Y))
        assert states() == before


def test_a_hidden_generator_shows_in_its_numbers():
    hidden = np.random.default_rng(0)
    noisy = lambda outputs, targets: cross_entropy(outputs, targets) * (1 + 0.01 * hidden.random())  # noqa: E731
    with pytest.raises(CoupledLossError, match="drawn at random"):
        EmpiricalRisk(network(), noisy, (X, Y))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.functional.cross_entropy, r"shape \(\) for 40 samples.*not their mean"),
        (lambda o, t: cross_entropy(o, t)[:, None], r"shape \(40, 1\) for 40 samples: .*shape \(40,\)"),
        (lambda o, t: cross_entropy(o.detach(), t), "does not depend on the parameters 0.weight"),
        (lambda o, t: o.argmax(1), "losses are of type torch.int64"),
        (lambda o, t: None, "the loss is of type NoneType"),
    ],
)
def test_losses_that_are_none_are_refused(loss, message):
    with pytest.raises(Refused, match=message):
        EmpiricalRisk(network(), loss, (X, Y))


def test_a_model_under_no_grad_is_refused():
    class Still(nn.Sequential):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    with pytest.raises(Refused, match="does not depend on the parameters"):
        EmpiricalRisk(Still(nn.Linear(6, 3)).double(), cross_entropy, (X, Y))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, "chunk = 0"),
        ({"chunk": 2.5}, "chunk = 2.5"),
        ({"chunk": True}, "chunk = True"),
        ({"theta": [0.0]}, "theta is of type list"),
        ({"theta": torch.zeros(3)}, r"theta has shape \(3,\): it must be \(53,\)"),
        ({"ghost": 7}, "40 samples cannot be parted into batches of ghost = 7"),
        ({"ghost": 0}, "ghost = 0"),
    ],
)
def test_options_that_cannot_be_are_one_clear_line(options, message):
    with pytest.raises(Refused, match=message):
        EmpiricalRisk(network(), cross_entropy, (X, Y), **options)


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_models_that_are_none_are_refused():
    with pytest.raises(WrongType, match="model is of type function"):
        EmpiricalRisk(cross_entropy, cross_entropy, (X, Y))
    with pytest.raises(WrongType, match="loss = 3 cannot be called"):
        EmpiricalRisk(network(), 3, (X, Y))
    with pytest.raises(Refused, match="parameters weight, bias are complex"):
        EmpiricalRisk(nn.Linear(6, 3).to(torch.complex64), lambda o, t: o.abs().sum(1), (X.to(torch.complex64), Y))
    with pytest.raises(Refused, match="Sequential has no parameter"):
        EmpiricalRisk(network().requires_grad_(False), cross_entropy, (X, Y))
    for operator in (GradientMatrix, Hessian, GaussNewton):
        with pytest.raises(WrongType, match=r"risk is of type Sequential: give support.risk.EmpiricalRisk"):
            operator(network())


# --- sums and types


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_sums_over_chunks_are_taken_in_float32(kind):
    """The mean of 700 losses of 1, in chunks of 7, is 1, and so is that of their slopes."""
    model = nn.Linear(1, 1, bias=False).to(kind)
    nn.init.ones_(model.weight)
    risk = EmpiricalRisk(model, lambda o, t: o[:, 0], (torch.ones(700, 1, dtype=kind), torch.zeros(700)), chunk=7)
    assert risk.dtype == torch.float32
    assert float(risk.mean) == pytest.approx(1, abs=1e-6)
    assert float(GradientMatrix(risk).mean) == pytest.approx(1, rel=1e-5)
    assert float(GradientMatrix(risk).fisher().trace()) == pytest.approx(1, rel=1e-5)


def test_a_loss_of_higher_precision_than_the_parameters():
    model, x = network().float(), X.float()
    precise = lambda outputs, targets: cross_entropy(outputs.double(), targets)  # noqa: E731
    risk = EmpiricalRisk(model, precise, (x, Y), chunk=7)
    assert risk.losses().dtype == torch.float64 and risk.dtype == torch.float32
    g, u = GradientMatrix(risk), torch.ones(risk.d)
    dense = reference(model, lambda m, i: (m(x[i : i + 1]), Y[i : i + 1]), precise)
    C = dense @ torch.tensor(MiniBatch(N, 3).covariance.dense()).float() @ dense.T
    for ours, theirs in [(g.mean, dense.mean(1)), (g.T @ u, dense.T @ u), (g.covariance(MiniBatch(N, 3)) @ u, C @ u)]:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert float(g.covariance(MiniBatch(N, 3)).trace()) == pytest.approx(float(C.trace()), rel=1e-5)
    plain = Hessian(EmpiricalRisk(model, cross_entropy, (x, Y)))
    torch.testing.assert_close(Hessian(risk) @ u, plain @ u, rtol=1e-4, atol=1e-6)


def test_parameters_of_two_types():
    model = network()
    model[2].float()
    model.insert(2, nn.Module())
    model[2].forward = lambda x: x.float()
    risk = EmpiricalRisk(model, cross_entropy, (X, Y))
    dense = reference(model, one)
    torch.testing.assert_close(GradientMatrix(risk).dense(), torch.cat([dense]).double(), rtol=1e-5, atol=1e-6)


# --- what stays as it was


def test_the_callers_data_are_never_written():
    model, mine, labels = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3)).double(), X.clone(), Y.clone()
    risk = EmpiricalRisk(model, cross_entropy, (mine, labels), chunk=16)
    everything_agrees(risk, reference(model, lambda m, i: (m(X[i : i + 1].clone()), Y[i : i + 1])))
    u = torch.ones(risk.d, dtype=torch.float64)
    Hessian(risk) @ u, GaussNewton(risk) @ u, risk.losses()
    assert torch.equal(mine, X) and torch.equal(labels, Y)


MOVING = {
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)),
        nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
        nn.Flatten(),
        nn.Linear(6, 3),
    ),
    "spectral norm": lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)), nn.Linear(5, 3)),
    "spectral norm, old": lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 5)), nn.Linear(5, 3)),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", MOVING)
def test_buffers_are_as_before(kind):
    torch.manual_seed(0)
    model = MOVING[kind]().double()
    before = [buffer.clone() for buffer in model.buffers()]
    risk = EmpiricalRisk(model, cross_entropy, (X, Y), chunk=16)
    g = GradientMatrix(risk)
    u = torch.ones(g.d, dtype=torch.float64)
    close(g.T @ u, g.dense().T @ u)
    Hessian(risk) @ u
    assert before and all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_buffers_are_as_before_after_a_refusal():
    model = MOVING["instance norm"]().double()
    before = [buffer.clone() for buffer in model.buffers()]
    with pytest.raises(CoupledLossError):
        EmpiricalRisk(model, weighted, (X, Y))
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_measuring_works_where_gradients_are_off():
    model = network()
    dense = reference(model, one)
    with torch.no_grad():
        risk = EmpiricalRisk(model, cross_entropy, (X, Y))
        everything_agrees(risk, dense)
        u = torch.ones(risk.d, dtype=torch.float64)
        products = Hessian(risk) @ u, GaussNewton(risk) @ u
    close(torch.stack(products), torch.stack([Hessian(risk) @ u, GaussNewton(risk) @ u]))


# --- derivatives that disagree, or are missing


class Stopped(nn.Module):
    """no_grad inside the model."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        with torch.no_grad():
            y = self.a(x)
        return self.b(y * self.a(x).tanh())


class Reversed(torch.autograd.Function):
    """Another backward pass than the derivative, in torch's older form."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -2 * grad


class Custom(Stopped):
    def forward(self, x):
        return self.b(Reversed.apply(self.a(x)).tanh())


class Hooked(Stopped):
    def forward(self, x):
        y = self.a(x)
        if y.requires_grad:
            y.register_hook(lambda grad: 2 * grad)
        return self.b(y.tanh())


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(4, 4, padding_idx=0), nn.Linear(4, 3)
        nn.init.normal_(self.embedding.weight)

    def forward(self, x):
        return self.linear(self.embedding((x.abs() * 2).long().clamp(max=3)).mean(1).tanh())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.last = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.cell(x.view(-1, 2, 3))[0][:, -1])


def encoder():
    layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Linear(3, 4), layer, nn.Flatten(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("make", [Stopped, Custom, Hooked, Padded, Recurrent, encoder])
@pytest.mark.parametrize("chunk", [None, 16])
def test_products_are_those_of_the_backward_pass_whatever_forward_mode_says(make, chunk):
    torch.manual_seed(0)
    model = make().double()
    everything_agrees(EmpiricalRisk(model, cross_entropy, (X, Y), chunk=chunk), reference(model, one))


def expected_fisher(model):
    """Σ_y p(y|x) ∇ℓ(x, y) ∇ℓ(x, y)ᵀ/n over labels that the model draws: the Gauss-Newton matrix of a softmax."""
    chances, total = model(X).softmax(1).detach(), 0.0
    for label in range(3):
        dense = reference(model, lambda m, i, label=label: (m(X[i : i + 1]), torch.tensor([label])))
        total = total + (dense * chances[:, label]) @ dense.T / N
    return total


@pytest.mark.parametrize("make", [encoder, Recurrent, Stopped, Padded, network])
def test_gauss_newton_with_and_without_forward_mode(make):
    torch.manual_seed(0)
    model = make().double()
    fisher = expected_fisher(model)
    u = torch.ones(len(fisher), 2, dtype=torch.float64).cumsum(0).sin()
    close(GaussNewton(EmpiricalRisk(model, cross_entropy, (X, Y), chunk=16)) @ u, fisher @ u)


def test_gauss_newton_in_single_precision_without_forward_mode():
    torch.manual_seed(0)
    model = Recurrent().double()
    expected = expected_fisher(model).float()
    u = torch.ones(len(expected)).cumsum(0).sin()
    ours = GaussNewton(EmpiricalRisk(model.float(), cross_entropy, (X.float(), Y))) @ u
    torch.testing.assert_close(ours, expected @ u, rtol=1e-3, atol=1e-5)


def test_gauss_newton_wants_one_tensor_of_outputs():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    risk = EmpiricalRisk(Pair(6, 3).double(), lambda o, t: cross_entropy(o[0], t), (X, Y))
    close(GradientMatrix(risk).mean, GradientMatrix(risk).dense().mean(1))
    with pytest.raises(WrongType, match="outputs are a tuple"):
        GaussNewton(risk).trace()


# --- batches with statistics of their own


def test_ghost_batches_of_a_model_with_batch_norm():
    torch.manual_seed(0)
    model, b = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double(), 8
    before = [buffer.clone() for buffer in model.buffers()]
    with pytest.raises(CoupledLossError, match=r"ghost=100"):
        EmpiricalRisk(model, cross_entropy, (X, Y))
    risk = EmpiricalRisk(model, cross_entropy, (X, Y), ghost=b)
    assert risk.n == N // b
    assert all(torch.equal(a, c) for a, c in zip(before, model.buffers(), strict=True))
    batch = lambda m, k: (m(X[k * b : (k + 1) * b]), Y[k * b : (k + 1) * b])  # noqa: E731
    dense = reference(model, batch, lambda o, t: cross_entropy(o, t).mean(), N // b)
    everything_agrees(risk, dense)
    close(GradientMatrix(risk).covariance(MiniBatch(N // b, 1)).dense(), torch.cov(dense, correction=0))
    u = torch.ones(risk.d, dtype=torch.float64)
    several = EmpiricalRisk(model, cross_entropy, (X, Y), ghost=b, chunk=3)
    close(Hessian(several) @ u, Hessian(risk) @ u)
    with pytest.raises(Refused, match="use Hessian"):
        GaussNewton(risk) @ u
