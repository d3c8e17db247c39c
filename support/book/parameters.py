"""The parameters of a page: what its parameters cell says, and what a reader gives on the command line or in a file,
checked against it.

A page names its parameters in one cell tagged ``parameters``, made of plain assignments. Whatever a reader gives is
checked here before any work starts, because papermill, which executes the page, only warns of a name that it does not
know.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from support import page
from support.book import freshness
from support.errors import Refused

_MOST = 100_000  # points of a grid


class InputError(Refused):
    """A request that cannot be carried out (no such notebook or folder, a malformed grid); the message names the value
    and the remedy.
    """


def read_notebook(notebook: Path):
    """Read a notebook (nbformat 4, every cell with an id). Raises InputError if there is none, or if it is none."""
    import nbformat

    if not notebook.is_file():
        raise InputError(f"no notebook at {str(notebook)!r}: give the path of an .ipynb file")
    try:
        content = nbformat.from_dict(json.loads(notebook.read_text(encoding="utf-8")))
        content.nbformat_minor = max(5, content.nbformat_minor)
        for k, cell in enumerate(content.cells):
            cell.setdefault("id", f"cell-{k}")
            cell.source = "".join(cell.source)
        nbformat.validate(content)
    except (ValueError, KeyError, AttributeError, TypeError, nbformat.ValidationError) as error:
        raise InputError(f"{str(notebook)!r} is not a notebook: {str(error).splitlines()[0]}") from error
    return content


def defaults_of(notebook: Path, content=None) -> dict[str, Any]:
    """Names and default values of a notebook's parameters cell. Raises InputError unless there is one such cell, of
    assignments ``name = literal`` alone.
    """
    tagged = [
        cell.source
        for cell in (content or read_notebook(notebook)).cells
        if "parameters" in cell.metadata.get("tags", ())
    ]
    if len(tagged) != 1:
        raise InputError(
            f"{notebook.name} has {len(tagged)} cells tagged 'parameters': it needs one, of lines such as `b = 25  # "
            f"batch size`"
        )
    found: dict[str, Any] = {}
    for statement in ast.parse(tagged[0]).body:
        try:
            if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
                raise ValueError
            (name,) = (
                target.id for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
            )
            found[name] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            line = ast.unparse(statement).splitlines()[0]
            raise InputError(
                f"{notebook.name}: `{line}` in the parameters cell is not `name = literal`: compute it in a later cell"
            ) from None
    return found


def named_set(notebook: Path, name: str) -> dict[str, Any]:
    """The set ``name`` of a page, from ``parameters/<page>.yaml`` in the folder above the page's. The sets default and
    smoke, where left out, are empty.

    Raises InputError for a set that is not there, ParameterError for a file or a set that is no mapping.
    """
    path = notebook.resolve().parent.parent / "parameters" / f"{notebook.stem}.yaml"
    sets = page.read_mapping(path) if path.is_file() else {}
    if name not in sets and name not in ("default", "smoke"):
        known = ", ".join(sets or ("default", "smoke"))
        raise InputError(
            f"{name!r} is no set of parameters of page {notebook.stem!r}: give one of {known}, or a YAML or JSON file"
        )
    if not isinstance(found := sets.get(name) or {}, dict):
        raise page.ParameterError(
            f"the set {name!r} in {str(path)!r} is no mapping: write lines such as `b: 25` below its name"
        )
    return found


def value(text: str, default: Any = None) -> Any:
    """The value that a text on the command line stands for: a Python or YAML scalar or list; the text itself where the
    default is a text.
    """
    import yaml

    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError:
            found = text
    return text if isinstance(default, str) and not isinstance(found, str) else found


def complete(notebook: Path, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a run: the given ones, checked, over the page's own. An int is widened where the page has a
    float. Raises ParameterError.
    """
    given = {name: _widen(item, defaults.get(name)) for name, item in given.items()}
    page.validate(notebook.stem, given, dict(defaults))
    return {**defaults, **given}


