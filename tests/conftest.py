"""Small notebooks and a small book for the tests of the pipeline."""

import time
from pathlib import Path

import nbformat
import pytest
import yaml


def write_page(path, *cells, parameters="b = 3  # batch size\nseed = 0\nrate = 0.5\nname = 'x'", begin=True, sets=None):
    """Write a page of code cells after its parameters cell, and, where `sets` is given, its parameter sets."""
    page = nbformat.v4.new_notebook()
    page.cells = [nbformat.v4.new_markdown_cell(f"# {path.stem}", id="title")]
    page.cells += [nbformat.v4.new_code_cell(parameters, id="parameters", metadata={"tags": ["parameters"]})]
    first = [f"from support import page\npage.begin({path.stem!r})"] if begin else []
    page.cells += [nbformat.v4.new_code_cell(source, id=f"code-{k}") for k, source in enumerate([*first, *cells])]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(page, path)
    if sets is not None:
        folder = path.parent.parent / "parameters"
        folder.mkdir(exist_ok=True)
        (folder / f"{path.stem}.yaml").write_text(yaml.safe_dump(sets), encoding="utf-8")
    return path


DEFAULTS = {"b": 3, "seed": 0, "rate": 0.5, "name": "x"}


@pytest.fixture
def tiny(tmp_path):
    """A page with four parameters that prints two of them."""
    sets = {"smoke": {"b": 1}, "ranges": {"b": [1, 100]}}
    return write_page(tmp_path / "notebooks" / "part" / "tiny.ipynb", "print(b, rate)", sets=sets)


def alive(pid):
    """Whether a process runs; one that ended and was not yet asked how does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=60):
    """Wait until a condition holds, and return what it said last."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found
