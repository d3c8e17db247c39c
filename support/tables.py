"""Small tables of computed values for pages, as HTML in the book's look (Markdown tables do not render in outputs)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from support.errors import Refused, WrongType, instance


def table(head: Sequence, rows: Iterable[Sequence]):
    """A table with a row of headings, as an `IPython.display.HTML`: minus signs are typeset; names in the first column,
    ``a ± b`` and ``[a, b]`` do not break.

    Cells may hold HTML. Raises WrongType for a head or a row that is no sequence of cells, Refused for a row of another
    length than the head.

    >>> table(("law", "points"), [("MSGD-Cov", "-0.5")]).data[-61:]
    '<tr><td>MSGD\u2011Cov</td><td>\u22120.5</td></tr></tbody></table></div>'
    """
    from IPython.display import HTML

    _cells("head", head)
    lines = []
    for row in instance("rows", rows, Iterable, "give one sequence of cells a row"):
        _cells("a row", row)
        if len(row) != len(head):
            raise Refused(f"a row has {len(row)} cells, the head has {len(head)}: give one cell a column")
        name = (
            str(row[0])
            if "<" in str(row[0])
            else re.sub(r"(?<!\S)-(?=[\d.])", "\u2212", str(row[0])).replace("-", "\u2011")
        )
        cells = (name, *map(_number, row[1:]))
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    titles = "".join(f'<th scope="col">{cell}</th>' if cell != "" else "<td></td>" for cell in head)
    body = "".join(lines)
    return HTML(f'<div class="ledger-table"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>')


def _cells(name: str, row) -> None:
    if isinstance(row, str) or not isinstance(row, Sequence):
        raise WrongType(f"{name} = {row!r} is no sequence of cells: give a tuple or a list")


def _number(cell) -> str:
    text = re.sub(r"(?<![\w-])-(?=[\d.])", "\u2212", str(cell)).replace(" ± ", "&nbsp;±&nbsp;")
    return re.sub(r"\[([^\[\]<>, ]+), ([^\[\]<>, ]+)\]", r"[\1,&nbsp;\2]", text)
