"""The page in a real browser, offline: it is read and used as people do, and sends no request."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peftbench.records import Result
from peftbench.report import page as report_page
from peftbench.report import publish_folders, render
from peftbench.report.collect import collect
from peftbench.report.derived.answer import answer
from peftbench.report.names import renamer
from peftbench.report.notes.answer import sentences
from peftbench.results.answer.decision import Question
from peftbench.results.store import compact, open_for_run, write
from tests.support import chromium
from tests.support.results_factory import TASKS, drawn, grid_results, make_result, make_wide, store, wide_results
from tests.support.sample import sample

pytestmark = pytest.mark.browser
SCREENS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 390)]
EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
SHOWN = "[...document.querySelectorAll('#table tbody tr td:first-child button')].map((cell) => cell.textContent)"


def column(place: int) -> str:
    return f"[...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[{place}].textContent)"


def wait_for_order(page: Any, head: str, order: str) -> None:
    """Wait until the table is sorted by a column: DataTables sorts in a timer after the click or key."""
    page.wait_for_selector(f"#table thead th[aria-sort={order}]:has-text('{head}')")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a lively grid: noisy losses, phases, forgetting, drawn outcomes whose means are the scores."""
    folder = tmp_path_factory.mktemp("results") / "quickstart"
    open_for_run(folder, TASKS)
    for result in grid_results(steps=120, examples=20):
        write(folder, _lively(result), TASKS)
    compact(folder)
    return folder


@pytest.fixture(scope="module")
def address(grid: Path) -> str:
    return render(grid, grid.parent / "page.html").as_uri()


@pytest.fixture(scope="module")
def wide_address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a page of 87 cells."""
    folder = make_wide(tmp_path_factory.mktemp("wide") / "grid", seeds=2, steps=20, examples=2)
    return render(folder, folder.parent / "page.html").as_uri()


def _lively(result: Result) -> Result:
    if result.row.status != "ok":
        return result
    draw = random.Random(result.row.key)
    phases = {"start_seconds": 0.03, "attach_seconds": 0.1, "check_seconds": 0.2, "untracked_seconds": 0.3}
    losses = [0.6 + 2.5 * math.exp(-step.step / 20) + draw.gauss(0, 0.1) for step in result.steps]
    steps = tuple(dataclasses.replace(step, loss=loss) for step, loss in zip(result.steps, losses, strict=True))
    made = drawn(result, alike=True)
    return dataclasses.replace(made, row=dataclasses.replace(made.row, **phases), steps=steps)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.started() as found:
        yield found


@pytest.fixture
def opening(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens an address; when the test is over, nothing went wrong and nothing was fetched."""
    opened: list[tuple[Any, list[str], list[str], list[str]]] = []

    def open_(address: str, scheme: str = "light", width: int = 1280, also: tuple[str, ...] = ()) -> Any:
        context = chromium.context(browser, scheme, width)
        page = context.new_page()
        troubles: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: requests.append(request.url.partition("#")[0]))
        page.goto(address)
        page.wait_for_selector("html[data-ready]", state="attached")
        opened.append((context, troubles, requests, [address.partition("#")[0], *also]))
        return page

    yield open_
    for context, troubles, requests, expected in opened:
        context.close()
        assert troubles == []
        assert [url for url in requests if not url.startswith("blob:")] == expected


@pytest.fixture(params=SCREENS, ids=lambda screen: f"{screen[0]}-{screen[1]}")
def everywhere(request: pytest.FixtureRequest, opening: Any, address: str) -> Any:
    return opening(address, *request.param)


@pytest.fixture
def opened(opening: Any, address: str) -> Any:
    return opening(address)


# reading


def test_nothing_overflows_and_all_sections_open_everywhere(everywhere: Any) -> None:
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert everywhere.evaluate(fits)
    names = everywhere.evaluate("[...document.querySelectorAll('details[data-section]')].map((d) => d.dataset.section)")
    assert names == ["heat", "ledger", "curves", "phases", "samples", "notes", "settings", "environment", "anatomy"]
    for name in names:
        everywhere.click(f"details[data-section={name}] > summary")
        what = "canvas" if name in ("heat", "ledger", "curves", "phases") else "p, dl, table"
        everywhere.wait_for_selector(f"details[data-section={name}] :is({what})")
    assert everywhere.locator(".trouble", has_text="Error").count() == 0
    assert everywhere.evaluate(fits)


