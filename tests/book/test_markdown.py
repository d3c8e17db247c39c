"""Pages outside the book: nothing that only the book's builder reads is left in their Markdown."""

import re
from pathlib import Path

import nbformat
import pytest

from support.book import markdown

ROOT = Path(__file__).parents[2]


def test_directives_become_paragraphs():
    text = "Before.\n\n````{solution} ex-a\n:label: sol-a\n:class: dropdown\n\nIt is $x$.\n\n"
    text += "```{prf:lemma} Small\n:label: lem-s\n\nIndeed.\n```\n````\nAfter."
    assert (
        markdown.markdown(text)
        == "Before.\n\n**Solution of ex-a.**\n\nIt is $x$.\n\n**Lemma lem-s (Small).**\n\nIndeed.\n\nAfter."
    )
    assert (
        markdown.markdown("```{admonition} In the papers\n:class: tip\n\nText.\n```") == "**In the papers.**\n\nText."
    )
    assert markdown.markdown("```python\nx = 1\n```") == "```python\nx = 1\n```"


def test_roles_say_what_they_refer_to():
    text = "{cite:t}`wu2020noisy` in {numref}`fig-a`, {eq}`eq-b`, {prf:ref}`thm-c`, {ref}`here <ex-d>`"
    assert markdown.markdown(text) == "[wu2020noisy] in fig-a, (eq-b), thm-c, here"
    assert markdown.markdown("$$\na = b,\n$$ (eq-b)") == "$$\na = b,\n\\tag{eq-b}\n$$"


@pytest.mark.parametrize("page", sorted((ROOT / "notebooks").glob("*/*.ipynb")), ids=lambda page: page.stem)
def test_no_page_keeps_a_directive(page):
    notebook = markdown.captioned(nbformat.read(page, as_version=4))
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert re.findall(r"^(?:`{3,}|:{3,})\{.*|\{[\w:]+\}`.*|\$\$ *\([\w-]+\)|^:\w+:.*", text, re.MULTILINE) == []
    captions = [cell for cell in notebook.cells if cell.id.startswith("caption-")]
    figures = [cell for cell in notebook.cells if cell.metadata.get("mystnb", {}).get("figure")]
    assert len(captions) == len(figures)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
