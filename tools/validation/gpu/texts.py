"""Examples of known lengths for bases whose weights are random: speed and memory depend on the lengths alone."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftbench.models import builtin

PROMPT, MEDIAN, SIGMA = 45, 60.0, 0.8
"""Alpaca-like lengths: 45 tokens of the template, and lognormal ones of instruction and answer with median 60 and
spread 0.8, cut at the sequence length. No tokenizer of LLaMA is at hand, so they are drawn and not counted; the mean
is about 125 tokens."""


def alpaca_like(count: int, longest: int) -> list[int]:
    """Return lengths in tokens, always the same ones; one of each sixty is the longest, for the peak of memory."""
    drawn = random.Random(0)
    scale = min(1.0, longest / 512)
    lengths = [int(scale * (PROMPT + drawn.lognormvariate(math.log(MEDIAN), SIGMA))) for _ in range(count)]
    return [longest if place % 60 == 0 else max(4, min(longest, length)) for place, length in enumerate(lengths)]


def write(path: Path, lengths: Sequence[int]) -> None:
    """Write texts of so many tokens of the built-in base's tokenizer, which stands in where a shape has none."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(builtin.folder("nano") / "tokenizer.json"))
    words = [word for word in ("the", "of", "is", "and", "a", "one", "in") if _tokens(tokenizer, f" {word}") == 1]
    drawn = random.Random(1)
    lines = []
    for length in lengths:
        text = " ".join(drawn.choices(words, k=length))
        lines.append(json.dumps({"text": text}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def task(path: Path) -> dict[str, Any]:
    """Return the definition of a task with the texts of a file, each of them an example."""
    file = str(path)
    columns = {"prompt": "", "target": "{{ text }}", "separator": "\n\n", "chunk_characters": 1_000_000}
    return {"kind": "language_modelling", "train": file, "test": file, **columns, "limit": 1}


def prompts(path: Path) -> dict[str, Any]:
    """Return the definition of a task that has the texts of a file as prompts, for the cost of generation."""
    file = str(path)
    columns = {"prompt": "{{ text }}", "target": "a", "max_new_tokens": 8}
    return {"kind": "generation", "train": file, "test": file, **columns, "limit": 4}
