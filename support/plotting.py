"""What the book's figures are made of, one function for each thing they share; the house style is `support.style`'s.

Curves are labelled where they end, a band or a bar is an interval, a title states the finding, units stand on the axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import matplotlib as mpl
import numpy as np
from matplotlib.patches import Ellipse

from support.errors import Refused, WrongType, array, boolean, instance, integer, real
from support.intervals import Interval, student
from support.style import (
    BLUE,
    CLASS_COLOURS,
    COLUMN,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PALETTE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    class_colour,
    contrast,
    figure,
    known_colour,
    readable,
)

__all__ = [
    "BLUE",
    "CLASS_COLOURS",
    "COLUMN",
    "GREEN",
    "GREY",
    "INK",
    "MUTED",
    "ORANGE",
    "PALETTE",
    "PURPLE",
    "SKY",
    "VERMILION",
    "YELLOW",
    "band",
    "barcode",
    "class_colour",
    "contrast",
    "ellipse",
    "figure",
    "forest",
    "heat",
    "label_ends",
    "label_lines",
    "multiples",
    "note",
    "readable",
    "seeds",
]

SIGNED = mpl.colors.LinearSegmentedColormap.from_list("signed", (VERMILION, "white", BLUE))


def _axes(ax):
    return instance("ax", ax, mpl.axes.Axes, "give the axes of a figure, as from plotting.figure()")


# --- curves and their labels ------------------------------------------------------------------------------------------


def band(ax, x, runs, *, colour, label=None, confidence: float = 0.95, **line):
    """Draw the mean over runs, shape (runs, len(x)), with its Student interval as a band (none for one run). Returns
    (mean, low, high).

    Raises WrongType for another type, Refused for runs of another shape, or none, NotFinite for numbers that are none.

    >>> mean, low, high = band(figure()[1], [0, 1], [[1.0, 2.0], [3.0, 2.0]], colour=BLUE)
    >>> mean.tolist(), bool(low[0] < 1 < high[0])
    ([2.0, 2.0], True)
    >>> mpl.pyplot.close()
    """
    x, runs = _runs(ax, x, runs)
    mean, low, high = student(runs, confidence) if len(runs) > 1 else (runs[0],) * 3
    if len(runs) > 1:
        ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.plot(x, mean, color=colour, label=label, **line)
    return mean, low, high


def seeds(ax, x, runs, *, colour, label=None, geometric: bool = False, **line):
    """Draw every run, shape (runs, len(x)), as a thin line and their mean as a thick one: for few runs, or such as one
    band would hide. geometric: the mean of the logarithms, for what spreads over decades. Returns the mean. Raises as
    `band`, and Refused for a geometric mean of numbers that are not positive.

    >>> seeds(figure()[1], [0, 1], [[1.0, 2.0], [4.0, 2.0]], colour=BLUE, geometric=True).tolist()
    [2.0, 2.0]
    >>> mpl.pyplot.close()
    """
    x, runs = _runs(ax, x, runs)
    if boolean("geometric", geometric) and runs.min() <= 0:
        raise Refused(f"a run goes down to {runs.min():g}: a geometric mean needs numbers above 0")
    mean = np.exp(np.log(runs).mean(0)) if geometric else runs.mean(0)
    if len(runs) > 1:
        ax.plot(x, runs.T, color=colour, lw=0.7, alpha=0.45)
    ax.plot(x, mean, color=colour, label=label, **line)
    return mean


def _runs(ax, x, runs):
    _axes(ax)
    x, runs = array("x", x, ("points",)), array("runs", runs)
    if runs.ndim != 2 or len(runs) == 0 or runs.shape[1] != len(x):
        raise Refused(
            f"runs have shape {runs.shape}: give one row a run, at least one, with a number for each of the {len(x)} "
            f"points x"
        )
    return x, runs


def label_ends(ax, labels, *, gap: float | None = None, pad: float = 0.01):
    """Write labels at the right ends of curves, ``{text: (y, colour)}``, moved apart by at least ``gap`` of the axis
    height (default: a line of text) so that none overlap.

    Raises WrongType for another type, Refused for a label at a height that is not finite, or not positive on a
    logarithmic axis.

    >>> _, ax = figure()
    >>> label_ends(ax, {"a": (0.5, BLUE), "b": (0.5, INK)}, gap=0.1)
    >>> [round(float(text.get_position()[1]), 9) for text in ax.texts]
    [0.5, 0.6]
    >>> mpl.pyplot.close()
    """
    _axes(ax)
    line = 9 * 1.4 * ax.figure.dpi / 72  # pixels
    gap, pad = line / ax.get_window_extent().height if gap is None else real("gap", gap, 0), real("pad", pad)
    for text, label in instance("labels", labels, Mapping, "give {text: (y, colour)}").items():
        if not isinstance(label, tuple) or len(label) != 2:
            raise WrongType(f"label {text!r} is {label!r}: give (y, colour)")
        floor = 0.0 if ax.get_yscale() == "log" else None
        real(f"the height of {text!r}", label[0], above=floor)
    low, high = ax.get_ylim()
    log = ax.get_yscale() == "log"
    place = (lambda y: math.log(y / low) / math.log(high / low)) if log else (lambda y: (y - low) / (high - low))
    order = sorted(labels, key=lambda text: labels[text][0])
    heights = [place(labels[text][0]) for text in order]
    for k in range(1, len(heights)):
        heights[k] = max(heights[k], heights[k - 1] + gap)
    # what was pushed over the top comes down, and pushes down only what is in its way
    for k in reversed(range(len(heights))):
        heights[k] = min(heights[k], (heights[k + 1] if k + 1 < len(heights) else 1.0 + gap) - gap)
    for text, height in zip(order, heights, strict=True):
        ax.text(
            1 + pad,
            height,
            text,
            color=readable(labels[text][1]),
            transform=ax.transAxes,
            va="center",
            ha="left",
            fontsize=9,
        )


def label_lines(ax, *, gap: float | None = None):
    """Write the label of every curve, ``ax.plot(…, label=…)``, at its right end, in its colour: instead of a legend.
    Call it when the axes have their final limits and scales. Raises as `label_ends`, Refused where no curve has one.

    >>> _, ax = figure()
    >>> _ = ax.plot([0, 1], [0, 2], label="steep", color=BLUE), ax.plot([0, 1], [0, 1], label="flat", color=INK)
    >>> label_lines(ax)
    >>> [text.get_text() for text in ax.texts]
    ['flat', 'steep']
    >>> mpl.pyplot.close()
    """
    low, high = sorted(_axes(ax).get_xlim())
    ends = {}
    for line in ax.lines:
        x, y = (np.asarray(values, float) for values in line.get_data(orig=False))
        shown = np.flatnonzero((low <= x) & (x <= high) & np.isfinite(y))
        if not str(line.get_label()).startswith("_") and len(shown):
            ends[line.get_label()] = (y[shown[np.argmax(x[shown])]], line.get_color())
    if not ends:
        raise Refused("no curve has a label: draw it with ax.plot(…, label=…)")
    label_ends(ax, ends, gap=gap)


def note(ax, text: str, at, *, offset=(5, 5), colour=MUTED, **options):
    """Write a note beside the point ``at``, ``offset`` points to the right and above, in the colour of what it speaks
    of.

    >>> note(figure()[1], "the noise ends here", (0.5, 0.5), ha="right").get_fontsize()
    9.0
    >>> mpl.pyplot.close()
    """
    instance("text", text, str, "give a few words")
    return _axes(ax).annotate(
        text,
        array("at", at, (2,)),
        array("offset", offset, (2,)),
        textcoords="offset points",
        **{"color": readable(colour), "fontsize": 9} | options,
    )


def multiples(x, runs: Mapping, *, title: str, columns: int = 3, behind: str | None = "SGD", **axes_options):
    """Small multiples: a panel a method with the band of its runs, shape (runs, len(x)), on common axes; the curve of
    ``behind`` is repeated in all of them. Returns figure and axes. Further options as `matplotlib.axes.Axes.set`.

    Raises as `figure` and `band`.

    >>> two = {"SGD": [[1.0, 2.0], [3.0, 2.0]], "GD": [[1.0, 1.0], [1.0, 1.0]]}
    >>> fig, (ax,) = multiples([0, 1], two, title="They differ", columns=1, xlabel="step")
    >>> ax.get_title(loc="left"), len(ax.lines)
    ('GD', 2)
    >>> mpl.pyplot.close()
    """
    names = [name for name in instance("runs", runs, Mapping, "give {method: its runs}") if name != behind]
    columns = min(integer("columns", columns, 1), len(names))
    rows = -(-len(names) // columns)
    fig, axes = figure(rows, columns, title=title, height=0.5 + 2 * rows, sharex=True, sharey=True, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        for one in (behind, name) if behind in runs else (name,):
            band(ax, x, runs[one], colour=class_colour(one), lw=1.5)
        ax.set(**axes_options)
        ax.set_title(name, color=readable(class_colour(name)), fontsize=10)
        ax.label_outer()
    for ax in axes.flat[max(len(names) - columns, 0) : len(names)]:  # nothing stands below
        ax.tick_params(labelbottom=True)
        ax.set(xlabel=axes_options.get("xlabel", ""))
    for ax in axes.flat[len(names) :]:
        ax.remove()
    return fig, axes.ravel()[: len(names)]


# --- intervals, clouds, matrices --------------------------------------------------------------------------------------


def forest(ax, rows: Mapping, *, confidence: float = 0.95, test: float | None = None, margin: float | None = None):
    """One row a name, the first on top: a dot an observation, and the Student interval of their mean as a bar. Returns
    {name: interval}.

    rows: {name: observations}, or {name: `Interval`}.  confidence: of the thin bar.  test: the confidence of a thick
    bar under it, of the interval that decides (0.9 for two one-sided tests at level 0.05).  margin: shades ±margin.
    Raises WrongType, and as `support.intervals.student`.

    >>> found = forest(figure()[1], {"MSGD-Cov": [0.5, 1.5, 1.0], "GD": [-3.0, -4.0, -3.5]}, margin=2)
    >>> f"{found['GD']:.1f}"
    '-3.5 [-4.7, -2.3]'
    >>> mpl.pyplot.close()
    """
    _axes(ax)
    names = list(instance("rows", rows, Mapping, "give {name: observations}"))
    if margin is not None:
        ax.axvspan(-real("margin", margin, above=0), margin, color=GREY, alpha=0.18, lw=0)
        ax.axvline(0, color=MUTED, lw=1)
    found = {}
    for y, name in enumerate(names):
        colour, given = class_colour(name), rows[name]
        found[name] = given if isinstance(given, Interval) else student(given, confidence)
        ax.plot(found[name].ends, [y, y], color=colour, lw=1.3)
        ax.plot(found[name].value, y, "|", color=colour, ms=14, mew=2.5)
        if not isinstance(given, Interval):
            ax.plot(given, np.full(len(given), y - 0.22), "o", color=colour, ms=4, mfc="white")
            if test is not None:
                ax.plot(student(given, test).ends, [y, y], color=colour, lw=5, alpha=0.4, solid_capstyle="butt")
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.6))
    ax.tick_params(axis="y", length=0)
    for text, name in zip(ax.get_yticklabels(), names, strict=True):
        text.set_color(readable(class_colour(name)))
    return found


def ellipse(ax, covariance, centre=(0.0, 0.0), *, deviations: float = 2.0, colour=INK, fill: bool = False, **patch):
    """Draw the ellipse ``{x : (x − centre)ᵀ C⁻¹ (x − centre) = deviations²}`` of a covariance C, shape (2, 2), maybe
    singular. Returns it. Raises WrongType, NotFinite, and Refused for another shape or a negative variance.

    >>> shape = ellipse(figure()[1], [[4.0, 0.0], [0.0, 1.0]])
    >>> round(shape.width), round(shape.height)
    (4, 8)
    >>> mpl.pyplot.close()
    """
    covariance = array("covariance", covariance)
    if covariance.shape != (2, 2):
        raise Refused(f"covariance has shape {covariance.shape}: give one of two variables, shape (2, 2)")
    sizes, directions = np.linalg.eigh((covariance + covariance.T) / 2)
    if sizes[0] < -1e-9 * abs(sizes[1]):
        raise Refused(f"covariance has the eigenvalue {sizes[0]:.3g}: a variance is not negative")
    angle = math.degrees(math.atan2(directions[1, 0], directions[0, 0]))
    face = mpl.colors.to_rgba(known_colour("colour", colour), 0.25) if boolean("fill", fill) else "none"
    shape = Ellipse(
        array("centre", centre, (2,)),
        *(2 * real("deviations", deviations, above=0) * np.sqrt(sizes.clip(0))),
        angle=angle,
        **{"fc": face, "ec": colour, "lw": 1.5} | patch,
    )
    _axes(ax).add_patch(shape)
    return shape


def heat(ax, matrix, *, rows=None, columns=None, form: str | None = ".2f", top: float | None = None):
    """A matrix as a heat map with its numbers: white is 0, blue positive, red negative. Returns the image.

    rows, columns: names of its rows and columns.  form: the numbers' format, "" as they are (fractions), None for no
    numbers.  top: the value of full colour (default: the largest entry). Raises WrongType, NotFinite, and Refused for
    what is no matrix, or names of another number.

    >>> from fractions import Fraction
    >>> _, ax = figure()
    >>> _ = heat(ax, [[Fraction(2, 3), Fraction(-1, 3)]], columns=("a", "b"), form="")
    >>> [text.get_text() for text in ax.texts]
    ['2/3', '−1/3']
    >>> mpl.pyplot.close()
    """
    values = array("matrix", matrix, ("rows", "columns"))
    if not values.size:
        raise Refused(f"matrix has shape {values.shape}: give rows and columns")
    if form is not None:
        instance("form", form, str, "give a format such as '.2f', '' for the entries as they are, or None")
    top = abs(values).max() or 1.0 if top is None else real("top", top, above=0)
    image = _axes(ax).imshow(values, cmap=SIGNED, vmin=-top, vmax=top, aspect="auto")
    for (i, j), entry in np.ndenumerate(np.array(matrix, dtype=object)) if form is not None else ():
        text = (str(entry) if form == "" else format(values[i, j], form)).replace("-", "−")
        _inside(image, i, j, text)
    for names, axis, count in ((rows, ax.yaxis, len(values)), (columns, ax.xaxis, values.shape[1])):
        if names is not None and len(names) != count:
            raise Refused(f"{len(names)} names came for {count} rows or columns: give one each")
        axis.set_ticks([] if names is None else range(count), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def _inside(image, i: int, j: int, text: str) -> None:
    """Write a text into cell (i, j) of an image, in black or white, whichever is easier to read there."""
    cell = image.to_rgba(image.get_array()[i, j])
    ink = max((INK, "white"), key=lambda colour: contrast(cell, colour))
    image.axes.text(j, i, text, ha="center", va="center", fontsize=9, color=ink)


def barcode(ax, weights, *, unit: float | None = None, numbers: bool = False):
    """Steps of an algorithm as a barcode: a row a step, a column a sample, ink the weight W_i of the sample in that
    step (red where it is negative). Returns the image.

    weights: shape (steps, n).  unit: the weight of full ink (default: the largest).  numbers: writes the weights that
    are not 0, as fractions. Raises as `heat`.

    >>> image = barcode(figure()[1], [[1 / 3, 2 / 3, 0.0], [0.0, 1 / 3, 2 / 3]], numbers=True)
    >>> [text.get_text() for text in image.axes.texts]
    ['1/3', '2/3', '1/3', '2/3']
    >>> mpl.pyplot.close()
    """
    image = heat(ax, weights, form=None, top=unit)
    values = np.asarray(image.get_array())
    for i, j in np.argwhere(values) if boolean("numbers", numbers) else ():
        _inside(image, i, j, str(Fraction(float(values[i, j])).limit_denominator(1000)).replace("-", "−"))
    steps, n = values.shape
    for axis, count in ((ax.yaxis, steps), (ax.xaxis, n)):
        every = 1 if count <= 12 else 5 * -(-count // 50)
        axis.set_ticks(range(every - 1, count, every), range(every, count + 1, every))
    ax.set(xlabel="sample", ylabel="step")
    ax.spines[["left", "bottom"]].set_visible(True)
    return image
