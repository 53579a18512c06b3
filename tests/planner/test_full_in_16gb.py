"""What ``docs/optimizers.md`` says of full fine-tuning on 16 GB is what was predicted, and is predicted still."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from peftbench.models import builtin
from peftbench.planner.predict import predict
from peftbench.records import OPTIMIZERS
from tools.validation import full_in_16gb


def test_seven_billion_weights_fit_only_with_one_gradient_or_one_layer_at_a_time():
    found = [row for row in full_in_16gb.stored() if row["shape"] == "llama-7b"]
    fit = {(row["precision"], row["optimizer"]) for row in found if row["peak"] <= full_in_16gb.LIMIT}
    released = {name for name, record in OPTIMIZERS.items() if record.in_backward}
    offloads = {f"adamw, offload: {what}" for what in full_in_16gb.OFFLOADS}
    assert fit == {("bf16-true", name) for name in {*released, *offloads, "adamw, turns: badam"}}
    room = {row["optimizer"] for row in found if row["peak"] <= full_in_16gb.LIMIT - full_in_16gb.CONTEXT}
    assert room == {"lomo", *offloads, "adamw, turns: badam"}
    turns = {f"adamw, turns: {kind}" for kind in full_in_16gb.TURNS}
    assert {row["optimizer"] for row in found} == {*full_in_16gb.NAMES, *turns, *offloads}
    for row in (
        row for row in found if row["optimizer"] not in {*turns, *offloads}
    ):  # at its peak a step has no more state than the formula gives
        assert row["host"] == 0
        values = row["parameters"]
        each = OPTIMIZERS[row["optimizer"]].bytes_per_value(2 if row["precision"] == "bf16-true" else 4)
        assert row["parts"]["optimizer"] == pytest.approx(each * values, rel=0.15, abs=2e7) or (
            OPTIMIZERS[row["optimizer"]].hidden_apart
        )


def test_the_host_then_holds_weights_gradients_and_two_moments_during_a_step():
    """As docs/optimizers.md says, in GB."""
    for row in full_in_16gb.stored():
        width = 2 if row["precision"] == "bf16-true" else 4
        if "offload" in row["optimizer"]:
            assert row["host"] == pytest.approx(4 * width * row["parameters"], rel=1e-3)
    (seven,) = {r["host"] for r in full_in_16gb.stored() if r["host"] and r["parameters"] > 6e9 and r["host"] < 60e9}
    assert f"{seven / 1e9:.0f}" == "54"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lomo", "adamw_8bit", "adamw, turns: badam", "adamw, offload: optimizer"])
def test_the_committed_predictions_are_made_again(name):
    config = AutoConfig.from_pretrained(builtin.shape("llama-3.2-1b"))
    own = [t for t in full_in_16gb.trials("llama-3.2-1b") if full_in_16gb.name(t) == name]
    stored = {(r["precision"], r["optimizer"]): r for r in full_in_16gb.stored() if r["shape"] == "llama-3.2-1b"}
    for trial in own:
        assert predict(trial, config).peak_bytes == stored[trial.precision, name]["peak"]
