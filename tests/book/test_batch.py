"""The commands run and batch: kills, limits, tables of results."""

import csv
import os
import shlex
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from conftest import write_page

from support import files
from support.__main__ import main
from support.book import batch, freshness
from support.book.parameters import InputError
from support.claims import ledger

# a claim that a check may confirm, whatever it is about
CLAIM = next(name for name, claim in ledger.load().items() if claim.expected == "confirmed")


def result_names(folder):
    return sorted(path.name for path in folder.glob("*.ipynb") if not path.name.startswith("."))


def test_a_killed_batch_continues(tmp_path):
    page = write_page(
        tmp_path / "notebooks" / "part" / "p.ipynb", "import time\ntime.sleep(0.6)\nprint(seed)", parameters="seed = 0"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "support", "batch", str(page), "-p", "seed=1..4", "-o", str(out), "-j", "1"]
    environment = os.environ | {"PYTHONPATH": str(freshness.ROOT)}
    running = subprocess.Popen(
        command, start_new_session=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 90
    while len(list(out.glob("*.key.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    finished = {path.name: path.read_bytes() for path in out.glob("*.key.json")}
    assert 2 <= len(finished) < 4
    for name in finished:  # what counts as finished is whole
        notebook = out / name.replace(".key.json", ".ipynb")
        assert nbformat.read(notebook, 4).cells[-1].outputs[0].text.strip() in "1234"
        assert notebook.with_suffix(".html").is_file()
    stamps = {name: (out / name).stat().st_mtime_ns for name in finished}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"{4 - len(finished)} executed, {len(finished)} finished before, 0 failed" in done.stdout
    assert stamps == {name: (out / name).stat().st_mtime_ns for name in finished}
    assert result_names(out) == [f"p__seed={seed}.ipynb" for seed in (1, 2, 3, 4)]
    assert sorted(path.name for path in out.glob(".*")) == [f".p__seed={seed}.lock" for seed in (1, 2, 3, 4)]
    assert [row["seed"] for row in table(out)] == ["1", "2", "3", "4"]
    assert all(float(row["seconds"]) > 0.6 for row in table(out))  # also of those that were finished before


def table(folder):
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_failures_are_listed_with_the_command_that_repeats_them(tmp_path, capfd, monkeypatch):
    """The command is runnable as printed, whatever stands in the values."""
    code = "assert rate > 0 or name == 'fine', 'too small'\nprint(name, rate)"
    cell = "rate = 0.5\nname = 'x'\nwidths = [1]"
    page = write_page(tmp_path / "note books" / "part" / "p.ipynb", code, parameters=cell)
    (tmp_path / "given.yaml").write_text("widths: [3, 4]\n")
    out = tmp_path / "out {1}"
    assert batch.batch(page, ["rate=0.1,-1e-3", "name='a, b $HOME'"], out, str(tmp_path / "given.yaml"), jobs=2) == 1
    said = capfd.readouterr()
    assert "1 executed, 0 finished before, 1 failed" in said.out
    assert "failed: p: cell `assert rate > 0 or name == 'fine', 'too small'` failed: AssertionError" in said.err
    (failed,) = out.glob("*.failed.ipynb")
    assert f"what ran until then: {failed}" in said.err
    command = shlex.split(said.err.partition("repeat: ")[2])
    assert command[:4] == ["python", "-m", "support", "run"]
    assert "rate=-0.001" in command and "name=a, b $HOME" in command and "widths=[3, 4]" in command
    write_page(page, code.replace("too small", "again"), parameters=cell)
    assert main(command[3:]) == 1
    assert "failed: AssertionError: again" in capfd.readouterr().err
    assert [(row["rate"], row["name"], row["widths"], row["status"]) for row in table(out)] == [
        ("0.1", "a, b $HOME", "[3, 4]", "done"),
        ("-0.001", "a, b $HOME", "[3, 4]", "failed"),
    ]


def test_parameters_verdicts_and_named_numbers_make_one_table(tmp_path):
    """A row a run, in the order of the grid; what a run does not have is empty."""
    code = f"from support.claims import check\ncheck('{CLAIM}', measured=True, printed=True)\n"
    code += "page.number('twice', 2 * b)\nif b > 3:\n    page.number('loss', 0.1 + 0.2)"
    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", code, parameters="b = 3\nname = 'x'")
    assert batch.batch(page, ["b=5,3"], tmp_path / "out") == 0
    rows = table(tmp_path / "out")
    assert list(rows[0]) == ["b", "name", "status", "seconds", CLAIM, "twice", "loss"]
    assert all(float(row.pop("seconds")) > 0 for row in rows)
    same = {"name": "x", "status": "done", CLAIM: "confirmed"}
    assert rows[0] == same | {"b": "5", "twice": "10", "loss": "0.30000000000000004"}
    assert rows[1] == same | {"b": "3", "twice": "6", "loss": ""}


def test_results_that_were_removed_are_not_counted(tmp_path, capfd):
    """The page itself removes the folder after two of three runs."""
    out = tmp_path / "out"
    code = f"import shutil\nif seed == 3:\n    shutil.rmtree({str(out)!r})"
    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", code, parameters="seed = 0")
    assert batch.batch(page, ["seed=1..3"], out, jobs=1) == 1
    said = capfd.readouterr()
    assert "p: 0 executed, 0 finished before, 1 failed, 2 removed since" in said.out
    assert [(row["seed"], row["status"]) for row in table(out)] == [("3", "failed")]


def test_a_lock_that_cannot_be_had_is_told_as_it_is(tmp_path, capfd):
    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", "print(seed)", parameters="seed = 0")
    out = tmp_path / "out"
    (out / ".p__seed=1.lock").mkdir(parents=True)
    assert batch.batch(page, ["seed=1,2"], out) == 1
    said = capfd.readouterr()
    assert "1 executed, 0 finished before, 1 failed" in said.out
    assert f"failed: p: lock {out / '.p__seed=1.lock'} cannot be held (Is a directory)" in said.err
    assert "another process" not in said.err


def test_two_commands_at_one_page_take_turns(tmp_path):
    """The second says for whom it waits."""
    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", "print(seed)", parameters="seed = 0")
    lock = tmp_path / "out" / ".p__seed=1.lock"
    command = [sys.executable, "-m", "support", "run", str(page), "-p", "seed=1", "-o", str(tmp_path / "out")]
    with files.lock(lock):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        second = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(freshness.ROOT)}, **pipes)
        said = second.stderr.readline()
        assert said.startswith(f"p__seed=1: waiting for process {os.getpid()}, which holds {lock} since ")
        assert not (tmp_path / "out" / "p__seed=1.ipynb").exists()
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 0 and "p  executed" in out


def test_a_folder_for_results_is_made_or_refused_by_its_reason(tmp_path):
    made = batch.output_folder(tmp_path / "a" / "b" / "c")
    assert made.is_dir() and not list(made.iterdir())
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "good").symlink_to(made)
    os.mkfifo(tmp_path / "fifo")
    assert batch.output_folder(tmp_path / "good") == tmp_path / "good"
    for name, message in {
        "file": "is a file: name another folder",
        "fifo": "is a file: name another folder",
        "file/below": r"cannot be written \(Not a directory\)",
        "dangling": rf"is a link that leads nowhere, to '{tmp_path}/nowhere': make that folder, or name another",
        "l" * 300: r"cannot be written \(File name too long\)",
    }.items():
        with pytest.raises(InputError, match=message):
            batch.output_folder(tmp_path / name)
    (made / ".writable").symlink_to(tmp_path / "victim")
    batch.output_folder(made)
    assert not (tmp_path / "victim").exists()


def test_a_batch_on_a_full_disk_says_so_and_goes_on_later(tmp_path, capfd):
    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", "print('x' * 10**6)", parameters="seed = 0")
    (out := tmp_path / "out").mkdir()
    disk = ["mount", "-t", "tmpfs", "-o", "size=1500k", "none", str(out)]
    if subprocess.run(disk, check=False, capture_output=True).returncode:
        pytest.skip("no file system of its own can be mounted here")
    try:
        assert batch.batch(page, ["seed=1,2"], out) == 1
        said = capfd.readouterr()
        assert "0 executed, 0 finished before, 2 failed" in said.out
        assert said.err.count("No space left on device") >= 2
        assert not list(out.glob("*.key.json"))
        subprocess.run(["mount", "-o", "remount,size=60m", str(out)], check=True)
        assert batch.batch(page, ["seed=1,2"], out) == 0
    finally:
        subprocess.run(["umount", str(out)], check=False)
