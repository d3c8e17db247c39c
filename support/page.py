"""What an executable page needs to know of itself: its parameters, whether they are the book's, and what it used of the
package; and the numbers that it gives away by name.

A page's cell tagged ``parameters`` is the one list of its parameters and of the book's values for them. `begin`, called
once after that cell, finds the list in the notebook's file, which stands in the folder where the page is executed, and
the values in the page itself. Other sets of values (``smoke``, a quick run) and ranges stand in
``notebooks/parameters/<page>.yaml``.
"""

from __future__ import annotations

import ast
import json
import math
import os
import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from support.errors import Refused, WrongType

NUMBER = "application/vnd.support.number+json"  # the type under which a named number travels in a cell's output
STRICT = "SUPPORT_BOOK"  # set where the book executes its pages: a verdict against the ledger then stops the page
_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = _shown.maxlong = 60


class ParameterError(Refused):
    """A notebook parameter that a page does not have or cannot take; the message names the parameter, its value and the
    remedy.
    """


@dataclass
class Page:
    """The page in this process (no name outside one): its parameters, and whether a verdict that contradicts the ledger
    stops it, as it does where the book executes the page with its own parameters.
    """

    name: str | None = None
    default: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)


current = Page()
_used: dict[str, set[str]] = {"claims": set(), "records": set()}


def begin(name: str, /) -> None:
    """Start the page ``name``, whose parameters cell has been run: check the types of its parameters against the file
    ``<name>.ipynb`` in the working directory, and note whether they are the book's.

    With others it prints a line that says so, since the page's sentences do not change. Without the file, as in a copy
    under another name, nothing is checked. Raises ParameterError for a parameter that is missing or ill-typed.
    """
    current.name, current.default, current.parameters = name, False, {}
    for kind in _used.values():
        kind.clear()
    notebook = Path.cwd() / f"{name}.ipynb"
    if not notebook.is_file():
        return
    defaults = parameters_of(json.loads(notebook.read_text(encoding="utf-8"))["cells"], notebook.name)
    given = sys._getframe(1).f_globals
    if missing := [key for key in defaults if key not in given]:
        raise ParameterError(f"page {name!r} was started without {', '.join(missing)}: run its parameters cell first")
    current.parameters = {key: given[key] for key in defaults}
    validate(name, current.parameters, defaults)
    changed = [f"{key} = {value!r}" for key, value in current.parameters.items() if not same(value, defaults[key])]
    current.default = not changed and STRICT in os.environ
    if changed:
        print(
            f"The text speaks of the book's parameters. Here {', '.join(changed)}: trust the numbers, figures and "
            f"boxes."
        )


def parameters_of(cells: list[Mapping], where: str) -> dict[str, Any]:
    """The parameters of a page's cells and the book's values, from its one cell tagged ``parameters``, which is made of
    lines ``name = literal``: numbers, texts, booleans, and lists or mappings of these. Raises ParameterError.

    >>> cell = {"metadata": {"tags": ["parameters"]}, "source": "n = 7  # samples"}
    >>> parameters_of([cell], "page.ipynb")
    {'n': 7}
    """
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    if len(tagged) != 1:
        raise ParameterError(
            f"{where} has {len(tagged)} cells tagged 'parameters': it needs one, of lines such as `b = 25  # batch "
            f"size`"
        )
    try:
        statements = ast.parse(tagged[0]).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line, said = getattr(error, "lineno", None) or 1, getattr(error, "msg", error)
        raise ParameterError(
            f"{where}: line {line} of the parameters cell is no Python ({said}): it takes lines such as `b = 25` alone"
        ) from None
    found: dict[str, Any] = {}
    for statement in statements:
        line = f"{where}: `{tagged[0].splitlines()[statement.lineno - 1].strip()[:60]}` in the parameters cell"
        try:
            name, value = _assigned(statement)
            if name in found:
                raise ValueError
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise ParameterError(
                f"{line} is not `name = literal`, each name once: compute it in a later cell"
            ) from None
        if reason := _unfit(value):
            raise ParameterError(f"{line} {reason}")
        found[name] = value
    return found


def _assigned(statement: ast.stmt) -> tuple[str, Any]:
    match statement:
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=node)
            | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as node)
        ):
            return name, ast.literal_eval(node)
    raise ValueError


