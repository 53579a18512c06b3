"""The columns of ``trials`` with the results of the sanity checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup


@dataclass(frozen=True, kw_only=True)
class SanityColumns(ColumnGroup):
    """Whether training changed the trainable tensors and the model's output."""

    trainable_tensors: Annotated[int | None, "tensors that are trained"] = None
    moved_tensors: Annotated[int | None, "of these, how many training changed"] = None
    stalled_tensors: Annotated[str | None, "names of those that training did not change, comma separated"] = None
    largest_logit_change: Annotated[
        float | None,
        "largest absolute difference of a logit from the base model's on a few training examples; with a head for "
        "whole texts, from the base model's with the same trained head (full fine-tuning: with the head as it began)",
    ] = None
    later_token_influence: Annotated[
        float | None, "influence of later tokens on a token's logits, relative to its own; 0 in a causal model"
    ] = None
    padding_influence: Annotated[
        float | None,
        "with a head for whole texts: influence of padding on a text's logits, relative to its tokens'; 0 if none",
    ] = None
