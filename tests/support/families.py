"""Every causal family of the installed transformers, made tiny by its config: what the large matrix runs on.

A tiny config is the family's default with sizes replaced by name. Of lists with one entry for each layer, one layer of
each kind remains. Families whose sizes depend on each other in ways of their own are in ``EXCEPTIONS``.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported
from peftbench.models import builtin, causality

TOKENS, CONTEXT, WIDTH, HEADS, KEY_VALUE_HEADS, FEED_FORWARD, EXPERTS = 1024, 256, 64, 4, 2, 128, 4
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
"""Special tokens of the built-in base model's tokenizer."""
MOST_PARAMETERS = 4_000_000
"""A model with more is not tiny: its config has a size under a name that is not known here."""
_MOST_KINDS = 4
"""Layers that remain if a family has more kinds of layers than this."""
_SIZES: Mapping[str, int] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers", "depth", "num_blocks", "conf_num_hidden_layers"), 2),
    **dict.fromkeys(("num_global_layers", "num_mem_blocks", "num_layers_per_stack"), 1),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim"), WIDTH),
    **dict.fromkeys(
        (
            "emb_dim",
            "embedding_dim",
            "attention_hidden_size",
            "lru_width",
            "out_hidden_size",
            "adapter_in_dim",
            "adapter_out_dim",
            "adapter_input_size",
            "vision_output_dim",
        ),
        WIDTH,
    ),
    **dict.fromkeys(("backbone_hidden_size", "output_channels", "cross_attention_hidden_size"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "num_decoder_attention_heads", "num_encoder_attention_heads"), HEADS),
    **dict.fromkeys(("swa_num_attention_heads", "linear_num_heads", "linear_num_value_heads"), HEADS),
    **dict.fromkeys(("attention_heads", "conf_num_attention_heads", "n_mamba_heads", "index_n_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "kv_n_heads", "swa_num_key_value_heads"), KEY_VALUE_HEADS),
    **dict.fromkeys(("num_query_groups", "linear_num_key_heads", "num_global_key_value_heads"), KEY_VALUE_HEADS),
    **dict.fromkeys(("head_dim", "attention_head_dim", "d_head", "d_kv", "dim_head", "global_head_dim"), 16),
    **dict.fromkeys(("kv_channels", "v_head_dim", "qk_nope_head_dim", "swa_head_dim", "index_head_dim"), 16),
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim", "attention_head_size"), 16),
    **dict.fromkeys(("mamba_head_dim", "mamba_d_head", "mamba_headdim", "swa_v_head_dim", "d_rel"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "laurel_rank", "adapter_rank", "hc_lowrank"), 16),
    **dict.fromkeys(("gated_norm_rank", "mamba_dt_rank", "time_step_rank", "router_hidden_size"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(
        (
            "ffn_dim",
            "d_ff",
            "dff",
            "n_inner",
            "ffn_hidden_size",
            "mlp_dim",
            "d_inner",
            "dim_ff",
            "expert_ffn_hidden_size",
        ),
        FEED_FORWARD,
    ),
    **dict.fromkeys(("feed_forward_size", "decoder_ffn_dim", "encoder_ffn_dim", "mamba_d_ssm"), FEED_FORWARD),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("top_k_experts", "experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "n_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("num_shared_experts", "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    **dict.fromkeys(("zero_expert_num",), 2),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size"), 16),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups", "mamba_expand", "expand"), 2),
    **dict.fromkeys(("attn_layer_period", "expert_layer_period"), 2),
    **dict.fromkeys(("attn_layer_offset", "expert_layer_offset"), 1),
    **dict.fromkeys(("sliding_window", "local_attention", "sliding_window_size", "attention_window_size"), 16),
    **dict.fromkeys(("attention_chunk_size", "index_topk", "index_block_size", "window_size", "block_size"), 16),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "context_length", "max_seq_len"), CONTEXT),
    **dict.fromkeys(("model_max_length", "max_target_positions", "max_source_positions"), CONTEXT),
    "original_max_position_embeddings": 64,
    "hidden_size_per_layer_input": 16,
    "hidden_size_global": WIDTH,
    "image_size": 32,
    "projector_input_dim": WIDTH,
    "projector_output_dim": WIDTH,
    "downsample_hidden_size": 16,
    "patch_size": 8,
    "crop_size": 32,
}
"""Field of a config to its size."""
_FILLED = ("head_dim", "num_key_value_heads", "n_routed_experts", "n_shared_experts", "num_experts_per_tok")
"""Fields that have no default but must be known."""
_AT_MOST = ("num_key_value_heads", "num_kv_heads", "kv_n_heads", "sliding_window")
"""Fields whose default remains if it is smaller."""
_VOCABULARY = re.compile(r"vocab_size(_per_layer_input)?$")
_FEED_FORWARD = re.compile(r"intermediate_size(_mlp)?$")
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_SHARING = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
"""The last two layers use the keys and values of the first two."""
_QWEN4 = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 16}
_QWEN4 |= {"indexer_compress_ratio": 4, "ple_embed_dim": WIDTH, "ngram_vocab_size_base": 64, "split_ngram_parts": 2}
_DOTS3 = {"swa_num_attention_heads": HEADS, "swa_num_key_value_heads": HEADS, "swa_q_lora_rank": 16}
_DOTS3 |= {"swa_kv_lora_rank": 16, "swa_qk_nope_head_dim": 16, "swa_head_dim": 24, "swa_v_head_dim": 16}

