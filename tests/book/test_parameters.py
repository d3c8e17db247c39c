"""Parameters of a page: its cell, its sets and ranges, what a reader gives, and grids."""

import json
import os
import shlex

import nbformat
import pytest
from conftest import DEFAULTS, write_page

from support.book import parameters
from support.book.parameters import InputError, complete, defaults_of, file_name, given_parameters, grid, read_notebook
from support.page import ParameterError


def test_the_parameters_cell_is_read(tiny):
    assert defaults_of(tiny) == DEFAULTS


LITERALS = ["b = 2 + n", "b = int(3)", "import numpy", "a, b = 1, 2", "b += 1", "d['x'] = 1", "b: int", "b = 1\nb = 2"]


@pytest.mark.parametrize("cell", LITERALS)
def test_a_parameters_cell_holds_literals_alone(tmp_path, cell):
    page = write_page(tmp_path / "p.ipynb", parameters=cell, begin=False)
    with pytest.raises(ParameterError, match="is not `name = literal`"):
        defaults_of(page)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("b = {1, 2}", "is of type set: give a number, text, boolean, or a list or mapping of these"),
        ("b = b'x'", "is of type bytes"),
        ("b = 1j", "is of type complex"),
        ("b = (1, 2)", "is of type tuple"),
        ("b = [1, {2}]", "is of type set"),
        ("b = {1: 2}", "has a key that is no text"),
        ("b = 1e999", "is not finite"),
        ("b = 1\n%matplotlib inline", "line 2 of the parameters cell is no Python"),
        ("b = [1,", "line 1 of the parameters cell is no Python"),
        ("b = '\\ud800'\nc = 'a\x00b'", "of the parameters cell is no Python"),
        ("b = " + "9" * 5000, "line 1 of the parameters cell is no Python"),
        ("b = " + "[" * 300 + "]" * 300, "line 1 of the parameters cell is no Python"),
        ("b = " + "-" * 20000 + "1", "parameters cell is"),
    ],
)
def test_what_a_parameter_cannot_be_is_one_line(tmp_path, cell, message):
    page = write_page(tmp_path / "p.ipynb", parameters=cell, begin=False)
    with pytest.raises(ParameterError, match=message) as caught:
        defaults_of(page)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_annotations_and_mappings_are_parameters(tmp_path):
    page = write_page(tmp_path / "p.ipynb", parameters="b: int = 3\nc = {'a': [1, None, True]}", begin=False)
    assert defaults_of(page) == {"b": 3, "c": {"a": [1, None, True]}}


def test_a_page_without_parameters_cell_is_refused(tmp_path):
    notebook = nbformat.v4.new_notebook()
    nbformat.write(notebook, tmp_path / "p.ipynb")
    with pytest.raises(ParameterError, match="has 0 cells tagged 'parameters'"):
        defaults_of(tmp_path / "p.ipynb")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda nb: nb["metadata"].update(kernelspec={"name": "ir", "language": "R", "display_name": "R"}), "in R,"),
        (lambda nb: nb["metadata"].update(kernelspec={"name": "julia-1.10", "display_name": "J"}), "in julia-1.10,"),
        (lambda nb: nb["metadata"].update(language_info={"name": "scala"}), "in scala,"),
        (lambda nb: nb.update(nbformat=5), "its format is 5, and 4 is known"),
        (lambda nb: nb.update(cells={}), "is not a notebook"),
        (lambda nb: nb["cells"][0].pop("source"), "is not a notebook"),
    ],
)
def test_a_notebook_of_another_kind_is_refused_by_name(tiny, change, message):
    content = json.loads(tiny.read_text())
    change(content)
    tiny.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        read_notebook(tiny)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    (tmp_path / "deep.ipynb").write_text("[" * 10**5 + "]" * 10**5)
    (tmp_path / "bytes.ipynb").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.ipynb").touch()
    os.mkfifo(tmp_path / "fifo.ipynb")
    found = {}
    for name in ("deep", "bytes", "empty", "fifo", "long" * 5000, "nul\0"):
        with pytest.raises(InputError) as caught:
            read_notebook(tmp_path / f"{name}.ipynb")
        assert "\n" not in str(caught.value)
        found[name[:5]] = str(caught.value)
    assert "nested too deeply" in found["deep"]
    assert "is not a notebook" in found["bytes"] and "is not a notebook" in found["empty"]
    assert all("no notebook at" in found[name] for name in ("fifo", "longl", "nul\0"))


def test_given_parameters_are_checked_and_widened(tiny):
    values = complete(tiny, {"rate": 2, "b": 5}, DEFAULTS)
    assert values == DEFAULTS | {"rate": 2.0, "b": 5}
    assert isinstance(values["rate"], float)
    for wrong in ({"c": 1}, {"b": 1.5}, {"b": True}, {"rate": "1e-3"}, {"name": 3}, {"rate": float("inf")}):
        with pytest.raises(ParameterError):
            complete(tiny, wrong, DEFAULTS)


