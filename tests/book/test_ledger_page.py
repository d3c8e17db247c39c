"""The ledger page: verdicts are collected from the notebooks of the build and shown with their evidence."""

import io
import json
import re

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from support.book import ledger_page
from support.claims import ledger
from support.claims.check import MIME

CLAIMS = [
    {
        "id": "wu.one",
        "where": "Section 1",
        "kind": "mathematical",
        "statement": "The mean is $\\frac1n$ & <all>.",
        "expected": "confirmed",
    },
    {
        "id": "wu.two_b",
        "where": "Section 2",
        "kind": "mathematical",
        "statement": "It is $3$.",
        "expected": "corrected",
        "truth": "It is $4$.",
    },
    {
        "id": "wu.three",
        "where": "Section 3",
        "kind": "convention",
        "statement": "A name.",
        "expected": "noted",
        "reason": "Nothing to compute.",
    },
    {"id": "wu.four", "where": "Figure 1", "kind": "empirical", "statement": "It learns."},
]


@pytest.fixture
def papers(monkeypatch):
    """A ledger of one paper with four claims."""
    claims = [ledger.Claim(paper="wu", **claim) for claim in CLAIMS]
    monkeypatch.setattr(ledger, "papers", lambda: {"wu": ("Wu et al. (2020)", claims)})
    monkeypatch.setattr(ledger, "load", lambda: {claim.id: claim for claim in claims})
    return claims


def verdict(name, says, **more):
    return {
        "id": name,
        "verdict": says,
        "relation": "==",
        "rows": [{"measured": "3", "sign": "≰", "printed": "4"}],
        "decisive": "3 ≰ 4",
        "slack": "",
        "note": "",
        "default": True,
    } | more


def write_notebook(path, *verdicts):
    outputs = [
        {"output_type": "display_data", "metadata": {}, "data": {MIME: item, "text/html": "<p>box</p>"}}
        for item in verdicts
    ]
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Page"}]
    cells += [
        {"cell_type": "code", "id": "b", "metadata": {}, "source": "check()", "execution_count": 1, "outputs": outputs}
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}
        ),
        encoding="utf-8",
    )


@pytest.fixture
def build(tmp_path, papers):
    """Build a book of the notebooks given as {name: verdicts}; returns Sphinx's warnings and the ledger's HTML."""
    source = tmp_path / "source"

    def make(notebooks, afresh=True):
        (source / "book").mkdir(parents=True, exist_ok=True)
        (source / "constraints.txt").write_text("numpy==2.4.6\nPyYAML==6.0.3\n", encoding="utf-8")
        (source / "book" / "ledger.md").write_text(
            "# Ledger\n\n```{ledger}\n```\n\n## Versions\n\n```{versions}\nnumpy pyyaml\n```\n", encoding="utf-8"
        )
        for name, verdicts in notebooks.items():
            write_notebook(source / "notebooks" / "part" / f"{name}.ipynb", *verdicts)
        names = sorted(path.stem for path in (source / "notebooks" / "part").glob("*.ipynb"))
        (source / "index.md").write_text(
            "# Top\n\n```{counts}\n```\n\n```{toctree}\nbook/ledger\n"
            + "".join(f"notebooks/part/{n}\n" for n in names)
            + "```\n",
            encoding="utf-8",
        )
        settings = {
            "extensions": ["myst_nb", "support.book.ledger_page"],
            "nb_execution_mode": "off",
            "suppress_warnings": ["mystnb.unknown_mime_type"],
            "myst_enable_extensions": ["dollarmath"],
        }
        said = io.StringIO()
        with docutils_namespace():
            folders = (str(source), None, str(tmp_path / "html"), str(tmp_path / "trees"), "html")
            Sphinx(*folders, confoverrides=settings, status=None, warning=said, freshenv=afresh).build()
        return said.getvalue(), (tmp_path / "html" / "book" / "ledger.html").read_text(encoding="utf-8")

    return make


def claim_html(page, anchor):
    """The part of the page from a claim's anchor to the next claim."""
    return re.split(r'id="claim-', page.partition(f'id="claim-{anchor}"')[2])[0]


