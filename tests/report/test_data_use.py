"""What is said of the data that trials saw, and that the columns behind it are counted right."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from peftbench.records import Example
from peftbench.report.notes import data_use
from peftbench.tasks import overlap


def row(cell="lora", steps=10, truncated=0, prompts=0, exact=0, ngram=0, **changes) -> dict:
    seen = {"trec": {"examples": 1200, "drawn": 2760, "distinct": 1200, "truncated": truncated}}
    shared = {"trec": {"examples": 500, "exact": exact, "ngram": ngram, "words": 13}}
    found = {
        "cell": cell,
        "steps_done": steps,
        "examples_seen": 2760,
        "distinct_examples_seen": 1200,
        "nonpadding_tokens": 9000,
        "loss_tokens": 700,
        "data_seen_json": json.dumps(seen),
        "overlap_json": json.dumps(shared),
        "scores_json": json.dumps({"trec": {"truncated_prompts": prompts, "examples": 500}}),
    }
    return {**found, **changes}


BASE = row("base", **dict.fromkeys(("steps_done", "examples_seen", "data_seen_json", "overlap_json")))


def told(*rows: dict) -> tuple[str, ...]:
    return data_use.sentences(pd.DataFrame([BASE, *rows]))


def test_more_steps_than_data_is_told_as_passes():
    first, *_ = told(row(), row("full"))
    assert first == (
        "Every trial saw 10 steps and 2,760 examples, 1,200 of them distinct: 2.3 passes over the 1,200 examples of "
        "trec; 9,000 tokens without padding, of which 700 bore loss."
    )


def test_methods_that_saw_different_amounts_are_told_apart():
    first, second, *_ = told(row(), row("full", steps=20, loss_tokens=5), row("full", steps=20, loss_tokens=9))
    assert first.startswith("lora saw 10 steps")
    assert second.startswith("full saw 20 steps")
    assert second.endswith("of which 5 to 9 bore loss.")


def test_what_was_cut_is_counted_over_the_seeds_and_told_by_cell():
    assert told(row())[1] == "No example was dropped and none was cut, neither in training nor in evaluation."
    seeds = row(truncated=1), row(truncated=2)
    assert told(*seeds)[1] == (
        "Cut on the left: of the training examples 3 of 5,520 of trec (0.054 %), to the sequence length. "
        "No example was dropped."
    )
    text = told(*seeds, row("full"), row("wide", prompts=4))[1]
    assert "3 of 5,520 of trec (0.054 %) (lora), to the sequence length" in text
    assert "of the scored prompts 4 of 500 of trec, to the longest length of evaluation" in text


def test_overlap_is_told_and_its_absence_too():
    assert told(row(exact=11, ngram=12))[2] == (
        "Overlap of scored and training data: trec: of 500 scored prompts 11 are training prompts word for word, "
        "1 more have 13 words in a row of one."
    )
    assert told(row())[2] == "No scored prompt is a training prompt or has 13 words in a row of one."


def test_nothing_is_said_of_rows_that_are_older_than_the_columns():
    assert told(row(data_seen_json=None, overlap_json=None)) == ()
    assert told() == ()


def test_the_columns_count_what_was_drawn(tiny):
    from transformers import AutoTokenizer

    from peftbench.training import batches
    from tests.support import trials

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    examples = {
        "a": [Example(f"prompt {n} " + "long " * 40 * (n == 0), "answer") for n in range(3)],
        "b": [Example("other", "answer")],
    }
    mixed = (("a", 1.0), ("b", 1.0))
    training = replace(trials.TRAINING, steps=4, batch_size=2, data=mixed, sequence_length=24)
    plan = batches.draw_batches(examples, training, tokenizer, 0)
    _, work, data = batches.columns(batches.Prepared(plan, (), examples))
    seen = json.loads(data.data_seen_json)
    drawn = [e for step in plan for e in step]
    assert seen["a"]["drawn"] + seen["b"]["drawn"] == len(drawn) == work.examples_seen == 8
    assert seen["a"]["drawn"] == sum(e.identity[0] == "a" for e in drawn) > 0
    assert (seen["b"]["examples"], seen["b"]["distinct"], seen["b"]["truncated"]) == (1, 1, 0)
    assert seen["a"]["truncated"] == sum(e.identity == ("a", 0) for e in drawn) > 0
    assert work.truncated_examples == seen["a"]["truncated"]
    assert work.distinct_examples_seen == len({e.identity for e in drawn})


@pytest.mark.parametrize("method", ["lora", "base"])
def test_a_trials_overlap_is_of_all_it_trains_on(tmp_path, method):
    from tests.support import trials

    made = trials.trial(tmp_path, tmp_path, method)
    text = overlap.of_trial(made)
    if method == "base":
        assert text is None
        return
    assert json.loads(text)["colour"] == {"examples": 8, "exact": 8, "ngram": 8, "words": 13}