def _unfit(value: Any) -> str:
    """Why a value cannot be a parameter, which JSON must hold as it is; empty if it can."""
    match value:
        case float() if not math.isfinite(value):
            return "is not finite: give a finite number"
        case str():
            return "" if _is_unicode(value) else "holds half a character: give a text in UTF-8"
        case None | bool() | int() | float():
            return ""
        case list():
            return next(filter(None, map(_unfit, value)), "")
        case dict() if all(isinstance(key, str) for key in value):
            return next(filter(None, map(_unfit, value.values())), "")
        case dict():
            return "has a key that is no text: put its keys in quotation marks"
    kind = type(value).__name__
    return f"is of type {kind}: give a number, text, boolean, or a list or mapping of these"


def _is_unicode(text: str) -> bool:
    """Whether a text can be written to a file, as one with half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def same(first: Any, second: Any) -> bool:
    """Whether two parameters are equal in value and type, at every depth: True is not 1, and 1 is not 1.0.

    >>> same([1], [True]), same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    (False, True)
    """
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def validate(name: str, parameters: Mapping, defaults: Mapping) -> None:
    """Refuse parameters of page ``name`` that ``defaults`` does not have, or whose type differs from the default's (an
    int is taken where a float is wanted). Raises ParameterError.

    >>> validate("zoo", {"n": 8}, {"n": 7, "b": 3})
    """
    for key, value in parameters.items():
        if key not in defaults:
            raise ParameterError(f"page {name!r} has no parameter {key!r}: it has {', '.join(defaults) or 'none'}")
        try:
            unfit = _unfit(value)
        except RecursionError:
            unfit = "is nested too deeply: give a plainer one"
        if unfit:
            raise ParameterError(f"parameter {key} = {_shown.repr(value)} of page {name!r} {unfit}")
        _same_type(name, key, value, defaults[key])
        if key == "seed" and value < 0:
            raise ParameterError(f"parameter seed = {value} of page {name!r} is negative: give a whole number ≥ 0")


def _same_type(name: str, key: str, value, default) -> None:
    wanted = type(default)
    fits = isinstance(value, wanted) and not (isinstance(value, bool) and wanted is not bool)
    if wanted is float:
        fits = isinstance(value, Real) and not isinstance(value, bool)
    if not fits:
        raise ParameterError(
            f"parameter {key} = {_shown.repr(value)} of page {name!r} is of type {type(value).__name__}: give "
            f"{wanted.__name__}, such as {default!r}"
        )
    if isinstance(value, list) and default:
        for item in value:
            _same_type(name, f"{key}[…]", item, default[0])


def number(name: str, value) -> None:
    """Show a number of this page under a name, which `python -m support batch` makes a column of its table of results.

    Raises WrongType for a name that is no identifier or a value that is no number, and Refused for a number that is
    not finite or a name that is a parameter's.

    >>> number("loss", 0.25)
    loss = 0.25
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise WrongType(f"name = {name!r} is no identifier: give one such as 'loss'")
    if name in current.parameters or name in ("status", "seconds"):
        raise Refused(f"name = {name!r} is taken by a column of the table of results: give another")
    if isinstance(value, bool) or not isinstance(value, Real):
        raise WrongType(f"{name} = {value!r} is no number: give one")
    if not math.isfinite(value):
        raise Refused(f"{name} = {value!r} is not finite: give a finite number")
    plain = int(value) if isinstance(value, Integral) else float(value)
    text = f"{name} = {plain:.6g}" if isinstance(plain, float) else f"{name} = {plain}"
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()) is not None:
        shell.display_pub.publish({"text/plain": text, NUMBER: {"name": name, "value": plain}})
    else:
        print(text)


def used(kind: str, name: str) -> None:
    """Note that this page used a ledger entry (kind "claims") or a record (kind "records"), so that it is executed
    again when that changes.
    """
    _used[kind].add(name)


def dependencies() -> dict[str, list[str]]:
    """What this process has used so far: support's modules, ledger entries, records."""
    modules = sorted(name for name in sys.modules if name == "support" or name.startswith("support."))
    return {"modules": modules, **{kind: sorted(names) for kind, names in _used.items()}}
