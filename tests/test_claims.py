"""The ledger's rules, and verdicts computed from numbers."""

import json
from fractions import Fraction

import numpy as np
import pytest

from support import page
from support.claims import VERDICTS, Claim, Verdict, VerdictMismatch, box, check, judge, load
from support.claims import ledger as ledger_module
from support.claims.ledger import LedgerError, papers, read
from support.errors import Refused


@pytest.fixture
def entry(monkeypatch):
    """Put one claim into the ledger: entry(expected=..., kind=...) returns its id."""

    def make(expected="confirmed", kind="mathematical", truth="so it is", reason=None):
        claim = Claim("wu.test", "wu", "Section 0", kind, "that $1+1=2$ & more", expected, truth, reason)
        monkeypatch.setattr(ledger_module, "load", lambda: {claim.id: claim})
        return claim.id

    monkeypatch.setattr(page, "current", page.Page())
    return make


def test_the_ledger_is_whole():
    counts = {paper: len(claims) for paper, (_, claims) in papers().items()}
    assert counts == {"wu": 141, "zhu": 68, "wen": 69, "ziyin": 99}
    assert sum(counts.values()) == len(load()) == 377
    for claim in load().values():
        assert claim.expected is None or claim.expected in VERDICTS
        for text in (claim.statement, claim.truth or "", claim.reason or ""):
            assert text.count("$") % 2 == 0, f"{claim.id}: unbalanced $"
            assert not any(word in text for word in (".py", "OCR", "extraction")), claim.id
    anchors = [box.anchor(i, "claim") for i in load()]
    assert len(set(anchors)) == len(anchors)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"measured": Fraction(2, 49), "printed": Fraction(2, 49)}, "confirmed"),
        ({"measured": 1.0 + 1e-13, "printed": 1.0}, "confirmed"),
        ({"measured": 1.0 + 1e-6, "printed": 1.0}, "refuted"),
        ({"measured": Fraction(1, 3), "printed": Fraction(1, 2), "true": Fraction(1, 3)}, "corrected"),
        ({"measured": Fraction(1, 3), "printed": Fraction(1, 2), "true": Fraction(1, 4)}, "refuted"),
        (
            {
                "measured": {"with": 1, "without": 2},
                "printed": {"with": 1, "without": 1},
                "true": {"with": 1, "without": 2},
            },
            "corrected",
        ),
        ({"measured": np.eye(3), "printed": np.eye(3)}, "confirmed"),
        (
            {
                "measured": np.array([Fraction(1, 3)] * 5, dtype=object),
                "printed": np.array([Fraction(1, 3)] * 5, dtype=object),
            },
            "confirmed",
        ),
        ({"measured": 3.0, "printed": 4.0, "relation": "<="}, "confirmed"),
        ({"measured": 5.0, "printed": 4.0, "true": 6.0, "relation": "<="}, "corrected"),
        ({"measured": 5.0, "printed": 4.0, "relation": "<="}, "refuted"),
        ({"measured": 4.0, "printed": 4.0, "relation": "<"}, "refuted"),
        ({"measured": 4.0, "printed": 3.0, "relation": ">"}, "confirmed"),
        ({"measured": 0.52, "interval": (0.48, 0.56), "printed": 0.5}, "confirmed"),
        ({"measured": 0.52, "interval": (0.51, 0.53), "printed": 0.5, "true": 0.52}, "corrected"),
        ({"measured": 0.52, "interval": (0.51, 0.53), "printed": 0.6, "relation": "<"}, "confirmed"),
        ({"measured": True, "printed": True}, "confirmed"),
        ({"measured": Fraction(1, 3), "printed": 1 / 3}, "confirmed"),
        (
            {
                "measured": np.array([Fraction(1, 3)], dtype=object),
                "printed": np.array([0.3]),
                "true": np.array([1 / 3]),
            },
            "corrected",
        ),
        ({"measured": 5.0, "printed": float("inf"), "relation": "<"}, "confirmed"),
        ({"measured": 7, "printed": 8}, "refuted"),
    ],
)
def test_a_verdict_follows_from_numbers(entry, numbers, expected):
    assert judge(entry(expected), **numbers).verdict == expected


