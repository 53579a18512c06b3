"""Every field of peft's LoraConfig: it has an effect, and what is saved gives the same logits, or it is refused.

By default a third of the fields are trained and fewer on quantized bases; ``--run-slow`` trains all of them.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from peft import LoraConfig

from peftbench import suite
from peftbench.commands import listing
from peftbench.errors import Unsupported, UserError
from peftbench.evaluation import cached_steps, scoring
from peftbench.evaluation.deployed import forms
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS, lora_calibration, lora_fields, method_of, peft_fields
from peftbench.methods.support import refusal
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.records import Example, Task
from peftbench.records.resolve import resolve
from peftbench.runner import trial
from peftbench.tasks import read
from peftbench.training import batches, loop
from tests.support import trials
from tests.support.method_cells import logits
from tests.support.sample import sample

LINEAR = {"target_modules": "all-linear"}
PARTS = {
    "target_modules_bd_a": ["o_proj", "down_proj"],
    "target_modules_bd_b": ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"],
}
EFFECTIVE = {
    "bias": None,  # the base has none: below
    "r": {"r": 2},
    "target_modules": {"target_modules": ["q_proj"]},
    "exclude_modules": {"exclude_modules": ["v_proj"]},
    "lora_alpha": {"lora_alpha": 32},
    "lora_dropout": {"lora_dropout": 0.5},
    "use_rslora": {"use_rslora": True},
    "modules_to_save": {"modules_to_save": ["norm"]},
    "init_lora_weights": {"init_lora_weights": "gaussian"},
    "layers_to_transform": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "layers_pattern": {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "rank_pattern": {"rank_pattern": {"q_proj": 2}},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 64}},
    "trainable_token_indices": {"trainable_token_indices": [14, 21]},
    "eva_config": {"init_lora_weights": "eva", "eva_config": {"rho": 1.0}},
    "corda_config": {"init_lora_weights": "corda", "corda_config": {}},
    "lora_ga_config": {"init_lora_weights": "lora_ga", "lora_ga_config": {"direction": "ArBr"}},
    "use_dora": {"use_dora": True},
    "velora_config": {"velora_config": {"num_groups": 4}},
    "alora_invocation_tokens": {"alora_invocation_tokens": "the last token of the prompt"},
    "monteclora_config": {"monteclora_config": {"sample_scaler": 1e-2, "buffer_size": 4}},
    "layer_replication": {"layer_replication": [[0, 2], [1, 3]]},
    "lora_bias": {"lora_bias": True},
    "target_parameters": {"target_modules": [], "target_parameters": ["mlp.up_proj.weight"]},
    "use_bdlora": {"use_bdlora": {**PARTS, "nblocks": 2}},
    "kasa_config": {"kasa_config": {}},
    "ensure_weight_tying": None,  # below
}
"""Field of LoraConfig -> settings in which it has an effect on the tests' base model."""
STARTS = {start: {"init_lora_weights": start} for start in (False, *lora_fields.STARTS, "pissa_niter_4")}
STARTS["lora_ga"] |= {"lora_ga_config": {}}


def test_every_field_of_the_installed_loraconfig_is_accepted_or_refused():
    """A field that a new peft adds fails here until someone has decided what it does."""
    fields = {field.name for field in dataclasses.fields(LoraConfig)} - set(peft_fields._OURS)
    assert fields == {*lora_fields.ACCEPTED, *lora_fields.REFUSED}
    assert not {*lora_fields.ACCEPTED} & {*lora_fields.REFUSED}
    assert set(EFFECTIVE) == set(lora_fields.ACCEPTED)


def test_every_variant_of_the_installed_peft_is_known():
    found = {field.name for field in dataclasses.fields(LoraConfig) if field.metadata.get("is_lora_variant")}
    assert found == {*lora_fields.VARIANTS, "arrow_config"}


@pytest.fixture(scope="module")
def plan(tiny, tmp_path_factory):
    """The batches of a trial."""
    made = trials.trial(tiny, tmp_path_factory.mktemp("data"), "lora")
    base = fresh(tiny)
    return batches.draw_batches({"colour": read.examples(made.tasks[0], "train")}, made.training, base.tokenizer, 0)


