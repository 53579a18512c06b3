"""Bottleneck adapters: Houlsby's (two per layer), Pfeiffer's (one per layer), parallel ones (beside the feed-forward).

With r the bottleneck width, s a scale and f(x) = s (up(activation(down(x)))), a decoder layer with attention A and
feed-forward F computes:

    houlsby    y + f(y), for y the output of A and again for y the output of F, before the residual is added
    pfeiffer   h + f(h), for h the output of the layer
    parallel   F(x) + f(x), for x the input of F

They are forward hooks on the layer's modules, not wrappers around projections, so they are the same function in every
family: with fused or quantized projections, mixtures of experts, and layers that compute A and F in parallel. With
gradient checkpointing, pfeiffer's still save their activations, since the hook of a whole layer runs outside the
recomputed part.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Container, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from peftbench.errors import Unsupported
from peftbench.methods import ADAPTER_KINDS
from peftbench.methods.peft_checkpoint import task_type
from peftbench.models.layers import decoder_layers_for, switched_off, width
from peftbench.models.origin import drawing_device
from peftbench.models.text_part import left_out_parameters

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,  # the series adapter of LLM-Adapters, arXiv:2304.01933
}
_ATTENTIONS = ("self_attn", "attn", "attention", "self_attention", "linear_attn")
_FEED_FORWARDS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe")
_PROJECTIONS = ("dense", "dense_4h_to_h", "down_proj", "o_proj", "out_proj", "c_proj", "fc2")
"""Names of output projections inside modules that add the residual themselves."""
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Bottleneck(nn.Module):
    """The map f(x) = scale * up(activation(down(x))), and the hooks that add it to the output of a module.

    Shapes: x and y (..., d), down (r, d), up (d, r).
    """

    def __init__(self, d: int, r: int, activation: str, scale: float, device: Any) -> None:
        super().__init__()
        self.down = nn.Linear(d, r, device=device)
        self.up = nn.Linear(r, d, device=device)
        self.activation = _ACTIVATIONS[activation]()
        self.scale = scale
        self.enabled = True
        self.reads_input = False
        self._held: torch.Tensor | None = None
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return f(x), to be added to a module's output. Without autocast, in the bottleneck's own dtype."""
        inner = x if torch.is_autocast_enabled(x.device.type) else x.to(self.down.weight.dtype)
        change = self.up(self.activation(self.down(inner)))
        return change if self.scale == 1 else self.scale * change

    def hold_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Forward pre-hook: keep the module's input until ``add`` is called."""
        if self.enabled:
            self._held = args[0] if args else kwargs["hidden_states"]

    def add(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Forward hook: return the module's output plus f, in the output's dtype; unchanged if not enabled."""
        if not self.enabled:
            return output
        several = isinstance(output, tuple | list)
        y, *rest = output if several else (output,)
        # released before f is computed, as checkpointing may stop a recomputation during f
        x, self._held = self._held if self.reads_input else y, None
        adapted = y + self(x).to(y.dtype).reshape(y.shape)  # llama4's experts return (b t, d) for (b, t, d)
        if isinstance(output, list):  # openai-gpt
            return [adapted, *rest]
        return (adapted, *rest) if several else adapted


@dataclass(frozen=True)
class Parts:
    """The sublayers of a decoder layer."""

    layer: nn.Module
    attention: nn.Module
    feed_forward: tuple[nn.Module, nn.Module]
    """The module that takes the feed-forward's input and the one that gives its output; usually the same."""


@dataclass(frozen=True)
class Site:
    """The place of a bottleneck in a decoder layer."""

    layer: nn.Module
    name: str
    """Name of the bottleneck as a child of the layer; the sublayers themselves are not changed."""
    writes: nn.Module
    """The module to whose output f is added."""
    reads: nn.Module | None = None
    """The module whose input f takes; None if f takes the output to which it is added."""


def attach(model: Any, rank: int, options: Mapping[str, Any]) -> Any:
    """Add bottleneck adapters to every decoder layer.

    Up projections are initialized to zero, so the first forward pass equals the base model's.

    Args:
        model: the frozen base model.
        rank: bottleneck width r.
        options: ``kind``; ``activation`` and ``scale``, None for the defaults of the kind (``ADAPTER_KINDS``).

    Returns:
        The same model; only the bottlenecks require gradients.

    Raises:
        Unsupported: if a layer's attention or feed-forward module cannot be identified, naming its modules.

    References:
        houlsby: Houlsby et al. 2019, arXiv:1902.00751, section 2.1 and figure 2. f is added before the residual, so
        in gemma3 and glm4 before their second norms. The authors' gelu is the tanh approximation
        (google-research/adapter-bert), ours is exact. AdapterHub uses silu and is otherwise equal.

        pfeiffer: Pfeiffer et al. 2020, arXiv:2005.00247 and arXiv:2005.00052, equation 1. Their layers are post-norm:
        f takes the normalized sum of residual and F's output, is added to F's output, and the norm is applied again.
        Pre-norm layers have no norm there, so f takes the layer's output and is added to it. AdapterHub does the same
        (equal results on Llama). We do so in every layer, also post-norm ones and those with A and F in parallel.

        parallel: He et al. 2022, arXiv:2110.04366, table 1: f takes the input of F. In pre-norm layers that is the
        normalized residual stream, which is the default of the authors' code (jxhe/unify-parameter-efficient-tuning,
        petl/options.py: ``hi_lnbefore`` 0). AdapterHub takes the residual stream before the norm (``hi_lnbefore`` 1);
        the results are equal if the norm is the identity.

        We differ from them as follows. Up projections start at zero; so do He's, but Houlsby's and Pfeiffer's start
        small and random. Down projections start like torch's linear layers, except that their biases start at zero for
        pfeiffer and parallel; all of theirs do. Norms stay frozen; Houlsby trains them. There is no dropout in the
        bottleneck; He uses it.
    """
    model.requires_grad_(False)
    kind = options["kind"]
    activation, scale = ADAPTER_KINDS[kind]
    activation, scale = options["activation"] or activation, options["scale"] or scale
    d = width(model)
    for site in _sites(kind, _parts(model), model.config):
        device = next(site.layer.parameters()).device
        bottleneck = Bottleneck(d, rank, activation, scale, drawing_device(model, device)).to(device)
        if kind != "houlsby":  # before a relu, a random bias can outweigh the input and leave a unit dead
            nn.init.zeros_(bottleneck.down.bias)
        site.layer.add_module(site.name, bottleneck)
        if site.reads is not None:
            bottleneck.reads_input = True
            site.reads.register_forward_pre_hook(bottleneck.hold_input, with_kwargs=True)
        site.writes.register_forward_hook(bottleneck.add)
    model.peftbench_adapter = {"kind": kind, "bottleneck_width": rank, "activation": activation, "scale": scale}
    return model


def _sites(kind: str, every: list[Parts], config: Any) -> Iterator[Site]:
    """Yield the places of the bottlenecks, in the order in which they are initialized from the random generator."""
    if kind == "houlsby":
        for parts in every:
            yield Site(parts.layer, "attention_bottleneck", _before_residual(parts.attention, config))
        for parts in every:
            yield Site(parts.layer, "feed_forward_bottleneck", _before_residual(parts.feed_forward[1], config))
        return
    for parts in every:
        reads, writes = (None, parts.layer) if kind == "pfeiffer" else parts.feed_forward
        yield Site(parts.layer, "bottleneck", writes, reads)


def _parts(model: Any) -> list[Parts]:
    """Return the sublayers of each decoder layer.

    Raises:
        Unsupported: if the sublayers of a layer cannot be identified, naming its modules.
    """
    aside = left_out_parameters(model)
    found = [(layer, _parts_of(layer, aside)) for layer in decoder_layers_for("adapter", model)]
    odd = [layer for layer, parts in found if parts is None]
    if odd:
        held = dict.fromkeys(f"{type(layer).__name__} has {', '.join(_weighted(layer)) or 'nothing'}" for layer in odd)
        raise Unsupported(
            "adapter: each layer must have one attention and one feed-forward module, and no third one with weight "
            f"matrices; in {type(model).__name__}, {'; '.join(held)}"
        )
    return [parts for _, parts in found if parts is not None]


def _weighted(layer: nn.Module, aside: Container[int] = ()) -> dict[str, nn.Module]:
    """Return the children of a module that hold weight matrices: not norms, dropout or rotary embeddings.

    Args:
        layer: a decoder layer, or a module in one.
        aside: ids of the parameters that text does not use, such as a decoder's attention to an encoder.
    """
    held = ((name, m, list(m.parameters())) for name, m in layer.named_children())
    return {name: m for name, m, own in held if any(p.ndim > 1 and id(p) not in aside for p in own)}


def _parts_of(layer: nn.Module, aside: Container[int]) -> Parts | None:
    """Return a layer's sublayers; None if in doubt, since a wrong guess would give another method."""
    held = _weighted(layer, aside)
    attention = [m for name, m in held.items() if name in _ATTENTIONS]
    rest = {name: m for name, m in held.items() if name not in _ATTENTIONS}
    if len(attention) != 1:
        return None
    if set(rest) == {"fc1", "fc2"}:  # opt: the feed-forward has no module of its own
        return Parts(layer, attention[0], (rest["fc1"], rest["fc2"]))
    if set(rest) == {
        "intermediate",
        "output",
    }:  # bert's family: output adds the residual
        output = rest["output"]
        written = output.dense if _adds_input(output) else output
        return Parts(layer, attention[0], (rest["intermediate"], written))  # type: ignore[arg-type]
    if len(rest) == 1 and set(rest) <= set(_FEED_FORWARDS):
        (feed_forward,) = rest.values()
        return Parts(layer, attention[0], (feed_forward, feed_forward))
    return None


def _before_residual(module: nn.Module, config: Any) -> nn.Module:
    """Return the module whose output precedes the residual: a sublayer, or in bloom and bert its output projection.

    Raises:
        Unsupported: if the sublayer adds the residual itself, and its output projection is not found or not called.
    """
    output = getattr(module, "output", None)
    if isinstance(output, nn.Module) and _adds_input(output):
        module = output
    if _adds_input(module):
        return module.dense  # type: ignore[return-value]
    if "residual" not in inspect.signature(type(module).forward).parameters:
        return module
    found = [m for name, m in module.named_children() if name in _PROJECTIONS]
    problem = f"adapter: {type(module).__name__} adds the residual itself"
    if len(found) != 1:
        raise Unsupported(f"{problem}, and its output projection is not known among {', '.join(_weighted(module))}")
    if getattr(config, "slow_but_exact", False) and getattr(config, "pretraining_tp", 1) > 1:
        raise Unsupported(f"{problem}, and with slow_but_exact does not call its output projection")
    return found[0]


def _adds_input(module: nn.Module) -> bool:
    """Return whether a module of bert's family projects its first input, adds its second, and normalizes the sum."""
    given = inspect.signature(type(module).forward).parameters
    return "input_tensor" in given and isinstance(getattr(module, "dense", None), nn.Linear)


def _bottlenecks(model: nn.Module) -> Iterator[tuple[str, Bottleneck]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Bottleneck))


def disabled(model: nn.Module) -> AbstractContextManager[None]:
    """Switch the bottlenecks off within the context, so that the model computes what the base model does."""
    return switched_off(module for _, module in _bottlenecks(model))


def save(model: Any, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, the file names of peft."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "BOTTLENECK",
        "library": "peftbench",
        "task_type": task_type(model),
        **model.peftbench_adapter,
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    state = {
        f"{name}.{part}": tensor.detach().cpu().contiguous()
        for name, module in _bottlenecks(model)
        for part, tensor in module.state_dict().items()
    }
    save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})


def load(model: Any, folder: Path) -> Any:
    """Return a freshly loaded base model with the bottlenecks of ``folder`` attached, frozen."""
    config = json.loads((folder / _CONFIG).read_text())
    attach(model, config["bottleneck_width"], config)
    state = load_file(folder / _WEIGHTS)
    with torch.no_grad():
        for name, module in _bottlenecks(model):
            for part, tensor in module.named_parameters():
                tensor.data = state[f"{name}.{part}"].to(tensor.device)
    return model.requires_grad_(False)
