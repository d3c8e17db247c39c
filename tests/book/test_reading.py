"""Values from texts and files: YAML 1.2, one rule."""

import math

import pytest

from support.book.reading import read_mapping, value
from support.page import ParameterError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("25", 25),
        ("-3", -3),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e-3", 0.001),
        ("-1e-3", -0.001),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("", None),
        ("[1, 2]", [1, 2]),
        ("{a: 010}", {"a": 10}),
        ("'a b'", "a b"),
        ("5 # five", 5),
    ],
)
def test_texts_become_values(text, expected):
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


TEXTS = ["SGD", "yes", "on", "1:30", "1_000", "2020-01-01", "2020-99-99", "!!int abc", "!!bool maybe", "9" * 5000, "<<"]


@pytest.mark.parametrize("text", [*TEXTS, "[1", "[a]-B", "{a: 1, a: 2}", "[" * 3000, "*x", "\0", "!!python/name:os x"])
def test_what_is_no_number_of_yaml_1_2_stays_a_text(text):
    assert value(text) == text


def test_where_a_text_is_wanted_a_text_is_read():
    for text in ("25", "true", "[1, 2]", "a #b", "a: b", ""):
        assert value(text, default="x") == text
    assert value("'25'", default="x") == "25"
    assert value('"a\\tb"', default="x") == "a\tb"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "b: 1\nb: 2", "is no YAML: 'b' stands there twice"),
        ("a.yaml", "b: {c: 1, c: 2}", "is no YAML: 'c' stands there twice"),
        ("a.json", '{"b": 1, "b": 2}', "is no JSON: 'b' stands there twice"),
        ("a.json", '{"b": [{"c": 1, "c": 2}]}', "is no JSON: 'c' stands there twice"),
        ("a.yaml", "b: [1", "is no YAML: .*, line 2|is no YAML: .*, line 1"),
        ("a.yaml", "b: !!int abc", "is no YAML: invalid literal"),
        ("a.yaml", "b: !!timestamp 2020-99-99", "is no YAML: month must be"),
        ("a.yaml", "b: " + "9" * 5000, "is no YAML: Exceeds the limit"),
        ("a.yaml", "b: " + "[" * 3000, "is no YAML: it is nested too deeply"),
        ("a.json", '{"b": ' + "[" * 10**5 + "]" * 10**5 + "}", "is no JSON: it is nested too deeply"),
        ("a.yaml", "b: a\0c", "is no YAML: unacceptable character"),
        ("a.yaml", "b: !!python/object/apply:os.getcwd []", "is no YAML: could not determine a constructor"),
        ("a.yaml", "[1, 2]", "holds no mapping"),
        ("a.yaml", "1: 2", "holds no mapping of names"),
        ("a.yaml", "", "holds no mapping"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ParameterError, match=message) as caught:
        read_mapping(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_yaml_and_json_are_read_alike(tmp_path):
    (tmp_path / "a.yaml").write_text("n: 010\nrate: 1e-3\nat: 1:30\nlaws: [SGD, yes]\n")
    (tmp_path / "a.json").write_text('{\t"n": 10, "rate": 0.001, "at": "1:30", "laws": ["SGD", "yes"]}')
    assert read_mapping(tmp_path / "a.yaml") == read_mapping(tmp_path / "a.json")
    assert read_mapping(tmp_path / "a.json") == {"n": 10, "rate": 0.001, "at": "1:30", "laws": ["SGD", "yes"]}
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParameterError, match="is no YAML"):
        read_mapping(tmp_path / "bytes.yaml")
