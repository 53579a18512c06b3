"""Notes on untuned default rates, and on cells that learned nothing or fell below the untuned base model."""

from __future__ import annotations

import json

import pytest

from peftbench.report import collect
from peftbench.report.notes import brief, defaults, outcomes
from peftbench.report.page import html
from tests.support.results_factory import make_result, store

BASE = make_result("base bf16", "base", "bf16", None, None, scores={"judge": 0.6}, examples=400)
SEEN = {"judge": {"examples": 400, "drawn": 400, "distinct": 400, "truncated": 0}}


def tuned(cell="full bf16", score=0.3, **fields):
    fields = {"first_loss": 2.0, "last_loss": 1.0, "learning_rate": 1e-3, "steps_done": 300} | fields
    fields.setdefault("data_seen_json", json.dumps(SEEN))
    method, precision = cell.split()[0], cell.split()[-1]
    return make_result(cell, method, precision, None, 0, scores={"judge": score}, examples=400, **fields)


def results(tmp_path, *made, tasks=("judge",)):
    return collect.collect(store(tmp_path / "results", *made, tasks=tasks))


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"last_loss": 3.0}, "a learning rate that is too high (0.001), as the loss rose by 50 %"),
        ({"last_loss": 1.95, "steps_done": 20}, "too few steps (20)"),
        ({"last_loss": 1.95}, "a learning rate that is too low (0.001)"),
        (
            {"retention_loss_before": 2.0, "retention_loss_after": 3.0},
            "a learning rate that is too high (0.001): the loss on general text rose by 50 %",
        ),
        (
            {"data_seen_json": json.dumps({"judge": SEEN["judge"] | {"drawn": 2000}})},
            "overfitting, in 5.0 passes over the training examples",
        ),
        (
            {"data_seen_json": json.dumps({"judge": SEEN["judge"] | {"truncated": 100}})},
            "training examples that are truncated (25 % of them)",
        ),
        ({"data_seen_json": json.dumps({"other": SEEN["judge"]})}, "the cell was trained on other tasks only"),
        ({}, "a learning rate that is too high (0.001), or training examples unlike the scored ones"),
        ({"learning_rate": None, "data_seen_json": None, "first_loss": None}, "(unknown), or training examples"),
    ],
)
def test_a_cell_below_the_untuned_base_is_named_with_the_likely_cause(tmp_path, fields, cause):
    (note,) = outcomes.below_base(results(tmp_path, BASE, tuned(**fields)))
    assert note.startswith("Below the untuned base model on judge: full bf16 (30.0, the base 60.0). Likely cause: ")
    assert cause in note


def test_the_short_table_s_caution_names_them_too(tmp_path):
    assert next(iter(brief._caution(results(tmp_path / "a", BASE, tuned())))) == (
        "Below the untuned base model on a task: full bf16 (see the full table)."
    )
    assert outcomes.harmed(results(tmp_path / "b", BASE, tuned(score=0.59))) == ()


def test_a_small_difference_is_called_chance(tmp_path):
    (note,) = outcomes.below_base(results(tmp_path, BASE, tuned(score=0.59)))
    assert note.endswith("Likely cause: chance, since the difference is within the noise of 400 examples.")


def test_cells_above_the_base_or_without_one_have_no_note(tmp_path):
    assert not list(outcomes.below_base(results(tmp_path / "a", BASE, tuned(score=0.7))))
    assert not list(outcomes.below_base(results(tmp_path / "b", tuned(score=0.1))))


def test_a_loss_that_rose_is_named_with_the_likely_cause(tmp_path):
    rose, stayed = tuned(last_loss=2.5), tuned("lora bf16", last_loss=2.0, steps_done=8)
    found = list(outcomes.unlearned(results(tmp_path, BASE, rose, stayed)))
    assert found[0].startswith("Training did not lower the loss")
    assert (
        "Likely cause of that for full bf16: a learning rate that is too high (0.001), as the loss rose by 25 %."
        in (found)
    )
    assert "Likely cause of that for lora bf16: too few steps (8)." in found


def test_untuned_default_rates_and_other_defaults_are_stated_with_the_rule(tmp_path):
    why = {"learning_rate": "untuned default for a hidden size of 2,048", "steps": "one pass over 8 training examples"}
    fields = {"learning_rate_source": "rule", "defaults_json": json.dumps(why), "data_seen_json": None}
    fields["settings_json"] = json.dumps({"train": {"steps": 1, "learning_rate": 6.7e-5}, "evaluate": ["judge"]})
    full = tuned(score=0.7, **fields | {"learning_rate": 6.7e-5})
    lora = tuned("lora bf16", score=0.7, **fields | {"learning_rate": 6.5e-4})
    given = tuned("adapter bf16", score=0.7, learning_rate_source="suite", data_seen_json=None)
    found = results(tmp_path, BASE, full, lora, given)
    first, second = defaults.notes(found)
    assert first.startswith(
        "Untuned default rates: 6.7e-05 for full bf16; 0.00065 for lora bf16 (untuned default for a hidden size of "
        "2,048; width to the power -0.7"
    )
    assert "adapter" not in first
    assert second == "Not given by the suite: steps 1 (one pass over 8 training examples)."
    assert "Untuned default rates" in html(found)


def test_rows_without_the_columns_have_no_such_note(tmp_path):
    assert not list(defaults.notes(results(tmp_path, BASE, tuned(score=0.7))))
