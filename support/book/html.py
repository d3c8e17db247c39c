"""An executed page as one HTML file that asks nothing of the network."""

from __future__ import annotations

import re
from pathlib import Path

from support.book import freshness, markdown


def html(notebook: Path) -> str:
    """An executed notebook as one HTML file that asks nothing of the network: styles, pictures and MathJax (drawing
    with SVG) stand inside it.

    Directives of the book's Markdown become plain Markdown (`support.book.markdown`); links into the book, which is not
    there, become plain text.
    """
    import nbformat
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    styles = [freshness.ROOT / "book" / "_static" / name for name in ("custom.css", "page.css")]
    tex = '{inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]], tags: "ams"}'
    head = (
        f"<script>MathJax = {{tex: {tex}, options: {{enableMenu: false}}}}</script>\n"
        "<script>" + mathjax().read_text(encoding="utf-8").replace("</script", "<\\/script") + "</script>\n"
        "<style>" + "".join(style.read_text(encoding="utf-8") for style in styles if style.is_file()) + "</style>"
    )
    template = (
        "{%- extends 'lab/index.html.j2' -%}{% block html_head_js_requirejs %}{% endblock %}{% block "
        "html_head_js_mermaidjs %}{% endblock %}"
        "{% block html_head_js_mathjax %}{{ resources.mathjax_head }}{% endblock %}"
    )
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"page.html.j2": template})], template_file="page.html.j2", embed_images=True
    )
    content = markdown.captioned(nbformat.read(notebook, as_version=4))
    for cell in content.cells:
        if (
            cell.cell_type == "code"
        ):  # an output of a type of our own alone, such as a number kept for another page, has no look
            cell.outputs = [
                output
                for output in cell.outputs
                if "data" not in output or any(re.match("text/|image/", kind) for kind in output.data)
            ]
    body, _ = exporter.from_notebook_node(
        content, resources={"mathjax_head": head, "metadata": {"name": notebook.stem, "path": str(notebook.parent)}}
    )
    return re.sub(r' href="\.\./\.\./book/[^"]*"', "", body)


def mathjax() -> Path:
    """The script of the book's offline MathJax, whose package has hyphens in its name. Raises ModuleNotFoundError where
    it is not installed.
    """
    from importlib.util import find_spec

    if (found := find_spec("sphinx-mathjax-offline")) is None:
        raise ModuleNotFoundError("no MathJax to put into the HTML", name="sphinx-mathjax-offline")
    return Path(found.origin).parent / "static" / "mathjax" / "tex-svg.js"
