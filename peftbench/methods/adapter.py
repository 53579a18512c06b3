"""Bottleneck adapters: Houlsby's (two per block), Pfeiffer's (one per block), parallel ones (beside the feed-forward).

With r the bottleneck's width, s a scale and f(x) = s (up(activation(down(x)))), they are, in a block of attention A,
feed-forward F and residual stream h:

    houlsby    y + f(y), with y what A, and what F, returns before the residual is added
    pfeiffer   h + f(h), with h what the block returns
    parallel   F(x) + f(x), with x what F reads

They are forward hooks on the block's modules, not wrappers around projections, so that they mean the same in every
family: fused or quantized projections, mixtures of experts and blocks that run A and F side by side. With gradient
checkpointing, pfeiffer's keep their activations: the hook of a whole block runs outside of what is recomputed.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from peftbench.errors import Unsupported
from peftbench.methods import ADAPTER_KINDS
from peftbench.models.layers import decoder_layers_for, switched_off

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}
_ATTENTIONS = ("self_attn", "attn", "attention", "self_attention", "linear_attn")
_FEED_FORWARDS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe")
_PROJECTIONS = ("dense", "dense_4h_to_h", "down_proj", "o_proj", "out_proj", "c_proj", "fc2")
"""Output projections, by name, inside a module that adds the residual itself."""
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Bottleneck(nn.Module):
    """The map f(x) = scale * up(activation(down(x))), and the hooks that add it to what a module returns.

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
        """Return what is to be added; outside of autocast it is computed in the bottleneck's own type."""
        inner = x if torch.is_autocast_enabled(x.device.type) else x.to(self.down.weight.dtype)
        change = self.up(self.activation(self.down(inner)))
        return change if self.scale == 1 else self.scale * change

    def hold_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Before a module runs: keep what it reads until ``add`` is called."""
        if self.enabled:
            self._held = args[0] if args else kwargs["hidden_states"]

    def add(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """After a module ran: return its output, adapted where enabled; the base's type is kept, and so is a tuple."""
        if not self.enabled:
            return output
        y, *rest = output if isinstance(output, tuple) else (output,)
        # let go before computing: where checkpointing stops a recomputation early, this is the last that runs
        x, self._held = self._held if self.reads_input else y, None
        adapted = y + self(x).to(y.dtype).reshape(y.shape)  # llama4's experts return (b t, d) for (b, t, d)
        return (adapted, *rest) if isinstance(output, tuple) else adapted


@dataclass(frozen=True)
class Parts:
    """A block's two sublayers."""

    block: nn.Module
    attention: nn.Module
    feed_forward: tuple[nn.Module, nn.Module]
    """The module that reads the feed-forward's input and the one that returns its output; mostly the same one."""


@dataclass(frozen=True)
class Site:
    """Where a bottleneck goes."""

    block: nn.Module
    name: str
    """Of the bottleneck, as a child of the block: the sublayers stay as they are."""
    writes: nn.Module
    """The module to whose output it adds."""
    reads: nn.Module | None = None
    """The module whose input it reads; None if it reads the output to which it adds."""


def attach(model: Any, rank: int, options: Mapping[str, Any]) -> Any:
    """Add bottlenecks to every block; their up-projections start at zero: the first forward equals the base model's.

    Args:
        model: the frozen base.
        rank: bottleneck width r.
        options: ``kind``, and ``activation`` and ``scale``, None for the kind's own (s of pfeiffer and houlsby is 1).

    Returns:
        The same model; only the bottlenecks require gradients.

    Raises:
        Unsupported: if the blocks' attention and feed-forward modules cannot be told, naming what is there.

    References:
        houlsby: Houlsby et al. 2019, arXiv:1902.00751, section 2.1 and figure 2: before the residual, and so before the
        second norms of gemma3 and glm4. The authors' gelu is the tanh formula (google-research/adapter-bert), ours is
        exact. AdapterHub's activation is silu; the rest is equal.

        pfeiffer: Pfeiffer et al. 2020, arXiv:2005.00247 and arXiv:2005.00052, equation 1. Theirs are post-norm blocks:
        f reads the norm of residual plus F, is added to F, and the norm is applied again. In pre-norm blocks there is
        no norm between, so that f reads residual plus F, which is what the block returns, and is added to it. That is
        AdapterHub's form too (equal on Llama), and ours in every block, side by side or post-norm as well.

        parallel: He et al. 2022, arXiv:2110.04366, table 1: f reads what F reads. In pre-norm blocks that is the
        normalised stream, as by default in the authors' code (jxhe/unify-parameter-efficient-tuning, petl/options.py:
        ``hi_lnbefore`` 0). AdapterHub reads the residual stream before that norm (their 1), with equal numbers where
        the norm changes nothing.

    Departs from them: up-projections start at zero (He's too; Houlsby's and Pfeiffer's small and random), down-
    projections as torch's linear layers do, but for pfeiffer and parallel with zero biases (so start all of theirs);
    norms stay frozen (Houlsby trains them); no dropout within the bottleneck (He has it).
    """
    model.requires_grad_(False)
    kind = options["kind"]
    activation, scale = ADAPTER_KINDS[kind]
    activation, scale = options["activation"] or activation, options["scale"] or scale
    d = model.config.get_text_config().hidden_size
    for site in _sites(kind, _parts(model), model.config):
        bottleneck = Bottleneck(d, rank, activation, scale, next(site.block.parameters()).device)
        if kind != "houlsby":  # in front of a relu, a random bias can outweigh the input and leave a unit dead
            nn.init.zeros_(bottleneck.down.bias)
        site.block.add_module(site.name, bottleneck)
        if site.reads is not None:
            bottleneck.reads_input = True
            site.reads.register_forward_pre_hook(bottleneck.hold_input, with_kwargs=True)
        site.writes.register_forward_hook(bottleneck.add)
    model.peftbench_adapter = {"kind": kind, "bottleneck_width": rank, "activation": activation, "scale": scale}
    return model


