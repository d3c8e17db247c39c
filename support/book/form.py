"""The form of the pages: how much of everything a page has, beside the limits that it keeps to.

A page is in the form once its notebook's metadata say which kind it is,

    "form": {"kind": "lesson", "reasons": {"verdicts": "the proof has nine links, and each is short"}}

with kind "lesson" or "line by line" (a section of a paper, to look things up in; without limits on verdicts, height
and rows of tables). Where it goes beyond a limit it has a reason under that limit's name. Everything is read from the
notebook; the height needs the built book and Chromium.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.book.build import Book
from support.book.markdown import markdown
from support.book.parameters import InputError, read_notebook

# the most that a lesson has of each: what it is, and what to do about more
LIMITS = {
    "words": (2500, "words of prose, without dropdowns: shorten it, or make two pages of it"),
    "verdicts": (8, "verdicts: move those that the story does not need to a page line by line"),
    "figures": (6, "figures: keep those that show an answer"),
    "height": (14000, "pixels high, folded, in a window of 1,300: make two pages of it"),
    "code": (250, "lines of code, folded ones included: move what two pages need into the package"),
    "open": (33, "percent of what a reader sees is code: fold what they would not type"),
    "long cells": (0, "open cells of more than ten lines: fold or split them"),
    "no alt": (0, "figures without alternative text: say in metadata.mystnb.image.alt what they show"),
    "small type": (0, "figures with type of less than nine points: give fontsize=9 or more, or leave words out"),
    "long tables": (0, "tables of more than eight rows: draw a figure instead"),
}
KINDS = {"lesson": set(LIMITS), "line by line": set(LIMITS) - {"verdicts", "height", "long tables"}}
_OPEN_LINES, _TABLE_ROWS, _ALT = 10, 8, 20
_FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
_FENCE = re.compile(r"^ *(`{3,}|~{3,}|:{3,})(.*)\n((?:.*\n)*?) *\1[ ]*$", re.MULTILINE)
_BARE = re.compile(r"!\[(.{0,19})\]\(|```\{(?:figure|image)\}(?!(?:.*\n)*? *:alt: .{20})", re.MULTILINE)
_SMALL = re.compile(r"(?:font|label)size=[0-8](?:\.\d+)?\b(?!\d)")


@dataclass(frozen=True)
class Form:
    """What was measured of a page (`LIMITS` has the names; the height is missing without a built book), and what its
    metadata say: its kind, None for a page that is not yet in the form, and its reasons by limit.
    """

    measured: Mapping[str, int]
    kind: str | None = None
    reasons: Mapping[str, str] = None

    @property
    def over(self) -> list[str]:
        """The limits of its kind, or of a lesson, that the page goes beyond."""
        names = KINDS[self.kind or "lesson"]
        return [name for name in self.measured if name in names and self.measured[name] > LIMITS[name][0]]

    @property
    def failures(self) -> list[str]:
        """What a page in the form goes beyond without a reason, each with its remedy."""
        return [
            f"{self.measured[name]:,} {LIMITS[name][1]} (at most {LIMITS[name][0]:,}), or give the reason in "
            f"metadata.form.reasons[{name!r}]"
            for name in self.over
            if self.kind and name not in self.reasons
        ]


def form(notebook: Path, height: int | None = None) -> Form:
    """Measure a notebook. Raises InputError for one that cannot be read, or metadata that name no kind or limit."""
    page = read_notebook(notebook)
    code = [cell for cell in page.cells if cell.cell_type == "code"]
    text = "\n".join(cell.source + "\n" for cell in page.cells if cell.cell_type == "markdown")
    seen = [cell for cell in code if not _FOLDED & set(cell.metadata.get("tags", ()))]
    drawn = [cell for cell in code if _figure(cell)]
    prose, typed = words(text), sum(len(line) for cell in seen for line in _lines(cell))
    measured = {
        "words": len(prose),
        "verdicts": len(_claims(code)),
        "figures": len(drawn) + len(re.findall(r"!\[|```\{(?:figure|image)\}", text)),
        "height": height,
        "code": sum(len(_lines(cell)) for cell in code),
        "open": round(100 * typed / max(typed + sum(len(word) + 1 for word in prose), 1)),
        "long cells": sum(len(_lines(cell)) > _OPEN_LINES for cell in seen),
        "no alt": sum(not _described(cell) for cell in drawn) + len(_BARE.findall(text)),
        "small type": sum(bool(_SMALL.search(cell.source)) for cell in code),
        "long tables": sum(rows > _TABLE_ROWS for rows in (*_markdown_tables(text), *_shown_tables(code))),
    }
    if height is None:
        del measured["height"]
    return Form(measured, *_declared(notebook, page.metadata.get("form")))


def _declared(notebook: Path, said) -> tuple[str | None, Mapping[str, str]]:
    if said is None:
        return None, {}
    kind, reasons = (said.get("kind"), said.get("reasons", {})) if isinstance(said, Mapping) else (None, {})
    if kind not in KINDS:
        raise InputError(f"{notebook}: metadata.form.kind is {kind!r}: it is {' or '.join(map(repr, KINDS))}")
    for name, reason in reasons.items() if isinstance(reasons, Mapping) else [(reasons, "")]:
        if name not in LIMITS or not isinstance(reason, str) or not reason.strip():
            raise InputError(
                f"{notebook}: metadata.form.reasons has {name!r}: give a sentence for one of {', '.join(LIMITS)}"
            )
    return kind, reasons


def words(text: str) -> list[str]:
    """The words of prose in Markdown: without code, displayed formulas, dropdowns, addresses and marks of the markup. A
    formula in a line is one word.

    >>> words("See [the ledger](ledger.md): $a + b$ is *one*.\\n$$x = y$$ (eq)\\n```python\\nx = 1\\n```\\n")
    ['See', 'the', 'ledger', 'x', 'is', 'one']
    """
    text = markdown(_without(text))
    for pattern, instead in (
        (r"\$\$[\s\S]*?\$\$", " "),
        (r"\\begin\{(\w+\*?)\}[\s\S]*?\\end\{\1\}", " "),
        (r"\$[^$]+\$", " x "),
        (r"`[^`]*`", " x "),
        (r"\]\([^)]*\)", " "),
        (r"<[^>]*>", " "),
        (r"^[ |:-]+$", " "),
    ):
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return re.findall(r"[^\W_][\w’'.,-]*\w|[^\W_]", text)


def _without(text: str) -> str:
    """Markdown without blocks of code and without dropdowns."""

    def keep(found: re.Match) -> str:
        directive, body = found[2].strip(), found[3]
        if ":class: dropdown" in body[:200] or not directive.startswith("{") or directive.startswith("{code"):
            return ""
        return f"{found[1]}{found[2]}\n{_without(body)}{found[1]}"

    return _FENCE.sub(keep, text)


def _lines(cell) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip()]


def _claims(code: Iterable) -> set[str]:
    """The claims that a page's code names: each becomes a verdict."""
    from support.claims import ledger

    found = set()
    for cell in code:
        try:
            tree = ast.parse(cell.source)
        except SyntaxError:  # a magic command
            continue
        found |= {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in ledger.load()
        }
    return found


