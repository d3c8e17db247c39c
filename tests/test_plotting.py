"""The figure helpers: labels that do not overlap, bands that are intervals."""

import matplotlib as mpl

mpl.use("Agg")
import numpy as np
import pytest
from matplotlib import pyplot as plt
from scipy import stats

from support import plotting
from support.sampling import NAMES


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


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


def colours_seen(kind):
    """The palette's colours in CIELAB as a reader sees them, by the simulation of Machado et al. (2009)."""
    simulated = {
        "normal": np.eye(3),
        "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.052]],
        "deuteranopia": [[0.3673, 0.8606, -0.228], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
        "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
    }[kind]
    colours = np.array([mpl.colors.to_rgb(colour) for colour in plotting.CLASS_COLOURS.values()])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = (linear @ np.transpose(simulated)).clip(0, 1) @ np.transpose(to_xyz) / (0.9505, 1, 1.089)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.transpose([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", ["normal", "protanopia", "deuteranopia", "tritanopia"])
def test_no_two_classes_look_alike_to_any_reader(kind):
    seen = colours_seen(kind)
    apart = np.linalg.norm(seen[:, None] - seen, axis=-1)[np.triu_indices(len(seen), 1)]
    assert apart.min() > 12, "a difference of 2 can just be seen, one of 10 at a glance"


def in_the_dark(colour):
    """What the filter of page.css, invert(93%) hue-rotate(180deg), makes of a colour."""
    inverted = 0.93 - 0.86 * np.array(mpl.colors.to_rgb(colour))
    grey = np.array([0.213, 0.715, 0.072])
    return (2 * grey @ inverted - inverted).clip(0, 1)


@pytest.mark.parametrize("colour", [*plotting.CLASS_COLOURS.values(), plotting.MUTED])
def test_lines_and_words_stand_out_on_both_pages(colour):
    light, dark = "white", in_the_dark("white")
    assert mpl.colors.to_hex(dark) == "#121212", "white becomes the dark page's own ground"
    words = plotting.readable(colour)
    assert plotting.contrast(colour, light) >= 3 and plotting.contrast(in_the_dark(colour), dark) >= 3
    assert plotting.contrast(words, light) >= 4.5 and plotting.contrast(in_the_dark(words), dark) >= 4.5


def test_a_figure_is_at_most_as_wide_as_the_column():
    fig, _ = plotting.figure(width=9.6)
    assert fig.get_size_inches()[0] * 96 == pytest.approx(704)


def test_long_titles_and_names_wrap_and_stay_inside():
    long = (
        "A finding that needs many words and a formula $a + b + c$ to be told in full, and then some more words still"
    )
    fig, axes = plotting.figure(1, 2, title=long, panels=(long, "short"))
    axes[0].set(xlabel=long, ylabel=long)
    for _ in range(2):  # a second drawing changes nothing
        fig.draw_without_rendering()
        for text in (fig._suptitle, axes[0]._left_title):
            lines = text.get_text().split("\n")
            assert len(lines) > 1 and " ".join(lines) == long and all(line.count("$") % 2 == 0 for line in lines)
        assert axes[0]._left_title.get_window_extent().x1 < axes[1].get_window_extent().x0
        for text in (fig._suptitle, axes[0].xaxis.label, axes[0].yaxis.label):
            box = text.get_window_extent()
            assert min(box.x0, box.y0) >= 0 and box.x1 <= fig.bbox.width and box.y1 <= fig.bbox.height
    assert axes[1]._left_title.get_text() == "short"


def test_more_panels_than_axes_are_refused():
    with pytest.raises(ValueError, match="2 panels are named, the figure has 1"):
        plotting.figure(panels=("a", "b"))


def test_a_geometric_mean_of_runs():
    _, ax = plotting.figure()
    runs = np.array([[1.0, 10.0], [100.0, 1000.0]])
    np.testing.assert_allclose(plotting.seeds(ax, [0, 1], runs, colour="black", geometric=True), [10, 100])
    np.testing.assert_allclose(plotting.seeds(ax, [0, 1], runs, colour="black"), runs.mean(0))
    with pytest.raises(ValueError, match="a geometric mean needs numbers above 0"):
        plotting.seeds(ax, [0, 1], runs - 1, colour="black", geometric=True)


def test_lines_are_labelled_where_they_leave_the_axes():
    _, ax = plotting.figure()
    ax.plot([0, 1, 2], [0, 1, 5], label="up", color=plotting.ORANGE)
    ax.plot([0, 1], [3, np.nan], label="early", color=plotting.INK)
    ax.plot([0, 2], [9, 9])
    ax.set(xlim=(0, 1.5), ylim=(0, 10))
    plotting.label_lines(ax)
    placed = {text.get_text(): text for text in ax.texts}
    assert {name: round(10 * text.get_position()[1], 9) for name, text in placed.items()} == {"up": 1, "early": 3}
    assert plotting.contrast(placed["up"].get_color()) >= 4.5
    with pytest.raises(ValueError, match="no curve has a label"):
        plotting.label_lines(plotting.figure()[1])


def test_small_multiples_repeat_the_method_behind():
    runs = {name: np.random.default_rng(k).random((3, 4)) for k, name in enumerate(("SGD", "GD", "MSGD-Cov"))}
    _, axes = plotting.multiples(range(4), runs, title="t", columns=2, xlabel="step")
    assert [ax.get_title(loc="left") for ax in axes] == ["GD", "MSGD-Cov"]
    for ax in axes:
        np.testing.assert_allclose(ax.lines[0].get_ydata(), runs["SGD"].mean(0))


def test_a_forest_shows_student_intervals_first_row_on_top():
    _, ax = plotting.figure()
    values = {"SGD": [1.0, 2.0, 4.0], "GD": [0.0, 1.0, 0.5]}
    found = plotting.forest(ax, values, test=0.9, margin=1.0)
    for name, observed in values.items():
        low, high = stats.t.interval(0.95, 2, loc=np.mean(observed), scale=stats.sem(observed))
        np.testing.assert_allclose(found[name].ends, (low, high))
    assert ax.get_ylim()[0] > ax.get_ylim()[1] and [t.get_text() for t in ax.get_yticklabels()] == ["SGD", "GD"]


def test_an_ellipse_holds_the_share_of_a_gaussian_that_its_deviations_say():
    covariance = np.array([[2.0, 1.0], [1.0, 1.0]])
    _, ax = plotting.figure()
    shape = plotting.ellipse(ax, covariance, (1.0, -1.0), deviations=2)
    points = np.random.default_rng(0).multivariate_normal((1, -1), covariance, 20_000)
    inside = shape.get_patch_transform().inverted().transform(points)
    assert np.mean((inside**2).sum(1) <= 1) == pytest.approx(1 - np.exp(-2), abs=0.01)
    assert plotting.ellipse(ax, [[1.0, 1.0], [1.0, 1.0]]).width == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="a variance is not negative"):
        plotting.ellipse(ax, [[-1.0, 0.0], [0.0, 1.0]])


def test_a_heat_map_is_white_at_zero_and_its_numbers_are_readable():
    _, ax = plotting.figure()
    image = plotting.heat(ax, [[0.0, 1.0], [-1.0, 0.5]], rows="ab", columns="cd")
    assert image.to_rgba(0.0) == pytest.approx((1, 1, 1, 1), abs=0.01)
    assert [text.get_text() for text in ax.texts] == ["0.00", "1.00", "−1.00", "0.50"]
    for text, value in zip(ax.texts, (0.0, 1.0, -1.0, 0.5), strict=True):
        assert plotting.contrast(text.get_color(), image.to_rgba(value)) >= 4.5
    with pytest.raises(ValueError, match="3 names came for 2"):
        plotting.heat(ax, [[1.0, 2.0]], columns="abc")


def test_a_barcode_counts_from_one_and_writes_no_zeros():
    _, ax = plotting.figure()
    weights = np.zeros((3, 40))
    weights[1, 4] = 2 / 3
    plotting.barcode(ax, weights, numbers=True)
    assert [text.get_text() for text in ax.texts] == ["2/3"] and ax.texts[0].get_position() == (4, 1)
    ticks = dict(zip(ax.get_xticks(), (text.get_text() for text in ax.get_xticklabels()), strict=True))
    assert ticks[4] == "5"
