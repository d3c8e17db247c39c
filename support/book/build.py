"""Building the book: execute what is stale, stage it beside the prose, and let Sphinx make HTML of it.

`_toc.yml` names the pages. Executed notebooks go to ``_build/executed`` (a key beside each says from what it was made,
see `support.book.freshness`), the book's source to ``_build/stage``, where only bytes that changed are rewritten, so
that Sphinx reads again only what changed; the HTML goes to ``_build/html``. Every warning is an error.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support import files
from support.book.batch import repeat, tell
from support.book.execute import Done, Task, check_limits, perform_all, source_digest
from support.book.freshness import digest
from support.book.parameters import InputError, complete, defaults_of, named_set, read_notebook
from support.errors import Refused

_CONFIG = ("_config.yml", "_toc.yml", "constraints.txt")
_KEPT = (".doctrees", "jupyter_execute", "borrowed")  # what Sphinx and its extensions keep from build to build
_STATIC = 40 * 10**6  # bytes of a book without pages, styles, scripts and MathJax


class NoRoom(Refused):
    """A disk that is full; the message names the folder and the room that a book needs there."""

    def __init__(self, book: Book):
        staged = sum(path.stat().st_size for path in (book.build / "stage").rglob("*") if path.is_file())
        sources = sum(path.stat().st_size for path in book.pages().values())
        needs = (_STATIC + 5 * max(staged, sources)) // 10**6
        free = shutil.disk_usage(book.build).free // 10**6
        super().__init__(
            f"no room left on the disk of {str(book.build)!r}: the book needs about {needs} MB there and {free} MB are "
            f"free; make room, and run this again"
        )


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
        return [
            Task(
                notebook,
                self.build / folder / f"{name}.ipynb",
                complete(notebook, named_set(notebook, parameter_set), defaults_of(notebook)),
            )
            for name, notebook in self.pages().items()
        ]


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


def execute(
    book: Book, folder: str, jobs: int, parameter_set: str = "default", timeout: float | None = None
) -> list[Task] | None:
    """Execute the pages that are stale, printing a line for each; None if one failed (the others are executed all the
    same).
    """
    check_limits(jobs, timeout)
    tasks, failed = book.tasks(folder, parameter_set), []
    names = {task.output: name for task, name in zip(tasks, book.pages(), strict=True)}
    for task in tasks:
        task.output.parent.mkdir(parents=True, exist_ok=True)
    for done in perform_all(tasks, jobs, book.root / "notebooks" / "records", timeout=timeout):
        print(_line(names[done.task.output], done), flush=True)
        failed += [done] if done.error else []
    if any(files.is_full(done.error) for done in failed):
        raise NoRoom(book)
    for done in failed:
        notebook = done.task.notebook
        tell(done, repeat(notebook.relative_to(book.root), named_set(notebook, parameter_set)))
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
    folders = book.root / "book", book.root / "notebooks" / "records" / "mutants"  # the ledger tells of the faults
    found = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    wanted |= {target / path.relative_to(book.root): path for path in found}
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


def _navigation(book: Book, tasks: list[Task]) -> str:
    """A digest of what every page shows of the others: their order and their titles."""
    prose = [path.read_text(encoding="utf-8") for path in sorted((book.root / "book").rglob("*.md"))]
    for task in tasks:
        cells = read_notebook(task.notebook).cells
        prose.append("\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))
    titles = [re.search(r"^# .*", text, re.MULTILINE) for text in prose]
    toc = (book.root / "_toc.yml").read_text(encoding="utf-8")
    return digest("\n".join([toc, *(title[0] if title else "" for title in titles)]))


def render(book: Book, navigation: str, afresh: bool = False) -> bool:
    """Make HTML of the staged book, with warnings as errors; True if it succeeded.

    Sphinx keeps what it read and the pictures that it unpacked, but neither what it warned of nor whether a picture is
    whole. So all of that is thrown away unless the build before ended well. Where the navigation changed, it writes all
    pages again. Raises NoRoom on a full disk.
    """
    unfinished, shown = book.build / ".unfinished", book.build / ".navigation"
    again = afresh or unfinished.exists()
    unfinished.touch()
    if again or not shown.is_file() or shown.read_text(encoding="utf-8") != navigation:
        for name in (*(_KEPT if again else ()), "html"):
            shutil.rmtree(book.build / name, ignore_errors=True)
    # there is no `python -m jupyter_book`, and its script need not be on the path
    program = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    options = ["build", str(book.build / "stage"), "--path-output", str(book.root), "-n", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*program, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        if files.is_full(done.stdout):
            raise NoRoom(book)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()
        said = [line for line in lines if re.search(r"(WARNING|ERROR|CRITICAL):", line)]
        print("\n".join(said or lines), file=sys.stderr)
        shutil.rmtree(book.build / ".doctrees", ignore_errors=True)
        return False
    files.write_whole(shown, navigation)
    unfinished.unlink()
    return True


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[Book]:
    """The book of a tree, while no other process builds it; a full disk is one line, whatever it stopped."""
    book = Book(root.resolve())
    with files.lock(book.build / ".book.lock", wait=True):
        try:
            yield book
        except OSError as error:
            if not files.is_full(error):
                raise
            raise NoRoom(book) from error


def build(root: Path, jobs: int = 2, timeout: float | None = None) -> int:
    """Build the book of the tree ``root`` into ``_build/html`` and print where its first page is; the exit status, 1 if
    a page failed or Sphinx warned.
    """
    with _alone(root) as book:
        tasks = execute(book, "executed", jobs, timeout=timeout)
        if tasks is None:
            return 1
        afresh = stage(book, tasks)
        if not render(book, _navigation(book, tasks), afresh):
            print("error: the book has warnings, see above; nothing is built until they are gone", file=sys.stderr)
            return 1
        print(f"The book is ready: {(book.build / 'html' / 'index.html')}")
    return 0


def refresh(root: Path, jobs: int = 2, timeout: float | None = None) -> int:
    """Execute what is stale and copy the outputs into the notebooks of the tree; the exit status, 1 if a page failed or
    was edited while it ran.
    """
    with _alone(root) as book:
        tasks, edited = execute(book, "executed", jobs, timeout=timeout), False
        for task in tasks or ():
            name = task.notebook.relative_to(book.root)
            if source_digest(read_notebook(task.notebook)) != source_digest(read_notebook(task.output)):
                print(f"{name}  was edited while it ran: left as it is, run this again", file=sys.stderr)
                edited = True
            elif _copy(task.output, task.notebook):
                print(f"{name}  refreshed")
    return int(tasks is None or edited)


def smoke(root: Path, jobs: int = 2, timeout: float | None = None) -> int:
    """Execute every page with its set ``smoke`` into ``_build/smoke``; the exit status, 1 if a page failed."""
    with _alone(root) as book:
        return int(execute(book, "smoke", jobs, "smoke", timeout) is None)
