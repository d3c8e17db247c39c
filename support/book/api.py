"""A Sphinx extension: the reference of the package, from its docstrings as they stand in the code.

    ```{api} mathematics
    ```

lists every public module of a floor (`FLOORS`) with its public classes, methods and functions, in the order of the
source: signature, docstring, example. A docstring is read as what it is, plain text: paragraphs, ``code`` between
backticks, indented formulas, lists with * or -, examples after >>>. Names between backticks that have an entry of their
own lead to it, and every entry can be searched for and referred to.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import support

# the first pattern that fits a module's name gives its floor; what belongs to no reader's program has none
_PLACES = (
    (r"__main__|report|(book|bench|claims\.mutants)(\..*)?|.*\b_.*", None),
    (r"exact(\..*)?", "exact"),
    (r"experiments(\..*)?|files|jobs", "experiments"),
    (r"claims(\..*)?|page|recorded|trials|plotting|style|tables|animation|ball|calculator|widget", "page kit"),
    (r".*", "mathematics"),
)
_ITEM = re.compile(r"[*-] ")
FLOORS = ("mathematics", "exact", "experiments", "page kit")


@cache
def modules() -> dict[str, list[ModuleType]]:
    """The public modules of the package by floor, in alphabetical order. Imports them all."""
    found: dict[str, list[ModuleType]] = {floor: [] for floor in FLOORS}
    for info in sorted(pkgutil.walk_packages(support.__path__, "support."), key=lambda info: info.name):
        floor = next(floor for pattern, floor in _PLACES if re.fullmatch(pattern, info.name.removeprefix("support.")))
        if floor:
            found[floor].append(importlib.import_module(info.name))
    return found


@dataclass(frozen=True)
class Entry:
    """A public class, function, method or property: its dotted name, what it is, and the object with the docstring."""

    name: str
    kind: str
    thing: object

    @property
    def doc(self) -> str:
        """Its own docstring, in plain text; empty where it has none."""
        return inspect.cleandoc(getattr(self.thing, "__doc__", None) or "")

    @property
    def _found(self) -> inspect.Signature:
        try:
            return inspect.signature(self.thing)
        except (TypeError, ValueError):  # a property; an exception class of C
            return inspect.Signature()

    @property
    def parameters(self) -> list[str]:
        """Names of its parameters, which its docstring explains as ``name: …``."""
        return [name for name in self._found.parameters if name != "self"]

    @property
    def signature(self) -> str:
        """Parameters as in the source; empty for a property."""
        if self.kind == "property":
            return ""
        found, empty = self._found, inspect.Signature.empty
        own = [_plain(found.parameters[name]) for name in self.parameters]
        returns = empty if self.kind == "class" else found.return_annotation
        return str(found.replace(parameters=own, return_annotation=returns if returns is empty else _Raw(returns)))


class _Raw(str):
    """An annotation, or the name of a default, as the source has it."""

    def __repr__(self):
        return str(self)


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    shown = {}
    if parameter.annotation is not parameter.empty:
        shown["annotation"] = _Raw(parameter.annotation)
    if callable(parameter.default) and parameter.default is not parameter.empty:
        shown["default"] = _Raw(parameter.default.__name__)
    return parameter.replace(**shown)


def entries(module: ModuleType) -> Iterator[Entry]:
    """The public classes and functions that a module defines, each class followed by its own documented members."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing):
            yield Entry(f"{module.__name__}.{name}", "class", thing)
            yield from _members(f"{module.__name__}.{name}", thing)
        elif inspect.isroutine(inspect.unwrap(thing)) and thing.__doc__:
            yield Entry(f"{module.__name__}.{name}", "function", thing)


def _members(owner: str, thing: type) -> Iterator[Entry]:
    for name, member in vars(thing).items():
        inner = getattr(member, "__func__", member)  # of a class method or a static one
        kind = "property" if isinstance(inner, (property, cached_property)) else "method"
        if not name.startswith("_") and (kind == "property" or inspect.isfunction(inner)) and inner.__doc__:
            yield Entry(f"{owner}.{name}", kind, inner)


@cache
def names() -> dict[str, str]:
    """What dotted names mean: each module and entry itself, and what a module took from elsewhere in the package."""
    every = [module for group in modules().values() for module in group]
    own = {name: name for module in every for name in (module.__name__, *(entry.name for entry in entries(module)))}
    taken = {
        f"{module.__name__}.{name}": f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
        for module in every
        for name, thing in vars(module).items()
    }
    return {name: target for name, target in taken.items() if target in own} | own


def paragraphs(doc: str) -> Iterator[tuple[str, list[str]]]:
    """The blocks of a docstring as (kind, lines); kinds: text, code, example, item.

    >>> list(paragraphs("The mean.\\n\\n    m = 1/n\\n\\n>>> 1 + 1\\n2"))
    [('text', ['The mean.']), ('code', ['m = 1/n']), ('example', ['>>> 1 + 1', '2'])]
    """
    kind, block = "", []
    for line in [*doc.splitlines(), ""]:
        new = _kind(line, kind)
        if new != kind or _ITEM.match(line):
            if block:
                yield kind, inspect.cleandoc("\n".join(block)).splitlines() if kind == "code" else block
            kind, block = new, []
        block += [line] if new else []


