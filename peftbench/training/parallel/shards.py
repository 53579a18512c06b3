"""Weights that one rank holds, handed to all of them in shards: no other rank ever has a whole tensor of them.

A model is built on every rank, on rank 0 with its weights, on the others on ``meta``. After ``taken`` it is on ``meta``
everywhere, FSDP2 divides it there, and ``fill`` makes each rank's shards and sends them their values.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from peftbench.errors import Unsupported
from peftbench.models import divided

_START = "(peftbench_start)"
"""End of the names of the tensors from which a method started, which only the rank that saves it needs."""
Place = tuple[MutableMapping[str, Any], str]
"""A dictionary of a module, and the name of a tensor in it."""


@dataclass
class Values:
    """The tensors of a whole model, on the host of one rank."""

    parameters: list[torch.Tensor]
    """In the order of the model's parameters, tied ones once."""
    others: dict[str, torch.Tensor]
    """Buffers, and tensors that modules hold in other ways."""


def marks(parameter: nn.Parameter) -> dict[str, Any]:
    """Return what a method, or the loading of the base model, says of a parameter."""
    return {n: value for n, value in vars(parameter).items() if n.startswith("peftbench") or n == "quant_state"}


def _state(parameter: nn.Parameter) -> Any:
    return getattr(parameter, "quant_state", None)


def structure(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Return what a model is without its values, to be compared: its modules' classes, and its tensors."""
    numbers: dict[int, int] = {}
    found: dict[str, tuple[Any, ...]] = {name: (type(m).__qualname__,) for name, m in model.named_modules()}
    for name, p in model.named_parameters(remove_duplicate=False):
        tie = numbers.setdefault(id(p), len(numbers))
        found[f"{name} "] = (tie, tuple(p.shape), str(p.dtype), p.requires_grad, *sorted(marks(p)))
    for label, buffer in model.named_buffers(remove_duplicate=False):
        found[f"{label}  "] = (tuple(buffer.shape),)  # loading may give it another dtype, and ``fill`` does, too
    return found


def twin(model: Any) -> Any:
    """Return a copy of a model that shares its weights, with parameters of its own objects, so that it can be divided.

    What dividing does to the copy, it does not do to the model: its modules, hooks and quantization state are its own.

    Raises:
        Unsupported: if weights are objects that FSDP2 cannot replace by plain tensors, as those of bases that are
            stored in int8, or by torchao.
    """
    kinds = {type(p).__name__ for p in model.parameters() if type(p) is not nn.Parameter and _state(p) is None}
    if kinds:
        raise Unsupported(
            f"fsdp2: FSDP2 cannot divide weights whose objects hold their scales ({', '.join(sorted(kinds))}); use a "
            "base stored in bitsandbytes' 4 bits or unquantized, or ddp"
        )
    shared: dict[int, Any] = {}
    for parameter in model.parameters():
        same = nn.Parameter(parameter.data.as_subclass(torch.Tensor), requires_grad=False)
        vars(same).update({name: copy.deepcopy(value) for name, value in marks(parameter).items()})
        shared[id(parameter)] = same
    shared |= {id(holder[name]): holder[name].detach().clone() for _, (holder, name) in _others(model)}
    for name in ("peftbench_origin", "peftbench_head"):  # hooks write to the head's record, and are not copied
        if (kept := getattr(model, name, None)) is not None:
            shared[id(kept)] = kept
    return copy.deepcopy(model, shared)


def taken(model: nn.Module) -> Values:
    """Take the tensors out of a model; in their places are parameters on ``meta``, with the same marks."""
    found = Values([], {label: holder[name].detach() for label, (holder, name) in _others(model)})
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                hollow = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
                empty = nn.Parameter(hollow, requires_grad=parameter.requires_grad)
                vars(empty).update(marks(parameter))
                made[id(parameter)] = empty
                found.parameters.append(parameter.detach())
            module._parameters[name] = made[id(parameter)]
    return found


def fill(model: Any, values: Values | None, rank: int, count: int, device: str, offload: bool) -> None:
    """Make the shards of a model that FSDP2 divided on ``meta``, with the values that rank 0 has. All ranks call it.

    Args:
        model: the divided model.
        values: the tensors of the whole model on rank 0, which are freed as they are sent; None on the others.
        rank: this process.
        count: number of processes.
        device: where the model computes.
        offload: whether its shards wait on the host.

    Raises:
        RuntimeError: if this rank has tensors beside the parameters that rank 0 does not have.
    """
    said = {id(p): marks(p) for p in model.parameters()}
    others = _others(model)
    told: list[Any] = [None if values is None else {label: tensor.cpu() for label, tensor in values.others.items()}]
    distributed.broadcast_object_list(told, 0)
    unknown = [label for label, _ in others if label not in told[0] and not label.endswith(_START)]
    if unknown:
        raise RuntimeError(f"rank {rank} has tensors that rank 0 cannot fill: {', '.join(unknown[:5])}")
    model.to_empty(device="cpu" if offload else device)
    for label, (holder, name) in others:
        if label in told[0]:
            holder[name] = told[0][label].to(device)
    queue = [] if values is None else values.parameters[::-1]
    if values is not None:
        values.parameters = []
    for parameter in model.parameters():
        vars(parameter).update(said[id(parameter)])
        _receive(parameter, queue.pop() if queue else None, rank, count)


@torch.no_grad()
def _receive(parameter: torch.Tensor, whole: torch.Tensor | None, rank: int, count: int) -> None:
    """Fill a rank's part of a parameter with its rows of the whole tensor, which rank 0 sends."""
    own = divided.own(parameter)
    rows = -(-parameter.shape[0] // count)
    held = own.new_empty((rows, *own.shape[1:]))
    parts = None
    if rank == 0:
        assert whole is not None
        assert whole.shape == parameter.shape
        parts = [torch.zeros_like(held) for _ in range(count)]  # the last may have fewer rows
        for part, given in zip(parts, whole.split(rows), strict=False):
            part[: len(given)].copy_(given)
    # as bytes, which every backend knows
    distributed.scatter(_bytes(held), None if parts is None else [_bytes(part) for part in parts], 0)
    own.copy_(held[: len(own)])


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten().view(torch.uint8)


def move_others(model: nn.Module, device: str) -> None:
    """Move the tensors of a model that are not parameters, which FSDP2 does not all know of."""
    for _, (holder, name) in _others(model):
        holder[name] = holder[name].to(device)
    for module in model.modules():
        for owner in (module, *module.parameters(recurse=False)):  # FSDP2 does not know bitsandbytes' states either
            if (state := getattr(owner, "quant_state", None)) is not None:
                state.to(device)


def _others(model: nn.Module) -> list[tuple[str, Place]]:
    """Return the places of the tensors of a model that are not parameters, with their names, in a fixed order."""
    found = []
    for path, module in model.named_modules():
        for kind, holder in _holders(module):
            places = [name for name, value in holder.items() if _is_other(value)]
            found += [(f"{path}.{name} ({kind})", (holder, name)) for name in places]
    return found


def _is_other(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter)


def _holders(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the dictionaries that hold a module's tensors besides parameters: buffers, attributes, dicts of these."""
    yield "buffer", module._buffers
    yield "attribute", vars(module)
    yield from ((name, v) for name, v in vars(module).items() if isinstance(v, Mapping) and not name.startswith("_"))
