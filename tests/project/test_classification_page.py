"""What ``docs/classification.md`` says in words is true of the committed rows."""

from __future__ import annotations

import pytest

from tools.docs import classification_document as page

SEVEN = {"full", "prompt_tuning", "prefix_tuning", "adapter", "llama_adapter", "lora", "qlora"}


def cells(task):
    return {each[task].method: each[task] for each in page.cells().values()}


@pytest.mark.parametrize("task", page.TASKS)
def test_seven_methods_with_three_seeds_ended_ok_under_one_head(task):
    found = page.results(task)
    assert {cell.method for cell in found.cells} == SEVEN
    assert set(found.trials["status"]) == {"ok"}
    assert all(len(cell.ok) == 3 for cell in found.cells)
    classes = {"trec": 6}.get(task, 2)
    assert set(found.trials["head_parameters"]) == {128 * 128 + 128 + (128 + 1) * classes}
    assert (found.trials["predicted_train_bytes"] == found.trials["peak_train_bytes"]).all()


def test_the_three_tasks_have_one_base():
    assert len({sha for task in page.TASKS for sha in page.results(task).trials["base_sha256"]}) == 1


def test_llama_adapter_scores_what_the_head_gives():
    assert all(cells(task)["llama_adapter"].trials["largest_logit_change"].max() < 0.01 for task in page.TASKS)


def test_cola_is_not_learned_by_any_method():
    assert {cell.mean(page.SCORE) for cell in cells("cola").values()} == {0.0}


def test_sst2_is_learned_with_more_steps_alone():
    floor = page.majority("sst2")
    assert all(0 < cell.mean(page.SCORE) - floor < 0.065 for cell in cells("sst2").values())
    assert "- SST-2: of 7 intervals, none lie above" in page.findings()
    (cell,) = page.results("sst2_longer").cells
    assert cell.mean(page.SCORE) - cell.summary.spreads[page.SCORE].half_width > floor + 0.15


def test_robertas_shape_is_counted_and_predicted_exactly():
    (row,) = page.results("roberta").trials.to_dict("records")
    assert row["trainable_parameters"] == 2 * 12 * 8 * (768 + 768)
    assert row["head_parameters"] == 768 * 768 + 768 + (768 + 1) * 2
    assert row["predicted_train_bytes"] == row["peak_train_bytes"]