def test_the_page_is_short_and_the_answer_shorter(opened: Any) -> None:
    assert opened.evaluate("document.documentElement.scrollHeight") <= 4 * 900
    assert len(opened.inner_text("#answer-words").split()) <= 90
    bottom = "document.getElementById('answer').getBoundingClientRect().bottom"
    assert opened.evaluate(bottom) < 900
    assert opened.evaluate("document.getElementById('plot').getBoundingClientRect().bottom") < 900
    assert "±" not in opened.inner_text("body")


def test_text_can_be_read_against_the_page(everywhere: Any) -> None:
    script = """() => {
      const light = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
          .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
      const paper = getComputedStyle(document.body).backgroundColor;
      const texts = [...document.querySelectorAll("p, td, th, td small, a, li, button.link, label, summary, .trouble")];
      return {
        contrast: Math.min(...texts.map((e) => contrast(getComputedStyle(e).color, paper))),
        size: Math.min(...texts.map((e) => parseFloat(getComputedStyle(e).fontSize))),
      };
    }"""
    found = everywhere.evaluate(script)
    assert found["contrast"] >= 4.5
    assert found["size"] >= 11


def test_the_table_has_the_eight_default_columns_best_first(opening: Any, grid: Path, address: str) -> None:
    page = opening(address)
    heads = [head.strip().split("\n")[0] for head in page.locator("#table thead th").all_inner_texts()]
    assert heads == ["cell", "score", "within 2 of best", "peak memory", "train time", "tokens/s"]  # others: not known
    scores = [float(text.split()[0]) for text in page.evaluate(column(1)) if text != "–"]
    assert scores == sorted(scores, reverse=True)
    assert page.evaluate(column(1))[len(scores) :] == ["–"]
    assert page.evaluate(SHOWN)[-1] == "full fine-tuning nf4"
    assert page.locator("#status .warn").all_inner_texts() == ["trials 39 of 43 ok, 3 unsupported, 1 failed"]
    assert "made up to be oom" in page.inner_text("#warnings")


def test_the_theme_can_be_switched(everywhere: Any) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    before, name = everywhere.evaluate(paper), everywhere.inner_text("#theme")
    everywhere.click("#theme")
    assert everywhere.evaluate(paper) != before
    assert everywhere.inner_text("#theme") != name
    everywhere.click("#theme")
    assert everywhere.evaluate(paper) == before


def test_definitions_are_tooltips_of_the_headings(opened: Any) -> None:
    opened.hover("#table thead th >> text=peak memory")
    assert "peak" in opened.inner_text("#tip")
    opened.keyboard.press("Escape")
    assert opened.locator("#tip").is_hidden()


def test_the_printed_page_has_every_column_and_row(opened: Any, tmp_path: Path) -> None:
    opened.evaluate("document.getElementById('warnings').append(document.createElement('details'))")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator("#warnings details:not([open])").count() == 0
    assert opened.locator("#warnings details[open]").count() == 1
    opened.emulate_media(media="print")
    opened.set_viewport_size({"width": 1040, "height": 700})  # A4 landscape between the margins
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.evaluate(SHOWN.replace("td:first-child button", "td:last-child"))
    assert opened.locator("#table tbody tr:visible").count() == 15
    assert len(opened.pdf(prefer_css_page_size=True)) > 10_000


# using


def words(grid: Path, **question: Any) -> str:
    """Return the sentences of `peftbench answer`, with cells named as on the page."""
    return " ".join(sentences(answer(collect(grid), Question(**question))))


