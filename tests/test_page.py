"""A page's own knowledge: parameters, the book's or not, and what it used; records; import cost."""

import json
import subprocess
import sys

import pytest

from support import page
from support.experiments import records


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A page's folder beside a parameters folder that holds the sets of the page `p`."""
    (tmp_path / "part").mkdir()
    (tmp_path / "parameters").mkdir()
    (tmp_path / "parameters" / "p.yaml").write_text(
        "default: {n: 7, lr: 0.1, laws: [SGD], name: x}\nsmoke: {n: 5}\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path / "part")
    monkeypatch.setattr(page, "current", page.Page())
    return tmp_path


GOOD = {"n": 7, "lr": 0.1, "laws": ["SGD"], "name": "x"}


def test_the_books_parameters_are_known(folder):
    page.begin("p", **GOOD)
    assert page.current.default
    page.begin("p", **(GOOD | {"n": 8, "lr": 1}))
    assert not page.current.default


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 7.0}, "n = 7.0 .* type float: give int"),
        ({"n": "7"}, "n = '7' .* type str"),
        ({"n": True}, "n = True"),
        ({"lr": "fast"}, "lr = 'fast'"),
        ({"laws": [1]}, r"laws\[…\] = 1"),
        ({"m": 1}, "no parameter 'm': it has n, lr, laws, name"),
    ],
)
def test_ill_typed_and_unknown_parameters_are_refused(folder, change, message):
    with pytest.raises(page.ParameterError, match=message):
        page.begin("p", **(GOOD | change))


def test_a_forgotten_parameter_is_refused(folder):
    with pytest.raises(page.ParameterError, match="without lr, laws, name"):
        page.begin("p", n=7)


@pytest.mark.parametrize(
    ("text", "message"),
    [("smoke: {n: 5}", "has no set 'default'"), ("", "holds no mapping"), ("default: [", "is no YAML")],
)
def test_a_broken_file_of_sets_is_refused(folder, text, message):
    (folder / "parameters" / "p.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(page.ParameterError, match=message) as caught:
        page.begin("p", **GOOD)
    assert "\n" not in str(caught.value)


def test_away_from_its_parameter_sets_a_page_runs_as_a_tinkerers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page.begin("p", n=3)
    assert not page.current.default


def test_a_tinkerer_is_told_that_the_text_is_about_other_parameters(folder, capsys):
    page.begin("p", **GOOD)
    assert capsys.readouterr().out == ""
    page.begin("p", **(GOOD | {"n": 9}))
    assert capsys.readouterr().out.startswith("The text speaks of the book's parameters. Here n = 9: trust")


def test_a_negative_seed_is_refused(tmp_path, monkeypatch):
    (tmp_path / "parameters").mkdir()
    (tmp_path / "parameters" / "s.yaml").write_text("default: {seed: 1}\n", encoding="utf-8")
    (tmp_path / "part").mkdir()
    monkeypatch.chdir(tmp_path / "part")
    with pytest.raises(page.ParameterError, match="seed = -1 of page 's' is negative"):
        page.begin("s", seed=-1)


def test_what_a_page_used_is_listed(folder):
    page.begin("p", **GOOD)
    records.save(folder / "records" / "a" / "run.json", config={"seed": 1}, final={"loss": 0.5}, wall_s=1.0)
    assert records.load("a/run")["final"] == {"loss": 0.5}
    used = page.dependencies()
    assert used["records"] == ["a/run"]
    assert "support.page" in used["modules"]
    page.begin("p", **GOOD)
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
    code = "import sys, support, support.sampling, support.claims; assert not {'torch', 'yaml', 'matplotlib', 'IPython'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
