"""The ladder of memory in reports: rows in the order of the suite, each beside the one above it or the first one."""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from peftbench import suite
from peftbench.errors import UserError
from peftbench.records import Category, Result
from peftbench.report import collect, findings, page, render, table
from peftbench.report.answer import text
from peftbench.report.derived.ladder import ladder
from peftbench.report.figures import canvas
from peftbench.report.names import display_names
from peftbench.results.answer.decision import Question
from peftbench.results.store import record_grid, recorded_grid
from peftbench.suite import trial_key
from peftbench.suite.expand import expand
from tests.support import chromium
from tests.support.page_data import PageData
from tests.support.results_factory import make_result, store

MIB = 2**20
SUITE = "base: nano\ntasks: [judge]\nmethods: [lora]\n"


def result(
    cell: str, method: str = "full", sizes: Sequence[int] = (), train: dict[str, Any] | None = None, **more: Any
) -> Result:
    """A trial whose peak is 100 MiB of base weights and these of gradients, optimizer state and logits."""
    rank, precision = (8, cell.split()[-1]) if method == "lora" else (None, cell.split()[-1])
    settings = {"method": method, "rank": rank, "train": {"steps": 5, "optimizer": "adamw", **(train or {})}}
    if method == "lora":
        settings["options"] = {"alpha": 16}
    bytes_of = dict.fromkeys((category.column for category in Category), 0)
    if sizes:
        parts = (Category.BASE_WEIGHTS, Category.GRADIENTS, Category.OPTIMIZER, Category.LOGITS)
        bytes_of |= {category.column: size * MIB for category, size in zip(parts, (100, *sizes), strict=True)}
        bytes_of["peak_train_bytes"] = sum(bytes_of.values())
    fields = {"settings_json": json.dumps(settings), "named_settings": "", "tokens_per_second": 1000.0} | more
    return make_result(cell, method, precision, rank, **fields | (bytes_of if sizes else {}))


ROWS = (
    result("full plain fp32", sizes=(100, 200, 100)),
    result("full small fp32", sizes=(100, 50, 100), train={"optimizer": "adamw_8bit"}, tokens_per_second=800.0),
    result("lora r=8 fp32", "lora", sizes=(1, 2, 100), train={"optimizer": "adamw_8bit", "learning_rate": 3e-3}),
    result("lora r=8 bf16", "lora", sizes=(1, 2, 50), train={"optimizer": "adamw_8bit", "learning_rate": 3e-3}),
)


@pytest.fixture
def made(tmp_path: Path):
    def make(*results: Result, kind: str | None = "previous", later: Sequence[str] = (), **more: Any) -> Path:
        folder = store(tmp_path / "results", *results)
        keys = [*(each.row.key for each in results), *later]
        record_grid(folder, keys, "peftbench run x", ladder=kind, **more)
        return folder

    return make


def rungs(folder: Path):
    return ladder(collect.collect(folder))


def test_rows_are_in_the_order_of_the_suite_with_what_each_changes(made) -> None:
    found = rungs(made(*reversed(ROWS)))
    assert [rung.cell.name for rung in found] == [each.row.cell for each in reversed(ROWS)]
    found = rungs(made(*ROWS))
    assert [rung.cell.name for rung in found] == [each.row.cell for each in ROWS]
    assert [[change.text for change in rung.changes] for rung in found] == [
        [],
        ["optimizer: adamw → adamw_8bit"],
        ["method: full → lora r=8"],  # the options and the rate are the method's own
        ["precision: fp32 → bf16"],
    ]
    assert [rung.label for rung in found][:2] == ["full fine-tuning fp32", "optimizer: adamw_8bit"]
    assert [rung.change("peak_train_bytes") for rung in found] == [None, -150 * MIB, -147 * MIB, -50 * MIB]


def test_each_saving_alone_stands_beside_the_first_row(made) -> None:
    found = rungs(made(*ROWS, kind="first"))
    assert [rung.change("peak_train_bytes") for rung in found] == [None, -150 * MIB, -297 * MIB, -347 * MIB]
    assert [change.name for change in found[3].changes] == ["method", "precision", "optimizer"]


