"""The calculator offline: its script's numbers against the package's, its controls in a browser."""

import json
import math
import re

import numpy as np
import pytest

from support import calculator
from support.book.form import chromium
from support.errors import Refused, WrongType
from support.strength import NAMES

SETTINGS = (
    {"lr": 0.5, "b": 8, "momentum": 0.0, "decay": 0.0, "d": 10, "power": 1.0},
    {"lr": 0.2, "b": 16, "momentum": 0.9, "decay": 0.1, "d": 7, "power": 0.5},
    {"lr": 1.2, "b": 40, "momentum": 0.3, "decay": -0.02, "d": 3, "power": 2.0},
    {"lr": 0.6, "b": 1, "momentum": 0.0, "decay": 0.4, "d": 1, "power": 0.0},
    {"lr": 0.05, "b": 300, "momentum": 0.97, "decay": 2.0, "d": 60, "power": 1.5},
)


def rows(page):
    body = page.split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body)]


def test_the_spectrum_has_a_signal_as_strong_as_the_noise():
    values, target = calculator.spectrum(5, 1.5)
    assert values == pytest.approx([i**-1.5 for i in range(1, 6)])
    assert np.sum(values * target**2) == pytest.approx(1)


def test_one_direction_is_the_closed_form():
    one = calculator.setting(0.5, 8, 0.0, 0.0, 1, 1.0)
    assert one.excess == pytest.approx(0.5 / (16 - 5) / 2)


def test_the_theories_stand_in_the_order_of_the_package():
    assert list(calculator.SHOWN) == [name for name in NAMES if name in calculator.SHOWN]


def test_the_page_is_offline_and_readable_without_a_script():
    page = calculator.calculator(0.5, 8, decay=0.1, d=4)
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\(|fetch\(|@[A-Z]+@", page)
    found, one = rows(page), calculator.setting(0.5, 8, 0.0, 0.1, 4, 1.0)
    assert [row[0] for row in found] == ["exact", *calculator.SHOWN]
    assert float(found[0][2]) == pytest.approx(one.excess, rel=5e-3)
    for row in found[1:]:
        assert float(row[3].replace("−", "-").rstrip(" %")) == pytest.approx(100 * one.misses[row[0]].loss, abs=0.51)
        guess = one.bias + (one.excess - one.bias) * (1 + one.misses[row[0]].loss)
        assert float(row[2]) == pytest.approx(guess, rel=5e-3)
    assert f"largest stable rate {one.largest_lr:.3g}" in page
    assert len(page) < 20_000


def test_first_values_are_cut_to_what_the_controls_reach():
    page = calculator.calculator(0.001, 1000, d=100)
    first = json.loads(re.search(r'class="data">(.*?)</script>', page).group(1))["first"]
    assert (first["lr"], first["b"], first["d"]) == (0.005, 512, 60)


def test_bad_input_is_one_clear_line():
    with pytest.raises(Refused, match=r"lr = 1\.9 is unstable"):
        calculator.calculator(1.9, 1)
    with pytest.raises(Refused, match="b = 0 is out of range"):
        calculator.calculator(0.1, 0)
    with pytest.raises(WrongType, match="key = 3"):
        calculator.calculator(key=3)
    with pytest.raises(Refused, match=r"power = -1\.0 is out of range"):
        calculator.spectrum(3, -1.0)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """The picture in a narrow window: opened, with what it complained of."""
    if chromium() is None:
        pytest.skip("no Chromium found: install it (Debian: apt-get install chromium) to test the picture in a browser")
    from playwright.sync_api import sync_playwright

    path = tmp_path_factory.mktemp("calculator") / "page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{calculator.calculator()}", encoding="utf-8")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(path.as_uri())
        yield page
        assert page.complaints == []
        browser.close()


def put(page, **values):
    """Move the controls as a reader does, and read the picture's numbers."""
    for name, value in values.items():
        place = math.log(value) if name in ("lr", "b") else value
        page.locator(f"input[name={name}]").evaluate(
            "(e, place) => { e.value = place; e.dispatchEvent(new Event('input', {bubbles: true})); }", place
        )
    return json.loads(page.evaluate("document.querySelector('.noise-calculator').dataset.numbers"))


@pytest.mark.parametrize("given", SETTINGS)
def test_the_scripts_numbers_are_the_packages(picture, given):
    found = put(picture, **given)
    one = calculator.setting(**{name: found[name] for name in given})
    assert found["stable"] and found["b"] == given["b"] and found["lr"] == pytest.approx(given["lr"])
    theories = found["theories"]
    assert theories["exact"] == pytest.approx([np.trace(one.covariance), one.excess], rel=1e-10)
    assert found["edge"] == pytest.approx(one.largest_lr, rel=1e-9)
    assert found["gain"] == pytest.approx(one.gain, rel=1e-9)
    assert found["smallest"] == one.smallest_b
    shown = {name for name in calculator.SHOWN if name in one.misses}
    assert set(theories) == {"exact", *shown}
    for name in shown:
        guess = one.bias + (one.excess - one.bias) * (1 + one.misses[name].loss)
        assert theories[name][1] == pytest.approx(guess, rel=1e-10)


def test_the_picture_says_what_it_shows(picture):
    put(picture, lr=0.1, b=16, momentum=0.0, decay=0.0, d=10, power=1.0)
    one = calculator.setting(0.1, 16, 0.0, 0.0, 10, 1.0)
    words = picture.inner_text(".words")
    assert f"Largest stable rate {one.largest_lr:.3g}" in words
    chosen = picture.inner_text("tr.chosen th")
    assert chosen in words and chosen == one.simplest("loss")
    assert words in picture.get_attribute("svg", "aria-label")
    assert picture.evaluate("document.scrollingElement.scrollWidth") <= 390
    picture.focus("input[name=d]")
    picture.keyboard.press("ArrowRight")
    assert put(picture)["d"] == 11


def test_what_does_not_settle_is_said(picture):
    found = put(picture, lr=1.9, b=1, momentum=0.0, decay=0.0, d=3, power=1.0)
    with pytest.raises(Refused) as caught:
        calculator.setting(1.9, 1, 0.0, 0.0, 3, 1.0)
    least = re.search(r"or b of at least (\d+)", str(caught.value)).group(1)
    assert not found["stable"] and f"a batch of at least {least}." in picture.inner_text(".words")
    put(picture, lr=2.5)
    assert "no batch helps" in picture.inner_text(".words")
    put(picture, lr=0.1, decay=-0.5)
    assert "pushes the flattest direction away" in picture.inner_text(".words")
    assert put(picture, decay=0.0, b=8)["stable"]


def test_without_a_script_the_table_stays(picture, tmp_path):
    page = picture.context.browser.new_context(java_script_enabled=False).new_page()
    page.goto(picture.url)
    assert page.is_visible("table") and not page.is_visible("form") and not page.is_visible("svg")
