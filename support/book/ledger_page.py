"""A Sphinx extension: the ledger page, collected from the notebooks of this build, and the table of pinned versions;
and no script from the network.

``{ledger}`` lists every claim of the papers with its place, its statement, its verdict and the evidence for it;
``{counts}`` says how many have which verdict. A computed verdict is read from the outputs of the notebooks that are
being built, and from nowhere else (`support.book.verdicts`). ``{versions}`` lists packages as constraints.txt pins
them. Two pages that reach different verdicts on one claim, and a verdict on an unknown claim, are warnings.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from support.book import verdicts
from support.book.verdicts import Evidence
from support.claims import ledger
from support.claims.box import HEADINGS, anchor, css_class, notes
from support.claims.mutants import record

_THEBE = ("init_thebe_core", "update_thebe_context")
_LOG = logging.getLogger(__name__)


def _collected(directive: SphinxDirective) -> dict[str, list[Evidence]]:
    """The verdicts of this build, for a directive whose page is read again when they change."""
    env = directive.env
    env.metadata[env.docname]["collected"] = "yes"
    for path in (*Path(ledger.__file__).parent.glob("*.yaml"), Path(__file__), Path(verdicts.__file__)):
        env.note_dependency(str(path))
    found = verdicts.collect(Path(env.srcdir), sorted(env.found_docs))
    for document in sorted({item.document for items in found.values() for item in items}):
        env.note_dependency(env.doc2path(document))
    return found


class Ledger(SphinxDirective):
    """The directive ``{ledger}``: a table of counts, then every claim of every paper."""

    def run(self) -> list[nodes.Node]:
        self.env.metadata[self.env.docname]["ledger"] = "yes"
        found = _collected(self)
        for problem in verdicts.problems(found, ledger.load()):
            _LOG.warning(problem, location=self.get_location(), type="ledger")
        folder = record.folder(Path(self.env.srcdir))
        for path in sorted(folder.glob("*.json")) or [folder]:  # one that is not there is looked for again
            self.env.note_dependency(str(path))
        root = Path(self.env.srcdir)
        self.noticed = record.noticed(record.outcomes(root), record.checked(root))
        sections = [self._paper(paper, title, claims, found) for paper, (title, claims) in ledger.papers().items()]
        return [self._summary(found), *sections]

    def _summary(self, found: dict[str, list[Evidence]]) -> nodes.Node:
        papers = ledger.papers()
        counts = {paper: verdicts.counts(claims, found) for paper, (_, claims) in papers.items()}
        rows = [["verdict", *(_short(title) for title, _ in papers.values()), "all"]]
        for verdict in (*ledger.VERDICTS, verdicts.LEFT_OPEN, verdicts.NO_CHECK):
            numbers = [count[verdict] for count in counts.values()]
            rows.append([verdict, *map(str, numbers), str(sum(numbers))])
        totals = [sum(count.values()) for count in counts.values()]
        rows.append(["all", *map(str, totals), str(sum(totals))])
        return _table(rows, "ledger-summary")

    def _paper(
        self, paper: str, title: str, claims: list[ledger.Claim], found: dict[str, list[Evidence]]
    ) -> nodes.Node:
        section = nodes.section(ids=[f"ledger-{paper}"], names=[f"ledger-{paper}"], classes=["ledger-paper"])
        section += nodes.title(title, title)
        section += [self._claim(claim, found.get(claim.id, [])) for claim in claims]
        return section

    def _claim(self, claim: ledger.Claim, evidence: list[Evidence]) -> nodes.Node:
        verdict = verdicts.verdict_of(claim, evidence)
        box = nodes.container(
            ids=[anchor(claim.id, "claim")], classes=["ledger-claim", css_class(verdict), f"paper-{claim.paper}"]
        )
        head = nodes.paragraph(classes=["claim-head"])
        for text, style in ((verdict, "claim-verdict"), (claim.id, "claim-id"), (claim.where, "claim-where")):
            head += [nodes.inline(text, text, classes=[style]), nodes.Text(" ")]
        box += [head, _text(claim.statement, "claim-statement")]
        box += [_text(text, style, f"{lead}.") for text, style, lead in notes(claim)]
        if claim.reason:
            box += _text(claim.reason, "claim-reason", "Why no computation decides.")
        for item in evidence:
            box += self._evidence(claim, item)
        if evidence and claim.id in self.noticed:
            box += _text(self.noticed[claim.id].sentence, "claim-faults")
        return box

    def _evidence(self, claim: ledger.Claim, item: Evidence) -> nodes.Node:
        verdict, part = item.verdict, nodes.container(classes=["claim-evidence"])
        uri = self.env.app.builder.get_relative_uri(self.env.docname, item.document) + "#" + anchor(claim.id, "check")
        line = nodes.paragraph(classes=["claim-source"])
        line += [
            nodes.Text("Checked on "),
            nodes.reference("", item.document.rpartition("/")[2].replace("_", " "), refuri=uri, internal=True),
        ]
        said = " ".join(filter(None, (verdict["note"], verdict.get("slack", ""))))
        part += [line, *([_text(said, "claim-note")] if said else [])]
        rows = verdict["rows"]
        columns = [(key, heading) for key, heading in HEADINGS.items() if any(key in row for row in rows)]
        headings = [heading for _, heading in columns]
        part += _table([headings, *([str(row.get(key, "")) for key, _ in columns] for row in rows)], "claim-numbers")
        return part


class Counts(SphinxDirective):
    """The directive ``{counts}``: how many claims have which verdict, in a paragraph."""

    def run(self) -> list[nodes.Node]:
        said = verdicts.sentence(verdicts.counts(ledger.load().values(), _collected(self)))
        return [nodes.paragraph(said, said)]


class Versions(SphinxDirective):
    """The directive ``{versions}``: its content names packages; a table shows what constraints.txt pins."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / "constraints.txt"
        self.env.note_dependency(str(path))
        pins = (
            dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE))
            if path.is_file()
            else {}
        )
        pins = {_canonical(name): version for name, version in pins.items()}
        wanted = " ".join(self.content).split()
        for name in wanted:
            if _canonical(name) not in pins:
                _LOG.warning(f"{name}: constraints.txt does not pin it", location=self.get_location(), type="ledger")
        return [
            _table([["package", "version"], *([name, pins.get(_canonical(name), "")] for name in wanted)], "versions")
        ]


