"""Buffers that code compiled by inductor allocates: they pass no dispatcher, so that no dispatch mode sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_ALLOCATES = "empty_strided_cpu"
"""What a generated module calls its allocator for the CPU."""
_PASSES = 2
"""A forward and a backward pass are a module each."""


@contextmanager
def seen(see: Callable[[torch.Tensor], Any]) -> Iterator[None]:
    """Let a function see each buffer that compiled code allocates on the CPU within the context, as it is made.

    The code must have been compiled before.

    Raises:
        RuntimeError: if there are generated modules, and not both a forward and a backward pass were seen.
    """
    from torch._inductor.codecache import PyCodeCache

    kept = {module: getattr(module, _ALLOCATES) for module in PyCodeCache.modules if hasattr(module, _ALLOCATES)}

    ran = set()

    def allocating(module: Any, original: Any) -> Any:
        def allocate(*args: Any) -> torch.Tensor:
            buffer: torch.Tensor = original(*args)
            ran.add(module)
            see(buffer)
            return buffer

        return torch._disable_dynamo(allocate)  # else torch would compile what counts

    for module, original in kept.items():
        setattr(module, _ALLOCATES, allocating(module, original))
    try:
        yield
    finally:
        for module, original in kept.items():
            setattr(module, _ALLOCATES, original)
    if kept and len(ran) < _PASSES:
        raise RuntimeError(f"{len(ran)} modules of compiled code were seen in a step; expected: {_PASSES} or more")
