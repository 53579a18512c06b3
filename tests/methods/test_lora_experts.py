"""LoRA on the fused experts of a mixture of experts: which matrices it adapts, with which rank, and what is refused."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from peftbench.errors import Unsupported, UserError
from peftbench.methods import METHODS, adapted_share, lora, lora_experts
from peftbench.models.load import matrices
from peftbench.planner.records import Pass
from peftbench.suite import trial_key
from tests.support import architectures, families, trials
from tests.support.method_cells import loaded
from tools.validation.planner_accuracy import compare

OPTIONS = {"alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear"}
SKIPPED = ("gpt_oss", "qwen2_moe", "granitemoe", "llama4_text", "phimoe")
"""Families whose experts peft's ``all-linear`` does not adapt by itself."""
ADAPTED = ("mixtral", "olmoe", "qwen3_moe", "deepseek_v3")
"""Families whose experts it does adapt."""


def tuned(model, rank=4, **options):
    return lora.attach(model.requires_grad_(False), rank, {**OPTIONS, **options})


def experts(model):
    """Return the wrapped tensors of experts: name of the tensor -> rank and scale of each of them."""
    found = {}
    for module in model.modules():
        if isinstance(module, LoraLayer) and hasattr(module, "parameter_name") and module.num_experts > 1:
            found.setdefault(module.parameter_name, set()).add((module.r["default"], module.scaling["default"]))
    return found


