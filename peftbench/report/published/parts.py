"""The parts of a protocol: what they are called, and when two values of one are the same."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

ALL_LINEAR = "all linear"
_LLAMA = frozenset(("q", "k", "v", "o", "gate", "up", "down"))
"""The linear layers of a LLaMA block, which is what "all linear" means there."""
_SPOKEN = {"query": "q", "key": "k", "value": "v", "output": "o"}
_ATTENTION = frozenset("qkvo")
_LONGEST = 60
"""Longest value in a sentence, characters."""
_CLOSE = 1e-6
_ROUNDED = 0.01


def _same_text(one: Any, other: Any) -> bool:
    return _plain(one) == _plain(other)


def _plain(value: Any) -> str:
    return " ".join(str(value).lower().replace("_", " ").replace("-", " ").split())


def _same_number(one: Any, other: Any) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=_CLOSE, abs_tol=1e-12)
    except (TypeError, ValueError):
        return _same_text(one, other)


def _same_rounded(one: Any, other: Any) -> bool:
    """Whether two counts are equal as a text writes them, which says 52k for 52,002."""
    return math.isclose(float(one), float(other), rel_tol=_ROUNDED)


def _same_targets(one: Any, other: Any) -> bool:
    first, second = targets(one), targets(other)
    return first == second or ({ALL_LINEAR} in (first, second) and _LLAMA in (first, second))


def _same_hardware(one: Any, other: Any) -> bool:
    """Whether a device has all that is said of it: an "A100 40GB" can be "1x NVIDIA A100-SXM4-40GB"."""
    return _device(one) <= _device(other)


def _device(name: Any) -> frozenset[str]:
    apart = re.sub(r"(\d+)x\s*", r"\1x ", _plain(name).replace("gb", "g"))
    return frozenset(apart.split())


def _same_template(one: Any, other: Any) -> bool:
    return without_fields(str(one)) == without_fields(str(other))


def without_fields(text: str) -> str:
    """Return a Jinja template, or "Q: ... A:" of a text, with {} for its fields and without its optional parts."""
    bare = re.sub(r"{%\s*if\b.*?{%\s*endif\s*%}", "", text, flags=re.DOTALL)
    return " ".join(re.sub(r"{{.*?}}|\.\.\.", "{}", bare, flags=re.DOTALL).split())


def targets(value: Any) -> frozenset[str]:
    """Return target modules without the words around their letters: ``{q, v}`` for ``query,value``."""
    if isinstance(value, str) and _plain(value) == ALL_LINEAR:
        return frozenset((ALL_LINEAR,))
    if value == "attention":
        return _ATTENTION
    given = re.split(r"[,\s]+", value) if isinstance(value, str) else value
    short = (re.sub(r"^c_attn\.|_(proj|lin)$", "", str(name)) for name in given)
    return frozenset(_SPOKEN.get(name, name) for name in short if name)


@dataclass(frozen=True)
class Part:
    """One part of a protocol."""

    words: str
    """What it is called in a sentence."""
    same: Callable[[Any, Any], bool] = _same_text


PARTS: Mapping[str, Part] = {
    "base": Part("base model"),
    "train_data": Part("training data"),
    "train_examples": Part("training examples", _same_rounded),
    "test_data": Part("test data"),
    "test_split": Part("test split"),
    "test_examples": Part("scored examples", _same_number),
    "task_kind": Part("kind of task"),
    "template": Part("prompt template", _same_template),
    "num_fewshot": Part("shots", _same_number),
    "metric": Part("metric"),
    "num_beams": Part("beams", _same_number),
    "length_penalty": Part("length penalty", _same_number),
    "no_repeat_ngram_size": Part("n-grams not repeated", _same_number),
    "temperature": Part("temperature", _same_number),
    "max_new_tokens": Part("most new tokens", _same_number),
    "statistic": Part("statistic over seeds"),
    "seeds": Part("seeds", _same_number),
    "score": Part("scored weights"),
    "init_from": Part("start"),
    "learning_rate": Part("learning rate", _same_number),
    "epochs": Part("epochs", _same_rounded),
    "steps": Part("steps", _same_number),
    "batch_size": Part("batch", _same_number),
    "micro_batch_size": Part("micro-batch", _same_number),
    "sequence_length": Part("sequence length", _same_number),
    "rank": Part("rank", _same_number),
    "alpha": Part("alpha", _same_number),
    "dropout": Part("dropout", _same_number),
    "target_modules": Part("target modules", _same_targets),
    "precision": Part("precision"),
    "double_quantization": Part("double quantization"),
    "optimizer": Part("optimizer"),
    "schedule": Part("schedule"),
    "warmup_ratio": Part("warm-up share", _same_number),
    "warmup_steps": Part("warm-up steps", _same_number),
    "weight_decay": Part("weight decay", _same_number),
    "label_smoothing": Part("label smoothing", _same_number),
    "loss_on": Part("tokens in the loss"),
    "gradient_checkpointing": Part("gradient checkpointing"),
    "hardware": Part("hardware", _same_hardware),
    "memory_figure": Part("memory figure"),
    "time_figure": Part("time figure"),
    "loss_figure": Part("loss figure"),
}
"""Every part that a protocol can state, in the order in which sentences name them."""


_OF_SCORES = frozenset(
    {
        *("test_data", "test_split", "test_examples", "task_kind", "template", "num_fewshot", "metric", "num_beams"),
        *("length_penalty", "no_repeat_ngram_size", "temperature", "max_new_tokens", "statistic", "seeds", "score"),
    }
)
"""Parts that decide scores and no cost."""
_OF_COSTS = frozenset(("hardware", "memory_figure", "time_figure", "loss_figure"))
"""Parts that decide costs and no score."""
_FIGURES = _OF_COSTS - {"hardware"}


DECIDE_COSTS: Mapping[str, frozenset[str]] = {
    "peak_": frozenset(
        ("sequence_length", "precision", "optimizer", "gradient_checkpointing", "hardware", "memory_figure")
    ),
    "train_seconds": frozenset(
        ("batch_size", "sequence_length", "precision", "optimizer", "gradient_checkpointing", "hardware", "time_figure")
    ),
}
"""How the columns of a cost begin, and the parts without which its protocol cannot be called the same."""


def concerns(part: str, is_score: bool, needs: Collection[str]) -> bool:
    """Return whether a part decides the numbers of a column.

    Args:
        part: a name of ``PARTS``.
        is_score: whether the column is of scores, not of a stored quantity.
        needs: what the column needs; of a quantity that says which kind of figure it is.
    """
    if is_score:
        return part not in _OF_COSTS
    return part not in _OF_SCORES and (part not in _FIGURES or part in needs)


def shown(value: Any) -> str:
    """Return a value as sentences write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(str, value))
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