def _text(text: str, style: str, lead: str = "") -> nodes.Node:
    """A text of the ledger as a paragraph: plain words, and formulas between dollars, as `support.claims.box.math_html`
    reads them.
    """
    paragraph = nodes.paragraph(classes=[style])
    paragraph += [nodes.strong(lead, lead), nodes.Text(" ")] if lead else []
    paragraph += [
        nodes.math(piece, piece) if k % 2 else nodes.Text(piece)
        for k, piece in enumerate(re.split(r"\$([^$]+)\$", text))
    ]
    return paragraph


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _short(title: str) -> str:
    """The paper's name in a column's head: its first author."""
    return title.split(maxsplit=1)[0]


def _table(rows: list[list[str]], style: str) -> nodes.Node:
    """A table of texts whose first row is its head, in a box that scrolls by itself."""
    cells = [nodes.row("", *(nodes.entry("", nodes.paragraph(text, text)) for text in texts)) for texts in rows]
    columns = [nodes.colspec(colwidth=1) for _ in rows[0]]
    group = nodes.tgroup("", *columns, nodes.thead("", cells[0]), nodes.tbody("", *cells[1:]), cols=len(columns))
    return nodes.container("", nodes.table("", group, classes=[style]), classes=["ledger-table"])


def outdated(app: Sphinx, env, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """When a page came, changed or went, read again what shows other pages' results: the ledger, and prose with glued
    numbers.
    """
    if not any(Path(env.doc2path(document)).suffix == ".ipynb" for document in added | changed | removed):
        return []
    known = [document for document in env.metadata if document in env.found_docs]
    return [
        document
        for document in known
        if "collected" in env.metadata[document] or "{glue" in Path(env.doc2path(document)).read_text(encoding="utf-8")
    ]


def without_thebe(app: Sphinx, config: Any) -> None:
    """Take out jupyter-book's link to a service that runs cells elsewhere: it names a script on the network, and twice,
    which is an error in a browser.
    """
    for listeners in app.events.listeners.values():
        listeners[:] = [listener for listener in listeners if getattr(listener.handler, "__name__", "") not in _THEBE]


def add_filter(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """Give the ledger page, and no other, the script of its filter."""
    if "ledger" in app.env.metadata.get(page, {}):
        app.add_js_file("ledger.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives with Sphinx."""
    app.add_directive("ledger", Ledger)
    app.add_directive("counts", Counts)
    app.add_directive("versions", Versions)
    app.connect("config-inited", without_thebe)
    app.connect("env-get-outdated", outdated)
    app.connect("html-page-context", add_filter)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
