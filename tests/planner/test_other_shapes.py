"""Other shapes are predicted to the byte too: wide, deep, of one key-value head, of large vocabularies, hybrids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from peftbench.planner.records import Pass
from tests.support import tiny_base
from tools.validation.planner_accuracy import compare

SHAPE = [Pass(2, 24)]
COMMON = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
TIED = {"tie_word_embeddings": True, "num_hidden_layers": 2}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_chunk_size": 16}
CASES = {
    "wide MLP": ("LlamaConfig", {"intermediate_size": 4096}),
    "one key-value head": ("LlamaConfig", {"num_key_value_heads": 1}),
    "50,304 tied tokens": ("LlamaConfig", TIED | {"vocab_size": 50_304}),
    "128,256 tied tokens": ("LlamaConfig", TIED | {"vocab_size": 128_256}),
    "deep and narrow": ("LlamaConfig", {"num_hidden_layers": 24, "hidden_size": 32, "intermediate_size": 64}),
    "16 experts": ("MixtralConfig", {"num_local_experts": 16, "num_experts_per_tok": 4}),
    "shared experts": (
        "Qwen2MoeConfig",
        {"num_experts": 8, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64},
    ),
    "falcon_h1": ("FalconH1Config", MAMBA | {"head_dim": 16, "mamba_d_ssm": 128}),
    "bamba": ("BambaConfig", MAMBA | {"attn_layer_indices": [1, 3]}),
    "granite": (
        "GraniteMoeHybridConfig",
        MAMBA
        | {"layer_types": ["mamba", "attention"] * 2, "layers_block_type": ["mamba", "attention"] * 2}
        | {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 64},
    ),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 16}),
    "jamba": (
        "JambaConfig",
        {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "num_experts": 4}
        | {"num_experts_per_tok": 2, "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    ),
    "qwen3_next": (
        "Qwen3NextConfig",
        {"layer_types": ["linear_attention", "full_attention"] * 2, "num_experts": 4, "num_experts_per_tok": 2}
        | {"head_dim": 16, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
        | {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
        | {"linear_key_head_dim": 16, "linear_value_head_dim": 16},
    ),
    "nemotron_h": (
        "NemotronHConfig",
        {"hybrid_override_pattern": "M-*-", "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16}
        | {"n_groups": 1, "chunk_size": 16, "head_dim": 16},
    ),
}
FOUR_BITS = (
    "wide MLP",
    "128,256 tied tokens",
    "deep and narrow",
    "16 experts",
    "falcon_h1",
    "bamba",
    "granite",
    "lfm2",
)
"""Those that are compared in 4 bits as well; the others' convolutions and states are not quantized."""
CELLS = [(name, "lora", "bf16") for name in CASES]
CELLS += [(name, "full", "fp32") for name in CASES]
CELLS += [(name, "qlora", "nf4") for name in FOUR_BITS]
ALWAYS = [
    ("one key-value head", "lora", "bf16"),
    ("128,256 tied tokens", "full", "fp32"),
    ("falcon_h1", "qlora", "nf4"),
]
OTHERS = [cell for cell in CELLS if cell not in ALWAYS]


def base(folder: Path, name: str) -> Path:
    """Write a base model with random weights and its tokenizer."""
    kind, own = CASES[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**{**COMMON, **own})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_base.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "method", "precision"),
    [*ALWAYS, *(pytest.param(*cell, marks=pytest.mark.slow) for cell in OTHERS)],
)
def test_it_is_predicted_to_the_byte(name, method, precision, tmp_path):
    found, loaded, book = compare(base(tmp_path / "base", name), method, precision, SHAPE)
    assert dict(found.categories) == book.peak
    assert (found.base_parameters, found.base_weights_bytes) == (loaded.parameters, loaded.weights_bytes)
