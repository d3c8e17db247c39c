"""The style of the book's figures: the palette, and axes as wide as the article's column under a title that states the
finding.

The palette can be told apart by colour-blind readers and stays so when the book's dark mode turns lightness round;
`readable` darkens a colour for words. Pages find all this in `support.plotting`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.layout_engine import ConstrainedLayoutEngine

from support.errors import Refused, WrongType, instance, integer, real

COLUMN = 704 / 96  # inches: the article's column is 704 pixels wide at a window of 1300

# any two differ, for readers of every kind of colour vision; each stands 3:1 or more from the page, light and dark
INK = "#1f2933"
MUTED = "#5f6b78"
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, GREY = (
    "#0b4f9e",
    "#d28100",
    "#00744a",
    "#b03000",
    "#ac66b0",
    "#1499ee",
    "#9e8e47",
    "#848d97",
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
    "[MSGD-Cov]-B": "#5a2410",
}

_STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.06,
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "axes.grid": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "mathtext.fontset": "cm",
}


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    title: str = "",
    panels: Sequence[str] = (),
    width: float = COLUMN,
    height: float = 3.4,
    **options,
):
    """Figure and axes in the house style.

    title: the finding, in a sentence.  panels: what each of the axes shows, row by row.  width, height: of the whole
    figure in inches; what is wider than the column is made as wide as it.  Further options as
    `matplotlib.pyplot.subplots`. Titles and labels that are longer than their place wrap. Raises WrongType for what are
    no counts, lengths or texts, Refused for those out of range.

    >>> fig, (left, right) = figure(1, 2, title="Two are more than one", panels=("one", "two"), width=6)
    >>> fig.get_size_inches().tolist(), right.get_title(loc="left")
    ([6.0, 3.4], 'two')
    >>> plt.close()
    """
    rows, columns = integer("rows", rows, 1), integer("columns", columns, 1)
    width, height = min(real("width", width, above=0), COLUMN), real("height", height, above=0)
    if isinstance(panels, str) or not isinstance(panels, Sequence) or not all(isinstance(name, str) for name in panels):
        raise WrongType(f"panels = {panels!r} are no texts: give one name for each of the axes")
    if len(panels) > rows * columns:
        raise Refused(f"{len(panels)} panels are named, the figure has {rows * columns}: give one name each")
    mpl.rcParams.update(_STYLE)
    fig, axes = plt.subplots(rows, columns, figsize=(width, height), layout=_Layout(), **options)
    if instance("title", title, str, "state the finding in a sentence"):
        fig.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11.5)
    for ax, name in zip(np.ravel(axes), panels, strict=False):
        ax.set_title(name, fontweight="normal", fontsize=10)
    return fig, axes


class _Layout(ConstrainedLayoutEngine):
    """Constrained layout that first wraps the figure's title, the axes' titles and the names of the axes."""

    def execute(self, fig):
        if fig._suptitle:
            _wrap(fig._suptitle, 0.98 * fig.bbox.width)
        for _ in range(2):  # what wraps makes room for the axes, which changes their boxes
            boxes = {ax: ax.get_window_extent() for ax in fig.axes}
            for ax, box in boxes.items():
                # a title may reach to the next panel on its right
                right = min((other.x0 for other in boxes.values() if other.x0 > box.x1), default=fig.bbox.width)
                for title in (ax.title, ax._left_title, ax._right_title):
                    _wrap(title, 0.95 * (right - box.x0))
                _wrap(ax.xaxis.label, 1.1 * box.width)
                _wrap(ax.yaxis.label, 1.1 * box.height)
            super().execute(fig)


def _wrap(text, room: float) -> None:
    """Break a text into lines that are at most ``room`` pixels long, between words and never within a formula."""
    whole, wrapped = getattr(text, "_whole", ("", ""))
    whole = whole if text.get_text() == wrapped else text.get_text()
    renderer, font = text.figure._get_renderer(), text.get_fontproperties()

    def long(line):
        return renderer.get_text_width_height_descent(line, font, mpl.cbook.is_math_text(line))[0] > room

    lines = []
    for line in whole.split("\n"):
        lines.append("")
        for word in re.findall(r"(?:\$[^$]*\$|[^\s$])+", line) if long(line) else [line]:
            if lines[-1] and long(f"{lines[-1]} {word}"):
                lines.append(word)
            else:
                lines[-1] = f"{lines[-1]} {word}".strip()
    text.set_text("\n".join(lines))
    text._whole = whole, text.get_text()


# --- colours ----------------------------------------------------------------------------------------------------------


def known_colour(name: str, colour):
    """The colour, if matplotlib knows it. Raises WrongType.

    >>> known_colour("colour", BLUE)
    '#0b4f9e'
    """
    if not mpl.colors.is_color_like(colour):
        raise WrongType(f"{name} = {colour!r} is no colour: give one such as plotting.BLUE")
    return colour


def contrast(first, second="white") -> float:
    """How far two colours stand apart, from 1 to 21, by the formula of the web's accessibility guidelines: words need
    4.5, lines 3. Raises WrongType for what is no colour.

    >>> contrast("black"), round(contrast(BLUE), 1)
    (21.0, 8.0)
    """
    light = [0.0, 0.0]
    for k, colour in enumerate((first, second)):
        channels = np.array(mpl.colors.to_rgb(known_colour("colour", colour)))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        light[k] = float(linear @ (0.2126, 0.7152, 0.0722))
    return (max(light) + 0.05) / (min(light) + 0.05)


def readable(colour) -> str:
    """A colour of the palette as words need it: darkened until it stands 4.5:1 from white. Raises WrongType.

    >>> readable(BLUE) == BLUE, contrast(ORANGE) < 4.5 <= contrast(readable(ORANGE))
    (True, True)
    """
    colour = mpl.colors.to_hex(known_colour("colour", colour))
    while contrast(colour) < 4.5:
        colour = mpl.colors.to_hex(0.97 * np.array(mpl.colors.to_rgb(colour)))
    return colour


def class_colour(method: str) -> str:
    """The colour that a noise class has in the whole book, whatever its large batch; `INK` for what is no class.

    >>> class_colour("MSGD-[Fisher-10]") == SKY
    True
    """
    name = re.sub(r"-\d+(\]?)$", r"-B\1", instance("method", method, str, "give the name of a noise class"))
    return CLASS_COLOURS.get(name, INK)
