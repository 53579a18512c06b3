"""The decoder layers of a base model are the same for every caller, in every kind of configuration."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from peftbench.errors import Unsupported
from peftbench.methods import METHODS
from peftbench.models.layers import decoder_layers
from peftbench.records.resolve import resolve
from tests.support import architectures, families

TEXT = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "pad_token_id": 0}
TEXT |= {"num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 3, "max_position_embeddings": 32}
VISION = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
OPTIONS = {
    "full": {"layers": 2, "modules": None},
    "adapter": {"kind": "pfeiffer", "activation": None, "scale": None},
    "llama_adapter": {"layers": 2, "gate": "per_layer"},
}
LAYERS_OF_FAMILY = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "qwen3", "gemma3", "phi", "glm4"), "model.layers"),
    **dict.fromkeys(("gpt2", "gptj", "falcon", "bloom"), "transformer.h"),
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
}


def vision_and_text(**vision: int):
    """A Gemma 3 on ``meta`` with a vision tower as deep as its text decoder; settings change the tower."""
    settings = {"image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model(
        "gemma3", text_config=TEXT, vision_config=VISION | settings | vision, mm_tokens_per_image=4
    )
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def path_of(model, found) -> str:
    """The name of a module in a model."""
    return next(name for name, module in model.named_modules() if module is found)


@pytest.mark.parametrize("family", architectures.CONFIGS)
def test_the_decoder_layers_of_each_family(family):
    with torch.device("meta"):
        model = architectures.build(family)
    found = decoder_layers(model)
    assert path_of(model, found) == LAYERS_OF_FAMILY[family]
    assert len(found) == architectures.LAYERS


@pytest.mark.parametrize("width", [8, 64])
def test_a_vision_tower_of_equal_depth_is_not_taken_for_the_decoder(width):
    model = vision_and_text(hidden_size=width, intermediate_size=2 * width)
    towers = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == TEXT["num_hidden_layers"]]
    assert [("vision_tower" in path_of(model, m)) for m in towers] == [True, False]  # the tower comes first
    assert path_of(model, decoder_layers(model)) == "model.language_model.layers"


@pytest.mark.parametrize("name", OPTIONS)
def test_methods_adapt_the_text_decoder_of_a_model_with_a_vision_tower(name):
    tuned = resolve(METHODS[name].attach)(vision_and_text(), 4, OPTIONS[name])
    trained = [n for n, p in tuned.named_parameters() if p.requires_grad]
    assert trained
    assert [n for n in trained if "language_model.layers." not in n] == []


@pytest.mark.parametrize("name", ["lora", "prompt_tuning"])
def test_the_layers_of_a_model_wrapped_by_peft_are_those_of_its_base(name):
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TEXT))
    before = decoder_layers(base)
    options = {key: setting.default for key, setting in METHODS[name].options.items()} | {"alpha": 8}
    tuned = resolve(METHODS[name].attach)(base, 4, options | {"target_modules": ["q_proj"]})
    assert decoder_layers(tuned) is before


def test_a_smaller_list_of_the_same_length_is_not_taken_for_the_layers():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TEXT))
    model.model.aside = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    model.model._modules = dict(sorted(model.model._modules.items()))  # the smaller list comes first
    assert next(m for m in model.modules() if isinstance(m, nn.ModuleList)) is model.model.aside
    assert decoder_layers(model) is model.model.layers


def test_the_method_refuses_a_base_model_without_a_list_of_layers():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TEXT))
    model.model.layers = nn.Identity()
    for name, options in OPTIONS.items():
        with pytest.raises(Unsupported, match=f"^{name}: LlamaForCausalLM has no list of its 3 decoder layers"):
            resolve(METHODS[name].attach)(model, 4, options)
    with pytest.raises(LookupError, match="no list of its 3 decoder layers"):  # the planner then predicts nothing
        decoder_layers(model)


def test_a_head_that_is_named_decoder_is_not_taken_for_the_decoder():
    model = families.build(families.config("modernbert-decoder"))
    assert not any(isinstance(module, nn.ModuleList) for module in model.get_decoder().modules())
    assert decoder_layers(model) is model.model.layers
