"""The parameters of a page: what its parameters cell says, and what a reader gives on the command line or in a file,
checked against it.

A page names its parameters in one cell tagged ``parameters``, made of plain assignments. Beside the notebooks stands
``parameters/<page>.yaml`` with other sets of values, such as ``smoke``, and under ``ranges`` the least and the largest
value of each number, as far as they are known without the page. Whatever a reader gives is checked here before any
work starts.
"""

from __future__ import annotations

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
from support.book.reading import read_mapping, value
from support.errors import Refused

_MOST = 100_000  # points of a grid
_LONGEST = 180  # bytes of a result's name, whose own files are called longer by a suffix


class InputError(Refused):
    """A request that cannot be carried out (no such notebook or folder, a malformed grid); the message names the value
    and the remedy.
    """


def is_file(path: Path) -> bool:
    """Whether there is a regular file at a path: no folder, no FIFO, and no path that the system finds too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_notebook(notebook: Path):
    """Read a notebook (nbformat 4, every cell with an id, in Python). Raises InputError if there is none, or if it is
    none.
    """
    import nbformat

    if not is_file(notebook):
        raise InputError(f"no notebook at {str(notebook)!r}: give the path of an .ipynb file")
    try:
        content = nbformat.from_dict(json.loads(notebook.read_text(encoding="utf-8")))
        if content.nbformat != 4:
            raise ValueError(f"its format is {content.nbformat}, and 4 is known")
        content.nbformat_minor = max(5, content.nbformat_minor)
        for k, cell in enumerate(content.cells):
            cell.setdefault("id", f"cell-{k}")
            cell.source = "".join(cell.source)
        nbformat.validate(content)
    except RecursionError:
        raise InputError(f"{str(notebook)!r} is not a notebook: it is nested too deeply") from None
    except (ValueError, KeyError, AttributeError, TypeError, nbformat.ValidationError) as error:
        raise InputError(f"{str(notebook)!r} is not a notebook: {(str(error).splitlines() or ['empty'])[0]}") from error
    kernel = content.metadata.get("kernelspec", {})
    language = kernel.get("language") or content.metadata.get("language_info", {}).get("name") or kernel.get("name")
    if language and "python" not in str(language).lower():
        raise InputError(
            f"{notebook.name} is written in {language}, and pages are executed in Python: choose its kernel"
        )
    return content


def defaults_of(notebook: Path, content=None) -> dict[str, Any]:
    """Names and default values of a notebook's parameters cell. Raises InputError for a file that is no notebook, and
    ParameterError unless it has one such cell, of assignments ``name = literal`` alone.
    """
    return page.parameters_of((content or read_notebook(notebook)).cells, notebook.name)


def sets(notebook: Path) -> dict[str, dict]:
    """The mappings in the page's file of sets, ``ranges`` among them; empty where there is no file."""
    path = notebook.resolve().parent.parent / "parameters" / f"{notebook.stem}.yaml"
    named = {name: found or {} for name, found in read_mapping(path).items()} if is_file(path) else {}
    for name, found in named.items():
        if not isinstance(found, dict):
            raise page.ParameterError(
                f"the set {name!r} in {str(path)!r} is no mapping: write lines such as `b: 25` below its name"
            )
        if name == "default":
            raise page.ParameterError(f"{str(path)!r} has a set 'default': the page's parameters cell says that, alone")
    return named


def named_set(notebook: Path, name: str) -> dict[str, Any]:
    """The set ``name`` of a page, from ``parameters/<page>.yaml`` in the folder above the page's. The set default, and
    smoke where it is left out, are empty.

    Raises InputError for a set that is not there, ParameterError for a file or a set that is no mapping.
    """
    named = {"default": {}, "smoke": {}} | sets(notebook)
    if name not in named or name == "ranges":
        known = ", ".join(known for known in named if known != "ranges")
        raise InputError(
            f"{name!r} is no set of parameters of page {notebook.stem!r}: give one of {known}, or a YAML or JSON file"
        )
    return named[name]


