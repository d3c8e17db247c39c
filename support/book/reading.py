"""Values as a reader writes them, on the command line and in files: YAML 1.2 (its core schema), or JSON.

One rule for all: a text stands for what YAML 1.2 reads in it. So ``010`` is 10 and ``1e-3`` a number, ``true`` and
``false`` are the booleans, while ``yes``, ``1:30``, ``1_000`` and ``2020-01-01`` are texts (under YAML 1.1, PyYAML's
rule, they would be a boolean, 90, a thousand and a date). A key that stands twice is refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from support.page import ParameterError

_INTEGER, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_PLAIN = {  # tag, its form, and the characters that it begins with
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    _INTEGER: (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    _FLOAT: (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2 and without double keys."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012

    def construct_mapping(self, node, deep=False):
        _once([self.construct_object(key, deep=True) for key, _ in node.value])
        return super().construct_mapping(node, deep)

    def integer(self, node) -> int:
        text = self.construct_scalar(node)
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)

    def real(self, node) -> float:
        return float(self.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))


for _tag, (_form, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_form})\Z"), _first)
_Loader.add_constructor(_INTEGER, _Loader.integer)
_Loader.add_constructor(_FLOAT, _Loader.real)


def _once(keys: list) -> None:
    if twice := [key for k, key in enumerate(keys) if key in keys[:k]]:
        raise ValueError(f"{twice[0]!r} stands there twice")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _once([key for key, _ in pairs])
    return dict(pairs)


def _parsed(text: str, is_json: bool = False) -> Any:
    """Raises ValueError whose message is one line."""
    try:
        return json.loads(text, object_pairs_hook=_pairs) if is_json else yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        said = f"{error.problem or error.context}, line {error.problem_mark.line + 1}" if error.problem_mark else error
    except RecursionError:
        said = "it is nested too deeply"
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        said = error
    raise ValueError(str(said).splitlines()[0])


def value(text: str, default: Any = None) -> Any:
    """The value that a text stands for: what YAML 1.2 reads in it, or the text itself where ``default`` is a text
    (without its quotation marks if it has any), or where it is no YAML.

    >>> [value(text) for text in ("010", "1e-3", "true", "[1, 2]", "1:30")]
    [10, 0.001, True, [1, 2], '1:30']
    >>> value("25", default="SGD")
    '25'
    """
    if isinstance(default, str) and text[:1] not in ("'", '"'):
        return text
    try:
        return _parsed(text)
    except ValueError:
        return text


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON file of parameters, or of a page's named sets of them. Raises ParameterError if it cannot be
    read, or is no mapping of names.
    """
    try:
        content = _parsed(path.read_text(encoding="utf-8"), path.suffix == ".json")
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ParameterError(
            f"parameter file {str(path)!r} is no {kind}: {said}; write lines such as `b: 25`"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ParameterError(f"parameter file {str(path)!r} holds no mapping of names: write lines such as `b: 25`")
    return content
