"""The short table: at most 100 columns wide, with three notes of one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from peftbench import cli
from peftbench.records import Result
from peftbench.report import table
from peftbench.report.collect import MEAN, collect
from peftbench.results.store import record_grid
from tests.support.results_factory import make_grid, make_result, store
from tools.docs import reference


def notes(folder: Path) -> list[str]:
    return table(folder, "brief").splitlines()[-3:]


def trial(seed: int = 0, cell: str = "lora r=8 fp32", **columns: object) -> Result:
    return make_result(cell, seed=seed, scores={"judge": 0.5}, **columns)  # type: ignore[arg-type]


def test_the_brief_quickstart_table_has_the_scores_and_costs_that_decide():
    whole, brief = (table(reference.RESULTS / "quickstart", form).splitlines() for form in ("text", "brief"))
    assert max(map(len, brief)) <= 100
    results = collect(reference.RESULTS / "quickstart")
    scores = {cell.name: 100 * cell.trials["score_judge"].mean() for cell in results.cells if cell.method != "base"}
    majority = 100 * results.trials["majority_judge"].max()
    low = {"prompt tuning r=50": "prompt_tuning r=50 fp32", "LLaMA-Adapter r=10": "llama_adapter r=10 fp32"}
    assert {name for name, score in scores.items() if score <= majority} == set(low.values())
    each = ", ".join(f"{shown} ({scores[name]:.1f})" for shown, name in low.items())
    assert brief.pop(0) == f"Warning: judge, not above majority ({majority:.1f}): {each}."
    heads = ["cell", "describe", "compute", "judge", "mean", "P(within", "trainable", "peak", "train", "n"]
    assert brief[0].split() == heads
    rows = {line[:24].strip(): line.split() for line in whole[3:19]}
    for line in brief[3:17]:
        name, found = line[:24].strip(), line.split()
        train = rows[name][-4].partition("±")[0] if name != "untuned base" else "–"
        assert found[-1] == rows[name][-1]
        assert train in found
        assert found[-4 - ("k" in found)] in rows[name], "the probability of lying within 2 points"
    assert len(brief) == 3 + 16 + 1 + 3
    names = [line[:24].strip() for line in whole[3:17]]
    means = {name: cell.trials[f"score_{MEAN}"].mean() for name, cell in zip(names, results.cells, strict=True)}
    found = [line[:24].strip() for line in brief[3:17]]
    assert found == sorted(names, key=means.__getitem__, reverse=True), "equal ones in the order of methods"
    assert found != names, "sorted by score, not left in the order of methods"
    assert [line.split()[0] for line in brief[16:19]] == ["untuned", "majority", "chance"]
    tuned = results.trials[results.trials["method"] != "base"]
    waiting = (tuned["train_waiting_seconds"] / (tuned["train_seconds"] * tuned["threads"])).max()
    assert 0 < waiting < 0.05
    assert brief[-3:] == [
        "Scores in %, mean ± SD over 3 seeds: ROUGE-L (describe), exact match (compute), accuracy (judge).",
        "P(within 2): probability of lying within 2 points of the best; none is known to.",
        "Memory: training peak, tensor accounting. Times: 2 CPU threads; waiting for a CPU: at most "
        f"{100 * waiting:.0f} %.",
    ]


@pytest.mark.parametrize("name", ["nano_grid", "nano_tuning", "peft_zoo", "quickstart_avx2"])
def test_every_reference_table_fits_and_has_three_notes(name):
    lines = table(reference.RESULTS / name, "brief").splitlines()
    assert max(map(len, lines)) <= 100
    rules = [place for place, line in enumerate(lines) if line.startswith("─")]
    assert len(rules) == 2
    assert len(lines) == rules[1] + 4


def test_scores_of_single_tasks_give_way_to_their_mean_and_then_names_are_wrapped(tmp_path):
    scores = {f"task {n}": 0.5 for n in range(12)}
    rows = [make_result(cell, scores=scores) for cell in ("lora r=8 fp32", f"lora r=8 {'option=1 ' * 12}fp32")]
    lines = table(store(tmp_path / "r", *rows, tasks=tuple(scores)), "brief").splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == ["cell", "mean", "trainable", "peak", "train", "n"]
    assert sum("option=1" in line for line in lines) == 2
    assert lines[-3] == "Scores in %: one seed per cell."


def test_the_last_note_is_the_main_caution(tmp_path):
    other = trial(1, "full fp32", workers=1)
    busy = trial(train_waiting_seconds=1.0, train_seconds=1.0, threads=2)
    assert notes(store(tmp_path / "busy", busy))[-1].startswith("Memory: training peak")
    assert notes(store(tmp_path / "unequal", busy, other))[-1] == (
        "Not held equal, and not an axis of the grid: inputs (see the full table)."
    )
    failed = store(tmp_path / "failed", busy, trial(1, status="oom"), other)
    assert notes(failed)[-1] == "1 of 3 trials did not end ok; n: finished of all seeds."
    record_grid(failed, [*(made.row.key for made in (busy, other)), "to come"], "peftbench run x")
    assert notes(failed)[-1] == "1 of the grid's 3 trials has no result yet."


def test_without_outcomes_the_brief_table_names_no_test_and_says_why(tmp_path):
    made, other = make_result(), make_result("full fp32", "full")
    alone = notes(store(tmp_path / "alone", made))[1]
    assert alone == "No significance tests: fewer than two cells with scores."
    bare = [dataclasses.replace(each, examples=()) for each in (made, other)]
    found = notes(store(tmp_path / "bare", *bare))[1]
    assert found == "No significance tests: not every cell has the outcomes of all its examples."


def test_the_command_prints_and_writes_the_brief_table(tmp_path, capsys):
    folder = make_grid(tmp_path / "results", steps=1, examples=2)
    assert cli.main(["report", str(folder), "--format", "brief"]) == 0
    printed = capsys.readouterr().out
    assert cli.main(["report", str(folder), "--format", "brief", "-o", str(tmp_path / "table.txt")]) == 0
    assert (tmp_path / "table.txt").read_text() == printed == table(folder, "brief")
