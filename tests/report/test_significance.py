"""Intervals, ties and significance that reports and comparisons derive from stored outcomes."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from pathlib import Path

import pandas as pd
import pytest

from peftbench.report.collect import MEAN, Results, collect, from_tables
from peftbench.report.derived.significance import significance
from peftbench.report.notes.significance import GOOD, notes
from peftbench.report.tables import comparison, writers
from peftbench.results.store import write
from peftbench.results.watch.comparison import compare
from tests.support.results_factory import make_result
from tools.docs import reference


@pytest.fixture(scope="module")
def quickstart() -> Results:
    return collect(reference.RESULTS / "quickstart")


def again(results: Results, rows: pd.Series | None = None, examples: pd.DataFrame | None = None) -> Results:
    """Return the results of some rows or other examples."""
    trials = results.trials.drop(columns=f"score_{MEAN}")
    given = results.examples if examples is None else examples
    return from_tables(trials if rows is None else trials[rows], results.steps, given)


def only(results: Results, *cells: str) -> Results:
    return again(results, results.trials["cell"].isin(cells))


def test_a_score_has_the_interval_of_the_crossed_model_and_no_mark(quickstart):
    table, known = comparison.table(quickstart), significance(quickstart)
    text = writers.write(table, "text")
    assert max(map(len, text.splitlines())) <= 120
    assert known.rankings.keys() == {*quickstart.tasks, MEAN}
    for row in table.rows:
        for value in row.values[1 : 2 + len(quickstart.tasks)]:
            assert "*" not in value.text + (value.short or "")
            if row.cell is not None:
                mean, _, low, high = value.raw
                assert 0 <= low <= mean <= high <= 1
                assert f"[{100 * low:.1f}, {100 * high:.1f}]" in value.text
    assert (
        "Tests and 95 % intervals (in brackets on the page and in Markdown) account for variation over seeds and "
        "over test examples." in text.replace("\n", " ")
    )


def test_csv_has_the_interval_and_the_front_as_numbers(quickstart):
    (row, *_) = list(csv.DictReader(io.StringIO(writers.write(comparison.table(quickstart), "csv"))))[1:]
    assert float(row["score_judge_low"]) < float(row["score_judge_mean"]) <= float(row["score_judge_high"])
    assert all(0 <= float(row[f"on_front_by_{cost}"]) <= 1 for cost in ("memory", "time", "parameters"))


@pytest.mark.parametrize(("source", "workers", "counts"), [("nvml", 1, True), ("rapl", 1, True), ("rapl", 2, False)])
def test_energy_has_a_front_only_if_it_was_measured_for_the_trial_alone(quickstart, source, workers, counts):
    trials = quickstart.trials.drop(columns=f"score_{MEAN}").assign(energy_source=source, workers=workers)
    trials["train_energy_joules"] = trials["train_seconds"].astype(float) * 2
    assert "energy" not in significance(quickstart).fronts
    known = significance(from_tables(trials, quickstart.steps, quickstart.examples)).fronts
    assert ("energy" in known) == counts
    assert not counts or known["energy"] == known["time"], "as much energy as time"


def test_without_outcomes_the_table_has_neither_marks_nor_intervals(quickstart):
    bare = again(quickstart, examples=quickstart.examples.head(0))
    table = comparison.table(bare)
    assert significance(bare).rankings == {}
    text = writers.write(table, "text") + writers.write(table, "csv")
    assert GOOD not in text
    assert "P(2)" not in text
    assert "new examples" not in text
    assert "_low" not in text
    assert "on_front" not in text


def test_one_cell_without_outcomes_removes_all_intervals(quickstart):
    key = quickstart.trials[quickstart.trials["cell"] == "lora r=8 fp32"]["key"].iloc[0]
    some = quickstart.examples[quickstart.examples["key"] != key]
    assert significance(again(quickstart, examples=some)).rankings == {}


def test_a_cell_is_significantly_best_only_if_it_differs_from_all_others(quickstart):
    clear = only(quickstart, "base fp32", "full fp32")
    assert significance(clear).rankings["judge"].significantly_best == "full fp32"
    alike = only(quickstart, "full fp32", "full bf16")
    assert significance(alike).rankings["judge"].significantly_best is None


def test_the_notes_name_the_cells_below_the_reference_and_the_detectable_difference(quickstart):
    found = significance(quickstart)
    text = " ".join(notes(found))
    assert "Significantly below full fp32 on the mean over tasks (Holm-adjusted p < 0.05): base fp32, prompt" in text
    assert found.sensitivity is not None
    assert (found.sensitivity.seeds, found.sensitivity.examples, found.sensitivity.comparisons) == (3, 300, 13)
    assert (
        "Minimum detectable difference with 3 seeds and 300 examples: "
        f"{100 * found.sensitivity.detectable:.1f} points (80 % power, 13 comparisons, Holm)."
    ) in text
    assert found.sensitivity.largest_gap > found.sensitivity.detectable, "so that the text needs no warning"
    assert "largest observed" not in text
    one = only(quickstart, "base fp32", "lora r=8 fp32")
    assert "full fp32" not in " ".join(notes(significance(one))), "there is no full fine-tuning in this table"


def test_a_table_whose_differences_are_too_small_names_the_seeds_it_would_take(quickstart):
    near = significance(only(quickstart, "full fp32", "lora r=32 fp32", "adapter r=64 fp32"))
    text = " ".join(notes(near))
    assert "No cell differs significantly from full fp32 on the mean over tasks (Holm-adjusted p < 0.05)." in text
    assert near.sensitivity is not None
    assert 0 < near.sensitivity.largest_gap < near.sensitivity.detectable
    largest = f"The largest observed difference is {100 * near.sensitivity.largest_gap:.1f} points; "
    assert f"{largest}detecting it would take about {near.sensitivity.seeds_needed} seeds." in text
    gone = dataclasses.replace(near, sensitivity=dataclasses.replace(near.sensitivity, seeds_needed=None))
    assert "points; no number of seeds would detect it with so few examples." in " ".join(notes(gone))


def test_results_that_cannot_tell_methods_apart_are_called_that(quickstart):
    known = significance(only(quickstart, "full fp32", "lora r=32 fp32", "adapter r=64 fp32"))
    blind = dataclasses.replace(known.sensitivity, detectable=math.inf, undetectable=True, seeds_needed=None)
    text = " ".join(notes(dataclasses.replace(known, sensitivity=blind)))
    assert (
        "These results cannot tell methods apart: with 3 seeds and 300 examples, no difference in score would" in text
    )
    assert "no number of seeds would detect it with so few examples." in text
    assert "more than 100" not in text


def test_a_single_seed_generalizes_to_new_examples_only(quickstart):
    known = significance(again(quickstart, quickstart.trials["seed"].isna() | (quickstart.trials["seed"] == 0)))
    assert "account for variation over test examples only: each cell has one seed." in " ".join(notes(known))
    assert all(found.significantly_best is None for found in known.rankings.values())


def test_a_cell_with_a_single_seed_among_others_is_named_in_the_scope(quickstart):
    single = quickstart.trials["seed"].isna() | (quickstart.trials["seed"] == 0)
    known = significance(again(quickstart, single | (quickstart.trials["cell"] != "lora r=8 fp32")))
    assert "; those of cells with one seed, for variation over test examples only." in " ".join(notes(known))


def folder(place: Path, right: list[int], first_seed: int = 0) -> Path:
    """Write a cell of which each seed has the given number of 20 examples right, the first ones."""
    for seed, count in enumerate(right, first_seed):
        made = make_result(seed=seed, scores={"judge": count / 20}, examples=20)
        examples = tuple(
            dataclasses.replace(one, outcome=float(place < count)) for place, one in enumerate(made.examples)
        )
        write(place, dataclasses.replace(made, examples=examples), ["judge"])
    return place


@pytest.mark.parametrize(
    ("old", "new", "first_seed", "expected"),
    [
        ([10, 10, 10], [9, 9, 9], 0, "cannot tell"),  # every seed fell, but by one example of twenty
        ([18, 18, 18], [4, 4, 4], 0, "regressed"),
        ([18, 18, 18], [4, 4, 4], 3, "regressed"),
        ([18, 10, 4], [10, 4, 1], 3, "cannot tell"),
    ],
)
def test_compare_judges_scores_for_new_seeds_and_new_examples(tmp_path, old, new, first_seed, expected):
    found = compare(folder(tmp_path / "old", old), folder(tmp_path / "new", new, first_seed))
    assert next(each.verdict for each in found.findings if each.quantity.name == "score_judge") == expected
