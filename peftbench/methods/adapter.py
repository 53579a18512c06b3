"""Bottleneck adapters after the attention and the feed-forward part of every block."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from peftbench.errors import Unsupported

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}
_ATTENTION_OUTPUTS = (
    "attn.o_proj",
    "attn.out_proj",
    "attn.dense",
    "attn.c_proj",
    "attention.dense",
    "self_attention.dense",
)
_FEED_FORWARD_OUTPUTS = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.fc2", "mlp.fc_out", ".fc2")
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Bottleneck(nn.Module):
    """A linear layer followed by a residual bottleneck: y + up(activation(down(y))), with y = layer(x).

    Shapes: x (b, t, d_in), y (b, t, d), down (r, d), up (d, r).
    """

    def __init__(self, base_layer: Any, width: int, activation: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        d = getattr(base_layer, "out_features", None) or base_layer.nf  # nf: gpt2's Conv1D
        device = base_layer.weight.device
        self.down = nn.Linear(d, width, device=device)
        self.up = nn.Linear(width, d, device=device)
        self.activation = _ACTIVATIONS[activation]()
        self.enabled = True
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, adapted where enabled; the base layer's dtype is kept."""
        y = self.base_layer(x)
        if not self.enabled:
            return y
        inner = y if torch.is_autocast_enabled(y.device.type) else y.to(self.down.weight.dtype)
        return y + self.up(self.activation(self.down(inner))).to(y.dtype)


def attach(model: Any, rank: int, options: Mapping[str, Any]) -> Any:
    """Add a bottleneck after the attention output and after the feed-forward output of every block.

    The up-projection starts at zero, so that the first forward pass equals the base model's.

    Args:
        model: the frozen base.
        rank: bottleneck width r.
        options: ``activation``.

    Returns:
        The same model; only the bottlenecks require gradients.

    Raises:
        Unsupported: if not every block has both output projections, naming the linear layers that are there.

    References:
        Houlsby et al. 2019, arXiv:1902.00751, section 2.1. Departs from it: zero instead of near-zero start, and the
        layer norms stay frozen.
    """
    model.requires_grad_(False)
    attention = [n for n, _ in model.named_modules() if n.endswith(_ATTENTION_OUTPUTS)]
    feed_forward = [n for n, _ in model.named_modules() if n.endswith(_FEED_FORWARD_OUTPUTS)]
    names = attention + feed_forward
    if not attention or len(attention) != len(feed_forward):
        linear = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise Unsupported(
            f"adapter: {len(attention)} attention and {len(feed_forward)} feed-forward output projections found in "
            f"{type(model).__name__}, one of each per block is needed; linear layers: {', '.join(linear)}"
        )
    for name in names:
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, child, Bottleneck(getattr(owner, child), rank, options["activation"]))
    model.peftbench_adapter = {"bottleneck_width": rank, "activation": options["activation"]}
    return model


def _bottlenecks(model: nn.Module) -> Iterator[tuple[str, Bottleneck]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Bottleneck))


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Switch the bottlenecks off within the context: the model is the base again."""
    modules = [module for _, module in _bottlenecks(model)]
    for module in modules:
        module.enabled = False
    try:
        yield
    finally:
        for module in modules:
            module.enabled = True


def save(model: Any, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, named and laid out as peft does."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "BOTTLENECK", "library": "peftbench", "task_type": "CAUSAL_LM", **model.peftbench_adapter}
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    state = {
        f"{name}.{part}": tensor.detach().cpu().contiguous()
        for name, module in _bottlenecks(model)
        for part, tensor in module.state_dict().items()
        if not part.startswith("base_layer.")
    }
    save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})


def load(model: Any, folder: Path) -> Any:
    """Return a freshly loaded base with the bottlenecks of ``folder`` attached, frozen."""
    config = json.loads((folder / _CONFIG).read_text())
    attach(model, config["bottleneck_width"], config)
    state = load_file(folder / _WEIGHTS)
    with torch.no_grad():
        for name, module in _bottlenecks(model):
            for part in ("down.weight", "down.bias", "up.weight", "up.bias"):
                tensor = module.get_parameter(part)
                saved = state[f"{name}.{part}"]
                tensor.data = saved.to(tensor.device)
    return model.requires_grad_(False)
