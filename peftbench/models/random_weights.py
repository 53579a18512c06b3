"""A model with random weights made from a config: drawn on the device one tensor at a time, and quantized as drawn.

Speed and memory do not depend on the values, so a shape can be measured without its weights. Loading takes the same
path as for real weights: transformers reads a tensor when it needs it and quantizes linear layers one at a time, so a
7B model in 4 bits never takes more than its own few GiB.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch

from peftbench.models import configs
from peftbench.models import head as heads
from peftbench.records import Head

_SPREAD = 0.02
"""Standard deviation of matrices if the config has no ``initializer_range``."""


@dataclass(frozen=True)
class Drawn:
    """A tensor that is drawn when it is read; it stands in for a slice of a safetensors file."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str
    spread: float

    def __getitem__(self, _: EllipsisType) -> torch.Tensor:
        """Draw the tensor: matrices normal, biases zero, other vectors one. A name always gives the same values."""
        made = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        if len(self.shape) < 2:
            return made.fill_(0.0 if self.name.endswith("bias") else 1.0)
        seeded = torch.Generator(self.device).manual_seed(zlib.crc32(self.name.encode()))
        return made.normal_(0.0, self.spread, generator=seeded)


def load(folder: Path, device: str, trust_remote_code: bool, head: Head | None = None, **settings: Any) -> Any:
    """Return the causal language model of a folder's config, or one with a head for whole texts, with random weights.

    Args:
        folder: contains a ``config.json``; other files are not read.
        device: where the weights are drawn and stay.
        trust_remote_code: whether Python code in the folder may run.
        head: the head; None for one that predicts tokens.
        **settings: arguments of ``from_pretrained``: dtype, quantization.
    """
    config = configs.load_config(folder, trust_remote_code)
    if head is not None:
        heads.config(config, head)
    with torch.device("meta"):
        empty = heads.auto_class(head).from_config(config, trust_remote_code=trust_remote_code)
    spread = float(getattr(config, "initializer_range", None) or _SPREAD)
    drawn = {
        name: Drawn(name, tuple(p.shape), settings["dtype"], device, spread) for name, p in empty.named_parameters()
    }
    settings["device_map"] = {"": device}
    made = type(empty).from_pretrained(None, config=config, state_dict=drawn, **settings)
    if head is not None:
        heads.place(made)
    return made
