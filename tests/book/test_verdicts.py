"""Counts of verdicts: computed ones from the outputs alone, written ones from the ledger, and the README's sentence."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from support.__main__ import main
from support.book import verdicts
from support.claims import ledger
from support.claims.check import MIME

ROOT = Path(__file__).parents[2]


def test_the_readme_says_what_the_notebooks_hold():
    """Counted here in the raw text of the notebooks: a claim counts once, however many pages check it."""
    computed = {}
    for path in (ROOT / "notebooks").glob("*/*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if found := output.get("data", {}).get("application/vnd.support.claim+json"):
                    computed[found["id"]] = found["verdict"]
    written = ["left open" if c.expected == "open" else c.expected for c in ledger.load().values() if c.reason]
    said = re.search(r"<!-- counts:.*-->\n(.*)\n<!-- end of counts -->", (ROOT / "README.md").read_text()).group(1)
    numbers = {name: int(number) for number, name in re.findall(r"(\d+) ([a-z][a-z\d ]*)(?=[,.:])", said)}
    stale = "the README's counts are stale: python -m support counts --write"
    assert numbers.pop(f"of the {len(ledger.load())} claims have a verdict that a page computes") == len(computed), (
        stale
    )
    assert numbers.pop("have one that is written with its reason") == len(written), stale
    assert numbers.pop("have no check yet") == len(ledger.load()) - len(computed) - len(written), stale
    assert numbers == Counter([*computed.values(), *written]), stale


def test_a_verdict_that_is_only_expected_does_not_count():
    claims = [
        ledger.Claim("wu.a", "wu", "", "mathematical", "", expected="confirmed"),
        ledger.Claim("wu.b", "wu", "", "mathematical", "", expected="confirmed"),
        ledger.Claim("wu.c", "wu", "", "convention", "", expected="noted", reason="A name."),
    ]
    found = {"wu.b": [verdicts.Evidence("page", {"id": "wu.b", "verdict": "refuted"})]}
    assert verdicts.counts(claims, found) == {"no check yet": 1, "refuted": 1, "noted": 1}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A book of one page with one verdict, and a README."""
    output = {
        "output_type": "display_data",
        "metadata": {},
        "data": {MIME: {"id": "wu.prop1.with", "verdict": "refuted"}},
    }
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "", "execution_count": 1, "outputs": [output]}
    page = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "notebooks" / "noise").mkdir(parents=True)
    (tmp_path / "notebooks" / "noise" / "one.ipynb").write_text(json.dumps(page), encoding="utf-8")
    (tmp_path / "notebooks" / "noise" / "draft.ipynb").write_text(json.dumps(page), encoding="utf-8")
    (tmp_path / "_toc.yml").write_text("root: notebooks/noise/one\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_writes_the_readme_and_nothing_else_in_it(tree, capsys):
    (tree / "README.md").write_text(
        "# Book\n\n<!-- counts: so -->\nold\n<!-- end of counts -->\nEnd.\n", encoding="utf-8"
    )
    assert main(["counts"]) == 0
    said = capsys.readouterr().out.strip()
    assert said.startswith(f"1 of the {len(ledger.load())} claims have a verdict that a page computes: 1 refuted.")
    assert "old" in (tree / "README.md").read_text(encoding="utf-8")
    assert main(["counts", "--write"]) == 0
    text = (tree / "README.md").read_text(encoding="utf-8")
    assert text == f"# Book\n\n<!-- counts: so -->\n{said}\n<!-- end of counts -->\nEnd.\n"


def test_a_readme_without_a_place_is_refused(tree, capsys):
    (tree / "README.md").write_text("# Book\n", encoding="utf-8")
    assert main(["counts", "--write"]) == 2
    assert "has no place for the counts" in capsys.readouterr().err
