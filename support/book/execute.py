"""Executing pages with parameters: one (`execute`), or many tasks in parallel processes (`perform_all`).

A result is written in one piece and sealed by a key beside it (`support.book.freshness`), so that work that was stopped
continues where it was. This is the one module that knows papermill.
"""

from __future__ import annotations

import copy
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import files, jobs, page
from support.book import freshness
from support.book.html import html
from support.book.parameters import defaults_of, read_notebook
from support.errors import Refused, integer, real

# a last cell of our own, taken off again after the run: it lists what the page used
LISTING = "import json as _json\nimport support.page as _page\nprint(_json.dumps(_page.dependencies()))"
_KERNEL = [  # its own log would only say that it listens on this machine, or was told to stop
    "--log-level=CRITICAL",
    # a kernel dies with the process that started it, at once and whatever its page is doing (`jobs.die_with_parent`)
    *(["--IPKernelApp.exec_lines=__import__('ctypes').CDLL(None).prctl(1, 9);"] if jobs.LINUX else []),
]
_VOLATILE = ("execution", "papermill", "collapsed", "ExecuteTime")


class PageError(Refused):
    """A page that failed while it ran: its name, the failing cell's first line, the end of the exception."""


# --- one execution ----------------------------------------------------------------------------------------------------


def skeleton(content):
    """A notebook without what a run leaves in it: outputs, counts, times, the Python version."""
    bare = copy.deepcopy(content)
    for cell in bare.cells:
        for name in _VOLATILE:
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    bare.metadata = type(bare.metadata)(
        {name: item for name, item in bare.metadata.items() if name not in ("papermill", "widgets")}
        | {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return bare


def source_digest(content) -> str:
    """sha256 of all that a run takes from a notebook, and of nothing that it leaves there."""
    return freshness.json_digest(skeleton(content))


def execute(notebook: Path, output: Path, values: Mapping[str, Any] | None = None) -> dict[str, list[str]]:
    """Execute a page into ``output`` and return what it used, as `support.page.dependencies` lists it.

    The kernel runs in the page's own folder with one thread. Only ``values`` that differ from the page's defaults are
    injected. What is written is the page's source with its outputs, without times or versions; a failed or interrupted
    run leaves ``<page>.failed.ipynb`` beside it and raises PageError or KeyboardInterrupt. The working directory and
    the environment of this process change during the run, so that parallel runs need processes of their own.
    """
    import nbformat

    notebook, output = notebook.resolve(), output.resolve()
    source = skeleton(read_notebook(notebook))
    running, failed = output.with_name(f".{output.stem}.running.ipynb"), output.with_name(f"{output.stem}.failed.ipynb")
    failed.unlink(missing_ok=True)
    try:
        files.write_whole(running, nbformat.writes(_prepared(source, values or {}, defaults_of(notebook, source))))
        problem = _problem(running, notebook)
        try:
            executed = nbformat.read(running, as_version=4)
        except ValueError:  # papermill could not write it whole
            raise problem or PageError(f"{notebook.stem}: {running} was cut short: make room on the disk") from None
        used = _listed(executed.cells.pop())
        # papermill marks a failure with cells of its own: they are no part of the page
        executed.cells = [
            cell for cell in executed.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", ())
        ]
        files.write_whole(failed if problem else output, nbformat.writes(_filled(source, executed)) + "\n")
    finally:
        running.unlink(missing_ok=True)
    if problem:
        raise problem
    return used


def _prepared(source, values: Mapping[str, Any], defaults: Mapping[str, Any]):
    """The source with a cell of the values that differ from its own, and with the listing as its last cell."""
    import nbformat

    whole = skeleton(source)
    changed = {
        name: item for name, item in values.items() if name not in defaults or not page.same(item, defaults[name])
    }
    if changed:
        (at,) = (k for k, cell in enumerate(whole.cells) if "parameters" in cell.metadata.get("tags", ()))
        lines = "\n".join(["# Parameters", *(f"{name} = {item!r}" for name, item in changed.items())])
        tags = {"tags": ["injected-parameters"]}
        whole.cells.insert(at + 1, nbformat.v4.new_code_cell(lines, id="injected-parameters", metadata=tags))
    whole.cells.append(nbformat.v4.new_code_cell(LISTING, id="listing"))
    return whole


def _problem(running: Path, notebook: Path) -> BaseException | None:
    """Execute a notebook in its own place, and say what went wrong."""
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    path = str(running).replace("{", "{{").replace("}", "}}")  # papermill formats paths
    python_path = os.pathsep.join([str(freshness.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {"PYTHONPATH": python_path, "PYDEVD_DISABLE_FILE_VALIDATION": "1", page.STRICT: "1"}
    options = {"progress_bar": False, "start_timeout": 180, "extra_arguments": _KERNEL}
    try:
        with jobs.environment(jobs.threads_of(1) | variables):
            execute_notebook(path, path, cwd=str(notebook.parent), kernel_name="python3", **options)
    except PapermillExecutionError as error:
        said = re.sub(r"\x1b\[[0-9;]*m", "", f"{error.ename}: {error.evalue}").splitlines()
        said = [line for line in said if line.strip()]
        where = "" if error.ename == "ParameterError" else f"cell `{(error.source.splitlines() or [''])[0]}` failed: "
        return PageError(f"{notebook.stem}: {where}{' | '.join(said[:1] + said[1:][-3:])}")
    except KeyboardInterrupt as error:
        return error
    except Exception as error:  # a kernel that died or did not start
        said = str(error).strip().splitlines() or ["no message"]
        return PageError(f"{notebook.stem}: {type(error).__name__}: {said[-1]}")
    return None


def _listed(cell) -> dict[str, list[str]]:
    lines = "".join(
        output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout"
    ).splitlines()
    return json.loads(lines[-1]) if lines else {}


def _filled(source, executed):
    """The source with the outputs of a run; an injected cell of parameters stays, since without it the page would not
    say what was run.
    """
    filled = skeleton(source)
    cells = {cell.id: cell for cell in filled.cells}
    for k, cell in enumerate(executed.cells):
        if "injected-parameters" in cell.metadata.get("tags", ()):
            cell.id, cell.metadata = "injected-parameters", type(cell.metadata)({"tags": ["injected-parameters"]})
            filled.cells.insert(k, cell)
        elif cell.cell_type == "code":
            cells[cell.id].execution_count, cells[cell.id].outputs = cell.execution_count, _clean(cell.outputs)
    if "widgets" in executed.metadata:
        filled.metadata["widgets"] = executed.metadata["widgets"]
    return filled


def _clean(outputs: list) -> list:
    """Outputs with neighbouring pieces of one stream joined."""
    joined: list = []
    for output in outputs:
        last = joined[-1] if joined else None
        if output.output_type == "stream" and last and last.output_type == "stream" and last.name == output.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


# --- many executions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One page, all its parameters, and the notebook to write; ``html`` asks for the same as HTML beside it."""

    notebook: Path
    output: Path
    values: dict[str, Any]
    html: bool = False

    @property
    def key(self) -> Path:
        """Where the key of the result stands."""
        return self.output.with_suffix(".key.json")

    @property
    def outputs(self) -> list[Path]:
        """The files that the run writes."""
        return [self.output, *([self.output.with_suffix(".html")] if self.html else [])]

    @property
    def failed(self) -> Path:
        """Where a failed run leaves what ran until then."""
        return self.output.with_suffix(".failed.ipynb")


@dataclass(frozen=True)
class Done:
    """What became of a task: seconds and, where it failed, why. ``reason`` says why it ran; None means that the old
    result was still fresh.
    """

    task: Task
    reason: str | None = None
    seconds: float = 0.0
    error: str | None = None


def perform(task: Task, inputs: freshness.Inputs, force: bool = False) -> Done:
    """Carry out one task in this process and seal the result with its key; a page that fails is reported, not raised.

    A second process at the same page waits, and finds the result fresh.
    """
    start, reason = time.perf_counter(), "asked"
    try:
        with files.lock(task.output.with_name(f".{task.output.stem}.lock"), wait=True):
            source = source_digest(read_notebook(task.notebook))
            if not force and (reason := freshness.stale(task.key, source, task.values, LISTING, inputs)) is None:
                return Done(task)
            task.key.unlink(missing_ok=True)
            used = execute(task.notebook, task.output, task.values)
            if task.html:
                files.write_whole(task.output.with_suffix(".html"), html(task.output))
            key = freshness.make(source, task.values, LISTING, inputs, used)
            freshness.store(task.key, key, task.outputs, time.perf_counter() - start)
    except PageError as error:
        return Done(task, reason, time.perf_counter() - start, str(error))
    except (OSError, files.FileError) as error:  # such as a full disk
        return Done(task, reason, time.perf_counter() - start, f"{task.notebook.stem}: {error}")
    return Done(task, reason, time.perf_counter() - start)


def check_limits(workers: int, timeout: float | None) -> None:
    """Refuse a number of processes, or of seconds, that is none."""
    integer("jobs", workers, 1, jobs.MOST)
    if timeout is not None:
        real("timeout", timeout, above=0)


def perform_all(
    tasks: Iterable[Task], workers: int, records: Path, *, force: bool = False, timeout: float | None = None
) -> Iterator[Done]:
    """Carry out tasks in ``workers`` processes, skipping those whose result is fresh unless ``force``; yields each as
    it ends. A task that takes longer than ``timeout`` seconds is stopped, and has failed.
    """
    inputs, pending = freshness.Inputs.take(records), []
    for task in tasks:
        source = source_digest(read_notebook(task.notebook))
        if force or freshness.stale(task.key, source, task.values, LISTING, inputs):
            pending.append((task, inputs, force))
        else:
            yield Done(task)
    workers = min(workers, os.cpu_count() or 1)
    for ended in jobs.run(perform, pending, workers=workers, timeout=timeout):
        task = ended.call[0]
        if isinstance(ended.error, (jobs.TimeUp, jobs.Lost)):
            yield Done(task, "asked", ended.seconds, f"{task.notebook.stem}: {ended.error}")
        elif ended.error:
            raise ended.error
        else:
            yield ended.result
