"""The figure helpers: labels that do not overlap, bands that are intervals."""

import matplotlib as mpl

mpl.use("Agg")
import numpy as np
import pytest
from scipy import stats

from support import plotting
from support.sampling import NAMES


def heights(ax):
    return [text.get_position()[1] for text in ax.texts]


@pytest.mark.parametrize(
    "values", [[0.1, 0.5, 0.9], [0.97, 0.98, 0.99], [0.0, 0.01, 0.02], [0.5] * 5, [0.1, 0.11, 1.0]]
)
def test_labels_keep_their_distance_and_stay_inside(values):
    _, ax = plotting.figure()
    ax.set_ylim(0, 1)
    plotting.label_ends(ax, {str(k): (value, "black") for k, value in enumerate(values)}, gap=0.05)
    placed = sorted(heights(ax))
    assert max(placed) <= 1 + 1e-12
    assert min(np.diff(placed)) >= 0.05 - 1e-12


def test_a_label_with_room_stays_where_its_curve_ends():
    _, ax = plotting.figure()
    ax.set_ylim(0, 1)
    plotting.label_ends(ax, {"low": (0.2, "black"), "a": (0.99, "black"), "b": (0.98, "black")})
    assert heights(ax)[0] == pytest.approx(0.2)


def test_a_band_is_a_student_interval():
    _, ax = plotting.figure()
    runs = np.random.default_rng(0).standard_normal((6, 4))
    mean, low, high = plotting.band(ax, range(4), runs, colour="black")
    expected = stats.t.interval(0.95, 5, loc=runs.mean(0), scale=stats.sem(runs, axis=0))
    np.testing.assert_allclose([low, high], expected)
    np.testing.assert_allclose(mean, runs.mean(0))


@pytest.mark.parametrize("runs", [[1, 2], [], [[1, 2, 3]]])
def test_a_band_needs_runs_of_the_length_of_x(runs):
    _, ax = plotting.figure()
    with pytest.raises(ValueError, match="one row a run"):
        plotting.band(ax, [0, 1], runs, colour="black")


def test_heights_that_an_axis_does_not_have_are_refused():
    _, ax = plotting.figure()
    ax.set(yscale="log", ylim=(0.1, 10))
    plotting.label_ends(ax, {"one": (np.float32(1.0), "black")})
    assert heights(ax) == [pytest.approx(0.5)]
    for y in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match=r"the height of 'x' = .* is out of range: give a finite number above 0"):
            plotting.label_ends(ax, {"x": (y, "black")})


def test_every_noise_class_has_a_colour_of_its_own():
    colours = [plotting.CLASS_COLOURS[name] for name in NAMES]
    assert len(set(colours)) == len(NAMES)