def test_a_row_that_failed_is_shown_and_no_row_is_compared_with_it(made) -> None:
    broken = result("full small fp32", status="oom", train={"optimizer": "adamw_8bit"})
    folder = made(ROWS[0], broken, ROWS[2], later=["k"], cells={"k": "qlora r=8 nf4"})
    found = rungs(folder)
    assert [rung.beside and rung.beside.name for rung in found] == [None, *["full plain fp32"] * 2, "lora r=8 fp32"]
    assert [rung.passed for rung in found] == [False, False, True, False]
    assert [change.name for change in found[2].changes] == ["method", "optimizer"]
    assert found[1].change("peak_train_bytes") is None
    text = table(folder, "md")
    assert "optimizer: adamw → adamw_8bit (1 oom) | – |" in text
    assert "Row 3: the row above did not finish" in text
    assert "(not run)" in text


@pytest.mark.parametrize("kind", ["first", "previous"])
def test_rows_before_the_first_one_that_finished_have_their_whole_names_and_a_note_says_so(kind, made) -> None:
    cells = [f"full turns={turns} fp32" for turns in ("lisa", "badam")]
    broken = [result(cell, status="oom", named_settings=cell.split()[1]) for cell in cells]
    folder = made(*broken, *ROWS[1:3], kind=kind)
    assert [rung.title for rung in rungs(folder)][:3] == [
        "full fine-tuning turns=lisa",
        "full fine-tuning turns=badam",
        "full fine-tuning small",
    ]
    assert "Row 3 is the first one that finished: rows below are compared with it." in table(folder, "md")
    assert "the first one that finished" not in table(made(*ROWS, kind=kind), "md")


def test_rows_of_another_method_are_told_apart_by_the_options_that_their_names_have(made) -> None:
    turns = [
        result(f"full {named} fp32", sizes=(1, 1, 1), named_settings=f"{named} optimizer=adamw")
        for named in ("turns=lisa turn_size=2", "turns=badam turn_size=2")
    ]
    found = rungs(made(ROWS[2], *turns, kind="first"))
    assert [rung.changes[0].after for rung in found[1:]] == [
        "full turns=lisa turn_size=2",
        "full turns=badam turn_size=2",
    ]


def test_changes_of_the_machine_and_of_devices_are_told(made) -> None:
    environment = json.loads(ROWS[0].row.environment_json) | {"cpu": "another one"}
    settings = json.loads(ROWS[1].row.settings_json) | {"devices": {"strategy": "ddp", "count": 2}}
    other = result("full small fp32", sizes=(1, 1, 1), environment_json=json.dumps(environment))
    divided = result("full ddp fp32", sizes=(1, 1, 1), settings_json=json.dumps(settings))
    found = rungs(made(ROWS[0], other, divided))
    assert "cpu" in [change.name for change in found[1].changes]
    assert {"devices.strategy", "devices.count", "cpu"} <= {change.name for change in found[2].changes}


def test_the_tables_say_bytes_changes_speed_and_score(made) -> None:
    folder = made(*ROWS)
    lines = table(folder, "md").splitlines()
    head = next(line for line in lines if line.startswith("| row"))
    second = next(line for line in lines if line.startswith("| 2 |"))
    cells = dict(zip(head.split("|"), second.split("|"), strict=True))
    found = {name.strip(): value.strip() for name, value in cells.items()}
    assert found["peak (MiB)"] == "350.0 (-150.0)"
    assert found["optimizer state (MiB)"] == "50.0 (-150.0)"
    assert found["gradients (MiB)"] == "100.0"
    assert found["change of the peak (%)"] == "-30"
    assert found["speed (tokens/s)"] == "800 (x 0.80)"
    assert found["judge (%)"] == "90.0 (+0.0)"
    shown = table(folder, "text")
    assert "first to the last row: the peak goes from 500.0 MiB to 153.0 MiB (-69 %)." in shown.replace("\n", " ")
    assert "-150.0" in next(line for line in shown.splitlines() if "adamw → adamw_8bit" in line)