def test_the_answer_is_that_of_the_command_in_the_same_words(opened: Any, grid: Path) -> None:
    assert opened.inner_text("#answer-words").startswith(words(grid))
    for within in (5, 15, 30):
        opened.fill("#within", str(within))
        said = opened.inner_text("#answer-words")
        first = words(grid, within=within)
        assert said.partition(". ")[0] == first.partition(". ")[0], within
    opened.fill("#budget", "3 MiB")
    said = opened.inner_text("#answer-words")
    assert said.partition(":")[0] == words(grid, within=30, budget_bytes=3 * 2**20).partition(":")[0]
    assert "trained within 3.0 MiB" in said
    opened.fill("#budget", "1 KiB")
    assert opened.inner_text("#answer-words").startswith(words(grid, within=30, budget_bytes=1024))


def test_inputs_recompute_probabilities_and_bad_ones_change_nothing(opened: Any) -> None:
    share = [float(text.strip("<>")) for text in opened.evaluate(column(2)) if text != "–"]
    opened.fill("#within", "30")
    more = [float(text.strip("<>")) for text in opened.evaluate(column(2)) if text != "–"]
    assert all(new >= old for new, old in zip(more, share, strict=True))
    assert max(more) > 95
    assert "within 30 of best" in opened.inner_text("#table thead")
    now = opened.inner_text("#answer-words")
    opened.fill("#budget", "a lot")
    assert opened.get_attribute("#budget", "aria-invalid") == "true"
    assert opened.inner_text("#answer-words") == now
    opened.fill("#budget", "")
    opened.select_option("#task", label="judge")
    assert "judge" in opened.inner_text("#answer-words")


def test_probabilities_are_shares_of_the_draws(opened: Any, grid: Path) -> None:
    opened.fill("#within", "5")
    found = answer(collect(grid), Question(within=5)).decision.probabilities
    named = renamer(collect(grid))
    shown = dict(zip(opened.evaluate(SHOWN), opened.evaluate(column(2)), strict=True))
    assert len(found) == 13
    for name, share in found.items():
        text = shown[named(name)]
        expected = f"{100 * share:.0f}" if share in (0, 1) or 0.01 <= share <= 0.99 else "<1" if share < 0.5 else ">99"
        assert text == expected, name


def test_a_mark_of_the_plot_tells_everything_and_opens_its_cell(opened: Any) -> None:
    x, y = _mark(opened, "LoRA r=8 int8")
    opened.mouse.move(x, y)
    text = opened.inner_text("#tip")
    for part in ("LoRA r=8 int8", "score", "peak memory", "train time", "tokens/s", "checkpoint"):
        assert part in text
    opened.mouse.click(x, y)
    assert opened.inner_text("#trial-title") == "LoRA r=8 int8"


def test_a_mark_of_another_plot_tells_its_values(opened: Any) -> None:
    opened.click("summary:has-text('Memory at the training peak')")
    opened.wait_for_selector("details[data-section=ledger] canvas")
    opened.locator("details[data-section=ledger] canvas").scroll_into_view_if_needed()
    box = opened.locator("details[data-section=ledger] canvas").bounding_box()
    for y in range(int(box["y"]) + 5, int(box["y"] + box["height"]), 7):
        opened.mouse.move(box["x"] + box["width"] / 3, y)
        if opened.locator("#tip").is_visible():
            break
    text = opened.inner_text("#tip")
    assert "object" not in text
    assert ": " in text


def _mark(page: Any, name: str) -> tuple[float, float]:
    """Find a mark of the plot by moving the mouse over all that is coloured, as the canvas has no elements."""
    box = page.locator("#plot canvas").bounding_box()
    coloured = page.evaluate(
        """() => {
          const canvas = document.querySelector("#plot canvas"), { width, height } = canvas, step = 4, found = [];
          const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
          for (let y = 0; y < height; y += step) for (let x = 0; x < width; x += step) {
            const [red, green, blue, alpha] = pixels.subarray(4 * (y * width + x), 4 * (y * width + x) + 4);
            if (alpha > 128 && Math.max(red, green, blue) - Math.min(red, green, blue) > 40) found.push([x, y]);
          }
          return found.map(([x, y]) => [x * canvas.clientWidth / width, y * canvas.clientHeight / height]);
        }"""
    )
    for x, y in coloured:
        page.mouse.move(box["x"] + x, box["y"] + y)
        if page.locator("#tip").is_visible() and page.inner_text("#tip").startswith(name):
            return box["x"] + x, box["y"] + y
    raise AssertionError(f"no mark of {name} at {len(coloured)} places")


