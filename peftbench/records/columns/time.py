"""The columns of ``trials`` about wall time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup


@dataclass(frozen=True, kw_only=True)
class TimeColumns(ColumnGroup):
    """Seconds by phase (``records.phase``). With ``untracked_seconds`` the phases add up to ``wall_seconds``."""

    start_seconds: Annotated[float | None, "from requesting the trial's process to its first line of code"] = None
    load_seconds: Annotated[float | None, "loading (and quantizing) the base model and loading the tokenizer"] = None
    plan_seconds: Annotated[float | None, "predicting memory, including tokenizing if a budget is set"] = None
    data_seconds: Annotated[float | None, "reading, templating and tokenizing the training data"] = None
    attach_seconds: Annotated[float | None, "attaching the method and creating the optimizer"] = None
    compile_seconds: Annotated[
        float | None,
        "before training, compiling the decoder layers for the shapes of its batches (train.compile), including a "
        "forward and a backward pass of each",
    ] = None
    train_seconds: Annotated[float | None, "training steps only, untimed ones included"] = None
    not_training_seconds: Annotated[
        float | None,
        "imported results: what their benchmark counts as training time beside the steps: set-up, the time between "
        "steps, scoring of the test set",
    ] = None
    untimed_seconds: Annotated[float | None, "the part of train_seconds in untimed (warm-up) steps"] = None
    train_waiting_seconds: Annotated[
        float | None, "time that runnable threads waited for a CPU during training steps, summed over threads"
    ] = None
    validate_seconds: Annotated[float | None, "validation during training"] = None
    checkpoint_seconds: Annotated[
        float | None, "saving the state of training, from which the trial continues after a crash"
    ] = None
    resume_seconds: Annotated[
        float | None,
        "reading that state, and what earlier processes of the trial did besides steps, validation and saving",
    ] = None
    account_seconds: Annotated[float | None, "measuring memory, FLOPs and the reference step in extra steps"] = None
    check_seconds: Annotated[float | None, "sanity checks: the method is active, the base model is unchanged"] = None
    evaluate_seconds: Annotated[float | None, "scoring the tasks"] = None
    evaluate_prefill_seconds: Annotated[float | None, "of these, in forward passes over whole texts"] = None
    evaluate_decode_seconds: Annotated[float | None, "of these, in forward passes over one new token each"] = None
    save_seconds: Annotated[float | None, "saving the adapter"] = None
    untracked_seconds: Annotated[float | None, "wall time of the trial outside all phases"] = None
    wall_seconds: Annotated[
        float | None,
        "from requesting the trial's process to its result; with earlier_processes_seconds if training continued",
    ] = None
    earlier_processes_seconds: Annotated[
        float | None,
        "wall time of processes of this trial that were stopped, up to the state from which training continued",
    ] = None
