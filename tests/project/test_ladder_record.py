"""The record behind docs/ladder.md: its axes, and that a saving is predicted as it is measured."""

from __future__ import annotations

import pytest

from peftbench.methods import METHODS
from peftbench.suite.schema import TRAIN
from tools.docs import ladder_document
from tools.validation import ladder, planner_accuracy

OLD = ladder.stored()


def test_every_axis_is_measured_for_each_of_its_methods_and_bases():
    found = {(row.axis, row.base, row.method, row.setting) for row in ladder.stored()}
    assert found == {
        (axis, base, method, ladder.shown(settings))
        for axis, record in ladder.AXES.items()
        for base in record.bases
        for method in record.methods
        for settings in record.settings
    }
    assert all(
        key in {"precision", *TRAIN, *METHODS[method].options}
        for record in ladder.AXES.values()
        for method in record.methods
        for settings in record.settings
        for key in settings
    )


@pytest.mark.parametrize("row", ladder.stored(), ids=lambda row: f"{row.base} {row.method} {row.setting}")
def test_a_recorded_saving_is_predicted_and_its_loss_equal_unless_the_axis_says_why_not(row):
    assert row.baseline_predicted == row.baseline_measured
    # of several passes in a step, the inputs of all but one are not predicted: three tensors of 8 bytes for each token
    inputs = 3 * 8 * ladder.EXAMPLES * ladder.TOKENS if row.axis == "micro_batches" else 0
    if row.axis == "compile":
        assert row.predicted is None
        assert row.measured < row.baseline_measured, "as plan says of all rows"
    else:
        assert row.predicted <= row.measured <= row.predicted + inputs
    assert row.host == row.host_predicted
    assert (row.host > 0) == ("offload" in row.setting)
    assert sum(row.saved.values()) == row.baseline_measured - row.measured
    assert ladder.AXES[row.axis].other_loss or row.loss_difference < (1e-5 if row.precision == "fp32" else 5e-3)


def test_a_frozen_a_saves_a_sixth_of_a_step_of_lora_on_nano():
    """As docs/methods.md says."""
    (row,) = [r for r in OLD if (r.axis, r.base, r.method) == ("lora_fa", "nano", "lora")]
    assert 1 - row.measured / row.baseline_measured == pytest.approx(1 / 6, abs=0.01)
    assert set(row.saved) == {"activations", "optimizer"}


def test_a_row_is_made_of_two_sides(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "PAIRS", 1)
    home = planner_accuracy.base("nano", tmp_path, ladder.BASES)
    one, other = (
        ladder.side(ladder.made(home, tmp_path, "lora", settings), home) for settings in ({}, {"logits": "chunked"})
    )
    row = ladder.row("logits", "nano", one, other, "logits: chunked")
    assert (row.baseline_predicted, row.predicted) == (row.baseline_measured, row.measured)
    assert row.measured < row.baseline_measured
    assert row.loss_difference < 1e-5


def test_an_axis_that_is_measured_again_leaves_the_versions_of_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "PATH", tmp_path / "ladder.json")
    old = [row for row in OLD if row.axis in ("logits", "optimizers")]
    monkeypatch.setattr(ladder, "libraries", lambda: {"torch": "1", "torchao": None})
    ladder.write(["logits", "optimizers"], old)
    monkeypatch.setattr(ladder, "libraries", lambda: {"torch": "2", "torchao": None})
    ladder.write(["optimizers"], [row for row in old if row.axis == "optimizers"])
    assert {axis: found["torch"] for axis, found in ladder.versions().items()} == {"logits": "1", "optimizers": "2"}
    assert sorted(map(str, ladder.stored())) == sorted(map(str, old))
    told = ladder_document.run()
    assert "Logits where the loss needs them: with torch 1." in told
    assert "at a time: with torch 2." in told
    assert "torchao" not in told
