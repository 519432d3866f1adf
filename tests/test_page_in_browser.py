"""The HTML page in a browser: from disk, on a phone and on a desk, by mouse and by keyboard, for every reader."""

import shutil
from pathlib import Path

import pytest

from tests.tspbench.page.made_up import TAC, TSP, dense_run, made_up_run
from tspbench.page.build import write_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")
WIDTHS = (390, 1440)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    runs = [made_up_run(folder / "first"), made_up_run(folder / "second", more=1)]
    return write_page(runs, folder / "report.html")


@pytest.fixture(scope="module")
def dense_page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    return write_page([dense_run(folder / "run")], folder / "report.html")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as library:
        # Chromium's own sandbox does not start as root, which builds often run as.
        opened = library.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, page_file):
    """Return a function that opens the page; at the end nothing may have been complained of or asked for."""
    said, contexts = [], []

    def open_page(width=1440, scheme="light", file=page_file, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways(opened, width, scheme):
    page = opened(width, scheme)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "[...document.querySelectorAll('table')].filter(t => t.scrollWidth > t.closest('.scroll').clientWidth).length"
    )
    assert (width == 1440) or wide > 0  # there are tables that scroll in their own place
    unreachable = "[...document.querySelectorAll('.scroll')].filter(e => e.tabIndex !== 0).length"
    assert page.evaluate(unreachable) == 0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_no_fault(opened, width, scheme):
    assert faults(opened(width, scheme)) == []


def test_axe_finds_no_fault_in_long_videos(opened, dense_page_file):
    page = opened(390, file=dense_page_file)
    assert faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def faults(page):
    """Return what axe finds when everything is opened."""
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    # The page's policy forbids foreign scripts; what the browser is told to evaluate is not one.
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [(fault["id"], fault["impact"], fault["nodes"][0]["html"][:200]) for fault in found]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_segment_is_seen(opened, dense_page_file, width):
    page = opened(width, file=dense_page_file)
    bars = "[...document.querySelectorAll('.video:not(.unchosen) .line rect')]"
    widths = page.evaluate(f"{bars}.map(bar => bar.getBoundingClientRect().width)")
    assert len(widths) == 200 + 8 * 40
    assert min(widths) > 1.9


@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_is_cut_off(opened, page_file, dense_page_file, width):
    for file in (page_file, dense_page_file):
        page = opened(width, file=file)
        outside = "[...document.querySelectorAll('.track p')].filter(p => p.scrollWidth > p.clientWidth).length"
        assert page.evaluate(outside) == 0
        over = """[...document.querySelectorAll('.line text')].filter(text => text.getClientRects().length
            && text.getBoundingClientRect().right > text.previousElementSibling.getBoundingClientRect().right).length"""
        assert page.evaluate(over) == 0
        assert file != page_file or page.locator(".line text:visible").count() == 2  # "even" fits on both
        notes = "[...document.querySelectorAll('.charts + .note')].map(n => [n, n.previousElementSibling])"
        gaps = page.evaluate(f"{notes}.map(([n, c]) => n.offsetTop - c.offsetTop - c.offsetHeight)")
        assert len(gaps) > 0
        assert min(gaps) >= 0
    # A long name is wrapped, so that the numbers need not be scrolled to.
    wide = "[...document.querySelectorAll('.block .scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert width < 1440 or page.evaluate(wide) == 0


def test_rows_are_hidden_and_shown(opened):
    page = opened()
    box = page.get_by_label(TSP, exact=True)
    number = box.get_attribute("data-toggle")
    drawn = page.locator(f'main [data-row="{number}"]:visible')
    before = drawn.count()
    assert before > 10
    box.uncheck()
    assert drawn.count() == 0
    assert page.locator("table", has_text=TSP).first.is_visible()  # tables keep every row
    box.focus()
    page.keyboard.press("Space")
    assert drawn.count() == before
    assert page.get_by_label(TAC, exact=True).is_checked()


def test_a_video_is_chosen(opened):
    page = opened()
    first = page.locator("#videos-1")
    assert first.locator("figure.video:visible h4").all_inner_texts() == ["v2"]
    first.get_by_role("button", name="v3").click()
    assert first.locator("figure.video:visible h4").all_inner_texts() == ["v3"]
    assert first.get_by_role("button", name="v3").get_attribute("aria-pressed") == "true"
    assert page.locator("#videos-2 figure.video:visible h4").all_inner_texts() == ["v2"]
    first.get_by_role("button", name="all").click()
    assert first.locator("figure.video:visible").count() == 3
    assert first.locator("img:visible").evaluate_all("every => every.every(e => e.naturalWidth > 0)")


def test_a_run_is_chosen(opened):
    page = opened()
    assert page.locator("section.run:visible").count() == 2
    page.get_by_label("Run", exact=True).select_option(label="second")
    assert page.locator("section.run:visible > h2").all_inner_texts()[0].startswith("second")
    assert page.locator("section.run:visible").count() == 1
    page.get_by_label("Run", exact=True).select_option(label="all")
    assert page.locator("section.run:visible").count() == 2


def test_a_theme_is_chosen_and_remembered(opened):
    page = opened(scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark
    assert page.get_by_role("button", name="Dark").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Auto").click()
    assert page.evaluate(ground) == light


def test_the_keyboard_reaches_the_results_first(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")


def test_without_scripts_everything_is_shown(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("figure.video:visible").count() == 7
    assert page.locator("section.run:visible").count() == 2
    assert page.locator(".controls:visible, .choose:visible").count() == 0


def test_in_print_nothing_is_cut_off(opened):
    page = opened(scheme="dark")
    page.emulate_media(media="print")
    assert page.locator("figure.video:visible").count() == 7
    assert page.locator(".side:visible").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_the_page_is_small(page_file):
    assert page_file.stat().st_size < 3_000_000