def test_a_parameter_out_of_its_range_is_known_before_any_work(tmp_path):
    cell = "n = 7\nrate = 0.5\nwidths = [8, 16]"
    ranges = {"n": [3, 12], "rate": [0, None], "widths": [8, 64]}
    page = write_page(tmp_path / "a" / "p.ipynb", parameters=cell, sets={"ranges": ranges, "smoke": {"n": 3}})
    defaults = defaults_of(page)
    for good in ({}, {"n": 3}, {"n": 12}, {"rate": 1e9}, {"widths": [64, 8]}):
        assert complete(page, good, defaults) == defaults | good
    for wrong, message in (
        ({"n": 2}, "n = 2 of page 'p' is out of range: give 3 to 12"),
        ({"n": -1}, "n = -1"),
        ({"rate": -0.1}, "rate = -0.1 of page 'p' is out of range: give at least 0"),
        ({"widths": [8, 65]}, "widths = 65 of page 'p' is out of range: give 8 to 64"),
    ):
        with pytest.raises(ParameterError, match=message):
            complete(page, wrong, defaults)
    with pytest.raises(InputError, match=r"'ranges' is no set .* give one of default, smoke"):
        parameters.named_set(page, "ranges")


@pytest.mark.parametrize("ends", [[1], 5, [1, 2, 3], ["a", "b"], [True, 2]])
def test_a_range_of_another_form_is_refused(tmp_path, ends):
    page = write_page(tmp_path / "a" / "p.ipynb", parameters="n = 7\nname = 'x'", sets={"ranges": {"n": ends}})
    with pytest.raises(ParameterError, match=r"the range n: .* of page 'p' is none"):
        complete(page, {}, defaults_of(page))
    page = write_page(tmp_path / "a" / "p.ipynb", parameters="n = 7\nname = 'x'", sets={"ranges": {"name": [1, 2]}})
    with pytest.raises(ParameterError, match="the range name: "):
        complete(page, {}, defaults_of(page))


def test_the_parameters_cell_is_the_one_list(tmp_path):
    page = write_page(tmp_path / "a" / "p.ipynb", parameters="n = 7", sets={"default": {"n": 7}})
    with pytest.raises(ParameterError, match=r"p\.yaml' has a set 'default': the page's parameters cell says that"):
        complete(page, {}, {"n": 7})


def test_pairs_are_read_over_a_file(tiny, tmp_path):
    (tmp_path / "given.yaml").write_text("b: 4\nseed: 010\n")
    pairs = ["b=5", "rate=-1e-3", "name=a=b, c"]
    given = given_parameters(tiny, str(tmp_path / "given.yaml"), pairs, DEFAULTS)
    assert given == {"b": 5, "seed": 10, "rate": -1e-3, "name": "a=b, c"}
    with pytest.raises(InputError, match="parameter 'b' is given twice, as 5 and '6'"):
        given_parameters(tiny, None, ["b=5", "b=6"], DEFAULTS)
    for malformed in ("b", "=5", "b c=5"):
        with pytest.raises(InputError, match="has no value: write NAME=VALUE"):
            given_parameters(tiny, None, [malformed], DEFAULTS)
    os.mkfifo(tmp_path / "fifo.yaml")
    for name in ("none.yaml", "fifo.yaml", "l" * 5000 + ".json"):
        with pytest.raises(InputError, match="no parameter file"):
            given_parameters(tiny, str(tmp_path / name), [], DEFAULTS)


def test_what_is_written_is_read_back():
    given = {"b": -3, "rate": 1e-05, "big": 1e22, "flag": True, "none": None, "name": "25", "said": "'x' # y"}
    given |= {"empty": "", "widths": [1, 2], "deep": {"a": [0.5, "ä"]}}
    texts = shlex.split(shlex.join(parameters.written(given)))
    assert given_parameters(None, None, texts, given) == given


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
    assert len(file_name("stem" * 100, {"x": "a" * 300}).encode()) < 200
    assert all(len(name.encode()) < 140 and "/" not in name and " " not in name for name in names)


def test_an_unknown_set_is_refused(tiny):
    assert parameters.named_set(tiny, "smoke") == {"b": 1}
    with pytest.raises(InputError, match="give one of default, smoke"):
        parameters.named_set(tiny, "quick")


@pytest.mark.parametrize("axes", [["seed=1..1000000000"], ["seed=1..1000", "b=1..1000"]])
def test_a_hopeless_grid_is_refused_at_once(axes):
    with pytest.raises(InputError, match=r"a grid takes up to 100,000"):
        grid(axes, DEFAULTS)


def test_a_number_of_five_thousand_digits_is_one_line(tiny):
    for axis in ("seed=" + "9" * 5000, "seed=1.." + "9" * 5000):
        with pytest.raises((InputError, ParameterError)) as caught:
            complete(tiny, grid([axis], DEFAULTS)[0], DEFAULTS)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
