"""A trial's result: one row of ``trials``, and the rows of its steps and scored examples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from peftbench.records.columns.data import DataColumns
from peftbench.records.columns.deployed import DeployedColumns
from peftbench.records.columns.devices import DevicesColumns
from peftbench.records.columns.effective import EffectiveColumns
from peftbench.records.columns.environment import EnvironmentColumns, ScoreColumns
from peftbench.records.columns.group import ColumnGroup
from peftbench.records.columns.inference import InferenceColumns
from peftbench.records.columns.memory import MemoryColumns
from peftbench.records.columns.reasons import ReasonColumns
from peftbench.records.columns.retention import RetentionColumns
from peftbench.records.columns.sanity import SanityColumns
from peftbench.records.columns.size import SizeColumns
from peftbench.records.columns.time import TimeColumns
from peftbench.records.columns.trial import IdentityColumns, InputColumns, OutcomeColumns, SettingsColumns
from peftbench.records.columns.work import WorkColumns
from peftbench.records.score import Score


@dataclass(frozen=True, kw_only=True)
class TrialRow(
    DevicesColumns,
    DeployedColumns,
    ReasonColumns,
    DataColumns,
    RetentionColumns,
    EffectiveColumns,
    InferenceColumns,
    MemoryColumns,
    TimeColumns,
    EnvironmentColumns,
    ScoreColumns,
    SanityColumns,
    WorkColumns,
    SizeColumns,
    InputColumns,
    SettingsColumns,
    OutcomeColumns,
    IdentityColumns,
):
    """One row of ``trials``: flat, with units in the names. A value that is not known is null.

    The columns come in the order of the groups above, the last group first.
    """

    def updated(self, *groups: ColumnGroup) -> TrialRow:
        """Return the row with what the groups know, a later group before an earlier one and before the row itself."""
        row = self
        for group in groups:
            row = replace(row, **group.known())
        return row


@dataclass(frozen=True)
class StepRow:
    """One row of ``steps``: one optimizer step, raw.

    Of imported results, a row can stand for several steps, and what was not recorded there is null.
    """

    key: Annotated[str, "the trial's key"]
    step: Annotated[int, "from 1"]
    loss: Annotated[float, "nats per token in the loss"]
    seconds: Annotated[float, "the step alone: forward, backward, optimizer"]
    untimed: Annotated[bool, "a warm-up step of the measurement, excluded from the rates over steady steps"]
    learning_rate: Annotated[float | None, "as applied in this step"]
    gradient_norm: Annotated[float | None, "before clipping"]
    processed_tokens: Annotated[int | None, "tokens, padding and virtual tokens included"]
    nonpadding_tokens: Annotated[int | None, "data tokens, without padding and virtual tokens"]
    loss_tokens: Annotated[int | None, "tokens that enter the loss"]
    validation_loss: Annotated[float | None, "nats per token in the loss, after this step; null if not measured"] = None
    validation_score: Annotated[
        float | None, "imported results: score on the validation split after this step, a fraction of 1"
    ] = None
    covered_steps: Annotated[
        int | None,
        "imported results: steps up to this one that the row stands for: loss is their mean, seconds and tokens are "
        "their sums; null: this step alone",
    ] = None


@dataclass(frozen=True)
class ExampleRow:
    """One row of ``examples``: one scored example."""

    key: Annotated[str, "the trial's key"]
    task: Annotated[str, "task name"]
    index: Annotated[int, "position in the evaluated split, from 0"]
    prompt: Annotated[str, "what the model read"]
    target: Annotated[str, "the right answer"]
    prediction: Annotated[str, "the model's answer, unparsed: its text, or the choice it ranks first"]
    outcome: Annotated[float, "headline metric of this example as a fraction of 1"]
    format_ok: Annotated[bool | None, "whether the output could be read as an answer; null if no text is decoded"] = (
        None
    )
    choice_logprobs: Annotated[str | None, "as JSON list: log-probability of each choice, or of the text, in nats"] = (
        None
    )


@dataclass(frozen=True)
class Result:
    """What one trial produces."""

    row: TrialRow
    steps: tuple[StepRow, ...] = ()
    examples: tuple[ExampleRow, ...] = ()
    scores: tuple[Score, ...] = ()
