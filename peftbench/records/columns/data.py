"""The columns of ``trials`` that tell what a trial saw of its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class DataColumns:
    """By task, as JSON: a mixture's sets are seen differently often."""

    data_seen_json: Annotated[
        str | None,
        "as JSON: training set to its examples, and of those drawn (repeats counted) how many were distinct and how "
        "many truncated",
    ] = None
    overlap_json: Annotated[
        str | None,
        "as JSON: scored task to its examples, how many of their prompts are training prompts word for word (exact), "
        "and how many are that or share so many words in a row with one (ngram, words)",
    ] = None