def test_brushing_the_plot_filters_the_table(opened: Any) -> None:
    box = opened.locator("#plot canvas").bounding_box()
    opened.mouse.move(box["x"] + 70, box["y"] + 10)
    opened.mouse.down()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 60, steps=4)
    opened.mouse.up()
    opened.wait_for_selector("#clear-brush:visible")
    some = opened.evaluate(SHOWN)
    assert 0 < len(some) < 15
    assert f"{len(some)} cells of 15" in opened.inner_text(".dt-info")
    opened.click("#clear-brush")
    assert len(opened.evaluate(SHOWN)) == 15


def test_the_plot_shows_a_cost_of_ones_choice(opened: Any) -> None:
    before = opened.locator("#plot canvas").screenshot()
    costs = opened.locator("#cost option").all_inner_texts()
    assert costs == ["peak memory", "train time", "trainable parameters", "checkpoint"]
    opened.select_option("#cost", label="trainable parameters")
    chromium.wait(opened, "location.hash.includes('cost=trainable_parameters')")
    for _ in range(100):  # the canvas is drawn in a later frame
        if opened.locator("#plot canvas").screenshot() != before:
            return
        opened.wait_for_timeout(50)
    raise AssertionError("the plot is the same with another cost")


def test_columns_are_chosen(opened: Any) -> None:
    opened.click("#columns summary")
    boxes = opened.locator("#columns input")
    boxes.nth(25).wait_for()  # the menu is filled in the event of its opening
    assert opened.locator("#columns input:checked").count() == 3
    opened.check("#columns label:has-text('checkpoint') input")
    opened.uncheck("#columns label:text-is(' tokens/s') input")
    heads = " ".join(opened.locator("#table thead th").all_inner_texts())
    assert "checkpoint" in heads
    assert "tokens/s" not in heads
    assert "checkpoint_bytes" in opened.evaluate("location.href")


def test_the_table_sorts_by_mouse_and_keys_with_unknown_values_last(opened: Any) -> None:
    head = opened.locator("#table thead th", has_text="peak memory")
    head.locator(".dt-column-order").click()
    wait_for_order(opened, "peak memory", "ascending")
    peaks = opened.evaluate(column(3))
    known = [float(text) for text in peaks if text != "–"]
    assert known == sorted(known)
    assert peaks[len(known) :] == ["–", "–"]
    head.locator("[role=button]").focus()
    opened.keyboard.press("Enter")
    wait_for_order(opened, "peak memory", "descending")
    peaks = opened.evaluate(column(3))
    assert [float(text) for text in peaks if text != "–"] == sorted(known, reverse=True)
    assert peaks[len(known) :] == ["–", "–"]
    assert "sort=peak_train_bytes%2Cdesc" in opened.evaluate("location.href")


def test_the_table_is_filtered_by_words_method_rank_and_precision(opened: Any) -> None:
    opened.fill("#search", "lora fp32")
    assert sorted(opened.evaluate(SHOWN)) == ["LoRA r=2 fp32", "LoRA r=32 fp32", "LoRA r=8 fp32"]
    opened.fill("#search", "")
    opened.select_option("#filter-method", label="LoRA")
    opened.select_option("#filter-rank", label="8")
    assert sorted(opened.evaluate(SHOWN)) == ["LoRA r=8 bf16", "LoRA r=8 fp32", "LoRA r=8 int8"]
    opened.select_option("#filter-precision", label="int8")
    assert opened.evaluate(SHOWN) == ["LoRA r=8 int8"]
    assert "1 cells of 15" in opened.inner_text(".dt-info")


