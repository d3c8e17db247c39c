"""Checkpoints give back what they were given, to the bit and to the type, and refuse whatever is not it."""

import hashlib
import io
import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from support.errors import WrongType
from support.experiments import checkpoints
from support.experiments.checkpoints import CheckpointError

STATE = {
    "steps_done": 3,
    "curves": {"step": [0, 3], "loss": [1.5, None]},
    "model": OrderedDict(weight=torch.linspace(0, 1, 7), half=torch.ones(3, dtype=torch.bfloat16)),
    "generator": torch.Generator().manual_seed(1).get_state(),
}


def same(here, there):
    if isinstance(here, torch.Tensor | np.ndarray):
        return here.dtype == there.dtype and bool((here == there).all())
    if isinstance(here, dict):
        return here.keys() == there.keys() and all(same(here[key], there[key]) for key in here)
    if isinstance(here, list | tuple):
        return len(here) == len(there) and all(map(same, here, there))
    return type(here) is type(there) and here == there


def with_checksum(content):
    """A file in the form of a checkpoint, whatever it holds."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return b"sgd-noise checkpoint\n" + hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        STATE,
        {"rate": np.float64(0.1), "short": np.float32(0.1), "count": np.int64(3), "over": np.bool_(True)},
        {"numpy": np.random.RandomState(1).get_state(), "bits": np.random.default_rng(1).bit_generator.state},
        {"tuple": (1, 2.5, "text"), "infinite": -math.inf, "nothing": None, "array": np.arange(4.0).reshape(2, 2)},
    ],
)
def test_a_state_comes_back_as_it_was(tmp_path, value):
    checkpoints.save(tmp_path / "run.pt", value)
    assert same(value, checkpoints.load(tmp_path / "run.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_a_checkpoint_that_is_not_there_is_none(tmp_path):
    assert checkpoints.load(str(tmp_path / "run.pt")) is None


def test_one_bit_is_always_noticed(tmp_path):
    """Every bit of what stands before the payload, and one bit of every 29th byte after it."""
    path = tmp_path / "run.pt"
    checkpoints.save(path, STATE)
    whole = path.read_bytes()
    before = len(b"sgd-noise checkpoint\n") + 32
    bits = [*range(8 * before), *(8 * byte + byte % 8 for byte in range(before, len(whole), 29))]
    assert len(bits) > 500
    for bit in bits:
        spoiled = bytearray(whole)
        spoiled[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoiled)
        with pytest.raises(
            CheckpointError, match=r"run.pt cannot be read \(it (is damaged|has no checksum).*delete it"
        ):
            checkpoints.load(path)
    path.write_bytes(whole)
    assert same(STATE, checkpoints.load(path))


@pytest.mark.parametrize("spoil", [lambda c: b"", lambda c: c[:10], lambda c: c[:500], lambda c: c + b"\0"])
def test_a_cut_or_a_longer_file_is_refused(tmp_path, spoil):
    path = tmp_path / "run.pt"
    checkpoints.save(path, STATE)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"run.pt cannot be read .*: delete it to start this run again"):
        checkpoints.load(path)


def test_a_file_without_checksum_and_a_folder_are_refused(tmp_path):
    torch.save(STATE, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"old.pt cannot be read \(it has no checksum.*\): delete it"):
        checkpoints.load(tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"cannot be read \(Is a directory\)"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("content", [{}, [], [STATE], torch.ones(3), 3, "steps_done", {"curves": {}}])
def test_a_state_without_what_it_must_hold_is_refused(tmp_path, content):
    path = tmp_path / "run.pt"
    path.write_bytes(with_checksum(content))
    with pytest.raises(CheckpointError, match=r"run.pt lacks .*steps_done: delete it"):
        checkpoints.load(path, keys=("curves", "steps_done")[isinstance(content, dict) :])


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "run.pt").write_bytes(with_checksum({"steps_done": Code()}))
    with pytest.raises(CheckpointError, match=r"cannot be read \(UnpicklingError\)"):
        checkpoints.load(tmp_path / "run.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"identity": {"folder": Path("here")}}, r"state\['identity'\]\['folder'\] = PosixPath\('here'\) is of type"),
        ({"steps": 1, "schedule": {"rates": [0.1, range(3)]}}, r"state\['schedule'\]\['rates'\]\[1\] = range\(0, 3\)"),
        ({"until": lambda point: True}, r"state\['until'\] = <function .* is of type function"),
        ({"name": np.str_("a")}, r"state\['name'\] = .* is of type str_"),
    ],
)
def test_what_could_never_be_read_again_is_refused_at_the_save(tmp_path, state, named):
    path = tmp_path / "run.pt"
    checkpoints.save(path, STATE)
    with pytest.raises(CheckpointError, match=f"run.pt could never be read again: {named}"):
        checkpoints.save(path, state)
    assert same(STATE, checkpoints.load(path))


def test_other_types_are_refused(tmp_path):
    for call in (lambda: checkpoints.load(None), lambda: checkpoints.load(3), lambda: checkpoints.save(3, {})):
        with pytest.raises(WrongType, match="give the file's path"):
            call()
    with pytest.raises(WrongType, match=r"state = .* is of type list: give a dict"):
        checkpoints.save(tmp_path / "run.pt", [STATE])