@pytest.mark.parametrize("relation", ["==", "<=", ">=", "<", ">"])
def test_floats_are_read_within_rounding_and_strict_relations_strictly(entry, relation):
    """Measured just below, at, and just above the printed value: the same within rounding."""
    found = [judge(entry(), measured=1.0 + k * 1e-10, printed=1.0, relation=relation) for k in (-1, 0, 1)]
    assert [verdict.verdict == "confirmed" for verdict in found] == ["=" in relation] * 3
    apart = {sign: judge(entry(), measured=1.0 + sign, printed=1.0, relation=relation).verdict for sign in (-1, 1)}
    holds = {"==": (False, False), "<=": (True, False), "<": (True, False), ">=": (False, True), ">": (False, True)}
    assert (apart[-1] == "confirmed", apart[1] == "confirmed") == holds[relation]


def test_a_verdict_is_plain_data_and_its_looks_are_elsewhere(entry):
    verdict = judge(entry(), measured=1, printed=1)
    assert isinstance(verdict, Verdict) and not any(name.startswith("_repr") for name in dir(verdict))
    assert verdict.as_json()["rows"] == [{"measured": "1", "printed": "1"}]


def test_a_finding_that_fails_or_stays_open_is_not_reproduced(entry):
    claim = entry(None, kind="empirical")
    assert judge(claim, measured=0.1, interval=(-0.1, 0.3), printed=0.0, relation=">").verdict == "not reproduced"
    assert judge(claim, measured=-0.2, interval=(-0.3, -0.1), printed=0.0, relation=">").verdict == "not reproduced"
    assert judge(claim, measured=0.2, interval=(0.1, 0.3), printed=0.0, relation=">").verdict == "confirmed"


def test_a_theorem_needs_an_interval_that_decides(entry):
    with pytest.raises(ValueError, match="too wide to decide"):
        judge(entry(), measured=0.1, interval=(-0.1, 0.3), printed=0.0, relation=">")


def test_a_contradiction_stops_the_books_page_and_turns_a_tinkerers_box_amber(entry, monkeypatch, capsys):
    claim = entry("confirmed")
    check(claim, measured=1, printed=2)  # other parameters: shown, not stopped
    assert "ledger expects “confirmed”" in capsys.readouterr().out
    assert "claim-amber" in box.html(judge(claim, measured=1, printed=2))
    monkeypatch.setattr(page, "current", page.Page("some_page", default=True))
    with pytest.raises(VerdictMismatch, match=r"numbers say 'refuted', the ledger expects 'confirmed'"):
        check(claim, measured=1, printed=2)
    check(claim, measured=2, printed=2)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"measured": 1, "printed": 1, "relation": "~"}, "relation = '~'"),
        ({"measured": {"a": 1}, "printed": 1}, "same cases as measured: a"),
        ({"measured": np.ones(3), "printed": np.ones(2)}, r"shape \(3,\)"),
        ({"measured": float("nan"), "printed": 1.0}, "not finite"),
        ({"measured": float("nan"), "printed": 1.0, "interval": (0.0, 2.0)}, "not finite"),
        ({"measured": 1.0, "printed": float("nan")}, "stated value nan is not a number"),
        ({"measured": {}, "printed": {}}, "measured names no case"),
        ({"measured": np.array([]), "printed": np.array([])}, "is empty"),
        (
            {"measured": 1.0, "printed": 1.0, "interval": (2.0, 0.0)},
            r"interval = \(2.0, 0.0\) is none: give \(low, high\)",
        ),
        ({"measured": 1.0, "printed": 1.0, "interval": (float("nan"), 2.0)}, "is none"),
        ({"measured": 1.0, "printed": 1.0, "interval": (0.0, 1.0, 2.0)}, "is no pair: give .* `ends`"),
        ({"measured": "1", "printed": 1.0}, "measured is of type str: give numbers"),
        ({"measured": [[1], [1, 2]], "printed": 1.0}, "measured is of type list: give numbers"),
        ({"measured": 1.0, "printed": None}, "the stated value is of type NoneType: give numbers"),
        ({"measured": 1.0, "printed": 1.0, "rtol": -1}, "rtol = -1 is out of range"),
    ],
)
def test_bad_numbers(entry, numbers, message):
    with pytest.raises(ValueError, match=message):
        judge(entry(), **numbers)


