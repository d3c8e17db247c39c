"""Plans: read from their files, told from malformed ones, and named by a digest of what was planned."""

from pathlib import Path

import pytest

from support.experiments import plans
from support.experiments.plans import PlanError
from support.experiments.runs import RunSpec

ROOT = Path(__file__).parents[2]
PLAN = """
question = "Is it so?"
claims = ["wu.fig1a"]
date = 2026-11-26
preset = "wu.fig1a"
scale = "smoke"
methods = ["GD", "SGD"]
seeds = [1, 2]
baseline = "SGD"
level = 0.05
correction = "None."
power = "Enough."

[[outcomes]]
name = "test_accuracy"
unit = "points"
test = "Student."
margin = 1.0
reason = "A point counts."

[queue]
order = 1
"""


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(PLAN, encoding="utf-8")
    return path


def changed(path, old, new):
    assert old in PLAN
    path.write_text(PLAN.replace(old, new), encoding="utf-8")
    return path


def test_a_plan_names_its_runs_seed_by_seed(plan):
    found = plans.read(plan)
    assert [(spec.seed, spec.method) for spec in found.runs()] == [(1, "GD"), (1, "SGD"), (2, "GD"), (2, "SGD")]
    assert found.name == "small" and found.date == "2026-11-26" and found.outcome("test_accuracy").margin == 1
    with pytest.raises(PlanError, match="no outcome 'speed': it has test_accuracy"):
        found.outcome("speed")
    assert found.holds(RunSpec("wu.fig1a", "smoke", "gd", 2))
    for other in (("wu.fig1a", "smoke", "GD", 3), ("wu.fig1a", "book", "GD", 1), ("wu.fig1a", "smoke", "MSGD-Cov", 1)):
        assert not found.holds(RunSpec(*other))
        assert plans.plan_of(RunSpec(*other), [found]) is None
    assert plans.plan_of(RunSpec("wu.fig1a", "smoke", "GD", 1), [found]) is found


def test_the_digest_is_of_what_was_planned_and_of_nothing_else(plan):
    first = plans.read(plan).digest
    lines = PLAN.strip().splitlines()
    moved = "\n".join(["# a remark", lines[1], lines[0], *lines[2:]]).replace("order = 1", "order = 7")
    plan.write_text(moved, encoding="utf-8")
    assert plans.read(plan).digest == first
    for old, new in (("margin = 1.0", "margin = 1.5"), ("seeds = [1, 2]", "seeds = [1, 2, 3]"), ("Is it", "Was it")):
        assert plans.read(changed(plan, old, new)).digest != first


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('power = "Enough."\n', "", "lacks or misspells power"),
        ('power = "Enough."', 'power = "Enough."\nspeed = 1', "lacks or misspells speed"),
        ('question = "Is it so?"', "question = 3", "question = 3: write a sentence"),
        ("date = 2026-11-26", 'date = "today"', "date = 'today' is no date"),
        ('preset = "wu.fig1a"', 'preset = "wu.fig9"', "no preset 'wu.fig9'"),
        ('scale = "smoke"', 'scale = "huge"', "no scale 'huge'"),
        ('methods = ["GD", "SGD"]', 'methods = ["GD", "Adam"]', "no method 'Adam'"),
        ('methods = ["GD", "SGD"]', "methods = []", r"methods = \[\]: give a list"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "each once"),
        ("seeds = [1, 2]", "seeds = [1, -2]", "a seed = -2 is out of range"),
        ("seeds = [1, 2]", "seeds = [1, 1.5]", "a seed = 1.5 is not an integer"),
        ('baseline = "SGD"', 'baseline = "Adam"', "no method 'Adam'"),
        ("level = 0.05", "level = 5", "level = 5 is out of range"),
        ("margin = 1.0", "margin = 0", "margin = 0 is out of range"),
        ('reason = "A point counts."\n', "", "margin without a reason"),
        ("order = 1", "orders = 1", "has no orders"),
        ("level = 0.05", "level = ", "cannot be read"),
    ],
)
def test_what_is_no_plan_is_refused_in_one_line(plan, old, new, message):
    with pytest.raises(PlanError, match=message) as refused:
        plans.read(changed(plan, old, new))
    assert str(plan) in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_plan_is_refused(tmp_path):
    with pytest.raises(PlanError, match="there is no plan"):
        plans.read(tmp_path / "none.toml")


def test_the_plans_of_the_book_in_the_order_of_their_worth():
    found = plans.read_all(ROOT / "notebooks" / "plans")
    assert [plan.name for plan in found][:2] == ["wu.fig1a.drawn", "wu.fig1a.drawn.more"]
    drawn = found[0]
    assert len(drawn.seeds) == 27 and len(drawn.methods) == 8 and drawn.outcome("test_accuracy").margin == 0.75
    setting = next(drawn.runs()).setting
    assert (setting.protocol, setting.pixels, setting.n, setting.b, setting.replace, setting.steps) == (
        *("paper", "raw", 1000),
        *(50, False, 2000),
    )
    runs = [spec for plan in found for spec in plan.runs()]
    assert len(set(runs)) == len(runs), "no run belongs to two plans"