def _sites(kind: str, every: list[Parts], config: Any) -> Iterator[Site]:
    """Yield where the bottlenecks go, in the order in which they draw their start from the random generator."""
    if kind == "houlsby":
        for parts in every:
            yield Site(parts.block, "attention_bottleneck", _before_residual(parts.attention, config))
        for parts in every:
            yield Site(parts.block, "feed_forward_bottleneck", _before_residual(parts.feed_forward[1], config))
        return
    for parts in every:
        reads, writes = (None, parts.block) if kind == "pfeiffer" else parts.feed_forward
        yield Site(parts.block, "bottleneck", writes, reads)


def _parts(model: Any) -> list[Parts]:
    """Return the parts of each block.

    Raises:
        Unsupported: if a block's parts are not plain, naming what it has.
    """
    found = [(block, _parts_of(block)) for block in decoder_layers_for("adapter", model)]
    odd = [block for block, parts in found if parts is None]
    if odd:
        told = dict.fromkeys(f"{type(block).__name__} has {', '.join(_weighted(block)) or 'nothing'}" for block in odd)
        raise Unsupported(
            "adapter: each block must have one attention and one feed-forward module, and no third one with weight "
            f"matrices; in {type(model).__name__}, {'; '.join(told)}"
        )
    return [parts for _, parts in found if parts is not None]


def _weighted(block: nn.Module) -> dict[str, nn.Module]:
    """Return the block's children that hold weight matrices: not norms, dropout or rotary tables."""
    return {name: m for name, m in block.named_children() if any(p.ndim > 1 for p in m.parameters())}


def _parts_of(block: nn.Module) -> Parts | None:
    """Return a block's parts, or None if they are not plain: after a guess, it would not be the published method."""
    held = _weighted(block)
    attention = [m for name, m in held.items() if name in _ATTENTIONS]
    rest = {name: m for name, m in held.items() if name not in _ATTENTIONS}
    if len(attention) != 1:
        return None
    if set(rest) == {"fc1", "fc2"}:  # opt: the feed-forward is not a module of its own
        return Parts(block, attention[0], (rest["fc1"], rest["fc2"]))
    if len(rest) == 1 and set(rest) <= set(_FEED_FORWARDS):
        (feed_forward,) = rest.values()
        return Parts(block, attention[0], (feed_forward, feed_forward))
    return None


def _before_residual(module: nn.Module, config: Any) -> nn.Module:
    """Return the module whose output does not hold the residual yet: itself, or its projection if it adds it (bloom).

    Raises:
        Unsupported: if the module adds the residual itself and its output projection is not found or not called.
    """
    if "residual" not in inspect.signature(type(module).forward).parameters:
        return module
    found = [m for name, m in module.named_children() if name in _PROJECTIONS]
    told = f"adapter: {type(module).__name__} adds the residual itself"
    if len(found) != 1:
        raise Unsupported(f"{told}, and its output projection is not known among {', '.join(_weighted(module))}")
    if getattr(config, "slow_but_exact", False) and getattr(config, "pretraining_tp", 1) > 1:
        raise Unsupported(f"{told}, and with slow_but_exact does not call its output projection")
    return found[0]


def _bottlenecks(model: nn.Module) -> Iterator[tuple[str, Bottleneck]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Bottleneck))


def disabled(model: nn.Module) -> AbstractContextManager[None]:
    """Switch the bottlenecks off within the context: the model is the base again."""
    return switched_off(module for _, module in _bottlenecks(model))


def save(model: Any, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, named and laid out as peft does."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "BOTTLENECK", "library": "peftbench", "task_type": "CAUSAL_LM", **model.peftbench_adapter}
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    state = {
        f"{name}.{part}": tensor.detach().cpu().contiguous()
        for name, module in _bottlenecks(model)
        for part, tensor in module.state_dict().items()
    }
    save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})


def load(model: Any, folder: Path) -> Any:
    """Return a freshly loaded base with the bottlenecks of ``folder`` attached, frozen."""
    config = json.loads((folder / _CONFIG).read_text())
    attach(model, config["bottleneck_width"], config)
    state = load_file(folder / _WEIGHTS)
    with torch.no_grad():
        for name, module in _bottlenecks(model):
            for part, tensor in module.named_parameters():
                tensor.data = state[f"{name}.{part}"].to(tensor.device)
    return model.requires_grad_(False)
