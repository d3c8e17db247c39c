"""The form of the pages: what is counted, the limits, and the reasons for going beyond one."""

from pathlib import Path

import nbformat
import pytest

from support.__main__ import main
from support.book import form
from support.book.build import Book
from support.book.parameters import InputError
from support.claims import ledger

ROOT = Path(__file__).parents[2]
TOC = "format: jb-book\nroot: book/index\nchapters:\n- file: notebooks/part/page\n"


def code(source, *, tags=(), outputs=(), **metadata):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)} | metadata, outputs=list(outputs))


def shown(**data):
    return nbformat.v4.new_output("display_data", data=data)


def figure(alt="Two curves fall, the second faster than the first."):
    image = {"image": {"alt": alt}} if alt else {}
    return code("ax.plot(1)", tags=["hide-input"], mystnb={"figure": {"name": "f", "caption": "c"}} | image)


@pytest.fixture
def measured(tmp_path):
    """Measures a page of these cells, with this declaration of its form."""
    path = tmp_path / "notebooks" / "part" / "page.ipynb"
    path.parent.mkdir(parents=True)
    (tmp_path / "_toc.yml").write_text(TOC, encoding="utf-8")
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.md").write_text("# Book\n", encoding="utf-8")

    def measure(cells, said=None, height=None):
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        metadata |= {"form": said} if said is not None else {}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
        return form.form(path, height)

    measure.root = tmp_path
    return measure


def test_words_are_those_of_prose():
    text = """# A title of five words

Wu's noise, `code` and $a+b$: [a link](there.md) {cite}`wu2020`.

$$
x = 1
$$ (eq-x)

````{exercise}
:label: ex
Do it.
```python
x = 1
```
````
````{solution} ex
:label: so
:class: dropdown
Long and folded.
````
| a | b |
|---|---|
| 1 | 2 |
"""
    found = form.words(text)
    assert found[:5] == ["A", "title", "of", "five", "words"]
    assert found[5:10] == ["Wu's", "noise", "x", "and", "x"] and found[10:12] == ["a", "link"]
    assert {"Do", "it"} <= set(found) and not {"python", "folded", "there.md", "1 "} & set(found)
    assert found[-4:] == ["a", "b", "1", "2"]


def test_what_is_counted(measured):
    claim, other = list(ledger.load())[:2]
    rows = "<tr><td>1</td></tr>" * 9
    found = measured(
        [
            nbformat.v4.new_markdown_cell("Ten words " * 5 + "\n\n| a |\n|---|\n" + "| 1 |\n" * 9),
            code("x = 1\n\n" * 11),
            code("x = 1\n" * 30, tags=["hide-cell"]),
            code(f"check({claim!r}, measured=1, printed=1)\nours({other!r})\ncheck({claim!r})", tags=["hide-input"]),
            figure(),
            figure(alt=""),
            code(
                "table()", outputs=[shown(**{"text/html": f"<table><thead><tr><th>a</th></tr></thead>{rows}</table>"})]
            ),
            code("check()", outputs=[shown(**{"text/html": f"<details class='claim-box'><table>{rows}</table>"})]),
            code("film(fontsize=8.5, size=1, labelsize=12)", outputs=[shown(**{"image/png": "AA=="})]),
        ],
        height=14001,
    )
    # open code has 11·5 + 7 + 7 + 41 characters, prose 5·(4 + 6) + 2 + 9·2: 110 of 180
    assert found.measured == {
        "words": 20, "verdicts": 2, "figures": 3, "height": 14001, "code": 11 + 30 + 3 + 2 + 3, "open": 61,
        "long cells": 1, "no alt": 2, "small type": 1, "long tables": 2,
    }  # fmt: skip
    assert found.kind is None and not found.failures, "a page that is not yet in the form does not fail"
    assert found.over == ["height", "open", "long cells", "no alt", "small type", "long tables"]


def test_a_page_in_the_form_keeps_to_the_limits_or_says_why(measured):
    claims = list(ledger.load())[:9]
    cells = [code(f"check({claim!r})", tags=["hide-input"]) for claim in claims]
    (failure,) = measured(cells, {"kind": "lesson"}).failures
    assert failure.startswith("9 verdicts: move those that the story does not need") and "(at most 8)" in failure
    assert not measured(cells, {"kind": "lesson", "reasons": {"verdicts": "Each is one line."}}).failures
    assert not measured(cells, {"kind": "line by line"}, height=50_000).failures
    assert measured([figure(alt="")], {"kind": "line by line"}).failures


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"kind": "essay"}, "form.kind is 'essay': it is 'lesson' or 'line by line'"),
        ("lesson", "form.kind is None"),
        ({"kind": "lesson", "reasons": {"length": "It is long."}}, "reasons has 'length': give a sentence for one of"),
        ({"kind": "lesson", "reasons": {"words": " "}}, "reasons has 'words'"),
        ({"kind": "lesson", "reasons": "none"}, "reasons has 'none'"),
    ],
)
def test_metadata_that_say_nothing_are_refused(measured, said, message):
    with pytest.raises(InputError, match=message):
        measured([], said)


def test_the_command_lists_and_fails(measured, monkeypatch, capsys):
    monkeypatch.chdir(measured.root)
    measured([code("x = 1\n" * 11)])
    assert main(["form"]) == 0 and "1*" in (said := capsys.readouterr().out) and "not yet in the form" in said
    measured([code("x = 1\n" * 11), nbformat.v4.new_markdown_cell("word " * 50)], {"kind": "lesson"})
    assert main(["form", "notebooks/part/page.ipynb"]) == 1
    assert "part/page: 1 open cells of more than ten lines: fold or split them" in capsys.readouterr().out
    reasons = {"long cells": "It is the algorithm.", "open": "It is the algorithm."}
    measured([code("x = 1\n" * 11)], {"kind": "lesson", "reasons": reasons})
    assert main(["form", "part/page"]) == 0
    assert "part/page, long cells: It is the algorithm." in capsys.readouterr().out
    assert main(["form", "part/pages"]) == 2
    assert "has no page 'part/pages': it has part/page" in capsys.readouterr().err


@pytest.mark.parametrize("name", Book(ROOT).pages())
def test_every_page_that_is_in_the_form_keeps_to_it(name):
    """The height is read where the page is opened, in test_browser."""
    assert form.form(ROOT / "notebooks" / f"{name}.ipynb").failures == []