@pytest.mark.parametrize("format", ["csv", "md", "tex"])
def test_what_is_shown_can_be_downloaded_and_copied(opening: Any, address: str, format: str) -> None:
    page = opening(f"{address}#method=LoRA&sort=peak_train_bytes,asc")
    names = page.evaluate(SHOWN)
    page.click("text=Copy or download")
    with page.expect_download() as waiting:
        page.click(f"[data-export={format}][data-how=download]")
    assert waiting.value.suggested_filename == f"quickstart.{format}"
    text = Path(waiting.value.path()).read_text(encoding="utf-8")
    page.click(f"[data-export={format}][data-how=copy]")
    page.wait_for_selector("text=copied")
    lines = text.splitlines()
    if format == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["cell"] for row in rows] == names
        peaks = [float(row["peak_train_bytes"]) for row in rows]
        assert peaks == sorted(peaks)
        assert all(float(row["score_low"]) <= float(row["score_mean"]) <= float(row["score_high"]) for row in rows)
    elif format == "md":
        assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == names
        assert len({line.count("|") for line in lines}) == 1
    else:
        body = [line for line in lines if line.endswith(r"\\")]
        assert [line.split(" & ")[0] for line in body[1:]] == names
        assert text.count("\\begin{") == text.count("\\end{") == 1
        assert r"(\%)" in body[0]


def test_the_address_keeps_what_was_chosen(opening: Any, address: str) -> None:
    page = opening(address)
    page.fill("#within", "5")
    page.select_option("#task", label="compute")
    page.select_option("#filter-precision", label="fp32")
    page.locator("#table thead th", has_text="train time").locator(".dt-column-order").click()
    wait_for_order(page, "train time", "ascending")
    again = opening(page.evaluate("location.href"))
    for what in (SHOWN, column(1), "document.getElementById('answer-words').textContent"):
        assert again.evaluate(what) == page.evaluate(what)
    assert again.input_value("#within") == "5"
    assert again.locator("#task option:checked").inner_text() == "compute"


@pytest.mark.parametrize(
    "odd",
    sample(
        [
            "task=99&cost=none&columns=nothing&sort=x,y&open=no&within=-1",
            "task=x&within=abc&budget=lots&time=3%20fortnights&method=magic&rank=eight&precision=fp1&base=gpt",
            "within=0&budget=-1GiB&time=0s&sort=score&columns=peak_train_bytes,nothing&rank=8.5&task=1.5",
            "within=101&budget=16&time=90&sort=score,up&task=-1&cost=cell",
            "within=0x10&budget=%00&time=1.2.3h&sort=,&task=&open=%3Cb%3E",
            "within=Infinity&budget=1e9GiB&sort=score,asc,desc&unknown=1&%E0%A4%A",
            "within=NaN&within=5&sort=__proto__,asc&columns=constructor",
        ],
        3,
    ),
)
def test_a_value_of_the_address_that_cannot_be_is_ignored(opening: Any, address: str, odd: str) -> None:
    page, plain = opening(f"{address}#{odd}"), opening(address)
    for what in (SHOWN, column(1), "document.getElementById('answer-words').textContent", "document.body.innerText"):
        assert page.evaluate(what) == plain.evaluate(what)
    for name in ("within", "budget", "time", "task", "cost", "search", "filter-rank"):
        assert page.input_value(f"#{name}") == plain.input_value(f"#{name}")
    assert page.locator("[aria-invalid=true]").count() == 0
    page.fill("#within", "5")
    assert page.evaluate("location.href").endswith("#within=5")  # what was ignored is gone


def test_a_value_of_the_address_beside_a_bad_one_is_kept(opening: Any, address: str) -> None:
    page = opening(f"{address}#within=abc&precision=fp32&sort=peak_train_bytes,asc")
    assert page.input_value("#filter-precision") == "fp32"
    assert page.input_value("#within") == "2"
    page.evaluate("location.hash = 'within=7&budget=none'")
    chromium.wait(page, "document.getElementById('within').value === '7'")
    assert page.input_value("#budget") == ""
    assert page.input_value("#filter-precision") == ""


