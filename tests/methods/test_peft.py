"""Any tuner of the installed peft: its settings in a suite, and that each tuner of the zoo works.

By default some of the tuners are trained; ``--run-slow`` trains all of them.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from peftbench import suite
from peftbench.errors import Unsupported, UserError
from peftbench.measure.ledger import Ledger
from peftbench.methods import METHODS, lora_fields, method_of, peft_fields
from peftbench.models import builtin, load
from peftbench.models.precision import PRECISIONS
from peftbench.records.resolve import resolve
from peftbench.results.rows import rows_without_progress
from peftbench.runner.trial import run
from peftbench.suite.schema import TRAIN
from tests.support import trials
from tests.support.sample import sample
from tools.docs import zoo

CONFIGS = {str(getattr(name, "value", name)): config for name, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
TRIALS = [trial for trial in suite.expand(suite.load("peft_zoo"), "cpu") if trial.method == "peft"]
ZOO = {t.options["peft_type"]: t for t in TRIALS if t.precision == "fp32" and not zoo.variant(t.options)}
NEEDS_TRAINED_ADAPTERS = {"XLORA"}
NO_IDENTITY = {"FOURIERFT", "C3A", "UNILORA", "VBLORA"}
"""Tuners that start with a small random update, as do all with virtual tokens in the input or the cache."""
IDS = torch.arange(2, 42).reshape(2, 20) * 7 % 300


def test_the_zoo_has_every_tuner_of_the_installed_peft():
    assert set(ZOO) == set(CONFIGS), "give suites/peft_zoo.yaml a block for each"
    assert {"LORA", "VERA", "XLORA"} <= set(ZOO)


def test_the_zoo_has_every_variant_of_the_installed_pefts_lora_and_each_differs_in_one_setting_from_plain_lora():
    found = [t for t in TRIALS if t.precision == "fp32" and t.options["peft_type"] == "LORA" and t is not ZOO["LORA"]]
    given = [{key: value for key, value in t.options.items() if key != "peft_type"} for t in found]
    assert sorted(zoo.variant(t.options) for t in found) == sorted(zoo.VARIANTS)
    for options in given:  # a start's own config is given with it, at its defaults
        assert len({key for key, value in options.items() if not (key.endswith("_config") and len(options) == 2)}) == 1
    marked = {f.name for f in dataclasses.fields(CONFIGS["LORA"]) if f.metadata.get("is_lora_variant")}
    assert marked <= {key for options in given for key in options}
    assert {*lora_fields.STARTS, "loftq"} <= {options.get("init_lora_weights") for options in given}
    assert {t.rank for t in found} == {ZOO["LORA"].rank}
    assert {t.training for t in found} == {ZOO["LORA"].training}


def test_the_committed_run_is_of_the_current_suite():
    rows = zoo.trials()
    assert sorted(rows["cell"]) == sorted(trial.cell for trial in TRIALS)
    settings = {cell: json.loads(text) for cell, text in zip(rows["cell"], rows["settings_json"], strict=True)}
    for trial in TRIALS:
        stored = settings[trial.cell]
        assert (stored["options"], stored["train"]["learning_rate"], stored["train"]["steps"]) == (
            json.loads(json.dumps(trial.options)),
            trial.training.learning_rate,
            trial.training.steps,
        )


def test_every_tuner_of_the_committed_run_learned_and_was_scored_or_has_a_reason():
    rows = zoo.trials()
    assert set(rows["status"]) == {"ok", "unsupported"}
    assert list(rows_without_progress(rows)["cell"]) == []
    ok = rows[rows["status"] == "ok"]
    assert (ok["last_loss"] < ok["first_loss"]).all()
    assert (ok["moved_tensors"] > 0).all()
    assert (ok["largest_logit_change"] > 0).all()
    assert ok[["score_compute", "score_judge"]].notna().all(axis=None)
    assert set(ok[ok["moved_tensors"] < ok["trainable_tensors"]]["tuner"]) == {"SHADOW"}
    assert rows[rows["status"] == "unsupported"]["message"].str.startswith("peft ").all()
    refused = rows[(rows["status"] == "unsupported") & (rows["precision"] == "fp32")]
    assert set(refused[refused["variant"] == ""]["tuner"]) == NEEDS_TRAINED_ADAPTERS
    assert set(refused["variant"]) - {""} == {"Arrow", "LoftQ", "QA-LoRA"}


@pytest.mark.parametrize("precision", ["fp32", *zoo.QUANTIZED])
def test_every_variant_of_lora_in_the_committed_run_trained_something_else_than_plain_lora(precision):
    """The same seed, batches, rate and rank, so that only the variant can make the difference.

    In fp32, plain LoRA has both numbers to five decimals with two threads and on a CPU of another maker.
    """
    plain = zoo.rows(precision)["LORA"]
    ok = {name: row for name, row in zoo.variants(precision).items() if row["status"] == "ok"}
    assert len(ok) >= 5
    if precision == "fp32":
        assert {n for n, row in ok.items() if abs(row["first_loss"] - plain["first_loss"]) > 5e-5} == {"KaSA"}
        twice = {n for n, row in ok.items() if row["checkpoint_bytes"] > 1.9 * plain["checkpoint_bytes"]}
        assert twice == {"CorDA", "LoRA-GA", "OLoRA", "PiSSA"}
    for name, row in ok.items():
        assert abs(row["last_loss"] - plain["last_loss"]) > 5e-5, name
        assert abs(row["largest_logit_change"] - plain["largest_logit_change"]) > 0.05, name


@pytest.mark.parametrize("tuner", CONFIGS)
def test_the_fields_read_from_the_source_are_those_of_the_imported_config(tuner):
    real = {field.name: field for field in dataclasses.fields(CONFIGS[tuner])}
    found = peft_fields.fields(tuner)
    assert {*found, *peft_fields._OURS} == set(real)
    for name, setting in found.items():
        default = real[name].default
        if default is None or type(default) in (bool, int, float, str):
            assert setting.default == default, name
    assert not {*found} & {*TRAIN, "precision", "rank"}, "a key with two meanings"


def problems(tmp_path, block: str) -> str:
    """The error of loading or expanding a suite with a block of the method peft."""
    (tmp_path / "x.yaml").write_text(f"base: nano\ntasks: [compute]\nmethods:\n  peft:\n    {block}\n")
    with pytest.raises(UserError) as told:
        suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")
    return str(told.value)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("{ peft_type: vera, learning_rate: 1e-2 }", ["x.yaml:5: methods.peft.peft_type", "did you mean 'VERA'?"]),
        ("{ peft_type: VERRA, learning_rate: 1e-2 }", ["unknown peft_type 'VERRA'", "did you mean 'VERA'?"]),
        ("{ learning_rate: 1e-2 }", ["x.yaml:4: methods.peft: the key 'peft_type' is missing", "VERA"]),
        ("", ["the key 'peft_type' is missing"]),
        (
            "{ peft_type: VERA, d_inital: 1.0, learning_rate: 1e-2 }",
            ["x.yaml:5: methods.peft.d_inital: unknown key of peft VERA", "did you mean 'd_initial'?"],
        ),
        ("{ peft_type: VERA, rank: 8, learning_rate: 1e-2 }", ["peft VERA takes no rank; the key 'r' sets its size"]),
        ("{ peft_type: IA3, rank: 8, learning_rate: 1e-2 }", ["peft IA3 has no rank"]),
        ("{ peft_type: VERA, r: eight, learning_rate: 1e-2 }", ["given 'eight' (text); allowed: a whole number"]),
        ("{ peft_type: VERA, d_initial: x, learning_rate: 1e-2 }", ["methods.peft.d_initial", "allowed: a number"]),
        ("{ peft_type: LORA, bias: lora, learning_rate: 1e-2 }", ["allowed: all, lora_only, none"]),
        ("{ peft_type: LORA, task_type: SEQ_CLS, learning_rate: 1e-2 }", ["unknown key of peft LORA 'task_type'"]),
        ("{ peft_type: [VERA, LOHA], d_initial: 0.2, learning_rate: 1e-2 }", ["unknown key of peft LOHA 'd_initial'"]),
        ("{ peft_type: [VERA, 3], learning_rate: 1e-2 }", ["methods.peft.peft_type.1: given 3"]),
        ("{ peft_type: VERA }", ["the key 'learning_rate' is missing, and peft has no default"]),
    ],
)
def test_mistakes_in_a_suite_are_reported_before_anything_runs(tmp_path, block, words):
    told = problems(tmp_path, block)
    assert [word for word in words if word not in told] == [], told


def cells(tmp_path, block: str) -> dict[str, tuple]:
    (tmp_path / "x.yaml").write_text(f"base: nano\ntasks: [compute]\nseeds: 1\nmethods:\n  peft:\n    {block}\n")
    return {t.cell: (t.rank, t.options) for t in suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")}


def test_a_list_is_an_axis_where_the_field_is_no_list_and_a_list_of_tuners_is_one_too(tmp_path):
    found = cells(tmp_path, "{ peft_type: [VERA, OFT], target_modules: [q_proj, v_proj], learning_rate: 1e-2 }")
    assert list(found) == [f"peft {name} target_modules=q_proj+v_proj fp32" for name in ("VERA r=256", "OFT")]
    found = cells(tmp_path, "{ peft_type: LORA, r: [2, 4], target_modules: [[q_proj], [v_proj]], learning_rate: 1e-2 }")
    assert {rank for rank, _ in found.values()} == {2, 4}
    assert len(found) == 4
    found = cells(tmp_path, "{ peft_type: LORA, rank_pattern: [{ q_proj: 2 }, { q_proj: 4 }], learning_rate: 1e-2 }")
    assert list(found) == [f"peft LORA r=8 rank_pattern=q_proj:{r} fp32" for r in (2, 4)]
    assert found["peft LORA r=8 rank_pattern=q_proj:2 fp32"][1] == {"peft_type": "LORA", "rank_pattern": {"q_proj": 2}}


def test_long_values_are_shortened_in_names_and_stay_distinct(tmp_path):
    lists = ", ".join(str([*range(100, 120), last]) for last in (1, 2))
    found = cells(tmp_path, f"{{ peft_type: TRAINABLE_TOKENS, token_indices: [{lists}], learning_rate: 1e-2 }}")
    assert len(found) == 2
    assert max(map(len, found)) < 70


def loaded(precision="fp32"):
    folder = builtin.folder("nano")
    return load.load(folder, PRECISIONS[precision], False, True, device="cpu", trust_remote_code=False).model


def attached(tuner: str, precision="fp32", **changes):
    trial = ZOO[tuner]
    torch.manual_seed(0)
    return resolve(METHODS["peft"].attach)(loaded(precision), trial.rank, {**trial.options, **changes})


def logits(tuned, precision="fp32"):
    with torch.set_grad_enabled(tuned.training), load.autocast(PRECISIONS[precision], "cpu"):
        return tuned(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits[:, -20:].float()


def train(tuned, rate: float, steps: int, precision="fp32"):
    parameters = load.cast_trainable(tuned, PRECISIONS[precision])
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0)
    tuned.train()
    for step in range(steps):
        found = logits(tuned, precision)[:, :-1].flatten(0, 1)
        torch.nn.functional.cross_entropy(found, IDS[:, 1:].flatten()).backward()
        optimizer.step()
        resolve(METHODS["peft"].after_step)(tuned, step)
        optimizer.zero_grad()
    tuned.eval()


@pytest.mark.parametrize("tuner", sample(sorted(set(ZOO) - NEEDS_TRAINED_ADAPTERS), 4))
def test_a_tuner_starts_as_the_base_trains_saves_loads_and_can_be_switched_off(tuner, tmp_path):
    base = logits(loaded().eval())
    tuned = attached(tuner)
    virtual = method_of("peft", ZOO[tuner].options).virtual_tokens
    start = logits(tuned.eval())
    assert torch.allclose(start, base, atol=1e-4) is not (virtual or tuner in NO_IDENTITY)
    train(tuned, ZOO[tuner].training.learning_rate, 3)
    after = logits(tuned)
    assert not torch.allclose(after, start, atol=1e-3)
    with torch.no_grad():  # as lm-eval calls it: by place, without a mask
        torch.testing.assert_close(tuned(IDS).logits[:, -20:].float(), after, atol=1e-5, rtol=0)
    with tuned.disable_adapter():
        assert torch.equal(logits(tuned), base)
    resolve(METHODS["peft"].save)(tuned, tmp_path)
    torch.manual_seed(99)
    again = resolve(METHODS["peft"].load)(loaded(), tmp_path)
    torch.testing.assert_close(logits(again.eval()), after, atol=1e-5, rtol=0)


def test_xlora_is_refused_without_trained_adapters():
    with pytest.raises(
        Unsupported, match="peft XLORA trains no adapter: it combines adapters that are already trained"
    ):
        attached("XLORA")


@pytest.mark.parametrize(
    ("tuner", "words"),
    [
        ("GLORA", "Linear4bit.*GLoRA does not support this layer type"),
        ("DEFT", "computes with the base's weights, which are packed"),
        ("UNILORA", "keeps its scales in the type of the base's weights, .* so they are zero"),
        ("LOHA", "computes with the base's weights, which are packed here: mat1 and mat2 shapes"),
        ("ADAMSS", "which are packed here: Only Tensors of floating point"),
    ],
)
def test_a_tuner_that_cannot_use_packed_weights_is_unsupported_with_the_reason(tuner, words):
    with pytest.raises(Unsupported, match=words):
        logits(attached(tuner, "nf4").eval(), "nf4")


@cache
def base_logits(precision: str) -> torch.Tensor:
    return logits(loaded(precision).eval(), precision)


def refusal(tuner: str, precision: str) -> str | None:
    """The reason why a tuner is refused, without the message of torch or peft; None if it is not."""
    try:
        logits(attached(tuner, precision).eval(), precision)
    except Unsupported as told:
        return str(told).partition(":")[0]
    return None


@pytest.mark.parametrize("tuner", sample(sorted(set(ZOO) - NEEDS_TRAINED_ADAPTERS), 6))
def test_on_int8_a_trained_update_equals_that_in_fp32_or_the_tuner_is_refused(tuner, tmp_path):
    """A tuner that uses codes as weights would be far off; one that loses its update, off by the effect of training."""
    row = zoo.rows("int8")[tuner]
    assert refusal(tuner, "int8") == (row["message"].partition(":")[0] if row["status"] == "unsupported" else None)
    if row["status"] == "unsupported":
        return
    tuned = attached(tuner)
    train(tuned, ZOO[tuner].training.learning_rate, 3)
    expected = logits(tuned)
    resolve(METHODS["peft"].save)(tuned, tmp_path)
    found = logits(resolve(METHODS["peft"].load)(loaded("int8"), tmp_path).eval(), "int8")
    rounding = float((base_logits("int8") - base_logits("fp32")).abs().mean())
    moved = float((expected - base_logits("fp32")).abs().mean())
    assert float((found - expected).abs().mean()) < 2 * rounding
    assert moved > rounding, "or a lost update would pass too"


def test_a_first_pass_on_packed_weights_leaves_no_guard_behind():
    tuned = attached("LORA", "nf4").eval()
    logits(tuned, "nf4")
    assert "forward" not in vars(tuned)


def test_a_tuner_that_cannot_be_attached_is_a_row_with_the_reason(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, "peft", options={"peft_type": "C3A", "block_size": 7})
    row = run(trials.job(made, tmp_path), 0.0, lambda _: None, lambda *_: None).row
    assert row.status == "unsupported"
    assert row.message.startswith("peft C3A on LlamaForCausalLM: The block size should be a factor of the input size")


def test_settings_refused_by_the_config_are_an_error_with_its_message():
    with pytest.raises(UserError, match=r"peft ADALORA: its config refuses these settings: .*total_step"):
        attached("ADALORA", total_step=None)
    with pytest.raises(UserError, match="num_virtual_tokens of 13 becomes 1"):
        attached("CPT", cpt_token_ids=None, cpt_tokens_type_mask=None)


def test_a_mapping_becomes_the_config_that_a_field_takes():
    tuned = attached("LORA", velora_config={"num_groups": 4})
    assert tuned.active_peft_config.velora_config.num_groups == 4


def test_adalora_reduces_ranks_while_it_trains():
    tuned = attached("ADALORA", total_step=8, tinit=1, tfinal=2, deltaT=1)
    train(tuned, 1e-2, 8)
    kept = [int((p != 0).sum()) for name, p in tuned.named_parameters() if "lora_E" in name]
    assert sum(kept) == 8 * len(kept) < 12 * len(kept)


def test_a_sparse_tensor_counts_its_indices_and_values():
    ledger = Ledger()
    sparse = torch.eye(8).to_sparse()
    ledger.track(sparse, "adapter")
    assert ledger.bytes.live["adapter"] == 8 * 4 + 2 * 8 * 8


def test_only_trials_that_trained_and_did_not_lower_their_loss_are_unlearned():
    rows = [("a", "ok", 3.0, 2.0), ("b", "ok", 3.0, 3.0), ("c", "ok", None, None), ("d", "diverged", 3.0, 9.0)]
    table = pd.DataFrame(rows, columns=["cell", "status", "first_loss", "last_loss"])
    assert list(rows_without_progress(table)["cell"]) == ["b"]


def test_the_documents_blocks_of_peft_load(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    block = text.split("## Any tuner of peft")[1].split("```")[1].partition("\n")[2]
    (tmp_path / "x.yaml").write_text(f"base: nano\ntasks: [compute]\nseeds: 1\n{block}")
    assert len(suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")) == 4


def test_the_tuners_that_choose_what_stays_are_those_with_an_update_after_each_step():
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as classes

    found = {str(kind.value) for kind, made in classes.items() if hasattr(made, "update_and_allocate")}
    assert found == set(peft_fields.CHOOSING)
