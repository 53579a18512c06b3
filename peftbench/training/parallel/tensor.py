"""Tensor parallelism: every process holds a share of each decoder layer's projections, and all see every example.

Which projections are divided, and along which side, is transformers' own plan for the model (``base_model_tp_plan``):
of ``colwise`` ones each process holds some outputs, of ``rowwise`` ones some inputs. Embeddings, head and norms stay
whole in every process. Shares are ordinary tensors, so that the memory ledger, the planner and every optimizer see
exactly what a process holds (see docs/design/several_devices.md).

A method is attached to the whole model first, so that it starts as in one process, and is then divided with it. LoRA
beside a ``colwise`` projection has A whole and B divided, beside a ``rowwise`` one A divided and B whole. Bottleneck
adapters read and write what is whole in every process, and stay whole.

References:
    Shoeybi et al. 2019, arXiv:1909.08053, section 3 (the operators f and g are ``_Spread`` and ``_Added``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from peftbench.errors import Unsupported
from peftbench.training.parallel.peers import Peers

_DIVIDED = {"colwise": 0, "rowwise": 1}
"""Style in a plan -> the dimension of the weight, of shape (out, in), along which it is divided."""
_WHOLE = (
    "embedding_rowwise",
    "embedding_colwise",
    "colwise_gather_output",
    "colwise_rep",
    "rowwise_split_input",
    "replicate",
)
"""Styles of modules whose input and output are whole, and which are left whole here."""
_PARTIAL = "replicated_with_grad_allreduce"
"""Style of a norm over a process's own heads: whole, and its gradient is the sum over the processes."""
_HEADS = ("num_attention_heads", "num_key_value_heads")


