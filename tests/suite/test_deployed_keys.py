"""``evaluate.deployed`` in a suite: what is accepted, what each mistake says, and what ``plan`` says before a run."""

from __future__ import annotations

import pytest

from peftbench.errors import UserError
from peftbench.methods import deployed_forms
from peftbench.suite import load, smoke, trial_key
from peftbench.suite.expand import expand


def suite(tmp_path, deployed, more=""):
    path = tmp_path / "s.yaml"
    methods = "methods: {base: {}, lora: {precision: [bf16, nf4]}, adapter: {}}\n"
    path.write_text(f"base: nano\ntasks: [judge]\n{methods}evaluate: {{deployed: {deployed}}}\n{more}")
    return load(path)


def test_every_trial_has_the_forms_and_without_the_key_none(tmp_path):
    made = suite(tmp_path, "[merged, requantized, as_lora_8]")
    assert {trial.deployed for trial in expand(made, "cpu")} == {("merged", "requantized", "as_lora_8")}
    assert {trial.deployed for trial in expand(suite(tmp_path, "null"), "cpu")} == {()}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "[merge]",
            "evaluate.deployed: unknown form 'merge'; did you mean 'merged'? allowed: adapter, as_lora_8, merged",
        ),
        ("[as_lora_0]", "given 'as_lora_0'; allowed: as_lora_R with a rank R of at least 1, such as as_lora_8"),
        ("[as_lora]", "unknown form 'as_lora'; did you mean 'as_lora_8'?"),
        ("[as_lora_R]", "unknown form 'as_lora_R'; did you mean 'as_lora_8'?"),
        ("[merged, merged]", "evaluate.deployed: merged is given twice"),
        ("merged", "evaluate.deployed: given 'merged' (text); allowed: a list of forms"),
    ],
)
def test_a_mistake_names_the_line_and_the_nearest_form(given, words, tmp_path):
    with pytest.raises(UserError) as error:
        suite(tmp_path, given)
    assert words in str(error.value)
    assert "s.yaml, line 4" in str(error.value) or "s.yaml:4" in str(error.value)


def test_random_weights_are_not_deployed(tmp_path):
    path = tmp_path / "s.yaml"
    base = "base: {shape: llama-2-7b, weights: random}\n"
    path.write_text(f"{base}tasks: [judge]\nmethods: [lora]\nevaluate: {{deployed: [merged], retention: false}}\n")
    with pytest.raises(UserError, match="scores of random weights have no meaning, deployed or not"):
        load(path)


def test_smoke_mode_deploys_too(tmp_path):
    made = smoke.smoke(suite(tmp_path, "[merged, as_lora_8]"), "cpu").trials
    assert {trial.deployed for trial in made} == {("merged", "as_lora_8")}


def test_plan_names_the_forms_that_cells_do_not_have_grouped_by_reason(tmp_path):
    trials = expand(suite(tmp_path, "[adapter, merged, requantized, as_lora_8]"), "cpu")
    cost, *notes = deployed_forms.plan_notes(trials)
    assert "21 forms of 6 trials (up to 4 of one) are saved, loaded and scored after training" in cost
    why = "a bottleneck has an activation between its two matrices, so it is no change of the base model's weights"
    assert notes == [
        f"score after deployment: not available as {words}"
        for words in (
            "requantized: lora r=8 bf16 (the base model is not quantized in bf16)",
            "adapter: adapter r=64 fp32 (peft has no such method: only peftbench loads the saved adapter)",
            f"merged or as_lora_8: adapter r=64 fp32 ({why})",
            "requantized: adapter r=64 fp32 (the base model is not quantized in fp32)",
        )
    ]


def test_an_engine_stands_for_its_forms_and_changes_no_key_of_others(tmp_path):
    path = tmp_path / "s.yaml"
    head = "base: nano\ntasks: [judge]\nmethods: {lora: {precision: fp32}}\n"
    found = {}
    for evaluate in ("{}", "{engine: null}", "{engine: vllm}", "{engine: vllm, deployed: [merged, vllm_merged]}"):
        path.write_text(f"{head}evaluate: {evaluate}\n")
        found[evaluate] = expand(load(path), "cpu")[0]
    plain, null, engine, both = found.values()
    assert plain == null
    assert engine.deployed == ("vllm_adapter", "vllm_merged")
    assert both.deployed == ("merged", "vllm_merged", "vllm_adapter")
    assert trial_key.settings(plain) == trial_key.settings(engine) | {"deployed": []}
    assert trial_key.key(plain, "", "") != trial_key.key(engine, "", "")


def test_an_unknown_engine_is_refused(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("base: nano\ntasks: [judge]\nmethods: [lora]\nevaluate: {engine: vlm}\n")
    with pytest.raises(UserError, match=r"evaluate\.engine: unknown engine 'vlm'; did you mean 'vllm'"):
        load(path)
    path.write_text("base: nano\ntasks: [judge]\nmethods: [lora]\nevaluate: {deployed: [vllm_requantized]}\n")
    with pytest.raises(UserError, match="unknown form 'vllm_requantized'; did you mean 'vllm_merged_dequantized'"):
        load(path)