@pytest.mark.parametrize("family", [*SKIPPED, *ADAPTED])
def test_every_expert_of_a_family_has_the_rank_or_a_part_of_it_or_none(family):
    make = lambda: families.build(families.config(family))  # noqa: E731
    fused = set(lora_experts._fused(make()))
    assert fused
    each, divided, none = (experts(tuned(make(), experts=kind)) for kind in ("each", "divided", "none"))
    assert each == {name.rpartition(".")[2]: {(4, 2.0)} for name in fused}
    active = lora_experts._active(make())
    assert divided == {name: {(-(-4 // active), 2.0)} for name in each}
    assert none == {}
    if family in SKIPPED:
        assert experts(tuned(make())) == {}


@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral"])
def test_what_is_adapted_beside_the_experts_is_told(family):
    shares = {}
    for kind in ("auto", "each", "none"):
        model = families.build(families.config(family))
        before = matrices(model)
        shares[kind] = adapted_share.columns(before, tuned(model, experts=kind))
    assert shares["each"].adapted_share > shares["none"].adapted_share
    assert "experts.gate_up_proj" in shares["none"].unadapted_matrices
    assert "experts." not in (shares["each"].unadapted_matrices or "")
    if family == "qwen2_moe":
        assert shares["auto"] == shares["none"]


def test_the_output_layer_is_adapted_by_name_alone_as_without_experts():
    model = families.build(families.config("qwen2_moe"))
    assert not any("lm_head" in name for name, _ in tuned(model, experts="each").named_parameters() if "lora_" in name)
    model = families.build(families.config("qwen2_moe"))
    found = tuned(model, experts="each", target_modules=["q_proj", "lm_head"])
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in found.named_parameters() if "lora_" in name}
    assert {"q_proj", "lm_head"} <= adapted
    assert "k_proj" not in adapted


def test_a_saved_adapter_gives_the_same_logits_by_peft_alone(tmp_path):
    for family in ("qwen2_moe", "qwen3_moe"):
        folder = tmp_path / family
        families.make(folder, family)
        model = tuned(loaded(folder, "lora", "fp32").model, experts="divided")
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.05 * torch.randn_like(parameter))
        ids = torch.randint(3, 300, (2, 9))
        with torch.no_grad():
            expected = model.eval()(input_ids=ids).logits
            lora.save(model, tmp_path / "saved" / family)
            again = PeftModel.from_pretrained(loaded(folder, "lora", "fp32").model, tmp_path / "saved" / family).eval()
            torch.testing.assert_close(again(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
            assert not torch.allclose(loaded(folder, "lora", "fp32").model(input_ids=ids).logits, expected, atol=1e-2)


def test_a_users_rank_of_experts_goes_before_the_divided_one_at_the_scale_of_other_layers():
    """A pattern names the tensors of experts as peft does; alpha 8 at the rank 3 is the scale 8 / 3."""

    def found(kind, **options):
        return experts(tuned(families.build(families.config("qwen2_moe")), experts=kind, **options))

    own, part, whole = {(3, 8 / 3)}, {(2, 2.0)}, {(4, 2.0)}
    for pattern in (r"experts\.gate_up_proj", "gate_up_proj", r"experts.gate_.*"):
        assert found("divided", rank_pattern={pattern: 3}) == {"down_proj": part, "gate_up_proj": own}
        assert found("each", rank_pattern={pattern: 3}) == {"down_proj": whole, "gate_up_proj": own}
    first = found("divided", rank_pattern={r"layers\.0\.mlp\.experts\.down_proj": 3})
    assert first == {"down_proj": own | part, "gate_up_proj": part}
    assert found("divided", alpha_pattern={r"experts\.down_proj": 3.0})["down_proj"] == {(2, 1.5)}


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("pattern", ["gate_up_proj", r"experts\.gate_up_proj", r".*\.gate_up_proj"])
def test_with_auto_a_pattern_of_experts_whose_rank_and_alpha_peft_doubles_is_refused(key, pattern):
    """peft replaced the last of these, and gave the rank of the first two twice the scale."""
    with pytest.raises(Unsupported, match=r"gate_up_proj.*twice the rank and alpha by itself.*experts: each"):
        tuned(families.build(families.config("mixtral")), **{key: {pattern: 3}})
    assert tuned(families.build(families.config("mixtral")), **{key: {r".*\.down_proj": 3, r".*\.q_proj": 2}})
    assert tuned(families.build(families.config("qwen2_moe")), **{key: {"gate_proj": 3}})


def test_a_pattern_that_names_no_tensor_of_experts_is_an_error():
    """``experts`` is the module of the tensors, by which peft looks nothing up."""
    for kind in ("each", "divided"):
        with pytest.raises(UserError, match=r"unknown module 'experts'.*gate_up_proj"):
            tuned(families.build(families.config("qwen2_moe")), experts=kind, rank_pattern={"experts": 3})


@pytest.mark.parametrize("kind", ["each", "divided"])
def test_a_step_on_experts_is_predicted_to_the_byte(kind, tmp_path):
    folder = architectures.make(tmp_path / "base", "mixtral")
    found, _, book = compare(folder, "lora", "fp32", [Pass(2, 16)], options={"experts": kind})
    assert dict(found.categories) == book.peak


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_trial_adapts_the_experts_and_its_row_says_so(checkpointed, tmp_path):
    folder = architectures.make(tmp_path / "base", "mixtral")
    training = {"gradient_checkpointing": checkpointed}
    made = trials.trial(folder, tmp_path, "lora", options={"experts": "divided"}, training=training)
    row = trials.run(made, tmp_path, predicts=True).row
    assert row.status == "ok", row.message
    assert row.peak_train_bytes == row.predicted_train_bytes
    assert row.adapted_share > 0.9


def test_what_peft_cannot_do_on_experts_is_refused(tmp_path, tiny):
    make = lambda: families.build(families.config("qwen2_moe"))  # noqa: E731
    for given, words in (
        ({"dropout": 0.1}, "peft has no dropout on fused experts"),
        ({"dora": True}, "peft has no dora on fused experts"),
        ({"initialization": "pissa"}, "peft has no pissa on fused experts"),
        ({"lora_fa": True}, "lora_fa has no rule for fused experts"),
    ):
        with pytest.raises(Unsupported, match=words):
            tuned(make(), experts="each", target_modules="attention", **given)
    assert experts(tuned(make(), experts="none", dora=True)) == {}
    with pytest.raises(Unsupported, match="experts: the base model has no fused experts; remove the key"):
        tuned(loaded(tiny, "lora", "fp32").model, experts="each")
    folder = architectures.make(tmp_path / "base", "mixtral")
    with pytest.raises(Unsupported, match=r"quantized fused experts .* anew in every pass; use none"):
        tuned(loaded(folder, "qlora", "nf4").model, experts="each")


def test_a_config_without_the_number_of_active_experts_cannot_divide_the_rank(monkeypatch):
    model = families.build(families.config("qwen2_moe"))
    monkeypatch.setattr(lora_experts, "_ACTIVE", ("num_experts_per_tokn",))
    with pytest.raises(Unsupported, match=r"experts: divided: the config has none of num_experts_per_tokn; use each"):
        tuned(model, experts="divided")


def test_the_key_of_auto_is_that_of_trials_from_before(tiny, tmp_path):
    one, other = (trials.trial(tiny, tmp_path, "lora", options={"experts": kind}) for kind in ("auto", "each"))
    assert "experts" not in trial_key.settings(one)["options"]
    assert trial_key.settings(other)["options"]["experts"] == "each"
    assert METHODS["qlora"].options["experts"].default == "auto"
