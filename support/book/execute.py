"""Executing a page with parameters: once (`run`), or over a grid of values in parallel processes (`batch`).

A result is written in one piece and sealed by a key beside it (`support.book.freshness`), so that work that was stopped
continues where it was. This is the one module that knows papermill.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import files
from support.book import freshness, markdown
from support.book.parameters import InputError, complete, defaults_of, file_name, given_parameters, grid, read_notebook
from support.errors import Refused

# a last cell of our own, taken off again after the run: it lists what the page used
LISTING = "import json as _json\nimport support.page as _page\nprint(_json.dumps(_page.dependencies()))"
_ENVIRONMENT = {
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
    ),  # two threads in each of two processes are slower than one
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
_NOISE = re.compile(
    r"\d+\.\d+s - |.*frozen.modules|.*PYDEVD_DISABLE_FILE_VALIDATION|.*Kernel is running over TCP"
)  # the kernel about itself
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
    injected. What is written is the page's source with its outputs, without times or versions; a failed run leaves
    ``<page>.failed.ipynb`` beside it and raises PageError. The working directory and the environment of this process
    change during the run, so that parallel runs need processes of their own.
    """
    import nbformat
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    notebook, output = notebook.resolve(), output.resolve()
    source = skeleton(read_notebook(notebook))
    defaults = defaults_of(notebook, source)
    injected = {
        name: item
        for name, item in (values or {}).items()
        if name not in defaults or item != defaults[name] or type(item) is not type(defaults[name])
    }
    running, failed = output.with_name(f".{output.stem}.running.ipynb"), output.with_name(f"{output.stem}.failed.ipynb")
    running.write_text(nbformat.writes(_with_listing(source)), encoding="utf-8")
    failed.unlink(missing_ok=True)
    problem = None
    try:
        with _environment():
            # the kernel's own log would only say that it listens on this machine, or was told to stop
            options = {"progress_bar": False, "start_timeout": 180, "extra_arguments": ["--log-level=CRITICAL"]}
            execute_notebook(
                str(running), str(running), injected, cwd=str(notebook.parent), kernel_name="python3", **options
            )
    except PapermillExecutionError as error:
        last = [
            line
            for line in re.sub(r"\x1b\[[0-9;]*m", "", f"{error.ename}: {error.evalue}").splitlines()
            if line.strip()
        ]
        where = "" if error.ename == "ParameterError" else f"cell `{(error.source.splitlines() or [''])[0]}` failed: "
        problem = PageError(f"{notebook.stem}: {where}{' | '.join(last[:1] + last[1:][-3:])}")
    except Exception as error:  # a kernel that died or did not start
        problem = PageError(
            f"{notebook.stem}: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[-1] if str(error).strip() else 'no message'}"
        )
    try:
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


def _with_listing(source):
    import nbformat

    whole = skeleton(source)
    whole.cells.append(nbformat.v4.new_code_cell(LISTING, id="listing"))
    return whole


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
    """Outputs with neighbouring pieces of one stream joined, and without what the kernel itself says on stderr."""
    joined: list = []
    for output in outputs:
        if (
            output.output_type == "stream"
            and joined
            and joined[-1].output_type == "stream"
            and joined[-1].name == output.name
        ):
            joined[-1].text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream" and output.name == "stderr":
            output.text = "".join(line for line in output.text.splitlines(keepends=True) if not _NOISE.match(line))
    return [output for output in joined if output.output_type != "stream" or output.text]


