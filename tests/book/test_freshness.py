"""When a result is still valid."""

import pytest

from support.book import freshness


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
