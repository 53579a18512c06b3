"""Profiles: the settings of methods that a suite does not give, and the cells that result."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace

import pytest
import torch
import yaml

from peftbench import suite
from peftbench.commands import listing
from peftbench.errors import UserError
from peftbench.methods import METHODS, profiles
from peftbench.methods.recipes import EXPECTED
from peftbench.report import table
from peftbench.suite import trial_key
from peftbench.suite.schema import TRAIN, axes_model, method_settings
from tests.support.results_factory import make_result, store
from tools.validation import learning_rate_rule

HEAD = "base: nano\ntasks: [judge]\nseeds: 1\n"


def cells(tmp_path, text):
    """The trials of a suite by cell."""
    (tmp_path / "mine.yaml").write_text(HEAD + text)
    return {trial.cell: trial for trial in suite.expand(suite.load(tmp_path / "mine.yaml"), "cpu")}


EVERY = [(profile, name) for profile, methods in profiles.RECIPES.items() for name in methods]


@pytest.mark.parametrize(("profile", "name"), EVERY)
def test_published_settings_are_valid_in_a_suite(profile, name):
    found, method = profiles.recipe(profile, name), METHODS[name]
    given = {**found.training, **found.options} | ({method.rank_key: found.rank} if found.rank else {})
    axes_model(name, method_settings(method), given).model_validate(given)
    assert found.source
    assert set(EXPECTED) <= set(TRAIN)
    assert f"{found.training['learning_rate']:g}" in (told := listing.method(name))
    assert f"profile {profile}" in told


def test_paper_takes_each_methods_published_setting(tmp_path):
    found = cells(tmp_path, "profile: paper\nmethods: [base, lora, prompt_tuning, qlora]\n")
    lora, prompt, qlora = (trial for trial in found.values() if trial.training)
    assert (lora.rank, lora.options["alpha"], lora.options["initialization"]) == (4, 32.0, "gaussian")
    assert (lora.training.epochs, lora.training.steps, lora.training.clip_norm) == (5, None, None)
    assert (prompt.rank, prompt.training.optimizer, prompt.training.steps) == (100, "adafactor", 30_000)
    assert (qlora.training.optimizer, qlora.training.gradient_checkpointing) == ("paged_adamw", True)
    assert {trial.training.profile for trial in (lora, prompt, qlora)} == {"paper"}
    # what the source leaves open is as without a profile
    assert lora.training.warmup_ratio == TRAIN["warmup_ratio"].default


TABLES = {
    ("lit-llama", "lora"): ("lora_lit_llama", "common"),
    ("lit-llama", "full"): ("full_lit_llama", "common"),
    ("lit-llama", "llama_adapter"): ("llama_adapter_paper", "lit_llama"),
    ("llm-adapters-math", "lora"): ("llm_adapters_math_llama7b", "common", "methods.lora"),
    ("llm-adapters-math", "prefix_tuning"): ("llm_adapters_math_llama7b", "common", "methods.prefix_tuning"),
    ("llm-adapters-commonsense", "lora"): ("llm_adapters_commonsense170k_llama7b", "common", "methods.lora"),
    ("pissa-metamath", "full"): ("pissa_metamath_llama2_7b", "common"),
    ("pissa-metamath", "lora"): ("pissa_metamath_llama2_7b", "common", "methods.lora"),
    ("lora-ga-metamath", "lora"): ("lora_ga_metamath_llama2_7b", "reproduce_conf"),
    ("hf-metamathqa", "full"): ("hf_method_comparison_metamathqa", "common", "methods.full"),
    ("hf-metamathqa", "lora"): ("hf_method_comparison_metamathqa", "common", "methods.lora_r32"),
}
"""Profile and method -> a set of hyperparameters in the table of published settings, and its parts."""
NOT_OF_THE_METHOD = {("hf-metamathqa", "full"): ("weight_decay",)}
"""What the table states for all methods of a set and the source does not for this one: see the test of its files."""
KEYS = {"lr": "learning_rate", "batch": "batch_size", "max_seq": "sequence_length", "cutoff_len": "sequence_length"}
KEYS |= {"block_size": "sequence_length", "grad_clip": "clip_norm", "prompt_length": "rank", "virtual_tokens": "rank"}
KEYS |= {key: key for key in ("epochs", "steps", "weight_decay", "schedule", "warmup_ratio", "alpha", "dropout")}
KEYS |= {"r": "rank"}


def test_the_peers_recipes_have_the_settings_of_its_own_result_files(peer):
    """The table of published settings has one weight decay for all of its methods; the files do not."""
    files = {"full": "full-finetuning--llama-3.2-3B-lr_0.00001.json", "lora": "lora--llama-3.2-3B-rank32.json"}
    for method, file in files.items():
        stored = json.loads((peer / "july_2026" / file).read_text())["run_info"]["train_config"]
        given = {"weight_decay": torch_default("weight_decay"), **stored["optimizer_kwargs"]}
        recipe = profiles.recipe("hf-metamathqa", method).training
        assert (recipe["learning_rate"], recipe["weight_decay"]) == (given["lr"], given["weight_decay"])
        assert (recipe["steps"], recipe["batch_size"]) == (stored["max_steps"], stored["batch_size"])
        assert (recipe["sequence_length"], recipe["clip_norm"]) == (stored["max_seq_length"], stored["grad_norm_clip"])


def torch_default(name):
    """What AdamW takes if a result file gives no such argument."""
    return inspect.signature(torch.optim.AdamW).parameters[name].default


@pytest.mark.parametrize("cell", [cell for cell in EVERY if cell[0] != "paper"], ids=str)
def test_a_recipe_has_the_numbers_of_the_table_of_published_settings(cell):
    path = learning_rate_rule.tables()
    if path is None:
        pytest.skip("no published_tables.yaml on this machine (set PEFTBENCH_SHARED_DATA)")
    name, *parts = TABLES[cell]
    sets = {each["id"]: each for each in yaml.safe_load(path.read_text())["hyperparameters"]}
    given = {}
    for part in parts:
        found = sets[name]
        for key in part.split("."):
            found = found[key]
        given |= {KEYS[key]: value for key, value in found.items() if key in KEYS}
    recipe = profiles.recipe(*cell)
    ours = {**recipe.training, **recipe.options, "rank": recipe.rank}
    for key in NOT_OF_THE_METHOD.get(cell, ()):
        del given[key]
    assert given
    assert {key: ours[key] for key in given} == given
    revision = re.search(r"\(([0-9a-f]{8})", sets[name]["source"])
    assert revision is None or revision[1] in recipe.source


def test_a_profile_of_a_table_gives_its_settings_and_leaves_other_methods_alone(tmp_path):
    ga, qlora = cells(tmp_path, "profile: lora-ga-metamath\nmethods: [lora, qlora]\n").values()
    assert (ga.options["initialization"], ga.options["rslora"], ga.training.learning_rate) == ("lora_ga", True, 1e-5)
    assert ga.training.profile == "lora-ga-metamath"
    assert qlora.training.profile is None


def test_settings_of_the_suite_override_a_profile(tmp_path):
    text = "profile: paper\nrank: 8\ntrain: {steps: 7}\nmethods:\n  lora: {learning_rate: 0.5, alpha: 2}\n"
    (lora,) = cells(tmp_path, text).values()
    training = lora.training
    assert (lora.rank, lora.options["alpha"], training.steps, training.epochs) == (8, 2.0, 7, None)
    assert (training.learning_rate, training.batch_size) == (0.5, 8)


def test_shared_ignores_the_methods_own_recipes(tmp_path):
    text = "profile: shared\ntrain: {learning_rate: 1e-3}\nmethods: [full, qlora]\n"
    full, qlora = cells(tmp_path, text).values()
    assert full.training == replace(qlora.training, profile=None)
    assert qlora.training.optimizer == "adamw"
    with pytest.raises(UserError, match="the key 'learning_rate' is missing, and profile: shared has none"):
        cells(tmp_path, "profile: shared\nmethods: [lora]\n")


def test_a_profile_that_changes_nothing_does_not_change_a_trial(tmp_path):
    train = "train: {learning_rate: 1e-3}\nmethods: [full, lora, qlora]\n"
    before = {cell: trial_key.settings(t) for cell, t in cells(tmp_path, train).items()}
    after = {cell: trial_key.settings(t) for cell, t in cells(tmp_path, f"profile: shared\n{train}").items()}
    changed = [cell for cell in before if before[cell] != after[cell]]
    assert changed == ["qlora r=8 nf4"]  # its recipe names the optimizer
    assert after["qlora r=8 nf4"]["train"]["profile"] == "shared"


def test_an_unknown_profile_is_refused(tmp_path):
    with pytest.raises(UserError, match="profile: unknown profile 'papers'"):
        cells(tmp_path, "profile: papers\nmethods: [lora]\n")


def row(method, profile, **train):
    train = {"epochs": 5, **train} | ({"profile": profile} if profile else {})
    settings = json.dumps({"method": method, "options": {}, "train": train})
    return make_result(f"{method} fp32", method, settings_json=settings, examples_seen=train.get("batch_size"))


def test_the_profile_of_rows_is_reported_and_published_settings_are_not_listed_as_unequal(tmp_path):
    paper = [
        row("lora", "paper", weight_decay=0.01, learning_rate=2e-4, batch_size=8),
        row("adapter", "paper", weight_decay=0.0, learning_rate=3e-4, batch_size=32),
    ]
    told = " ".join(table(store(tmp_path / "paper", *paper)).split())
    assert "Profile paper, LoRA, unless the suite sets otherwise: learning_rate 0.0002, optimizer adamw" in told
    assert "not given: warmup_ratio;" in told
    assert "not adopted: a warm-up of 500 steps" in told
    assert "not an axis" not in told
    odd = [paper[0], row("adapter", "paper", weight_decay=0.0, learning_rate=3e-4, batch_size=16), row("full", None)]
    told = " ".join(table(store(tmp_path / "odd", *odd)).split())
    assert "Not held equal, and not an axis of the grid (training): " in told
    assert "batch_size 16 (bottleneck adapter)" in told
    shared = [row("lora", "shared"), row("qlora", "shared", optimizer="paged_adamw"), row("full", "shared")]
    told = " ".join(table(store(tmp_path / "shared", *shared)).split())
    assert "the same settings for all methods, in place of the recipes of full fine-tuning, LoRA and QLoRA." in told
    assert "optimizer paged_adamw (QLoRA)" in told
