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

from support.errors import Refused


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
    times and stops there. colours: size of the palette. Raises ValueError for no frames, or plays < 1.
    """
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    if not (frames := list(frames)) or plays < 1:
        raise Refused(f"{len(frames)} frames, plays = {plays}: an animation needs a frame and plays at least once")
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
    for reduced motion.
    """

    def uri(kind, content):
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

    return (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{uri("png", still)}">'
        f'<img src="{uri("gif", moving)}" alt="{escape.escape(alt)}" style="max-width: 100%; height: auto"></picture>'
    )
