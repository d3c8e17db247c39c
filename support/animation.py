"""A short animation that plays offline: a GIF inside the page, with a still for readers who have asked their system for
less motion.

`gif` draws the frames, `html` embeds them. An animation never stands alone: a static figure beside it says the same in
print.
"""

from __future__ import annotations

import base64
import html as escape
import io
from collections.abc import Callable, Iterable

from support.errors import Refused, instance, integer, real


def gif(
    fig,
    draw: Callable,
    frames: Iterable,
    *,
    seconds: float = 0.12,
    rest: float = 3.0,
    plays: int = 2,
    colours: int = 48,
) -> tuple[bytes, bytes]:
    """Draw an animation; returns it as GIF, and its last frame as PNG. The figure is closed.

    draw: moves artists to a frame and returns them; they must have been made with ``animated=True``. The rest of the
    figure is drawn once. seconds: time of a frame, the last of which is held for ``rest`` seconds; it plays ``plays``
    times and stops there. colours: size of the palette. Raises WrongType for another type, Refused for no frames,
    plays < 1, or times and colours out of range.

    >>> import matplotlib.pyplot as plt
    >>> fig, ax = plt.subplots(figsize=(1, 1))
    >>> (dot,) = ax.plot([], [], "o", animated=True)
    >>> def draw(x):
    ...     dot.set_data([x], [0.5])
    ...     return [dot]
    >>> moving, still = gif(fig, draw, [0.2, 0.8])
    >>> moving[:3], still[1:4]
    (b'GIF', b'PNG')
    """
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    instance("fig", fig, Figure, "give a matplotlib figure")
    instance("draw", draw, Callable, "give a function of a frame that returns the artists it moved")
    seconds, rest = real("seconds", seconds, above=0), real("rest", rest, above=0)
    plays, colours = integer("plays", plays, 1), integer("colours", colours, 2, 256)
    if not (frames := list(instance("frames", frames, Iterable, "give the frames, such as range(10)"))):
        raise Refused("frames are empty: an animation needs one")
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    background, pictures = canvas.copy_from_bbox(fig.bbox), []
    for frame in frames:
        canvas.restore_region(background)
        for artist in draw(frame):
            fig.draw_artist(artist)
        pictures.append(Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB"))
    plt.close(fig)
    # one palette, so that what rests is the same in every frame and is not stored again; from the first and the last
    # frame, which together show every colour
    ends = Image.new("RGB", (pictures[0].width, 2 * pictures[0].height))
    ends.paste(pictures[0], (0, 0))
    ends.paste(pictures[-1], (0, pictures[0].height))
    palette = ends.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    times = [round(1000 * seconds)] * len(others) + [round(1000 * rest)]
    moving, still = io.BytesIO(), io.BytesIO()
    repeat = {"loop": plays - 1} if plays > 1 else {}
    first.save(moving, "GIF", save_all=True, append_images=others, duration=times, disposal=1, **repeat)
    pictures[-1].save(still, "PNG", optimize=True)
    return moving.getvalue(), still.getvalue()


def html(moving: bytes, still: bytes, alt: str) -> str:
    """HTML of an animation with its alternative text; browsers show the still instead where the reader's system asks
    for reduced motion. Raises WrongType for what are no bytes, or an alternative text that is none.

    >>> html(b"film", b"frame", "a dot moves")[-66:]
    'alt="a dot moves" style="max-width: 100%; height: auto"></picture>'
    """
    for name, content in (("moving", moving), ("still", still)):
        instance(name, content, bytes, "give what gif returns")
    instance("alt", alt, str, "say in words what the animation shows")

    def uri(kind, content):
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

    return (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{uri("png", still)}">'
        f'<img src="{uri("gif", moving)}" alt="{escape.escape(alt)}" style="max-width: 100%; height: auto"></picture>'
    )
