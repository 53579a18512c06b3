"""Cells without any finished trial, scores at the floor, and heads of tasks with long names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from peftbench import cli
from peftbench.report import render, table
from peftbench.report.answer import record
from peftbench.report.collect import collect
from peftbench.report.derived import commands
from peftbench.report.derived.answer import answer
from peftbench.report.not_run import not_run
from peftbench.report.notes import voids
from peftbench.report.notes.answer import lines
from peftbench.report.notes.overview import overview
from peftbench.report.payload import questions
from peftbench.report.payload.overview import status
from peftbench.report.tables.heads import heads_of
from peftbench.results.answer.decision import Question
from peftbench.results.store import CellAxes, record_grid, recorded_grid
from tests.support import chromium
from tests.support.answer_cases import trials
from tests.support.results_factory import make_result, store

COMMAND = "peftbench run x.yaml"
AXES = {
    "full fp32": CellAxes("full", "fp32", None),
    "adapter r=8 fp32": CellAxes("adapter", "fp32", 8),
    "lora r=8 fp32": CellAxes("lora", "fp32", 8),
    "base fp32": CellAxes("base", "fp32", None),
}


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as found:
        yield found


@pytest.fixture
def started(tmp_path):
    """A grid of four cells of two seeds: full has one, adapter failed, lora and the base have not run."""
    (full,) = trials("full fp32", [0.9])
    failed = [make_result("adapter r=8 fp32", "adapter", rank=8, seed=seed, status="oom") for seed in range(2)]
    folder = store(tmp_path / "r", full, *failed)
    cells = {made.row.key: made.row.cell for made in (full, *failed)}
    cells |= {"f" * 16: "full fp32", "a" * 16: "lora r=8 fp32", "b" * 16: "lora r=8 fp32", "c" * 16: "base fp32"}
    record_grid(folder, list(cells), COMMAND, cells=cells, axes=AXES)
    return folder


def test_the_tables_show_cells_without_a_finished_trial_with_their_status(started):
    rows = {line[:22].strip(): line.split() for line in table(started, "brief").splitlines()}
    assert rows["LoRA r=8"][-3:] == ["0/2", "not", "run"]
    assert rows["untuned base"][-3:] == ["0/1", "not", "run"]
    assert rows["bottleneck adapter r=8"][-2:] == ["0/2", "oom"]
    assert rows["full fine-tuning"][-1] == "1"
    names = [line.split()[0] for line in table(started, "brief").splitlines()[3:9]]
    assert names[-2:] == ["majority", "chance"], "the references stay last"
    assert "| LoRA r=8 |" in table(started, "md")
    assert "0 of 2 (not run)" in table(started, "md")
    assert "\nlora r=8 fp32,lora,fp32,8,,," in table(started, "csv")
    assert "\nbase fp32,base,fp32,,,," in table(started, "csv")
    assert "not run" in table(started, "tex")


def test_a_cell_that_ran_on_one_base_only_has_not_run_on_the_other(tmp_path):
    each = (("full fp32", "full", "a"), ("full fp32", "full", "b"), ("lora r=8 fp32", "lora", "a"))
    made = [make_result(cell, method, key=f"{n}" * 32) for n, (cell, method, _) in enumerate(each)]
    made = [replace(one, row=replace(one.row, base=base)) for one, (*_, base) in zip(made, each, strict=True)]
    folder = store(tmp_path / "r", *made)
    keys = [*(one.row.key for one in made), "e" * 16, "f" * 16]
    cells = dict(zip(keys, [*(one.row.cell for one in made), "lora r=8 fp32", "full fp32"], strict=True))
    bases = dict(zip(keys, [*(base for *_, base in each), "b", "b"], strict=True))
    record_grid(folder, keys, COMMAND, cells=cells, bases=bases, axes=AXES)
    (found,) = not_run(collect(folder)).values()
    assert (found.name, found.title, found.trials) == ("lora r=8 fp32 (b)", "LoRA r=8 on b", 1)
    assert "0/1 not run" in table(folder, "brief")
    record_grid(folder, keys, COMMAND, cells=cells)
    assert not_run(collect(folder)) == {}, "older folders do not say which"


@pytest.mark.browser
def test_the_pages_table_has_them_last_with_their_status(browser, started):
    from playwright.sync_api import expect

    page = chromium.opened(browser, render(started, started.parent / "p.html").as_uri(), "light", 1280)
    rows = page.locator("#table tbody tr")
    named = ["LoRA r=8 0/2 not run", "untuned base 0/1 not run"]
    expect(rows).to_have_count(4)
    expect(rows.nth(2).locator("td").first).to_have_text(named[0])
    expect(rows.nth(3).locator("td").nth(1)).to_have_text("–")
    for direction in ("ascending", "descending"):
        page.locator("#table thead th").first.click()
        expect(page.locator(f"#table thead th[aria-sort={direction}]")).to_contain_text("cell")
        assert sorted(rows.locator("td:first-child").all_inner_texts()[2:]) == named
    rows.nth(3).click()
    expect(page.locator("#trial-title")).to_be_hidden()
    page.select_option("#filter-method", "LoRA")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("0/2 not run")
    page.goto(f"{page.url.partition('#')[0]}#columns=rank,trials&method=LoRA")
    page.reload()
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("0 of 2 (not run)")
    page.click("#compare .menu:has([data-export]) summary")
    with page.expect_download() as loaded:
        page.click("#compare [data-export=csv][data-how=download]")
    assert Path(loaded.value.path()).read_text().splitlines()[1] == "LoRA r=8,,,,,8,0 of 2 (not run)"
    page.context.close()
    assert page.troubles == []


@pytest.mark.browser
def test_the_pages_table_marks_cells_of_fewer_seeds_and_its_answer_finishes_the_run_first(browser, tmp_path):
    from playwright.sync_api import expect

    each = [*trials("full fp32", [0.7, 0.78, 0.8]), *trials("lora r=8 fp32", [0.8, 0.75]), *trials("base fp32", [0.4])]
    folder = store(tmp_path / "r", *each)
    cells = {made.row.key: made.row.cell for made in each}
    record_grid(folder, [*cells, "f" * 16], COMMAND, cells={**cells, "f" * 16: "lora r=8 fp32"})
    page = chromium.opened(browser, render(folder, tmp_path / "p.html").as_uri(), "light", 1280)
    score = {name: page.locator("#table tbody tr", has_text=name).locator("td").nth(1) for name in ("LoRA", "full")}
    expect(score["LoRA"]).to_contain_text("(n=2)")
    expect(score["full"]).not_to_contain_text("n=")
    expect(page.locator("#table tbody tr", has_text="untuned").locator("td").nth(1)).not_to_contain_text("n=")
    said = "First finish the run, as 1 of its 7 trials has no result yet"
    expect(page.locator("#answer-words")).to_contain_text(f"{said}: {COMMAND}")
    page.fill("#within", "3")
    expect(page.locator("#answer-words")).to_contain_text(f"{said}. peftbench answer")
    page.context.close()
    assert page.troubles == []


def test_no_answer_names_the_cells_without_a_finished_trial(started):
    found = list(lines(answer(collect(started))))
    assert found[0].startswith("No answer: no cell has more than one finished seed, so what another seed would give")
    assert "No trial ended ok for bottleneck adapter r=8 (2 oom)." in found
    assert "Not run yet: LoRA r=8." in found
    assert found[-3:] == [
        "At least 2 seeds are needed, and 3 are usual.",
        "First finish the run, as 4 of its 7 trials have no result yet:",
        f"  {commands.whole(collect(started))}",
    ]
    assert found[-1].startswith(f"  {COMMAND}")


def test_an_unfinished_grid_is_finished_before_seeds_are_added(tmp_path):
    each = [*trials("full fp32", [0.7, 0.78, 0.8]), *trials("lora r=8 fp32", [0.8, 0.75])]
    folder = store(tmp_path / "r", *each)
    cells = {made.row.key: made.row.cell for made in each}
    record_grid(folder, [*cells, "f" * 16], COMMAND, cells={**cells, "f" * 16: "lora r=8 fp32"})
    found = answer(collect(folder))
    said = list(lines(found))
    assert said[-2:] == [
        "First finish the run, as 1 of its 6 trials has no result yet:",
        f"  {COMMAND} -o {folder}",
    ]
    needed = found.decision.needed.seeds
    assert said[-3] == f"About {needed} seeds (now 2 to 3) would decide it in 80 % of cases (--seeds {needed})."
    recorded = record(collect(folder), Question())
    assert (recorded["missing_trials_count"], recorded["not_run_cells"]) == (1, [])
    assert overview(collect(folder)).endswith("5 of 6 trials ended ok, none failed, 1 missing.")
    (chip,) = (one["text"] for one in status(collect(folder)) if one["title"] == "trials")
    assert chip == "5 of 6 ok, none failed, 1 missing"
    record_grid(folder, list(cells), COMMAND, cells=cells)
    whole = list(lines(answer(collect(folder))))
    assert not any("First finish" in line for line in whole)
    assert whole[-2] == f"About {needed} seeds (now 2 to 3) would decide it in 80 % of cases:"


def test_what_an_older_folder_does_not_say_of_its_cells_is_unknown(started):
    grid = started / "grid.json"
    found = json.loads(grid.read_text())
    assert recorded_grid(started).axes == AXES
    damaged = {"method": "lora", "precision": "fp32", "rank": "8"}
    for axes in ({}, ["damaged"], {"lora r=8 fp32": damaged, "base fp32": "damaged"}):
        grid.write_text(json.dumps({**found, "axes": axes}))
        lora, base = not_run(collect(started)).values()
        assert (lora.title, lora.method, lora.precision, lora.rank) == ("lora r=8 fp32", "lora", None, None)
        assert base.is_base
    assert "\nlora r=8 fp32,lora,,,,," in table(started, "csv")


def test_the_rank_is_not_read_from_the_name(started):
    cells = {"d" * 16: "lora r=64 r=8 my-r=5 fp32"}
    axes = {"lora r=64 r=8 my-r=5 fp32": CellAxes("lora", "fp32", 5)}
    record_grid(started, [*recorded_grid(started).keys, *cells], COMMAND, cells=cells, axes=axes)
    (found,) = not_run(collect(started)).values()
    assert (found.rank, found.title) == (5, "LoRA r=64 r=8 my-r=5")


def test_a_folder_without_the_names_of_its_cells_is_read_as_before(started):
    keys = recorded_grid(started).keys
    record_grid(started, keys, COMMAND)
    assert not_run(collect(started)) == {}
    assert "LoRA" not in table(started, "brief")
    grid = started / "grid.json"
    grid.write_text(json.dumps({**json.loads(grid.read_text()), "cells": ["damaged"]}))
    assert recorded_grid(started).cells == {}


def without_levels(results):
    """Return results of a task for which neither chance nor majority is defined, as for generation."""
    return [
        replace(made, scores=tuple(replace(score, chance=None, majority=None) for score in made.scores))
        for made in results
    ]


def test_scores_of_zero_everywhere_are_a_warning_of_every_command(tmp_path, capsys):
    cells = without_levels([*trials("full fp32", [0.0], "describe"), *trials("lora r=8 fp32", [0.0, 0.0], "describe")])
    folder = store(tmp_path / "r", *cells, tasks=("describe",))
    said = "Warning: describe: every tuned cell scores 0, so nothing is compared; more steps may change that."
    assert voids.warnings(collect(folder)) == (said,)
    assert table(folder, "brief").splitlines()[0] == said
    assert cli.main(["answer", str(folder)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == said
    assert printed[1].startswith("No answer: every tuned cell scores 0")
    assert record(collect(folder), Question())["warnings"] == [said]


def test_cells_that_all_score_zero_are_not_near_the_best_because_they_are_equal(tmp_path):
    cells = without_levels(
        [*trials("full fp32", [0.0] * 3, "describe"), *trials("lora r=8 fp32", [0.0] * 3, "describe")]
    )
    results = collect(store(tmp_path / "r", *cells, tasks=("describe",)))
    found = answer(results)
    assert (found.decision.status, found.decision.refusal) == ("refused", "all zero")
    assert questions.task(results, found, questions.ROOM) is None  # the page's table has no probabilities
    for format in ("brief", "text", "md"):
        text = table(results.folder, format)
        assert "✓" not in text, format
        assert "P(" not in text, format


def test_a_warning_about_a_task_with_a_long_name_is_not_cut_within_a_word(tmp_path):
    task = "mmlu_high_school_physics"
    folder = store(tmp_path / "r", *without_levels(trials("full fp32", [0.0], task)), tasks=(task,))
    said = f"Warning: {task}: every tuned cell scores 0, so nothing is compared."
    assert voids.warnings(collect(folder)) == voids.at_the_floor(collect(folder)) == (said,)


def test_some_scores_of_zero_are_named(tmp_path):
    cells = without_levels([*trials("full fp32", [0.4], "describe"), *trials("lora r=8 fp32", [0.0], "describe")])
    folder = store(tmp_path / "r", *cells, tasks=("describe",))
    assert voids.warnings(collect(folder)) == ("Warning: describe, at the lowest possible score: LoRA r=8.",)
    assert voids.at_the_floor(collect(folder)) == ()


@pytest.mark.parametrize(
    ("tasks", "heads"),
    [
        (["judge", "compute"], ["judge\n%", "compute\n%"]),
        (["instruction-data"], ["instruction-\ndata %"]),
        (["mmlu_high_school_physics", "mmlu_high_school_biology"], ["…physics\n%", "…biology\n%"]),
        (["mmlu_physics", "mmlu_high_school_biology"], ["…physics\n%", "…high_school_\nbiology %"]),
        (["averyveryverylongname"], ["averyveryverylongname\n%"]),
        (["data_of_mine", "data_of_mine_again"], ["…mine\n%", "…mine_again\n%"]),
        (["same_words", "same_words_of_mine_again"], ["…words\n%", "…words_of_\nmine_again %"]),
    ],
)
def test_heads_of_tasks_keep_what_tells_them_apart(tasks, heads):
    assert list(heads_of(tasks).values()) == heads


def test_the_table_shows_a_long_name_whole(tmp_path):
    made = make_result(scores={"instruction-data": 0.5})
    lines_ = table(store(tmp_path / "r", made, tasks=("instruction-data",)), "brief").splitlines()
    assert "instruction-" in lines_[0]
    assert "data %" in lines_[1]
