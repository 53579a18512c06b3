"""What peft's tuners change while they train besides weights and buffers, for training that continues elsewhere.

Only AdaLoRA has such state: the importance of its singular values so far, and which of them it has switched off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def state(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the plain data of a tuner's progress; both empty for a tuner without such state."""
    allocator = _allocator(model)
    if allocator is None:
        return {}, {}
    tensors = {f"{kind}/{name}": t for kind in _IMPORTANCE for name, t in getattr(allocator, kind).items()}
    return tensors, {"rank_pattern": allocator.peft_config.rank_pattern}


def restore(model: Any, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
    """Give a tuner the progress that ``state`` returned."""
    allocator = _allocator(model)
    if allocator is None:
        return
    allocator.reset_ipt()
    device = next(model.parameters()).device
    for place, tensor in tensors.items():
        kind, _, name = place.partition("/")
        getattr(allocator, kind)[name] = tensor.to(device)
    allocator.peft_config.rank_pattern = plain["rank_pattern"]


def _allocator(model: Any) -> Any:
    return getattr(getattr(model, "base_model", None), "rankallocator", None)