def _figure(cell) -> bool:
    shown = any(kind.startswith("image/") for output in cell.get("outputs", ()) for kind in output.get("data", {}))
    return shown or "figure" in cell.metadata.get("mystnb", {})


def _described(cell) -> bool:
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    return len(alt) >= _ALT or "animation.html(" in cell.source


def _markdown_tables(text: str) -> list[int]:
    """Rows of each table without its head."""
    return [len(found[0].strip().splitlines()) - 2 for found in re.finditer(r"(?:^ *\|.*\n?){3,}", text, re.MULTILINE)]


def _shown_tables(code: Iterable) -> list[int]:
    """Rows of each table that a cell shows, without its head; a verdict's own table does not count."""
    shown = (
        "".join(output.get("data", {}).get("text/html", "")) for cell in code for output in cell.get("outputs", ())
    )
    tables = [
        found for html in shown if "claim-box" not in html for found in re.findall(r"<table[\s\S]*?</table>", html)
    ]
    return [len(re.findall(r"<tr", re.sub(r"<thead[\s\S]*?</thead>", "", found))) for found in tables]


def chromium() -> str | None:
    """Where Chromium is, for the height and for the tests of the built book; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def heights(book: Book, pages: Iterable[str]) -> dict[str, int]:
    """How high the built pages are in a window of 1,300 pixels, folded; none without Chromium or playwright, and none
    of a page that was changed since.
    """
    built = {page: book.build / "html" / "notebooks" / f"{page}.html" for page in pages}
    there = {page: path for page, path in built.items() if path.is_file()}
    built = {page: path for page, path in there.items() if path.stat().st_mtime > book.pages()[page].stat().st_mtime}
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return {}
    if not built or chromium() is None:
        return {}
    found = {}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1300, "height": 900})
        for page, path in built.items():
            tab.goto(path.as_uri(), wait_until="load")
            tab.wait_for_function("() => !window.MathJax?.startup || MathJax.startup.promise.then(() => true)")
            found[page] = tab.evaluate(
                "Math.round(document.querySelector('.bd-article').getBoundingClientRect().height)"
            )
        browser.close()
    return found


def show(root: Path, asked: Iterable[str] = ()) -> int:
    """Print what every page has, or those asked for (names such as ``noise/zoo``, or paths), beside the limits. The
    exit status: 1 if a page in the form goes beyond one without a reason. Raises InputError for a page that is none.
    """
    book = Book(root)
    pages = book.pages()
    wanted = [Path(name).with_suffix("").as_posix().split("notebooks/")[-1] for name in asked] or list(pages)
    if unknown := [name for name in wanted if name not in pages]:
        raise InputError(f"_toc.yml has no page {unknown[0]!r}: it has {', '.join(pages)}")
    high = heights(book, wanted)
    forms = {name: form(pages[name], high.get(name)) for name in wanted}
    wide = max(map(len, ("at most", *wanted)))
    print(f"{'':{wide}} " + " ".join(f"{name:>11}" for name in LIMITS))
    print(f"{'at most':{wide}} " + " ".join(f"{most:>11,}" for most, _ in LIMITS.values()))
    for name, found in sorted(forms.items(), key=lambda item: item[1].kind is None):
        cells = [
            f"{found.measured[key]:,}{'*' if key in found.over else ''}" if key in found.measured else "–"
            for key in LIMITS
        ]
        print(
            f"{name:{wide}} " + " ".join(f"{cell:>11}" for cell in cells) + f"  {found.kind or 'not yet in the form'}"
        )
    for name, found in forms.items():
        for limit in found.over if found.kind else ():
            if limit in found.reasons:
                print(f"{name}, {limit}: {found.reasons[limit]}")
    failed = [f"{name}: {failure}" for name, found in forms.items() for failure in found.failures]
    print(*failed, sep="\n", end="\n" if failed else "")
    return int(bool(failed))