def test_a_row_opens_its_trials_with_everything_that_is_stored(opened: Any, grid: Path) -> None:
    opened.locator("#table tbody tr", has_text="LoRA r=8 int8").locator("td").nth(3).click()
    assert opened.inner_text("#trial-title") == "LoRA r=8 int8"
    assert opened.locator("#trial select option").all_inner_texts() == [f"seed {n} (ok)" for n in range(3)]
    command = f"peftbench run quickstart -o {grid} --only method=lora --only rank=8 --only precision=int8"
    assert f"{command} --seeds 0, --fresh" in opened.inner_text("#trial")
    opened.wait_for_selector("#trial .chart canvas")
    for title, part in (
        ("All numbers", "trainable parameters"),
        ("Memory ledger", "base weights"),
        ("Samples", "prompt"),
        ("Settings", "train.learning_rate"),
        ("Environment", "packages.torch"),
    ):
        opened.click(f"#trial summary:has-text('{title}')")
        chromium.wait(opened, "(part) => document.getElementById('trial').innerText.includes(part)", part)
    opened.select_option("#trial select", label="seed 1 (ok)")
    assert "--seeds 1, --fresh" in opened.inner_text("#trial")
    assert "open=" in opened.evaluate("location.href")
    opened.keyboard.press("Escape")
    chromium.wait(opened, "!document.getElementById('trial').open && !location.hash.includes('open=')")


def test_a_failed_trial_tells_its_message(opened: Any) -> None:
    opened.click("#table button:text-is('full fine-tuning fp32')")
    opened.select_option("#trial select", label="seed 2 (oom)")
    assert "in train: made up to be oom" in opened.inner_text("#trial")


