"""Golden values of bottleneck adapters, by the AdapterHub library: run in an environment of its own.

    python -m venv hub && hub/bin/pip install torch==2.13.0 adapters==1.3.0
    hub/bin/python tests/golden_adapters/make.py

adapters 1.3.0 needs transformers 4.57, so that it cannot be installed beside peftbench; the tests read what this
writes: the weights of a tiny Llama, for each kind of adapter its weights by our names, and the logits.

Parallel adapters are made twice. AdapterHub's read the residual stream before the norm that precedes the feed-forward,
ours what the feed-forward reads; where that norm is taken out, this is one and the same ("parallel_without_norm").
"""

from __future__ import annotations

from pathlib import Path

import adapters
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
    "initializer_range": 0.3,
}
WIDTH = 4
KINDS = {
    "houlsby": adapters.DoubleSeqBnConfig,
    "pfeiffer": adapters.SeqBnConfig,
    "parallel": adapters.ParBnConfig,
    "parallel_without_norm": adapters.ParBnConfig,
}
IDS = torch.arange(20).reshape(2, 10) * 7 % 48


def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):  # all ones would hide which norm is read
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def bottlenecks(layer: nn.Module, kind: str) -> dict[str, nn.Module]:
    """The adapters of a layer, by the names that they have in peftbench."""
    if kind == "houlsby":
        found = {"attention_bottleneck": layer.attention_adapters, "feed_forward_bottleneck": layer.output_adapters}
    else:
        found = {"bottleneck": layer.output_adapters}
    return {name: at.adapters["golden"] for name, at in found.items()}


def main() -> None:
    model = base()
    tensors = {f"base.{name}": t for name, t in model.state_dict().items() if name != "lm_head.weight"}
    with torch.no_grad():
        tensors["logits.base"] = model(IDS).logits
    for kind, config in KINDS.items():
        model = base()
        if kind == "parallel_without_norm":
            for layer in model.model.layers:
                layer.post_attention_layernorm = nn.Identity()
        adapters.init(model)
        model.add_adapter("golden", config=config(reduction_factor=CONFIG["hidden_size"] / WIDTH))
        model.set_active_adapters("golden")
        model.eval()
        torch.manual_seed(1)
        for i, layer in enumerate(model.model.layers):
            for name, found in bottlenecks(layer, kind).items():
                for part, linear in (("down", found.adapter_down[0]), ("up", found.adapter_up)):
                    for what, parameter in linear.named_parameters():
                        nn.init.normal_(parameter, std=0.3)
                        tensors[f"{kind}.model.layers.{i}.{name}.{part}.{what}"] = parameter.detach()
        with torch.no_grad():
            tensors[f"logits.{kind}"] = model(IDS).logits
    made_by = f"adapters {adapters.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    path = Path(__file__).with_name("llama.safetensors")
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, path, metadata={"made_by": made_by})
    print(f"{path}: {path.stat().st_size} bytes, {made_by}")


if __name__ == "__main__":
    main()
