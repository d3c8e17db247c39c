"""The examples in docstrings run, and every public class and function of the mathematics has one."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import support
from support.book import api

PACKAGE = Path(support.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


WITH_EXAMPLES = [
    module_name(path)
    for path in sorted(PACKAGE.rglob("*.py"))
    if re.search(r"^ *>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert result.failed == 0, f"{result.failed} of {result.attempted} lines, see above"
    assert result.attempted > 0


@pytest.mark.parametrize(
    "module", [m for floor in ("mathematics", "exact") for m in api.modules()[floor]], ids=lambda m: m.__name__
)
def test_every_entry_has_an_example(module):
    """A class may have it in one of its methods; an exception needs none."""
    entries = list(api.entries(module))
    shown = {entry.name for entry in entries if ">>> " in entry.doc}
    shown |= {name.rpartition(".")[0] for name in shown}
    missing = [
        entry.name
        for entry in entries
        if entry.kind in ("class", "function") and entry.name not in shown
        if not (entry.kind == "class" and issubclass(entry.thing, Exception))
    ]
    assert not missing, f"no example: {', '.join(missing)}"
