"""Building the book: execute what is stale, stage it beside the prose, and let Sphinx make HTML of it.

`_toc.yml` names the pages. Executed notebooks go to ``_build/executed`` (a key beside each says from what it was made,
see `support.book.freshness`), the book's source to ``_build/stage``, where only bytes that changed are rewritten, so
that Sphinx reads again only what changed; the HTML goes to ``_build/html``. Every warning is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support import files
from support.book.execute import Done, Task, check_jobs, perform_all, source_digest
from support.book.parameters import InputError, complete, defaults_of, named_set, read_notebook

_CONFIG = ("_config.yml", "_toc.yml", "constraints.txt")


@dataclass(frozen=True)
class Book:
    """A book's tree: where its pages, its build folder and its parts are."""

    root: Path

    def __post_init__(self):
        if not (self.root / "_toc.yml").is_file():
            raise InputError(f"no _toc.yml in {str(self.root)!r}: run this in the root of the book")

    @property
    def build(self) -> Path:
        return self.root / "_build"

    def pages(self) -> dict[str, Path]:
        """The executable pages of `_toc.yml`, in its order: names such as ``noise/sampling_noise``, and their
        notebooks.

        Raises InputError for a page without file, and for two of one file name.
        """
        import yaml

        found: dict[str, Path] = {}
        for document in _documents(yaml.safe_load((self.root / "_toc.yml").read_text(encoding="utf-8"))):
            notebook = self.root / f"{document}.ipynb"
            if notebook.is_file():
                found[document.removeprefix("notebooks/")] = notebook
            elif not notebook.with_suffix(".md").is_file():
                raise InputError(
                    f"_toc.yml names {document!r}, but there is neither {document}.ipynb nor {document}.md: add the "
                    f"page or take the line out"
                )
        stems = [notebook.stem for notebook in found.values()]
        if twice := {stem for stem in stems if stems.count(stem) > 1}:
            raise InputError(f"two pages are called {min(twice)!r}: a page is known by its file name, so rename one")
        return found

    def tasks(self, folder: str, parameter_set: str = "default") -> list[Task]:
        """One execution a page into ``_build/<folder>``, with a named set of parameters. Raises InputError and
        ParameterError before any of them runs.
        """
        tasks = []
        for name, notebook in self.pages().items():
            defaults = defaults_of(notebook)
            given = named_set(notebook, parameter_set)
            if parameter_set == "default" and given and given != defaults:
                raise InputError(
                    f"parameters/{notebook.stem}.yaml: its set 'default' is {given}, the page's parameters cell says "
                    f"{defaults}: make them equal"
                )
            tasks.append(Task(notebook, self.build / folder / f"{name}.ipynb", complete(notebook, given, defaults)))
        return tasks


def _documents(entry: dict | list) -> Iterator[str]:
    """The documents of a table of contents, in order."""
    if isinstance(entry, list):
        for item in entry:
            yield from _documents(item)
        return
    if name := entry.get("root") or entry.get("file"):
        yield name.removesuffix(".md").removesuffix(".ipynb")
    for below in ("parts", "chapters", "sections", "subtrees", "entries"):
        yield from _documents(entry.get(below, []))


def execute(book: Book, folder: str, jobs: int, parameter_set: str = "default") -> list[Task] | None:
    """Execute the pages that are stale, printing a line for each; None if one failed (the others are executed all the
    same).
    """
    check_jobs(jobs)
    tasks, failed = book.tasks(folder, parameter_set), []
    names = {task.output: name for task, name in zip(tasks, book.pages(), strict=True)}
    for task in tasks:
        task.output.parent.mkdir(parents=True, exist_ok=True)
    for done in perform_all(tasks, jobs, book.root / "notebooks" / "records"):
        print(_line(names[done.task.output], done), flush=True)
        failed += [done] if done.error else []
    for done in failed:
        print(
            f"failed: {done.error}\n  what ran until then: "
            f"{done.task.output.with_suffix('.failed.ipynb').relative_to(book.root)}",
            file=sys.stderr,
        )
    return None if failed else tasks


