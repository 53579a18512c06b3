"""The page in a real browser, offline: light and dark, on a desk and on a phone."""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from peftbench.records import Result
from peftbench.report import render
from peftbench.results.store import compact, open_for_run, write
from tests.support.results_factory import TASKS, grid_results, make_wide

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SCREENS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 390)]

OVERLAPS = """() => {
  const found = [];
  for (const svg of document.querySelectorAll("figure > svg")) {
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text")].map((t) => [t.textContent.trim(), t.getBoundingClientRect()]);
    boxes.forEach(([one, a], i) => {
      if (a.right > frame.right + 2 || a.left < frame.left - 2) found.push(`${one} leaves its figure`);
      for (const [other, b] of boxes.slice(i + 1)) {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 0.5 && high > 2.5) found.push(`${one} / ${other} in ${svg.getAttribute("aria-label")}`);
      }
    });
  }
  return found;
}"""
"""Texts of a figure that overlap (a line's box is taller than its letters: 2.5 pixels are let pass) or stick out."""

COVERED = """() => {
  const found = [];
  for (const svg of document.querySelectorAll("figure > svg")) {
    const marks = [...svg.querySelectorAll('[id*="-point"] use')].map((m) => m.getBoundingClientRect());
    for (const text of svg.querySelectorAll("text")) {
      const t = text.getBoundingClientRect();
      const touching = marks.some((m) => Math.min(t.right, m.right) - Math.max(t.left, m.left) > 1
        && Math.min(t.bottom, m.bottom) - Math.max(t.top, m.top) > 3);
      if (touching) found.push(`${text.textContent.trim()} in ${svg.getAttribute("aria-label")}`);
    }
  }
  return found;
}"""
"""Texts of a figure that a point's marker touches."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a page of a lively grid: noisy losses, phases, overlapping points."""
    folder = tmp_path_factory.mktemp("results") / "quickstart"
    open_for_run(folder, TASKS)
    for result in grid_results(steps=120):
        write(folder, _lively(result), TASKS)
    compact(folder)
    return render(folder, folder.parent / "page.html").as_uri()


@pytest.fixture(scope="module")
def wide_address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a page of 86 cells, most of which score close to 100 % on one task."""
    folder = make_wide(tmp_path_factory.mktemp("wide") / "grid", seeds=2, steps=20, examples=2)
    return render(folder, folder.parent / "page.html").as_uri()


def _lively(result: Result) -> Result:
    row, draw = result.row, random.Random(result.row.key)
    if row.status != "ok":
        return result
    phases = {"start_seconds": 0.03, "attach_seconds": 0.1, "check_seconds": 0.2, "untracked_seconds": 0.3}
    losses = [0.6 + 2.5 * math.exp(-step.step / 20) + draw.gauss(0, 0.1) for step in result.steps]
    steps = tuple(dataclasses.replace(step, loss=loss) for step, loss in zip(result.steps, losses, strict=True))
    return dataclasses.replace(result, row=dataclasses.replace(row, **phases), steps=steps)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(params=SCREENS, ids=lambda screen: f"{screen[0]}-{screen[1]}")
def opened(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    """Open the page and see, when the test is over, that nothing went wrong and nothing was fetched."""
    yield from _open(browser, address, *request.param)


@pytest.fixture(params=SCREENS, ids=lambda screen: f"{screen[0]}-{screen[1]}")
def wide(request: pytest.FixtureRequest, browser: Any, wide_address: str) -> Iterator[Any]:
    """Open the page of 86 cells in the same way."""
    yield from _open(browser, wide_address, *request.param)


def _open(browser: Any, address: str, scheme: str, width: int) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    troubles: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert troubles == []
    assert requests == [address]


def test_nothing_overflows_the_page(opened: Any) -> None:
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    opened.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_no_text_of_a_figure_overlaps(opened: Any) -> None:
    assert opened.evaluate("document.querySelectorAll('figure > svg text').length") > 200
    assert opened.evaluate(OVERLAPS) == []
    assert opened.evaluate(COVERED) == []


@pytest.mark.slow
def test_a_page_of_86_cells_can_be_read(wide: Any) -> None:
    assert wide.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert wide.evaluate(OVERLAPS) == []
    assert wide.evaluate(COVERED) == []
    assert wide.locator("#ranks table.grid").count() == 7 * 8
    labels = "[...document.querySelectorAll('#parameters figure:first-of-type svg text')].map((t) => t.textContent)"
    assert "4" in [label.strip() for label in wide.evaluate(labels)]
    longest = "Math.max(...[...document.querySelectorAll('section')].map((s) => s.offsetHeight / innerHeight))"
    assert wide.evaluate(longest) < 12


def test_the_search_for_overlaps_finds_them(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    halves = 2  # of the marker of a quantized cell, drawn one by one
    assert page.locator('figure > svg [id*="-point"] use').count() == 6 * (11 + 2 * halves)
    page.evaluate("""() => {
      const put = (text, x, y) => {
        text.removeAttribute("transform");
        text.setAttribute("x", x);
        text.setAttribute("y", y);
      };
      const [one, other] = document.querySelectorAll("figure > svg text");
      [one, other].forEach((text) => put(text, 200, 100));
      const mark = document.querySelector('figure > svg [id*="-point"] use');
      put(mark.ownerSVGElement.querySelectorAll("text")[2], mark.getAttribute("x"), mark.getAttribute("y"));
    }""")
    assert len(page.evaluate(OVERLAPS)) == 1
    assert len(page.evaluate(COVERED)) == 1
    page.close()


def test_text_and_figures_can_be_read_against_the_page(opened: Any) -> None:
    script = """() => {
      const light = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
          .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
      const paper = getComputedStyle(document.body).backgroundColor;
      const of = (query, property) => [...document.querySelectorAll(query)]
        .map((e) => contrast(getComputedStyle(e)[property], paper));
      return {
        text: Math.min(...of("p, td, th, dt, dd, a, li, .mark, .trouble", "color")),
        figure: Math.min(...of("figure > svg text", "fill")),
        points: Math.min(...of('figure > svg [id*="-point"] use', "stroke")),
      };
    }"""
    found = opened.evaluate(script)
    assert found["text"] >= 4.5
    assert found["figure"] >= 7
    assert found["points"] >= 3


def test_the_comparison_sorts_and_filters(opened: Any) -> None:
    head = opened.locator("#compare thead th", has_text="judge")
    scores = "[...document.querySelectorAll('#compare tbody tr')].map((row) => row.cells[3].dataset.sort)"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    shown = opened.evaluate(scores)
    known = [float(value) for value in shown[:-2] if value]
    assert known == sorted(known, reverse=True)
    assert shown[len(known) : -2] == [""]
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    again = [float(value) for value in opened.evaluate(scores)[:-2] if value]
    assert again == sorted(known)
    opened.fill("#filter", "lora fp32")
    assert opened.locator("#compare tbody tr.cell:visible").count() == 3
    assert opened.locator("#compare tbody tr.reference:visible").count() == 2
    assert opened.inner_text("#shown") == "3 of 15 cells"


def test_the_theme_can_be_switched(opened: Any) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    before, name = opened.evaluate(paper), opened.inner_text("#theme")
    opened.click("#theme")
    assert opened.evaluate(paper) != before
    assert opened.inner_text("#theme") != name
    opened.click("#theme")
    assert opened.evaluate(paper) == before


def test_model_text_does_not_run(opened: Any) -> None:
    assert opened.evaluate("document.scripts.length") == 1
    assert "<script>" in opened.inner_text("#samples")
