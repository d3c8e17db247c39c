"""Executing a page, once and in parallel processes."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from conftest import DEFAULTS, write_page

from support.book import execute as book
from support.book import freshness
from support.book.execute import PageError, execute


def test_execution_is_clean_and_repeatable(tmp_path):
    page = write_page(
        tmp_path / "notebooks" / "part" / "p.ipynb",
        "import os, sys\nprint('one')\nprint('two', flush=True)\nprint('three')\nprint('said', file=sys.stderr)",
        "print(os.getcwd().endswith('part'), os.environ['OMP_NUM_THREADS'], b)\nfrom support.sampling import "
        "MiniBatch\nb",
        sets={"default": DEFAULTS},
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
    assert first.error is None and not list(tmp_path.glob(".*"))


def test_a_notebook_cut_short_by_a_full_disk_is_one_failed_page(tmp_path, monkeypatch):
    import papermill

    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", "print(seed)", parameters="seed = 0")

    def full(running, *_, **__):
        Path(running).write_text("{", encoding="utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(papermill, "execute_notebook", full)
    done = book.perform(book.Task(page, tmp_path / "p.ipynb", {"seed": 1}), freshness.Inputs.take(tmp_path))
    assert "p: OSError: [Errno 28] No space left on device" in done.error
