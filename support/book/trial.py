"""A page under a deliberate fault: its cells run in this process, and what its checks then say is returned.

`page` and `tests` are jobs (`support.jobs`): each has a process of its own, forked from one that has imported what
pages need, and nothing of the package. No kernel is started and no figure is drawn, unless it is asked for; a cell that
fails is noted, a verdict that contradicts the ledger is none of our business, and the page goes on.
"""

from __future__ import annotations

import contextlib
import doctest
import hashlib
import importlib
import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.claims.mutants import applied, faults

PRELOAD = (
    "numpy", "scipy.stats", "scipy.linalg", "scipy.optimize", "scipy.integrate", "scipy.sparse.linalg", "torch",
    "torch.func", "matplotlib.pyplot", "matplotlib.backends.backend_agg", "IPython.core.interactiveshell", "nbformat",
    "sklearn.datasets", "PIL.Image", "yaml", "pytest", "coverage",
)  # fmt: skip
VERDICT = "application/vnd.support.claim+json"
_SILENT = "\n\ndef gif(*_, **__):\n    return b'', b''\n"  # in the place of an animation
_LATE = "the time was up"
_VOLATILE = re.compile(r"The text speaks of the book's parameters.*?boxes\.|0x[0-9a-f]{6,}", re.DOTALL)


def page(
    root: Path,
    name: str,
    mutant: faults.Mutant | None = None,
    size: float | None = None,
    *,
    until: float = float("inf"),
    limit: float | None = None,
    values: Mapping[str, Any] | None = None,
    against: list[str] | None = None,
    trace: bool = False,
    draw: bool = False,
) -> dict[str, Any]:
    """Run the page ``noise/zoo`` of the tree ``root`` and return ``{claims, errors, seconds, …}``.

    mutant, size: the fault.  until: the number of the last cell to run.  limit: seconds of the processor after which it
    ends with what there is.  values: parameters in place of the page's.
    trace: return, as ``lines``, for each module the lines that ran, each with the number of the first cell that ran it.
    draw: digest the figures too, and return, as ``shown``, a digest of what each cell shows; with ``against``, the
    digests of another run, stop at the first cell that shows something else, and say so in ``differs``.

    claims: by id, ``{verdict, shown, cell}``: the verdict, a digest of all that the check shows, and the number of its
    cell.  errors: by the number of the cell.
    """
    start = time.process_time()
    cells, changed = _sources(root, name, mutant, size, values)
    if not draw:
        file = root / "support" / "animation.py"
        own = changed.get("support.animation") or (file, file.read_text(encoding="utf-8") if file.is_file() else "")
        changed["support.animation"] = own[0], own[1] + _SILENT
    applied.install(root, changed)
    os.environ.pop("SUPPORT_BOOK", None)
    os.chdir((root / "notebooks" / name).parent)
    sys.path[:0] = [""]  # as in a kernel
    shell, shown = _shell(draw)
    found: dict[str, Any] = {"claims": {}, "errors": {}}
    tracer = _tracer(root) if trace else None
    if limit:
        signal.signal(signal.SIGPROF, _time_up)
        signal.setitimer(signal.ITIMER_PROF, limit)
    digests = []
    for number, source in enumerate(cells.values()):
        if tracer:
            tracer.switch_context(str(number))
        shown.clear()
        error = _run(shell, source, shown, draw)
        for verdict in (data[VERDICT] for data in shown if isinstance(data, dict) and VERDICT in data):
            _enter(found["claims"], verdict, number)
        if error:
            found["errors"][number] = error
        if draw:
            digests.append(_digest(_VOLATILE.sub("", repr(shown))))
            found["differs"] = bool(against and against[number] and digests[-1] != against[number])
        if number >= until or found.get("differs") or error == _LATE:
            break
    if tracer:
        tracer.stop()
        found["lines"] = _lines(tracer, root)
    return found | {"shown": digests, "seconds": time.process_time() - start}


