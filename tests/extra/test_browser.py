"""The page in a browser: the Chromium of MLPASS_CHROMIUM, the system's, or playwright's own."""

from __future__ import annotations

import os
import shutil

import pytest

from mlpass.report.html import write_report
from tests.report.test_html import report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        try:
            path = os.environ.get("MLPASS_CHROMIUM") or shutil.which("chromium")
            chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"there is no Chromium: {error}")
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "report.html"
    write_report(report(), path)

    def opened(**options):
        page = browser.new_page(**options)
        page.problems = []
        page.on("console", lambda message: page.problems.append(message.text))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on(
            "request",
            lambda sent: (
                page.problems.append(sent.url)
                if not sent.url.startswith(("file:", "data:"))
                else None
            ),
        )
        page.goto(path.as_uri())
        return page

    return opened


def names(page):
    return page.eval_on_selector_all(
        "#configs tbody tr:not([hidden]) td:first-child", "all => all.map(one => one.textContent)"
    )


@pytest.mark.parametrize("width", [320, 375, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_any_width_and_asks_the_network_for_nothing(open_page, width, scheme):
    page = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.problems == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
    assert dark == (scheme == "dark")


def contrast(page, selector):
    """The contrast ratio of a text with the page, by the formula of WCAG 2."""

    def luminance(color):
        values = [int(v) / 255 for v in color[4:-1].split(",")]
        parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    script = "(s) => getComputedStyle(document.querySelector(s))"
    text = page.evaluate(
        f"s => ({script})(s).fill !== 'rgb(0, 0, 0)' && s.includes('text') "
        f"? ({script})(s).fill : ({script})(s).color",
        selector,
    )
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light, dark = sorted((luminance(text), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(open_page, scheme):
    page = open_page(color_scheme=scheme)
    for selector in ("h1", "figcaption", "td", "#trial-0 td", "svg text", "a[href]"):
        assert contrast(page, selector) >= 4.5, selector


def test_headers_sort_by_keyboard(open_page):
    page = open_page()
    first = names(page)
    page.focus("#configs th:nth-child(2) button")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert names(page) == [*reversed(first[:7]), "x"]  # what is not known stays last
    header = page.locator("#configs th:nth-child(2)")
    assert header.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Space")
    assert names(page) == first


def test_search(open_page):
    page = open_page()
    page.fill("#search-configs", "magnitude C3")
    assert names(page) == ["c3"]
    assert page.inner_text("#count-configs") == "1 of 8"
    page.fill("#search-configs", "")
    assert len(names(page)) == 8


def test_a_point_leads_to_its_row(open_page):
    page = open_page()
    page.focus("svg a[*|href='#trial-4']")
    page.keyboard.press("Enter")
    page.wait_for_url("**#trial-4", timeout=5000)
    assert page.evaluate("document.querySelector(':target').id") == "trial-4"