def test_workspaces_of_operators_are_told(made) -> None:
    held = result("full small fp32", sizes=(1, 1, 1), peak_unexplained_bytes=96 * MIB)
    folder = made(ROWS[0], held, *ROWS[2:])
    shown = table(folder, "md")
    head, second = (next(line for line in shown.splitlines() if line.startswith(start)) for start in ("| row", "| 2 |"))
    cells = dict(zip(head.split("|"), second.split("|"), strict=True))
    assert cells[" operator workspaces (MiB) "].strip() == "96.0"
    assert "Row 2: an operator allocated a workspace" in shown
    assert "workspace" not in table(made(*ROWS), "md")


def test_without_the_key_there_is_no_ladder(made) -> None:
    folder = made(*ROWS, kind=None)
    results = collect.collect(folder)
    assert ladder(results) == ()
    assert PageData(page.html(results)).core["ladder"] is None
    assert "| row" not in table(folder, "md")
    assert "ladder: previous" in importlib.import_module("peftbench.report.figures.memory_ladder").plan(results)
    assert any("optimizer" in text for text in findings(folder))


def test_settings_that_a_ladder_shows_are_no_finding_of_the_audit(made) -> None:
    assert findings(made(*ROWS)) == ()


def test_page_and_figure_have_the_same_rows(made) -> None:
    hostile = result("full <img src=x> fp32", sizes=(1, 1, 1), train={"optimizer": "</script><b>|x"})
    folder = made(ROWS[0], hostile, *ROWS[2:])
    results = collect.collect(folder)
    html = page.html(results)
    assert "</script><b>" not in html
    shown = PageData(html).core["ladder"]
    assert [bar["saved"] for bar in shown["bars"]] == [0, 397 * MIB, 0, 50 * MIB]
    assert shown["bars"][1]["label"] == "2  optimizer: </script><b>|x"
    assert len(shown["rows"][0]) == len(shown["heads"])
    assert "optimizer: adamw → \\</script\\>\\<b\\>\\|x" in table(folder, "md")
    plan = importlib.import_module("peftbench.report.figures.memory_ladder").plan(results)
    with mpl.rc_context(canvas.SETTINGS):
        figure = Figure(figsize=(6.8, plan.height(6.8)))
        FigureCanvasAgg(figure)
        plan.draw(figure, 6.8)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [bar["label"] for bar in shown["bars"]]
    saved = [patch.get_width() for patch in axes.containers[-1].patches]
    assert saved == [pytest.approx(bar["saved"] / MIB) for bar in shown["bars"]]


def test_the_key_is_recorded_with_the_grid_and_in_no_trials_key(tmp_path: Path) -> None:
    plain, asked = (tmp_path / f"{name}.yaml" for name in ("plain", "asked"))
    plain.write_text(SUITE)
    asked.write_text(SUITE + "ladder: first\n")
    suites = [suite.load(str(path)) for path in (plain, asked)]
    assert [each.ladder for each in suites] == [None, "first"]
    keys = [[trial_key.key(trial, "b", "d") for trial in expand(each, "cpu")] for each in suites]
    assert keys[0] == keys[1]
    record_grid(tmp_path, ["k"], "peftbench run x", ladder="first")
    assert recorded_grid(tmp_path).ladder == "first"
    damaged = json.loads((tmp_path / "grid.json").read_text()) | {"ladder": ["<b>"]}
    (tmp_path / "grid.json").write_text(json.dumps(damaged))
    assert recorded_grid(tmp_path).ladder is None
    asked.write_text(SUITE + "ladder: last\n")
    with pytest.raises(UserError, match=r"ladder.*'last'.*previous"):
        suite.load(str(asked))


