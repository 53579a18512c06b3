"""Full fine-tuning, and its counterpart: the untuned base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def attach(model: Any, rank: int | None, options: Mapping[str, Any]) -> Any:
    """Make every weight of the base trainable."""
    model.requires_grad_(True)
    return model


def attach_nothing(model: Any, rank: int | None, options: Mapping[str, Any]) -> Any:
    """Leave the base as it is, with every weight frozen."""
    model.requires_grad_(False)
    return model


def save(model: Any, folder: Path) -> None:
    """Write the whole model as safetensors, in the dtype in which it trained."""
    model.save_pretrained(folder)


def load(model: Any, folder: Path) -> Any:
    """Return the model of ``folder`` in the dtype and on the device of the base given."""
    tuned = type(model).from_pretrained(folder, dtype=model.dtype, use_safetensors=True)
    return tuned.to(model.device)
