"""The command line: what it does, and what it refuses before any work."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from support.__main__ import main
from support.book import batch, build
from support.book.execute import Done


@pytest.fixture
def refused(capsys):
    """Call the command line, expect a refusal, and return its one line."""

    def call(*words):
        assert main([str(word) for word in words]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        return said.err

    return call


@pytest.mark.parametrize("command", [("run",), ("batch", "-p", "seed=1..2")])
def test_bad_notebooks_and_folders_are_refused(refused, tiny, tmp_path, command):
    name, *axes = command
    out = tmp_path / "out"
    assert "no notebook at" in refused(name, tmp_path / "none.ipynb", *axes, "-o", out)
    (tmp_path / "broken.ipynb").write_text("{}", encoding="utf-8")
    assert "is not a notebook" in refused(name, tmp_path / "broken.ipynb", *axes, "-o", out)
    (tmp_path / "dangling").symlink_to(out)
    assert "a link that leads nowhere" in refused(name, tiny, *axes, "-o", tmp_path / "dangling")
    assert "the folder's name is empty: name one" in refused(name, tiny, *axes, "-o", "")
    assert "no notebook at" in refused(name, "x" * 5000, *axes, "-o", out)
    assert "File name too long" in refused(name, tiny, *axes, "-o", "x" * 5000)
    (tmp_path / "file").touch()
    assert "is a file: name another folder" in refused(name, tiny, *axes, "-o", tmp_path / "file")
    assert "cannot be written" in refused(name, tiny, *axes, "-o", "/proc/self/out")
    assert "no parameter file" in refused(name, tiny, *axes, "-f", tmp_path / "none.yaml", "-o", out)
    (tmp_path / "list.yaml").write_text("[1, 2]", encoding="utf-8")
    assert "holds no mapping" in refused(name, tiny, *axes, "-f", tmp_path / "list.yaml", "-o", out)
    (tmp_path / "half.yaml").write_text("b: [1", encoding="utf-8")
    assert "is no YAML" in refused(name, tiny, *axes, "-f", tmp_path / "half.yaml", "-o", out)
    assert "is no set of parameters" in refused(name, tiny, *axes, "-f", "quick", "-o", out)
    assert not out.exists()


def test_bad_parameters_are_refused(refused, tiny, tmp_path):
    out = tmp_path / "out"
    assert "no parameter 'c': it has b, seed, rate, name" in refused("run", tiny, "-p", "c=1", "-o", out)
    assert "no parameter 'c': it has b, seed, rate, name" in refused("run", tiny, "-p", "c", "1", "-o", out)
    assert "parameter 'b' is given twice" in refused("run", tiny, "-p", "b=5", "-p", "b", "6", "-o", out)
    assert "parameter 'b' has no value: write NAME=VALUE" in refused("run", tiny, "-p", "b", "-o", out)
    assert "b = '1:30'" in refused("run", tiny, "-p", "b=1:30", "-o", out)
    assert "b = 101 of page 'tiny' is out of range: give 1 to 100" in refused("run", tiny, "-p", "b=101", "-o", out)
    assert "b = -1 of page 'tiny' is out of range" in refused("batch", tiny, "-p", "b=1,-1", "-o", out)
    assert "b = 2.5 of page 'tiny' is of type float: give int" in refused("run", tiny, "-p", "b", "2.5", "-o", out)
    assert "no parameter 'c'" in refused("batch", tiny, "-p", "c=1", "-o", out)
    assert "b = 'x'" in refused("batch", tiny, "-p", "b=1,x", "-o", out)
    assert "axis 'b' is malformed" in refused("batch", tiny, "-p", "b", "-o", out)
    assert "the grid is empty" in refused("batch", tiny, "-o", out)
    for jobs in ("0", "1000000"):
        assert f"jobs = {jobs} is out of range: give 1 to 256" in refused(
            "batch", tiny, "-p", "b=1", "-o", out, "-j", jobs
        )
    assert "invalid int value: 'two'" in refused("batch", tiny, "-p", "b=1", "-o", out, "-j", "two")
    for seconds in ("0", "-1", "nan"):
        assert "timeout = " in refused("run", tiny, "-o", out, f"--timeout={seconds}")
    assert "unrecognized arguments: --fast" in refused("run", tiny, "--fast")
    assert "-p/--parameter" in refused("run", tiny, "-p")
    assert "the page's own" in refused("run", tiny, "-o", tiny.parent)
    assert not out.exists()


VALUES = ["", "-1", "1e-3", "010", "1:30", "nan", ".nan", "inf", ".inf", "None", "null", "true", "[1", "[1,2]", "1j"]
VALUES += ["{1,2}", "(1,2)", "b'x'", "!!int abc", "!!set {1}", "2020-99-99", "1..", "..", "1..2", ",", "=", "--", "-o"]
VALUES += [*"*&!%@|'\"#?>`~\t", "1e999", "1_000", "0b1", "&a [*a]", "{a: 1, a: 2}", "{1: 2}", "a\nb", "a\0b", "\ud800"]
VALUES += ["9" * 5000, "x" * 100_000, "[" * 3000]
FILES = ["b: 1\nb: 2", "- 1", "b: !!int abc", "b: 2020-99-99", "b: " + "9" * 5000, "[[[", "b: &a [*a]", "{", "b: \0"]
FILES += ["? {a: b}\n: c", "---\n---\nb: 1", "%YAML 3.0\n---\nb: 1", "b: !!python/name:os.x", "b: 1:30", "b: .inf", ""]
FILES += ["b: !!set {1, 2}", "b: !!binary x", "null", "3", '{"b": NaN}', '{"b": 1e999}', "[" * 10_000]


def test_whatever_is_asked_is_done_or_refused_in_one_line(tiny, tmp_path, capsys, monkeypatch):
    """Bad values, files, folders and numbers by the hundred: no traceback, and one line for a refusal."""
    for name in ("nothing.ipynb", "fifo.ipynb", "folder.ipynb", "bytes.ipynb"):
        (tmp_path / name).touch()
    for make, name in ((os.mkfifo, "fifo.ipynb"), (os.mkdir, "folder.ipynb"), (os.mkfifo, "fifo.yaml")):
        (tmp_path / name).unlink(missing_ok=True)
        make(tmp_path / name)
    (tmp_path / "bytes.ipynb").write_bytes(bytes(range(256)))
    given = []
    for k, text in enumerate(FILES):
        given += [tmp_path / f"{k}.yaml", tmp_path / f"{k}.json"]
        for path in given[-2:]:
            path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(batch, "perform_all", lambda tasks, *_, **__: [Done(task, "new") for task in tasks])
    long, out = "x" * 5000, ["-o", "out"]
    asked = [["run", tiny, "-p", f"{name}={text}", *out] for name in ("b", "name") for text in VALUES]
    asked += [["batch", tiny, "-p", f"{name}={text}", *out] for name in ("b", "name") for text in VALUES]
    asked += [["run", tiny, "-p", "rate", text, *out] for text in VALUES]
    files = (*given, "fifo.yaml", long, long + ".json", "a\0b.yaml", "", ".")
    folders = ("", long, "a\0b", "/proc/x", "/dev/null/x", "\ud800", "fifo.yaml")
    notebooks = [*tmp_path.glob("*.ipynb"), "", ".", long, "a\0b", "/dev/null"]
    asked += [["run", tiny, "-f", file, *out] for file in files]
    asked += [["run", tiny, "-o", folder] for folder in folders]
    asked += [["run", notebook, *out] for notebook in notebooks]
    asked += [["batch", tiny, "-p", "b=1", *out, "-j", n] for n in ("0", "-1", "1e3", "9" * 5000, "nan", "")]
    statuses = set()
    for words in asked:
        status = main([str(word) for word in words])
        said = capsys.readouterr().err
        statuses.add(status)
        assert status != 2 or (said.startswith("error: ") and said.count("\n") == 1), [str(w)[:50] for w in words]
    assert statuses == {0, 1, 2}


def test_a_refused_run_leaves_nothing_where_it_was_asked(refused, tiny, tmp_path, monkeypatch):
    (tmp_path / "else where").mkdir()
    monkeypatch.chdir(tmp_path / "else where")
    assert "no parameter 'c'" in refused("run", tiny, "-p", "c", "1")
    assert list(Path.cwd().iterdir()) == []


def test_a_package_that_is_missing_is_named(refused, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbformat", None)
    assert "needs nbformat, which is not installed: pip install" in refused("run", tiny, "-o", tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs sphinx-mathjax-offline" in refused("run", tiny, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_book_is_wanted_where_there_is_none(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("book", "notebooks", "smoke"):
        assert "run this in the root of the book" in refused(command)


@pytest.mark.parametrize("old", [True, False])
def test_a_run_writes_notebook_and_html(tiny, tmp_path, capfd, old):
    """With -p NAME=VALUE as with -p NAME VALUE, and values that begin with a minus sign."""
    (tmp_path / "given.yaml").write_text("b: 010\n", encoding="utf-8")
    pairs = ["-p", "rate", "-1e-3", "-p", "b", "8"] if old else ["-p", "rate=-1e-3", "--parameter", "b=8"]
    out = tmp_path / "not" / "there"
    assert main(["run", *pairs, str(tiny), "-f", str(tmp_path / "given.yaml"), "-o", str(out)]) == 0
    path = out / "tiny__b=8__rate=-0.001.ipynb"
    assert nbformat.read(path, 4).cells[-1].outputs[0].text == "8 -0.001\n"
    assert "8 -0.001" in path.with_suffix(".html").read_text(encoding="utf-8")
    assert str(path.with_suffix(".html")) in capfd.readouterr().out


def test_a_run_over_its_time_limit_has_failed(tmp_path, capfd):
    from conftest import write_page

    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", "while True: pass", parameters="b = 1")
    assert main(["run", str(page), "-p", "b=2", "-o", str(tmp_path / "out"), "--timeout", "2.5"]) == 1
    said = capfd.readouterr().err
    assert "failed: p: it was stopped at its time limit of 2.5 s" in said
    assert f"repeat: python -m support run {page} -p b=2 -o {tmp_path / 'out'}" in said
    assert not (tmp_path / "out" / "p__b=2.ipynb").exists()


def test_a_failed_run_says_so(tmp_path, capfd):
    from conftest import write_page

    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", "1 / b", parameters="b = 1")
    assert main(["run", str(page), "-p", "b", "0", "-o", str(tmp_path)]) == 1
    said = capfd.readouterr().err
    assert "failed: p: cell `1 / b` failed: ZeroDivisionError" in said
    assert "p__b=0.failed.ipynb" in said


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(*_):
        raise ValueError("not a refusal of ours")

    monkeypatch.setattr(build, "build", broken)
    with pytest.raises(ValueError, match="not a refusal"):
        main(["book"])


def test_help_is_immediate():
    code = "import sys; from support.__main__ import parser; parser().format_help()\n"
    code += "assert not {'numpy', 'nbformat', 'papermill', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
