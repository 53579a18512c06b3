"""How the weights of a model are stored: their number, data types, bytes, quantization state and checksums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator

import torch
from torch import nn

from peftbench.models import divided, head


def parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the inner tensors of a weight of torchao, the codes first; any other tensor alone."""
    if not hasattr(tensor, "tensor_data_names"):
        return [tensor]
    names = tensor.__tensor_flatten__()[0]  # type: ignore[attr-defined]
    return [getattr(tensor, name) for name in names]


def is_packed(parameter: torch.Tensor) -> bool:
    """Return whether a parameter holds the codes of quantized weights."""
    return len(parts(parameter)) > 1 or not parameter.is_floating_point()


def parameter_count(parameter: torch.Tensor) -> int:
    """Return the number of weights in a parameter, also if it is packed with two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return state.shape.numel() if state is not None else parameter.numel()


def storage(model: nn.Module) -> Counter[str]:
    """Return the number of parameters per storage dtype, tied ones once, without those of a head."""
    found: Counter[str] = Counter()
    apart = head.apart(model)
    for parameter in (p for p in model.parameters() if id(p) not in apart):
        found[dtype_name(parameter)] += parameter_count(parameter)
    return found


def dtype_name(parameter: torch.Tensor) -> str:
    """Return the name of a parameter's storage dtype: ``bfloat16``."""
    return str(parts(parameter)[0].dtype).removeprefix("torch.")


def quantization_tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the tensors that quantized weights need besides their codes: scales, offsets and code tables."""
    for parameter in model.parameters():
        yield from parts(parameter)[1:]
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            yield from (t for t in (state.absmax, state.offset, state.code) if isinstance(t, torch.Tensor))
            state = state.state2
    for module in model.modules():
        for holder in (getattr(module, "weight", None), getattr(module, "state", None)):
            scale = getattr(holder, "SCB", None)
            if isinstance(scale, torch.Tensor):
                yield scale


def weights_bytes(model: nn.Module, apart: Container[int] = ()) -> int:
    """Return the bytes of parameters, but for those of the ids ``apart``, and quantization state, each storage once."""
    seen: dict[int, int] = {}
    own = (parts(p)[0] for p in model.parameters() if id(p) not in apart)
    for tensor in (*own, *quantization_tensors(model)):
        held = tensor.untyped_storage()
        seen[held.data_ptr()] = held.nbytes()
    return sum(seen.values())


def checksum(tensor: torch.Tensor) -> int:
    """Return a 64-bit checksum of a tensor's bytes. A change of a single byte always changes it."""
    inner = parts(tensor.detach())
    if len(inner) > 1:
        return sum(place * checksum(part) for place, part in enumerate(inner, 1))
    raw = divided.whole(tensor.detach()).contiguous().flatten().view(torch.uint8)
    whole = raw.numel() // 8 * 8
    return sum(int(part.sum()) for part in (raw[:whole].view(torch.int64), raw[whole:].to(torch.int64)))
