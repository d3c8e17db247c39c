"""Pages under deliberate faults, on a toy module and a toy page of two checks."""

import subprocess
import sys

import pytest
import yaml
from conftest import write_page

from support.book import mutate
from support.claims import ledger
from support.claims.mutants import faults, record
from support.claims.mutants.faults import MutantError

MODULE = '''"""A toy."""
from math import fsum


def mean(numbers):
    total = fsum(numbers)
    return total / len(numbers)


def unused():
    return 1
'''
CELLS = (
    "import toy\nfrom support.claims import check",
    'check("wu.sec2.unbiased", measured=toy.mean([1, 2, 3]) + shift, here=2.0, rtol=0.05)',
    "middle = 1 / (toy.mean([1, 2, 3]) - 0.5)",
    'check("wu.prop1.with", measured=middle, here=2 / 3, rtol=10)',
)


def change(name, kind, find, replace, target="toy"):
    return dict(name=name, target=target, kind=kind, find=find, replace=replace, what="a change of the toy")


CHANGES = [
    change("scale", "factor", "total / len(numbers)", "{factor} * total / len(numbers)"),
    change("half", "formula", "total / len(numbers)", "0.5 * total / len(numbers)"),
    change("renamed", "harmless", "total = fsum(numbers)\nreturn total", "whole = fsum(numbers)\nreturn whole"),
    change("idle", "sign", "return 1", "return -1"),
    change("typed", "formula", "toy.mean([1, 2, 3]) + shift", "toy.mean([1, 2, 6]) + shift", target="part/page"),
]


def write_changes(root, changes):
    (root / "lists").mkdir(exist_ok=True)
    (root / "lists" / "toy.yaml").write_text(yaml.safe_dump(changes), encoding="utf-8")