def fresh(tiny, precision="fp32"):
    return load.load(tiny, PRECISIONS[precision], False, True, device="cpu", trust_remote_code=False)


def invocation(plan):
    """The last token of every prompt."""
    (token,) = {e.ids[e.loss_from - 1] for step in plan for e in step}
    return [token]


def attached(tiny, plan, precision="fp32", **fields):
    base = fresh(tiny, precision).model
    base.peftbench_origin = dataclasses.replace(base.peftbench_origin, step_examples=plan)
    options = {"peft_type": "LORA", **LINEAR, **fields}
    if isinstance(options.get("alora_invocation_tokens"), str):
        options["alora_invocation_tokens"] = invocation(plan)
    rank = options.pop("r", 4)
    torch.manual_seed(0)
    return resolve(METHODS["peft"].attach)(base, rank, options)


def trained(tiny, plan, precision="fp32", steps=2, **fields):
    """Return the tuned model after some steps, and which of its tensors moved."""
    tuned = attached(tiny, plan, precision, **fields)
    where = {"precision": PRECISIONS[precision], "device": "cpu", "pad_id": 0, "virtual_tokens": 0}
    learner = loop.learner(tuned, load.cast_trainable(tuned, PRECISIONS[precision]), trials.TRAINING, **where)
    before = {n: p.detach().clone() for n, p in tuned.named_parameters() if p.requires_grad}
    torch.manual_seed(1)
    loop.train(learner, plan[:steps], [], Clock(), lambda *_: None)
    moved = {n for n, p in tuned.named_parameters() if n in before and not torch.equal(p, before[n])}
    return tuned.eval(), moved, set(before)


@pytest.fixture(scope="module")
def plain_logits(tiny, plan):
    made = {}

    def of(precision="fp32"):
        if precision not in made:
            made[precision] = logits(trained(tiny, plan, precision)[0], precision, ids(plan))
        return made[precision]

    return of


def ids(plan):
    """A probe that has aLoRA's invocation."""
    example = max((e for step in plan for e in step), key=lambda e: len(e.ids))
    return torch.tensor([example.ids])


CASES = [(name, fields) for name, fields in EFFECTIVE.items() if fields] + [
    (f"init {start}", fields) for start, fields in STARTS.items()
]
SLOW = ("eva_config", "init eva")
"""Cases of some seconds; lora's own EVA is tested by default."""


def marked(cases):
    return [pytest.param(*case, marks=pytest.mark.slow if case[-2] in SLOW else (), id=case[-2]) for case in cases]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "fields"), sample(marked(CASES), 3))
def test_a_field_changes_the_trained_model_and_what_is_saved_gives_its_logits(
    name, fields, tiny, plan, plain_logits, tmp_path
):
    tuned, moved, all_of_them = trained(tiny, plan, **fields)
    assert moved == all_of_them
    found = logits(tuned, "fp32", ids(plan))
    assert float((found - plain_logits()).abs().max()) > 1e-3, "plain LoRA under another name"
    resolve(METHODS["peft"].save)(tuned, tmp_path)
    torch.manual_seed(99)
    again = resolve(METHODS["peft"].load)(fresh(tiny).model, tmp_path)
    torch.testing.assert_close(logits(again, "fp32", ids(plan)), found, atol=2e-4, rtol=1e-3)


