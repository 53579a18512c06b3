"""Changes of a storage's size, which no dispatch mode sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def seen(see: Callable[[Any], None]) -> Iterator[None]:
    """Let a function see each storage whose size changes within the context."""
    original = torch.UntypedStorage.resize_

    def resize_(storage: Any, size: int) -> Any:
        found = original(storage, size)
        see(storage)
        return found

    torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = original  # type: ignore[method-assign]
