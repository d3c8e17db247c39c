"""Executing a page, once and in parallel processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import DEFAULTS, alive, wait_for, write_page

from support import files
from support.book import execute as book
from support.book import freshness
from support.book.execute import PageError, execute
from support.errors import Refused


def test_execution_is_clean_and_repeatable(tmp_path):
    page = write_page(
        tmp_path / "notebooks" / "part" / "p.ipynb",
        "import os, sys\nprint('one')\nprint('two', flush=True)\nprint('three')\nprint('said', file=sys.stderr)",
        "print(os.getcwd().endswith('part'), os.environ['OMP_NUM_THREADS'], b)\nfrom support.sampling import "
        "MiniBatch\nb",
    )
    before, environment = Path.cwd(), dict(os.environ)
    used = execute(page, tmp_path / "once.ipynb")
    execute(page, tmp_path / "twice.ipynb", DEFAULTS)
    assert (Path.cwd(), dict(os.environ)) == (before, environment)
    assert (tmp_path / "once.ipynb").read_bytes() == (tmp_path / "twice.ipynb").read_bytes()
    assert {"support.page", "support.sampling", "support._random"} <= set(used["modules"])
    assert "support.book.execute" not in used["modules"]
    executed, source = nbformat.read(tmp_path / "once.ipynb", 4), nbformat.read(page, 4)
    assert [(c.id, c.source, c.metadata) for c in executed.cells] == [
        (c.id, c.source, c.metadata) for c in source.cells
    ]
    outputs = [
        output.get("text") or output.data["text/plain"]
        for cell in executed.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert outputs == ["one\ntwo\nthree\n", "said\n", "True 1 3\n", "3"]
    assert "papermill" not in json.dumps(executed)
    assert executed.metadata.language_info == {"name": "python"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebooks", "once.ipynb", "twice.ipynb"]
    assert book.source_digest(executed) == book.source_digest(source)


def test_other_parameters_are_seen_on_the_page(tiny, tmp_path):
    execute(tiny, tmp_path / "out.ipynb", DEFAULTS | {"b": 7})
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    injected = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", ())]
    assert len(injected) == 1
    assert "b = 7" in injected[0].source
    assert "rate" not in injected[0].source
    assert cells[-1].outputs[0].text == "7 0.5\n"


def test_a_failing_page_says_where(tmp_path):
    page = write_page(
        tmp_path / "notebooks" / "part" / "p.ipynb",
        "print('fine')",
        "x = 1\nraise RuntimeError('too many\\nlines')",
        "print('never')",
    )
    with pytest.raises(PageError, match=r"p: cell `x = 1` failed: RuntimeError: too many \| lines"):
        execute(page, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()
    cells = nbformat.read(tmp_path / "out.failed.ipynb", 4).cells
    assert [cell.source for cell in cells] == [cell.source for cell in nbformat.read(page, 4).cells]
    assert cells[-3].outputs[0].text == "fine\n"
    assert cells[-2].outputs[0].ename == "RuntimeError"
    assert cells[-1].outputs == []


def test_a_second_process_takes_over_what_the_first_has_made(tmp_path):
    """As one that waited: by the time it has the lock the result is fresh."""
    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", "print(seed)", parameters="seed = 0")
    task = book.Task(page, tmp_path / "p.ipynb", {"seed": 1})
    inputs = freshness.Inputs.take(tmp_path)
    first, second, again = (book.perform(task, inputs, force=force) for force in (False, False, True))
    assert (first.reason, second.reason, again.reason) == ("new", None, "asked")
    assert first.error is None
    assert [path.name for path in tmp_path.glob(".*")] == [".p.lock"]


def test_a_notebook_cut_short_by_a_full_disk_is_one_failed_page(tmp_path, monkeypatch):
    import papermill

    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", "print(seed)", parameters="seed = 0")

    def full(running, *_, **__):
        Path(running).write_text("{", encoding="utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(papermill, "execute_notebook", full)
    done = book.perform(book.Task(page, tmp_path / "p.ipynb", {"seed": 1}), freshness.Inputs.take(tmp_path))
    assert "p: OSError: [Errno 28] No space left on device" in done.error


def test_parameters_arrive_as_they_were_given(tmp_path):
    """Also those that are equal to the page's without being the same, and those within lists and mappings."""
    cell = "rate = 1.0\nname = 'x'\ndeep = {'a': [1], 'b c': 0}"
    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", "rate, name, deep", parameters=cell)
    given = {"rate": 1.0, "name": 'it\'s "{x}" \\ 雜', "deep": {"a": [True], "b c": None}}
    execute(page, tmp_path / "out.ipynb", given)
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    assert eval(cells[-1].outputs[-1].data["text/plain"]) == tuple(given.values())
    assert "{'a': [True], 'b c': None}" in cells[-1].outputs[-1].data["text/plain"]
    (injected,) = [cell for cell in cells if cell.id == "injected-parameters"]
    assert [line.partition(" = ")[0] for line in injected.source.splitlines()] == ["# Parameters", "name", "deep"]
    with pytest.raises(PageError, match="parameter rate = True of page 'p' is of type bool"):
        execute(page, tmp_path / "out.ipynb", given | {"rate": True})


