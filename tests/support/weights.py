"""Copies of a base model's folder with other tensors and another config."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

Change = Callable[[dict[str, Any]], dict[str, Any]]


def copy(base: Path, folder: Path, change: Change | None = None, **config: Any) -> Path:
    """Copy a model folder; ``change`` returns the new tensors, keyword arguments change its config."""
    shutil.copytree(base, folder)
    if change:
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    edit(folder / "config.json", **config)
    return folder


def edit(path: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def with_ids_beyond(folder: Path) -> Path:
    """Add two tokens to a tiny base's tokenizer without resizing the model: ``<pad>`` is 320, ``<|im_end|>`` is 321."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    known = content["model"]["vocab"]
    known |= {f"filler{number}": number for number in range(len(known), 320)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"] += [
        {"id": 320 + i, "content": token, "special": True, **flags} for i, token in enumerate(("<pad>", "<|im_end|>"))
    ]
    path.write_text(json.dumps(content))
    return folder
