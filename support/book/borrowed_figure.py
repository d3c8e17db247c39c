"""A Sphinx directive that shows a figure of an executed page on another page, so that no picture is kept twice or drawn
by hand.

    ```{borrowed-figure} ../notebooks/noise/sampling_noise.ipynb
    :figure: fig-barcode
    The caption.
    ```

The figure is found by the name in its cell's metadata (``mystnb.figure.name``); its alternative text comes with it. A
page or figure that is not there is a warning.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective
from sphinx.util.logging import getLogger


class BorrowedFigure(SphinxDirective):
    """``{borrowed-figure} PAGE.ipynb`` with the options ``figure`` (its name there) and ``name`` (a label here); the
    content is the caption.
    """

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict] = {"figure": directives.unchanged_required, "name": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """The figure's nodes; none, and a warning, if it cannot be found."""
        _, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        try:
            picture, alt = find(Path(path), self.options["figure"])
        except (OSError, LookupError, ValueError) as error:
            getLogger(__name__).warning(
                "no figure %r in %s: %s",
                self.options.get("figure"),
                self.arguments[0],
                error,
                location=self.get_location(),
            )
            return []
        file = Path(self.env.app.doctreedir).parent / "borrowed" / f"{hashlib.sha256(picture).hexdigest()[:20]}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture)
        image = nodes.image(uri=os.path.relpath(file, Path(self.env.doc2path(self.env.docname)).parent), alt=alt)
        caption = nodes.caption()
        text = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, text)
        caption += text[0].children if text.children else []
        figure = nodes.figure("", image, caption)
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure]


def find(notebook: Path, name: str) -> tuple[bytes, str]:
    """The PNG of the figure ``name`` in an executed notebook, and its alternative text. Raises LookupError if there is
    none.
    """
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        about = cell["metadata"].get("mystnb", {})
        if about.get("figure", {}).get("name") == name:
            for output in cell.get("outputs", ()):
                if png := output.get("data", {}).get("image/png"):
                    return base64.b64decode("".join(png)), about.get("image", {}).get("alt", "")
            raise LookupError("its cell has no picture: execute the page")
    raise LookupError("no cell has a figure of this name")


def setup(app) -> dict:
    """Register the directive."""
    app.add_directive("borrowed-figure", BorrowedFigure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
