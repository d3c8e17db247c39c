"""Refusals: one exception type behind all of the package's, and the shared checks of arguments."""

import importlib
import pkgutil

import numpy as np
import pytest

import support
from support import errors
from support.errors import NotFinite, Refused, WrongType


def test_every_exception_of_the_package_is_a_refusal():
    """Imports every module and looks at each exception class it defines; a time limit and a signal must pass through
    what a page or a run catches.
    """
    found = set()
    for info in pkgutil.walk_packages(support.__path__, "support."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        found |= {
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == info.name
        }
    assert len(found) > 8
    others = {cls.__qualname__ for cls in found if not issubclass(cls, Refused)}
    assert others <= {"VerdictMismatch", "_TimeUp", "_Told"}


@pytest.mark.parametrize("value", [True, 2.0, "2", None, [2]])
def test_what_is_no_whole_number(value):
    with pytest.raises(WrongType, match=r"b = .* is not an integer"):
        errors.integer("b", value)


def test_numbers_in_range():
    assert errors.integer("b", np.int64(3), 1, 3) == 3 and type(errors.integer("b", np.int8(3))) is int
    assert errors.real("lr", np.float32(0.5), above=0) == 0.5 and type(errors.real("lr", 1)) is float
    with pytest.raises(Refused, match="b = 4 is out of range: give 1 to 3"):
        errors.integer("b", 4, 1, 3)
    for bad in (0.0, float("nan"), float("inf"), -1):
        with pytest.raises(Refused, match=r"lr = .* above 0"):
            errors.real("lr", bad, above=0)
    for bad in (True, "1", None, 1j):
        with pytest.raises(WrongType, match="is not a number"):
            errors.real("lr", bad)
    assert errors.boolean("replace", np.True_) is True
    with pytest.raises(WrongType, match="replace = 1"):
        errors.boolean("replace", 1)
    with pytest.raises(Refused, match="choose paper, code"):
        errors.choice("protocol", "papr", ("paper", "code"))


def test_tensors_and_generators():
    import torch

    with pytest.raises(WrongType, match="u is of type ndarray"):
        errors.tensor("u", np.zeros(3))
    with pytest.raises(Refused, match=r"u has shape \(3,\): it must be \(4,\)"):
        errors.tensor("u", torch.zeros(3), (4,))
    for bad in (None, 1, np.random.default_rng(1)):
        with pytest.raises(WrongType, match="no torch generator"):
            errors.torch_generator(bad)


def test_arrays():
    from fractions import Fraction

    whole = errors.array("x", [[1, 2], [3, 4]], ("n", 2))
    assert whole.dtype == float and whole.tolist() == [[1, 2], [3, 4]]
    exact = errors.array("x", [Fraction(1, 3), 1], ("n",), rational=True)
    assert exact.tolist() == [Fraction(1, 3), 1]
    assert errors.array("x", np.float32([1, 2]), rational=True).dtype == float
    assert errors.array("t", np.inf, infinite=True) == np.inf
    for bad in (None, "x", [1, "x"], [[1], [1, 2]], object(), 1j, {"a": 1}):
        with pytest.raises(WrongType, match=r"x = .* is of type .*: give an array of numbers of shape \(n,\)"):
            errors.array("x", bad, ("n",))
    with pytest.raises(Refused, match=r"x of shape \(2,\) cannot be taken: give an array of numbers of shape \(n, 3\)"):
        errors.array("x", [1, 2], ("n", 3))
    with pytest.raises(NotFinite, match="2 of 3 x are not finite"):
        errors.array("x", [1, np.nan, np.inf])
    with pytest.raises(NotFinite, match="1 of 2 x are not finite"):
        errors.array("x", [np.nan, np.inf], infinite=True)


def test_kinds_in_one_line():
    for bad in (None, 1, np.random.RandomState(1)):
        with pytest.raises(WrongType, match=r"generator = .* give numpy\.random\.default_rng\(seed\)"):
            errors.numpy_generator(bad)
    with pytest.raises(WrongType) as caught:
        errors.instance("law", np.zeros((40, 40)), str, "give a name")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 120


def test_refusals_are_caught_as_what_they_are():
    assert issubclass(WrongType, TypeError) and issubclass(NotFinite, ArithmeticError)
    assert issubclass(WrongType, ValueError) and issubclass(NotFinite, ValueError)
