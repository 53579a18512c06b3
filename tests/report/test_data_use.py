"""Notes on training data, and the counts in the columns behind them."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from peftbench.records import Example
from peftbench.report.notes import data_use
from peftbench.tasks import overlap


def row(cell="lora", steps=10, truncated=0, prompts=0, exact=0, ngram=0, scored=500, **changes) -> dict:
    seen = {"trec": {"examples": 1200, "drawn": 2760, "distinct": 1200, "truncated": truncated}}
    shared = {"trec": {"examples": scored, "exact": exact, "ngram": ngram, "words": 13}}
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


def notes(*rows: dict) -> tuple[str, ...]:
    return data_use.sentences(pd.DataFrame([BASE, *rows]))


def test_more_steps_than_data_are_reported_as_epochs():
    first, *_ = notes(row(), row("full"))
    assert first == (
        "Training data of every trial: 10 steps, 2,760 examples (1,200 distinct): 2.3 epochs of trec (1,200 examples); "
        "9,000 non-padding tokens, of which 700 contribute to the loss."
    )


def test_cells_with_different_amounts_of_data_have_a_note_each():
    first, second, *_ = notes(row(), row("full", steps=20, loss_tokens=5), row("full", steps=20, loss_tokens=9))
    assert first.startswith("Training data of lora: 10 steps")
    assert second.startswith("Training data of full: 20 steps")
    assert second.endswith("of which 5 to 9 contribute to the loss.")


def test_truncated_examples_are_counted_over_the_seeds_and_named_by_cell():
    assert notes(row())[1] == "No example was dropped or truncated, in training or in evaluation."
    seeds = row(truncated=1), row(truncated=2)
    assert notes(*seeds)[1] == (
        "Truncated on the left: training examples, to the sequence length: 3 of 5,520 of trec (0.054 %). "
        "No example was dropped."
    )
    text = notes(*seeds, row("full"), row("wide", prompts=4))[1]
    assert "to the sequence length: 3 of 5,520 of trec (0.054 %) (lora);" in text
    assert "scored prompts, to evaluation's maximum length: 4 of 500 of trec." in text


def test_overlap_and_its_absence_are_reported():
    assert notes(row(exact=11, ngram=12))[2] == (
        "Overlap of scored and training data: 11 of 500 scored prompts of trec are training prompts word for word, "
        "1 more share 13 consecutive words with one."
    )
    only = "The only scored prompt is neither a training prompt nor shares 13 consecutive words with one."
    assert notes(row(scored=1))[2] == only
    assert notes(row())[2] == "None of 500 scored prompts is a training prompt or shares 13 consecutive words with one."


def test_rows_that_are_older_than_the_columns_have_no_notes():
    assert notes(row(data_seen_json=None, overlap_json=None)) == ()
    assert notes() == ()


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


def test_what_truncated_examples_lost_is_said_in_words():
    seen = {"trec": {"examples": 9, "drawn": 100, "distinct": 9, "truncated": 6, "lost": {"prompt_start": 3}}}
    seen["trec"]["lost"] |= {"whole_prompt": 2, "answer_part": 1}
    scores = {"trec": {"truncated_prompts": 5, "lost_prompts": 2, "examples": 500}}
    text = notes(row(data_seen_json=json.dumps(seen), scores_json=json.dumps(scores)))[1]
    assert text == (
        "Truncated on the left: training examples, to the sequence length: 6 of 100 of trec (6 %: 3 lost the start of "
        "the prompt, 2 lost the whole prompt, 1 lost the prompt and a part of the answer); scored prompts, to "
        "evaluation's maximum length: 5 of 500 of trec (3 lost the start of the prompt, 2 the whole prompt). No "
        "example was dropped."
    )


def test_a_text_that_a_head_reads_loses_its_end():
    seen = {"glue": {"examples": 9, "drawn": 100, "distinct": 9, "truncated": 3, "lost": {"text_end": 3}}}
    scores = {"glue": {"truncated_prompts": 1, "lost_prompts": 0, "examples": 872}}
    given = {"data_seen_json": json.dumps(seen), "scores_json": json.dumps(scores), "head_parameters": 16770}
    assert notes(row(**given))[1] == (
        "Truncated on the right: training examples, to the sequence length: 3 of 100 of glue (3 %: 3 lost the end of "
        "the text); scored texts, to evaluation's maximum length: 1 of 872 of glue (1 lost the end of the text). No "
        "example was dropped."
    )
