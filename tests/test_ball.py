"""The interactive picture of a local complexity offline: its numbers by hand, its controls in a browser."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest

from support import ball
from support.exact.multipliers import batches, signs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KNOTS = np.array([-2.0, -0.5, 0.2, 1.0, 2.0])
LOSSES = np.abs(KNOTS[:, None] - np.array([-0.5, 0.2, 1.0])) * np.array([1.0, 0.5, 2.0])
GIVEN = KNOTS, LOSSES, 0.4, [0.1, 0.5, 1.5]


def page():
    return ball.picture(*GIVEN, {"signs": signs(3), "SGD": batches(3, 1)}, start=1)


def test_the_table_is_the_mean_over_signs_of_the_largest_value_on_a_grid():
    for delta, (with_it, without) in zip(GIVEN[3], ball.rising(*GIVEN, signs(3)), strict=True):
        at = np.union1d(np.linspace(0.4 - delta, 0.4 + delta, 2001), KNOTS[abs(KNOTS - 0.4) < delta])
        sums = np.array(list(itertools.product((-1, 1), repeat=3))) / 3
        sums = sums @ (np.abs(at - np.array([[-0.5], [0.2], [1.0]])) * np.array([[1.0], [0.5], [2.0]]))
        assert with_it == pytest.approx(abs(sums).max(1).mean(), abs=1e-12)
        assert without == pytest.approx(sums.max(1).mean(), abs=1e-12)


def test_the_page_is_offline_and_says_its_numbers_without_a_script():
    text = page()
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\(|fetch\(|@[A-Z]+@", text)
    data = json.loads(re.search(r'<script type="application/json" class="data">(.*?)</script>', text, re.S).group(1))
    with_it, without = ball.rising(*GIVEN, signs(3))[1]
    assert data["tables"][0][1] == pytest.approx([with_it, without], abs=1e-5)
    assert f"is {with_it:.3f}; without the absolute value, {without:.3f}." in text


def test_bad_input_is_one_clear_line():
    with pytest.raises(ValueError, match="2 radii do not rise"):
        ball.picture(*GIVEN[:3], [0.5, 0.5], {"signs": signs(3)})
    with pytest.raises(ValueError, match="noises are empty"):
        ball.picture(*GIVEN, {})
    with pytest.raises(ValueError, match="leaves the knots"):
        ball.rising(*GIVEN[:3], [3.0], signs(3))


@pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium found: install it (Debian: apt-get install chromium) to test the picture in a browser",
)
def test_the_picture_follows_its_controls(tmp_path):
    from playwright.sync_api import sync_playwright

    path = tmp_path / "ball.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{page()}", encoding="utf-8")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        shown = browser.new_page(viewport={"width": 390, "height": 800})
        complaints = []
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.goto(path.as_uri())
        shown.focus("input[name=radius]")
        shown.keyboard.press("ArrowRight")
        shown.select_option("select[name=noise]", "SGD")
        shown.click("button[name=again]")
        told = shown.inner_text(".words")
        assert "SGD; radius 1.5. For this V" in told and f"{ball.rising(*GIVEN, batches(3, 1))[2][0]:.3f};" in told
        # the largest value that the script finds is one that the package finds
        found = float(re.search(r"in the ball is ([0-9.]+)\. The", told).group(1))
        at = np.array([-1.1, *KNOTS[1:4], 1.9])
        losses = np.abs(at - np.array([[-0.5], [0.2], [1.0]])) * np.array([[1.0], [0.5], [2.0]])
        suprema = abs(batches(3, 1).values @ losses / 3).max(1)
        assert min(abs(suprema - found)) < 1e-3
        assert shown.evaluate("document.scrollingElement.scrollWidth") <= 390
        assert complaints == []
        browser.close()
