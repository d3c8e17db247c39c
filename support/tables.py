"""Small tables of computed values for pages, as HTML in the book's look (Markdown tables do not render in outputs)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from support.errors import Refused


def table(head: Sequence, rows: Iterable[Sequence]):
    """A table with a row of headings, as an `IPython.display.HTML`: minus signs are typeset; names in the first column,
    ``a ± b`` and ``[a, b]`` do not break.

    Cells may hold HTML. Raises ValueError for a row of another length than the head.
    """
    from IPython.display import HTML

    lines = []
    for row in rows:
        if len(row) != len(head):
            raise Refused(f"a row has {len(row)} cells, the head has {len(head)}: give one cell a column")
        name = (
            str(row[0])
            if "<" in str(row[0])
            else re.sub(r"(?<!\S)-(?=[\d.])", "\u2212", str(row[0])).replace("-", "\u2011")
        )
        cells = (name, *map(_number, row[1:]))
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    titles = "".join(f"<th>{cell}</th>" for cell in head)
    return HTML(
        f'<div class="ledger-table"><table><thead><tr>{titles}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _number(cell) -> str:
    text = re.sub(r"(?<![\w-])-(?=[\d.])", "\u2212", str(cell)).replace(" ± ", "&nbsp;±&nbsp;")
    return re.sub(r"\[([^\[\]<>, ]+), ([^\[\]<>, ]+)\]", r"[\1,&nbsp;\2]", text)
