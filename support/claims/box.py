"""How a verdict looks: a line that unfolds in HTML (a page, a lab), and the same in plain text.

The line is the verdict, the claim in twenty words and the numbers that decide; below it, folded, stand the statement,
all numbers with the sign of the relation between them, and what is true instead or beyond.
"""

from __future__ import annotations

import html as _html
import re

from support.claims.judge import Verdict
from support.claims.ledger import Claim
from support.errors import instance

MIME = "application/vnd.support.claim+json"  # of a verdict in a cell's output, from which the ledger page is collected
# columns of a verdict's numbers, here and on the ledger page, with their headings; a sign stands between two values
HEADINGS = {
    "case": "",
    "measured": "measured",
    "interval": "interval",
    "sign": "",
    "printed": "as printed",
    "here": "stated here",
    "true sign": "",
    "true": "corrected",
}
# every page stands two folders below the book's root, so one relative address serves all
_LEDGER = "../../book/ledger.html"


def anchor(claim_id: str, prefix: str) -> str:
    """The id of an HTML element that belongs to a claim: ``claim-…`` on the ledger page, ``check-…`` at its box.

    >>> anchor("wu.prop1.with", "claim")
    'claim-wu-prop1-with'
    """
    return f"{prefix}-{claim_id.replace('.', '-').replace('_', '-')}"


def css_class(verdict: str) -> str:
    """The style class of a verdict, such as ``verdict-not-reproduced``.

    >>> css_class("not reproduced")
    'verdict-not-reproduced'
    """
    return "verdict-" + verdict.replace(" ", "-")


def math_html(text: str) -> str:
    """Escape text for HTML and mark its ``$…$`` as inline math for MathJax, in the book and in a lab. Raises WrongType
    for what is no text.

    >>> math_html("a < $b$")
    'a &lt; <span class="math notranslate nohighlight">\\\\(b\\\\)</span>'
    """
    instance("text", text, str, "give a text")
    pieces = [_html.escape(piece, quote=False) for piece in re.split(r"\$([^$]+)\$", text)]
    return "".join(
        f'<span class="math notranslate nohighlight">\\({piece}\\)</span>' if k % 2 else piece
        for k, piece in enumerate(pieces)
    )


def _warning(verdict: Verdict) -> str:
    if verdict.agrees:
        return ""
    whose = "the book's own parameters" if verdict.default else "the book's parameters (these are others)"
    return f"The ledger expects “{verdict.claim.expected}” with {whose}."


def html(verdict: Verdict) -> str:
    """The line and what it unfolds to. Amber where the verdict contradicts the ledger."""
    claim, columns = verdict.claim, [c for c in HEADINGS if any(c in row for row in verdict.rows)]
    head = "".join(f'<th scope="col">{HEADINGS[c]}</th>' if HEADINGS[c] else "<td></td>" for c in columns)
    amber, link = "" if verdict.agrees else " claim-amber", f"{_LEDGER}#{anchor(claim.id, 'claim')}"
    body = "".join(
        "<tr>" + "".join(f"<td>{_html.escape(row.get(c, ''))}</td>" for c in columns) + "</tr>" for row in verdict.rows
    )
    parts = [
        f'<details class="claim-box {css_class(verdict.verdict)}{amber}" id="{anchor(claim.id, "check")}"'
        f"{' open' if verdict.unfold or amber else ''}>",
        f'<summary class="claim-line"><span class="claim-verdict">{verdict.verdict}</span> '
        f'<span class="claim-short">{math_html(claim.line.rstrip("."))}</span> '
        f'<span class="claim-decisive">{_html.escape(verdict.decisive)}</span></summary>',
        f'<p class="claim-statement">{math_html(claim.statement)}</p>',
        f'<div class="claim-numbers"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>',
    ]
    if said := " ".join(filter(None, (verdict.note, verdict.slack))):
        parts.append(f'<p class="claim-note">{math_html(said)}</p>')
    for text, style, lead in notes(claim):
        where = "" if verdict.default else ", with the book's parameters"
        parts.append(f'<p class="{style}"><strong>{lead}{where}.</strong> {math_html(text)}</p>')
    if warning := _warning(verdict):
        parts.append(f'<p class="claim-warning">{_html.escape(warning)}</p>')
    parts.append(
        f'<p class="claim-head"><span class="claim-where">{_html.escape(claim.where)}</span> '
        f'<a class="claim-id" href="{link}">{claim.id}</a></p>'
    )
    return "\n".join(parts) + "\n</details>"


def notes(claim: Claim) -> list[tuple[str, str, str]]:
    """What the ledger adds to a statement: (text, style class, how it begins).

    >>> [lead for _, _, lead in notes(Claim("wu.x", "wu", "", "empirical", "It is 3.", beyond="Even 3.0."))]
    ['Beyond the claim']
    """
    known = (
        (claim.truth, "claim-truth", "What is true"),
        (claim.beyond, "claim-beyond", "Beyond the claim"),
        (claim.margin and claim.margin.reason, "claim-margin", "The margin"),
    )
    return [(text, style, lead) for text, style, lead in known if text]


def text(verdict: Verdict) -> str:
    """The same in plain text."""
    lines = [f"[{verdict.verdict}] {verdict.claim.id} ({verdict.claim.where}): {verdict.decisive}"]
    for row in verdict.rows:
        said = [f"{HEADINGS[c]}: {row[c]}" if HEADINGS[c] else row[c] for c in HEADINGS if c in row and c != "case"]
        lines.append("  " + (f"{row['case']}; " if "case" in row else "") + " ".join(said))
    return "\n".join([*lines, *(f"  {line}" for line in (verdict.note, _warning(verdict)) if line)])


def show(verdict: Verdict) -> None:
    """Show a verdict as this place can: in a notebook a box that carries its data along, elsewhere text."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ModuleNotFoundError:
        get_ipython = display = None
    if get_ipython and get_ipython() is not None:
        display({"text/plain": text(verdict), "text/html": html(verdict), MIME: verdict.as_json()}, raw=True)
    else:
        print(text(verdict))
