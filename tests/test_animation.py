"""A GIF that plays a given number of times, has its frames, and stands in the page with a still and an alternative
text.
"""

import base64
import io
import re

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from support import animation


def dot(frames, **options):
    fig, ax = plt.subplots(figsize=(2, 1), dpi=50)
    (mark,) = ax.plot([], [], "o", animated=True)
    ax.set(xlim=(0, 1), ylim=(0, 1))

    def draw(frame):
        mark.set_data([frame], [0.5])
        return [mark]

    return animation.gif(fig, draw, frames, **options)


def test_frames_times_and_plays():
    open_before = plt.get_fignums()
    moving, still = dot([0.1, 0.5, 0.9], seconds=0.2, rest=1.5, plays=3)
    film = Image.open(io.BytesIO(moving))
    assert (film.format, film.n_frames, film.size, film.info["loop"]) == ("GIF", 3, (100, 50), 2)
    pictures = []
    for k, milliseconds in enumerate([200, 200, 1500]):
        film.seek(k)
        assert film.info["duration"] == milliseconds
        pictures.append(film.convert("RGB").tobytes())
    assert len(set(pictures)) == 3
    assert Image.open(io.BytesIO(still)).size == (100, 50)
    assert plt.get_fignums() == open_before, "the figure is closed"


def test_once_means_no_loop():
    moving, _ = dot([0.1, 0.9], plays=1)
    assert "loop" not in Image.open(io.BytesIO(moving)).info


@pytest.mark.parametrize(
    ("frames", "plays", "message"), [([], 1, "frames are empty"), ([0.5], 0, "plays = 0 is out of range")]
)
def test_nothing_to_play_is_refused(frames, plays, message):
    with pytest.raises(ValueError, match=message):
        dot(frames, plays=plays)
    plt.close("all")


def test_the_page_gets_both_and_the_words():
    code = animation.html(b"moving", b"still", 'three "dots" <move>')
    assert 'alt="three &quot;dots&quot; &lt;move&gt;"' in code
    still, moving = (
        re.search(r"prefers-reduced-motion: reduce.*?base64,([^\"]+)", code)[1],
        re.search(r"image/gif;base64,([^\"]+)", code)[1],
    )
    assert (base64.b64decode(still), base64.b64decode(moving)) == (b"still", b"moving")
