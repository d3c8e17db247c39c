"""Nested batches: counted, cut and refused."""

from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch

from support import batches

Pair = namedtuple("Pair", ["ids", "mask"])


def nested():
    return {"x": torch.arange(12).reshape(4, 3), "rest": [Pair(torch.arange(4), (torch.arange(4) * 10,))]}


@pytest.mark.parametrize("part", [slice(1, 3), torch.tensor([1, 2])], ids=["slice", "indices"])
def test_a_part_keeps_the_nest(part):
    found = batches.take(nested(), part)
    assert found["x"].tolist() == [[3, 4, 5], [6, 7, 8]]
    pair = found["rest"][0]
    assert isinstance(pair, Pair) and pair.ids.tolist() == [1, 2] and pair.mask[0].tolist() == [10, 20]
    assert batches.length(found) == 2 and batches.length(nested()) == 4


def test_any_mapping_is_taken():
    batch = UserDict(ids=torch.arange(3))
    assert batches.length(batch) == 3
    assert batches.take(batch, slice(2, 3))["ids"].tolist() == [2]


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (np.zeros(3), TypeError, "inputs holds a ndarray: give torch tensors"),
        ({"x": torch.zeros(2), "y": None}, TypeError, "inputs holds a NoneType"),
        ([1.0, 2.0], TypeError, "inputs holds a float"),
        ("text", TypeError, "inputs holds a str"),
        (torch.tensor(1.0), ValueError, r"inputs holds a tensor of shape \(\)"),
        ((torch.zeros(2), torch.zeros(3)), ValueError, "inputs holds tensors of 2 and 3 samples"),
        ({}, ValueError, "inputs holds no tensor"),
    ],
)
def test_what_is_no_batch_is_refused(batch, error, message):
    with pytest.raises(error, match=message) as caught:
        batches.length(batch, "inputs")
    assert "\n" not in str(caught.value)


def test_a_part_of_what_is_no_batch_is_refused():
    for batch in (None, 3, "text", np.zeros(3), [1.0]):
        with pytest.raises(TypeError, match="a batch holds a"):
            batches.take(batch, slice(0, 1))
