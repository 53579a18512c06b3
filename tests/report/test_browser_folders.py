"""The page of several results folders in a real browser: one plot and one table over all of them."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from peftbench.report import publish_folders, render
from tests.support import chromium
from tests.support.results_factory import TASKS, drawn, grid_results, make_result, store

pytestmark = pytest.mark.browser
METHODS = ("base", "full", "adapter", "qlora")
CELLS = 7
"""Cells of each folder, the untuned base model and an unsupported one included."""


def expect(what: Any) -> Any:
    """Return Playwright's assertions, which wait until they hold; imported here, as it may not be installed."""
    from playwright.sync_api import expect

    return expect(what)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("results")
    grid = [each for each in grid_results(seeds=2, steps=4, examples=10) if each.row.method in METHODS]

    def results_(name: str, shift: float = 0.0, **row: Any) -> Path:
        made = [drawn(result, shift) for result in grid]
        changed = [dataclasses.replace(each, row=dataclasses.replace(each.row, **row)) for each in made]
        with mock.patch("os.fsync"):  # no test cuts the power
            return store(folder / name, *changed, tasks=TASKS)

    return results_


@pytest.fixture(scope="module")
def three_folders(results: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a page: two folders whose scores compare, of two bases, and one of other data."""
    each = [
        results("nano"),
        results("tiny", -0.1, base="tiny", base_sha256="c" * 64, threads=4),
        results("elsewhere", 0.05, data_sha256="e" * 64),
    ]
    with mock.patch("peftbench.report.derived.anatomy.start", return_value=None):  # a process that imports torch
        return publish_folders(each, tmp_path_factory.mktemp("page") / "all.html", "html")[0].as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.started() as found:
        yield found


@pytest.fixture
def folders_page(browser: Any, three_folders: str) -> Iterator[Callable[..., Any]]:
    """Return a function that opens the page; when the test is over, nothing went wrong in it."""
    opened = []

    def open_(address: str = "", width: int = 1280, scheme: str = "light") -> Any:
        page = chromium.opened(browser, three_folders + address, scheme, width)
        opened.append(page)
        return page

    yield open_
    for page in opened:
        page.context.close()
        assert page.troubles == []


def rows_of(page: Any) -> list[list[str]]:
    """Return the texts of the rows of the table over all folders, headings of its parts as rows of one text."""
    found: list[list[str]] = page.evaluate(
        "[...document.querySelectorAll('#every-table tbody tr')].map(r => [...r.cells].map(c => c.innerText.trim()))"
    )
    return found


def show_all(page: Any) -> None:
    page.select_option("#every .dt-length select", "-1")
    expect(page.locator("#every-table tbody tr:not(.group)")).to_have_count(3 * CELLS)


def test_one_table_has_the_cells_of_all_folders_in_parts_best_first(folders_page: Callable[..., Any]) -> None:
    page = folders_page()
    show_all(page)
    rows = rows_of(page)
    heads = [place for place, row in enumerate(rows) if len(row) == 1]
    assert [rows[place][0].splitlines()[0] for place in heads] == [
        "nano and tiny: score on the mean over describe, compute and judge",
        "elsewhere: score on the mean over describe, compute and judge",
    ]
    assert "train time: other machine, threads, workers" in rows[heads[0]][0]
    assert "Kept separate from nano: other data." in rows[heads[1]][0]
    first, second = rows[1 : heads[1]], rows[heads[1] + 1 :]
    assert {(row[1], row[2]) for row in first} == {("nano", "nano"), ("tiny", "tiny")}
    assert {row[1] for row in second} == {"elsewhere"}
    for part in (first, second):
        scores = [float(row[3].split()[0]) for row in part if row[3] != "–"]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) >= CELLS - 1
    heads_of = page.locator("#every-table thead th").all_inner_texts()
    assert [text.split("\n")[0] for text in heads_of[:5]] == [
        "cell",
        "results",
        "base",
        "score",
        "within 2 of its folder's best",
    ]
    probabilities = {(row[0], row[1]): row[4] for row in first}
    below = page.evaluate(
        "[...document.querySelectorAll('#table tbody tr')].map(r => [...r.cells].map(c => c.innerText.trim()))"
    )
    assert {row[0]: row[2] for row in below} == {
        cell: share for (cell, folder), share in probabilities.items() if folder == "nano"
    }


def test_parts_stay_apart_whatever_is_sorted(folders_page: Callable[..., Any]) -> None:
    page = folders_page()
    page.click("#every-table thead th:has-text('peak memory')")
    expect(page.locator("#every-table thead th[aria-sort=ascending]")).to_contain_text("peak memory")
    show_all(page)
    folders = [row[1] for row in rows_of(page) if len(row) > 1]
    assert set(folders[: 2 * CELLS]) == {"nano", "tiny"}
    assert set(folders[2 * CELLS :]) == {"elsewhere"}
    assert "order=peak_train_bytes%2Casc" in page.url


def test_folders_and_words_filter_the_table_and_the_plot(folders_page: Callable[..., Any]) -> None:
    page = folders_page()
    expect(page.locator("#every-plots canvas")).to_have_count(2)
    page.select_option("#filter-folder", "1")
    expect(page.locator("#every .dt-info")).to_contain_text(f"{CELLS} cells of {3 * CELLS}")
    expect(page.locator("#every-plots h3")).to_have_text(["nano and tiny"])
    assert {row[1] for row in rows_of(page) if len(row) > 1} == {"tiny"}
    page.fill("#find", "qlora")
    expect(page.locator("#every-table tbody tr:not(.group)")).to_have_count(1)
    assert "folder=1" in page.url
    page.select_option("#filter-folder", "")
    expect(page.locator("#every-table tbody tr:not(.group)")).to_have_count(3)
    again = folders_page(f"#{page.url.partition('#')[2]}")
    expect(again.locator("#every-table tbody tr:not(.group)")).to_have_count(3)


def test_a_cost_that_does_not_compare_has_a_plot_for_each(folders_page: Callable[..., Any]) -> None:
    page = folders_page()
    expect(page.locator("#every-plots h3")).to_have_text(["nano and tiny", "elsewhere"])
    expect(page.locator("#every-plots")).to_contain_text("Kept separate from nano: other data.")
    page.select_option("#over", "train_seconds")
    expect(page.locator("#every-plots h3")).to_have_text(["nano", "tiny", "elsewhere"])
    expect(page.locator("#every-plots .panel").nth(1)).to_contain_text("Kept separate: other machine, threads, workers")
    expect(page.locator("#every-legend li")).to_have_text(["nano", "tiny", "elsewhere"])
    shapes = page.locator("#every-legend path").evaluate_all("all => all.map((one) => one.getAttribute('d'))")
    assert len(set(shapes)) == 3


def test_a_row_of_another_folder_opens_its_trials_there(folders_page: Callable[..., Any]) -> None:
    page = folders_page()
    page.fill("#find", "qlora")
    page.select_option("#filter-folder", "2")
    expect(page.locator("#every-table tbody tr:not(.group)")).to_have_count(1)
    page.click("#every-table tbody tr:not(.group) button")
    expect(page.locator("h1")).to_have_text("elsewhere quickstart on nano")
    expect(page.locator("#trial-title")).to_have_text("QLoRA r=8")
    expect(page.locator("#shown")).to_have_text("elsewhere alone")
    assert "results=2" in page.url
    expect(page.locator("#find")).to_have_value("qlora")


def test_what_is_chosen_stays_chosen_in_another_folder(folders_page: Callable[..., Any]) -> None:
    page = folders_page("#find=qlora&folder=2&within=5&columns=rank,tokens_per_second")
    page.click("#every-table tbody tr:not(.group) button")
    expect(page.locator("#shown")).to_have_text("elsewhere alone")
    expect(page.locator("#within")).to_have_value("5")
    expect(page.locator("#table thead")).to_contain_text("rank")
    assert "columns=rank%2Ctokens_per_second" in page.url


def test_without_the_table_of_all_folders_the_rest_follows_what_is_chosen(
    browser: Any, three_folders: str, tmp_path: Path
) -> None:
    text = Path(three_folders.removeprefix("file://")).read_text()
    (tmp_path / "p.html").write_text(text.replace("everyTable = new DataTable(", "throw new Error('made up'); ("))
    page = chromium.opened(browser, (tmp_path / "p.html").as_uri(), "light", 1280)
    expect(page.locator("#warnings")).to_contain_text("Not shown: the cells of all folders (made up)")
    page.fill("#within", "7")
    expect(page.locator("#table thead")).to_contain_text("within 7 of best")
    page.context.close()
    assert [text for text in page.troubles if "made up" not in text] == []


def test_a_mark_tells_its_folder_and_numbers(folders_page: Callable[..., Any]) -> None:
    page = folders_page("#folder=1&find=qlora")
    expect(page.locator("#every-plots h3")).to_have_text(["nano and tiny"])
    canvas = page.locator("#every-plots canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    tip = page.locator("#tip")
    # the only mark is in the middle of the horizontal axis; its interval leads the eye down to it
    places = [(box["x"] + box["width"] / 2 + 25, box["y"] + y) for y in range(10, int(box["height"]), 4)]
    deadline = time.monotonic() + 20
    for place in itertools.cycle(places):  # the plot is drawn some time after its canvas is there
        page.mouse.move(*place)
        if "results: tiny" in tip.inner_text() or time.monotonic() > deadline:
            break
    expect(tip).to_contain_text("results: tiny")
    expect(tip).to_contain_text("QLoRA r=8")


def test_all_folders_are_downloaded_as_shown(folders_page: Callable[..., Any]) -> None:
    page = folders_page("#find=qlora")
    expect(page.locator("#every-table tbody tr:not(.group)")).to_have_count(3)
    page.click("#every .menu summary")
    with page.expect_download() as started:
        page.click("#every [data-export=csv][data-how=download]")
    assert started.value.suggested_filename == "nano+tiny+elsewhere.csv"
    rows = list(csv.DictReader(Path(started.value.path()).read_text().splitlines()))
    assert [row["results"] for row in rows] == ["nano", "tiny", "elsewhere"]
    assert all(float(row["score_low"]) <= float(row["score_mean"]) <= float(row["score_high"]) for row in rows)


def test_the_tolerated_loss_and_the_task_change_all_folders(folders_page: Callable[..., Any]) -> None:
    page = folders_page("#find=qlora")
    page.fill("#within", "100")
    expect(page.locator("#every-table thead")).to_contain_text("within 100 of its folder's best")
    page.fill("#search", "qlora")
    expect(page.locator("#table tbody tr")).to_have_count(1)
    share = page.locator("#table tbody tr td").nth(2).inner_text()
    assert float(share) > 50
    expect(page.locator("#every-table tbody tr:not(.group)").first.locator("td").nth(4)).to_have_text(share)
    page.select_option("#task", label="judge")
    expect(page.locator("#every-table tr.group").first).to_contain_text("score on judge")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_all_folders_fit_every_screen(folders_page: Callable[..., Any], width: int, scheme: str) -> None:
    page = folders_page(width=width, scheme=scheme)
    expect(page.locator("#every-plots canvas")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for canvas in page.locator("#every-plots canvas").all():
        assert canvas.bounding_box()["width"] <= width


def test_the_printed_page_has_the_table_of_all_folders_and_nothing_to_click(folders_page: Callable[..., Any]) -> None:
    page = folders_page()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 1040, "height": 700})  # A4 landscape between the margins
    expect(page.locator("#every-table tbody tr:not(.group):visible")).to_have_count(3 * CELLS)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for name in ("table", "every-table"):
        ends = "all => all.map((row) => row.lastElementChild.getBoundingClientRect().right)"
        assert max(page.locator(f"#{name} tr").evaluate_all(ends)) <= 1040
    expect(page.locator("#folders table")).to_be_visible()
    for hidden in ("#folders > details", "#every .menus", "#every > .tools", "#every .dt-length", "#theme"):
        expect(page.locator(hidden)).not_to_have_count(0)
        expect(page.locator(f"{hidden} >> visible=true")).to_have_count(0)


DRAWN = """(() => {
  const before = CanvasRenderingContext2D.prototype.fillText;
  window.drawn = [];
  CanvasRenderingContext2D.prototype.fillText = function (text, ...more) {
    window.drawn.push(text);
    return before.call(this, text, ...more);
  };
})()"""


def plotted(browser: Any, place: Path, *made: Any) -> Any:
    """Open the page of some results with a memory budget; ``window.drawn`` has the texts in its plots."""
    with mock.patch("peftbench.report.derived.anatomy.start", return_value=None):
        address = render(store(place / "r", *made), place / "page.html").as_uri()
    context = chromium.context(browser)
    context.add_init_script(DRAWN)
    page = context.new_page()
    page.goto(f"{address}#budget=16GiB&cost=peak_train_bytes")
    return page


def untuned(row: dict[str, Any], **scores: float) -> list[Any]:
    return [
        make_result(f"base {name}", "base", name, rank=None, seed=None, scores={"judge": score}, **row)
        for name, score in scores.items()
    ]


def test_the_line_of_each_untuned_base_is_named_and_names_do_not_cover_each_other(browser: Any, tmp_path: Path) -> None:
    made = untuned({}, fp32=0.2, bf16=0.5, int8=0.501)
    page = plotted(browser, tmp_path, *made, make_result(peak_train_bytes=1000))
    both = "untuned: untuned base int8, untuned: untuned base bf16"
    for name in ("untuned: untuned base fp32", both, "budget"):
        chromium.wait(page, "name => window.drawn.includes(name)", name)
    assert not page.evaluate("window.drawn.includes('untuned: untuned base bf16')")
    page.context.close()


def test_equal_lines_have_one_name_and_a_budget_none_where_what_a_gpu_holds_is_not_known(
    browser: Any, tmp_path: Path
) -> None:
    odd = make_result(precision="fp3", device="cuda", peak_train_bytes=10**9, scores={"judge": 1.0}, examples=0)
    made = [
        dataclasses.replace(one, scores=tuple(dataclasses.replace(s, chance=None, majority=None) for s in one.scores))
        for one in (*untuned({"device": "cuda"}, fp32=1.0, bf16=1.0), odd)
    ]
    page = plotted(browser, tmp_path, *made)
    chromium.wait(page, "window.drawn.some((text) => text.includes(', untuned: untuned base '))")
    assert page.evaluate("window.drawn.filter((text) => text.startsWith('budget'))") == []
    page.context.close()


def test_percents_that_are_interpolated_are_said_to_be(
    browser: Any, tmp_path: Path, results: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peftbench.report.payload.questions.ROOM", 10)
    with mock.patch("peftbench.report.derived.anatomy.start", return_value=None):
        address = render(results("many"), tmp_path / "page.html").as_uri()
    page = chromium.opened(browser, address)
    expect(page.locator("#interpolated")).to_contain_text("percentages are interpolated between draws")
    page.hover("#table thead th:nth-child(3) [data-tip]")
    expect(page.locator("#tip")).to_contain_text("percentages are interpolated between draws")
    assert page.troubles == []
    page.context.close()


def test_percents_that_are_exact_have_no_note(folders_page: Callable[..., Any]) -> None:
    expect(folders_page().locator("#interpolated")).to_be_hidden()