def ranges_of(notebook: Path, defaults: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The least and the largest value of a page's numbers, as its file of sets states them: ``n: [3, 12]``, with null
    for an open end. Raises ParameterError for a name that is no number of the page, or another form.
    """
    found = {}
    for name, ends in sets(notebook).get("ranges", {}).items():
        entries = own if isinstance(own := defaults.get(name), list) else [own]
        numbers = isinstance(ends, list) and {type(item) for item in entries} <= {int, float}
        if not (numbers and len(ends) == 2 and {type(end) for end in ends} <= {int, float, type(None)}):
            raise page.ParameterError(
                f"the range {name}: {ends!r} of page {notebook.stem!r} is none: write a parameter's name and [least, "
                f"largest], such as `b: [1, 64]`"
            )
        low, high = ends
        found[name] = (-math.inf if low is None else low, math.inf if high is None else high)
    return found


def complete(notebook: Path, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a run: the given ones, checked, over the page's own. An int is widened where the page has a
    float. Raises ParameterError for an unknown name, another type, or a value out of the page's range.
    """
    given = {name: _widen(item, defaults.get(name)) for name, item in given.items()}
    page.validate(notebook.stem, given, defaults)
    for name, (low, high) in ranges_of(notebook, defaults).items():
        for item in given[name] if isinstance(given.get(name), list) else [given.get(name, low)]:
            if not low <= item <= high:
                bounds = f"at least {low}" if high == math.inf else f"at most {high}" if low == -math.inf else ""
                raise page.ParameterError(
                    f"parameter {name} = {item!r} of page {notebook.stem!r} is out of range: give "
                    f"{bounds or f'{low} to {high}'}"
                )
    return {**defaults, **given}


def _widen(item: Any, default: Any) -> Any:
    if isinstance(default, float) and isinstance(item, int) and not isinstance(item, bool):
        with contextlib.suppress(OverflowError):
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
    if span := re.fullmatch(r"(-?\d{1,18})\.\.(-?\d{1,18})", text):
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
            f"grid axis {axis[:60]!r} has the malformed value {text[:60]!r}: write NAME=VALUE,VALUE or "
            f"NAME=FIRST..LAST with whole numbers"
        )
    return [value(text, default)]


def given_parameters(
    notebook: Path, file: str | None, pairs: Iterable[str], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Parameters from a YAML or JSON file (or a page's named set) and, over them, from texts ``NAME=VALUE``.

    Raises InputError for a file or set that is not there, a text of another form, and a name given twice;
    ParameterError for a file or a set that is no mapping.
    """
    found: dict[str, Any] = {}
    if file is not None and Path(file).suffix in (".yaml", ".yml", ".json"):
        if not is_file(Path(file)):
            raise InputError(f"no parameter file {file!r}: give a YAML or JSON mapping of names to values")
        found |= read_mapping(Path(file))
    elif file is not None:
        found |= named_set(notebook, file)
    single: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name.isidentifier() and equals):
            raise InputError(f"parameter {pair[:60]!r} has no value: write NAME=VALUE, such as -p b=25")
        if name in single:
            raise InputError(f"parameter {name!r} is given twice, as {single[name]!r} and {text!r}: give it once")
        single[name] = value(text, defaults.get(name))
    return found | single


def written(given: Mapping[str, Any]) -> list[str]:
    """Parameters as texts ``NAME=VALUE`` that `given_parameters` reads back."""
    return [f"{name}={_text(item)}" for name, item in given.items()]


def _text(item: Any) -> str:
    plain = isinstance(item, str) and item[:1] not in ("'", '"')
    return item if plain else json.dumps(item, ensure_ascii=False)


def file_name(stem: str, given: Mapping[str, Any]) -> str:
    """The name of a result, such as ``page__b=10__seed=1``; values that a file name cannot hold are shortened and told
    apart by a digest.
    """
    plain = "".join(f"__{pair}" for pair in written(given))
    safe = re.sub(r"[^\w.=+-]+", "-", plain, flags=re.ASCII)[:120]  # a name's limit is in bytes
    stem = stem.encode()[: _LONGEST - len(safe)].decode(errors="ignore")
    return stem + safe + ("" if safe == plain else "-" + freshness.json_digest(dict(given))[:8])
