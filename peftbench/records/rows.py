"""A trial's result: one row of ``trials``, and the rows of its steps and scored examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.data import DataColumns
from peftbench.records.columns.effective import EffectiveColumns
from peftbench.records.columns.inference import InferenceColumns
from peftbench.records.columns.memory import MemoryColumns
from peftbench.records.columns.reasons import ReasonColumns
from peftbench.records.columns.retention import RetentionColumns
from peftbench.records.columns.time import TimeColumns
from peftbench.records.columns.trial import TrialColumns
from peftbench.records.score import Score


@dataclass(frozen=True)
class TrialRow(
    ReasonColumns,
    DataColumns,
    RetentionColumns,
    EffectiveColumns,
    InferenceColumns,
    MemoryColumns,
    TimeColumns,
    TrialColumns,
):
    """One row of ``trials``: flat, named with units. Absent values are null."""


@dataclass(frozen=True)
class StepRow:
    """One row of ``steps``: one optimizer step, raw."""

    key: Annotated[str, "the trial's key"]
    step: Annotated[int, "from 1"]
    loss: Annotated[float, "nats per loss-bearing token"]
    seconds: Annotated[float, "the step alone: forward, backward, optimizer"]
    untimed: Annotated[bool, "a warm-up step of the measurement, left out of steady rates"]
    learning_rate: Annotated[float, "as applied in this step"]
    gradient_norm: Annotated[float, "before clipping"]
    processed_tokens: Annotated[int, "with padding and virtual tokens"]
    nonpadding_tokens: Annotated[int, "data tokens"]
    loss_tokens: Annotated[int, "tokens that bore loss"]
    validation_loss: Annotated[float | None, "after this step; null where not measured"] = None


@dataclass(frozen=True)
class ExampleRow:
    """One row of ``examples``: one scored example."""

    key: Annotated[str, "the trial's key"]
    task: Annotated[str, "task name"]
    index: Annotated[int, "position in the evaluated split, from 0"]
    prompt: Annotated[str, "what the model read"]
    target: Annotated[str, "the right answer"]
    prediction: Annotated[str, "the model's answer, unparsed: its text, or the choice ranked first"]
    outcome: Annotated[float, "headline metric of this example, a fraction of 1"]
    format_ok: Annotated[bool | None, "whether the output could be read as an answer; null where none is decoded"] = (
        None
    )
    choice_logprobs: Annotated[str | None, "JSON list: log-probability of each choice, or of the text, nats"] = None


@dataclass(frozen=True)
class Result:
    """What one trial gives back."""

    row: TrialRow
    steps: tuple[StepRow, ...] = ()
    examples: tuple[ExampleRow, ...] = ()
    scores: tuple[Score, ...] = ()
