"""The site, built from the stored outputs: its links, that it needs no network, that everybody can read it."""

import re
import runpy
import warnings
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
PAGES = ["index", *(path.stem for path in NOTEBOOKS), "glossary"]
LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}
CHECKED = ["index", "01_serialise_causal_lm", "13_your_model", "glossary"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("myst_nb", reason="myst-nb is not installed")
    pytest.importorskip("sphinx_book_theme", reason="sphinx-book-theme is not installed")
    tools = runpy.run_path(str(ROOT / "tools" / "workbook.py"))
    folder = tmp_path_factory.mktemp("site")
    tools["gather"](folder / "source")
    with warnings.catch_warnings(action="ignore"):  # the theme calls what a later Sphinx will not have
        tools["build"](folder / "source", folder / "html")
    return folder / "html"


class Page(HTMLParser):
    """What a page links to and loads, the ids in it, and the text that is folded."""

    def __init__(self, path):
        super().__init__()
        self.path, self.links, self.loaded, self.ids, self.folded = path, [], [], set(), ""
        self._details = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        if tag == "details":
            self._details.append("open" not in attributes)
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        for name, value in attributes.items():
            if (tag, name) in LOADED and attributes.get("rel") != "canonical":
                self.loaded.append(value)

    def handle_endtag(self, tag):
        if tag == "details":
            self._details.pop()

    def handle_data(self, data):
        if any(self._details):
            self.folded += data


@pytest.fixture(scope="module")
def pages(site):
    return {path.name: Page(path) for path in site.glob("*.html")}


def test_every_notebook_has_a_page_with_its_number_and_title(site):
    for path in NOTEBOOKS:
        title = nbformat.read(path, 4).cells[0].source.splitlines()[0].removeprefix("# ")
        head = re.search(r"<title>(.*?)</title>", (site / f"{path.stem}.html").read_text(), re.S)[1]
        assert f"{path.name[:2]} {title.split('`')[0]}"[:40] in head


def test_every_page_is_in_the_sidebar_of_the_first(pages):
    for name in PAGES[1:]:
        assert f"{name}.html" in pages["index.html"].links


def test_links_and_what_is_loaded_lead_to_files_and_headings(site, pages):
    for page in pages.values():
        for link in {*page.links, *page.loaded}:
            if re.match(r"https?://|data:|mailto:", link):
                continue
            target, _, anchor = unquote(link).partition("#")
            path = site / target.partition("?")[0] if target else page.path
            assert path.exists(), f"{page.path.name}: {link}"
            if anchor and path.suffix == ".html":
                assert anchor in pages[path.name].ids, f"{page.path.name}: {link}"


def test_nothing_is_loaded_from_elsewhere(pages):
    for page in pages.values():
        assert [link for link in page.loaded if re.match(r"(https?:)?//", link)] == [], page.path.name


def test_solutions_are_folded_with_what_they_print(pages):
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, 4).cells:
            if "solution" in cell.metadata.get("tags", []):
                folded = pages[f"{path.stem}.html"].folded
                printed = "".join(output.get("text", "") for output in cell.outputs).strip()
                for text in (cell.source.splitlines()[0], printed.splitlines()[-1] if printed else ""):
                    assert text in folded, path.name


def test_pictures_have_words(site):
    for page in site.glob("*.html"):
        for alt in re.findall(r'<img alt="([^"]*)"', page.read_text()):
            assert alt and not alt.endswith(".png"), page.name


def test_a_downloaded_notebook_is_the_notebook(site):
    for path in NOTEBOOKS:
        assert (site / "_sources" / path.name).read_bytes() == path.read_bytes()
        assert f'href="_sources/{path.name}"' in (site / f"{path.stem}.html").read_text()


@pytest.fixture
def visit(site, browser):
    """Open a page of the site from the disk, in a window of its own; what it asked for and complained about."""
    opened = []

    def visit(name, width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.append(page)
        page.set_default_timeout(120_000)
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and page.complaints.append(said.text))
        page.goto((site / name).as_uri() if "?" not in name else f"{site.as_uri()}/{name}")
        page.wait_for_timeout(500)  # what scripts ask for once the page is there
        return page

    yield visit
    for page in opened:
        page.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_wide_and_narrow_windows_and_asks_nothing_of_the_network(visit, name):
    page = visit(f"{name}.html")
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        outside = page.evaluate(
            """[...document.querySelectorAll('article pre, article table, article img')].filter(e => {
                const inside = e.closest('.highlight, .output, .cell_output, .pst-scrollable-table-container') || e;
                return e.getClientRects().length && inside.getBoundingClientRect().right > innerWidth + 1;
            }).map(e => e.outerHTML.slice(0, 80))"""
        )
        assert outside == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    assert page.complaints == []


def test_search_finds_pages_without_a_server(visit):
    page = visit("search.html?q=mapping")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li a").count() >= 2
    assert page.complaints == []


def test_the_dark_theme_is_chosen_by_a_button_and_stays(visit):
    page = visit("index.html")
    page.get_by_role("button", name="Color mode").click()
    page.get_by_role("button", name="Dark").click()
    page.wait_for_function("document.documentElement.dataset.theme == 'dark'")
    page.wait_for_timeout(1000)  # the browser hands what a page stores to its other processes a moment later
    page.get_by_role("link", name="Glossary").first.click()
    page.wait_for_url("**/glossary.html")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
@pytest.mark.parametrize("name", CHECKED)
def test_axe_finds_nothing_serious(visit, name, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    page = visit(f"{name}.html", width, scheme)
    found = axe.run(page).response["violations"]
    serious = {
        each["id"]: [node["html"][:150] for node in each["nodes"][:3]]
        for each in found
        if each["impact"] in ("serious", "critical")
    }
    assert serious == {}