def _widen(item: Any, default: Any) -> Any:
    if isinstance(default, float) and not isinstance(item, (bool, float)):
        with contextlib.suppress(TypeError, ValueError):  # YAML reads 1e-3 as a text
            return float(item)
    if isinstance(default, list) and isinstance(item, list) and default:
        return [_widen(x, default[0]) for x in item]
    return item


def grid(axes: Iterable[str], defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The points of a grid given as texts such as ``b=10,20,50`` and ``seed=1..5`` (both ends included), the last axis
    fastest.

    Raises InputError for a malformed axis, an empty range, a value or a name given twice.
    """
    found: dict[str, list] = {}
    for axis in axes:
        name, equals, texts = axis.partition("=")
        name = name.strip()
        if not (name.isidentifier() and equals and texts.strip()):
            raise InputError(f"grid axis {axis!r} is malformed: write NAME=VALUE,VALUE or NAME=FIRST..LAST")
        if name in found:
            raise InputError(
                f"grid axis {axis!r} names {name!r} a second time: give all its values at once, as {name}=1,2,3"
            )
        # commas inside brackets or quotes belong to a value
        items = re.findall(r"""(?:\[[^\]]*\]|"[^"]*"|'[^']*'|[^,\["'])+|(?<=,)(?=,|$)|^(?=,)""", texts)
        if ",".join(items) != texts:
            raise InputError(f"grid axis {axis!r} is malformed: close every bracket and quote")
        found[name] = [item for text in items for item in _axis_values(axis, text.strip(), defaults.get(name))]
        if len({repr(item) for item in found[name]}) < len(found[name]):
            raise InputError(f"grid axis {axis!r} holds a value twice: give each once")
    if not found:
        raise InputError("the grid is empty: give at least one axis, such as -p seed=1..5")
    if (points := math.prod(map(len, found.values()))) > _MOST:
        raise InputError(
            f"the grid has {points:,} points: a grid takes up to {_MOST:,}, so give fewer values, or several grids"
        )
    return [dict(zip(found, point, strict=True)) for point in itertools.product(*found.values())]


def _axis_values(axis: str, text: str, default: Any) -> list:
    if span := re.fullmatch(r"(-?\d+)\.\.(-?\d+)", text):
        first, last = map(int, span.groups())
        if first > last:
            raise InputError(f"range {text!r} of grid axis {axis!r} is empty: write the smaller end first")
        if last - first >= _MOST:
            raise InputError(
                f"range {text!r} of grid axis {axis!r} has {last - first + 1:,} values: a grid takes up to {_MOST:,} "
                f"points"
            )
        return list(range(first, last + 1))
    if not text or ".." in text:
        raise InputError(
            f"grid axis {axis!r} has the malformed value {text!r}: write NAME=VALUE,VALUE or NAME=FIRST..LAST with "
            f"whole numbers"
        )
    return [value(text, default)]


def given_parameters(
    notebook: Path, file: str | None, pairs: Iterable[tuple[str, str]], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Parameters from a YAML or JSON file (or a page's named set) and, over them, from ``name value`` pairs.

    Raises InputError for a file or set that is not there, ParameterError for one that is no mapping.
    """
    found: dict[str, Any] = {}
    if file is not None and Path(file).suffix in (".yaml", ".yml", ".json"):
        if not Path(file).is_file():
            raise InputError(f"no parameter file {file!r}: give a YAML or JSON mapping of names to values")
        found |= page.read_mapping(Path(file))
    elif file is not None:
        found |= named_set(notebook, file)
    return found | {name: value(text, defaults.get(name)) for name, text in pairs}


def file_name(stem: str, given: Mapping[str, Any]) -> str:
    """The name of a result, such as ``page__b=10__seed=1``; values that a file name cannot hold are shortened and told
    apart by a digest.
    """
    plain = "".join(f"__{name}={item if isinstance(item, str) else json.dumps(item)}" for name, item in given.items())
    safe = re.sub(r"[^\w.=+-]+", "-", plain, flags=re.ASCII)[:120]  # a name's limit is in bytes
    return stem + safe + ("" if safe == plain else "-" + freshness.json_digest(dict(given))[:8])
