"""The book's figure style: one palette, safe for colour-blind readers; a light card that stays readable on a dark page;
direct labels instead of legends.

Pages call `figure` for axes in the house style. A title states the finding; units stand on the axes; a band is an
interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib as mpl
import matplotlib.pyplot as plt

from support.errors import Refused, WrongType, array, instance, integer, real
from support.intervals import student

# Okabe and Ito's palette, in an order whose neighbours differ in lightness as well as hue
INK = "#1f2933"
MUTED = "#6b7785"
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#B79F00",
    "#7f8c99",
)
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, YELLOW, GREY)

# a noise class has one colour in the whole book
CLASS_COLOURS = {
    "GD": INK,
    "SGD": BLUE,
    "MSGD-Cov": VERMILION,
    "MSGD-Fisher": GREEN,
    "MSGD-Bernoulli": ORANGE,
    "M-SGD-Rademacher": PURPLE,
    "MSGD-[Fisher-B]": SKY,
    "MSGD-[Cov-B]": YELLOW,
    "[MSGD-Fisher]-B": GREY,
    "[MSGD-Cov]-B": "#8c4a2f",
}

_STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.12,
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "axes.grid": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "mathtext.fontset": "cm",
}


def figure(rows: int = 1, columns: int = 1, *, width: float = 8.0, height: float = 3.4, **options):
    """Figure and axes in the house style; width and height of the whole figure in inches, further options as
    `matplotlib.pyplot.subplots`. Raises WrongType for what are no counts or lengths, Refused for those out of range.

    >>> fig, (left, right) = figure(1, 2, width=6)
    >>> fig.get_size_inches().tolist()
    [6.0, 3.4]
    >>> plt.close()
    """
    rows, columns = integer("rows", rows, 1), integer("columns", columns, 1)
    width, height = real("width", width, above=0), real("height", height, above=0)
    mpl.rcParams.update(_STYLE)
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)


def band(ax, x, runs, *, colour, label=None, confidence: float = 0.95, **line):
    """Draw the mean over runs, shape (runs, len(x)), with its Student interval as a band (none for one run). Returns
    (mean, low, high).

    Raises WrongType for another type, Refused for runs of another shape, or none, NotFinite for numbers that are none.

    >>> mean, low, high = band(figure()[1], [0, 1], [[1.0, 2.0], [3.0, 2.0]], colour=BLUE)
    >>> mean.tolist(), bool(low[0] < 1 < high[0])
    ([2.0, 2.0], True)
    >>> plt.close()
    """
    _axes(ax)
    x = array("x", x, ("points",))
    runs = array("runs", runs)
    if runs.ndim != 2 or len(runs) == 0 or runs.shape[1] != len(x):
        raise Refused(
            f"runs have shape {runs.shape}: give one row a run, at least one, with a number for each of the {len(x)} "
            f"points x"
        )
    mean, low, high = student(runs, confidence) if len(runs) > 1 else (runs[0],) * 3
    if len(runs) > 1:
        ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.plot(x, mean, color=colour, label=label, **line)
    return mean, low, high


def _axes(ax):
    return instance("ax", ax, mpl.axes.Axes, "give the axes of a figure, as from plotting.figure()")


def label_ends(ax, labels, *, gap: float = 0.05, pad: float = 0.01):
    """Write labels at the right ends of curves, ``{text: (y, colour)}``, moved apart by at least ``gap`` of the axis
    height so that none overlap.

    Raises WrongType for another type, Refused for a label at a height that is not finite, or not positive on a
    logarithmic axis.

    >>> _, ax = figure()
    >>> label_ends(ax, {"a": (0.5, BLUE), "b": (0.5, INK)}, gap=0.1)
    >>> [round(float(text.get_position()[1]), 9) for text in ax.texts]
    [0.5, 0.6]
    >>> plt.close()
    """
    _axes(ax)
    gap, pad = real("gap", gap, 0), real("pad", pad)
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
    for k in reversed(
        range(len(heights))
    ):  # what was pushed over the top comes down, and pushes down only what is in its way
        heights[k] = min(heights[k], (heights[k + 1] if k + 1 < len(heights) else 1.0 + gap) - gap)
    for text, height in zip(order, heights, strict=True):
        ax.text(
            1 + pad, height, text, color=labels[text][1], transform=ax.transAxes, va="center", ha="left", fontsize=9
        )
