"""What docs/ladder.md says of one saving after another, on the committed rows."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from peftbench.records import Category
from peftbench.report.collect import collect
from peftbench.report.derived.ladder import Rung, ladder
from tools.docs import reference

PEAK = "peak_train_bytes"


@pytest.fixture(scope="module")
def rungs() -> Mapping[str, Rung]:
    """The rows by what they set."""
    found = {rung.label: rung for rung in ladder(collect(reference.RESULTS / "memory_ladder"))}
    assert len(found) == 12
    return found


def size(rung: Rung, *names: str) -> float:
    return sum(rung.value(Category(name).column) or 0 for name in names)


def change(rung: Rung, name: str) -> float:
    found = rung.change(Category(name).column)
    assert found is not None
    return found


def test_every_peak_was_predicted_and_int8_alone_needs_more_than_the_row_above_it(rungs):
    for rung in rungs.values():
        inputs = 3 * 8 * 32 * 64  # of several passes in a step, the inputs of all but one are not predicted
        assert 0 <= rung.value(PEAK) - rung.value("predicted_train_bytes") <= inputs
        assert rung.beside is None or (rung.change(PEAK) > 0) == (rung.label == "precision: int8")


def test_logits_take_most_at_first_and_only_those_of_the_loss_are_needed(rungs):
    first, second = rungs["full fine-tuning fp32"], rungs["logits: loss_bearing"]
    assert size(first, "logits") > size(first, "base_weights", "optimizer")
    assert change(second, "logits") < -0.3 * size(first, "logits")
    assert second.change("last_loss") == pytest.approx(0, abs=1e-5)


def test_with_checkpointing_the_peak_is_at_another_moment(rungs):
    row = rungs["gradient_checkpointing: true"]
    before = -change(row, "activations")
    assert size(row, "activations") < 0.01 * before
    assert -row.change(PEAK) < before
    assert min(change(row, "gradients"), change(row, "temporaries")) > 0
    assert size(row, "logits") == 0, "so that smaller micro-batches would have saved nothing"


def test_optimizer_state_in_8_bits_changes_nothing_else_and_stays_in_16_bits(rungs):
    row = rungs["optimizer: adamw_8bit"]
    assert row.change(PEAK) == change(row, "optimizer")
    assert 0.25 < size(row, "optimizer") / (size(row, "optimizer") - change(row, "optimizer")) < 0.26
    held = row.value("peak_unexplained_bytes")
    assert held > -0.9 * row.change(PEAK), "with what operators hold, the row saves little"
    row = rungs["precision: bf16-true"]
    assert size(row, "base_weights") == pytest.approx(-change(row, "base_weights"), rel=1e-3)
    assert change(row, "optimizer") == 0
    assert size(row, "logits") == max(size(row, category) for category in Category)


def test_lora_has_little_of_its_own_and_quantized_layers_are_half_of_the_model(rungs):
    row = rungs["method: lora r=8"]
    assert row.value("peak_unexplained_bytes") < 0.01 * row.value(PEAK)
    assert size(row, "adapter", "gradients", "optimizer") < 0.1 * size(row, "base_weights")
    row = rungs["precision: int8"]
    assert 0.2 < -change(row, "base_weights") / rungs["method: lora r=8"].value("peak_base_weights_bytes") < 0.3
    assert change(row, "temporaries") > -change(row, "base_weights")
    row = rungs["method: qlora r=8, precision: nf4"]
    assert max(change(row, "base_weights"), change(row, "temporaries")) < 0


def test_at_the_end_logits_are_of_fewer_positions_and_nothing_is_paged(rungs):
    for name in ("logits: chunked", "micro_batch_size: 8", "micro_batch_size: 1"):
        assert change(rungs[name], "logits") < 0
    assert rungs["optimizer: paged_adamw_8bit"].change(PEAK) == 0
