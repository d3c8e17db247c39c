"""What a run learns from and is judged on: inputs and labels on one device, and a classifier's loss and accuracy there.

Judging takes place in evaluation mode, on fixed samples, and leaves no trace in the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from support.errors import Refused, WrongType, function, instance, integer, tensor
from support.msgd import PerSampleLoss


class JudgingError(Refused):
    """A model or a loss that cannot be judged; the message names the value and the remedy."""


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats of each sample: logits (m, classes), labels (m,), losses (m,).

    >>> cross_entropy(torch.zeros(2, 10), torch.tensor([3, 4]))  # ln 10
    tensor([2.3026, 2.3026])
    """
    return torch.nn.functional.cross_entropy(tensor("outputs", outputs), tensor("targets", targets), reduction="none")


def squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared distance ``|f − e_y|²`` of the outputs f (m, classes) from the label's unit vector e_y, shape (m,).

    It is cut at `CEILING`, where its gradient ends: a run that explodes stands still there, its numbers finite.

    >>> squares(torch.tensor([[0.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1]))
    tensor([1., 4.])
    """
    labels = torch.nn.functional.one_hot(tensor("targets", targets), tensor("outputs", outputs).shape[1])
    return (outputs - labels).square().sum(1).clamp(max=CEILING)


def mean_squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`squares` over the number of classes, as ``torch.nn.MSELoss`` takes their mean.

    >>> mean_squares(torch.zeros(1, 10), torch.tensor([3]))
    tensor([0.1000])
    """
    return squares(outputs, targets) / outputs.shape[1]


CEILING = 1e6  # of a squared error
LOSSES = {"cross_entropy": cross_entropy, "squares": squares, "mean_squares": mean_squares}


@dataclass(frozen=True)
class Data:
    """Inputs and labels on one device. watched: how many test images, the first ones, are judged during the run; all of
    them are at its end.  Raises WrongType for what is no pair of tensors, Refused for pairs of unequal lengths.
    """

    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    watched: int

    def __post_init__(self):
        for name, part in (("train", self.train), ("test", self.test)):
            inputs, targets = (tensor(f"the {name} part", one) for one in _pair(name, part))
            if len(inputs) != len(targets):
                raise Refused(f"{name} has {len(inputs)} inputs and {len(targets)} targets: give one target a sample")
        integer("watched", self.watched, 0)

    @classmethod
    def on(cls, device: str | torch.device, train, test, watched: int) -> Data:
        """Arrays or tensors (inputs, labels), images with their channels last in memory, which is what convolutions are
        fast with; ``watched`` at least 1, and at most all.

        >>> images, labels = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
        >>> Data.on("cpu", (images, labels), (images, labels), watched=10).watched
        3
        """

        def move(name, part):
            try:
                inputs, labels = (torch.as_tensor(array, device=device) for array in _pair(name, part))
            except (TypeError, ValueError, RuntimeError, AssertionError) as error:
                said = str(error).partition("\n")[0]
                raise WrongType(f"{name} cannot be moved to {device!r} ({said}): give two arrays of numbers") from error
            return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs, labels

        watched = integer("watched", watched, 1)
        train, test = move("train", train), move("test", test)
        if alone := [name for name, part in (("train", train), ("test", test)) if not all(x.ndim for x in part)]:
            raise Refused(f"{alone[0]} holds a number alone: give inputs and labels with a sample a row")
        return cls(train, test, min(watched, len(test[0])))


def _pair(name: str, part) -> tuple:
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise WrongType(f"{name} is of type {type(part).__name__}: give a pair, inputs and labels")
    return tuple(part)


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of a `with` block; then each module is in its own mode again, frozen ones too.

    >>> model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2).eval())
    >>> with evaluating(model):
    ...     print(model.training)
    False
    >>> [module.training for module in model]
    [True, False]
    """
    modes = [(module, module.training) for module in instance("model", model, torch.nn.Module, "give one").modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def judge(model: torch.nn.Module, loss: PerSampleLoss, inputs, targets, at_once: int = 500) -> tuple[float, float]:
    """Mean loss, summed in float64, and accuracy (a fraction) in evaluation mode; ``at_once`` samples pass together. A
    device is waited for at the end only. Raises WrongType, Refused for at_once < 1.

    >>> judge(torch.nn.Identity(), cross_entropy, torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))  # ln 2
    (0.6931471824645996, 0.75)
    """
    inputs, targets, loss = tensor("inputs", inputs), tensor("targets", targets), function("loss", loss)
    at_once = integer("at_once", at_once, 1)
    total = torch.zeros((), dtype=torch.float64, device=inputs.device)
    correct = torch.zeros((), dtype=torch.int64, device=inputs.device)
    with evaluating(model):
        for start in range(0, len(inputs), at_once):
            part = slice(start, start + at_once)
            outputs = model(inputs[part])
            total += loss(outputs, targets[part]).sum(dtype=torch.float64)
            correct += (outputs.argmax(1) == targets[part]).sum()
    return float(total) / len(inputs), int(correct) / len(inputs)


@torch.no_grad()
def probe(model: torch.nn.Module, loss: PerSampleLoss, inputs, targets) -> None:
    """Pass two samples in evaluation mode. Raises WrongType for what is no tensor or function, JudgingError for a model
    that writes into its inputs, for outputs that are not (m, classes), and for losses that are not one number a sample.
    """
    inputs, targets = tensor("inputs", inputs)[:2].clone(), tensor("targets", targets)[:2]
    loss = function("loss", loss)
    with evaluating(model):
        outputs = model(inputs)
    if inputs._version:
        raise JudgingError("the model writes into its inputs, which are the data: let no first layer work in place")
    if outputs.ndim != 2 or len(outputs) != len(inputs):
        raise JudgingError(
            f"the model's outputs are of shape {tuple(outputs.shape)} for {len(inputs)} samples: classifiers are "
            f"judged, so give (m, classes)"
        )
    losses = loss(outputs, targets)
    if tuple(losses.shape) != (len(inputs),):
        raise JudgingError(
            f"the loss has shape {tuple(losses.shape)} for {len(inputs)} samples: return one number a sample (in "
            f"torch: reduction='none')"
        )
