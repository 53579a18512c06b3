"""The report's tables of all metrics and its samples: every kind of task, unread answers apart from wrong ones."""

from __future__ import annotations

import dataclasses
import json

import pytest

from peftbench.records import ExampleRow, Score
from peftbench.report import page
from peftbench.report.collect import collect
from peftbench.report.tables import samples
from peftbench.report.tables.task_metrics import task_metrics
from tests.support.results_factory import make_result, store

KINDS = {
    "sums": Score("sums", "exact_match", 0.5, 0.1, {"exact_match": 0.5}, 4, None, 0.25, 1, 0, {"parser": "gsm8k"}),
    "class": Score(
        "class", "accuracy", 0.75, 0.1, {"accuracy": 0.75, "f1_macro": 0.7, "matthews": -0.2}, 4, 0.5, 0.5, None, 0
    ),
    "text": Score(
        "text", "probability_per_byte", 0.4, 0.1, {"bits_per_byte": 1.25, "perplexity": 31.0}, 4, None, None, None, 0
    ),
    "theirs": Score(
        "theirs", "exact_match,strict", 0.25, 0.1, {"bleu,strict": 0.4}, 4, None, None, 3, 0, settings={"lm_eval": "x"}
    ),
}
EVIL = "<script>alert('no')</script>"
ROWS = {
    "sums": ("2 + 2", "#### 4", EVIL, 0.0, False, None),
    "class": ("which ?", "a", "b", 0.0, None, "[-1.0, -0.5]"),
    "text": ("", "one text", "", 0.4, None, "[-12.5]"),
    "theirs": ("Q:", "5", "five", 0.0, False, None),
}


def result(cell, method, scores=KINDS):
    made = make_result(cell, method, examples=1)
    row = dataclasses.replace(made.row, scores_json=json.dumps({n: dataclasses.asdict(s) for n, s in scores.items()}))
    rows = tuple(ExampleRow(made.row.key, task, 0, *ROWS[task]) for task in scores)
    return dataclasses.replace(made, row=row, scores=tuple(scores.values()), examples=rows)


@pytest.fixture
def results(tmp_path):
    better = {
        **KINDS,
        "sums": dataclasses.replace(KINDS["sums"], value=1.0, metrics={"exact_match": 1.0}, format_failures=0),
    }
    made = (result("lora r=8 fp32", "lora"), result("full fp32", "full", better))
    return collect(store(tmp_path / "r", *made, tasks=tuple(KINDS)))


def test_every_metric_of_a_task_has_its_unit(results):
    found = {one.task: one for one in task_metrics(results)}
    cells = {task: dict(one.lines) for task, one in found.items()}
    assert (found["class"].names, found["class"].fractions) == (
        ("accuracy", "macro F1", "Matthews' r"),
        (True, True, False),
    )
    assert cells["class"]["full fp32"] == pytest.approx((0.75, 0.70, -0.2))
    assert (found["text"].names, found["text"].fractions) == (
        ("probability per byte", "bits per byte", "perplexity"),
        (True, False, False),
    )
    assert cells["text"]["lora r=8 fp32"] == pytest.approx((0.4, 1.25, 31.0))


def test_unreadable_answers_are_apart_from_wrong_ones(results):
    found = {one.task: one for one in task_metrics(results)}
    assert found["sums"].names == ("exact match", "wrong answers", "unreadable answers")
    assert dict(found["sums"].lines) == {"full fp32": (1.0, 0.0, 0.0), "lora r=8 fp32": (0.5, 0.25, 0.25)}
    theirs = dict(found["theirs"].lines)["full fp32"]
    assert theirs == pytest.approx((0.25, 0.004, 0.0, 0.75)), "their BLEU is in % already"


def test_a_task_with_its_headline_alone_has_no_table(tmp_path):
    folder = store(tmp_path / "r", make_result())
    assert task_metrics(collect(folder)) == ()


def test_samples_serve_every_kind(results):
    found = {group.task: group.samples[0] for group in samples.task_samples(results)}
    marks = {task: [(a.cell, a.text, a.mark) for a in sample.answers][1] for task, sample in found.items()}
    assert marks["sums"] == ("lora r=8 fp32", EVIL, "unreadable")
    assert marks["class"] == ("lora r=8 fp32", "b", "wrong")
    assert marks["text"] == ("lora r=8 fp32", "(log-probability -12.50 nats)", "0.40")
    assert marks["theirs"] == ("lora r=8 fp32", "five", "unreadable")
    assert found["text"].target == "one text"


def test_the_page_has_them_escaped(results):
    text = page.html(results)
    assert EVIL not in text
    assert "(log-probability -12.50 nats)" in text
    assert all(f'"{task}: ' in text for task in KINDS)
