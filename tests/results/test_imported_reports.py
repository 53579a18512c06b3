"""The peer's rows in reports: what is known stands under its own name, what is not is null, and the noise is said."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from peftbench import report
from peftbench.errors import UserError
from peftbench.report import answer, collect
from peftbench.report.derived import commands, rates, unequal_settings
from peftbench.report.derived.significance import significance
from peftbench.report.notes import unpaired as notes
from peftbench.report.payload import details
from peftbench.report.payload.attempt import Pieces
from peftbench.report.payload.columns import columns
from peftbench.results import store, unpaired
from peftbench.results.answer.decision import Question
from peftbench.results.imported import hf_method_comparison, writing
from tests.support.results_factory import make_result


@pytest.fixture(scope="module")
def july(peer, tmp_path_factory):
    place = tmp_path_factory.mktemp("july")
    return writing.write(hf_method_comparison.read([peer / "july_2026"]), place)[0]


@pytest.fixture(scope="module")
def all_63(peer, tmp_path_factory):
    place = tmp_path_factory.mktemp("all")
    return writing.write(hf_method_comparison.read([peer / "all_results.csv"]), place)[0]


def test_training_seconds_are_the_steps_and_the_rest_is_a_column(july, peer):
    row = store.read_trials(july).set_index("cell").loc["lora rank32"]
    stored = json.loads((peer / "july_2026" / "lora--llama-3.2-3B-rank32.json").read_bytes())["train_info"]
    steps = math.fsum(each.get("train time", 0.0) for each in stored["metrics"])
    assert row["train_seconds"] == pytest.approx(steps)
    assert row["train_seconds"] + row["not_training_seconds"] == pytest.approx(stored["train_time"])
    assert row["validate_seconds"] == pytest.approx(math.fsum(each.get("eval time", 0.0) for each in stored["metrics"]))


def test_a_size_that_was_computed_and_not_measured_is_null(july, all_63):
    for folder in (july, all_63):
        rows = store.read_trials(folder).set_index("cell")
        assert rows["checkpoint_bytes"].isna()["full-finetuning lr_0.00001"]
        assert rows.loc["lora rank32", "checkpoint_bytes"] == 36715216
        assert rows.loc["full-finetuning lr_0.00001", "precision"] == "bf16-true"
        assert rows.loc["lora rank32", "precision"] == "bf16"


def test_the_table_of_all_runs_agrees_with_the_files(july, all_63):
    files, table = (store.read_trials(folder).set_index("cell") for folder in (july, all_63))
    assert len(table) == 63
    exact = [
        "score_gsm8k",
        "peak_run_reserved_bytes",
        "trainable_parameters",
        "rank",
        "steps_done",
        "nonpadding_tokens",
    ]
    common = files.index.drop("adaptionprompt lr_5e-3")  # rerun in between: its memory differs
    for name in exact:
        assert files.loc[common, name].astype(float).equals(table.loc[common, name].astype(float)), name
    assert np.allclose(files.loc[common, "train_seconds"], table.loc[common, "train_seconds"], atol=0.1)
    assert np.allclose(files.loc[common, "not_training_seconds"], table.loc[common, "not_training_seconds"], atol=0.1)


def test_the_learning_curve_is_in_steps(july):
    tables = store.read(july)
    key = tables.trials.set_index("cell").loc["lora rank32", "key"]
    steps = tables.steps[tables.steps["key"] == key].sort_values("step")
    assert steps["step"].tolist() == list(range(250, 5001, 250))
    assert set(steps["covered_steps"]) == {250}
    assert steps["validation_score"].iloc[0] == 0.32
    assert steps["nonpadding_tokens"].sum() == pytest.approx(4198051, rel=1e-6)
    assert (
        steps[["learning_rate", "gradient_norm", "processed_tokens", "loss_tokens", "validation_loss"]]
        .isna()
        .all()
        .all()
    )
    row = tables.trials.set_index("cell").loc["lora rank32"]
    assert row["last_loss"] == pytest.approx(steps["loss"].iloc[-2:].mean()), "a tenth of 5000 steps are two intervals"


def test_a_row_that_stands_for_many_steps_gives_a_rate_and_no_step_times(july):
    results = collect.collect(july)
    cell = next(cell for cell in results.cells if cell.name == "lora rank32")
    found = rates.trial_steps(results, cell.ok_rows[0]["key"])
    assert found is not None
    assert found.n == 5000
    assert found.rate == pytest.approx(cell.mean("tokens_per_second"), rel=1e-4)
    assert math.isnan(found.median)
    curve = next(curve for curve in details.curves(results) if curve)
    assert (curve["first"], curve["every"], len(curve["loss"])) == (250, 250, 20)
    assert None not in curve["loss"]


def test_the_peers_memory_shares_no_column_with_ours(july, tmp_path):
    store.write(tmp_path / "ours", make_result())
    found = {}
    for folder in (july, tmp_path / "ours"):
        results = collect.collect(folder)
        found[folder] = {c.name for c in columns(results, significance(results), Pieces()) if c.group == "Memory"}
    assert "peak_run_reserved_bytes" in found[july]
    assert not found[july] & found[tmp_path / "ours"]
    text = report.tables_of([july, tmp_path / "ours"], "text")
    assert "other memory figure" in text
    assert "compares\nwith no peak of training" in text.replace("It compares with", "It compares\nwith")


def test_what_differs_among_the_peers_runs_is_named(july):
    groups = unequal_settings.audit(collect.collect(july)).groups
    fields = {field.name: dict(field.values) for group in groups for field in group if field.kind == "options"}
    assert set(fields) >= {"options.target_modules", "options.use_rslora", "options.scaling"}
    assert set(fields["options.use_rslora"]) == {"yes", "no"}
    assert "options.r" not in fields


def test_options_of_our_own_suites_are_not_part_of_the_audit(tmp_path):
    for seed, alpha in enumerate((8, 16)):
        settings = json.dumps({"options": {"alpha": alpha}})
        result = make_result(cell=f"lora alpha={alpha}", seed=seed, settings_json=settings)
        store.write(tmp_path / "ours", result)
    groups = unequal_settings.audit(collect.collect(tmp_path / "ours")).groups
    assert not [field for group in groups for field in group if field.kind == "options"]


def test_no_command_is_shown_that_would_make_imported_rows(july):
    results = collect.collect(july)
    assert commands.whole(results) == commands.again(results) == ""


def test_all_63_runs_have_a_report_and_an_answer_that_says_what_is_noise(all_63, tmp_path):
    text = report.table(all_63, "text")
    assert "19 of 62 other" in text
    page, short = report.publish(all_63, tmp_path / "page.html", "html")
    assert "KeyError" not in page.read_text(encoding="utf-8")
    assert "reserved, whole" in short
    said = answer.text(collect.collect(all_63), Question())
    assert said.count("No answer") == 1
    assert "19 of 62 other cells cannot be told from the best" in " ".join(said.split())


def test_scores_compare_by_their_standard_errors():
    def sampled(score, n=1319):
        return unpaired.Sampled(score, math.sqrt(score * (1 - score) / n))

    found = unpaired.against_best({"a": sampled(0.50), "b": sampled(0.49), "c": sampled(0.40)})
    assert (found.best, found.like_best) == ("a", ("b",))
    # two samples of 1,319 at one half: 1.96 * sqrt(2 * 0.25 / 1319) = 3.816 points
    assert found.half_width == pytest.approx(0.03816, abs=1e-4)
    assert unpaired.p_of_difference(sampled(0.5), sampled(0.5)) == 1.0
    assert unpaired.against_best({"a": sampled(0.5)}) is None


def test_no_unpaired_comparison_of_our_own_rows_nor_of_several_seeds(tmp_path):
    for name in ("a", "b"):
        store.write(tmp_path / "ours", make_result(cell=name, scores={"judge": 0.5}))
        store.write(tmp_path / "one", make_result(cell=name, scores={"judge": 0.5}, examples=0, protocol=None))
        for seed in (0, 1):
            several = make_result(cell=name, seed=seed, scores={"judge": 0.5}, examples=0, protocol=None)
            store.write(tmp_path / "seeds", several)
    said = {folder: list(notes.notes(collect.collect(tmp_path / folder))) for folder in ("ours", "one", "seeds")}
    assert not said["ours"]
    assert not said["seeds"]
    assert "1 of 1 other cell cannot" in said["one"][0]


def test_a_table_with_a_word_where_a_number_belongs_is_named(tmp_path):
    table = tmp_path / "all.csv"
    table.write_text("file,date,test_accuracy,status\nlora--llama-3.2-3B-a.json,2026-07-14T13:26:19,high,success\n")
    with pytest.raises(UserError, match="line 2: test_accuracy is 'high', not a number"):
        hf_method_comparison.read([table])


def test_a_table_of_another_kind_says_what_tables_have(tmp_path):
    table = tmp_path / "other.csv"
    table.write_text("model,score\na,1\n")
    with pytest.raises(UserError, match="as a history it lacks commit_date, file, created, acc; a table of all result"):
        hf_method_comparison.read([table])


def test_a_run_that_failed_is_an_error_with_its_words(tmp_path):
    table = tmp_path / "all.csv"
    table.write_text("file,date,test_accuracy,status\nlora--llama-3.2-3B-a.json,2026-07-14,,canceled\n")
    (night,) = hf_method_comparison.read([table])
    (result,) = night.results
    assert (result.row.status, result.row.message) == ("error", "status canceled")
    assert writing.write([night], tmp_path / "out") == [tmp_path / "out" / "2026-07-14_all"]
    assert "score_gsm8k" in store.read_trials(tmp_path / "out" / "2026-07-14_all")
