"""The page in a browser: the Chromium of MLPASS_CHROMIUM, the system's, or playwright's own."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from itertools import combinations

import pytest

from mlpass.report.comparison import OutputRecord
from mlpass.report.front import with_front
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


def trials():
    """Those of the report, with commands, and one as far off as zeros."""
    found = report().trials
    numbered = [replace(t, command=f"mlpass prune /m/{t.name}.mlpackage") for t in found[:7]]
    errors = replace(found[1], name="c0", layer_errors=(0.001,), command=None)
    below = OutputRecord("y", -4.0, 1.0, 1.0, 0.125)
    failed = replace(found[7], failed=f"a reason {'which goes on ' * 9}{'and_on' * 40}")
    bad = replace(found[0], name="bad", outputs=(below,))
    return with_front([*numbered, failed, errors, bad])


@pytest.fixture
def open_page(browser, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "report.html"

    def opened(swept=None, **options):
        swept = swept or replace(report(), trials=trials())
        write_report(replace(swept, command=f"mlpass sweep {path}"), path, force=True)
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
        "#configs tbody tr:not([hidden]) td:first-child",
        "all => all.map(one => one.firstChild.data.trim())",
    )


@pytest.mark.slow_but_every(6)
@pytest.mark.parametrize("width", [320, 390, 1280])
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


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(open_page, scheme):
    page = open_page(color_scheme=scheme)
    for selector in ("h1", "#verdict", "figcaption", "#trial-0 td", ".mark", "svg text", "a[href]"):
        assert contrast(page, selector) >= 4.5, selector


def test_headers_sort_by_keyboard(open_page):
    page = open_page()
    first = names(page)
    page.focus("#configs th:nth-child(2) button")
    page.keyboard.press("Enter")
    assert sorted(names(page)[:-1]) == sorted(first[:-1])
    assert names(page)[0] == "c7"
    assert names(page)[-1] == "x, admm"  # what is not known stays last
    header = page.locator("#configs th:nth-child(2)")
    assert header.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Space")
    assert names(page) == first


def test_search(open_page):
    page = open_page()
    page.fill("#search-configs", "C3 300")
    assert names(page) == ["c3"]
    assert page.inner_text("#count-configs") == "1 of 10"
    page.fill("#search-configs", "")
    assert len(names(page)) == 10


def test_a_point_leads_to_its_row(open_page):
    page = open_page()
    page.focus(".wide svg a[*|href='#trial-4']")
    page.keyboard.press("Enter")
    page.wait_for_url("**#trial-4", timeout=5000)
    assert page.evaluate("document.querySelector(':target').id") == "trial-4"


SCREENS = [(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")]


@pytest.mark.slow_but_every(6)
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_what_matters_is_on_the_screen(open_page, width, scheme):
    page = open_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert page.locator("#verdict").bounding_box()["y"] < 300
    for column in range(1, 5):  # config, size, SNR, top-1
        box = page.locator(f"#trial-1 td:nth-child({column})").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    valued = [replace(one, value=0.1) for one in trials()]
    swept = replace(report(), trials=with_front(valued), value_before=0.9)
    page_of_values = open_page(swept, viewport={"width": width, "height": 844}, color_scheme=scheme)
    box = page_of_values.locator("#trial-1 td:nth-child(5)").bounding_box()  # top-1, again
    assert box["x"] + box["width"] <= width
    figures = [one for one in page.locator("svg.figure").all() if one.is_visible()]
    assert len(figures) == 1
    section = page.locator("section").first.bounding_box()["width"]
    assert figures[0].bounding_box()["width"] == pytest.approx(section)


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_verdict_is_the_tables(open_page, width, scheme):
    page = open_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    claims = page.locator("#verdict span").all()
    assert len(claims) == 3
    for claim in claims:
        row = page.locator(claim.locator("a").get_attribute("href")).locator("td")
        name, size, snr, top1 = (row.nth(column).inner_text() for column in range(4))
        wanted = f": {snr} dB, top-1 {top1} ({name.splitlines()[0].strip()}, {size})"
        assert wanted in " ".join(claim.inner_text().split())


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("width", [390, 1280])
def test_no_name_of_a_point_is_on_another(open_page, width):
    page = open_page(viewport={"width": width, "height": 844})
    boxes = page.evaluate(
        """() => [...document.querySelectorAll("svg.figure text")]
          .filter(one => /^(c\\d|bad)$/.test(one.textContent.trim()))
          .map(one => one.getBoundingClientRect()).filter(box => box.width > 0)
          .map(box => [box.left, box.top, box.right, box.bottom])"""
    )
    assert len(boxes) >= 6
    for one, other in combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_all_is_reached_by_keyboard_in_order(open_page, width, scheme):
    page = open_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if reached[-1] == "copy":
            break
    order = [reached.index(name) for name in ("search-configs", "picked", "copy")]
    assert order == sorted(order)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_another_config_is_picked_by_keyboard(open_page):
    page = open_page()
    assert page.locator("#layers tbody tr").count() == 1
    assert page.input_value("#picked") == page.locator("#picked [selected]").get_attribute("value")
    page.select_option("#picked", "2")
    assert page.inner_text("#command") == "mlpass prune c3.mlpackage"
    error = page.locator("#layers [data-cell=error]")
    assert error.inner_text().strip() == "0.25"
    length = error.locator(".bars").evaluate("one => one.style.getPropertyValue('--after')")
    page.select_option("#picked", "8")  # no command makes it
    assert not page.is_visible("#command")
    assert not page.is_visible("#copy")
    assert "No line of options says this config" in page.inner_text("#no-command")
    assert error.inner_text().strip() == "0.001"
    assert float(
        error.locator(".bars").evaluate("o => o.style.getPropertyValue('--after')")
    ) < float(length)
    page.focus("#picked")
    page.keyboard.press("ArrowUp")
    assert page.input_value("#picked") != "8"
    assert page.is_visible("#copy")


def test_a_command_is_copied(open_page):
    page = open_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.select_option("#picked", "2")
    page.focus("#copy")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#copied")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "mlpass prune c3.mlpackage"


def test_a_browser_that_shuts_the_clipboard_selects_the_command(open_page):
    page = open_page()
    page.evaluate(
        """() => {
          Object.defineProperty(navigator, "clipboard", { value: undefined });
          document.execCommand = () => false;
        }"""
    )
    page.click("#copy")
    playwright.expect(page.locator("#copied")).to_have_text("Selected: copy it from here")
    assert page.evaluate("getSelection().toString()") == page.inner_text("#command")


def test_no_folder_of_the_machine_is_in_it(open_page, tmp_path):
    page = open_page()
    assert str(tmp_path) not in page.content()
    assert "/m/" not in page.content()
    assert "mlpass sweep report.html" in page.content()