EXCEPTIONS: Mapping[str, Mapping[str, Any]] = {
    **{family: {key: value} for family, (key, value) in causality.ENCODERS.items()},
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}, "ffn_config": {"hidden_size": WIDTH}},
    "emu3": {
        "vq_config": {"base_channels": 32, "channel_multiplier": [1, 1], "codebook_size": 8, "attn_resolutions": []},
        "vocabulary_map": {"<image>": 5, **{f"<|visual token {i:06d}|>": 100 + i for i in range(8)}},
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    # blocks of the compressor that fit into the texts, whose keys and values are otherwise never computed
    "deepseek_v4": {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}},
    "dots3_note": {"text_config": _DOTS3},
    "dots3_note_text": _DOTS3,
    "gemma3n_text": {
        **_SHARING,
        "intermediate_size": [FEED_FORWARD] * 4,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    },
    "gemma4": {"text_config": _SHARING},
    "gemma4_text": _SHARING,
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"], "full_attn_idxs": [1], "num_hidden_layers": 2},
    "zaya": {"num_experts_per_tok": 1},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 1]],
        "num_layers": 2,
        "attention_layers": ["global", "local"],
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"expert_ffn_hidden_size": FEED_FORWARD},
    "mamba2": {"num_heads": 8},
    "modernbert-decoder": {"local_attention": 64},  # half of it is the window, which must reach virtual tokens
    "moshi": {"audio_vocab_size": 64},
    # the router has a gradient only where the scores of two experts are nearer than twice this share
    "phimoe": {"router_jitter_noise": 0.3},
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [32, 32],
    },
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": 2 * WIDTH,
        "attention_head_dim": 2 * WIDTH // HEADS,
        "num_key_value_heads": HEADS,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
}
"""Family to fields of its config; a mapping goes to a sub-config."""

NOT_ALONE: Mapping[str, str] = {
    **dict.fromkeys(
        ("gemma4_assistant", "gemma4_unified_assistant"),
        "a draft model for speculative decoding, which reads the keys and values of another model",
    ),
    **dict.fromkeys(
        ("musicgen", "musicgen_melody"),
        "a model of music: its config has no single text part, and transformers builds no causal language model of it",
    ),
    "gemma3n": "its tower needs the package timm, which is not installed; `gemma3n_text` is its text part",
}
"""Families that cannot be made, in words."""


def names() -> list[str]:
    """Return ``model_type`` of every family that transformers can build with a causal language modelling head."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def refused_image_text() -> list[str]:
    """Return the families that transformers builds with a head for images and text only, all of which are refused."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    found = [name for name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES if name not in names()]
    for name in found:
        try:
            causality.check_config(transformers.CONFIG_MAPPING[name]())
        except Unsupported:
            continue
        raise AssertionError(f"{name} is not refused, so it belongs to the matrix")
    return found


