"""Parameters of a page, executing it, and batches that can be killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import DEFAULTS, write_page

from support.book import execute as batch
from support.book import freshness, parameters
from support.book.execute import PageError, execute, html
from support.book.parameters import InputError, complete, defaults_of, file_name, grid, value
from support.page import ParameterError


def test_the_parameters_cell_is_read(tiny):
    assert defaults_of(tiny) == DEFAULTS


@pytest.mark.parametrize("cell", ["b = 2 + n", "b = int(3)", "import numpy", "a, b = 1, 2", "b += 1", "d['x'] = 1"])
def test_a_parameters_cell_holds_literals_alone(tmp_path, cell):
    page = write_page(tmp_path / "p.ipynb", parameters=cell, begin=False)
    with pytest.raises(InputError, match="is not `name = literal`"):
        defaults_of(page)


def test_a_page_without_parameters_cell_is_refused(tmp_path):
    notebook = nbformat.v4.new_notebook()
    nbformat.write(notebook, tmp_path / "p.ipynb")
    with pytest.raises(InputError, match="has 0 cells tagged 'parameters'"):
        defaults_of(tmp_path / "p.ipynb")


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("25", 1, 25),
        ("-3", 1, -3),
        ("1e-3", 0.1, 1e-3),
        ("true", False, True),
        ("[1, 2]", [1], [1, 2]),
        ("SGD", "x", "SGD"),
        ("25", "x", "25"),
        ("'a b'", "x", "a b"),
    ],
)
def test_texts_become_values(text, default, expected):
    found = value(text, default)
    assert found == expected
    assert type(found) is type(expected)


def test_given_parameters_are_checked_and_widened(tiny):
    values = complete(tiny, {"rate": 2, "b": 5}, DEFAULTS)
    assert values == DEFAULTS | {"rate": 2.0, "b": 5}
    assert isinstance(values["rate"], float)
    assert complete(tiny, {"rate": "1e-3"}, DEFAULTS)["rate"] == 1e-3  # YAML 1.1 reads 1e-3 as a text
    for wrong in ({"c": 1}, {"b": 1.5}, {"b": True}, {"rate": "fast"}, {"name": 3}):
        with pytest.raises(ParameterError):
            complete(tiny, wrong, DEFAULTS)


def test_a_grid_is_the_product_of_its_axes():
    points = grid(["b=10,20", "seed=-1..1"], DEFAULTS)
    assert points == [{"b": b, "seed": seed} for b in (10, 20) for seed in (-1, 0, 1)]
    assert grid(["widths=[1, 2],[3]"], {"widths": [1]}) == [{"widths": [1, 2]}, {"widths": [3]}]


MALFORMED = [
    "b",
    "b=",
    "=3",
    "b=1..",
    "b=5..1",
    "b=1,,2",
    "b=,1",
    "b=1,",
    "b=1,1",
    "b=1..3,2",
    "b c=1",
    "b=1.5..2",
    "b=[1,2",
    "name=it's",
]


@pytest.mark.parametrize("axis", MALFORMED)
def test_a_malformed_axis_is_refused(axis):
    with pytest.raises(InputError, match="axis"):
        grid([axis], DEFAULTS)


def test_an_axis_given_twice_and_an_empty_grid_are_refused():
    with pytest.raises(InputError, match="second time"):
        grid(["b=1", "b=2"], DEFAULTS)
    with pytest.raises(InputError, match="grid is empty"):
        grid([], DEFAULTS)


def test_file_names_are_safe_and_distinct():
    assert file_name("p", {"b": 10, "seed": 1}) == "p__b=10__seed=1"
    names = {
        file_name("p", {"x": text})
        for text in ("a/b", "a b", "a:b", "../b", "a" * 300, "a" * 301, "雜" * 99, "雜" * 98)
    }
    assert len(names) == 8
    assert all(len(name.encode()) < 140 and "/" not in name and " " not in name for name in names)


def test_execution_is_clean_and_repeatable(tmp_path):
    page = write_page(
        tmp_path / "notebooks" / "part" / "p.ipynb",
        "import os, sys\nprint('one')\nprint('two', flush=True)\nprint('three')\nprint('said', file=sys.stderr)",
        "print(os.getcwd().endswith('part'), os.environ['OMP_NUM_THREADS'], b)\nfrom support.sampling import "
        "MiniBatch\nb",
        sets={"default": DEFAULTS},
    )
    before, environment = Path.cwd(), dict(os.environ)
    used = execute(page, tmp_path / "once.ipynb")
    execute(page, tmp_path / "twice.ipynb", DEFAULTS)
    assert (Path.cwd(), dict(os.environ)) == (before, environment)
    assert (tmp_path / "once.ipynb").read_bytes() == (tmp_path / "twice.ipynb").read_bytes()
    assert {"support.page", "support.sampling", "support._random"} <= set(used["modules"])
    assert "support.book.execute" not in used["modules"]
    executed, source = nbformat.read(tmp_path / "once.ipynb", 4), nbformat.read(page, 4)
    assert [(c.id, c.source, c.metadata) for c in executed.cells] == [
        (c.id, c.source, c.metadata) for c in source.cells
    ]
    outputs = [
        output.get("text") or output.data["text/plain"]
        for cell in executed.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert outputs == ["one\ntwo\nthree\n", "said\n", "True 1 3\n", "3"]
    assert "papermill" not in json.dumps(executed)
    assert executed.metadata.language_info == {"name": "python"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebooks", "once.ipynb", "twice.ipynb"]
    assert batch.source_digest(executed) == batch.source_digest(source)


def test_other_parameters_are_seen_on_the_page(tiny, tmp_path):
    execute(tiny, tmp_path / "out.ipynb", DEFAULTS | {"b": 7})
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    injected = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", ())]
    assert len(injected) == 1
    assert "b = 7" in injected[0].source
    assert "rate" not in injected[0].source
    assert cells[-1].outputs[0].text == "7 0.5\n"


def test_a_failing_page_says_where(tmp_path):
    page = write_page(
        tmp_path / "notebooks" / "part" / "p.ipynb",
        "print('fine')",
        "x = 1\nraise RuntimeError('too many\\nlines')",
        "print('never')",
    )
    with pytest.raises(PageError, match=r"p: cell `x = 1` failed: RuntimeError: too many \| lines"):
        execute(page, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()
    cells = nbformat.read(tmp_path / "out.failed.ipynb", 4).cells
    assert [cell.source for cell in cells] == [cell.source for cell in nbformat.read(page, 4).cells]
    assert cells[-3].outputs[0].text == "fine\n"
    assert cells[-2].outputs[0].ename == "RuntimeError"
    assert cells[-1].outputs == []


def test_a_page_as_html_stands_alone(tiny, tmp_path):
    execute(tiny, tmp_path / "out.ipynb")
    text = html(tmp_path / "out.ipynb")
    assert "3 0.5" in text
    assert "MathJax = {" in text
    asked = re.findall(
        r"""<(?:script|link|img)[^>]*?(?:src|href)=["']?(?!data:)[^\s>]+|url\(["']?https?:[^)]+|@import[^;]+""", text
    )
    assert asked == []


