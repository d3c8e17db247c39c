"""Building a book: what is executed, what is staged, what Sphinx is told; and the book of this repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEFAULTS, write_page

from support import files
from support.book import build as book
from support.book import freshness
from support.book.build import Book, NoRoom, build, refresh, smoke, stage
from support.book.execute import Done
from support.book.parameters import InputError, complete, defaults_of, named_set
from support.page import ParameterError

ROOT = freshness.ROOT
HTML = ROOT / "_build" / "html"
built = pytest.mark.skipif(
    not (HTML / "index.html").is_file(), reason="no built book in _build/html: run `make book` first"
)
PAGES = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
JUPYTER_BOOK = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]


@pytest.fixture
def tree(tmp_path):
    """A book of a landing page and two executable pages."""
    root = tmp_path / "tree"
    (root / "book").mkdir(parents=True)
    (root / "book" / "index.md").write_text("# Top\n\nFirst words.\n", encoding="utf-8")
    chapters = "  - file: notebooks/one/first\n    sections:\n    - file: notebooks/one/second\n"
    (root / "_toc.yml").write_text(
        f"format: jb-book\nroot: book/index\nparts:\n- caption: One\n  chapters:\n{chapters}", encoding="utf-8"
    )
    config = "title: Small\nauthor: ''\nonly_build_toc_files: true\nexclude_patterns: [_build]\n"
    config += "execute: {execute_notebooks: 'off'}\n"
    (root / "_config.yml").write_text(config, encoding="utf-8")
    for name in ("first", "second"):
        write_page(
            root / "notebooks" / "one" / f"{name}.ipynb",
            f"print('{name}', b)",
            sets={"smoke": {"b": 1}},
        )
    return root


def test_pages_come_from_the_table_of_contents(tree):
    assert list(Book(tree).pages()) == ["one/first", "one/second"]
    (tree / "notebooks" / "two").mkdir()
    shutil.copy(tree / "notebooks" / "one" / "first.ipynb", tree / "notebooks" / "two" / "first.ipynb")
    toc = (tree / "_toc.yml").read_text(encoding="utf-8")
    (tree / "_toc.yml").write_text(toc + "  - file: notebooks/two/first\n", encoding="utf-8")
    with pytest.raises(InputError, match="two pages are called 'first'"):
        Book(tree).pages()
    (tree / "_toc.yml").write_text(toc + "  - file: notebooks/two/none\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"neither notebooks/two/none\.ipynb nor notebooks/two/none\.md"):
        Book(tree).pages()


def test_a_set_out_of_the_pages_ranges_is_known_before_any_work(tree):
    (tree / "notebooks" / "parameters" / "first.yaml").write_text("ranges: {b: [2, 9]}\nsmoke: {b: 1}\n")
    assert [task.values for task in Book(tree).tasks("executed")] == [DEFAULTS, DEFAULTS]
    with pytest.raises(ParameterError, match="b = 1 of page 'first' is out of range: give 2 to 9"):
        Book(tree).tasks("smoke", "smoke")


def test_staging_writes_only_what_changed(tree):
    book = Book(tree)
    tasks = book.tasks("executed")
    for task in tasks:
        task.output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(task.notebook, task.output)
    assert not stage(book, tasks)
    staged = {path: path.stat().st_mtime_ns for path in (tree / "_build" / "stage").rglob("*") if path.is_file()}
    assert {path.name for path in staged} == {"_config.yml", "_toc.yml", "index.md", "first.ipynb", "second.ipynb"}
    os.utime(tree / "book" / "index.md")
    tasks[0].output.write_text("{}", encoding="utf-8")
    assert not stage(book, tasks)
    assert [path.name for path, stamp in staged.items() if path.stat().st_mtime_ns != stamp] == ["first.ipynb"]
    assert stage(book, tasks[:1])  # a page is gone: Sphinx starts afresh
    assert not (tree / "_build" / "stage" / "notebooks" / "one" / "second.ipynb").exists()


def navigation(tree, name):
    """What the sidebar of a built page names, in its order."""
    text = (tree / "_build" / "html" / f"{name}.html").read_text(encoding="utf-8").partition('class="bd-links')[2]
    return re.findall(r'class="[^"]*reference internal"[^>]*>\s*(.*?)\s*</a>', text.partition("</nav>")[0])


def test_a_book_is_built_and_warnings_are_errors_every_time(tree, capfd):
    toc = (tree / "_toc.yml").read_text(encoding="utf-8").replace("    sections:\n    - file", "  - file")
    (tree / "_toc.yml").write_text(toc, encoding="utf-8")
    names = ("book/index", "notebooks/one/first", "notebooks/one/second")
    assert build(tree) == 0
    said = capfd.readouterr().out
    assert re.search(r"one/first  executed \d+\.\d s \(new\)", said)
    assert f"The book is ready: {tree / '_build' / 'html' / 'index.html'}" in said
    page = (tree / "_build" / "html" / "notebooks" / "one" / "first.html").read_text(encoding="utf-8")
    assert "first 3" in page
    assert [navigation(tree, name) for name in names] == [["Top", "first", "second"]] * 3
    # a link to nowhere is a warning, also when Sphinx has seen it before
    text = (tree / "book" / "index.md").read_text(encoding="utf-8")
    (tree / "book" / "index.md").write_text(text + "\n{ref}`nowhere`\n", encoding="utf-8")
    for _ in range(2):
        assert build(tree) == 1
        said = capfd.readouterr()
        assert "one/first  unchanged" in said.out
        assert "index.md" in said.err
        assert "undefined label: 'nowhere'" in said.err
        assert not (tree / "_build" / ".doctrees").exists()
    (tree / "book" / "index.md").write_text(text, encoding="utf-8")
    assert build(tree) == 0
    # a new title and a new order are seen on every page, also where nothing else has changed
    second = tree / "notebooks" / "one" / "second.ipynb"
    second.write_text(second.read_text(encoding="utf-8").replace('"# second"', '"# New name"'), encoding="utf-8")
    *lines, one, two = toc.splitlines()
    (tree / "_toc.yml").write_text("\n".join([*lines, two, one]), encoding="utf-8")
    assert build(tree) == 0
    assert [navigation(tree, name) for name in names] == [["Top", "New name", "first"]] * 3


PICTURE = (
    "import numpy as np, matplotlib.pyplot as plt\nplt.imshow(np.random.default_rng(1).random((300, 300)))\nplt.show()"
)


def pictures(folder):
    return [path.read_bytes() for path in folder.rglob("*.png") if "_static" not in path.parts]


def test_a_full_disk_is_one_line_and_leaves_nothing_in_the_book(tree, capfd):
    """A book that there was no room for, then room again: what was cut short is made again."""
    write_page(tree / "notebooks" / "one" / "first.ipynb", PICTURE)
    (tree / "_build").mkdir()
    disk = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(tree / "_build")]
    if subprocess.run(disk, check=False, capture_output=True).returncode:
        pytest.skip("no file system of its own can be mounted here")
    try:
        no_room = rf"no room left on the disk of '{tree}/_build': the book needs about \d+ MB there and \d+ MB are free"
        with pytest.raises(NoRoom, match=no_room) as caught:
            build(tree)
        assert capfd.readouterr().err == "" and "\n" not in str(caught.value)
        needs = int(re.search(r"about (\d+) MB", str(caught.value))[1])
        subprocess.run(["mount", "-o", f"remount,size={needs}m", str(tree / "_build")], check=True)
        assert build(tree) == 0  # there is as much as it asked for
        whole = pictures(tree / "_build" / "html")
        assert len(whole) == 1 and len(whole[0]) > 10_000
        (cut,) = (tree / "_build" / "jupyter_execute").rglob("*.png")
        cut.write_bytes(whole[0][:1000])
        (tree / "_build" / ".unfinished").touch()
        assert build(tree) == 0
        assert pictures(tree / "_build" / "html") == whole
    finally:
        subprocess.run(["umount", str(tree / "_build")], check=False)


def test_pages_that_find_no_room_are_one_line(tree, capfd, monkeypatch):
    full = "first: [Errno 28] No space left on device: '_build/executed/one/first.ipynb'"
    monkeypatch.setattr(book, "perform_all", lambda tasks, *_, **__: (Done(task, "new", 1.0, full) for task in tasks))
    with pytest.raises(NoRoom):
        smoke(tree)
    assert capfd.readouterr().err == ""


def test_a_second_build_waits_for_the_first(tree):
    command = [sys.executable, "-m", "support", "smoke"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    (tree / "notebooks" / "one" / "second.ipynb").unlink()
    toc = (tree / "_toc.yml").read_text(encoding="utf-8").partition("    sections")[0]
    (tree / "_toc.yml").write_text(toc, encoding="utf-8")
    with files.lock(tree / "_build" / ".book.lock"):
        second = subprocess.Popen(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)
        assert f"book: waiting for process {os.getpid()}, which holds" in second.stderr.readline()
        assert not (tree / "_build" / "smoke").exists()
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert "one/first  executed" in said


def test_a_failing_page_stops_the_book_but_not_the_others(tree, capfd):
    write_page(tree / "notebooks" / "one" / "first.ipynb", "raise RuntimeError('no luck')")
    assert build(tree) == 1
    said = capfd.readouterr()
    assert "one/first  FAILED" in said.out
    assert "one/second  executed" in said.out
    assert "failed: first: cell `raise RuntimeError('no luck')` failed: RuntimeError: no luck" in said.err
    assert (tree / "_build" / "executed" / "one" / "first.failed.ipynb").is_file()
    assert "repeat: python -m support run notebooks/one/first.ipynb\n" in said.err
    assert not (tree / "_build" / "html").exists()


def test_pages_over_their_time_limit_are_listed_with_the_command_that_repeats_them(tree, capfd):
    assert smoke(tree, timeout=0.001) == 1
    said = capfd.readouterr().err
    for name in ("first", "second"):
        assert f"failed: {name}: it was stopped at its time limit of 0.001 s" in said
        assert f"repeat: python -m support run notebooks/one/{name}.ipynb -p b=1\n" in said


def test_outputs_are_refreshed_and_quick_runs_kept_apart(tree, capfd):
    assert refresh(tree) == 0
    first = tree / "notebooks" / "one" / "first.ipynb"
    assert "first 3" in first.read_text(encoding="utf-8")
    assert "notebooks/one/first.ipynb  refreshed" in capfd.readouterr().out
    stamp = first.stat().st_mtime_ns
    assert refresh(tree) == 0
    assert "executed" not in capfd.readouterr().out
    assert first.stat().st_mtime_ns == stamp
    assert smoke(tree) == 0
    assert "first 1" in (tree / "_build" / "smoke" / "one" / "first.ipynb").read_text(encoding="utf-8")


def test_a_page_that_was_edited_while_it_ran_is_left_as_it_is(tree, capfd, monkeypatch):

    first = tree / "notebooks" / "one" / "first.ipynb"

    def executed(*arguments, **options):
        tasks = execute(*arguments, **options)
        first.write_text(
            first.read_text(encoding="utf-8").replace("print('first', b)", "print('mine', b)"), encoding="utf-8"
        )
        return tasks

    execute = book.execute
    monkeypatch.setattr(book, "execute", executed)
    assert refresh(tree) == 1
    said = capfd.readouterr()
    assert (
        "notebooks/one/first.ipynb  was edited while it ran" in said.err
        and "notebooks/one/second.ipynb  refreshed" in said.out
    )
    assert "print('mine', b)" in first.read_text(encoding="utf-8")


# --- this repository --------------------------------------------------------------------------------------------------


def test_every_notebook_is_in_the_table_of_contents():
    assert sorted(Book(ROOT).pages().values()) == PAGES


@pytest.mark.parametrize("notebook", PAGES, ids=lambda path: path.stem)
def test_a_page_names_its_parameters_and_holds_its_outputs(notebook):
    assert (ROOT / "notebooks" / "parameters" / f"{notebook.stem}.yaml").is_file()
    defaults = defaults_of(notebook)
    complete(notebook, defaults, defaults)  # the book's own values are in the ranges
    complete(notebook, named_set(notebook, "smoke"), defaults)
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert f'page.begin("{notebook.stem}")' in "".join("".join(cell["source"]) for cell in content["cells"])
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run `make notebooks`"
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    assert "papermill" not in content["metadata"]
    assert not [cell["id"] for cell in content["cells"] if {"papermill", "execution"} & set(cell["metadata"])]
    assert content["metadata"]["language_info"] == {"name": "python"}, "run `make notebooks`"


def article(path):
    """The text of a built page, without what surrounds it."""
    text = path.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
    return re.sub(r"\s+", " ", re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", text, flags=re.DOTALL))


def pages_of(html):
    return {
        path.relative_to(html).as_posix()
        for folder in ("book", "notebooks")
        for path in (html / folder).rglob("*.html")
    }


def test_plain_jupyter_book_gives_the_same_book(tmp_path):
    """From the committed outputs, executing nothing, in a tree that also holds an environment, caches and stray
    Markdown.
    """
    for name in ("_config.yml", "_toc.yml", "constraints.txt", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("book", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for stray in (".venv/lib/package", ".pytest_cache", "_build/stage/book", "notebooks/.ipynb_checkpoints"):
        (tmp_path / stray).mkdir(parents=True)
        (tmp_path / stray / "index.md").write_text("# Stray\n\n{ref}`nowhere`\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*JUPYTER_BOOK, "build", ".", "-q"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    html = tmp_path / "_build" / "html"
    documents = {f"notebooks/{name}.html" for name in Book(ROOT).pages()} | {
        f"{path.relative_to(ROOT).with_suffix('.html')}" for path in (ROOT / "book").rglob("*.md")
    }
    assert pages_of(html) == documents
    assert article(html / "book" / "ledger.html").count("no check yet") > 1
    assert article(html / "book" / "ledger.html").count("deliberate faults that moved its numbers") > 100
    if (HTML / "index.html").is_file():
        assert pages_of(HTML) == documents
        assert article(HTML / "book" / "ledger.html") == article(html / "book" / "ledger.html"), (
            "run `make notebooks`, then `make book`"
        )


@built
def test_the_book_asks_nothing_of_the_network():
    outside = re.compile(
        r"""<(?:script|link|img|iframe|source)[^>]*?(?:src|href)=["']?(?:https?:)?//[^\s>]+|url\(["']?(?:https?:)?//[^)]+|@import[^;]+
        """
    )
    files = [*HTML.rglob("*.html"), *(HTML / "_static").glob("*.css")]
    asked = {path.name: found for path in files if (found := outside.findall(path.read_text(encoding="utf-8")))}
    assert asked == {}


@built
def test_every_link_inside_the_book_leads_somewhere():
    """Files and anchors; the links between a claim's box and its entry in the ledger among them."""
    pages = {
        path: path.read_text(encoding="utf-8") for path in sorted(HTML.rglob("*.html")) if "_static" not in path.parts
    }
    anchors = {path: set(re.findall(r'\b(?:id|name)="([^"]+)"', text)) for path, text in pages.items()}
    dead = []
    for path, text in pages.items():
        for link in re.findall(r'<a[^>]*? href="([^"]+)"', text):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = Path(os.path.normpath(path.parent / file.partition("?")[0])) if file else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in anchors and anchor not in anchors[target]):
                dead.append(f"{path.relative_to(HTML)}: {link}")
    assert dead == []