class _Spread(torch.autograd.Function):
    """What all processes have enters a divided projection; its gradient is the sum over the processes."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, peers: Peers) -> torch.Tensor:
        ctx.peers = peers
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.peers.add(gradients[0].clone(memory_format=torch.contiguous_format)), None


class _Added(torch.autograd.Function):
    """The outputs of a divided projection are added up over the processes; each gets the whole gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, peers: Peers) -> torch.Tensor:
        ctx.mark_dirty(x)
        return peers.add(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


@dataclass
class Shares:
    """A model whose projections are divided among processes."""

    peers: Peers
    dims: dict[nn.Parameter, int] = field(default_factory=dict)
    """Each divided parameter with the dimension along which it is divided."""
    undo: list[Callable[[], Any]] = field(default_factory=list)
    """What takes the hooks away again."""

    def counted(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Return the parameters whose gradient this process counts: its shares, and the first also what is whole."""
        return [p for p in parameters if p in self.dims or self.peers.index == 0]

    def join(self) -> None:
        """Make the model whole again in every process, without hooks."""
        for parameter, dim in self.dims.items():
            parameter.data = self.peers.collect(parameter.data, dim)
            parameter.grad = None
        for each in self.undo:
            each()
        self.dims, self.undo = {}, []


def divide(model: Any, peers: Peers) -> Shares:
    """Divide a model with its method among processes. Parameters stay the same objects, with a share of their data.

    Args:
        model: the whole model, with the method attached, the same in every process.
        peers: the processes.

    Raises:
        Unsupported: if transformers has no plan for the model, or its parts or the method cannot be divided.
    """
    check(model, peers.count)
    made = Shares(peers)
    for name, module, style in _planned(_base(model)):
        if style in _DIVIDED:
            _divide_module(made, name, module, style)
        elif style == _PARTIAL:
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad:
                    made.undo.append(parameter.register_hook(lambda g: peers.add(g.clone())).remove)
    return made


def check(model: Any, count: int) -> None:
    """Check that a model with its method can be divided, by its modules alone: it needs no values and no processes.

    Args:
        model: the whole model, with the method attached.
        count: the number of processes.

    Raises:
        Unsupported: as ``divide``.
    """
    base = _base(model)
    planned = list(_planned(base))
    if not any(style in _DIVIDED for _, _, style in planned):
        raise Unsupported(f"tp: transformers has no plan that divides a {type(base).__name__}")
    _check_config(model, base, count)
    for name, module, style in planned:
        if style in _DIVIDED:
            _check_module(name, module)
        elif style not in (_PARTIAL, *_WHOLE):
            raise Unsupported(
                f"tp: transformers divides {name} of {type(base).__name__} as {style!r}, which is not ours"
            )


def _base(model: Any) -> Any:
    """Return the base model of a model with a method."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _planned(base: Any) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield the modules that transformers' plan names: name, module and style."""
    from transformers.distributed.parallel_utils import replace_layer_number_by_wildcard

    plan = getattr(base, "tp_plan", None) or {}
    for name, module in base.named_modules():
        style = plan.get(replace_layer_number_by_wildcard(name))
        if style is not None:
            yield name, module, style


def _check_config(model: nn.Module, base: Any, count: int) -> None:
    config = base.config.get_text_config()
    for heads in _HEADS:
        number = getattr(config, heads, None)
        if isinstance(number, int) and number % count:
            raise Unsupported(f"tp: {heads} of the base model, {number}, cannot be divided among {count} processes")
    dropout = any(isinstance(m, nn.Dropout) and m.p for m in model.modules())
    if dropout or getattr(config, "attention_dropout", None):
        raise Unsupported("tp: with dropout, each process would draw a mask of its own for its share; set it to 0")


def _check_module(name: str, module: nn.Module) -> None:
    """Check that a projection can be divided, and LoRA beside it if there is one."""
    linear: Any = getattr(module, "base_layer", module)
    if type(linear) is not nn.Linear:
        raise Unsupported(f"tp: {name} is a {type(linear).__name__}, and only plain linear layers are divided")
    if linear is module:
        return
    beside = [getattr(module, kind, {}) for kind in ("lora_A", "lora_B")]
    if getattr(module, "lora_magnitude_vector", {}) or not all(len(found) == 1 for found in beside):
        raise Unsupported(
            f"tp: {type(module).__name__} on {name}: only LoRA without DoRA is divided with its projection"
        )


def _divide_module(made: Shares, name: str, module: nn.Module, style: str) -> None:
    """Divide a projection, and LoRA beside it if there is one."""
    linear: Any = getattr(module, "base_layer", module)
    (_columns if style == "colwise" else _rows)(made, name, linear)
    if linear is module:
        return
    found: Any = module
    (down,), (up,) = found.lora_A.values(), found.lora_B.values()
    if style == "colwise":
        _columns(made, f"{name}: B", up)
    else:
        _rows(made, f"{name}: A", down)


def _columns(made: Shares, name: str, linear: nn.Linear) -> None:
    """Keep a share of a linear layer's outputs."""
    _keep(made, name, linear.weight, 0)
    if linear.bias is not None:
        _keep(made, name, linear.bias, 0)

    def spread(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_Spread.apply(given[0], made.peers), *given[1:])

    made.undo.append(linear.register_forward_pre_hook(spread).remove)


def _rows(made: Shares, name: str, linear: nn.Linear) -> None:
    """Keep a share of a linear layer's inputs; its bias is whole, and added after the sum."""
    _keep(made, name, linear.weight, 1)

    def forward(x: torch.Tensor) -> torch.Tensor:
        whole = _Added.apply(functional.linear(x, linear.weight), made.peers)
        return whole if linear.bias is None else whole + linear.bias

    linear.forward = forward  # type: ignore[method-assign,assignment]
    made.undo.append(partial(delattr, linear, "forward"))


def _keep(made: Shares, name: str, parameter: Any, dim: int) -> None:
    """Keep this process's share of a parameter."""
    size, peers = parameter.shape[dim], made.peers
    if size % peers.count:
        raise Unsupported(f"tp: {size} rows or columns of {name} cannot be divided among {peers.count} processes")
    share = parameter.data.narrow(dim, peers.index * (size // peers.count), size // peers.count)
    parameter.data = share.clone(memory_format=torch.contiguous_format)
    made.dims[parameter] = dim
