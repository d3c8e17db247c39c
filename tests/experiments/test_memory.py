"""Too little memory: smaller passes with the same result, said once; what cannot be smaller is one line."""

import pytest
import torch
from torch import nn

from support.errors import Refused, WrongType
from support.experiments import memory
from support.experiments.ghost import GhostBatchNorm2d
from support.experiments.judging import cross_entropy
from support.experiments.memory import Fitting, TooLarge, halving
from support.experiments.training import Data, Trainer
from support.msgd import backward_in_chunks
from support.sampling import by_name

N, B = 24, 4


def network(*layers):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 6), *layers, nn.Tanh(), nn.Linear(6, 3))


def small(room, when="loss"):
    """The loss of a device that holds so many samples: memory runs out at the forward or at the backward pass."""

    class Full(torch.autograd.Function):
        @staticmethod
        def forward(context, losses):
            return losses.clone()

        @staticmethod
        def backward(context, slope):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    def loss(outputs, targets):
        losses = cross_entropy(outputs, targets)
        if len(outputs) <= room or not torch.is_grad_enabled():
            return losses
        if when == "loss":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
        return Full.apply(losses)

    return loss


def trained(model, loss, said=None, method="GD", steps=3, chunk=24, **options):
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(N, 5, generator=generator), torch.arange(N) % 3
    data = Data.on("cpu", (inputs, labels), (inputs[:4].clone(), labels[:4]), 4)
    passes = backward_in_chunks if said is None else Fitting(say=said.append)
    own = {"generator": torch.Generator().manual_seed(5), "loss": loss, "passes": passes, "chunk": chunk, **options}
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
    trainer = Trainer(model, optimizer, by_name(method, N, B), data, **own)
    return trainer.run(steps, evaluate_every=1, show=False)


@pytest.mark.parametrize("when", ["loss", "backward"])
@pytest.mark.parametrize("method", ["GD", "MSGD-Cov"])
def test_the_result_is_that_of_smaller_chunks_bit_for_bit(when, method):
    """24 samples do not fit, nor do 12; 6 do. The passes that were broken off have left no trace."""
    said, ours, plain = [], network(), network()
    one = trained(ours, small(7, when), said, method)
    other = trained(plain, cross_entropy, None, method, chunk=6)
    assert said == ["the memory holds 6 samples at once, not 24: that many pass together"]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert one.curves == other.curves


def test_gradients_of_before_are_added_to_once():
    model, fits = network(), Fitting(say=lambda line: None)
    model[0].weight.grad = torch.ones(6, 5)
    step = torch.ones(8, 5), torch.arange(8) % 3, torch.ones(8), 8
    list(fits(model, small(3, "backward"), *step))
    found = model[0].weight.grad.clone()
    model.zero_grad()
    list(backward_in_chunks(model, cross_entropy, *step[:3], 2))
    torch.testing.assert_close(found, 1 + model[0].weight.grad)


def test_ghost_batches_of_a_layer_stay_whole():
    """24, 12, then 6: halves are rounded to multiples of 3, and running statistics are put back."""

    def make():
        return network(nn.Unflatten(1, (2, 3, 1)), GhostBatchNorm2d(2, ghost=3), nn.Flatten())

    assert memory._together(make(), 24) == 3 and memory._together(make().eval(), 24) == 1
    ours, plain, said = make(), make(), []
    fits = Fitting(say=said.append)
    inputs, labels, weights = torch.randn(24, 5), torch.arange(24) % 3, torch.full((24,), 1 / 24)
    list(fits(ours, small(7, "backward"), inputs, labels, weights, 24))
    list(backward_in_chunks(plain, cross_entropy, inputs, labels, weights, 6))
    assert said == ["the memory holds 6 samples at once, not 24: that many pass together"]
    torch.testing.assert_close(dict(ours.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)
    with pytest.raises(TooLarge, match="memory does not hold a pass of 3 samples"):
        list(Fitting(say=said.append)(make(), small(2), inputs, labels, weights, 24))


@pytest.mark.parametrize(
    ("layers", "options", "size"),
    [
        ((), {}, 1),  # a sample alone
        ((nn.BatchNorm1d(6),), {}, 24),  # BatchNorm sees the step whole
        ((nn.BatchNorm1d(6),), {"ghost": 8}, 8),
    ],
)
def test_what_cannot_be_smaller_is_one_line(layers, options, size):
    message = rf"memory does not hold a pass of {size} samples \(CUDA out of memory\): take a smaller network"
    with pytest.raises(TooLarge, match=message) as raised:
        trained(network(*layers), small(0), [], **options)
    assert "\n" not in str(raised.value)


def test_the_size_is_kept_and_falls_again_where_it_must():
    said, seen, room = [], [], [12]

    def loss(outputs, targets):
        seen.append(len(outputs))
        return small(room[0])(outputs, targets)

    fits, model = Fitting(say=said.append), network()
    step = torch.ones(24, 5), torch.arange(24) % 3, torch.ones(24), 24
    list(fits(model, loss, *step)), list(fits(model, loss, *step))
    room[0] = 5
    list(fits(model, loss, *step))
    assert seen == [24, 12, 12, 12, 12, 12, 6, 3] + [3] * 7
    assert [line.split(":")[0] for line in said] == [
        "the memory holds 12 samples at once, not 24",
        "the memory holds 3 samples at once, not 12",
    ]


def test_other_errors_pass_through():
    with pytest.raises(ZeroDivisionError):
        halving(lambda size: 1 / 0, 4)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: halving(lambda size: size, 0), Refused),
        (lambda: halving(lambda size: size, 2, multiple=0), Refused),
        (lambda: Fitting(3), WrongType),
        (lambda: Fitting(say="no"), WrongType),
    ],
)
def test_bad_input_is_refused(call, error):
    with pytest.raises(error):
        call()
