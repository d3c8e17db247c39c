"""Many jobs at once: one function, called with many argument tuples, each call in a process of its own.

    for ended in jobs.run(train, [("SGD", 1), ("SGD", 2)], workers=2, timeout=3600): ...

A process serves one job. Starting it costs a tenth of a second (and the imports that the job needs), beside pages and
trainings of seconds to hours; for this nothing that a job leaves behind reaches the next, and one that dies takes no
other with it. It is not forked from this process, since a forked torch may hang in its threads, but started anew, or
forked from a process that has imported what jobs need and run nothing (``preload``): so the function must be found by
its module's name, and its arguments and result must be picklable.

No process outlives the one that started it, however that ends: on Linux the system kills it (`die_with_parent`), and
elsewhere a thread of its own that waits for the parent's end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from support.errors import Refused, WrongType, integer, real

MOST = 256  # processes at a time; more are a slip of the finger
GRACE = 15.0  # seconds between the request to stop and the kill
LINUX = sys.platform == "linux"


class TimeUp(Refused):
    """A job that was stopped at its time limit."""


class Lost(Refused):
    """A job whose process ended without a result, and did so again when it was tried once more."""


@dataclass(frozen=True)
class Ended:
    """What became of one call: its result or its error, and the seconds from the start of its process to the end."""

    call: tuple
    result: Any = None
    error: Exception | None = None
    seconds: float = 0.0


def run(
    function: Callable[..., Any],
    calls: Iterable[tuple],
    *,
    workers: int = 2,
    timeout: float | None = None,
    until: float | None = None,
    threads: int = 1,
    preload: tuple[str, ...] = (),
) -> Iterator[Ended]:
    """Call ``function(*call)`` for each call, ``workers`` at a time, and yield an `Ended` as each ends, in any order.

    timeout: seconds that a job may take, its process's start included. A job over it is told to stop by
    KeyboardInterrupt (so that it can close what it has open), is killed 15 s later if it has not, and ends with
    `TimeUp`.  until: when all jobs are told to stop in this way, in seconds of `time.time`.  calls may hold None, for
    "nothing that can begin now": they are asked again when a job has ended.  threads: what OMP_NUM_THREADS says in the
    processes: two threads in each of two are slower than one.  preload: modules that take seconds to import, such as
    those that need torch; one process imports them, and does nothing else, so that the jobs' processes can be forked
    from it.

    An exception of the function is the job's error, with a note that names the call and shows where it was raised. A
    process that dies costs its own job alone, which is tried once more and else ends with `Lost`. Ctrl-C, an exception
    in the loop's body and closing the iterator stop the jobs that run, as a time limit does, and drop the others. A
    script of one's own calls this below ``if __name__ == "__main__":``, since each process imports the script.
    Raises Refused for numbers out of range, and WrongType for a function that another process cannot find.

    >>> import operator
    >>> sorted(ended.result for ended in run(operator.add, [(1, 2), (3, 4)]))
    [3, 7]
    """
    workers = integer("workers", workers, 1, MOST)
    timeout = None if timeout is None else real("timeout", timeout, above=0)
    integer("threads", threads, 1, MOST)
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError):
        raise WrongType(f"{function!r} cannot be sent to another process: give a function of a module") from None
    last = float("inf") if until is None else time.monotonic() + real("until", until) - time.time()
    context = multiprocessing.get_context("forkserver" if preload else "spawn")
    if preload:
        context.set_forkserver_preload(list(preload))
    return _run(function, iter(calls), workers, timeout, last, threads, context)


def _run(function, calls, workers, timeout, last, threads, context) -> Iterator[Ended]:
    running: dict[connection.Connection, _Job] = {}
    again: list[tuple] = []  # calls whose process died once
    try:
        while True:
            while len(running) < workers:
                repeated = bool(again)
                call = again.pop() if again else next(calls, None)
                if call is None:
                    break
                job = _Job(function, call, timeout, last, threads, repeated, context)
                running[job.pipe] = job
            if not running:
                return
            until = min(job.deadline for job in running.values()) - time.monotonic()
            for pipe in connection.wait(list(running), None if until == float("inf") else max(0.0, until)):
                job = running.pop(pipe)
                if (ended := job.end()) is None:
                    again.append(job.call)
                else:
                    yield ended
            for job in running.values():
                if time.monotonic() >= job.deadline:
                    job.stop()
    finally:
        for job in running.values():
            job.stop()
        patience = time.monotonic() + GRACE
        for job in running.values():
            job.process.join(max(0.0, patience - time.monotonic()))
            job.process.kill()
            job.process.join()


class _Job:
    """One call in a process that was started for it."""

    def __init__(
        self, function, call: tuple, timeout: float | None, last: float, threads: int, repeated: bool, context
    ):
        self.call, self.timeout, self.repeated = tuple(call), timeout, repeated
        self.start, self.stopping = time.monotonic(), False
        self.deadline = min(last, self.start + (timeout or float("inf")))
        self.pipe, theirs = multiprocessing.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(theirs, function, self.call))
        with environment(threads_of(threads) | _same_package()):
            try:
                self.process.start()
            except (EOFError, ConnectionError):  # the process to fork from was killed: this starts another
                self.process = context.Process(target=_serve, args=(theirs, function, self.call))
                self.process.start()
        theirs.close()  # the process alone holds this end: its death is an end of file here

    def stop(self) -> None:
        """Ask the process to stop; when it was asked before, kill it."""
        if self.stopping:
            self.process.kill()
        else:
            self.process.terminate()
        self.deadline = float("inf") if self.stopping else time.monotonic() + GRACE
        self.stopping = True

    def end(self) -> Ended | None:
        """What the process sent before it ended; None if it died for the first time."""
        try:
            result, error = self.pipe.recv()
        except (EOFError, OSError):
            result, error = None, None
            self.process.join()
            if not self.stopping and not self.repeated:
                return None
            how = _how(self.process.exitcode)
            error = Lost(f"its process ended twice without a result ({how}), perhaps for want of memory")
        finally:
            self.pipe.close()
        if self.stopping:
            limit = f" of {self.timeout:g} s" if self.timeout else ""
            result, error = None, TimeUp(f"it was stopped at its time limit{limit}")
        self.process.join()
        return Ended(self.call, result, error, time.monotonic() - self.start)


def _how(status: int | None) -> str:
    with contextlib.suppress(ValueError, TypeError):
        return signal.Signals(-status).name
    return f"exit status {status}"


def _serve(pipe: connection.Connection, function: Callable[..., Any], call: tuple) -> None:
    """The life of a process: one call, its result or its exception sent back."""
    die_with_parent()
    os.setsid()  # ctrl-C reaches the parent alone, which says what is to end
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sent = function(*call), None
    except KeyboardInterrupt:  # it was told to stop
        return
    except Exception as error:
        error.add_note(f"in {function.__qualname__}{call!r}:\n{''.join(traceback.format_exception(error))}")
        sent = None, error
    try:
        pickle.loads(pickle.dumps(sent[1]))  # some exceptions can be sent, and not be read
        pipe.send(sent)
    except Exception as error:
        said = sent[1] or TypeError(f"its result, a {type(sent[0]).__name__}, cannot be sent: {error}")
        pipe.send((None, RuntimeError(f"{function.__qualname__}{call!r}: {type(said).__name__}: {said}")))


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def die_with_parent() -> None:
    """Bind this process, one started by `multiprocessing`, to the life of the one that started it."""
    if LINUX:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: at once, whatever this process is doing
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()  # also where the parent was gone before the line above
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def threads_of(number: int) -> dict[str, str]:
    """The environment of a process that computes with so many threads.

    >>> threads_of(1)["OMP_NUM_THREADS"]
    '1'
    """
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(number))


def _same_package() -> dict[str, str]:
    """Where processes find this package: what is imported beforehand does not see this process's ``sys.path``."""
    paths = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables for the processes that a `with` block starts; afterwards they are as they were."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
