"""Which methods exist in which precision, on which device, with gradient checkpointing and with packing. No torch."""

from __future__ import annotations

from peftbench.methods import Method
from peftbench.models.precision import PRECISIONS

BECAUSE = ", because "
"""Separates an unsupported cell from the reason in a message."""


def why_unsupported(method: Method, precision: str, device: str) -> str | None:
    """Return why a cell of method, precision and device is unsupported; None if it is supported."""
    if precision not in method.precisions:
        because = f"{BECAUSE}{method.why_not}" if method.why_not else ""
        return f"{method.name} does not exist in {precision}{because}"
    if device not in PRECISIONS[precision].devices:
        return f"{precision} does not exist on {device} (only on {', '.join(PRECISIONS[precision].devices)})"
    return None


def why_no_checkpointing(method: Method) -> str | None:
    """Return why a method cannot train with gradient checkpointing; None if it can."""
    if not method.why_no_checkpointing:
        return None
    return f"{_name(method)} does not exist with gradient checkpointing{BECAUSE}{method.why_no_checkpointing}"


def why_no_packing(method: Method) -> str | None:
    """Return why a method cannot train on packed examples; None if it can."""
    if not method.virtual_tokens:
        return None
    because = "its virtual tokens stand before a row, not each example"
    return f"{_name(method)} does not exist with packing{BECAUSE}{because}"


def _name(method: Method) -> str:
    return f"{method.name} {method.variant}".strip()