def _kind(line: str, before: str) -> str:
    """The kind of the block that a line belongs to, after a line of kind ``before``; empty between blocks."""
    if not line.strip():
        return ""
    if before == "example" or line.startswith(">>>"):
        return "example"
    if before == "item" or _ITEM.match(line):
        return "item"
    return "code" if line.startswith("  ") else "text"


class Reference(SphinxDirective):
    """The directive ``{api} FLOOR``: an overview of the floor's modules, then each with all its entries."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """The nodes; an error of the page for a floor that does not exist."""
        if self.arguments[0] not in FLOORS:
            raise self.error(f"{self.arguments[0]!r} is no floor of the package: choose {', '.join(FLOORS)}")
        group = modules()[self.arguments[0]]
        overview = nodes.bullet_list(classes=["api-overview"])
        for module in group:
            item = nodes.paragraph()
            item += [
                self._link(module.__name__, module.__name__),
                nodes.Text(" "),
                *self._inline(_first(module), "", []),
            ]
            overview += nodes.list_item("", item)
        return [overview, *map(self._module, group)]

    def _module(self, module: ModuleType) -> nodes.Node:
        self.env.note_dependency(module.__file__)
        section = nodes.section(ids=[module.__name__], names=[module.__name__], classes=["api-module"])
        section += nodes.title(module.__name__, module.__name__)
        self._note(module.__name__, "module")
        section += self._doc(inspect.cleandoc(module.__doc__ or ""), module.__name__, [])
        owner = section
        for entry in entries(module):
            shown = self._entry(entry)
            if entry.kind in ("method", "property"):
                owner += shown
            else:
                section += shown
                owner = shown[-1]  # what follows a class are its members
        return section

    def _entry(self, entry: Entry) -> addnodes.desc:
        name = entry.name.rpartition(".")[2]
        self._note(entry.name, entry.kind)
        says = addnodes.desc_signature(ids=[entry.name], classes=["api-signature"])
        if entry.kind in ("class", "property"):
            says += addnodes.desc_annotation("", f"{entry.kind} ")
        says += [addnodes.desc_name(name, name), nodes.Text(entry.signature)]
        content = addnodes.desc_content("", *self._doc(entry.doc, entry.name, entry.parameters))
        about = {"domain": "py", "objtype": entry.kind, "classes": ["py", "api-entry"]}
        return addnodes.desc("", says, content, **about)

    def _note(self, name: str, kind: str) -> None:
        """Let Sphinx know the entry: for its search, and for references from other pages."""
        domain = self.env.get_domain("py")
        domain.note_object(name, kind, name, location=self.get_location())
        if kind == "module":
            domain.note_module(name, name, "", "", False)

    def _doc(self, doc: str, place: str, parameters: list[str]) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for kind, lines in paragraphs(doc):
            if kind in ("code", "example"):
                text = "\n".join(lines)
                found.append(nodes.literal_block(text, text, language="pycon" if kind == "example" else "none"))
                continue
            text = " ".join(line.strip() for line in lines)
            if kind == "text":
                found.append(nodes.paragraph("", "", *self._inline(text, place, parameters)))
                continue
            if not (found and isinstance(found[-1], nodes.bullet_list)):
                found.append(nodes.bullet_list())
            item = nodes.paragraph("", "", *self._inline(text[2:], place, parameters))
            found[-1] += nodes.list_item("", item)
        return found

    def _inline(self, text: str, place: str, parameters: Iterable[str]) -> list[nodes.Node]:
        """A line of a docstring: code between backticks, names that have an entry as links, parameters in bold."""
        found: list[nodes.Node] = []
        for piece in re.split(r"(``.+?``|`[^`]+`)", text):
            code = piece.strip("`")
            if piece.startswith("`"):
                target = None if piece.startswith("``") else _target(code, place)
                found.append(self._link(target, code) if target else nodes.literal(code, code))
                continue
            for k, part in enumerate(_explained(parameters)(piece)):
                found.append(nodes.strong(part, part) if k % 2 else nodes.Text(part))
        return found

    def _link(self, target: str, text: str) -> nodes.Node:
        about = {"refdomain": "py", "reftype": "obj", "reftarget": target, "refdoc": self.env.docname}
        return addnodes.pending_xref("", nodes.literal(text, text), **about, refexplicit=True)


def _explained(parameters: Iterable[str]) -> Callable[[str], list[str]]:
    """What parts a text at ``name:`` and ``name, name:`` of parameters that it explains: odd parts are these names."""
    one = "|".join(map(re.escape, parameters)) or r"(?!)"
    return re.compile(rf"(?<![\w.-])((?:{one})(?:, (?:{one}))*)(?=: )").split


def _first(module: ModuleType) -> str:
    """The first sentence of a module's docstring."""
    doc = " ".join((module.__doc__ or "").split())
    return re.split(r"(?<=[.:])(?<!et al\.)\s", doc, maxsplit=1)[0].rstrip(":")


def _target(name: str, place: str) -> str | None:
    """The entry that a name between backticks means at a place: searched from there outwards."""
    name = name.removesuffix("()")
    inner = place.split(".")
    candidates = [".".join([*inner[:k], name]) for k in range(len(inner), -1, -1)]
    return next((names()[one] for one in candidates if one in names() and one != place), None)


def setup(app: Sphinx) -> dict:
    """Register the directive."""
    app.add_directive("api", Reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
