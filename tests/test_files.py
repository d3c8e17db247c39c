"""Files written in one piece, and locks: links, FIFOs, other processes."""

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import files

ROOT = Path(__file__).parent.parent
CODE = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from support import files
with files.lock(Path({path!r}), wait=True):
    began = time.monotonic_ns()
    print("held", flush=True)
    sys.stdin.readline()
    print(began, time.monotonic_ns())
"""


@pytest.fixture
def process():
    """A function that starts a process that holds a lock until it is written to."""
    started = []

    def start(path):
        code = CODE.format(root=str(ROOT), path=str(path))
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen([sys.executable, "-c", code], text=True, **pipes))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "below" / "a.txt"
    files.write_whole(path, "one")
    files.write_whole(path, b"two")
    assert path.read_text() == "two"
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_whole(path, "three")
    assert files.is_full(caught.value)
    assert not files.is_full(PermissionError(errno.EACCES, "no"))
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_links_are_not_followed(tmp_path):
    """Neither by a file, nor by the one beside it on its way, nor by a lock."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("a", ".b.part"):
        (tmp_path / name).symlink_to(victim)
    for name in ("a", "b"):
        files.write_whole(tmp_path / name, name)
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text() == name
    (tmp_path / "c.lock").symlink_to(victim)
    never = r"c\.lock is a symbolic link, which is never followed: remove it"
    with pytest.raises(files.FileError, match=never), files.lock(tmp_path / "c.lock", wait=True):
        pass
    (tmp_path / "d.lock").symlink_to(tmp_path / "nowhere")
    with pytest.raises(files.FileError, match="symbolic link"), files.lock(tmp_path / "d.lock"):
        pass
    assert not (tmp_path / "nowhere").exists()
    assert victim.read_text() == "mine"


def test_what_stands_in_a_locks_place_is_named(tmp_path):
    os.mkfifo(tmp_path / "fifo.lock")
    (tmp_path / "folder.lock").mkdir()
    for name, message in (("fifo", "is no regular file"), ("folder", r"cannot be held \(Is a directory\)")):
        with pytest.raises(files.FileError, match=rf"{name}\.lock {message}"), files.lock(tmp_path / f"{name}.lock"):
            pass
        assert files.holder(tmp_path / f"{name}.lock") == ""
    (tmp_path / "file").touch()
    with pytest.raises(files.FileError, match="cannot be held"), files.lock(tmp_path / "file" / "x.lock"):
        pass


def test_a_lock_that_is_held_says_by_whom_and_since_when(tmp_path, process):
    path = tmp_path / "x.lock"
    first = process(path)
    assert first.stdout.readline() == "held\n"
    assert files.holder(path) == str(first.pid)
    day = time.strftime("%Y-%m-%d")
    held = rf"in use by process {first.pid}: wait for it, or stop it \(which holds {path} since {day} \d\d:\d\d:\d\d\)"
    with pytest.raises(files.LockError, match=held), files.lock(path):
        pass
    first.kill()
    first.wait()
    with files.lock(path):
        assert files.holder(path) == str(os.getpid())
    assert files.holder(path) == ""


def test_three_processes_take_turns(tmp_path, process):
    """A holds, B waits, A ends, C arrives: B and C one after the other, at one file that stays."""
    path = tmp_path / ".x.lock"
    a = process(path)
    assert a.stdout.readline() == "held\n"
    b = process(path)
    assert re.fullmatch(rf"x: waiting for process {a.pid}, which holds {path} since .*\n", b.stderr.readline())
    before = path.stat().st_ino
    a.communicate("\n")
    c = process(path)
    waited = {b: b.communicate("\n"), c: c.communicate("\n")}
    (b_from, b_to), (c_from, c_to) = (map(int, said.split()[1:]) for said, _ in waited.values())
    assert b_to <= c_from or c_to <= b_from
    assert path.stat().st_ino == before
