"""The interactive picture offline: its numbers against fractions, its controls in a browser."""

import json
import re
import shutil
from fractions import Fraction

import pytest

from support import widget
from support.exact import recipes
from support.sampling import GaussianCovariance, MiniBatch

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def parts(page):
    data = json.loads(re.search(r'<script type="application/json" class="data">(.*?)</script>', page, re.S).group(1))
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page.split("<tbody>")[1].split("</tbody>")[0])
    ]
    return data, rows


def test_the_scripts_table_holds_the_formulas():
    data, _ = parts(widget.zoo(5, 2, 3, largest=6))
    for replace in (True, False):
        for n, b in ((3, 1), (4, 4), (5, 2), (6, 4)):
            laws = recipes.menagerie(n, b, widget.large_batch(n, b, 3), replace=replace)
            for law, row in zip(laws.values(), data["table"][str(int(replace))][str(n)][str(b)], strict=True):
                numbers = [Fraction(x) for x in row[3:6]]
                assert numbers == [law.covariance.diagonal, law.covariance.off_diagonal, law.covariance.total_variance]
                assert data["agreements"][row[7]] == recipes.agreement(law)
    assert data["how"] == [
        [r.pick, r.noise, r.centred] for r in map(recipes.recipe, recipes.menagerie(6, 2, 4).values())
    ]


def test_the_page_is_offline_and_readable_without_a_script():
    page = widget.zoo(7, 3, 5)
    assert (
        "http:" not in page
        and "https:" not in page
        and "//" not in re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    )
    assert not re.search(r"\bsrc=|\bhref=|@import|url\(|fetch\(|@[A-Z]+@", page)
    _, rows = parts(page)
    assert [row[0] for row in rows] == list(recipes.NAMES)
    assert rows[0][1:] == ["2/49", "−1/147", "0", "whole matrix"]
    assert len(page) < 120_000


def test_bad_input_is_one_clear_line():
    with pytest.raises(ValueError, match="largest = 2 is out of range: it leaves no choice of n"):
        widget.zoo(5, 2, 3, largest=2)
    with pytest.raises(ValueError, match="chosen = 'Cauchy' is unknown: choose SGD"):
        widget.zoo(7, 3, 5, chosen="Cauchy")


@pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium found: install it (Debian: apt-get install chromium) to test the picture in a browser",
)
def test_the_picture_follows_its_controls(tmp_path):
    from playwright.sync_api import sync_playwright

    path = tmp_path / "zoo.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{widget.zoo(7, 3, 5)}", encoding="utf-8")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        complaints = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        sgd = MiniBatch(7, 3).covariance
        assert f"diagonal {sgd.diagonal}" in page.inner_text(".words")
        # keys alone: one sample more, then the third class of the list
        page.focus("input[name=n]")
        page.keyboard.press("ArrowRight")
        assert f"diagonal {MiniBatch(8, 3).covariance.diagonal}," in page.inner_text(".words")
        page.focus("select[name=class]")
        page.keyboard.press("ArrowDown")
        assert page.inner_text(".words").startswith(
            "MSGD-Cov, n = 8, b = 3, B = 5: every weight has mean 1/8, diagonal "
        )
        page.select_option("select[name=way]", "0")
        law = GaussianCovariance(8, 3, replace=False).covariance
        assert f"diagonal {law.diagonal}, off the diagonal {law.off_diagonal}".replace("-", "−") in page.inner_text(
            ".words"
        )
        # a batch cannot outgrow the samples
        page.fill("input[name=b]", "8")
        page.fill("input[name=n]", "4")
        assert "n = 4, b = 4" in page.inner_text(".words")
        for name in recipes.NAMES:
            page.select_option("select[name=class]", name)
            page.click("button[name=again]")
            assert page.inner_text(".words").startswith(name)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
        assert complaints == []
        browser.close()
    # without a script the table stays and the controls do not show
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(path.as_uri())
        assert page.is_visible("table") and not page.is_visible("form")
        browser.close()
