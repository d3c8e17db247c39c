"""The commands ``run`` and ``batch``: a page with parameters of the reader's own, once or at every point of a grid.

A batch ends with ``results.csv`` in its folder, one tidy table: a row a run, with its parameters, what became of it
("done" or "failed"), its seconds, the verdict on each claim that the page checks, and each number that the page gives a
name (`support.page.number`).
"""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from support import files, page
from support.book import freshness
from support.book.execute import Done, Task, check_limits, perform_all
from support.book.html import mathjax
from support.book.parameters import InputError, complete, defaults_of, file_name, given_parameters, grid, written

TABLE = "results.csv"


def output_folder(folder: Path) -> Path:
    """The folder for results, made with its parents if it is missing. Raises InputError if it cannot be had or cannot
    be written.
    """
    problem = ""
    try:
        if folder.is_symlink() and not folder.exists():
            problem = f"is a link that leads nowhere, to {str(folder.readlink())!r}: make that folder, or name another"
        elif folder.exists() and not folder.is_dir():
            problem = "is a file: name another folder"
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (probe := folder / ".writable").unlink(missing_ok=True)
            probe.touch(exist_ok=False)
            probe.unlink()
    except OSError as error:
        problem = f"cannot be written ({error.strerror}): name another"
    except ValueError:
        problem = "has a character that no folder's name can hold: name another"
    if problem:
        raise InputError(f"output folder {str(folder)!r} {problem}")
    return folder


def _tasks(notebook: Path, points: list[dict[str, Any]], folder: Path) -> list[Task]:
    defaults = defaults_of(notebook)
    wanted = [(point, complete(notebook, point, defaults)) for point in points]
    mathjax()
    tasks = [
        Task(notebook, folder / f"{file_name(notebook.stem, point)}.ipynb", values, html=True)
        for point, values in wanted
    ]
    output_folder(folder)
    if any(task.output.resolve() == notebook.resolve() for task in tasks):
        raise InputError(
            f"output folder {str(folder)!r} is the page's own: the run would overwrite {notebook.name}; name another"
        )
    return tasks


def _records(notebook: Path) -> Path:
    """The recorded runs that a page can read: a folder beside that of its part."""
    return notebook.resolve().parent.parent / "records"


def run(
    notebook: Path,
    pairs: Iterable[str] = (),
    file: str | None = None,
    folder: Path = Path("_build/runs"),
    timeout: float | None = None,
) -> int:
    """Execute a page once, with parameters ``NAME=VALUE``, and write it as notebook and HTML; the exit status, 1 if the
    page failed. Raises InputError and ParameterError before any work.
    """
    check_limits(1, timeout)
    given = given_parameters(notebook, file, pairs, defaults_of(notebook))
    (task,) = _tasks(notebook, [given], folder)
    (done,) = perform_all([task], 1, _records(notebook), force=True, timeout=timeout)
    if done.error:
        tell(done, repeat(notebook, given, folder))
        return 1
    print(f"{notebook.stem}  executed {done.seconds:.1f} s", *map(str, task.outputs), sep="\n")
    return 0


def batch(
    notebook: Path,
    axes: Iterable[str],
    folder: Path,
    file: str | None = None,
    jobs: int = 2,
    timeout: float | None = None,
) -> int:
    """Execute a page at every point of a grid, in parallel processes, and write the table of the results; the exit
    status, 1 if any run failed or its result is gone.

    Points that were finished before, from the same source, package, records and parameters, are not executed again: a
    stopped batch continues where it was. Raises InputError and ParameterError before any work.
    """
    check_limits(jobs, timeout)
    defaults = defaults_of(notebook)
    base = given_parameters(notebook, file, (), defaults)
    points = [base | point for point in grid(axes, defaults)]
    tasks = _tasks(notebook, points, folder)
    performed = _shown(perform_all(tasks, jobs, _records(notebook), timeout=timeout), len(tasks))
    ended = {done.task.output: done for done in performed}
    results = [ended[task.output] for task in tasks]
    failed = [done for done in results if done.error]
    gone = [done for done in results if not done.error and not all(path.is_file() for path in done.task.outputs)]
    whole = [done for done in results if done not in failed and done not in gone]
    executed = sum(done.reason is not None for done in whole)
    print(
        f"{notebook.stem}: {executed} executed, {len(whole) - executed} finished before, {len(failed)} failed"
        f"{f', {len(gone)} removed since' if gone else ''}; results in {folder}"
    )
    for done, point in zip(results, points, strict=True):
        if done.error:
            tell(done, repeat(notebook, point, folder))
    try:
        files.write_whole(folder / TABLE, table([done for done in results if done not in gone]))
    except OSError as error:
        print(f"error: {folder / TABLE} cannot be written ({error.strerror})", file=sys.stderr)
        return 1
    return 1 if failed or gone else 0


def _shown(results: Iterable[Done], total: int) -> Iterable[Done]:
    """The results as they come, with a bar that says how many are there."""
    from tqdm import tqdm

    with tqdm(total=total, disable=None, unit="run") as bar:
        for done in results:
            bar.update()
            if done.reason:
                how = "FAILED after" if done.error else "executed"
                bar.write(f"{done.task.output.stem}  {how} {done.seconds:.1f} s")
            yield done


def repeat(notebook: Path, given: Mapping[str, Any], folder: Path | None = None) -> str:
    """The command that repeats one run."""
    words = [word for pair in written(given) for word in ("-p", pair)]
    where = ["-o", str(folder)] if folder else []
    return shlex.join(["python", "-m", "support", "run", str(notebook), *words, *where])


def tell(done: Done, command: str) -> None:
    """Say on stderr why a run failed, where that can be looked at, and how it is repeated."""
    print(f"failed: {done.error}", file=sys.stderr)
    if done.task.failed.is_file():
        print(f"  what ran until then: {done.task.failed}", file=sys.stderr)
    print(f"  repeat: {command}", file=sys.stderr)


def table(results: Iterable[Done]) -> str:
    """The table of a batch as CSV: a row a run, and columns for its parameters, status, seconds, verdicts by their
    claims, and named numbers. What a run does not have is left empty; a list is written as JSON.
    """
    rows = []
    for done in results:
        values = {name: item if isinstance(item, str) else json.dumps(item) for name, item in done.task.values.items()}
        seconds = done.seconds if done.reason else freshness.stored(done.task.key).get("seconds", "")
        status = {"status": "failed" if done.error else "done", "seconds": seconds and round(seconds, 1)}
        rows.append(values | status | ({} if done.error else found(done.task.output)))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def found(notebook: Path) -> dict[str, Any]:
    """What an executed page found: the verdicts by their claims, then its named numbers."""
    from support.claims.check import MIME

    verdicts, numbers = {}, {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if claim := data.get(MIME):
                verdicts[claim["id"]] = claim["verdict"]
            if named := data.get(page.NUMBER):
                numbers[named["name"]] = named["value"]
    return verdicts | numbers
