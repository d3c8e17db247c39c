"""The rendered book in a real browser, from disk and without a network: what a reader sees on a train.

Every page is opened twice, wide in the light and narrow in the dark, and everything is read from these two visits.
Needs a built book (`make book`) and Chromium; where either is missing the tests are skipped and say so.
"""

import functools
import http.server
import threading
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from support.book import form
from support.claims import load

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "_build" / "html"
PAGES = sorted(str(p.relative_to(BOOK)) for folder in ("book", "notebooks") for p in (BOOK / folder).rglob("*.html"))
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"]
ARGUMENTS += ["--disable-sync", "--disable-background-networking"]
VISITS = {"wide, light": (1300, "light"), "narrow, dark": (390, "dark")}

pytestmark = [
    pytest.mark.skipif(not PAGES, reason="no built book in _build/html: run `make book` first"),
    pytest.mark.skipif(
        form.chromium() is None,
        reason="no Chromium found: install it (Debian: apt-get install chromium) to test the book in a browser",
    ),
]

MATH_READY = "() => !window.MathJax?.startup || MathJax.startup.promise.then(() => true)"
# figures are lazy: wake them, then look; and open what is folded, so that all of the page is seen
WAKE = """async () => {
  for (const box of document.querySelectorAll('.bd-article details')) box.open = true;
  await Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode().catch(() => 0); }));
  await new Promise(done => setTimeout(done, 50));
}"""
# what a page shows that it should not, by kind; each list is empty on a good page
READ = r"""(wide) => {
  const article = document.querySelector('.bd-article'), all = what => [...article.querySelectorAll(what)];
  const said = e => `<${e.tagName.toLowerCase()} class="${e.className}"> ${(e.innerText || '').trim().slice(0, 60)}`;
  const seen = e => e.getClientRects().length > 0;

  // the contrast of every text with what lies behind it, by the formula of the web's accessibility guidelines
  const channel = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const parse = c => (c.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > .9) return c;
    }
    return [255, 255, 255];
  };
  const contrast = e => {
    const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  };
  const texts = 'p, li, td, th, h1, h2, h3, a, figcaption *, summary *, dt, dd, pre, pre span, .claim-box *';

  // what goes over the right edge of the column, and is not inside something that scrolls
  const overflow = (e, how) => how.test(getComputedStyle(e).overflowX);
  const scrolls = e => e && e !== article && (overflow(e, /auto|scroll/) || scrolls(e.parentElement));
  const right = Math.min(article.getBoundingClientRect().right, document.documentElement.clientWidth);
  const cut = e => seen(e) && e.getBoundingClientRect().right > right + 1 && !scrolls(e);
  const wider = e => e.clientWidth > 1 && e.scrollWidth > e.clientWidth + 1;
  const hidden = e => seen(e) && overflow(e, /hidden|clip/) && wider(e);
  const tables = '.ledger-table, .claim-numbers, .pst-scrollable-table-container';
  const source = all('p, li, td, th, figcaption').map(e => e.innerText).join('\n');
  return {
    'without contrast': all(texts)
      .filter(e => seen(e) && (e.innerText || '').trim() && !e.closest('mjx-container') && contrast(e) < 4.5)
      .map(e => `${contrast(e).toFixed(1)}: ${said(e)}`),
    'goes over the edge': all('p, li, table, pre, figure, img, mjx-container, h1, h2, h3').filter(cut).map(said),
    'cut off': all('p, div, td, figure, pre').filter(hidden).map(said),
    'table that scrolls on a wide page': wide ? all(tables).filter(wider).map(said) : [],
    'page that scrolls sideways': [document.scrollingElement].filter(wider).map(e => e.scrollWidth),
    'formula not typeset': all('.math').filter(e => !e.querySelector('mjx-container')).map(said),
    'formula with an error': all('mjx-merror').map(e => e.textContent),
    'formula that stands as source': source.match(/\\\(|\\\[|\$\$|\\mathbb|\\frac/g) || [],
    'image that does not load': [...document.images].filter(i => !i.naturalWidth).map(i => i.src),
    'image without alternative text': all('img').filter(i => (i.alt || '').length < 20).map(i => i.src),
  };
}"""
# axe reads every element, and most are glyphs of formulas and of highlighted code, which are not the book's to make;
# claims of the ledger are written by one function, so that some of them stand for all. Contrast has been read above.
AXE = """async () => {
  for (const e of document.querySelectorAll('.bd-article mjx-container')) e.replaceWith('x');
  for (const e of document.querySelectorAll('.bd-article pre')) e.textContent = e.textContent;
  [...document.querySelectorAll('.ledger-claim')].slice(40).forEach(e => e.remove());
  const rules = { 'color-contrast': { enabled: false } };
  const found = await axe.run('.bd-article', { resultTypes: ['violations'], preload: false, elementRef: false, rules });
  return found.violations.filter(v => /serious|critical/.test(v.impact)).map(v => `${v.id}: ${v.nodes[0].html}`);
}"""


