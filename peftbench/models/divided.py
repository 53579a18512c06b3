"""Tensors that may be divided among the processes of a trial (torch's ``DTensor``): the whole, and the own part."""

from __future__ import annotations

import torch


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor; if it is divided, every process must call this."""
    found: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


def own(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a tensor, sharing its memory."""
    found: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return found


def is_divided(tensor: torch.Tensor) -> bool:
    """Return whether this process holds a part of a tensor only, or a copy that other processes have, too."""
    return hasattr(tensor, "_local_tensor")