def test_the_page_shows_every_claim_and_its_evidence(build):
    said, page = build(
        {
            "alpha": [verdict("wu.one", "confirmed", note="the mean $m$")],
            "beta": [verdict("wu.two_b", "corrected", relation="<=")],
        }
    )
    assert said == ""
    assert re.findall(r'class="[^"]*?(verdict-[a-z-]+)[^"]*?container" id="claim-([a-z-]+)"', page) == [
        ("verdict-confirmed", "wu-one"),
        ("verdict-corrected", "wu-two-b"),
        ("verdict-noted", "wu-three"),
        ("verdict-no-check-yet", "wu-four"),
    ]
    one = claim_html(page, "wu-one")
    assert r"\(\frac1n\)" in one
    assert "&amp; &lt;all&gt;" in one
    assert 'href="../notebooks/part/alpha.html#check-wu-one"' in one
    assert r"\(m\)" in one
    two = claim_html(page, "wu-two-b")
    assert "What is true." in two
    assert "≰" in two and "as printed" in two
    assert "Nothing to compute." in claim_html(page, "wu-three")
    summary = re.sub(r"<[^>]+>|\s+", " ", page.partition("ledger-summary")[2].partition("</table>")[0])
    assert re.search(
        r"confirmed +1 +1 +corrected +1 +1 +refuted +0 +0 +not reproduced +0 +0 +open +0 +0 +noted +1 +1 "
        r".*no check yet +1 +1 +all +4 +4",
        summary,
    )
    assert "_static/ledger.js" in page
    assert re.search(r"numpy</p></td>\s*<td><p>2\.4\.6</p></td>", page)
    assert re.search(r"pyyaml</p></td>\s*<td><p>6\.0\.3</p></td>", page)


def test_the_counts_follow_the_pages_of_the_build(build, tmp_path):
    def said():
        page = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
        return re.search(r"<p>([^<]*of the 4 claims[^<]*)</p>", page).group(1)

    build({"alpha": [verdict("wu.one", "confirmed")]})
    assert said() == (
        "1 of the 4 claims have a verdict that a page computes: 1 confirmed. "
        "1 have one that is written with its reason: 1 noted. 2 have no check yet."
    )
    build({"beta": [verdict("wu.four", "not reproduced"), verdict("wu.one", "confirmed")]}, afresh=False)
    assert said().startswith("2 of the 4 claims have a verdict that a page computes: 1 confirmed, 1 not reproduced. ")


def test_an_expected_verdict_is_never_shown_as_computed(build):
    _, page = build({"alpha": []})
    assert "verdict-confirmed" not in page
    assert "verdict-corrected" not in page
    assert "verdict-noted" in page


def test_a_changed_notebook_renews_the_page(build):
    build({"alpha": [verdict("wu.four", "not reproduced")]})
    said, page = build({"alpha": [verdict("wu.four", "confirmed")]}, afresh=False)
    assert said == ""
    assert (
        "verdict-confirmed" in claim_html(page, "wu-four")
        or 'verdict-confirmed paper-wu docutils container" id="claim-wu-four"' in page
    )
    _, page = build({"beta": [verdict("wu.one", "confirmed")]}, afresh=False)
    assert "beta.html#check-wu-one" in page


def test_two_verdicts_on_one_claim_are_a_warning(build):
    said, _ = build({"alpha": [verdict("wu.four", "confirmed")], "beta": [verdict("wu.four", "not reproduced")]})
    assert (
        "wu.four: contradictory verdicts: confirmed on notebooks/part/alpha, not reproduced on notebooks/part/beta"
        in said
    )


def test_a_verdict_on_an_unknown_claim_is_a_warning(build):
    said, _ = build({"alpha": [verdict("wu.none", "confirmed")]})
    assert "wu.none: checked on notebooks/part/alpha, but no claim of the ledger" in said


def test_the_ledgers_own_texts_can_be_read(tmp_path):
    """All claims of the real ledger are rendered without a warning, every one under its own anchor."""
    (tmp_path / "index.md").write_text("# Ledger\n\n```{ledger}\n```\n", encoding="utf-8")
    said = io.StringIO()
    settings = {"extensions": ["myst_nb", "support.book.ledger_page"], "myst_enable_extensions": ["dollarmath"]}
    with docutils_namespace():
        Sphinx(
            str(tmp_path),
            None,
            str(tmp_path / "o"),
            str(tmp_path / "t"),
            "html",
            confoverrides=settings,
            status=None,
            warning=said,
        ).build()
    page = (tmp_path / "o" / "index.html").read_text(encoding="utf-8")
    assert said.getvalue() == ""
    assert sorted(re.findall(r'id="(claim-[^"]+)"', page)) == sorted(
        ledger_page.anchor(name, "claim") for name in ledger.load()
    )
    assert "$" not in re.sub(r"<[^>]+>", "", page.partition("ledger-summary")[2].partition("<footer")[0]).replace(
        "\\$", ""
    )
