"""The columns of ``trials`` about the tuned model as it is deployed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup


@dataclass(frozen=True, kw_only=True)
class DeployedColumns(ColumnGroup):
    """Filled in if the suite has ``evaluate.deployed``, after everything else was measured."""

    deploy_seconds: Annotated[float | None, "saving, loading and scoring the forms in which the model is deployed"] = (
        None
    )
    deployed_json: Annotated[
        str | None,
        "as JSON. scored: the trained model, by task: score, outcome of each example in order, and of its target the "
        "summed loss in nats and the tokens. forms: by form: status (ok, unsupported, oom, diverged, error, killed, "
        "timeout) and message; dtype, stored_bytes (safetensors), loaded_bytes, load_seconds; the largest difference "
        "of a logit over logit_positions positions of targets; tasks as in scored. Of a form that another engine "
        "scored also engine (its name and versions), and beside: the largest difference of a log-probability in nats "
        "from the trained model's, over logprobs of choices and targets, and how many of the decoded texts are equal",
    ] = None
