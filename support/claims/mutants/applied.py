"""A fault in a running process: the package is imported anew, one of its modules from changed source.

Names that other modules import from a module escape a patch of it; a module that is compiled from changed source is
changed for everybody. So a process drops what it has of the package, and a finder that stands before all others hands
out the changed modules. Do this in a process of its own.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path


class _Loader(importlib.machinery.SourceFileLoader):
    """A module's file with other source; no compiled file is read or written."""

    def __init__(self, name: str, path: str, source: str):
        super().__init__(name, path)
        self.changed = source

    def get_code(self, fullname):
        return compile(self.changed, self.path, "exec", dont_inherit=True)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules whose source is given, ``{name: (file, source)}``, and no others."""

    def __init__(self, changed: Mapping[str, tuple[Path, str]]):
        self.changed = dict(changed)

    def find_spec(self, fullname, path=None, target=None):
        """The specification of a changed module; None for all others."""
        if fullname not in self.changed:
            return None
        file, source = self.changed[fullname]
        below = [str(file.parent)] if file.name == "__init__.py" else None
        loader = _Loader(fullname, str(file), source)
        return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=below)


def install(root: Path, changed: Mapping[str, tuple[Path, str]], packages: frozenset[str] = frozenset()) -> None:
    """Import from the tree ``root`` from now on, these modules from the source given: what was imported of ``support``,
    of their packages and of ``packages`` is dropped.
    """
    dropped = {"support", *packages, *(name.partition(".")[0] for name in changed)}
    for name in [name for name in sys.modules if name.partition(".")[0] in dropped]:
        del sys.modules[name]
    sys.path[:0] = [str(root)]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
    sys.meta_path.insert(0, Finder(changed))
    importlib.invalidate_caches()
