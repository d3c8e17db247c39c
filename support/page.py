"""What an executable page needs to know of itself: its parameters, whether they are the book's, and what it used of the
package.

A page calls `begin` once, after its parameters cell. The named parameter sets of a page stand in
``notebooks/parameters/<page>.yaml``
(``default`` repeats the parameters cell, ``smoke`` is a quick run); they are found from the page's own folder, which is
where a page is executed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from support.errors import Refused


class ParameterError(Refused):
    """A notebook parameter that a page does not have or cannot take; the message names the parameter, its value and the
    remedy.
    """


@dataclass
class Page:
    """The page in this process: name, parameters, and whether they are the book's own (None outside a page)."""

    name: str | None = None
    default: bool = False


current = Page()
_used: dict[str, set[str]] = {"claims": set(), "records": set()}


def begin(name: str, /, **parameters) -> None:
    """Start the page ``name`` with the values of its parameters cell.

    Checks their types against the book's, and notes whether they are the book's: only then does a verdict that
    contradicts the ledger stop the page. With others it prints a line that says so, since the page's sentences do not
    change.
    Raises ParameterError for a missing, unknown or ill-typed parameter, and for a file of sets without the set
    ``default``.
    """
    current.name, current.default = name, False
    for kind in _used.values():
        kind.clear()
    sets = Path.cwd().parent / "parameters" / f"{name}.yaml"
    if sets.is_file():
        if not isinstance(defaults := read_mapping(sets).get("default"), dict):
            raise ParameterError(f"{str(sets)!r} has no set 'default': repeat the page's parameters cell there")
        validate(name, parameters, defaults, complete=True)
        current.default = parameters == defaults
        if changed := [f"{key} = {value!r}" for key, value in parameters.items() if value != defaults[key]]:
            print(
                f"The text speaks of the book's parameters. Here {', '.join(changed)}: trust the numbers, figures and "
                f"boxes."
            )


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file of parameters, or of a page's named sets of them. Raises ParameterError if it cannot be
    read or is no mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(
            f"parameter file {str(path)!r} is no YAML: {str(error).splitlines()[0]}; write lines such as `b: 25`"
        ) from None
    if not isinstance(content, dict):
        raise ParameterError(f"parameter file {str(path)!r} holds no mapping: write lines such as `b: 25`")
    return content


def validate(name: str, parameters: dict, defaults: dict, complete: bool = False) -> None:
    """Refuse parameters that ``defaults`` does not have, or whose type differs from the default's (an int is taken
    where a float is wanted).
    """
    for key, value in parameters.items():
        if key not in defaults:
            raise ParameterError(f"page {name!r} has no parameter {key!r}: it has {', '.join(defaults) or 'none'}")
        _same_type(name, key, value, defaults[key])
        if key == "seed" and value < 0:
            raise ParameterError(f"parameter seed = {value} of page {name!r} is negative: give a whole number ≥ 0")
    if complete and (missing := [key for key in defaults if key not in parameters]):
        raise ParameterError(
            f"page {name!r} was started without {', '.join(missing)}: pass every name of its parameters cell to "
            f"page.begin"
        )


def _same_type(name: str, key: str, value, default) -> None:
    wanted = type(default)
    fits = isinstance(value, wanted) and not (isinstance(value, bool) and wanted is not bool)
    if wanted is float:
        fits = isinstance(value, Real) and not isinstance(value, bool)
    if not fits:
        raise ParameterError(
            f"parameter {key} = {value!r} of page {name!r} is of type {type(value).__name__}: give {wanted.__name__}, "
            f"such as {default!r}"
        )
    if isinstance(value, (list, tuple)) and default:
        for item in value:
            _same_type(name, f"{key}[…]", item, default[0])


def used(kind: str, name: str) -> None:
    """Note that this page used a ledger entry (kind "claims") or a record (kind "records"), so that it is executed
    again when that changes.
    """
    _used[kind].add(name)


def dependencies() -> dict[str, list[str]]:
    """What this process has used so far: support's modules, ledger entries, records."""
    modules = sorted(name for name in sys.modules if name == "support" or name.startswith("support."))
    return {"modules": modules, **{kind: sorted(names) for kind, names in _used.items()}}
