"""Save and load what peft attached, in peft's own format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn


def save(model: Any, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``; embeddings of the base are never written."""
    model.save_pretrained(folder, save_embedding_layers=False)


def load(model: nn.Module, folder: Path) -> nn.Module:
    """Return a freshly loaded base with the adapter of ``folder`` attached, frozen."""
    return PeftModel.from_pretrained(model, str(folder))
