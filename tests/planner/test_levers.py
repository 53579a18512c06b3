"""What makes a cell fit: the nearest settings, and what the plan says of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from peftbench import cli
from peftbench.commands import memory_table
from peftbench.planner import forecast, levers
from peftbench.planner.predict import predict
from peftbench.records import OPTIMIZERS, Devices
from tests.support import trials

ONE = ["--only", "method=lora", "--only", "rank=8", "--only", "precision=fp32"]


def peaks(**by_key):
    """A prediction that depends on settings alone: 100 bytes less what each of them saves."""

    def peak(made):
        training = made.training
        saved = by_key.get("micro", 0) * (4 - training.micro_batch_size) / 3
        saved += by_key.get("checkpoints", 0) * training.gradient_checkpointing
        saved += by_key.get("logits", 0) * (training.logits == "chunked")
        saved += by_key.get("turns", 0) * (made.options.get("turns") == "badam")
        saved += by_key.get("release", 0) * OPTIMIZERS[training.optimizer].in_backward
        saved += by_key.get(training.offload, 0)
        saved += by_key.get("eight", 0) * training.optimizer.endswith("8bit")
        saved += by_key.get(made.precision, 0)
        return int(100 - saved)

    return peak


def nearest(tmp_path, available, method="lora", precision="fp32", **saved):
    made = trials.trial("nano", tmp_path, method, precision)
    return [
        (dict(each.settings), each.peak_bytes, each.fits) for each in levers.nearest(made, peaks(**saved), available)
    ]


def test_a_smaller_micro_batch_comes_first_and_is_as_large_as_fits(tmp_path):
    found = nearest(tmp_path, 85, micro=30, checkpoints=50, nf4=90)
    assert found == [({"micro_batch_size": 2}, 80, True)]
    assert nearest(tmp_path, 75, micro=30, checkpoints=50)[-1] == ({"micro_batch_size": 1}, 70, True)


def test_a_micro_batch_is_left_out_where_the_other_settings_are_enough(tmp_path):
    found = nearest(tmp_path, 15, micro=5, checkpoints=30, bf16=60, nf4=60)
    assert found[-1] == ({"gradient_checkpointing": True, "logits": "chunked", "precision": "bf16"}, 10, True)


def test_each_setting_that_is_too_little_has_its_figure(tmp_path):
    found = nearest(tmp_path, 60, micro=5, checkpoints=10, eight=1, bf16=50, nf4=60)
    assert found[:4] == [
        ({"micro_batch_size": 1}, 95, False),
        ({"gradient_checkpointing": True}, 90, False),
        ({"logits": "chunked"}, 100, False),
        ({"micro_batch_size": 1, "gradient_checkpointing": True, "logits": "chunked"}, 85, False),
    ]
    assert found[-1] == ({"precision": "bf16"}, 50, True)


def test_if_not_even_all_together_fit_only_they_are_named(tmp_path):
    found = nearest(tmp_path, 5, micro=5, checkpoints=10, eight=1, nf4=50)
    every = {"micro_batch_size": 1, "gradient_checkpointing": True, "logits": "chunked", "optimizer": "adamw_8bit"}
    every["precision"] = "nf4"
    assert found == [(every, 34, False)]


@pytest.mark.parametrize(
    ("method", "precision", "absent"),
    [("full", "fp32", "nf4"), ("prefix_tuning", "fp32", "gradient_checkpointing"), ("qlora", "nf4", "precision")],
)
def test_what_does_not_exist_for_a_method_is_no_lever(tmp_path, method, precision, absent):
    (found,) = nearest(tmp_path, 0, method, precision, micro=10)
    assert absent not in str(found[0])


def nearest_on(device, tmp_path, available, method="full", precision="fp32", training=None, **saved):
    made = replace(trials.trial("nano", tmp_path, method, precision, training=training or {}), device=device)
    return [dict(each.settings) for each in levers.nearest(made, peaks(**saved), available)]


def test_fewer_logits_are_tried_for_every_method(tmp_path):
    assert nearest_on("cpu", tmp_path, 80, "lora", logits=30)[-1] == {"logits": "chunked"}


def test_on_a_gpu_the_host_is_tried_with_the_most_that_the_cell_can_keep_there(tmp_path):
    assert nearest_on("cuda", tmp_path, 80, all=30)[-1] == {"offload": "all"}
    assert nearest_on("cuda", tmp_path, 80, "qlora", "nf4", {"optimizer": "paged_adamw"}, activations=30)[-1] == {
        "offload": "activations"
    }
    assert nearest_on("cpu", tmp_path, 80, all=30) == []


def test_in_full_fine_tuning_layers_in_turns_and_steps_in_the_backward_pass_are_tried(tmp_path):
    (*_, turns) = nearest_on("cpu", tmp_path, 80, turns=30)
    assert turns["turns"] == "badam"
    (*_, release) = nearest_on("cpu", tmp_path, 80, release=30)
    assert (release["optimizer"], release["clip_norm"]) == ("adafactor_in_backward", None)
    assert "micro_batch_size" not in release
    assert not any("turns" in each for each in nearest_on("cpu", tmp_path, 80, "lora", turns=30))


def test_what_needs_as_much_as_the_cell_is_no_lever_and_of_several_the_least_is_named(tmp_path):
    assert nearest(tmp_path, 5, nf4=-20, bf16=-10) == []
    (found,) = nearest_on("cpu", tmp_path, 5, turns=30, release=40)
    assert found["optimizer"] == "adafactor_in_backward"
    (found,) = nearest_on("cpu", tmp_path, 5, turns=40, release=30)
    assert found["turns"] == "badam"


def test_a_cell_that_does_not_fit_is_told_what_would_and_the_figure_is_the_prediction(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, "lora", "fp32", training={"batch_size": 8, "micro_batch_size": 8})
    smaller = predict(levers.with_settings(made, {"micro_batch_size": 4}), tiny).peak_bytes
    asked = forecast.Question(smaller + 1, 0)
    (found,) = forecast.forecasts([made], lambda _: tiny, asked)
    assert found.fits is False
    assert (dict(found.levers[-1].settings), found.levers[-1].peak_bytes) == ({"micro_batch_size": 4}, smaller)
    text = "\n".join(memory_table.lines([found], asked))
    assert "lora r=4 fp32: micro_batch_size: 4 (" in text
    assert "offload needs memory of the host" not in text
    host = replace(found, levers=(replace(found.levers[-1], settings={"offload": "all"}),))
    assert "offload needs memory of the host" in "\n".join(memory_table.lines([host], asked))
    (none,) = forecast.forecasts([made], lambda _: tiny, forecast.Question(1000, 0))
    told = " ".join(" ".join(memory_table.lines([none], forecast.Question(1000, 0))).split())
    assert "none of the settings that were tried; what needs least, micro_batch_size: 1, gradient_che" in told
    (fits,) = forecast.forecasts([made], lambda _: tiny, forecast.Question(2**40, 0))
    assert fits.levers == ()


def test_a_setting_that_cannot_be_traced_has_no_figure(tmp_path):
    made = replace(trials.trial("nano", tmp_path))
    (found,) = levers.nearest(made, lambda _: None, 10)
    assert (found.peak_bytes, found.fits) == (None, False)


def test_a_plan_as_json_has_every_number_with_its_unit(capsys):
    argv = ["plan", "quickstart", *ONE, "--memory", "--json"]
    assert cli.main([*argv, "--budget", "20MiB"]) == 0
    whole = json.loads(capsys.readouterr().out)
    (cell,) = whole["cells"]
    assert (whole["budget_bytes"], cell["cell"], cell["seeds"], cell["memory"]["fits"]) == (
        20 * 2**20,
        "lora r=8 fp32",
        [0, 1, 2],
        False,
    )
    assert cell["memory"]["ways_to_fit"][-1]["fits"]
    parts = {key: value for key, value in cell["memory"].items() if isinstance(value, int | float)}
    assert all(key.endswith(("_bytes", "_parameters", "_token", "fits")) for key in parts)
    assert any("device auto is the CPU here" in note and "--set device=cuda" in note for note in whole["notes"])


def test_a_plan_as_json_without_predictions(capsys):
    assert cli.main(["plan", "quickstart", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert len(whole["cells"]) >= 14
    assert sum(cell["trials"] for cell in whole["cells"]) == whole["trials"]


def test_for_cuda_a_plan_reserves_without_being_asked(capsys):
    argv = ["plan", "quickstart", *ONE, "--memory", "--json"]
    assert cli.main([*argv, "--budget", "800MiB", "--set", "device=cuda"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["cells"][0]["memory"]["reserve_bytes"] == 600_000_000 + 87 * 2**20
    assert not any("device auto" in note for note in whole["notes"])


def test_an_optimizer_that_steps_in_the_backward_pass_has_no_smaller_micro_batch_but_the_other_levers(tmp_path):
    training = {"optimizer": "lomo", "clip_norm": None}
    made = trials.trial("nano", tmp_path, "full", "fp32", training=training)
    found = levers.nearest(made, peaks(micro=30, checkpoints=20), 85)
    assert [dict(each.settings) for each in found] == [{"gradient_checkpointing": True}]
    every = levers.nearest(made, peaks(micro=30, checkpoints=20, **{"bf16-true": 40}), 5)
    assert dict(every[0].settings) == {
        "gradient_checkpointing": True,
        "logits": "chunked",
        "precision": "bf16-true",
    }


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if f"{name}_8bit" in OPTIMIZERS])
def test_every_optimizer_with_a_sibling_in_8_bits_is_offered_it(name, tmp_path):
    made = trials.trial("nano", tmp_path, "full", "fp32", training={"optimizer": name})
    (found,) = levers.nearest(made, peaks(eight=10), 5)
    assert found.settings["optimizer"] == f"{name}_8bit"


def test_what_a_strategy_or_an_option_refuses_is_no_lever(tmp_path):
    """Several devices divide no 8-bit state, and layers in turns never free paged state."""
    one = trials.trial("nano", tmp_path, "lora")
    divided = replace(one, devices=Devices("fsdp2", 2))
    turned = trials.trial("nano", tmp_path, "full", options={"turns": "lisa"}, training={"optimizer": "paged_adamw"})
    for made in (divided, turned):
        assert not any("8bit" in str(each) for each in levers._combinations(made)[0]), made.method
    assert any("8bit" in str(each) for each in levers._combinations(one)[0])
