"""A cache for fake tensors: an operator is computed once for arguments of the same shapes.

A traced step runs the same few hundred operators thousands of times. PyTorch's own cache of fake results computes more
expensive keys than are needed here, where no shape is symbolic and all tensors are on one device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

_MOVES = ("aten::set_", "aten::resize_")
"""Operators that replace the storage of their argument, or change its size."""
_PLAIN = (int, float, bool, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None))


@dataclass(frozen=True)
class _Result:
    """What an operator returned: a new tensor, a view of its first argument, or its first argument itself."""

    like: tuple[Any, ...]
    """Shape, strides, dtype, storage offset."""
    itself: bool = False
    """Whether it returned its first argument."""
    view: bool = False
    """Whether it returned a view of its first argument."""


class CachingFakeTensorMode(FakeTensorMode):
    """A ``FakeTensorMode`` with a cache for operators that return one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[Any, _Result] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the check costs time at every operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator, or recreate what it returned for arguments of the same shapes."""
        key = self._key(func, args, kwargs)
        found = self._seen.get(key) if key is not None else None
        if found is not None:
            return self._recreate(found, args)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if key is not None and type(out) is FakeTensor and func.name() not in _MOVES:
            result = _result(out, args, _tensors((kwargs or {}).values()))
            if result is not None and (not result.itself or result.like == key[1]):
                self._seen[key] = result
        return out

    def _key(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return what an operator's result depends on; None if that is more than its arguments' metadata."""
        parts: list[Any] = [func]
        known = _append(parts, args) and (not kwargs or _append(parts, sorted(kwargs.items())))
        return tuple(parts) if known else None

    def _recreate(self, found: _Result, args: Any) -> Any:
        if found.itself:
            return args[0]
        shape, strides, dtype, offset = found.like
        made = torch.empty_strided(
            () if found.view else shape, () if found.view else strides, dtype=dtype, device="meta"
        )
        if found.view:
            with in_kernel_invocation_manager(self):
                made.set_(args[0].untyped_storage(), offset, shape, strides)
        return FakeTensor(self, made, torch.device("cpu"))


def _append(parts: list[Any], values: Any) -> bool:
    """Add the metadata of arguments to a key; return False if a result depends on more than that."""
    for value in values:
        if isinstance(value, FakeTensor):
            if value.constant is not None or value.layout is not torch.strided or value.is_complex():
                return False
            parts.append(_metadata(value))
        elif isinstance(value, list | tuple):
            parts.append(len(value))
            if not _append(parts, value):
                return False
        elif type(value) in _PLAIN:
            parts.append((type(value), value))
        else:  # a real tensor, a symbol
            return False
    return True


def _metadata(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.storage_offset()


def _result(out: FakeTensor, args: Any, named: list[FakeTensor]) -> _Result | None:
    """Return how to recreate an operator's result; None if that takes more than its arguments' metadata.

    Args:
        out: the operator's result.
        args: its positional arguments.
        named: the tensors among its keyword arguments.
    """
    if out.constant is not None or out.layout is not torch.strided or out.is_complex() or out.device.type != "cpu":
        return None
    like = _metadata(out)
    if args and out is args[0]:
        return _Result(like, itself=True)
    storage = out.untyped_storage()
    shared = [a for a in (*_tensors(args), *named) if a.untyped_storage()._cdata == storage._cdata]
    if shared:
        return _Result(like, view=True) if shared[0] is args[0] else None
    dense = torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device="meta")
    whole = dense.untyped_storage().nbytes() == storage.nbytes() and out.storage_offset() == 0
    return _Result(like) if whole else None


def _tensors(values: Any) -> list[FakeTensor]:
    """Return the fake tensors among arguments, in order."""
    found: list[FakeTensor] = []
    for value in values:
        if isinstance(value, FakeTensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found
