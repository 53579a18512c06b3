"""A tuned model in the forms in which it is deployed: each computes what it should, loaded by plain libraries only."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from peftbench.errors import Unsupported
from peftbench.evaluation.deployed import forms, reading
from peftbench.methods import METHODS, deployed_forms, method_of
from peftbench.models import builtin
from peftbench.models.load import cast_trainable, load
from peftbench.models.precision import PRECISIONS
from peftbench.records import Trial
from peftbench.records.resolve import resolve
from peftbench.suite import load as load_suite
from peftbench.suite.expand import expand
from peftbench.tasks import read
from tests.support import tiny_base, trials
from tests.support.sample import sample
from tools.docs import zoo


@dataclass(frozen=True)
class Tuned:
    """A tuned model, its saved weights, and what it gives for the targets of a few examples."""

    source: forms.Source
    options: dict[str, Any]
    targets: reading.Targets
    read: reading.Reading

    def form(self, name: str, folder: Path) -> tuple[forms.Form, float]:
        """Return a form and the largest difference of a logit."""
        made = forms.make(self.source, name, self.options, folder)
        after = self.targets.read(made.model, self.source.plain_precision)
        return made, float((after.logits - self.read.logits).abs().max())


TUNERS = [t for t in expand(load_suite("peft_zoo"), "cpu") if t.method == "peft" and not zoo.variant(t.options)]
ZOO = {t.options["peft_type"]: t for t in TUNERS}
NEEDS_TRAINED_ADAPTERS = {"XLORA"}
WITH_TASKS = {"POLY", "MULTITASK_PROMPT_TUNING"}
NOT_MERGED = {"LILY", "BEFT", "TRAINABLE_TOKENS", "ADAPTION_PROMPT", "SHADOW"}
VIRTUAL = {"CARTRIDGE", "CPT", "P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"}


def tuned(base: Path, folder: Path, name: str = "lora", precision: str = "fp32", **options: Any) -> Tuned:
    """Attach a method, move what it trains, and save it; nothing is trained."""
    return moved(trials.trial(base, folder, name, precision, options=options), base, folder)


def moved(made: Trial, base: Path, folder: Path) -> Tuned:
    """Return a trial's method attached to a base model, moved and saved."""
    name, precision = made.method, made.precision
    method, record = method_of(name, made.options), PRECISIONS[precision]
    double = made.options.get("double_quantization", True)
    loaded = load(base, record, method.trains_base, double, device="cpu", trust_remote_code=False)
    torch.manual_seed(0)
    model = resolve(method.attach)(loaded.model, made.rank, made.options)
    with torch.no_grad():
        for parameter in cast_trainable(model, record):
            parameter.add_(0.05 * torch.randn_like(parameter))
    resolve(method.save)(model, folder / "saved")
    source = forms.Source(base, folder / "saved", method, record, double, "cpu", False, loaded.tokenizer)
    examples = {task.name: read.examples(task, "test") for task in made.tasks[:2]}
    targets = reading.targets(loaded.tokenizer, examples, made.evaluation, "cpu")
    return Tuned(source, dict(made.options), targets, targets.read(model, record))