def test_written_verdicts_and_unknown_ids_take_no_check(entry):
    with pytest.raises(ValueError, match="written with a reason"):
        judge(entry("noted", truth=None, reason="a misprint"), measured=1, printed=1)
    with pytest.raises(Refused, match=r"no claim 'wu\.nothing'"):
        judge("wu.nothing", measured=1, printed=1)


def test_the_box_carries_statement_numbers_and_json(entry, monkeypatch):
    import IPython

    shown = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: "a kernel")
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw: shown.append(bundle))
    check(entry(), measured=Fraction(1, 3), printed=Fraction(1, 3), note="by enumeration, $n=3$")
    (bundle,) = shown
    assert "\\(1+1=2\\)</span> &amp; more" in bundle["text/html"]
    assert 'href="../../book/ledger.html#claim-wu-test"' in bundle["text/html"]
    assert "1/3" in bundle["text/plain"]
    record = json.loads(json.dumps(bundle[box.MIME]))
    assert (record["id"], record["verdict"], record["rows"][0]["measured"]) == ("wu.test", "confirmed", "1/3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expected": "true"}, "expected verdict 'true' is unknown"),
        ({"kind": "figure"}, "kind 'figure' is unknown"),
        ({"expected": "corrected"}, "must say in `truth`"),
        ({"expected": "noted"}, "`reason` belongs"),
        ({"reason": "because"}, "`reason` belongs"),
        ({"verdict": "confirmed"}, "unknown field verdict"),
    ],
)
def test_a_broken_entry_names_itself(tmp_path, change, message):
    import yaml

    good = {"id": "wu.x", "where": "s", "kind": "mathematical", "statement": "t", "expected": "confirmed"}
    path = tmp_path / "wu.yaml"
    path.write_text(yaml.safe_dump({"paper": "wu", "title": "t", "claims": [good | change]}), encoding="utf-8")
    with pytest.raises(LedgerError, match=message) as caught:
        read(path)
    assert "wu.x" in str(caught.value)


def test_an_id_stands_once(tmp_path):
    path = tmp_path / "wu.yaml"
    one = "  - {id: wu.x, where: s, kind: mathematical, statement: t, expected: confirmed}\n"
    path.write_text(f"paper: wu\ntitle: t\nclaims:\n{one}{one}", encoding="utf-8")
    with pytest.raises(LedgerError, match="entered twice"):
        read(path)


def test_an_open_finding_is_not_corrected(entry):
    """Corrected means that the printed value fails; where the interval leaves it open, nothing has been shown."""
    claim = entry("not reproduced", kind="empirical")
    assert (
        judge(claim, measured=0.5, interval=(0.0, 1.0), printed=0.4, true=2.0, relation="<").verdict == "not reproduced"
    )
    assert judge(claim, measured=0.5, interval=(0.45, 1.0), printed=0.4, true=2.0, relation="<").verdict == "corrected"
    with pytest.raises(ValueError, match="lies outside its interval"):
        judge(claim, measured=500.0, interval=(0.0, 1.0), printed=0.4)


def test_a_box_says_whose_parameters_its_words_are_about(entry, monkeypatch):
    claim = entry()
    assert "More exactly, with the book's parameters." in box.html(judge(claim, measured=2, printed=2))
    monkeypatch.setattr(page, "current", page.Page("x", True))
    assert "<strong>More exactly.</strong>" in box.html(judge(claim, measured=2, printed=2))
