"""The zoo's recipes against the laws, exactly; the interactive picture offline, against fractions."""

import json
import re
import shutil
from fractions import Fraction

import numpy as np
import pytest

from support import widget
from support.sampling import GaussianCovariance, Law, MiniBatch

SIZES = [(3, 1, 2), (4, 2, 4), (5, 5, 5), (7, 3, 5), (9, 2, 3)]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(("n", "b", "B"), SIZES)
def test_recipes_have_the_mean_and_covariance_of_their_laws(n, b, B, replace):
    laws = widget.menagerie(n, b, B, replace=replace)
    assert len(laws) == 10
    for law in laws.values():
        recipe = widget.recipe(law)
        assert recipe.mean == law.mean
        assert recipe.covariance == law.covariance, law


def test_a_recipe_followed_by_hand_is_the_law():
    """Slots, floor and noise as the picture's script uses them: the sampler of the law has the same sets of zeros and of floors."""
    rng = np.random.default_rng(1)
    for law in widget.menagerie(7, 2, 3, replace=False).values():
        recipe, w = widget.recipe(law), law.sample(200, rng)
        if recipe.pick == "subset":
            assert set((w != float(recipe.floor)).sum(1)) == {recipe.size}
        if recipe.centred or (recipe.noise == "none" and recipe.pick != "coins"):
            np.testing.assert_allclose(w.sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("replace", [True, False])
def test_picks_are_all_of_them(replace):
    for law in widget.menagerie(5, 2, 3, replace=replace).values():
        recipe = widget.recipe(law)
        probabilities, counts = zip(*recipe.picks(), strict=True)
        assert sum(probabilities) == 1
        assert all(sum(p * c[i] for p, c in zip(probabilities, counts, strict=True)) == Fraction(recipe.size, 5) for i in range(5))
    recipe = widget.recipe(MiniBatch(4, 3, replace=replace))
    ours = {tuple(recipe.slot * c for c in counts): p for p, counts in recipe.picks()}
    theirs = {}
    for p, w in MiniBatch(4, 3, replace=replace).atoms():
        theirs[w] = theirs.get(w, 0) + p
    assert ours == theirs


def test_agreement_says_what_is_shared():
    shared = {name: widget.agreement(law) for name, law in widget.menagerie(7, 3, 5).items()}
    assert {name for name, what in shared.items() if what == "whole matrix"} == {"SGD", "MSGD-Cov", "MSGD-[Cov-5]", "[MSGD-Cov]-5"}
    assert shared["MSGD-Fisher"] == shared["[MSGD-Fisher]-5"] == "all but the sum"
    assert shared["MSGD-Bernoulli"] == shared["GD"] == "nothing"
    without = {name: widget.agreement(law) for name, law in widget.menagerie(7, 3, 5, replace=False).items()}
    assert (without["MSGD-Bernoulli"], without["MSGD-Fisher"], without["[MSGD-Fisher]-5"]) == ("diagonal only", "nothing", "all but the sum")


def parts(page):
    data = json.loads(re.search(r'<script type="application/json" class="data">(.*?)</script>', page, re.S).group(1))
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page.split("<tbody>")[1].split("</tbody>")[0])]
    return data, rows


def test_the_scripts_table_holds_the_formulas():
    data, _ = parts(widget.zoo(5, 2, 3, largest=6))
    for replace in (True, False):
        for n, b in ((3, 1), (4, 4), (5, 2), (6, 4)):
            laws = widget.menagerie(n, b, widget.large_batch(n, b, 3), replace=replace)
            for law, row in zip(laws.values(), data["table"][str(int(replace))][str(n)][str(b)], strict=True):
                numbers = [Fraction(x) for x in row[3:6]]
                assert numbers == [law.covariance.diagonal, law.covariance.off_diagonal, law.covariance.total_variance]
                assert data["agreements"][row[7]] == widget.agreement(law)
    assert data["how"] == [[r.pick, r.noise, r.centred] for r in map(widget.recipe, widget.menagerie(6, 2, 4).values())]


def test_the_page_is_offline_and_readable_without_a_script():
    page = widget.zoo(7, 3, 5)
    assert "http:" not in page and "https:" not in page and "//" not in re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r"\bsrc=|\bhref=|@import|url\(|fetch\(|@[A-Z]+@", page)
    _, rows = parts(page)
    assert [row[0] for row in rows] == list(widget.NAMES)
    assert rows[0][1:] == ["2/49", "−1/147", "0", "whole matrix"]
    assert len(page) < 120_000


def test_bad_input_is_one_clear_line():
    with pytest.raises(ValueError, match="chosen = 'Cauchy' is no class of the zoo"):
        widget.zoo(7, 3, 5, chosen="Cauchy")
    with pytest.raises(TypeError, match="Law has no recipe"):
        widget.recipe(Law(4, 2))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found: install it (Debian: apt-get install chromium) to test the picture in a browser")
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
        assert page.inner_text(".words").startswith("MSGD-Cov, n = 8, b = 3, B = 5: every weight has mean 1/8, diagonal ")
        page.select_option("select[name=way]", "0")
        law = GaussianCovariance(8, 3, replace=False).covariance
        assert f"diagonal {law.diagonal}, off the diagonal {law.off_diagonal}".replace("-", "−") in page.inner_text(".words")
        # a batch cannot outgrow the samples
        page.fill("input[name=b]", "8")
        page.fill("input[name=n]", "4")
        assert "n = 4, b = 4" in page.inner_text(".words")
        for name in widget.NAMES:
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
