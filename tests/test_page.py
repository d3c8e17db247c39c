"""A page's own knowledge: parameters, the book's or not, and what it used; records; import cost."""

import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from conftest import write_page

from support import page, recorded
from support.errors import Refused
from support.experiments import records

CELL = "n = 7  # samples\nlr = 0.1\nlaws = ['SGD']\nname = 'x'"
GOOD = {"n": 7, "lr": 0.1, "laws": ["SGD"], "name": "x"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A page's folder with the notebook of the page `p`, which the book executes."""
    write_page(tmp_path / "part" / "p.ipynb", parameters=CELL)
    monkeypatch.chdir(tmp_path / "part")
    monkeypatch.setattr(page, "current", page.Page())
    monkeypatch.setenv(page.STRICT, "1")
    return tmp_path


def begin(**values):
    """Call `page.begin` as a page does: its values are in its globals."""
    exec("page.begin('p')", {"page": page, **values})


def test_the_books_parameters_are_known(folder):
    begin(**GOOD, more=3)
    assert page.current == page.Page("p", True, GOOD)
    begin(**(GOOD | {"n": 8, "lr": 1}))
    assert page.current == page.Page("p", False, GOOD | {"n": 8, "lr": 1})


def test_a_page_that_the_book_does_not_execute_is_a_tinkerers(folder, monkeypatch):
    """As in JupyterLab, where the file may hold what the reader has changed."""
    monkeypatch.delenv(page.STRICT)
    begin(**GOOD)
    assert not page.current.default


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 7.0}, "n = 7.0 .* type float: give int"),
        ({"n": "7"}, "n = '7' .* type str"),
        ({"n": True}, "n = True"),
        ({"n": {7}}, "n = .7. of page 'p' is of type set: give a number, text"),
        ({"n": "7" * 5000}, "n = '777"),
        ({"lr": "fast"}, "lr = 'fast'"),
        ({"lr": float("nan")}, "lr = nan of page 'p' is not finite"),
        ({"laws": [1]}, r"laws\[…\] = 1"),
        ({"laws": {1: 2}}, "laws = {1: 2} of page 'p' has a key that is no text"),
    ],
)
def test_ill_typed_parameters_are_refused(folder, change, message):
    with pytest.raises(page.ParameterError, match=message) as caught:
        begin(**(GOOD | change))
    assert len(str(caught.value)) < 200


def test_unknown_parameters_and_rings_are_refused():
    with pytest.raises(page.ParameterError, match="no parameter 'm': it has n, lr, laws, name"):
        page.validate("p", {"m": 1}, GOOD)
    ring = []
    ring.append(ring)
    with pytest.raises(page.ParameterError, match="is nested too deeply"):
        page.validate("p", {"laws": ring}, GOOD)


def test_a_forgotten_parameters_cell_is_refused(folder):
    with pytest.raises(page.ParameterError, match="without lr, laws, name: run its parameters cell first"):
        begin(n=7)


def test_away_from_its_notebook_a_page_runs_as_a_tinkerers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(page.STRICT, "1")
    begin(n=3)
    assert not page.current.default


def test_a_tinkerer_is_told_that_the_text_is_about_other_parameters(folder, capsys):
    begin(**GOOD)
    assert capsys.readouterr().out == ""
    begin(**(GOOD | {"n": 9}))
    assert capsys.readouterr().out.startswith("The text speaks of the book's parameters. Here n = 9: trust")


def test_a_negative_seed_is_refused():
    with pytest.raises(page.ParameterError, match="seed = -1 of page 's' is negative"):
        page.validate("s", {"seed": -1}, {"seed": 1})


def test_equal_is_not_the_same():
    assert page.same({"a": [1, "x"]}, {"a": [1, "x"]})
    for one, other in ((1, True), (1, 1.0), ([0], [False]), ({"a": 1}, {"a": 1.0}), ("1", 1)):
        assert not page.same(one, other)


def test_named_numbers_are_shown_and_checked(folder, capsys):
    begin(**GOOD)
    capsys.readouterr()
    for value in (0.25, 3, np.float32(0.5), np.int64(4), Fraction(1, 8)):
        page.number("loss", value)
    assert capsys.readouterr().out.split("\n") == [f"loss = {x}" for x in (0.25, 3, 0.5, 4, 0.125)] + [""]
    for name, value, message in (
        ("test loss", 1, "is no identifier"),
        (3, 1, "is no identifier"),
        ("n", 1, "is taken by a column"),
        ("seconds", 1, "is taken by a column"),
        ("loss", "1", "loss = '1' is no number"),
        ("loss", None, "is no number"),
        ("loss", True, "is no number"),
        ("loss", np.zeros(1), "is no number"),
        ("loss", float("inf"), "loss = inf is not finite"),
    ):
        with pytest.raises(Refused, match=message):
            page.number(name, value)


def test_what_a_page_used_is_listed(folder):
    begin(**GOOD)
    records.save(folder / "records" / "a" / "run.json", config={"seed": 1}, final={"loss": 0.5}, wall_s=1.0)
    assert recorded.load("a/run")["final"] == {"loss": 0.5}
    used = page.dependencies()
    assert used["records"] == ["a/run"]
    assert "support.page" in used["modules"]
    begin(**GOOD)
    assert page.dependencies()["records"] == []


def test_a_record_names_where_it_came_from(tmp_path):
    path = records.save(tmp_path / "deep" / "r.json", config={}, final={}, wall_s=2.5, device="cpu")
    source = records.read(path)["provenance"]
    assert set(source) == {"commit", "device", "threads", "versions", "wall_s"}
    assert source["wall_s"] == 2.5
    assert [p.name for p in path.parent.iterdir()] == ["r.json"]  # no temporary file is left


def test_broken_records_are_refused(tmp_path):
    path = tmp_path / "r.json"
    with pytest.raises(records.RecordError, match=r"r\.json is missing"):
        records.read(path)
    path.write_text('{"config": {}, "cur', encoding="utf-8")
    with pytest.raises(records.RecordError, match="no JSON"):
        records.read(path)
    path.write_text(json.dumps({"config": {}}), encoding="utf-8")
    with pytest.raises(records.RecordError, match="lacks curves, final, provenance"):
        records.read(path)
    with pytest.raises(records.RecordError, match="cannot be written"):
        records.save(path / "below_a_file.json", config={}, final={}, wall_s=0)
    with pytest.raises(records.RecordError, match="JSON"):
        records.save(tmp_path / "nan.json", config={}, final={"loss": float("nan")}, wall_s=0)


def test_a_folder_that_cannot_be_written_is_known_before(tmp_path):
    records.check_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(records.RecordError, match=r"cannot be written .* name another"):
            records.check_folder(folder)


def test_importing_the_package_imports_no_torch():
    """`import support` and the laws stay light, because nothing heavy is imported with them."""
    code = "import sys, support, support.sampling, support.claims\n"
    code += "assert not {'torch', 'yaml', 'matplotlib', 'IPython'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
