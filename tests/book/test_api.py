"""The reference: every public module is on one of its pages, docstrings stand as they are, Sphinx says nothing."""

import html
import io
import re
import types
from pathlib import Path

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

import support
from support.book import api
from support.sampling import Compensated, Law

ROOT = Path(__file__).parents[2]
LAW, COMPENSATED = (f"{one.__module__}.{one.__name__}" for one in (Law, Compensated))
PAGES = sorted((ROOT / "book" / "api").glob("*.md"))


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The committed pages of the reference as Sphinx builds them with warnings on: {name: HTML}, and what it said."""
    root, said = tmp_path_factory.mktemp("api"), io.StringIO()
    for page in PAGES:
        (root / page.name).write_bytes(page.read_bytes())
    entries = "".join(f"{page.stem}\n" for page in PAGES)
    (root / "index.md").write_text(f"# Top\n\n{{py:obj}}`{LAW}`\n\n```{{toctree}}\n{entries}```\n", encoding="utf-8")
    settings = {"extensions": ["myst_nb", "support.book.api"], "nitpicky": True}
    with docutils_namespace():
        folders = (str(root), None, str(root / "html"), str(root / "trees"), "html")
        Sphinx(*folders, confoverrides=settings, status=None, warning=said).build()
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (root / "html").glob("*.html")}
    return pages, said.getvalue()


def test_there_is_nothing_to_warn_of(book):
    assert book[1] == ""


def test_every_public_module_is_on_one_page(book):
    pages, _ = book
    package = Path(support.__file__).parent
    paths = [path.relative_to(package).with_suffix("").parts for path in package.rglob("*.py")]
    paths = [parts[:-1] if parts[-1] == "__init__" else parts for parts in paths]
    public = {".".join(("support", *parts)) for parts in paths if parts and not any(p.startswith("_") for p in parts)}
    hidden = {name for name in public if re.match(r"support\.(book|bench|report|claims\.mutants)\b", name)}
    shown = [name for page in PAGES for name in re.findall(r'<section[^>]* id="(support[\w.]*)"', pages[page.stem])]
    assert sorted(shown) == sorted(public - hidden)


def test_a_law_as_a_reader_sees_it(book):
    pages, _ = book
    text = pages["mathematics"]
    assert f'id="{LAW}.sample"' in text
    entry = text.partition(f'id="{COMPENSATED}"')[2].partition("<dl")[0]
    words = html.unescape(re.sub(r"<[^>]+>", "", entry))
    signature = (
        "Compensated(n: int, b: int, B: int, kind: str = 'covariance', scale: Any = None, *, replace: bool = True)"
    )
    assert signature in words
    assert len(re.findall(r"<li>", entry)) == 2
    assert f'href="mathematics.html#{LAW}"' in pages["index"]


def test_names_between_backticks_lead_to_their_entries(book):
    text = book[0]["exact"] + book[0]["mathematics"]
    targets = set(re.findall(r'class="reference internal" href="#(support[\w.]+)"', text))
    assert len(targets) > 20
    assert targets <= set(re.findall(r'id="(support[\w.]+)"', text))


def test_a_name_means_what_its_module_took_from_elsewhere():
    assert api.names()["support.sampling.Law"] == LAW
    assert api.names()["support.msgd.Law"] == LAW
    assert "support.msgd.torch" not in api.names()


def test_blocks_of_a_docstring():
    doc = "One line\ngoes on.\n\n    a = b\n    \n* first\nstill first\n* second\n  too\n\n>>> f(1)\n  2\nEnd\n\nLast."
    assert list(api.paragraphs(doc)) == [
        ("text", ["One line", "goes on."]),
        ("code", ["a = b"]),
        ("item", ["* first", "still first"]),
        ("item", ["* second", "  too"]),
        ("example", [">>> f(1)", "  2", "End"]),
        ("text", ["Last."]),
    ]


def test_a_signature_shows_what_the_source_says():
    source = """
from __future__ import annotations
def f(x: list[int], *, how: str = 'mean', function=abs, other=print_) -> dict[str, int]:
    'Do.'
"""
    module = types.ModuleType("support.made_up")
    module.print_ = print
    exec(source, vars(module))
    (entry,) = [entry for entry in api.entries(module) if entry.name.endswith(".f")]
    assert entry.signature == ("(x: list[int], *, how: str = 'mean', function=abs, other=print) -> dict[str, int]")
    assert entry.parameters == ["x", "how", "function", "other"]
