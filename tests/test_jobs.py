"""Many jobs in processes of their own: results, limits, real kills."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import alive, wait_for

from support import jobs
from support.errors import Refused, WrongType

HERE = Path(__file__).parent


def square(x):
    return x**2, os.environ["OMP_NUM_THREADS"], os.getpid()


class Odd(Exception):
    """An exception that pickle writes and cannot read."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def fail(kind):
    if kind == "refused":
        raise Refused("b = 0: give at least 1")
    if kind == "odd":
        raise Odd(1, 2)
    return (lambda: 1) if kind == "result" else 1 / 0


def die_once(folder, name):
    """Kill the own process, in the first attempt only."""
    tries = Path(folder) / name
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    if name == "never" or (name == "once" and tries.read_text() == "x"):
        os.kill(os.getpid(), signal.SIGKILL)
    return tries.read_text()


def nap(folder, name, deaf=False):
    """Sleep for a minute, note the own number and what it was told."""
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note = Path(folder) / f"{name}.pid"
    note.with_suffix(".part").write_text(str(os.getpid()))
    note.with_suffix(".part").replace(note)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        (Path(folder) / f"{name}.told").touch()
        raise


def test_results_come_from_processes_of_their_own_with_one_thread():
    found = {ended.call: ended for ended in jobs.run(square, [(x,) for x in range(5)], workers=2)}
    assert {call[0]: ended.result[:2] for call, ended in found.items()} == {x: (x**2, "1") for x in range(5)}
    assert len({ended.result[2] for ended in found.values()} | {os.getpid()}) == 6
    assert all(ended.error is None and 0 < ended.seconds < 60 for ended in found.values())
    ((_, threads, _),) = (ended.result for ended in jobs.run(square, [(1,)], threads=3))
    assert threads == "3"


def test_calls_are_drawn_as_they_are_needed():
    drawn = []

    def calls():
        for x in range(100):
            drawn.append(x)
            yield (x,)

    several = jobs.run(square, calls(), workers=1)
    assert [next(several).result[0] for _ in range(2)] == [0, 1]
    several.close()
    assert drawn == [0, 1]


def test_exceptions_travel_and_name_their_job():
    ended = {done.call[0]: done for done in jobs.run(fail, [("refused",), ("odd",), ("result",), ("bug",)])}
    assert isinstance(ended["refused"].error, Refused)
    assert str(ended["refused"].error) == "b = 0: give at least 1"
    assert isinstance(ended["bug"].error, ZeroDivisionError)
    assert "in fail('bug',):" in ended["bug"].error.__notes__[0]
    assert "1 / 0" in ended["bug"].error.__notes__[0]
    assert str(ended["odd"].error) == "fail('odd',): Odd: 1 and 2"
    assert "its result, a function, cannot be sent" in str(ended["result"].error)


@pytest.mark.parametrize("preload", [(), ("json",)], ids=["started anew", "forked"])
def test_a_process_that_dies_costs_its_own_job_alone(tmp_path, preload):
    names = ("never", "once", "a", "b", "c")
    ended = {
        done.call[1]: done
        for done in jobs.run(die_once, [(str(tmp_path), name) for name in names], workers=2, preload=preload)
    }
    assert {name: done.result for name, done in ended.items()} == {
        "never": None,
        "once": "xx",
        "a": "x",
        "b": "x",
        "c": "x",
    }
    assert isinstance(ended["never"].error, jobs.Lost)
    assert "ended twice without a result (SIGKILL)" in str(ended["never"].error)
    assert (tmp_path / "never").read_text() == "xx"


def test_a_time_limit_ends_its_own_job_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "GRACE", 0.5)
    calls = [(str(tmp_path), "polite"), (str(tmp_path), "deaf", True)]
    ended = {done.call[1]: done for done in jobs.run(nap, calls, timeout=2)}
    assert {name: str(done.error) for name, done in ended.items()} == dict.fromkeys(
        ("polite", "deaf"), "it was stopped at its time limit of 2 s"
    )
    assert all(isinstance(done.error, jobs.TimeUp) for done in ended.values())
    assert (tmp_path / "polite.told").exists() == (tmp_path / "polite.pid").exists()  # as good as always
    assert not (tmp_path / "deaf.told").exists()
    assert not any(alive(int(path.read_text())) for path in tmp_path.glob("*.pid"))