def result_names(folder):
    return sorted(path.name for path in folder.glob("*.ipynb") if not path.name.startswith("."))


def test_a_killed_batch_continues(tmp_path):
    page = write_page(
        tmp_path / "notebooks" / "part" / "p.ipynb", "import time\ntime.sleep(0.6)\nprint(seed)", parameters="seed = 0"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "support", "batch", str(page), "-p", "seed=1..4", "-o", str(out), "-j", "1"]
    environment = os.environ | {"PYTHONPATH": str(freshness.ROOT)}
    running = subprocess.Popen(
        command, start_new_session=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 90
    while len(list(out.glob("*.key.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    finished = {path.name: path.read_bytes() for path in out.glob("*.key.json")}
    assert 2 <= len(finished) < 4
    for name in finished:  # what counts as finished is whole
        notebook = out / name.replace(".key.json", ".ipynb")
        assert nbformat.read(notebook, 4).cells[-1].outputs[0].text.strip() in "1234"
        assert notebook.with_suffix(".html").is_file()
    stamps = {name: (out / name).stat().st_mtime_ns for name in finished}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"{4 - len(finished)} executed, {len(finished)} finished before, 0 failed" in done.stdout
    assert stamps == {name: (out / name).stat().st_mtime_ns for name in finished}
    assert result_names(out) == [f"p__seed={seed}.ipynb" for seed in (1, 2, 3, 4)]
    assert not list(out.glob(".*"))


def test_failures_are_listed_with_the_command_that_repeats_them(tmp_path, capfd):
    page = write_page(
        tmp_path / "notebooks" / "part" / "p.ipynb", "assert seed != 2, 'two is out'", parameters="seed = 0"
    )
    assert batch.batch(page, ["seed=1,2"], tmp_path / "out", jobs=2) == 1
    said = capfd.readouterr()
    assert "1 executed, 0 finished before, 1 failed" in said.out
    assert "failed: p: cell `assert seed != 2, 'two is out'` failed: AssertionError: two is out" in said.err
    assert f"repeat: python -m support run {page} -p seed 2 -o {tmp_path / 'out'}" in said.err
    assert result_names(tmp_path / "out") == ["p__seed=1.ipynb", "p__seed=2.failed.ipynb"]


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sealed(tmp_path):
    """A result sealed by a key, and a function that says why it is stale once some input has changed."""
    result, key = tmp_path / "r.ipynb", tmp_path / "r.key.json"
    result.write_text("result", encoding="utf-8")
    used = {"modules": ["support.a"], "claims": ["wu.x"], "records": ["run/1", "all"]}
    inputs = {
        "constraints": "c",
        "modules": {"support.a": "1", "support.b": "1"},
        "claims": {"wu.x": "1", "wu.y": "1"},
        "records": {"run/1.json": "1", "run/2.json": "1", "all/3.json": "1"},
    }
    freshness.store(key, freshness.make("source", {"b": 1}, "how", freshness.Inputs(**inputs), used), [result])

    def stale(kind="constraints", change=None, source="source", parameters=None, how="how"):
        changed = inputs | (
            {kind: inputs[kind] | change} if isinstance(change, dict) else {kind: change} if change else {}
        )
        return freshness.stale(key, source, parameters or {"b": 1}, how, freshness.Inputs(**changed))

    stale.result, stale.key = result, key
    return stale


def test_a_result_is_fresh_until_something_it_used_changes(sealed):
    assert sealed() is None
    assert sealed("modules", {"support.a": "2"}) == "module support.a changed"
    assert sealed("claims", {"wu.x": "2"}) == "claim wu.x changed"
    assert sealed("records", {"run/1.json": "2"}) == "record run/1 changed"
    assert sealed("records", {"all/4.json": "2"}) == "record all changed"
    assert sealed("constraints", "d") == "constraints.txt changed"
    assert sealed(source="other") == "source changed"
    assert sealed(parameters={"b": 2}) == "parameters changed"
    assert sealed(how="another way to list") == "listed by changed"


def test_what_a_result_did_not_use_leaves_it_fresh(sealed):
    assert sealed("modules", {"support.b": "2"}) is None
    assert sealed("claims", {"wu.y": "2"}) is None
    assert sealed("records", {"run/2.json": "2"}) is None


def test_a_result_that_is_not_what_was_sealed_is_made_again(sealed):
    sealed.result.write_text("edited", encoding="utf-8")
    assert sealed() == "r.ipynb changed"
    sealed.result.unlink()
    assert sealed() == "r.ipynb changed"
    sealed.key.write_text('{"half', encoding="utf-8")
    assert sealed() == "new"


def test_digests_follow_the_files(tmp_path):
    package = tmp_path / "support"
    (package / "deep").mkdir(parents=True)
    for name in ("__init__.py", "a.py", "deep/__init__.py", "deep/b.py"):
        (package / name).write_text("1", encoding="utf-8")
    first = freshness.Inputs.take(tmp_path / "records", package)
    assert set(first.modules) == {"support", "support.a", "support.deep", "support.deep.b"}
    assert first.records == {}
    (tmp_path / "records" / "run").mkdir(parents=True)
    for name in ("1.json", ".2.json.part"):  # the second is on its way
        (tmp_path / "records" / "run" / name).write_text("1", encoding="utf-8")
    assert set(freshness.Inputs.take(tmp_path / "records", package).records) == {"run/1.json"}
    (package / "a.py").write_text("2", encoding="utf-8")
    second = freshness.Inputs.take(tmp_path / "records", package)
    assert {name for name in first.modules if first.modules[name] != second.modules[name]} == {"support.a"}
    assert "wu.prop1.with" in first.claims


def test_an_unknown_set_is_refused(tiny):
    assert parameters.named_set(tiny, "smoke") == {"b": 1}
    with pytest.raises(InputError, match="give one of default, smoke"):
        parameters.named_set(tiny, "quick")


def test_a_second_process_takes_over_what_the_first_has_made(tmp_path):
    """As one that waited: by the time it has the lock the result is fresh."""
    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", "print(seed)", parameters="seed = 0")
    task = batch.Task(page, tmp_path / "p.ipynb", {"seed": 1})
    inputs = freshness.Inputs.take(tmp_path)
    first, second, again = (batch.perform(task, inputs, force=force) for force in (False, False, True))
    assert (first.reason, second.reason, again.reason) == ("new", None, "asked")
    assert first.error is None and not list(tmp_path.glob(".*"))


def test_a_notebook_cut_short_by_a_full_disk_is_one_failed_page(tmp_path, monkeypatch):
    import papermill

    page = write_page(tmp_path / "notebooks" / "part" / "p.ipynb", "print(seed)", parameters="seed = 0")

    def full(running, *_, **__):
        Path(running).write_text("{", encoding="utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(papermill, "execute_notebook", full)
    done = batch.perform(batch.Task(page, tmp_path / "p.ipynb", {"seed": 1}), freshness.Inputs.take(tmp_path))
    assert "p: OSError: [Errno 28] No space left on device" in done.error


@pytest.mark.parametrize("axes", [["seed=1..1000000000"], ["seed=1..1000", "b=1..1000"]])
def test_a_hopeless_grid_is_refused_at_once(axes):
    with pytest.raises(InputError, match=r"a grid takes up to 100,000"):
        grid(axes, DEFAULTS)