QUANTIZED = [("nf4", name, fields) for name, fields in CASES] + [("int8", name, fields) for name, fields in CASES]
REFUSED_QUANTIZED = {
    "velora_config",
    "monteclora_config",
    "use_bdlora",
    "kasa_config",
    "corda_config",
    "lora_ga_config",
    *(f"init {start}" for start in ("olora", "pissa", "pissa_niter_4", "corda", "orthogonal", "mica", "lora_ga")),
}
"""Of these peft ignores some without an error on bitsandbytes' layers."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("precision", "name", "fields"),
    sample([(precision, name, fields) for precision, name, fields in QUANTIZED if name not in SLOW], 9),
    ids=str,
)
def test_on_a_quantized_base_a_field_has_an_effect_or_is_refused(
    precision, name, fields, tiny, plan, plain_logits, tmp_path
):
    if name in REFUSED_QUANTIZED or (precision == "int8" and name == "use_dora"):
        with pytest.raises(Unsupported, match="peft LORA"):
            attached(tiny, plan, precision, **fields)
        return
    tuned, moved, all_of_them = trained(tiny, plan, precision, **fields)
    assert moved == all_of_them
    found = logits(tuned, precision, ids(plan)).float()
    assert float((found - plain_logits(precision)).abs().max()) > 1e-3, "plain LoRA under another name"
    resolve(METHODS["peft"].save)(tuned, tmp_path)
    again = resolve(METHODS["peft"].load)(fresh(tiny, precision).model, tmp_path)
    torch.testing.assert_close(logits(again, precision, ids(plan)).float(), found, atol=5e-2, rtol=1e-3)


@pytest.mark.parametrize("field", ["velora_config", "monteclora_config", "use_bdlora", "kasa_config"])
def test_a_variant_that_peft_ignores_on_quantized_layers_is_refused_naming_the_layer(field, tiny, plan):
    with pytest.raises(Unsupported, match="Linear4bit"):
        attached(tiny, plan, "nf4", **EFFECTIVE[field])


STATIC = [
    ({"use_qalora": True}, "GPTQ bases only"),
    ({"qalora_group_size": 8}, "GPTQ bases only"),
    ({"arrow_config": {}}, "already trained"),
    ({"megatron_config": {"a": 1}}, "Megatron"),
    ({"megatron_core": "x"}, "Megatron"),
    ({"fan_in_fan_out": True}, "by the kind of each layer"),
    ({"runtime_config": {"ephemeral_gpu_offload": True}}, "on one device"),
    ({"loftq_config": {"loftq_bits": 4}}, "needs CUDA"),
    ({"init_lora_weights": "loftq"}, "needs CUDA"),
    ({"kasa_config": {"beta": 1.0}}, "beta: acts only through a term"),
    ({"kasa_config": {"gamma": 1.0}}, "gamma: acts only through a term"),
    ({"monteclora_config": {"kl_loss_weight": 1.0}}, "acts only through a term"),
    ({"monteclora_config": {"use_entropy": True}}, "acts only through a term"),
    ({"monteclora_config": {"dirichlet_prior": 1.0}}, "acts only through a term"),
    ({"init_lora_weights": "corda", "corda_config": {"corda_method": "kpm"}}, "kpm keeps what other data"),
    ({"init_lora_weights": "corda", "corda_config": {"cache_file": "x"}}, "reads and writes files"),
    ({"init_lora_weights": "eva", "eva_config": {"use_label_mask": False}}, "reads all tokens"),
    ({"eva_config": {}}, "eva_config has no effect without init_lora_weights: eva"),
    ({"corda_config": {}}, "corda_config has no effect without"),
    ({"lora_ga_config": {}}, "lora_ga_config has no effect without"),
    ({"init_lora_weights": "lora_ga", "lora_ga_config": {"scale": "unit", "stable_gamma": 4}}, "without scale: stable"),
    ({"use_dora": True, "kasa_config": {}}, "use_dora and kasa_config do not go together"),
    ({"use_dora": True, "init_lora_weights": "mica"}, "do not go together"),
    ({"kasa_config": {}, "init_lora_weights": "pissa"}, "it changes the base's weights itself"),
    ({"alora_invocation_tokens": [3], "init_lora_weights": "pissa"}, "the base's weights must be its own"),
    ({"use_bdlora": PARTS | {"nblocks": 2}, "init_lora_weights": "gaussian"}, "a start of their own"),
    ({"use_bdlora": PARTS}, "one block, which is plain LoRA"),
    ({"use_bdlora": PARTS | {"nblocks": 2}, "lora_bias": True}, "has no bias"),
    ({"alora_invocation_tokens": []}, "plain LoRA"),
]


@pytest.fixture(scope="module")
def untouched(tiny):
    """A base model for what is refused before anything is attached; it has no batches to begin from."""
    model = fresh(tiny).model
    before = [type(module) for module in model.modules()]
    yield model
    assert [type(module) for module in model.modules()] == before


@pytest.mark.parametrize(("fields", "words"), STATIC, ids=[str(fields) for fields, _ in STATIC])
def test_a_field_without_effect_is_refused_in_the_plan_and_in_the_trial(fields, words, untouched):
    method = method_of("peft", {"peft_type": "LORA", **fields})
    planned = refusal(method, "fp32", "cpu", trials.TRAINING)
    assert planned.message.startswith("peft LORA: ")
    assert words in planned.message
    with pytest.raises(Unsupported) as told:
        resolve(METHODS["peft"].attach)(untouched, 4, {"peft_type": "LORA", **LINEAR, **fields})
    assert str(told.value) == planned.message


def test_list_methods_says_which_fields_are_refused():
    told = " ".join(listing.method("LORA").split())
    assert "refused: Arrow trains nothing" in told
    assert "lora_plus_ratio" in told


def test_every_refused_field_is_in_the_list_above():
    assert {name for fields, _ in STATIC for name in fields} >= set(lora_fields.REFUSED)


@pytest.mark.parametrize(
    ("error", "fields", "words"),
    [
        (UserError, {"init_lora_weights": "pisa"}, "unknown start 'pisa'; did you mean 'pissa'"),
        (UserError, {"rank_pattern": {"qproj": 2}}, "has no effect: .*rank_pattern keys did not match"),
        (UserError, {"alpha_pattern": {"qproj": 2}}, "has no effect: .*alpha_pattern keys did not match"),
        (UserError, {"exclude_modules": ["nothing"]}, "no modules were excluded"),
        (UserError, {"exclude_modules": r"(\w+\.?)+z"}, "exclude_modules: .* takes more than 1 s"),
        (UserError, {"rank_pattern": {r"(\w+\.?)+z": 2}}, "rank_pattern: .* takes more than 1 s"),
        (UserError, {"target_modules": ["q_proj", "vproj"]}, "target_modules: 'vproj' matches no module"),
        (UserError, {"modules_to_save": ["nrm"]}, "modules_to_save: 'nrm' matches no module"),
        (UserError, {"target_parameters": ["mlp.x"], "target_modules": ["q_proj"]}, "no parameter was matched"),
        (UserError, {"trainable_token_indices": [99999]}, "trainable_token_indices: given 99999; allowed: ids"),
        (UserError, {"kasa_config": {"betta": 1}}, "its config refuses these settings: .*betta"),
        (Unsupported, {"bias": "all"}, "bias: all has no effect"),
        (Unsupported, {"bias": "lora_only"}, "bias: lora_only has no effect"),
        (Unsupported, {"ensure_weight_tying": True}, "ensure_weight_tying has no effect"),
        (Unsupported, {"velora_config": {"num_groups": 256}}, "num_groups of 256 has no effect"),
        (Unsupported, {"layer_replication": [[0, 1], [1, 3]]}, "it gives the base's layers in their order"),
        (Unsupported, {"use_bdlora": PARTS | {"nblocks": 3}}, "divisible by 3"),
        (Unsupported, {"use_bdlora": {"target_modules_bd_a": ["o_proj"], "nblocks": 2}}, "matches neither A nor B"),
        (
            Unsupported,
            {"use_bdlora": {"target_modules_bd_a": ["x"], "nblocks": 2, "match_strict": False}},
            "'x' matches no adapted layer",
        ),
        (Unsupported, {"init_lora_weights": "mica", "lora_plus_ratio": 16.0}, "no effect: no B trains"),
        (Unsupported, {"init_lora_weights": "orthogonal", "r": 3}, "rank to be even"),
    ],
    ids=str,
)
def test_a_field_that_this_base_gives_no_effect_is_refused(error, fields, words, tiny, plan):
    with pytest.raises(error, match=words):
        attached(tiny, plan, **fields)


def test_alora_is_refused_where_the_prompts_do_not_have_its_invocation_or_only_begin_with_it(tiny, plan):
    first = plan[0][0].ids[0]
    for tokens, words in (
        ([299, 298], "are absent from 16 of 16 training examples"),
        ([first], "begin every example, so that all tokens are adapted: plain LoRA"),
        ([plan[0][0].ids[-1]], "last occur in the answer|are absent from"),
    ):
        with pytest.raises(Unsupported, match=words):
            attached(tiny, plan, alora_invocation_tokens=tokens)


def test_alora_leaves_what_precedes_the_invocation_as_it_is(tiny, plan):
    tuned, *_ = trained(tiny, plan, **EFFECTIVE["alora_invocation_tokens"])
    probe = ids(plan)
    at = probe[0].tolist().index(invocation(plan)[0])
    base = logits(fresh(tiny).model, "fp32", probe)
    changed = (logits(tuned, "fp32", probe) - base).abs().amax(-1)[0]
    assert float(changed[:at].max()) == 0
    assert float(changed[at:].min()) > 0


@pytest.mark.parametrize("own", [False, True])
def test_alora_decodes_with_beams_from_the_invocation_of_the_prompt_alone(own, tiny, plan, monkeypatch):
    """With as many rows as beams, and although the answer may have the invocation's tokens, too."""
    tuned, *_ = trained(tiny, plan, **EFFECTIVE["alora_invocation_tokens"])
    first = plan[0][0]
    prompt = torch.tensor([first.ids[: first.loss_from]])
    if own:  # every answer begins with the invocation
        token = invocation(plan)[0]
        tuned.get_base_model().lm_head.register_forward_hook(
            lambda _, __, out: out.index_add(2, torch.tensor([token]), torch.full((*out.shape[:2], 1), 1e3))
        )
    assert cached_steps.why_not_beams(tuned, prompt, "float32", 0, 64) is None
    assert cached_steps.why_not(tuned, prompt, "float32", 0, 64) is None
    harness = scoring.Harness(tuned, fresh(tiny).tokenizer, trials.Evaluation(8, 48, "test"), PRECISIONS["fp32"])
    task = Task("lines", "generation", max_new_tokens=4, num_beams=3)
    example = Example(harness.tokenizer.decode(first.ids[: first.loss_from]), "x")
    (score,), rows = scoring.evaluate(harness, [task], {"lines": [example] * 2})
    assert "decoded_without_cache" not in score.settings
    assert rows[0].prediction == rows[1].prediction
    monkeypatch.setattr(cached_steps, "why_not_beams", lambda *_: "the cache is wrong")
    again = scoring.Harness(tuned, harness.tokenizer, trials.Evaluation(8, 48, "test"), PRECISIONS["fp32"])
    with pytest.raises(Unsupported, match="aLoRA decodes from a cache only, but the cache is wrong"):
        scoring.evaluate(again, [task], {"lines": [example]})


