"""A page outside the book: its directives and roles, which only the book's builder reads, as Markdown that every reader
of notebooks shows.
"""

from __future__ import annotations

import re

_DIRECTIVE = re.compile(r"^(`{3,}|:{3,})\{([\w:-]+)\} *(.*)\n((?:.*\n)*?)\1[ ]*$", re.MULTILINE)
_OPTION = re.compile(r"\A:[\w-]+:.*\n?")
_ROLE = re.compile(r"\{([\w:-]+)\}`([^`]+)`")
_NUMBERED = re.compile(r"\$\$([^$]+?)\s*\$\$ *\(([\w-]+)\)")


def markdown(text: str) -> str:
    """A Markdown cell without directives and roles.

    A theorem or an exercise becomes a paragraph that begins with its bold name; a numbered equation carries its label,
    and references say the label that the thing is known by. Citations are keys in brackets.
    """
    text = _NUMBERED.sub(lambda found: f"$${found[1]}\n\\tag{{{found[2]}}}\n$$", _boxes(text + "\n"))
    return _ROLE.sub(_said, text).rstrip("\n")


def _boxes(text: str) -> str:
    return _DIRECTIVE.sub(_box, text)


def _box(found: re.Match) -> str:
    name, title, body = found[2].rpartition(":")[2], found[3].strip(), found[4]
    label = ""
    while option := _OPTION.match(body):
        if option[0].startswith(":label:"):
            label = option[0].split()[1]
        body = body[option.end() :]
    if name == "admonition":
        heading = title
    elif name == "solution":
        heading = f"Solution of {title}"
    else:
        heading = name.capitalize() + (f" {label}" if label else "") + (f" ({title})" if title else "")
    return f"**{heading}.**\n\n{_boxes(body).strip()}\n"


def _said(found: re.Match) -> str:
    role, content = found.groups()
    named = re.fullmatch(r"(.*?) *<([^>]+)>", content, re.DOTALL)
    if role.startswith("cite"):
        return f"[{content}]"
    if role == "eq":
        return f"({content})"
    return named[1] if named else content


def captioned(notebook):
    """A notebook with the figure captions, which stand in the metadata of cells, as Markdown below the figures, and all
    its Markdown plain; changes it.
    """
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = markdown(cell.source)
        cells.append(cell)
        if figure := cell.metadata.get("mystnb", {}).get("figure"):
            import nbformat

            cells.append(
                nbformat.v4.new_markdown_cell(
                    f"*{figure['name']}.* {markdown(figure['caption'])}", id=f"caption-{figure['name']}"[:64]
                )
            )
    notebook.cells = cells
    return notebook