def test_each_cell_of_the_shipped_ladder_is_the_one_above_it_with_one_change() -> None:
    shipped = suite.load("memory_ladder")
    assert shipped.ladder == "previous"
    trials = expand(shipped, "cpu")
    assert len(trials) > 10
    for above, one in itertools.pairwise(trials):
        settings = [asdict(trial.training) | {"precision": trial.precision} for trial in (above, one)]
        changed = {name for name, value in settings[1].items() if value != settings[0][name]}
        changed |= {"method"} if above.method != one.method else set()
        assert len(changed) == 1 or changed == {"method", "precision"}, changed  # qlora is a method of 4 bits


def test_each_saving_of_the_shipped_suite_is_one_change_of_the_first_cell() -> None:
    shipped = suite.load("memory_savings")
    assert shipped.ladder == "first"
    first, *others = expand(shipped, "cpu")
    for one in others:
        settings = [asdict(trial.training) | {"precision": trial.precision} for trial in (first, one)]
        changed = {name for name, value in settings[1].items() if value != settings[0][name]}
        changed |= {"method"} if first.method != one.method else set()
        assert len(changed - {"clip_norm"}) == 1 or changed == {"method", "precision"}, changed
    assert {one.unsupported for one in others} == {None}


@pytest.mark.browser
def test_the_ladder_is_open_on_the_page_and_fits_a_phone(made, tmp_path: Path) -> None:
    address = render(made(*ROWS), tmp_path / "page.html").as_uri()
    drawn = "details[data-section=ladder][open] canvas"
    with chromium.started() as browser:
        opened = chromium.opened(browser, address, width=390)
        opened.wait_for_selector(drawn, timeout=chromium.PATIENCE)
        assert opened.locator("details[data-section=ladder] tbody tr").count() == len(ROWS)
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        opened.click("#theme")  # draws it again, with one table
        opened.wait_for_selector(drawn, timeout=chromium.PATIENCE)
        assert opened.locator("details[data-section=ladder] table").count() == 1
        assert opened.locator("details[data-section=ladder] .trouble").count() == 0
        assert opened.troubles == []


def _unscored() -> list[Result]:
    """Rows of a base model with random weights, named so that their order in the alphabet is another."""
    names = ("full plain fp32", "full micro_batch_size=none fp32", "full eight fp32")
    random = {"base": {"random_weights": True}, "evaluate": ["judge"]}
    found = []
    for name, size in zip(names, (200, 100, 50), strict=True):
        one = result(name, sizes=(1, size, 1), train={"micro_batch_size": 32}, scores={})
        settings = json.loads(one.row.settings_json) | random
        found.append(replace(one, row=replace(one.row, settings_json=json.dumps(settings))))
    return found


def test_what_random_weights_were_not_scored_on_is_no_task_and_the_answer_says_why(made) -> None:
    results = collect.collect(made(*_unscored()))
    assert results.tasks == ()
    assert [cell.name for cell in results.cells] == [each.row.cell for each in _unscored()], "the order of the suite"
    assert list(display_names(results.cells).values())[1] == "full fine-tuning micro_batch_size=32"
    assert text(results, Question()) == "No answer: nothing was scored, as the base model has random weights.\n"
    brief = table(results.folder, "brief")
    assert "Nothing was scored; one seed per cell." in brief
    assert "tests" not in brief
    assert "No significance tests" not in table(results.folder, "text")


@pytest.mark.browser
def test_the_page_of_a_ladder_without_scores_begins_with_it(made, tmp_path: Path) -> None:
    address = render(made(*_unscored()), tmp_path / "page.html").as_uri()
    with chromium.started() as browser:
        opened = chromium.opened(browser, address, width=1280)
        opened.wait_for_selector("details[data-section=ladder][open] canvas", timeout=chromium.PATIENCE)
        sections = opened.locator("main > section")
        assert sections.nth(1).get_attribute("aria-label") == "ladder of memory"
        assert not opened.is_visible("#plot")
        assert not opened.is_visible("#within")
        heads = opened.locator("#table thead th").all_text_contents()
        assert not any(head.startswith(("score", "within")) for head in heads)
        assert opened.locator("#table tbody td:first-child").all_text_contents() == [
            "full fine-tuning plain",
            "full fine-tuning micro_batch_size=32",
            "full fine-tuning eight",
        ]
        assert opened.troubles == []