@contextlib.contextmanager
def _environment():
    """The environment of a kernel: one thread, and this package importable whether or not it is installed."""
    before = dict(os.environ)
    os.environ.update(
        _ENVIRONMENT, PYTHONPATH=os.pathsep.join([str(freshness.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


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


@dataclass(frozen=True)
class Done:
    """What became of a task: seconds and, where it failed, why. ``reason`` says why it ran; None means that the old
    result was still fresh.
    """

    task: Task
    reason: str | None = None
    seconds: float = 0.0
    error: str | None = None


def perform(task: Task, inputs: freshness.Inputs, force: bool = False, parent: int | None = None) -> Done:
    """Carry out one task in this process and seal the result with its key; a page that fails is reported, not raised.

    A second process at the same page waits, and finds the result fresh. ``parent``: the process that asked; if it is
    gone, this one ends too.
    """
    start = time.perf_counter()
    if parent not in (None, os.getpid(), os.getppid()):
        os._exit(1)
    reason = "asked"
    try:
        with files.lock(guard := task.output.with_name(f".{task.output.stem}.lock"), wait=True):
            try:
                source = source_digest(read_notebook(task.notebook))
                if not force and (reason := freshness.stale(task.key, source, task.values, LISTING, inputs)) is None:
                    return Done(task)
                task.key.unlink(missing_ok=True)
                used = execute(task.notebook, task.output, task.values)
                if task.html:
                    files.write_whole(task.output.with_suffix(".html"), html(task.output))
                freshness.store(task.key, freshness.make(source, task.values, LISTING, inputs, used), task.outputs)
            finally:
                guard.unlink(missing_ok=True)
    except (PageError, OSError, files.LockError) as error:  # such as a full disk
        said = str(error) if isinstance(error, PageError) else f"{task.notebook.stem}: {error}"
        return Done(task, reason, time.perf_counter() - start, said)
    return Done(task, reason, time.perf_counter() - start)


def perform_all(tasks: Iterable[Task], jobs: int, records: Path, force: bool = False) -> Iterator[Done]:
    """Carry out tasks in ``jobs`` processes, skipping those whose result is fresh unless ``force``; yields each as it
    ends.
    """
    inputs, pending = freshness.Inputs.take(records), []
    for task in tasks:
        if force or freshness.stale(
            task.key, source_digest(read_notebook(task.notebook)), task.values, LISTING, inputs
        ):
            pending.append(task)
        else:
            yield Done(task)
    yield from _parallel(pending, inputs, force, jobs)


def _parallel(tasks: list[Task], inputs: freshness.Inputs, force: bool, jobs: int) -> Iterator[Done]:
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    left = {task.output: task for task in tasks}
    pool = Parallel(
        n_jobs=max(1, min(jobs, os.cpu_count() or 1, len(tasks))), return_as="generator_unordered", batch_size=1
    )
    try:
        for done in pool(delayed(perform)(task, inputs, force, os.getpid()) for task in tasks):
            left.pop(done.task.output)
            yield done
    except TerminatedWorkerError:
        for task in left.values():
            yield Done(task, "asked", error=f"{task.notebook.stem}: its process was killed, perhaps for want of memory")


# --- the two commands -------------------------------------------------------------------------------------------------


def output_folder(folder: Path, parents: bool = False) -> Path:
    """The folder for results, made if it is missing, with ``parents`` if they are too. Raises InputError if it cannot
    be had or cannot be written.
    """
    if not folder.is_dir():
        if folder.exists():
            raise InputError(f"output folder {str(folder)!r} is a file: name another folder")
        if not parents and not folder.resolve().parent.is_dir():
            raise InputError(
                f"output folder {str(folder)!r} has no parent folder: make {str(folder.parent)!r} first, or name "
                f"another"
            )
    try:
        folder.mkdir(parents=parents, exist_ok=True)
        (probe := folder / ".writable").touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"output folder {str(folder)!r} cannot be written ({error.strerror}): name another") from None
    return folder


def _tasks(notebook: Path, points: list[dict[str, Any]], folder: Path, parents: bool = False) -> list[Task]:
    defaults = defaults_of(notebook)
    wanted = [(point, complete(notebook, point, defaults)) for point in points]
    _mathjax()
    output_folder(folder, parents)
    tasks = [
        Task(notebook, folder / f"{file_name(notebook.stem, point)}.ipynb", values, html=True)
        for point, values in wanted
    ]
    if any(task.output.resolve() == notebook.resolve() for task in tasks):
        raise InputError(
            f"output folder {str(folder)!r} is the page's own: the run would overwrite {notebook.name}; name another"
        )
    return tasks


def _records(notebook: Path) -> Path:
    """The recorded runs that a page can read: a folder beside that of its part."""
    return notebook.resolve().parent.parent / "records"


def run(
    notebook: Path, pairs: Iterable[tuple[str, str]] = (), file: str | None = None, folder: Path | None = None
) -> int:
    """Execute a page once and write it as notebook and HTML; the exit status, 1 if the page failed. Raises InputError
    and ParameterError before any work.
    """
    given = given_parameters(notebook, file, pairs, defaults_of(notebook))
    (task,) = _tasks(notebook, [given], folder or Path("_build") / "runs", parents=folder is None)
    (done,) = perform_all([task], 1, _records(notebook), force=True)
    if done.error:
        print(
            f"failed: {done.error}\n  what ran until then: {task.output.with_suffix('.failed.ipynb')}", file=sys.stderr
        )
        return 1
    print(f"{notebook.stem}  executed {done.seconds:.1f} s", *map(str, task.outputs), sep="\n")
    return 0


def batch(notebook: Path, axes: Iterable[str], folder: Path, file: str | None = None, jobs: int = 2) -> int:
    """Execute a page at every point of a grid, in parallel processes; the exit status, 1 if any failed.

    Points that were finished before, from the same source, package, records and parameters, are not executed again: a
    stopped batch continues where it was. Raises InputError and ParameterError before any work.
    """
    from tqdm import tqdm

    check_jobs(jobs)
    defaults = defaults_of(notebook)
    base = given_parameters(notebook, file, (), defaults)
    points = [base | point for point in grid(axes, defaults)]
    tasks = _tasks(notebook, points, folder)
    given = {task.output: point for task, point in zip(tasks, points, strict=True)}
    results = []
    with tqdm(total=len(tasks), disable=None, unit="run") as bar:
        for done in perform_all(tasks, jobs, _records(notebook)):
            results.append(done)
            bar.update()
            if done.reason:
                bar.write(
                    f"{done.task.output.stem}  {'FAILED after' if done.error else 'executed'} {done.seconds:.1f} s"
                )
    failed = [done for done in results if done.error]
    fresh = sum(done.reason is None for done in results)
    print(
        f"{notebook.stem}: {len(results) - fresh - len(failed)} executed, {fresh} finished before, {len(failed)} "
        f"failed; results in {folder}"
    )
    for done in sorted(failed, key=lambda done: done.task.output):
        print(f"failed: {done.error}\n  repeat: {repeat(notebook, given[done.task.output], folder)}", file=sys.stderr)
    return 1 if failed else 0


def repeat(notebook: Path, given: Mapping[str, Any], folder: Path) -> str:
    """The command that repeats one run."""
    words = [
        word
        for name, item in given.items()
        for word in ("-p", name, item if isinstance(item, str) else json.dumps(item))
    ]
    return shlex.join(["python", "-m", "support", "run", str(notebook), *words, "-o", str(folder)])


def check_jobs(jobs: int) -> None:
    """Refuse a number of processes below one."""
    if jobs < 1:
        raise InputError(f"jobs = {jobs} is not a number of processes: give at least 1")


def html(notebook: Path) -> str:
    """An executed notebook as one HTML file that asks nothing of the network: styles, pictures and MathJax (drawing
    with SVG) stand inside it.

    Directives of the book's Markdown become plain Markdown (`support.book.markdown`); links into the book, which is not
    there, become plain text.
    """
    import nbformat
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    style = freshness.ROOT / "book" / "_static" / "custom.css"
    head = (
        '<script>MathJax = {tex: {inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]], tags: "ams"}, options: {enableMenu: false}}</script>\n'
        "<script>" + _mathjax().read_text(encoding="utf-8").replace("</script", "<\\/script") + "</script>\n"
        "<style>" + (style.read_text(encoding="utf-8") if style.is_file() else "") + "</style>"
    )
    template = (
        "{%- extends 'lab/index.html.j2' -%}{% block html_head_js_requirejs %}{% endblock %}{% block "
        "html_head_js_mermaidjs %}{% endblock %}"
        "{% block html_head_js_mathjax %}{{ resources.mathjax_head }}{% endblock %}"
    )
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"page.html.j2": template})], template_file="page.html.j2", embed_images=True
    )
    content = markdown.captioned(nbformat.read(notebook, as_version=4))
    for cell in content.cells:
        if (
            cell.cell_type == "code"
        ):  # an output of a type of our own alone, such as a number kept for another page, has no look
            cell.outputs = [
                output
                for output in cell.outputs
                if "data" not in output or any(re.match("text/|image/", kind) for kind in output.data)
            ]
    body, _ = exporter.from_notebook_node(
        content, resources={"mathjax_head": head, "metadata": {"name": notebook.stem, "path": str(notebook.parent)}}
    )
    return re.sub(r' href="\.\./\.\./book/[^"]*"', "", body)


def _mathjax() -> Path:
    """The script of the book's offline MathJax, whose package has hyphens in its name. Raises ModuleNotFoundError where
    it is not installed.
    """
    from importlib.util import find_spec

    if (found := find_spec("sphinx-mathjax-offline")) is None:
        raise ModuleNotFoundError("no MathJax to put into the HTML", name="sphinx-mathjax-offline")
    return Path(found.origin).parent / "static" / "mathjax" / "tex-svg.js"