def _line(name: str, done: Done) -> str:
    if done.error:
        return f"{name}  FAILED after {done.seconds:.1f} s"
    return f"{name}  executed {done.seconds:.1f} s ({done.reason})" if done.reason else f"{name}  unchanged"


def stage(book: Book, tasks: list[Task]) -> bool:
    """Put configuration, prose and executed notebooks beside each other in ``_build/stage``; True if Sphinx must start
    afresh.

    A file is written only if its bytes differ. Sphinx starts afresh where a file is gone, since its page would stay, or
    where the pinned packages changed.
    """
    target = book.build / "stage"
    wanted = {target / name: book.root / name for name in _CONFIG if (book.root / name).is_file()}
    wanted |= {
        target / path.relative_to(book.root): path for path in sorted((book.root / "book").rglob("*")) if path.is_file()
    }
    wanted |= {target / task.notebook.relative_to(book.root): task.output for task in tasks}
    gone = [path for path in target.rglob("*") if path.is_file() and path not in wanted]
    for path in gone:
        path.unlink()
    changed = {path for path, source in wanted.items() if _copy(source, path)}
    return bool(gone) or target / "constraints.txt" in changed


def _copy(source: Path, target: Path) -> bool:
    content = source.read_bytes()
    if target.is_file() and target.read_bytes() == content:
        return False
    files.write_whole(target, content)
    return True


def render(book: Book, afresh: bool = False) -> bool:
    """Make HTML of the staged book, with warnings as errors; True if it succeeded.

    Sphinx keeps what it read, but not what it warned of. So what it read is thrown away unless the build before ended
    well.
    """
    doctrees, html, unfinished = book.build / ".doctrees", book.build / "html", book.build / ".unfinished"
    if afresh or unfinished.exists():
        shutil.rmtree(doctrees, ignore_errors=True)
        shutil.rmtree(html, ignore_errors=True)
    unfinished.touch()
    # there is no `python -m jupyter_book`, and its script need not be on the path
    program = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    options = ["build", str(book.build / "stage"), "--path-output", str(book.root), "-n", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*program, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()
        said = [line for line in lines if re.search(r"(WARNING|ERROR|CRITICAL):", line)]
        print("\n".join(said or lines), file=sys.stderr)
        shutil.rmtree(doctrees, ignore_errors=True)
        return False
    unfinished.unlink()
    return True


def build(root: Path, jobs: int = 2) -> int:
    """Build the book of the tree ``root`` into ``_build/html`` and print where its first page is; the exit status, 1 if
    a page failed or Sphinx warned.
    """
    book = Book(root.resolve())
    tasks = execute(book, "executed", jobs)
    if tasks is None:
        return 1
    if not render(book, stage(book, tasks)):
        print("error: the book has warnings, see above; nothing is built until they are gone", file=sys.stderr)
        return 1
    print(f"The book is ready: {(book.build / 'html' / 'index.html')}")
    return 0


def refresh(root: Path, jobs: int = 2) -> int:
    """Execute what is stale and copy the outputs into the notebooks of the tree; the exit status, 1 if a page failed or
    was edited while it ran.
    """
    book = Book(root.resolve())
    tasks, edited = execute(book, "executed", jobs), False
    for task in tasks or ():
        name = task.notebook.relative_to(book.root)
        if source_digest(read_notebook(task.notebook)) != source_digest(read_notebook(task.output)):
            print(f"{name}  was edited while it ran: left as it is, run this again", file=sys.stderr)
            edited = True
        elif _copy(task.output, task.notebook):
            print(f"{name}  refreshed")
    return int(tasks is None or edited)


def smoke(root: Path, jobs: int = 2) -> int:
    """Execute every page with its set ``smoke`` into ``_build/smoke``; the exit status, 1 if a page failed."""
    return int(execute(Book(root.resolve()), "smoke", jobs, "smoke") is None)