@pytest.fixture(scope="module")
def lora(tiny, tmp_path_factory):
    return tuned(tiny, tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def qlora(tiny, tmp_path_factory):
    return tuned(tiny, tmp_path_factory.mktemp("qlora"), "qlora", "nf4")


@pytest.mark.parametrize(
    "options", [{}, {"dora": True}, {"rslora": True}, {"initialization": "pissa"}], ids=["lora", "dora", "rs", "pissa"]
)
def test_merged_and_reloaded_fp32_weights_give_the_tuned_models_logits(options, tiny, tmp_path):
    made, difference = tuned(tiny, tmp_path, **options).form("merged", tmp_path)
    assert difference < 1e-4
    assert made.dtype == "float32"
    assert not any("lora" in name for name, _ in made.model.named_parameters())
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "float32"
    assert (tmp_path / "merged" / "tokenizer.json").is_file()  # another program finds everything in the folder


def test_a_saved_adapter_loaded_by_peft_alone_gives_the_tuned_models_logits(lora, tmp_path):
    made, difference = lora.form("adapter", tmp_path)
    assert difference < 1e-5
    assert 0 < made.stored_bytes < made.loaded_bytes


def test_a_plain_lora_of_the_rank_or_more_is_the_lora_again_and_of_less_is_truncated(lora, tmp_path):
    differences = {rank: lora.form(f"as_lora_{rank}", tmp_path / str(rank))[1] for rank in (2, 4, 8)}
    assert differences[4] < 1e-4
    assert differences[8] < 1e-4
    assert differences[2] > 0.01


def test_a_rank_beyond_the_weights_is_unsupported_with_pefts_words(lora, tmp_path):
    with pytest.raises(
        Unsupported, match=r"peft does not convert lora to a plain LoRA: .*rank 65 is larger than the weight"
    ):
        lora.form("as_lora_65", tmp_path)


def test_the_plain_lora_of_dora_leaves_out_its_magnitudes_and_the_remark_says_so(tiny, tmp_path):
    _, difference = tuned(tiny, tmp_path, dora=True).form("as_lora_4", tmp_path)
    assert difference > 0.01  # when peft converts them, the remark goes
    assert "magnitudes" in str(deployed_forms.remark({"dora": True}, "as_lora_4"))
    assert deployed_forms.remark({"dora": True}, "merged") is deployed_forms.remark({}, "as_lora_4") is None


def test_qlora_fits_the_dequantized_weights_and_not_those_of_the_files(qlora, tmp_path):
    """It was trained on the former; 16 bits round, the files' weights lack the quantization error."""
    found = {name: qlora.form(name, tmp_path / name) for name in deployed_forms.FORMS if name != "as_lora_R"}
    difference = {name: value for name, (_, value) in found.items()}
    assert difference["adapter"] < 0.5
    assert difference["merged_dequantized"] < 0.5
    assert difference["merged"] > 2 * difference["merged_dequantized"]
    assert difference["requantized"] > 2 * difference["merged_dequantized"]
    packed = {name for name, (made, _) in found.items() if any(p.dtype == torch.uint8 for p in made.model.parameters())}
    assert packed == {"adapter", "requantized"}
    assert {made.dtype for made, _ in found.values()} == {"bfloat16"}
    assert found["requantized"][0].loaded_bytes < found["merged"][0].loaded_bytes


def test_a_quantized_tuner_is_converted_on_the_base_models_own_weights(qlora, tmp_path):
    """peft itself converts no layers of bitsandbytes."""
    _, difference = qlora.form("as_lora_4", tmp_path)
    assert difference < 0.5


def test_int8_is_requantized_as_int8(tiny, tmp_path):
    made, difference = tuned(tiny, tmp_path, "lora", "int8").form("requantized", tmp_path)
    assert any(p.dtype == torch.int8 for p in made.model.parameters())
    assert difference > 0


def test_a_partly_tuned_model_becomes_a_whole_one_in_16_bits(tiny, tmp_path):
    made, difference = tuned(tiny, tmp_path, "full", "bf16", layers=1).form("merged", tmp_path)
    assert {p.dtype for p in made.model.parameters()} == {torch.bfloat16}
    assert 0 < difference < 0.5


def test_merging_into_a_tied_weight_is_unsupported(tiny, tmp_path):
    made = tuned(tiny, tmp_path, target_modules=["lm_head"])
    with pytest.raises(Unsupported, match="tied to another module's"):
        made.form("merged", tmp_path)


def test_the_base_models_generation_config_is_in_the_merged_folder(tmp_path):
    base = tiny_base.make(tmp_path / "base")
    GenerationConfig(repetition_penalty=1.3, eos_token_id=1).save_pretrained(base)
    made, _ = tuned(base, tmp_path).form("merged", tmp_path)
    assert made.model.generation_config.repetition_penalty == 1.3


def test_a_merge_that_changes_nothing_is_an_error(lora, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "peft.tuners.lora.model.LoraModel.merge_and_unload", lambda self, **_: self.unload(), raising=True
    )
    with pytest.raises(RuntimeError, match="peft merged nothing"):
        lora.form("merged", tmp_path)


def test_a_tuner_that_peft_cannot_convert_is_unsupported_with_pefts_words(tiny, tmp_path):
    made = tuned(tiny, tmp_path, "peft", peft_type="IA3")
    with pytest.raises(Unsupported, match=r"peft does not convert IA3 to a plain LoRA: .*not support"):
        made.form("as_lora_2", tmp_path)


@pytest.mark.parametrize("tuner", sample(sorted(set(ZOO) - NEEDS_TRAINED_ADAPTERS), 12))
def test_every_tuner_of_peft_is_the_same_merged_and_reloaded_or_has_a_reason(tuner, tmp_path):
    made = moved(replace(ZOO[tuner], precision="fp32"), builtin.folder("nano"), tmp_path)
    absent = {"adapter": WITH_TASKS, "merged": WITH_TASKS | NOT_MERGED | VIRTUAL}
    for form, tuners in absent.items():
        (tmp_path / form).mkdir()
        if tuner in tuners:
            with pytest.raises(Unsupported):
                made.form(form, tmp_path / form)
        else:
            assert made.form(form, tmp_path / form)[1] < 1e-3, form


@pytest.mark.parametrize("name", [n for n, method in METHODS.own.items() if method.trains])
def test_every_method_has_each_form_or_a_reason(name, tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, name, METHODS[name].default_precision)
    method, precision = method_of(name, made.options), PRECISIONS[made.precision]
    reasons = {
        f: deployed_forms.why_not(method, made.options, precision, f) for f in ("adapter", "merged", "as_lora_4")
    }
    known = {
        "full": {"adapter", "as_lora_4"},
        "adapter": {"adapter", "merged", "as_lora_4"},
        **{key: {"merged", "as_lora_4"} for key in ("prompt_tuning", "prefix_tuning", "llama_adapter")},
    }
    assert {form for form, reason in reasons.items() if reason} == known.get(name, set())
    quantized = deployed_forms.why_not(method, made.options, PRECISIONS["bf16"], "requantized")
    assert quantized == "the base model is not quantized in bf16"


def test_the_plan_says_how_many_forms_are_scored_and_which_do_not_exist(tiny, tmp_path):
    made = [
        trials.trial(tiny, tmp_path, name, "fp32", deployed=("merged", "as_lora_4"))
        for name in ("lora", "adapter", "base")
    ]
    cost, absent = deployed_forms.plan_notes(made)
    assert cost.startswith("score after deployment: 2 forms of 1 trial (up to 2 of one) are saved, loaded and scored")
    assert absent.startswith("score after deployment: not available as merged or as_lora_4: adapter")
    assert not deployed_forms.plan_notes([trials.trial(tiny, tmp_path)])


def test_what_peft_does_with_the_rank_of_miss_is_said():
    assert "at its own rank" in (deployed_forms.remark(ZOO["MISS"].options, "as_lora_2") or "")
    for options, form in (({"peft_type": "LOHA"}, "as_lora_2"), (ZOO["MISS"].options, "merged")):
        assert deployed_forms.remark(options, form) is None


@pytest.mark.slow
def test_miss_is_converted_at_its_own_rank(tmp_path):
    made = moved(replace(ZOO["MISS"], precision="fp32"), builtin.folder("nano"), tmp_path)
    sizes = {}
    for rank in (2, 4):
        (tmp_path / str(rank)).mkdir()
        sizes[rank] = made.form(f"as_lora_{rank}", tmp_path / str(rank))[0].stored_bytes
    assert sizes[2] == sizes[4]


def test_logits_are_compared_at_the_first_targets_if_all_of_them_are_too_many(lora, monkeypatch):
    whole = len(lora.read.logits)
    assert whole == sum(map(sum, lora.targets.tokens().values()))
    monkeypatch.setattr(reading, "_KEPT", lora.read.logits.shape[1] * 5)
    assert 0 < len(lora.targets._first(lora.read.logits.shape[1])) < whole
