"""How large everything is: as measured on a GPU, or tiny on the CPU, to prove that each part runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Scale:
    """Sizes of what is measured."""

    device: str
    shapes: Mapping[str, str]
    """By the name of a published model, the ``shape`` that stands for it."""
    length: int
    """Tokens of an example."""
    micro: int
    """Examples of a forward pass."""
    steps: int
    """Steps that show memory: the first is untimed."""
    timed: int
    """Steps that show speed."""
    iterations: int
    """Steps of four examples that show the speed of the published runs."""
    untimed: int
    workers: int
    """Trials at the same time where only losses or the allocator's own counts are read."""
    whole: bool = True
    """Whether every cell is measured; false for one cell of each kind."""
    pages: bool = True
    """Whether paged optimizers work; else QLoRA has the ordinary one, which takes as much memory on a large device."""

    def some(self, cells: list[Any], kept: int = 1) -> list[Any]:
        """Return all cells, or the first ones."""
        return cells if self.whole else cells[:kept]

    def few(self, methods: Mapping[str, Any]) -> dict[str, Any]:
        """Return all methods, or the first one."""
        return dict(list(methods.items())[: None if self.whole else 1])


NAMES = ("llama-3.2-1b", "llama-7b", "gpt-neox-20b", "llama-65b")
FULL = Scale("cuda", {name: name for name in NAMES}, 512, 4, 3, 20, 60, 5, 12)
_TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
_TINY_NEOX = _TINY | {
    "model_type": "gpt_neox",
    "architectures": ["GPTNeoXForCausalLM"],
    "rotary_pct": 0.25,
    "use_parallel_residual": True,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
}


def dry(folder: Path, whole: bool) -> Scale:
    """Return the tiny scale, after writing the configs of its shapes.

    Args:
        folder: where the configs are written.
        whole: whether every cell runs.
    """
    for place, name in enumerate(NAMES):
        made = folder / name
        made.mkdir(parents=True, exist_ok=True)
        config = (_TINY_NEOX if "neox" in name else _TINY) | {"intermediate_size": 176 + 16 * place}  # no two alike
        (made / "config.json").write_text(json.dumps(config))
    return Scale("cpu", {name: str(folder / name) for name in NAMES}, 32, 2, 2, 4, 4, 1, 2, whole)
