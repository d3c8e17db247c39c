"""The command line, ``python -m support`` (installed: ``sgd-noise``). A command imports what it needs when it is
called.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from support.errors import Refused
from support.experiments import command as experiments


def _run(options) -> int:
    from support.book import execute

    return execute.run(options.notebook, options.parameter, options.file, options.output)


def _batch(options) -> int:
    from support.book import execute

    return execute.batch(options.notebook, options.parameter, options.output, options.file, options.jobs)


def _on_book(name: str) -> Callable[..., int]:
    def command(options) -> int:
        from support.book import build

        return getattr(build, name)(Path.cwd(), options.jobs)

    return command


def _counts(options) -> int:
    from support.book import verdicts

    return verdicts.show(Path.cwd(), options.write)


def _new_page(options) -> int:
    from support.book import new_page

    return new_page.make(Path.cwd(), options.name, options.part)


def _bench(_) -> int:
    from support import bench

    return bench.main() or 0


def parser() -> argparse.ArgumentParser:
    """The parser of the command line: one subcommand a task."""
    top = argparse.ArgumentParser(
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
    single = command("run", _run, "execute one page with parameters; writes notebook and HTML", f"run {page} -p b 25")
    does = "execute one page at every point of a grid, in parallel; continues where it was stopped"
    grid = command("batch", _batch, does, f"batch {page} -p b=10,20,50 -p seed=1..5 -o runs")
    for sub in (single, grid):
        sub.add_argument("notebook", type=Path, metavar="NOTEBOOK", help="the page's .ipynb file")
        sub.add_argument(
            "-f",
            "--file",
            metavar="FILE",
            help="parameters from a YAML or JSON file, or the name of one of the page's own sets, such as smoke",
        )
    single.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter; may be given often",
    )
    single.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder for the results (default: _build/runs)"
    )
    axis = "an axis of the grid, b=10,20,50 or seed=1..5; may be given often"
    grid.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUES", help=axis)
    grid.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    book = command("book", _on_book("build"), "execute the pages that are stale and build the book into _build/html")
    notebooks = command(
        "notebooks", _on_book("refresh"), "execute the pages that are stale and copy their outputs into the notebooks"
    )
    smoke = command("smoke", _on_book("smoke"), "execute every page with its quick parameters into _build/smoke")
    for sub in (grid, book, notebooks, smoke):
        sub.add_argument(
            "-j", "--jobs", type=int, default=2, metavar="N", help="processes, of one thread each (default: 2)"
        )
    command("bench", _bench, "measure how fast the package runs")
    experiments.add(commands)
    counts = command("counts", _counts, "say how many claims have which verdict, counted in the notebooks' outputs")
    counts.add_argument("--write", action="store_true", help="write it into README.md")
    does = "make a new page from the book's template, with its parameter sets and its line in _toc.yml"
    new = command("new", _new_page, does, "new page random_walk --part noise")
    new.add_argument("what", choices=["page"], metavar="page", help="what to make")
    new.add_argument("name", metavar="NAME", help="its file name, such as random_walk")
    new.add_argument("--part", required=True, metavar="PART", help="its folder in notebooks/, such as noise")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command; the exit status: 0, 1 if something failed on the way, 2 for a request that was refused
    before any work.
    """
    options = parser().parse_args(arguments)
    try:
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
