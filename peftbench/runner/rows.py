"""What a trial's row says before the trial has run, and messages as they are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peftbench import PROTOCOL
from peftbench.models.find import base_name
from peftbench.records import Job, Status
from peftbench.records.columns.reasons import ReasonColumns
from peftbench.records.failures import without_paths
from peftbench.suite.trial_key import settings


def told(job: Job, message: str, failed: bool) -> str:
    """Return a message as it is stored: without paths of this machine; that of a failure names the log.

    Args:
        job: whose message it is.
        message: what happened.
        failed: whether the log has more to tell.
    """
    log = _log_file(job) if failed else None
    return without_paths(message) + (f"; log: {log}" if log else "")


def reasons(job: Job, status: Status, message: str | None) -> ReasonColumns:
    """Return what the row's cell name and message are made of.

    Args:
        job: the trial that ended.
        status: how it ended.
        message: why it is not ok, without its log; None if it is ok.
    """
    trial = job.trial
    reason = message and (trial.unsupported_reason or without_paths(message))
    log = _log_file(job) if status is Status.ERROR else None
    return ReasonColumns(trial.named_settings, trial.candidate_of, reason, log)


def _log_file(job: Job) -> str | None:
    """Return the log's path relative to the results folder; None if the job has none."""
    return f"logs/{Path(job.log).name}" if job.log else None


def describe(job: Job) -> dict[str, Any]:
    """Return the columns of a trial's row that are known before it runs."""
    trial, training = job.trial, job.trial.training
    known: dict[str, Any] = {
        "key": job.key,
        "suite": trial.suite,
        "base": base_name(trial.base),
        "method": trial.method,
        "cell": trial.cell,
        "precision": trial.precision,
        "rank": trial.rank,
        "seed": trial.seed,
        "settings_json": json.dumps(settings(trial), sort_keys=True, default=list),
        "device": trial.device,
        "threads": trial.threads,
        "workers": job.workers,
        "protocol": PROTOCOL,
        "base_sha256": job.base_sha256,
        "data_sha256": job.data_sha256,
        "environment_json": job.environment_json,
        "overlap_json": job.overlap_json,
    }
    if training is not None:
        for name in ("learning_rate", "optimizer", "batch_size", "micro_batch_size", "sequence_length"):
            known[name] = getattr(training, name)
    return known
