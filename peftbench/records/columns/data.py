"""The columns of ``trials`` about data use: what a trial saw of its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup


@dataclass(frozen=True, kw_only=True)
class DataColumns(ColumnGroup):
    """By task, as JSON, because the training sets of a mixture are not drawn equally often."""

    data_seen_json: Annotated[
        str | None,
        "as JSON, per training set: its examples, how many were drawn (repeats counted), and of these how many were "
        "distinct and how many truncated, and what these lost: prompt_start, whole_prompt, answer_part (and the whole "
        "prompt), text_start (of a text without a prompt), text_end (of a text that a head reads)",
    ] = None
    overlap_json: Annotated[
        str | None,
        "as JSON, per scored task: its examples, how many of their prompts are also training prompts word for word "
        "(exact), and how many are, or share a run of that many words with one (ngram, words)",
    ] = None
    reading_json: Annotated[
        str | None,
        "as JSON, what reading the data found out, changed or left out, as a list of sentences (found): delimiters, "
        "quotes, empty columns, limits; null if nothing",
    ] = None
    classes_json: Annotated[
        str | None,
        "as JSON, per scored task with at most 200 classes: the number of scored examples of each class",
    ] = None
