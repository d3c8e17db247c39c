"""Deliberate faults: what they change, read from the YAML lists beside this module, one list a part of the book.

A fault is a small edit of one module, or of one page's cells. It is written as a piece of source that occurs there
exactly once, and what stands in its place; of kind ``factor`` it comes in three sizes, as ``{factor}`` is 1.02, 1.1 and
2. A change of kind ``harmless`` writes the same thing in other words. A piece of several lines is written without its
indentation in the file.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import support
from support.errors import Refused

HARMLESS = "harmless"
KINDS = ("factor", "sign", "count", "replacement", "transpose", "noise", "formula", "data", HARMLESS)
FACTORS = (1.02, 1.1, 2)
LISTS = Path(__file__).parent
ROOT = Path(support.__file__).parent.parent
_DEEPEST = 10  # levels of indentation


class MutantError(Refused):
    """A fault that cannot be made; the message names its list, its name and the remedy."""


@dataclass(frozen=True)
class Mutant:
    """One deliberate change: its name, the module (``support.risk``) or page (``noise/zoo``) that it changes, its kind,
    the piece of source and its replacement, and what it is in words.

    >>> Mutant("law.mean", "support.sampling.law", "factor", "1 / n", "{factor} / n", "the mean times a factor").sizes
    (1.02, 1.1, 2)
    """

    name: str
    target: str
    kind: str
    find: str
    replace: str
    what: str

    @property
    def is_page(self) -> bool:
        return "/" in self.target

    @property
    def harmless(self) -> bool:
        return self.kind == HARMLESS

    @property
    def sizes(self) -> tuple[float | None, ...]:
        """The factors in which it comes; None alone for a fault that has no size."""
        return FACTORS if self.kind == "factor" else (None,)

    def file(self, root: Path) -> Path:
        """Where its target stands in the tree ``root``."""
        if self.is_page:
            return root / "notebooks" / f"{self.target}.ipynb"
        path = root.joinpath(*self.target.split("."))
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    def changed(self, source: str, size: float | None = None) -> str:
        """The source with this change in it. Raises MutantError unless its piece occurs there exactly once."""
        find, replace = self._indented(source)
        if size is not None:
            replace = replace.replace("{factor}", repr(size))
        return source.replace(find, replace)

    def lines(self, source: str) -> tuple[int, int]:
        """First and last line of the statement that it changes, or of the piece where that is more than a statement."""
        find, _ = self._indented(source)
        at = source.index(find)
        first, last = source.count("\n", 0, at) + 1, source.count("\n", 0, at + len(find.rstrip())) + 1
        around = [
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.stmt) and node.lineno <= first and node.end_lineno >= last
        ]
        inner = max(around, key=lambda node: (node.lineno, -node.end_lineno), default=None)
        return (first, last) if inner is None or hasattr(inner, "body") else (inner.lineno, inner.end_lineno)

    def _indented(self, source: str) -> tuple[str, str]:
        """Piece and replacement as they stand in the source, with its indentation."""
        if count := source.count(self.find):
            found = [(count, self.find, self.replace)]
        else:
            breaks = ["\n" + 4 * level * " " for level in range(_DEEPEST)] if "\n" in self.find else []
            tried = [(self.find.replace("\n", b), self.replace.replace("\n", b)) for b in breaks]
            found = [(count, find, replace) for find, replace in tried if (count := source.count(find))]
        if (count := sum(times for times, _, _ in found)) != 1:
            shown = self.find.partition("\n")[0][:60]
            raise MutantError(
                f"{self.name}: {shown!r} occurs {count} times in {self.target}: give a piece that occurs once"
            )
        return found[0][1:]


def read(path: Path) -> list[Mutant]:
    """The changes of one list. Raises MutantError for an entry that is malformed; `verify` looks at the targets.

    >>> {mutant.kind for mutant in read(LISTS / "harmless.yaml")}
    {'harmless'}
    """
    import yaml

    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise MutantError(f"{path.name} is no YAML: {str(error).splitlines()[0]}; write a list of changes") from None
    names = [field.name for field in fields(Mutant)]
    found = []
    for entry in entries if isinstance(entries, list) else [entries] if entries else []:
        given = entry if isinstance(entry, dict) else {}
        if sorted(given) != sorted(names) or not all(isinstance(text, str) for text in given.values()):
            which = given.get("name", f"entry {len(found) + 1}")
            raise MutantError(f"{path.name}, {which}: give texts for {', '.join(names)}, and nothing else")
        found.append(Mutant(**given))
    return found


def entries(lists: Path = LISTS) -> dict[str, Mutant]:
    """The changes of all lists by name, as they are written. Raises MutantError for a name given twice."""
    found: dict[str, Mutant] = {}
    for path in sorted(lists.glob("*.yaml")):
        for mutant in read(path):
            if mutant.name in found:
                raise MutantError(f"{path.name}, {mutant.name}: a change of this name is there already: name it anew")
            found[mutant.name] = mutant
    return dict(sorted(found.items()))


def load(lists: Path = LISTS, root: Path = ROOT) -> list[Mutant]:
    """The changes of all lists, verified, in the order of their names.

    Raises MutantError for a name given twice, an unknown kind or target, a piece that does not occur exactly once, and
    a replacement that is the same code, or none.
    """
    found = list(entries(lists).values())
    for mutant in found:
        verify(mutant, root)
    return found


def verify(mutant: Mutant, root: Path = ROOT) -> None:
    """Refuse a change that cannot be made, in one line. Raises MutantError."""

    def refuse(message):
        raise MutantError(f"{mutant.name}: {message}")

    if mutant.kind not in KINDS:
        refuse(f"kind {mutant.kind!r} is unknown: choose from {', '.join(KINDS)}")
    if (mutant.kind == "factor") != ("{factor}" in mutant.replace):
        refuse("`{factor}` belongs into the replacement of a change of kind factor, and of no other")
    if not mutant.file(root).is_file():
        refuse(f"target {mutant.target!r} is unknown: give a module such as support.risk, or a page such as noise/zoo")
    source = text_of(mutant, root)
    for size in mutant.sizes:
        try:
            same = _parsed(mutant.changed(source, size)) == _parsed(source)
        except SyntaxError as error:
            refuse(f"with its replacement {mutant.target} is no Python (line {error.lineno}: {error.msg}): write code")
        if same:
            refuse("its replacement is the same code: give another")


def text_of(mutant: Mutant, root: Path = ROOT) -> str:
    """The source that a change is made in: a module, or the code cells of a page one after the other."""
    text = mutant.file(root).read_text(encoding="utf-8")
    return SEAM.join(code_cells(json.loads(text)).values()) if mutant.is_page else text


SEAM = "\n\n# --- the next cell ---\n\n"


def code_cells(notebook: dict) -> dict[str, str]:
    """The sources of a notebook's code cells by their ids.

    >>> code_cells({"cells": [{"cell_type": "code", "id": "a", "source": ["b = 25\\n", "n = 7"]}]})
    {'a': 'b = 25\\nn = 7'}
    """
    cells = {cell.get("id", f"cell-{k}"): cell for k, cell in enumerate(notebook["cells"])}
    return {key: "".join(cell["source"]) for key, cell in cells.items() if cell["cell_type"] == "code"}


@cache
def _parsed(source: str) -> str:
    """The syntax tree of a source as text; a magic command of a page counts as a comment."""
    return ast.dump(ast.parse(re.sub(r"^(?=[%!])", "#", source, flags=re.MULTILINE)))


def changed_cells(mutant: Mutant, cells: dict[str, str], size: float | None = None) -> dict[str, str]:
    """The cells of a page, one of them with a change in it."""
    return dict(zip(cells, mutant.changed(SEAM.join(cells.values()), size).split(SEAM), strict=True))


def names(mutants: Iterable[Mutant]) -> str:
    """Names in a row, for a message."""
    return ", ".join(mutant.name for mutant in mutants)
