"""A new page: a notebook in the form of the book's lessons, its parameter set ``smoke``, and its line in ``_toc.yml``.

The template, ``template.ipynb`` beside this module, is a small lesson that runs as it is. Its sentences in italics say
what belongs in their place.
"""

from __future__ import annotations

import re
from pathlib import Path

from support import files
from support.book.parameters import InputError

_TEMPLATE = Path(__file__).with_name("template.ipynb")
_SETS = """\
# what each parameter may be, and quick ones for the tests
ranges:
  n: [3, 10]
  b: [1, 5]
  draws: [2, 20000]
smoke:
  n: 4
  draws: 50
"""


def page(name: str) -> str:
    """The template as the text of a notebook of that name.

    >>> "# Random walk" in page("random_walk")
    True
    """
    title = name.replace("_", " ").capitalize()
    return _TEMPLATE.read_text(encoding="utf-8").replace("@NAME@", name).replace("@TITLE@", title)


def with_line(contents: str, part: str, name: str) -> str:
    """The text of `_toc.yml` with the page as the last chapter of its part; as it is, if it has the page already.

    Raises InputError for a part of which no page is in the table of contents.

    >>> print(with_line("chapters:\\n- file: notebooks/noise/zoo\\n- file: book/notation\\n", "noise", "new"), end="")
    chapters:
    - file: notebooks/noise/zoo
    - file: notebooks/noise/new
    - file: book/notation
    """
    lines = list(re.finditer(r"^( *- file: notebooks/)(\w+)/(\w+)(?:\.ipynb)? *$", contents, re.MULTILINE))
    own = [line for line in lines if line[2] == part]
    if not own:
        known = ", ".join(dict.fromkeys(line[2] for line in lines))
        raise InputError(f"there is no part {part!r}: choose one of {known}, or begin it in _toc.yml with this page")
    if any(line[3] == name for line in own):
        return contents
    end = own[-1].end()
    return f"{contents[:end]}\n{own[-1][1]}{part}/{name}{contents[end:]}"


def make(root: Path, name: str, part: str) -> int:
    """Write ``notebooks/PART/NAME.ipynb``, ``notebooks/parameters/NAME.yaml`` and the line in ``_toc.yml``; the exit
    status, 0.

    Raises InputError for a bad or an existing name, an unknown part, or a tree that is no book.
    """
    toc, folder = root / "_toc.yml", root / "notebooks"
    if not toc.is_file():
        raise InputError(f"no _toc.yml in {str(root)!r}: run this in the root of the book")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"{name!r} is no name of a page: use lower-case letters, digits and _, such as random_walk")
    sets = folder / "parameters" / f"{name}.yaml"
    if there := [*folder.glob(f"*/{name}.ipynb"), *([sets] if sets.exists() else [])]:
        raise InputError(f"{there[0].relative_to(root)} exists: a page is known by its file name, so choose another")
    contents = with_line(toc.read_text(encoding="utf-8"), part, name)
    notebook = folder / part / f"{name}.ipynb"
    files.write_whole(notebook, page(name))
    files.write_whole(sets, _SETS)
    files.write_whole(toc, contents)
    print(f"{notebook.relative_to(root)}\n{sets.relative_to(root)}\n_toc.yml: - file: notebooks/{part}/{name}")
    print("`make lab` opens the page, `make notebooks` fills in its outputs")
    return 0
