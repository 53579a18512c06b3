"""The columns of ``trials`` with the scores, and with the machine and the time of the trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup


@dataclass(frozen=True, kw_only=True)
class ScoreColumns(ColumnGroup):
    """The scores. The headline metric of each task also has columns of its own, named after the task."""

    scores_json: Annotated[str, "every task's Score record as JSON"] = "{}"


@dataclass(frozen=True, kw_only=True)
class EnvironmentColumns(ColumnGroup):
    """Where and when the trial ran."""

    environment_json: Annotated[str, "packages, Python, CPU, GPU, driver, git state, settings of the machine"] = "{}"
    device_state_json: Annotated[
        str | None,
        "cuda: clocks, power, temperature and reasons for throttling, at the start and at the end of training",
    ] = None
    load_average: Annotated[float | None, "the machine's one-minute load average as the trial began"] = None
    node: Annotated[str | None, "the start of Ray's id of the node on which it ran; null unless Ray ran it"] = None
    attempts: Annotated[
        int | None,
        "times that it was started in this run; above 1 if its node or worker was lost before; null unless Ray ran it",
    ] = None
    trials_beside: Annotated[
        int | None, "most other trials of this run at the same time on its node; null unless Ray ran it"
    ] = None
    started_at: Annotated[str | None, "UTC, ISO 8601"] = None
    finished_at: Annotated[str | None, "UTC, ISO 8601"] = None
