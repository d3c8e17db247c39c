"""The commands run and batch: kills, limits, tables of results."""

import os
import signal
import subprocess
import sys
import time

import nbformat
from conftest import write_page

from support.book import batch, freshness


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
    assert not list(out.glob(".*"))


def test_failures_are_listed_with_the_command_that_repeats_them(tmp_path, capfd):
    page = write_page(
        tmp_path / "notebooks" / "part" / "p.ipynb", "assert seed != 2, 'two is out'", parameters="seed = 0"
    )
    assert batch.batch(page, ["seed=1,2"], tmp_path / "out", jobs=2) == 1
    said = capfd.readouterr()
    assert "1 executed, 0 finished before, 1 failed" in said.out
    assert "failed: p: cell `assert seed != 2, 'two is out'` failed: AssertionError: two is out" in said.err
    assert f"repeat: python -m support run {page} -p seed 2 -o {tmp_path / 'out'}" in said.err
    assert result_names(tmp_path / "out") == ["p__seed=1.ipynb", "p__seed=2.failed.ipynb"]
