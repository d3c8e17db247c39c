"""Trials: what is paired with what, levels that decide as Holm does, power by drawing."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from support.equivalence import holm, power
from support.errors import Refused
from support.intervals import student
from support.trials import Trial, detection, evidence, holm_levels, one_sided, points, steps_below


def planned(name, methods, seeds, asked, value):
    """Records of a plan as `recorded.planned` hands them out."""
    runs = {(m, s): {"final": {"test_accuracy": value(m, s)}} for m in methods for s in seeds}
    plan = SimpleNamespace(name=name, methods=methods, seeds=asked)
    return SimpleNamespace(plan=plan, runs=runs, seeds=[s for s in asked if all((m, s) in runs for m in methods)])


def value(method, seed):
    return 0.7 + 0.001 * seed + (0.01 * seed**2 if method == "SGD" else 0.0)


def test_a_trial_pairs_runs_of_one_seed_and_takes_partners_from_another_plan():
    ours = planned("few", ["GLD-diag"], [3, 5], [5, 3, 4], value)
    theirs = planned("all", ["SGD", "GD"], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], value)
    trial = Trial.of(ours, points, theirs)
    assert trial.seeds == (5, 3) and set(trial.values) == {"GLD-diag", "SGD", "GD"}
    assert trial.gap("SGD", "GD") == pytest.approx([100 * 0.01 * 25, 100 * 0.01 * 9])
    assert trial.mean("GLD-diag", "SGD", 0.9).ends == student([-25.0, -9.0], 0.9).ends
    short = planned("short", ["MSGD-Cov"], [5], [5], value)
    assert "MSGD-Cov" not in Trial.of(ours, points, theirs, short).values  # not on every seed


def test_too_few_seeds_and_unknown_methods_are_refused():
    with pytest.raises(Refused, match="plan one has 1 complete seeds, and an interval needs 2"):
        Trial.of(planned("one", ["SGD"], [1], [1, 2], value), points)
    trial = Trial.of(planned("two", ["SGD"], [1, 2], [1, 2], value), points)
    with pytest.raises(Refused, match="no method 'SDG': it has SGD"):
        trial.gap("SDG", "SGD")


def test_evidence_is_the_interval_that_decides_and_the_least_power():
    trial = Trial((1, 2, 3, 4), {"A": np.array([1.0, 2.0, 3.0, 4.5]), "B": np.array([1.0, 1.5, 3.5, 4.0])})
    d = trial.gap("A", "B")
    found = evidence({"about": trial.about("A", "B", 1.0, 0.1), "above": trial.above("A", "B", 0.25, 0.1)})
    assert found["interval"]["about"] == found["interval"]["above"] == student(d, 0.8).ends
    p = [stats.ttest_1samp(d, -1.0, alternative="greater").pvalue, stats.ttest_1samp(d, 1.0, alternative="less").pvalue]
    low, high = found["interval"]["about"]
    assert (max(p) < 0.1) == (low > -1.0 and high < 1.0)
    assert found["power"] == min(power(4, d.std(ddof=1), 1.0, 0.1), detection(4, d.std(ddof=1), 0.25, 0.1))


def test_scatter_of_none_and_scatter_beyond_all_have_their_power():
    same = Trial((1, 2, 3), {"A": np.array([2.0, 3.0, 4.0]), "B": np.array([1.5, 2.5, 3.5])})
    assert same.about("A", "B", 1.0).power == same.above("A", "B", 0.5).power == 1.0
    wild = Trial((1, 2, 3), {"A": np.array([-900.0, 0.0, 900.0]), "B": np.zeros(3)})
    assert 0 < wild.about("A", "B", 1.0).power < 1e-6


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.3))
def test_the_level_of_a_test_decides_as_holm_does(p, level):
    levels, adjusted = holm_levels(p, level), holm(p)
    if np.abs(adjusted - level).min() > 1e-9:
        assert ((np.array(p) <= levels) == (adjusted <= level)).all()
    assert (levels >= level / len(p)).all() and (levels <= level).all()


def test_a_one_sided_test_is_scipys_and_its_power_that_of_drawn_trials():
    d = np.random.default_rng(1).normal(0.3, 1.0, 12)
    assert one_sided(d, 0.1) == pytest.approx(stats.ttest_1samp(d, 0.1, alternative="greater").pvalue)
    drawn = np.random.default_rng(2).normal(0.5 + 0.2, 1.5, (20_000, 9))
    t = (drawn.mean(1) - 0.2) / (drawn.std(1, ddof=1) / 3)
    rate = np.mean(t > stats.t.isf(0.05, 8))
    assert detection(9, sigma=1.5, gap=0.5) == pytest.approx(rate, abs=0.01)
    shares = np.sqrt(stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, 8) / 8)  # of σ, that σ̂ is
    exact = stats.norm.sf(stats.t.isf(0.05, 8) * shares - 0.5 * 3 / 1.5).mean()
    assert detection(9, sigma=1.5, gap=0.5) == pytest.approx(exact, abs=1e-4)
    assert detection(9, sigma=1.5, gap=0.0) == pytest.approx(0.05)
    assert detection(9, sigma=0.0, gap=0.5) == detection(5, sigma=0.0, gap=3.0, level=0.004) == 1.0


def test_the_steps_to_a_loss_count_the_last_time_that_it_was_reached():
    curves = {"step": [0, 50, 100, 150, 200], "step_loss": [None, 1.0, 0.05, 1.0, 0.01]}
    between = 125 + 50 * np.log(10) / np.log(100)  # on a straight line of ln loss between the middles 125 and 175
    assert steps_below({"curves": curves}, 0.1) == pytest.approx(between)
    curves["step_loss"][-1] = 0.2
    assert steps_below({"curves": curves}, 0.1) == 200.0
