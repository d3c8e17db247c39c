"""The rendered book in a real browser, from disk and without a network: what a reader sees on a train.

Needs a built book (`make book`) and Chromium; where either is missing the tests are skipped and say so.
"""

import functools
import http.server
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

BOOK = Path(__file__).parents[2] / "_build" / "html"
PAGES = sorted(str(p.relative_to(BOOK)) for folder in ("book", "notebooks") for p in (BOOK / folder).rglob("*.html"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
ARGUMENTS += ["--disable-background-networking"]

pytestmark = [
    pytest.mark.skipif(not PAGES, reason="no built book in _build/html: run `make book` first"),
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="no Chromium found: install it (Debian: apt-get install chromium) to test the book in a browser",
    ),
]

# the contrast of every text with the colour behind it, by the formula of the web's accessibility guidelines; returns
# what falls below the limit
LOW_CONTRAST = """(limit) => {
  const channel = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const parse = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > .9) return c;
    }
    return [255, 255, 255];
  };
  const low = [], texts = ['p', 'li', 'td', 'th', 'h1', 'h2', 'a', 'pre span', '.claim-box *'];
  for (const e of document.querySelectorAll(texts.map(t => '.bd-article ' + t).join())) {
    if (!e.innerText || !e.innerText.trim() || !e.getClientRects().length || e.closest('mjx-container')) continue;
    const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const what = `<${e.tagName.toLowerCase()} class="${e.className}"> ${e.innerText.slice(0, 40)}`;
    if (contrast < limit) low.push(`${contrast.toFixed(1)}: ${what}`);
  }
  return low;
}"""
MATH_READY = """() => !document.querySelector('.math')
  || (window.MathJax && MathJax.startup && MathJax.startup.promise.then(() => true))"""


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Visit:
    """One opened page, with every request and complaint it made."""

    def __init__(self, browser, address: str, width: int = 1280, scheme: str = "light"):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.requests, self.complaints = [], []
        # a request to a host is recorded and refused: the book is read with the network off
        self.context.route(
            lambda url: urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname != "127.0.0.1",
            lambda route: route.abort(),
        )
        self.context.set_default_timeout(60_000)
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


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_from_disk_whole_and_quietly(chromium, page):
    with Visit(chromium, address(page)) as visit:
        assert visit.foreign_requests() == []
        assert visit.complaints == []
        # every formula is typeset, none with an error
        source = "[...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container'))"
        source += ".map(e => e.textContent.slice(0, 60))"
        assert visit.page.evaluate(source) == []
        assert visit.page.evaluate("[...document.querySelectorAll('mjx-merror')].map(e => e.textContent)") == []
        # a formula that was not recognised would stand as source in the text; in code it may
        text = "[...document.querySelectorAll('.bd-article :is(p, li, td, th, figcaption)')]"
        text += ".map(e => e.innerText).join('\\n')"
        assert visit.page.evaluate(text + r".match(/\\\(|\\\[|\$\$|\\mathbb|\\frac/g)") is None
        # figures are lazy: wake them, then look
        visit.page.evaluate(
            "Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode().catch(() => 0); }))"
        )
        assert visit.page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)") == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.startswith("notebooks/")])
def test_every_figure_has_alternative_text(chromium, page):
    with Visit(chromium, address(page)) as visit:
        bare = visit.page.evaluate(
            "[...document.querySelectorAll('.bd-article img')].filter(i => (i.alt || '').length < 20).map(i => i.src)"
        )
        assert bare == []
        assert visit.page.evaluate("document.querySelectorAll('.bd-article img').length") >= 2


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable(chromium, page, scheme):
    with Visit(chromium, address(page), scheme=scheme) as visit:
        assert visit.page.evaluate("document.documentElement.dataset.theme") == scheme
        assert visit.page.evaluate(LOW_CONTRAST, 4.0) == []


@pytest.mark.parametrize("page", PAGES)
def test_no_sideways_scroll_on_a_phone(chromium, page):
    with Visit(chromium, address(page), width=390) as visit:
        too_wide = visit.page.evaluate("document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth")
        assert too_wide <= 0


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
        assert visit.page.evaluate("document.querySelectorAll('[id^=claim-]').length") == 406


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