def test_the_page_is_used_by_keys_alone(opened: Any) -> None:
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    order: list[str] = []
    while len(order) < 12:
        opened.keyboard.press("Tab")
        if not opened.evaluate("document.activeElement.matches('#answer button.link')"):  # cells that the answer names
            order.append(opened.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    inputs = ["theme", "within", "budget", "time", "task", "cost", "search", "filter-method", "filter-rank"]
    assert order == [*inputs, "filter-precision", "Columns", "Copy or download"]
    opened.focus("#table tbody tr td button")
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.getElementById('trial').open")
    opened.keyboard.press("Escape")
    chromium.wait(opened, "!document.getElementById('trial').open")
    assert opened.evaluate("document.activeElement.matches('#table tbody button')"), "the focus is where it was"


@pytest.mark.parametrize("width", sample([1280, 390], 2))
def test_text_of_plots_has_at_least_twelve_pixels(opening: Any, address: str, width: int) -> None:
    page = opening(address, "light", width)
    for section in ("heat", "ledger", "curves", "phases"):
        spec = spec_of(page, section)
        config = spec["config"]
        sizes = [config[part][name] for part in ("axis", "legend") for name in ("labelFontSize", "titleFontSize")]
        assert min(*sizes, config["header"]["labelFontSize"], *_sizes(spec)) >= 12


def _sizes(value: Any) -> list[float]:
    """Return every font size that a specification sets anywhere."""
    if isinstance(value, list):
        return [size for each in value for size in _sizes(each)]
    if not isinstance(value, dict):
        return []
    own = [float(size) for name, size in value.items() if name.lower().endswith("fontsize")]
    return own + [size for each in value.values() for size in _sizes(each)]


def test_on_a_phone_rows_fold_into_labelled_values(opening: Any, address: str) -> None:
    page = opening(address, "light", 390)
    row = page.locator("#table tbody tr").first
    assert row.evaluate("(row) => getComputedStyle(row).display") == "grid"
    label = "(cell) => getComputedStyle(cell, '::before').content"
    assert row.locator("td").nth(3).evaluate(label) == '"peak memory (MiB)"'
    assert page.evaluate("Math.max(...[...document.querySelectorAll('#table td')].map((t) => t.scrollWidth))") <= 390


# safe and large


def test_texts_of_models_and_suites_do_not_run(opening: Any, tmp_path: Path) -> None:
    scores = {"judge": 0.5, EVIL: 0.5}
    settings = json.dumps({"method": "lora", "train": {"note": EVIL}})
    made = []
    for rank in (4, 8):
        row = make_result(
            f"lora r={rank} {EVIL}",
            rank=rank,
            scores=scores,
            settings_json=settings,
            environment_json=json.dumps({EVIL: EVIL}),
        )
        examples = tuple(dataclasses.replace(e, prompt=EVIL, prediction=EVIL, target=EVIL) for e in row.examples)
        made.append(dataclasses.replace(row, examples=examples))
    made.append(make_result("full fp32", "full", "fp32", None, status="error", message=EVIL))
    made = [dataclasses.replace(r, row=dataclasses.replace(r.row, suite=EVIL, base=EVIL)) for r in made]
    folder = store(tmp_path / "r", *made, tasks=("judge", EVIL))
    page = opening(render(folder, tmp_path / "page.html").as_uri())
    for name in page.evaluate("[...document.querySelectorAll('details[data-section]')].map((d) => d.dataset.section)"):
        page.click(f"details[data-section={name}] > summary")
    page.select_option("#task", index=2)
    page.click("#columns summary")
    page.keyboard.press("Escape")
    page.hover("#table thead th >> nth=1")
    page.locator("#table tbody tr button.link").first.click()
    for summary in page.locator("#trial summary").all():
        summary.click()
    chromium.wait(page, "(evil) => document.getElementById('trial').innerText.includes(evil)", EVIL)
    page.wait_for_timeout(300)
    assert EVIL in page.inner_text("h1")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_details_are_read_from_files_beside_a_large_page(
    opening: Any, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "LARGEST", 1000)
    output = render(grid, tmp_path / "100 % of it#.html")
    address = output.as_uri()
    beside = (tmp_path / "100 % of it#.files").as_uri()
    page = opening(address, also=(f"{beside}/curves-0.js", f"{beside}/settings.js"))
    page.click("#table button:text-is('LoRA r=8 int8')")
    page.wait_for_selector("#trial .chart canvas")
    page.click("#trial summary:has-text('Settings')")
    page.wait_for_selector("#trial dt:has-text('learning_rate')")


@pytest.mark.slow
def test_a_page_of_87_cells_is_paged_and_stays_short(opening: Any, wide_address: str) -> None:
    page = opening(wide_address)
    assert page.locator("#table tbody tr").count() == 20
    assert page.evaluate("document.documentElement.scrollHeight") <= 4 * 900
    page.click(".dt-paging-button:has-text('2')")
    assert page.locator("#table tbody tr").count() == 20
    page.click("details[data-section=heat] > summary")
    page.wait_for_selector("details[data-section=heat] canvas")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


WATCH = """() => {
  const compile = vegaLite.compile;
  window.specs = [];
  const kept = (spec, options) => { window.specs.push(spec); return compile(spec, options); };
  window.vegaLite = { ...vegaLite, compile: kept };
}"""


def spec_of(page: Any, section: str) -> dict[str, Any]:
    """Open a section and return what its last plot shows."""
    page.evaluate(WATCH)
    page.click(f"details[data-section={section}] > summary")
    page.wait_for_selector(f"details[data-section={section}] canvas")
    found: dict[str, Any] = json.loads(page.evaluate("JSON.stringify(window.specs.at(-1))"))
    return found


def test_curves_are_averaged_by_step_where_every_seed_has_it(opening: Any, tmp_path: Path) -> None:
    lengths = (300, 120, 240)  # with every third, first and second step in one point if each had its own
    made = [make_result(seed=seed, steps=length) for seed, length in enumerate(lengths)]
    alike = [make_result("lora r=4 fp32", rank=4, seed=seed, steps=10) for seed in (0, 1)]

    def steps(result: Result) -> Result:
        each = tuple(dataclasses.replace(step, loss=step.step + result.row.seed / 10) for step in result.steps)
        return dataclasses.replace(result, steps=each)

    place = store(tmp_path / "r", *map(steps, [*made, *alike]))
    page = opening(render(place, tmp_path / "page.html").as_uri())
    values = spec_of(page, "curves")["data"]["values"]
    own = {row["step"]: row["loss"] for row in values if row["cell"] == "LoRA r=8"}
    assert sorted(own) == list(range(1, 120, 3)), "up to the last step of the shortest"
    for step, loss in own.items():
        assert loss == pytest.approx(step + 1 + 0.1, rel=1e-3)  # middle of three steps, mean of 0, 0.1 and 0.2
    assert len([row for row in values if row["cell"] == "LoRA r=4"]) == 10
    note = page.inner_text("details[data-section=curves]")
    assert "Only steps that every seed has: LoRA r=8 (up to 118 of 298)." in note


def test_a_heat_map_has_a_readable_number_in_every_cell(opening: Any, address: str) -> None:
    for scheme in ("light", "dark"):
        page = opening(address, scheme)
        values = spec_of(page, "heat")["data"]["values"]
        missing = [row for row in values if row["text"] == "–"]
        assert {(row["method"], row["precision"], row["tip"]) for row in missing} == {
            ("full fine-tuning", "nf4", "unsupported")
        }
        for row in values:
            assert row["text"]
            assert contrast(row["fill"], row["ink"]) >= 4.5, row
        assert len({row["fill"] for row in values}) > 3
        assert "–: no trial ended ok" in page.inner_text("details[data-section=heat]")


def contrast(one: str, other: str) -> float:
    def light(color: str) -> float:
        if color.startswith("#"):
            digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
            parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        else:
            parts = [float(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_note_of_the_heat_map_names_the_chosen_quantity(opened: Any) -> None:
    opened.click("details[data-section=heat] > summary")
    opened.wait_for_selector("details[data-section=heat] > .quiet")
    opened.select_option("details[data-section=heat] select", "peak_train_bytes")
    note = opened.inner_text("details[data-section=heat] > .quiet")
    assert note.startswith("peak memory (")


def test_the_skip_link_and_places_of_the_page_change_no_choice(opening: Any, address: str) -> None:
    page = opening(f"{address}#within=7&precision=fp32")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "compare"
    assert page.evaluate("location.href").endswith("#within=7&precision=fp32")
    page.evaluate("location.hash = 'warnings'")
    page.wait_for_timeout(100)
    assert page.input_value("#within") == "7"
    assert page.input_value("#filter-precision") == "fp32"


def test_printing_keeps_how_many_rows_are_shown(opening: Any, wide_address: str) -> None:
    page = opening(wide_address)
    rows = "document.querySelectorAll('#table tbody tr').length"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(rows) > 50
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    before = page.evaluate(rows)
    page.evaluate("new DataTable.Api('#table').page.len(-1).draw()")
    page.evaluate("dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(rows) > 50 > before


def test_a_trial_of_one_of_several_alike_cells_is_run_again_by_the_cells_name(opening: Any, tmp_path: Path) -> None:
    cells = [f"peft {tuner} r=8 fp32" for tuner in ("VERA", "LOHA")]
    results = [make_result("base fp32", "base", rank=None, seed=None), *(make_result(cell, "peft") for cell in cells)]
    written = render(store(tmp_path / "r", *results), tmp_path / "p.html").as_uri()
    page = opening(f"{written}#open={results[1].row.key}")
    assert f"--only 'cell={cells[0]}' --seeds 0, --fresh" in page.inner_text("#trial")


def test_several_folders_are_shown_one_at_a_time(opening: Any, grid: Path, tmp_path: Path) -> None:
    rows = [
        dataclasses.replace(one, row=dataclasses.replace(one.row, data_sha256="e" * 64))
        for one in wide_results(seeds=2, steps=4, examples=2)
    ]
    small = store(tmp_path / "small", *rows, tasks=TASKS)
    address = publish_folders([grid, small], tmp_path / "both.html", "html")[0].as_uri()
    page = opening(address, also=(address,))  # another folder is shown by loading the page again
    assert page.locator("#folders tbody tr").count() == 2
    assert page.inner_text("h1").startswith("quickstart ")
    assert "are not compared: other data" in page.inner_text("#folders")
    first = page.inner_text("#answer-words")
    page.click("#folders summary")
    page.wait_for_selector("#folders details table")
    page.click("#folders button:has-text('small')")
    page.wait_for_selector("h1:text-matches('^small ')")
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.evaluate("location.href").endswith("#results=1")
    assert page.inner_text("#answer-words") != first
    page.click("details[data-section=curves] > summary")
    page.wait_for_selector("details[data-section=curves] canvas")
    page.click("#table tbody tr td:first-child button")
    page.wait_for_selector("#trial[open]")
    assert "results=1" in page.evaluate("location.href")
    assert "open=" in page.evaluate("location.href")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
