"""The command line, ``python -m support`` (installed: ``sgd-noise``). A command imports what it needs when it is
called.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from support.errors import Refused
from support.experiments import command as experiments


class _Parser(argparse.ArgumentParser):
    """A parser that refuses as the package does: in one line."""

    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}; `{self.prog} --help` says what there is")


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the folder's name is empty: name one")
    return Path(text)


def joined(words: Sequence[str]) -> list[str]:
    """The words of a command line with each ``-p NAME VALUE`` and ``-p NAME=VALUE`` as one word, so that a value may
    begin with a minus sign.

    >>> joined(["run", "page.ipynb", "-p", "shift", "-1e-3", "-p", "b=25"])
    ['run', 'page.ipynb', '--parameter=shift=-1e-3', '--parameter=b=25']
    """
    found, left = [], list(words)
    while left:
        word = left.pop(0)
        if word in ("-p", "--parameter") and left:
            pair = left.pop(0)
            if "=" not in pair and left and (not left[0].startswith("-") or re.match(r"-[\d.]", left[0])):
                pair = f"{pair}={left.pop(0)}"
            word = f"--parameter={pair}"
        found.append(word)
    return found


def _run(options) -> int:
    from support.book import batch

    return batch.run(options.notebook, options.parameter, options.file, options.output, options.timeout)


def _batch(options) -> int:
    from support.book import batch

    given = (options.notebook, options.parameter, options.output, options.file)
    return batch.batch(*given, options.jobs, options.timeout)


def _on_book(name: str) -> Callable[..., int]:
    def command(options) -> int:
        from support.book import build

        return getattr(build, name)(Path.cwd(), options.jobs, options.timeout)

    return command


def _counts(options) -> int:
    from support.book import verdicts

    return verdicts.show(Path.cwd(), options.write)


def _form(options) -> int:
    from support.book import form

    return form.show(Path.cwd(), options.pages)


def _new_page(options) -> int:
    from support.book import new_page

    return new_page.make(Path.cwd(), options.name, options.part)


def _mutants(options) -> int:
    from support.book import mutate
    from support.experiments.command import seconds_of

    budget = seconds_of(options.budget) if options.budget else None
    parts = tuple(options.only or mutate.PARTS)
    given = {"pages": options.page or None, "mutants": options.mutant or None, "parts": parts}
    return mutate.run(Path.cwd(), workers=options.jobs, budget=budget, **given)


def _bench(_) -> int:
    from support import bench

    return bench.main() or 0


def parser() -> argparse.ArgumentParser:
    """The parser of the command line: one subcommand a task."""
    top = _Parser(
        prog="python -m support", description="Run the pages of the book with your own parameters, and build the book."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, does: Callable[..., int], says: str, example: str = "") -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=says, description=says, epilog=example and f"example: python -m support {example}"
        )
        sub.set_defaults(does=does)
        return sub

    page = "notebooks/noise/multiplicative_sgd.ipynb"
    single = command("run", _run, "execute one page with parameters; writes notebook and HTML", f"run {page} -p b=25")
    does = "execute one page at every point of a grid, in parallel; continues where it was stopped"
    grid = command("batch", _batch, does, f"batch {page} -p b=10,20,50 -p seed=1..5 -o runs")
    file = "parameters from a YAML or JSON file, or the name of one of the page's own sets, such as smoke"
    for sub in (single, grid):
        sub.add_argument("notebook", type=Path, metavar="NOTEBOOK", help="the page's .ipynb file")
        sub.add_argument("-f", "--file", metavar="FILE", help=file)
    given = {"action": "append", "default": []}
    one, axis = "a parameter; may be given often", "an axis of the grid, b=10,20,50 or seed=1..5; may be given often"
    single.add_argument("-p", "--parameter", metavar="NAME=VALUE", help=one, **given)
    grid.add_argument("-p", "--parameter", metavar="NAME=VALUES", help=axis, **given)
    folder = {"type": _folder, "metavar": "DIR", "help": "folder for the results"}
    single.add_argument("-o", "--output", default="_build/runs", **folder)
    grid.add_argument("-o", "--output", required=True, **folder)
    book = command("book", _on_book("build"), "execute the pages that are stale and build the book into _build/html")
    notebooks = command(
        "notebooks", _on_book("refresh"), "execute the pages that are stale and copy their outputs into the notebooks"
    )
    smoke = command("smoke", _on_book("smoke"), "execute every page with its quick parameters into _build/smoke")
    processes, limit = "processes, of one thread each (default: 2)", "time limit of a page (default: none)"
    for sub in (single, grid, book, notebooks, smoke):
        if sub is not single:
            sub.add_argument("-j", "--jobs", type=int, default=2, metavar="N", help=processes)
        sub.add_argument("--timeout", type=float, metavar="SECONDS", help=limit)
    does = "run the pages and the tests under deliberate faults, and record which verdicts notice them"
    mutants = command("mutants", _mutants, does, "mutants --page noise/zoo --budget 20m")
    mutants.add_argument("--page", action="append", metavar="PAGE", help="this page, such as noise/zoo, and no other")
    mutants.add_argument("--mutant", action="append", metavar="NAME", help="this fault, and no other")
    only = ("pages", "tests", "parameters")
    mutants.add_argument("--only", action="append", choices=only, help="faults on pages, on tests, or other parameters")
    mutants.add_argument("--jobs", "-j", type=int, default=2, metavar="N", help="processes, of one thread each")
    mutants.add_argument("--budget", metavar="20m", help="time to stop after; the next call goes on")
    command("bench", _bench, "measure how fast the package runs")
    experiments.add(commands)
    counts = command("counts", _counts, "say how many claims have which verdict, counted in the notebooks' outputs")
    counts.add_argument("--write", action="store_true", help="write it into README.md")
    does = "say how much of everything the pages have, beside the limits; 1 if a page exceeds one without a reason"
    shape = command("form", _form, does, "form noise/sampling_noise")
    shape.add_argument("pages", nargs="*", metavar="PAGE", help="a page, such as noise/zoo (default: all)")
    does = "make a new page from the book's template, with its parameter sets and its line in _toc.yml"
    new = command("new", _new_page, does, "new page random_walk --part noise")
    new.add_argument("what", choices=["page"], metavar="page", help="what to make")
    new.add_argument("name", metavar="NAME", help="its file name, such as random_walk")
    new.add_argument("--part", required=True, metavar="PART", help="its folder in notebooks/, such as noise")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command; the exit status: 0, 1 if something failed on the way, 2 for what was refused."""
    try:
        options = parser().parse_args(joined(sys.argv[1:] if arguments is None else arguments))
        return options.does(options)
    except Refused as error:  # one line for the reader; a plain ValueError is a bug and keeps its traceback
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == "support":
            raise
        print(
            f"error: this command needs {error.name}, which is not installed: pip install '.[book]' in the root of "
            f"the book's tree",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("stopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
