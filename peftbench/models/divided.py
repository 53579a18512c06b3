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


def like(part: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the device of another one and divided as it is, of which this process holds a given part.

    Args:
        part: what this process holds, of the shape of what it holds of the other.
        other: the other, divided or not.
    """
    if not is_divided(other):
        return part.to(other.device)
    made = torch.empty_like(other, dtype=part.dtype, requires_grad=False)
    own(made).copy_(part)
    return made


def is_divided(tensor: torch.Tensor) -> bool:
    """Return whether this process holds a part of a tensor only, or a copy that other processes have, too."""
    return hasattr(tensor, "_local_tensor")


def part(values: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return of whole values, which every process has, what it holds of a tensor of their shape."""
    if not is_divided(tensor):
        return values
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    found = distribute_tensor(values, mesh, placements, src_data_rank=None)  # exchanges nothing
    return own(found).to(own(tensor).device)