def run(root, **options):
    said = []
    given = {"lists": root / "lists", "preload": ("IPython", "matplotlib.pyplot", "pytest"), "workers": 1}
    status = mutate.run(root, **given, say=said.append, **options)
    return status, said


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree with the toy, its page, its tests and its faults, all of which have been run; and what was said."""
    root = tmp_path_factory.mktemp("tree")
    (root / "toy.py").write_text(MODULE, encoding="utf-8")
    write_page(root / "notebooks" / "part" / "page.ipynb", *CELLS, parameters="shift = 0.0\nidle = 3", sets={})
    (root / "tests").mkdir()
    (root / "tests" / "test_toy.py").write_text("import toy\n\ndef test():\n    assert 1.9 < toy.mean([2, 2]) < 2.1\n")
    write_changes(root, CHANGES)
    return root, *run(root)


def sizes(root, name):
    return record.read("part/page", root)["runs"][name]["sizes"]


def test_a_fault_is_noticed_and_its_smallest_size_is_known(tree):
    root, *_ = tree
    found = sizes(root, "scale")
    assert found["1.02"] == {"changed": {}, "moved": ["wu.prop1.with", "wu.sec2.unbiased"], "stopped": []}
    assert found["1.1"]["changed"] == {"wu.sec2.unbiased": "refuted"}
    assert sizes(root, "typed")["whole"]["changed"] == {"wu.sec2.unbiased": "refuted"}
    noticed = record.noticed(record.outcomes(root), record.checked(root))
    assert noticed["wu.sec2.unbiased"] == record.Noticed(reached=3, changed=3, smallest=1.1)
    assert noticed["wu.prop1.with"] == record.Noticed(reached=2, changed=0, smallest=None)


def test_a_stopped_page_does_not_count(tree):
    root, *_ = tree
    with_half = sizes(root, "half")["whole"]  # the mean is 1, and 1/(1 − 1/2) = 2
    assert with_half["changed"] == {"wu.sec2.unbiased": "refuted"}
    write_changes(root, [*CHANGES, change("quarter", "formula", "total / len(numbers)", "0.25 * total / len(numbers)")])
    run(root, mutants=["quarter"])
    found = sizes(root, "quarter")["whole"]  # here the page divides by zero before its second check
    assert found["changed"] == {"wu.sec2.unbiased": "refuted"} and found["stopped"] == ["wu.prop1.with"]
    assert record.noticed(record.outcomes(root), ["wu.prop1.with"])["wu.prop1.with"].reached == 2  # as before
    write_changes(root, CHANGES)


def test_a_harmless_change_changes_nothing(tree):
    root, *_ = tree
    assert sizes(root, "renamed") == {"whole": {"changed": {}, "moved": [], "stopped": []}}


def test_the_summary_names_what_is_amiss(tree):
    _, status, said = tree
    assert status == 1
    text = "\n".join(said)
    assert "claims that no fault has changed: 1\n    wu.prop1.with (moved by 2)" in text
    assert "changes that no page runs: 1\n    idle" in text
    assert "parameters that change nothing: 1\n    part/page: idle" in text
    assert "faults that no test notices: 1\n    idle" in text
    assert "harmless changes that changed a verdict: 0" in text


def test_tests_notice_a_fault(tree):
    root, *_ = tree
    assert record.read("tests", root)["scale"] == {
        "digest": record.read("tests", root)["scale"]["digest"],
        "files": ["tests/test_toy.py"],
        "noticed": {"1.02": False, "1.1": True},
    }


def test_nothing_is_run_twice_and_what_has_changed_is_run_again(tree):
    root, *_ = tree
    run(root)  # forgets the fault that another test has tried
    before = record.read("part/page", root)
    _, said = run(root)
    assert "0 faults on pages" in said and "0 faults on tests" in said and "0 parameters on 0 pages" in said
    assert record.read("part/page", root) == before
    mutants = faults.load(root / "lists", root)
    assert list(record.problems(mutants, root)) == []
    page = root / "notebooks" / "part" / "page.ipynb"
    written = page.read_text(encoding="utf-8")
    page.write_text(written.replace("rtol=10", "rtol=0.01"), encoding="utf-8")
    assert [line.partition(":")[0] for line in record.problems(mutants, root)] == ["part/page"]
    assert "its cells have changed since" in next(record.problems(mutants, root))
    page.write_text(written, encoding="utf-8")
    others = [faults.Mutant(**CHANGES[1] | {"replace": "0.6 * total / len(numbers)"}), *mutants]
    assert next(record.problems(others, root)).startswith("part/page: not yet run under half: run `python -m support")


def test_a_claims_margin_belongs_to_what_decides_its_page(tree, monkeypatch):
    found = []
    for relative in (None, 0.1, 0.2):
        margin = relative and ledger.Margin(relative=relative)
        claim = ledger.Claim("wu.test", "wu", "Section 2", "empirical", "It is about 3.", margin=margin)
        monkeypatch.setattr(ledger, "load", lambda claim=claim: {claim.id: claim})
        found.append(record.page_digest("part/page", [claim.id], tree[0]))
    assert len(set(found)) == 3


def test_a_harmless_change_that_changes_a_verdict_is_named(tree):
    root, *_ = tree
    write_changes(root, [*CHANGES, change("wrong", "harmless", "total / len(numbers)", "total / 2")])
    status, said = run(root, mutants=["wrong"], parts=("pages",))
    assert status == 1 and "harmless changes that changed a verdict: 1" in "\n".join(said)
    write_changes(root, CHANGES)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"target": "toys"}, "half: target 'toys' is unknown"),
        ({"target": "part/none"}, "half: target 'part/none' is unknown"),
        ({"find": "total"}, "half: 'total' occurs 2 times in toy"),
        ({"find": ""}, "half: '' occurs"),
        ({"find": "sum of all"}, "half: 'sum of all' occurs 0 times in toy"),
        ({"replace": "(total / len(numbers))"}, "half: its replacement is the same code"),
        ({"replace": "total / / 2"}, "half: with its replacement toy is no Python"),
        ({"kind": "odd"}, "half: kind 'odd' is unknown: choose from factor"),
        ({"replace": "{factor} * total"}, "half: `{factor}` belongs into"),
        ({"name": "scale"}, "toy.yaml, scale: a change of this name is there already"),
        ({"size": "2"}, "toy.yaml, half: give texts for name, target"),
        ({"what": 3}, "toy.yaml, half: give texts for name, target"),
    ],
)
def test_what_cannot_be_a_fault_is_refused_in_one_line(tree, given, says):
    root, *_ = tree
    write_changes(root, [CHANGES[0], CHANGES[1] | given])
    with pytest.raises(MutantError, match=r"(?s)^[^\n]+$") as refused:
        faults.load(root / "lists", root)
    assert str(refused.value).startswith(says)
    write_changes(root, CHANGES)


def test_unknown_names_are_refused(tree):
    root, *_ = tree
    for options in ({"pages": ["part/none"]}, {"mutants": ["none"]}):
        with pytest.raises(MutantError, match=r"'(part/)?none': there are"):
            run(root, **options)


def test_a_tree_without_pages_and_a_damaged_record_are_refused(tmp_path):
    with pytest.raises(MutantError, match="has a check: run this in the root of the book"):
        mutate.run(tmp_path)
    record.folder(tmp_path).mkdir(parents=True)
    (record.folder(tmp_path) / "part.page.json").write_text('{"page": "part/page"}')
    with pytest.raises(MutantError, match=r"part\.page\.json is damaged: remove it"):
        record.outcomes(tmp_path)


def test_a_module_is_changed_for_everybody(tmp_path):
    """Names that other modules have imported from it too."""
    (tmp_path / "low.py").write_text("def f():\n    return 1\n")
    (tmp_path / "high.py").write_text("from low import f\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import high; from pathlib import Path\n"
        "from support.claims.mutants import applied\n"
        "root = Path(sys.argv[1]); source = (root / 'low.py').read_text().replace('1', '2')\n"
        "applied.install(root, {'low': (root / 'low.py', source)}, frozenset({'high'}))\n"
        "import high; print(high.f())"
    )
    found = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert found.stdout == "2\n"


def test_what_the_ledger_says():
    said = [record.Noticed(*numbers).sentence for numbers in ((0, 0, None), (1, 1, 2), (1, 0, None), (4, 4, 1.1))]
    assert said == [
        "No deliberate fault has reached it.",
        "The one deliberate fault that moved its numbers changed the verdict, at a factor of 2.",
        "The one deliberate fault that moved its numbers did not change the verdict.",
        "Of 4 deliberate faults that moved its numbers, all changed the verdict; the smallest by a factor of 1.1.",
    ]


def test_every_fault_can_be_made():
    kinds = [mutant.kind for mutant in faults.load()]
    assert len(kinds) - kinds.count(faults.HARMLESS) >= 60 and kinds.count(faults.HARMLESS) >= 20


def test_the_record_belongs_to_todays_checks():
    """To the checks, not to every module behind them: `make mutants` runs again what a changed module asks for."""
    assert list(record.outdated()) == []