def test_closing_the_iterator_ends_what_runs(tmp_path):
    several = jobs.run(nap_or_return, [(str(tmp_path), True), (str(tmp_path), False)], workers=2)
    assert next(several).result == "at once"
    several.close()
    assert not alive(int((tmp_path / "sleeper.pid").read_text()))
    assert (tmp_path / "sleeper.told").exists()


def nap_or_return(folder, sleeps):
    if sleeps:
        nap(folder, "sleeper")
    return wait_for((Path(folder) / "sleeper.pid").exists) and "at once"


DRIVER = """
import sys
sys.path[:0] = [{here!r}, {root!r}]
from test_jobs import nap
from support import jobs
try:
    list(jobs.run(nap, [({folder!r}, "a", True), ({folder!r}, "b")], workers=2, preload={preload!r}))
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.parametrize("preload", [(), ("json",)], ids=["started anew", "forked"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_processes_die_with_the_one_that_started_them(tmp_path, end, preload):
    code = DRIVER.format(here=str(HERE), root=str(HERE.parent), folder=str(tmp_path), preload=preload)
    code = code.replace("try:", "jobs.GRACE = 0.5\ntry:")
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    numbers = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    assert all(map(alive, numbers))
    driver.send_signal(end)
    said, complained = driver.communicate(timeout=30)
    assert wait_for(lambda: not any(map(alive, numbers)))
    if end == signal.SIGINT:  # the one that can was told, and nothing was printed on the way
        assert (said, complained) == ("stopped\n", "")
        assert [path.name for path in tmp_path.glob("*.told")] == ["b.told"]


def test_bad_requests_are_refused_before_any_work():
    for wrong in ({"workers": 0}, {"workers": 1_000_000}, {"timeout": 0}, {"timeout": float("nan")}, {"threads": -1}):
        with pytest.raises(Refused, match=f"{next(iter(wrong))} = "):
            jobs.run(square, [(1,)], **wrong)
    for wrong in ({"workers": "2"}, {"workers": 2.0}, {"timeout": "5"}):
        with pytest.raises(WrongType):
            jobs.run(square, [(1,)], **wrong)
    with pytest.raises(WrongType, match="cannot be sent to another process"):
        jobs.run(lambda: 1, [()])


def test_nothing_begins_before_it_can():
    """The calls have nothing to give until the first has ended, and are asked again then."""
    ended, asked = [], []

    def calls():
        yield (0.1,)
        while not ended:
            asked.append(None)
            yield None
        yield (0.2,)

    for one in jobs.run(time.sleep, calls(), workers=2):
        ended.append(one)
    assert asked and [one.call for one in ended] == [(0.1,), (0.2,)] and not any(one.error for one in ended)


def test_all_jobs_are_told_to_stop_at_one_time():
    """A time that has come already ends a job of ten minutes, which has no time limit of its own."""
    (ended,) = jobs.run(time.sleep, [(600.0,)], until=time.time())
    assert isinstance(ended.error, jobs.TimeUp) and "time limit" in str(ended.error)


def test_what_is_imported_beforehand_is_the_package_of_this_process(tmp_path):
    """Another tree of the package than the one installed, from a process that finds it by its path alone."""
    tree = tmp_path / "tree"
    shutil.copytree(HERE.parent / "support", tree / "support", ignore=shutil.ignore_patterns("__pycache__", "claims"))
    (tree / "support" / "errors.py").open("a", encoding="utf-8").write("\n\ndef where():\n    return __file__\n")
    code = (
        f"import sys\nsys.path.insert(0, {str(tree)!r})\nfrom support import errors, jobs\n"
        "if __name__ == '__main__':\n"
        "    (ended,) = jobs.run(errors.where, [()], preload=('support.errors',))\n"
        "    print(ended.result or ended.error)\n"
    )
    (tmp_path / "call.py").write_text(code, encoding="utf-8")
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "call.py"], cwd=tmp_path, env=plain, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(tree / "support" / "errors.py"), done.stderr
