"""What is said under a table about decoded answers, from what each score stores."""

from __future__ import annotations

import json
from types import SimpleNamespace

from peftbench.report.notes import answers

OUT = {"examples": 40, "stopped": 0, "longer": 9, "changed": 1, "unreachable": 10, "longest_tokens": 77}
IN = dict.fromkeys(OUT, 0)


def said(*cells):
    """The notes for cells, each a name and the scores of its trials."""

    frames = [
        SimpleNamespace(name=name, ok_rows=[{"scores_json": json.dumps(s)} for s in scores]) for name, scores in cells
    ]
    return list(answers.notes(SimpleNamespace(cells=frames)))


def score(targets=None, cut=None, **settings):
    return {"sums": {"targets": targets, "cut_answers": cut, "examples": 40, "settings": settings}}


def test_targets_out_of_reach_are_stated_once_for_all_cells():
    one = score(OUT, 0, stop=["\n"], max_new_tokens=64)
    assert said(("lora", [one, one]), ("full", [one])) == [
        "Targets that decoding cannot give, whatever a model learns: sums: 10 of 40 targets cannot be decoded: 9 that "
        "max_new_tokens cuts (64; the longest has 77 tokens); 1 that the tokenizer does not give back as they are."
    ]
    assert said(("lora", [score(IN, 0)])) == []


def test_answers_that_were_cut_are_counted_over_seeds_and_the_worst_cells_are_named():
    cells = [(f"cell {n}", [score(IN, n), score(IN, n)]) for n in range(1, 7)]
    assert said(*cells) == [
        "Decoded answers of sums that reached max_new_tokens before their end: cell 6 (12 of 80), cell 5 (10 of 80), "
        "cell 4 (8 of 80), cell 3 (6 of 80) and 2 more."
    ]


def test_decoding_with_the_bases_own_settings_is_stated():
    (note,) = said(("lora", [score(IN, 0, decoding_from="base")]))
    assert note.startswith("Decoded with the settings of the base model's own generation_config, not greedily: sums;")


def test_older_rows_have_no_notes():
    assert said(("lora", [{"sums": {"examples": 4}}, {}])) == []