def make(folder: Path, family: str) -> Any:
    """Write a family's tiny base model with the tokenizer of the built-in one; return the model.

    Raises:
        ValueError: if the family is one of ``NOT_ALONE``, or not tiny, as a size has a name that is not known here.
        Exception: what transformers raises if it cannot build the family.
    """
    import torch

    if family in NOT_ALONE:
        raise ValueError(NOT_ALONE[family])
    made = config(family)
    with torch.device("meta"):
        bare = _kind(made).from_config(made)
    count = sum(p.numel() for p in bare.parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{count:,} parameters, the largest {_largest(bare)}")
    model = build(made)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(builtin.folder("nano") / name, folder)
    return model


def config(family: str) -> Any:
    """Return a family's tiny config."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family]
    return kind(**_settings(kind, EXCEPTIONS.get(family, {})))


def _settings(kind: Any, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a config class that make it tiny; ``own`` come on top."""
    default, parts = _default(kind)
    fields = {name: name for name in kind.__dataclass_fields__}
    fields |= {stored: name for name, stored in kind.attribute_map.items() if stored not in fields}
    subs = [name for name in kind.sub_configs if name in parts or isinstance(own.get(name), Mapping)]
    sized = {name: _size(name, value) for name, value in default.items() if name not in subs}
    found = {fields[name]: size for name, size in sized.items() if name in fields and size is not None}
    if "qk_rope_head_dim" in default:  # latent attention: every head has keys of its own, rotated in a part
        found |= {name: size for name, size in (("num_key_value_heads", HEADS), ("head_dim", 8)) if name in fields}
    found |= _layers(default, fields)
    found |= {name: value for name, value in SPECIAL.items() if name in fields}
    found |= {name: 0.1 for name in ("initializer_range", "init_std") if name in fields}
    for name in subs:
        given = own.get(name, {})
        part = parts.get(name) or _named(kind.sub_configs[name], given)
        found[name] = {"model_type": part.model_type, **_settings(part, given)}
    return found | {name: value for name, value in own.items() if name not in subs}


def _named(kind: Any, given: Mapping[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[given["model_type"]] if "model_type" in given else kind


def _size(name: str, value: Any) -> Any:
    """Return the size of a field, given its default; None to leave it."""
    if isinstance(value, bool):
        return None
    if value is None:
        return _SIZES[name] if name in _FILLED else None
    if isinstance(value, float):
        return 0.0 if "drop" in name else None
    if not isinstance(value, int) or value <= 0:
        return None
    if _VOCABULARY.search(name):
        return TOKENS
    if _FEED_FORWARD.search(name):
        return FEED_FORWARD
    size = _SIZES.get(name)
    return size if size is None or name not in _AT_MOST else min(size, value)


def _default(kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of a config class with their defaults, and the classes of its sub-configs."""
    try:
        made = kind()
    except Exception:
        return {
            n: f.default for n, f in kind.__dataclass_fields__.items() if isinstance(f.default, int | float | str)
        }, {}
    parts = {name: getattr(made, name, None) for name in kind.sub_configs}
    return dict(made.to_dict()), {name: type(part) for name, part in parts.items() if hasattr(part, "model_type")}


def _layers(default: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the lists with an entry for each layer, cut to one layer of each kind, and the number of layers."""
    counts = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    name = next((n for n in counts if isinstance(default.get(n), int)), None)
    if name is None:
        return {}
    count = default[name]
    lists = {n: v for n, v in default.items() if isinstance(v, list | tuple) and len(v) == count and count > 1}
    lists = {n: v for n, v in lists.items() if n in fields}
    if not lists:
        return {}
    kinds = list(zip(*lists.values(), strict=True))
    chosen = sorted(kinds.index(kind) for kind in dict.fromkeys(kinds))[:_MOST_KINDS]
    if len(chosen) == 1:
        chosen = [0, 1]
    taken = {n: [v[i] for i in chosen] for n, v in lists.items()}
    taken = {n: [FEED_FORWARD] * len(chosen) if n == "intermediate_size" else v for n, v in taken.items()}
    return {**{fields[n]: v for n, v in taken.items()}, fields.get(name, name): len(chosen)}


def _largest(model: Any) -> str:
    """Return the name and shape of a model's largest parameter."""
    found: Sequence[tuple[str, Any]] = max(model.named_parameters(), key=lambda item: item[1].numel())
    return f"{found[0]} {tuple(found[1].shape)}"


def build(config: Any) -> Any:
    """Return a random model, the same in every process, in which no parameter is constant.

    Families start gates and scales at 0, some for whole paths, which would hide what these paths compute.
    """
    import torch

    torch.manual_seed(0)
    model = _kind(config).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _kind(config: Any) -> Any:
    """Return the class that makes a family's checkpoints: with a head for images and text where there is one.

    The same folder, loaded as a causal language model, may give the text part alone.
    """
    import transformers

    both = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return transformers.AutoModelForImageTextToText if both else transformers.AutoModelForCausalLM