def test_a_page_runs_in_folders_of_any_name(tmp_path):
    folder = tmp_path / "{braces} and 'quotes' {0}"
    page = write_page(folder / "notebooks" / "part" / "p.ipynb", "print(seed)", parameters="seed = 0")
    execute(page, folder / "{out}" / "p.ipynb", {"seed": 3})
    assert nbformat.read(folder / "{out}" / "p.ipynb", 4).cells[-1].outputs[0].text == "3\n"


def test_what_a_page_says_on_stderr_is_kept(tmp_path):
    """Also lines such as a kernel's own."""
    lines = ["0.00s - Debugger warning: mine", "a frozen.modules line", "NOTE: Kernel is running over TCP", "plain"]
    page = write_page(
        tmp_path / "notebooks" / "part" / "p.ipynb", f"import sys\nprint(*{lines}, sep='\\n', file=sys.stderr)"
    )
    execute(page, tmp_path / "out.ipynb")
    (output,) = nbformat.read(tmp_path / "out.ipynb", 4).cells[-1].outputs
    assert (output.name, output.text.splitlines()) == ("stderr", lines)


def test_a_link_in_the_place_of_a_file_on_its_way_is_not_followed(tmp_path):
    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", "print(seed)", parameters="seed = 0")
    (tmp_path / "victim").write_text("mine")
    task = book.Task(page, tmp_path / "p.ipynb", {"seed": 1})
    (tmp_path / ".p.running.ipynb").symlink_to(tmp_path / "victim")
    assert book.perform(task, freshness.Inputs.take(tmp_path)).error is None
    (tmp_path / ".p.lock").unlink()
    (tmp_path / ".p.lock").symlink_to(tmp_path / "victim")
    assert "is a symbolic link" in book.perform(task, freshness.Inputs.take(tmp_path), force=True).error
    assert (tmp_path / "victim").read_text() == "mine"
    assert nbformat.read(tmp_path / "p.ipynb", 4).cells[-1].outputs[0].text == "1\n"


def test_a_page_over_its_time_limit_is_one_failed_page(tmp_path):
    """The others end well, what ran until then is kept, and its kernel is gone."""
    code = "import os, time\nprint(os.getpid(), flush=True)\nwhile seed:\n    time.sleep(1)"
    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", code, parameters="seed = 0")
    tasks = [book.Task(page, tmp_path / f"{seed}.ipynb", {"seed": seed}) for seed in (0, 1)]
    (fine,) = book.perform_all(tasks[:1], 1, tmp_path)
    done = {
        done.task.values["seed"]: done for done in book.perform_all(tasks, 2, tmp_path, timeout=2 * fine.seconds + 2)
    }
    assert fine.error is None and done[0].reason is None
    assert re.fullmatch(r"p: it was stopped at its time limit of [\d.]+ s", done[1].error)
    assert not (tmp_path / "1.ipynb").exists()
    cells = nbformat.read(tmp_path / "1.failed.ipynb", 4).cells
    assert not alive(int(cells[-1].outputs[0].text))
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".0.lock", ".1.lock"]


def test_a_page_whose_process_is_killed_is_tried_again(tmp_path):
    """Twice killed by its own page: it has failed, and the other has not."""
    code = f"import os\nopen({str(tmp_path / 'tries')!r}, 'a').write('x')\nif seed:\n    os.kill(os.getppid(), 9)"
    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", code, parameters="seed = 0")
    tasks = [book.Task(page, tmp_path / f"{seed}.ipynb", {"seed": seed}) for seed in (1, 0)]
    done = {done.task.values["seed"]: done for done in book.perform_all(tasks, 1, tmp_path)}
    assert "p: its process ended twice without a result (SIGKILL)" in done[1].error
    assert done[0].error is None
    assert (tmp_path / "tries").read_text() == "xxx"


def test_a_kernel_dies_with_the_driver_of_its_driver(tmp_path):
    """A page that never ends, holding the interpreter all the while: SIGKILL to the command, and nothing is left."""
    note = tmp_path / "pid"
    code = f"import os\nopen({str(note)!r}, 'w').write(str(os.getpid()))\nimport re\nre.match('(a+)+$', 'a' * 60 + 'b')"
    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", code, parameters="seed = 0")
    command = [sys.executable, "-m", "support", "run", str(page), "-o", str(tmp_path)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(freshness.ROOT)}, **quiet)
    assert wait_for(lambda: note.is_file() and note.read_text())
    kernel = int(note.read_text())
    worker = int(Path(f"/proc/{kernel}/stat").read_text().rpartition(")")[2].split()[1])
    assert alive(kernel) and alive(worker) and worker != running.pid
    running.kill()
    running.wait()
    assert wait_for(lambda: not alive(kernel) and not alive(worker))
    assert wait_for(lambda: files.holder(tmp_path / ".p.lock") == "")


def test_a_number_of_processes_or_seconds_that_is_none_is_refused():
    for wrong in ((0, None), (1_000_000, None), (2, 0.0), (2, -1.0), (2, float("nan"))):
        with pytest.raises(Refused, match=r"jobs = |timeout = "):
            book.check_limits(*wrong)
