"""A new page runs as it is, stands in the book, and takes nobody's name."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
import yaml

from support.__main__ import main
from support.book import execute, new_page
from support.book.build import Book
from support.book.verdicts import collect

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The book's table of contents over empty files."""
    shutil.copy(ROOT / "_toc.yml", tmp_path)
    for name in Book(ROOT).pages():
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for prose in (ROOT / "book").rglob("*.md"):
        (tmp_path / prose.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / prose.relative_to(ROOT)).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_page_stands_last_in_its_part_and_runs(tree, capsys):
    assert main(["new", "page", "random_walk", "--part", "noise"]) == 0
    assert "notebooks/noise/random_walk.ipynb" in capsys.readouterr().out
    pages = list(Book(tree).pages())
    assert pages[pages.index("noise/random_walk") - 1].startswith("noise/")
    assert not pages[pages.index("noise/random_walk") + 1].startswith("noise/")
    assert sorted({*pages} - {"noise/random_walk"}) == sorted(Book(ROOT).pages())

    path = tree / "notebooks" / "noise" / "random_walk.ipynb"
    quick = yaml.safe_load((tree / "notebooks" / "parameters" / "random_walk.yaml").read_text())["smoke"]
    execute.execute(path, tree / "smoke.ipynb", quick)
    execute.execute(path, tree / "default.ipynb")
    for name in ("smoke", "default"):
        (evidence,) = collect(tree, [name])["wu.prop1.with"]
        assert evidence.verdict["verdict"] == "confirmed"
        assert evidence.verdict["default"] == (name == "default")
    printed = json.loads((tree / "default.ipynb").read_text())["cells"]
    texts = ["".join(o["text"]) for cell in printed for o in cell.get("outputs", []) if o["output_type"] == "stream"]
    assert texts == ["variance of a weight: 2/49\n", "ratio of variances: 2/3  (n - b)/(n - 1): 2/3\n"]


def test_the_form_of_a_lesson():
    """DESIGN's order: question, parameters, one cell of imports, picture, idea and check, exercise, summary."""
    cells = nbformat.reads(new_page.page("random_walk"), as_version=4).cells
    assert [cell.metadata.get("tags") for cell in cells].count(["parameters"]) == 1
    imports = [cell.id for cell in cells if cell.cell_type == "code" and "import" in cell.source]
    assert imports == ["imports"]
    assert "@" not in "".join(cell.source + json.dumps(cell.metadata) for cell in cells)
    assert all(cell.metadata["mystnb"]["image"]["alt"] for cell in cells if "plotting.figure" in cell.source)
    hidden = next(cell for cell in cells if cell.id == "solution")
    assert "hide-cell" in hidden.metadata["tags"]


@pytest.mark.parametrize(
    ("name", "part", "says"),
    [
        ("zoo", "escaping", "notebooks/noise/zoo.ipynb exists"),
        ("Random-Walk", "noise", "is no name of a page"),
        ("../walk", "noise", "is no name of a page"),
        (
            "walk",
            "nois",
            "there is no part 'nois': choose one of noise, proofs, escaping, complexity, strength, experiments",
        ),
        ("walk", "", "there is no part ''"),
    ],
)
def test_a_request_is_refused_in_one_line_and_nothing_is_written(tree, capsys, name, part, says):
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert main(["new", "page", name, "--part", part]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before


def test_a_part_begins_with_its_line_in_the_table_of_contents(tree):
    toc = tree / "_toc.yml"
    toc.write_text(toc.read_text() + "  - caption: Strength\n    chapters:\n      - file: notebooks/strength/first\n")
    before = toc.read_text()
    assert main(["new", "page", "first", "--part", "strength"]) == 0
    assert toc.read_text() == before
    assert (tree / "notebooks" / "strength" / "first.ipynb").is_file()


def test_outside_a_book(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "page", "walk", "--part", "noise"]) == 2
    assert "no _toc.yml" in capsys.readouterr().err
