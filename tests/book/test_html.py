"""A page as one file of HTML."""

import re

from support.book.execute import execute
from support.book.html import html


def test_a_page_as_html_stands_alone(tiny, tmp_path):
    execute(tiny, tmp_path / "out.ipynb")
    text = html(tmp_path / "out.ipynb")
    assert "3 0.5" in text
    assert "MathJax = {" in text
    asked = re.findall(
        r"""<(?:script|link|img)[^>]*?(?:src|href)=["']?(?!data:)[^\s>]+|url\(["']?https?:[^)]+|@import[^;]+""", text
    )
    assert asked == []
