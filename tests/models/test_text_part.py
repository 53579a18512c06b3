"""Of a vision-language base only the part that text passes through is adapted, trained and counted."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from peftbench import report
from peftbench.errors import Unsupported
from peftbench.methods import METHODS
from peftbench.models import load, text_part
from peftbench.models.layers import decoder_layers
from peftbench.planner import predict, trainable_count
from peftbench.records.resolve import resolve
from tests.support import results_factory, tiny_base, trials
from tests.support.method_cells import TRAINED
from tests.support.sample import sample

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16}
TEXT = SIZES | {"vocab_size": 320, "num_key_value_heads": 2, "max_position_embeddings": 128, "sliding_window": 16}
IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
ASIDE = ("model.vision_tower", "model.multi_modal_projector")


def config():
    """A Gemma 3 with a vision tower as wide and as deep as its decoder."""
    return AutoConfig.for_model(
        "gemma3",
        text_config=TEXT | IDS | {"initializer_range": 0.2},
        vision_config=VISION | {"num_hidden_layers": 3},
        mm_tokens_per_image=4,
        image_token_index=5,
        **IDS,
    )


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma") / "base"
    tiny_base.tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config()).save_pretrained(folder)
    return folder


def on_meta(made, kind=AutoModelForCausalLM):
    with torch.device("meta"):
        return kind.from_config(made)


def test_the_tower_and_its_projector_are_left_out():
    model = on_meta(config())
    assert tuple(text_part.left_out_modules(model)) == ASIDE
    aside = text_part.left_out_parameters(model)
    named = {name for name, p in model.named_parameters() if id(p) in aside}
    assert named == {name for name, _ in model.named_parameters() if name.startswith(ASIDE)}
    assert not [name for name in load.matrices(model) if name.startswith(ASIDE)]
    assert load.left_out_columns(model).left_out_modules == ", ".join(ASIDE)


@pytest.mark.parametrize(
    ("kind", "settings", "left_out"),
    [
        ("gemma3", {"text_config": TEXT, "vision_config": VISION | {"num_hidden_layers": 9}}, ASIDE),
        (
            "fuyu",
            {"text_config": SIZES | {"model_type": "persimmon", "vocab_size": 320}},
            ("model.vision_embed_tokens",),
        ),
        (
            "git",
            SIZES | {"vocab_size": 320, "vision_config": VISION | {"num_hidden_layers": 3}},
            ("git.image_encoder", "git.visual_projection"),
        ),
    ],
)
def test_towers_beside_and_inside_the_decoder_are_found_and_never_taken_for_its_layers(kind, settings, left_out):
    model = on_meta(AutoConfig.for_model(kind, **settings))
    assert tuple(text_part.left_out_modules(model)) == left_out
    layers = next(name for name, m in model.named_modules() if m is decoder_layers(model))
    assert not layers.startswith(left_out)


def test_audio_towers_are_left_out():
    audio = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    made = AutoConfig.for_model("qwen2_audio", text_config={"model_type": "qwen2", **TEXT}, audio_config=audio)
    model = on_meta(made, transformers.AutoModelForMultimodalLM)
    names = text_part.left_out_modules(model)
    assert names
    assert all("audio" in name or "projector" in name for name in names)


def test_text_models_leave_nothing_out(tiny):
    model = on_meta(AutoConfig.from_pretrained(tiny))
    assert text_part.left_out_modules(model) == []
    found = load.left_out_columns(model)
    assert (found.left_out_modules, found.left_out_parameters) == (None, 0)


@pytest.mark.parametrize("name", sample(TRAINED, 3))
def test_no_method_adapts_or_trains_a_tower_and_the_planner_counts_as_the_row_does(name, gemma, tmp_path):
    options = {"peft_type": "MISS", "target_modules": ["q_proj"]} if name == "peft" else {}
    precision = METHODS[name].default_precision
    made = trials.trial(gemma, tmp_path, name, precision, options=options, training={"steps": 1})
    row = trials.run(made, tmp_path).row
    assert (row.status, row.message) == ("ok", None)
    assert row.left_out_modules == ", ".join(ASIDE)
    assert row.trainable_parameters == trainable_count.trainable(made, config())
    assert row.trainable_parameters == predict.predict(made, config()).trainable_parameters
    model = resolve(METHODS[name].attach)(on_meta(config()), made.rank, made.options)
    trained = [n for n, p in model.named_parameters() if p.requires_grad and ("vision" in n or "multi_modal" in n)]
    assert trained == []
    if name in ("lora", "qlora", "full"):
        assert row.adapted_share == 1.0


@pytest.mark.parametrize("options", [{"modules": "norms"}, {"modules": ["q_proj"]}, {"layers": 1}])
def test_partial_fine_tuning_leaves_towers_frozen(options):
    model = resolve(METHODS["full"].attach)(on_meta(config()), None, options)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert not [n for n in trained if n.startswith(ASIDE)]


@pytest.mark.parametrize("given", [{}, {"exclude_modules": ["k_proj"]}, {"exclude_modules": r".*\.k_proj"}], ids=str)
@pytest.mark.parametrize("tuner", ["LORA", "OFT", "IA3", "GRALORA"])
def test_tuners_of_peft_leave_towers_frozen(tuner, given):
    options = {"peft_type": tuner, "target_modules": ["q_proj", "k_proj"], **({} if tuner == "GRALORA" else given)}
    if tuner == "IA3":
        options["feedforward_modules"] = []
    model = resolve(METHODS["peft"].attach)(on_meta(config()), None, options)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert not [n for n in trained if "vision" in n]
    assert "exclude_modules" not in options or not [n for n in trained if "k_proj" in n]


def test_targets_only_in_a_tower_are_refused_with_the_reason():
    options = {key: setting.default for key, setting in METHODS["lora"].options.items()} | {"alpha": 8}
    with pytest.raises(Unsupported, match="lora: target_modules: out_proj is in a part of the base that text does not"):
        resolve(METHODS["lora"].attach)(on_meta(config()), 4, options | {"target_modules": ["out_proj"]})
    with pytest.raises(Unsupported, match=r"full: modules \['out_proj'\] are outside of the part of the base"):
        resolve(METHODS["full"].attach)(on_meta(config()), None, {"modules": ["out_proj"]})


def test_quantization_is_checked_on_the_part_that_text_passes_through(gemma, tmp_path):
    row = trials.run(trials.trial(gemma, tmp_path, "qlora", "nf4", training={"steps": 1}), tmp_path).row
    assert (row.status, row.message) == ("ok", None)


def test_a_report_names_what_is_left_out_and_its_share(tmp_path):
    rows = [
        results_factory.make_result(cell, left_out_modules=", ".join(ASIDE), left_out_parameters=1, base_parameters=8)
        for cell in ("lora r=8 fp32", "full fp32")
    ]
    text = " ".join(report.table(results_factory.store(tmp_path / "found", *rows), "text").split())
    assert text.count("Text does not pass through") == 1
    assert "model.vision_tower and model.multi_modal_projector (12.5 % of the base model's parameters)" in text


def test_the_layers_of_a_model_for_images_and_text_are_found_by_either_class():
    for kind in (AutoModelForCausalLM, AutoModelForImageTextToText):
        assert len(decoder_layers(on_meta(config(), kind))) == 3
