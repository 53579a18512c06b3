"""Fields that were added after results had been stored."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def late(**default: Any) -> Any:
    """Return a dataclass field that was added later: at its default it enters neither a row's settings nor its key.

    Args:
        default: ``default`` or ``default_factory``, as for ``dataclasses.field``.
    """
    return field(**default, metadata={"late": True})
