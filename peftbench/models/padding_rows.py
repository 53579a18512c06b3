"""The embedding of the padding token as it is stored, which some families' code sets to zero on every loading (youtu).

Where the head is tied to the embeddings, that row gives the padding token's logit, which training changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from peftbench.models import files, tied


@torch.no_grad()
def restore(model: Any, folder: Path) -> None:
    """Copy the stored embeddings of padding tokens into a model that was just loaded, where the loaded ones are zero.

    Args:
        model: the model, its embeddings not quantized.
        folder: the folder with its weights.
    """
    for name, table in model.named_modules():
        place = table.padding_idx if isinstance(table, nn.Embedding) else None
        if place is None or bool(table.weight[place].any()):
            continue
        stored = files.tensors(folder)
        key = tied.stored_name(f"{name}.weight", model, stored)
        if key is not None and stored[key].shape == tuple(table.weight.shape):
            with safe_open(folder / stored[key].file, framework="pt") as file:
                table.weight[place] = file.get_slice(key)[place : place + 1][0].to(table.weight)