def axe() -> str:
    folder = find_spec("axe_playwright_python").submodule_search_locations[0]
    return (Path(folder) / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=form.chromium(), args=ARGUMENTS)
        yield browser
        browser.close()


class Visit:
    """One opened page, with every request and complaint it made."""

    def __init__(self, browser, address: str, width: int = 1300, scheme: str = "light"):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.requests, self.complaints = [], []
        # a request to a host is recorded and refused: the book is read with the network off
        self.context.route(
            lambda url: urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname != "127.0.0.1",
            lambda route: route.abort(),
        )
        self.context.set_default_timeout(120_000)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "console", lambda message: self.complaints.append(message.text) if message.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address, wait_until="load")
        self.page.wait_for_function(MATH_READY)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def foreign_requests(self):
        return [url for url in self.requests if urlsplit(url).scheme not in ("file", "data", "blob", "about")]


def address(page: str) -> str:
    return (BOOK / page).as_uri()


@pytest.mark.parametrize("visit", VISITS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole_quiet_and_readable(chromium, page, visit):
    width, scheme = VISITS[visit]
    with Visit(chromium, address(page), width, scheme) as opened:
        assert opened.page.evaluate("document.documentElement.dataset.theme") == scheme
        height = opened.page.evaluate("document.querySelector('.bd-article').getBoundingClientRect().height")
        opened.page.evaluate(WAKE)
        found = opened.page.evaluate(READ, width == 1300)
        found |= {"complaint": opened.complaints, "request to a host": opened.foreign_requests()}
        opened.page.evaluate(axe())
        found["axe"] = opened.page.evaluate(AXE)
        notebook = BOOK.parent / "executed" / Path(page).relative_to(Path(page).parts[0]).with_suffix(".ipynb")
        if notebook.is_file() and width == 1300:
            found["beyond the form"] = form.form(notebook, round(height)).failures
    assert {what: items for what, items in found.items() if items} == {}


def test_what_is_folded_opens_by_keyboard(chromium):
    page = next(page for page in PAGES if 'details class="admonition hide' in (BOOK / page).read_text(encoding="utf-8"))
    with Visit(chromium, address(page)) as visit:
        mark = visit.page.locator("details.hide > summary").first
        assert mark.inner_text().strip() or mark.get_attribute("aria-label")
        box = mark.bounding_box()
        assert box["width"] < 60 and box["height"] < 40, "a small mark, no bar"
        mark.focus()
        visit.page.keyboard.press("Enter")
        assert visit.page.evaluate("document.querySelector('details.hide').open")


def served():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(BOOK)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize("how", ["from disk", "served"])
def test_search_finds_a_word(chromium, how):
    server = served() if how == "served" else None
    try:
        base = f"http://127.0.0.1:{server.server_port}/" if server else BOOK.as_uri() + "/"
        with Visit(chromium, base + "search.html?q=replacement") as visit:
            # results are shown one after another, and the first link to appear may be another page's
            assert visit.page.wait_for_selector("#search-results li a[href*=sampling_noise]")
    finally:
        if server:
            server.shutdown()


def test_the_ledgers_filter_works(chromium):
    with Visit(chromium, address("book/ledger.html")) as visit:
        assert visit.page.evaluate("document.querySelectorAll('[id^=claim-]').length") == len(load())


def anchors_and_links(page: Path) -> tuple[set[str], list[str]]:
    from html.parser import HTMLParser

    ids, links = set(), []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            given = dict(attributes)
            ids.update(filter(None, (given.get("id"), given.get("name") if tag == "a" else None)))
            if tag == "a" and given.get("href"):
                links.append(given["href"])

    Reader().feed(page.read_text(encoding="utf-8"))
    return ids, links


def test_links_between_pages_and_anchors_resolve():
    known = functools.cache(lambda path: anchors_and_links(path)[0])
    broken = []
    for name in PAGES:
        page = BOOK / name
        for link in anchors_and_links(page)[1]:
            target, anchor = urldefrag(link)
            if urlsplit(target).scheme or target.startswith("//"):
                continue
            path = (page.parent / unquote(urlsplit(target).path)).resolve() if target else page.resolve()
            if not path.exists():
                broken.append(f"{name}: {link} leads nowhere")
            elif anchor and path.suffix == ".html" and unquote(anchor) not in known(path):
                broken.append(f"{name}: {link} has no such anchor")
    assert broken == []
