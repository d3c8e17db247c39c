"""The ledger's rules, and verdicts computed from numbers."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from support import page
from support.claims import VERDICTS, Claim, Verdict, VerdictMismatch, box, check, judge, load
from support.claims import ledger as ledger_module
from support.claims.compare import Rule
from support.claims.ledger import LedgerError, papers, read
from support.errors import Refused
from support.experiments.plans import Outcome, Plan
from support.recorded import Planned


@pytest.fixture
def entry(monkeypatch):
    """Put one claim into the ledger: entry(expected=..., kind=...) returns its id."""

    def make(expected="confirmed", kind="mathematical", **more):
        if expected in ("corrected", "refuted", "not reproduced"):
            more = {"truth": "so it is"} | more
        claim = Claim("wu.test", "wu", "Section 0", kind, "that $1+1=2$ & more", expected=expected, **more)
        monkeypatch.setattr(ledger_module, "load", lambda: {claim.id: claim})
        return claim.id

    monkeypatch.setattr(page, "current", page.Page())
    return make


def test_the_ledger_is_whole():
    counts = {paper: len(claims) for paper, (_, claims) in papers().items()}
    assert counts == {"wu": 157, "zhu": 70, "wen": 77, "ziyin": 115}
    assert sum(counts.values()) == len(load()) == 419
    for claim in load().values():
        assert claim.expected is None or claim.expected in VERDICTS
        for text in filter(None, (claim.statement, claim.short, claim.truth, claim.beyond, claim.reason)):
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
        ({"measured": np.float64(4), "printed": 4.0, "relation": "<"}, "refuted"),
        ({"measured": 4.0, "printed": 3.0, "relation": ">"}, "confirmed"),
        ({"measured": 0.52, "interval": (0.48, 0.56), "printed": 0.5}, "confirmed"),
        ({"measured": 0.52, "interval": (0.51, 0.53), "printed": 0.5, "true": 0.521}, "corrected"),
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
    assert verdict.as_json()["rows"] == [{"measured": "1", "sign": "=", "printed": "1"}]


def test_a_finding_that_fails_is_not_reproduced_and_one_that_is_undecided_is_open(entry):
    claim, against = entry(None, kind="empirical"), {"printed": 0.0, "relation": ">"}
    assert judge(claim, measured=-0.2, interval=(-0.3, -0.1), **against).verdict == "not reproduced"
    assert judge(claim, measured=0.2, interval=(0.1, 0.3), **against).verdict == "confirmed"
    wide = judge(claim, measured=0.1, interval=(-0.1, 0.3), **against, power=0.4)
    assert wide.verdict == "open" and "probability 0.4" in wide.note
    with pytest.raises(Refused, match="give power="):
        judge(claim, measured=0.1, interval=(-0.1, 0.3), **against)


def test_a_theorem_needs_an_interval_that_decides(entry):
    with pytest.raises(ValueError, match="too wide to decide"):
        judge(entry(), measured=0.1, interval=(-0.1, 0.3), printed=0.0, relation=">")


ABOUT = {"measured": 0.2, "here": 0.0, "relation": "~"}


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((-0.4, 0.7), "confirmed"), ((-0.4, 0.8), "open"), ((0.1, 0.8), "open"), (None, "confirmed")],
)
def test_about_is_a_margin_that_the_whole_interval_keeps(entry, interval, verdict):
    claim = entry(None, kind="empirical", margin=ledger_module.Margin(absolute=0.75, reason="half of the effect"))
    assert judge(claim, **ABOUT, interval=interval, power=0.8).verdict == verdict
    apart = judge(claim, measured=1.0, here=0.0, relation="~", interval=(0.76, 1.2))
    assert (apart.verdict, apart.decisive) == ("not reproduced", "1 [0.76, 1.2] ≉ 0 ± 0.75")


def test_about_is_a_tenth_where_the_entry_says_nothing(entry):
    claim = entry(None)
    found = [judge(claim, measured=x, here=2.0, relation="~").verdict for x in (1.79, 1.81, 2.19, 2.21)]
    assert found == ["refuted", "confirmed", "confirmed", "refuted"]
    with pytest.raises(Refused, match="a share of 0 is no margin"):
        judge(claim, **ABOUT)


def test_two_sides_that_are_one_object_are_refused(entry):
    claim, x, third = entry(), np.ones(3), Fraction(1, 3)
    for measured, stated in ((x, x), (x[:2], x[1:]), (third, third), ({"a": third}, {"a": third})):
        with pytest.raises(Refused, match="the same object, which agrees with itself"):
            judge(claim, measured=measured, here=stated)
    with pytest.raises(Refused, match="measured and true of case 'a'"):
        judge(claim, measured={"a": x}, here={"a": x + 1}, true={"a": x})
    assert judge(claim, measured=x, here=x.copy()).verdict == "confirmed"
    with pytest.raises(Refused, match=r"either printed=.* or here="):
        judge(claim, measured=1)
    with pytest.raises(Refused, match=r"either printed=.* or here="):
        judge(claim, measured=1, printed=1, here=1)


@pytest.mark.parametrize(
    ("numbers", "amount", "factor"),
    [
        ({"measured": 3.0, "printed": 4.5, "relation": "<="}, 1.5, 1.5),
        ({"measured": 3.0, "printed": 2.0, "relation": ">"}, 1.0, 1.5),
        ({"measured": 2.0, "printed": 2.0}, 0.0, 1.0),
        ({"measured": 2.0, "printed": 3.0}, 1.0, 1.5),
        ({"measured": 1.0, "interval": (0.8, 1.1), "printed": 1.0}, 0.1, 10 / 9),
        ({"measured": 1.0, "interval": (0.8, 1.1), "printed": 2.0, "relation": "<"}, 0.9, 1.9),
        ({"measured": 1.0, "interval": (0.8, 1.1), "printed": -1.0, "relation": ">"}, 1.8, float("inf")),
        ({"measured": 1.02, "printed": 1.0, "relation": "~"}, 0.08, 1.1 / 1.02),
        ({"measured": 1.02, "interval": (0.95, 1.05), "printed": 1.0, "relation": "~"}, 0.05, 1.02 / 0.97),
        ({"measured": np.array([1.0, 5.0]), "printed": np.array([4.0, 7.0]), "relation": "<"}, 2.0, 1.4),
        ({"measured": np.array([5.0, 9.0]), "printed": np.array([4.0, 7.0]), "relation": "<"}, 2.0, 9 / 7),
    ],
)
def test_the_slack_is_the_least_error_that_would_change_the_verdict(entry, numbers, amount, factor):
    """Expected values by hand; and moved by it, a little more, the answer does change, a little less, it does not."""
    rule = Rule(numbers.pop("relation", "=="), 1e-9, 1e-12, ledger_module.ABOUT)
    measured, stated, interval = numbers["measured"], numbers["printed"], numbers.get("interval")
    found = rule.room(measured, stated, interval)
    assert found == pytest.approx((amount, factor))

    def answers(shift):
        pairs = [None if interval is None else tuple(end + s for end in interval) for s in (shift, -shift)]
        return [rule.holds(measured + s, stated, pair) for s, pair in zip((shift, -shift), pairs, strict=True)]

    if amount and np.size(measured) == 1:
        before = rule.holds(measured, stated, interval)
        assert any(answer is not before for answer in answers(amount) + answers(amount * (1 + 1e-6)))
        assert all(answer is before for answer in answers(0.999 * amount))


def test_a_plan_gives_its_margin_and_leaves_the_verdict_open_until_it_is_complete(entry):
    claim = entry(None, kind="empirical")
    outcome = Outcome("accuracy", "points", "paired", margin=0.75)
    plan = Plan("p", "?", (claim,), "2026-01-01", "preset", "paper", ("A", "B"), (1, 2), "A", (outcome,), 0.05, "", "")
    runs = {(method, seed): {} for method in "AB" for seed in (1, 2)}
    asked = ABOUT | {"interval": (-0.3, 0.7), "outcome": "accuracy"}
    assert judge(claim, **asked, plan=Planned(plan, runs)).verdict == "confirmed"
    del runs["B", 2]
    open_yet = judge(claim, **asked, plan=Planned(plan, runs))
    assert open_yet.verdict == "open" and "1 of its 2 seeds" in open_yet.note
    part = replace(plan, claims=(claim.rpartition(".")[0],))  # the plan asked for the whole, of which this is a part
    assert judge(claim, **asked, plan=Planned(part, runs)).verdict == "open"
    with pytest.raises(Refused, match="is none of the claims of plan p"):
        judge("wu.test", **asked, plan=Planned(replace(plan, claims=("wu.other",)), runs))
    with pytest.raises(Refused, match="belongs to a plan"):
        judge(claim, **asked)


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
        ({"measured": 1, "printed": 1, "relation": "≈"}, "relation = '≈'"),
        ({"measured": 1, "printed": 2, "power": 1.5}, "power = 1.5 is no probability"),
        ({"measured": {"a": 1}, "printed": 1}, "same cases as measured: a"),
        ({"measured": np.ones(3), "printed": np.ones(2)}, r"shape \(3,\)"),
        ({"measured": float("nan"), "printed": 1.0}, "not finite"),
        ({"measured": float("nan"), "printed": 1.0, "interval": (0.0, 2.0)}, "not finite"),
        ({"measured": 1.0, "printed": float("nan")}, "stated value nan is not a number"),
        ({"measured": {}, "printed": {}}, "measured names no case"),
        ({"measured": np.array([]), "printed": np.array([])}, "is empty"),
        (
            {"measured": np.float64(1), "printed": 1.0, "interval": (2.0, 0.0)},
            r"interval = \(2.0, 0.0\) is none: give \(low, high\)",
        ),
        ({"measured": np.float64(1), "printed": 1.0, "interval": (float("nan"), 2.0)}, "is none"),
        ({"measured": np.float64(1), "printed": 1.0, "interval": (0.0, 1.0, 2.0)}, "is no pair: give .* `ends`"),
        ({"measured": "1", "printed": 1.0}, "measured is of type str: give numbers"),
        ({"measured": [[1], [1, 2]], "printed": 1.0}, "measured is of type list: give numbers"),
        ({"measured": 1.0, "printed": "1"}, "the stated value is of type str: give numbers"),
        ({"measured": 1.0, "printed": 1.0, "rtol": -1}, "rtol = -1 is out of range"),
    ],
)
def test_bad_numbers(entry, numbers, message):
    with pytest.raises(ValueError, match=message):
        judge(entry(), **numbers)


def test_written_verdicts_and_unknown_ids_take_no_check(entry):
    with pytest.raises(ValueError, match="written with a reason"):
        judge(entry("noted", reason="a misprint"), measured=1, printed=1)
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
        ({"expected": "noted"}, "must say the `reason`"),
        ({"truth": "t"}, "say in `beyond`"),
        ({"short": "word " * 21}, "`short` has 21 words"),
        ({"margin": {"relative": 0.1}}, "must say its `reason`"),
        ({"margin": {"relative": 0.1, "absolute": 1.0, "reason": "r"}}, "give one of the two"),
        ({"margin": {"share": 0.1}}, "share"),
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
    claim, stated = entry("not reproduced", kind="empirical"), {"printed": 0.4, "true": 2.0, "relation": "<"}
    assert judge(claim, measured=0.5, interval=(0.0, 1.0), **stated, power=0.5).verdict == "open"
    assert judge(claim, measured=0.5, interval=(0.45, 1.0), **stated).verdict == "corrected"
    with pytest.raises(ValueError, match="lies outside its interval"):
        judge(claim, measured=500.0, interval=(0.0, 1.0), printed=0.4)


def test_a_box_says_whose_parameters_its_words_are_about(entry, monkeypatch):
    claim = entry(beyond="and more")
    assert "<strong>Beyond the claim, with the book's parameters.</strong>" in box.html(
        judge(claim, measured=2, here=2)
    )
    monkeypatch.setattr(page, "current", page.Page("x", True))
    assert "<strong>Beyond the claim.</strong>" in box.html(judge(claim, measured=2, here=2))


def test_a_line_unfolds_to_numbers_with_the_sign_between_them(entry):
    claim = entry("corrected")
    shown = box.html(judge(claim, measured={"a": 3, "b": 1}, printed={"a": 2, "b": 1}, true={"a": 3, "b": 1}))
    assert shown.startswith("<details class=") and " open>" not in shown
    assert '<span class="claim-decisive">3 ≠ 2, = 3</span></summary>' in shown
    assert "<tr><td>a</td><td>3</td><td>≠</td><td>2</td><td>=</td><td>3</td></tr>" in shown
    assert '<th scope="col">as printed</th>' in shown and "stated here" not in shown
    assert " open>" in box.html(judge(claim, measured=3, here=2, true=3, unfold=True))


def test_the_decisive_numbers_are_those_of_the_tightest_or_the_worst_case(entry):
    holds = {"measured": {"yes": True, "far": 1.0, "near": 3.9}, "here": {"yes": True, "far": 9.0, "near": 4.0}}
    assert judge(entry(), **holds, relation="<=").decisive == "3.9 ≤ 4"
    fails = {"measured": {"yes": True, "bad": 5.0, "worse": 7.0}, "here": {"yes": True, "bad": 4.0, "worse": 4.5}}
    assert judge(entry("refuted"), **fails, relation="<=").decisive == "7 ≰ 4.5"
    assert judge(entry(), measured=sum([1e-16, 2e-16]), here=0.0).decisive == "0 within 3e-16"
    assert judge(entry(), measured=np.eye(3), here=np.eye(3)).decisive == "9 entries equal"


def test_a_claim_is_said_in_a_line():
    words = " ".join(f"w{k}" for k in range(30))
    assert Claim("wu.x", "wu", "", "empirical", words, short="so").line == "so"
    assert Claim("wu.x", "wu", "", "empirical", words).line == " ".join(words.split()[:18]) + " …"
    formula = " ".join([*words.split()[:17], "$a", "b$", *words.split()[17:]])
    assert Claim("wu.x", "wu", "", "empirical", formula).line == " ".join(words.split()[:17]) + " …"