def _sources(root: Path, name: str, mutant, size, values) -> tuple[dict[str, str], dict[str, tuple[Path, str]]]:
    """The cells of a page, and the modules with other source, as a fault and other parameters make them."""
    content = json.loads((root / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells, changed = faults.code_cells(content), {}
    if mutant is not None and mutant.is_page:
        cells = faults.changed_cells(mutant, cells, size)
    elif mutant is not None:
        changed[mutant.target] = mutant.file(root), mutant.changed(faults.text_of(mutant, root), size)
    if values:
        at = next(cell["id"] for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", ()))
        cells[at] += "\n" + "\n".join(f"{key} = {value!r}" for key, value in values.items())
    return cells, changed


def job(root: Path, name: str, mutant: faults.Mutant | None, size: float | None, options: dict) -> dict[str, Any]:
    """`page`, as `support.jobs` calls it."""
    return page(root, name, mutant, size, **options)


class _TimeUp(BaseException):
    """The page has taken too long, as one may that a fault keeps from coming to an end."""


def _time_up(*_):
    raise _TimeUp


def _enter(claims: dict[str, dict], verdict: dict, cell: int) -> None:
    """Note a verdict; several of one claim on a page count as one."""
    rest = _digest(json.dumps({key: item for key, item in verdict.items() if key != "verdict"}, sort_keys=True))
    new = {"verdict": verdict["verdict"], "shown": rest, "cell": cell}
    if old := claims.get(verdict["id"]):
        said = old["verdict"] if new["verdict"] == old["verdict"] else f"{old['verdict']}, {new['verdict']}"
        new = {"verdict": said, "shown": _digest(old["shown"] + rest), "cell": cell}
    claims[verdict["id"]] = new


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def _shell(draw: bool):
    """An interactive shell as a kernel has one, and the list into which it shows."""
    import matplotlib as mpl

    mpl.use("agg", force=True)
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shown: list = []

    class Publisher(DisplayPublisher):
        def publish(self, data, metadata=None, **_):
            shown.append(data)

        def clear_output(self, wait=False):
            pass

    class Hook(DisplayHook):
        def __call__(self, result=None):
            if result is not None and not self.quiet():
                shown.append(self.compute_format_data(result)[0])

    class Shell(InteractiveShell):
        display_pub_class, displayhook_class = Publisher, Hook

        def showtraceback(self, *_, **__):  # whose making takes longer than many a cell
            pass

        showsyntaxerror = showindentationerror = showtraceback

        def enable_gui(self, gui=None):
            pass

    options = Config()
    options.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    shell = Shell.instance(config=options)
    if not draw:
        from matplotlib.figure import Figure

        Figure.savefig = lambda *_, **__: None
    return shell, shown


def _run(shell, source: str, shown: list, draw: bool) -> str | None:
    """Run a cell; what went wrong in it, if something did."""
    import warnings

    import matplotlib.pyplot as plt

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = shell.run_cell(source, store_history=True)
        if draw:
            for number in plt.get_fignums():
                figure = plt.figure(number)
                figure.dpi = 40
                figure.canvas.draw()
                shown.append(hashlib.sha256(bytes(figure.canvas.buffer_rgba())).hexdigest())
        plt.close("all")
    if said := _VOLATILE.sub("", text.getvalue()).strip():
        shown.append(said)
    error = result.error_before_exec or result.error_in_exec
    if isinstance(error, KeyboardInterrupt):  # the time is up
        raise error
    if isinstance(error, _TimeUp):
        return _LATE
    return error and f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]


def _tracer(root: Path):
    from coverage import Coverage

    tracer = Coverage(data_file=None, config_file=False, include=[f"{root}/support/*", f"{root}/*.py"])
    tracer.start()
    return tracer


def _lines(tracer, root: Path) -> dict[str, dict[int, int]]:
    """The lines that ran by module, each with the number of the first cell that ran it."""
    data, found = tracer.get_data(), {}
    for file in data.measured_files():
        parts = Path(file).relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        lines = data.contexts_by_lineno(file)
        found[name] = {line: min(map(int, filter(None, cells)), default=0) for line, cells in lines.items()}
    return found


def tests(root: Path, mutant: faults.Mutant, size: float | None, files: list[str]) -> bool | None:
    """Whether an example in the changed module's docstrings, or a test in ``files``, fails under a fault; None where
    they do not get so far.
    """
    import pytest

    changed = mutant.changed(faults.text_of(mutant, root), size)
    applied.install(root, {mutant.target: (mutant.file(root), changed)})
    os.chdir(root)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # what they measure and draw takes seconds to import
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    try:
        module = importlib.import_module(mutant.target)
    except Exception:
        return None
    if doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).failed:
        return True
    if not files:
        return False
    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files])
    return {pytest.ExitCode.OK: False, pytest.ExitCode.TESTS_FAILED: True}.get(status)