@pytest.mark.parametrize(
    ("fields", "changes", "words"),
    [
        ({"alora_invocation_tokens": [3]}, {"packing": True}, "peft LORA does not exist with packing, because of all"),
        ({"monteclora_config": {}}, {"gradient_checkpointing": True}, "with gradient checkpointing, because a layer"),
    ],
)
def test_what_does_not_go_with_packing_or_checkpointing_is_refused_in_the_plan(fields, changes, words):
    method = method_of("peft", {"peft_type": "LORA", **fields})
    training = dataclasses.replace(trials.TRAINING, **changes)
    assert words in refusal(method, "fp32", "cpu", training).message
    assert refusal(method, "fp32", "cpu", trials.TRAINING) is None
    assert refusal(method_of("peft", {"peft_type": "LORA"}), "fp32", "cpu", training) is None


def test_a_list_of_variants_is_an_axis_of_which_only_some_cells_are_refused(tmp_path):
    (tmp_path / "x.yaml").write_text(
        "base: nano\ntasks: [compute]\nseeds: 1\nmethods:\n  peft:\n"
        "    - { peft_type: LORA, use_qalora: [false, true], lora_plus_ratio: [1, 16], learning_rate: 1e-3 }\n"
        "    - { peft_type: LORA, kasa_config: {}, learning_rate: 1e-3 }\n"
    )
    found = {t.cell: t.unsupported for t in suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")}
    assert len(found) == 5
    assert "peft LORA r=8 kasa_config=defaults fp32" in found
    assert {cell: bool(why) for cell, why in found.items()} == {cell: "use_qalora=true" in cell for cell in found}


@pytest.mark.parametrize("start", ["lora_ga", "corda"])
def test_a_start_from_data_equals_the_base_and_is_the_same_again(start, tiny, plan):
    fields = STARTS[start]
    first, again = (attached(tiny, plan, **fields) for _ in range(2))
    probe = ids(plan)
    torch.testing.assert_close(
        logits(first, "fp32", probe), logits(fresh(tiny).model, "fp32", probe), atol=1e-4, rtol=0
    )
    weights = [{n: p for n, p in tuned.named_parameters() if "lora_" in n} for tuned in (first, again)]
    assert all(torch.equal(p, weights[1][n]) for n, p in weights[0].items())
    other = attached(tiny, plan[1:], **fields)
    assert any(not torch.equal(p, weights[0][n]) for n, p in other.named_parameters() if n in weights[0])


def test_lora_ga_starts_in_the_directions_of_the_first_batchs_gradient(tiny, plan):
    """As its authors do: A the first r right singular vectors, B the next r left ones, both scaled alike."""
    from peftbench.methods import lora

    base = fresh(tiny).model
    base.requires_grad_(True)
    batch = batches.collate(plan[0], 0)
    loop.batch_loss(base, batch).backward()
    name, r = "model.layers.0.mlp.up_proj", 4
    u, s, v = torch.linalg.svd(base.get_submodule(name).weight.grad, full_matrices=False)
    tuned_base = fresh(tiny).model
    tuned_base.peftbench_origin = dataclasses.replace(tuned_base.peftbench_origin, step_examples=plan)
    options = {"alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear", "initialization": "lora_ga"}
    torch.manual_seed(0)
    tuned = lora.attach(tuned_base, r, options)
    layer = lora_calibration.layers(tuned)[name]
    a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    scale = b.shape[0] ** 0.25 / 16**0.5
    assert float((a @ a.T - scale**2 * torch.eye(r)).abs().max()) < 1e-4
    assert float((b.T @ b - scale**2 * torch.eye(r)).abs().max()) < 1e-4
    assert float((a @ v[:r].T).svd().S.min()) > 0.99 * scale, "the same subspace"
    if float(s[r - 1] - s[r]) > 0:
        assert float((u[:, r : 2 * r].T @ b).svd().S.min()) > 0.9 * scale
    assert {n for n, p in tuned.named_parameters() if p.requires_grad} == {
        n for n, _ in tuned.named_parameters() if "lora_" in n
    }


TRIALS = [
    {"init_lora_weights": "lora_ga", "lora_ga_config": {}},
    {"kasa_config": {}},
    {"velora_config": {"num_groups": 4}},
]


@pytest.mark.parametrize("fields", sample(TRIALS, 3), ids=str)
def test_a_trial_of_a_variant_is_ok(fields, tiny, tmp_path):
    options = {"peft_type": "LORA", **LINEAR, **fields}
    made = trials.trial(tiny, tmp_path, "peft", rank=4, options=options)
    row = trial.run(trials.job(made, tmp_path), 0.0, lambda *_: None, lambda *_: None).row
    assert (row.status, row.message, row.stalled_tensors) == ("ok", None, None)
    assert row.last_loss < row.first_loss
    assert json.loads(row.settings_json)["options"] == options


NOT_MERGED = {
    "alora_invocation_tokens": "peft does not merge LORA: aLoRA does not support safe merging",
    "lora_bias": "peft does not merge LORA: Impossible to merge LoRA",
    "layer_replication": "tied to another module's",
    "trainable_token_indices": "tied to another module's",
}
"""Field -> why what it trains cannot be merged: part of the reason."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "fields"),
    sample([case for case in CASES if case[0] not in NOT_MERGED], 4) + [(n, EFFECTIVE[n]) for n in NOT_MERGED],
    ids=str,
)
def test_merging_what_was_saved_gives_its_logits_or_is_refused(name, fields, tiny, plan, tmp_path):
    tuned, *_ = trained(tiny, plan, **fields)
    resolve(METHODS["peft"].save)(tuned, tmp_path)
    method = method_of("peft", {"peft_type": "LORA"})
    source = forms.Source(tiny, tmp_path, method, PRECISIONS["fp32"], False, "cpu", False, None)
    model = forms._plain(source, tiny, torch.float32, quantized=False)
    if name in NOT_MERGED:
        with pytest.raises(Unsupported, match=NOT_MERGED[name]):
            forms._with_adapter_merged(source, model)
        return
    found = logits(forms._with_adapter_merged(source, model), "fp32", ids(plan))
    torch.testing.assert_close(found, logits(tuned, "fp32", ids(plan)), atol=5e-4, rtol=1e-3)
