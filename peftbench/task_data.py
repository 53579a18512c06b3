"""What a task says about its data beyond files and templates. Every key here came late: absent, it changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def late(**default: Any) -> Any:
    """Return a field that came after rows were stored: at its default it enters neither a row's settings nor its key.

    Args:
        default: ``default`` or ``default_factory``, as of ``dataclasses.field``.
    """
    return field(**default, metadata={"late": True})


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Where examples come from, how they are split, and how texts become examples."""

    labels: Mapping[str, str] = late(default_factory=dict)
    """What ``target`` renders to the word that stands for it; empty where the target is the answer itself."""
    several_references: bool = late(default=False)
    """Whether examples of the same prompt are one example with all their answers, in every split but train."""
    dataset: str | None = late(default=None)
    """Hugging Face dataset: a hub id, or a local folder that the ``datasets`` library reads."""
    config: str | None = late(default=None)
    """Configuration of the dataset; None where it has one."""
    revision: str | None = late(default=None)
    """Branch, tag or commit of the dataset."""
    splits: Mapping[str, str] = late(default_factory=dict)
    """Split name (``train``, ``validation``, ``test``) to the dataset's own; a file of the same split comes first."""
    test_fraction: float = late(default=0.0)
    """Share of the training examples cut off (seeded) as test split where none is given."""
    split_seed: int = late(default=0)
    """Which seeded cut; 0 is the one that older results have."""
    separator: str | None = late(default=None)
    """Of ``language_modelling``: what stands between two documents; None cuts at blank lines and joins short pieces."""
    chunk_characters: int | None = late(default=None)
    """Of ``language_modelling``: longest chunk, in characters; None for other kinds."""
    chat: bool = late(default=False)
    """Whether prompt and answer are put through the chat template of the base's tokenizer."""
    system: str | None = late(default=None)
    """System message of the chat template; None for none."""
