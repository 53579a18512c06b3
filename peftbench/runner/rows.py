"""A trial's row before the trial has run, and messages in the form in which they are stored."""

from __future__ import annotations

import json
from pathlib import Path

from peftbench import PROTOCOL
from peftbench.models.find import base_name
from peftbench.records import Job, TrialRow
from peftbench.records.columns.trial import OutcomeColumns
from peftbench.records.failures import LOG, without_paths
from peftbench.suite.trial_key import settings


def stored_message(job: Job, message: str, failed: bool) -> str:
    """Return a message as it is stored: without paths of this machine, and with the name of the log after a failure.

    Args:
        job: the job that the message is about.
        message: what happened.
        failed: whether the log has the details.
    """
    log = f"{LOG}logs/{Path(job.log).name}" if failed and job.log else ""
    return without_paths(message) + log


def row(job: Job, outcome: OutcomeColumns) -> TrialRow:
    """Return a trial's row with all that is known without running it, and how the trial ended."""
    trial, training = job.trial, job.trial.training
    return TrialRow(
        key=job.key,
        suite=trial.suite,
        base=base_name(trial.base),
        method=trial.method,
        cell=trial.cell,
        precision=trial.precision,
        rank=trial.rank,
        seed=trial.seed,
        settings_json=json.dumps(settings(trial), sort_keys=True, default=list),
        device=trial.device,
        threads=trial.threads,
        workers=job.workers,
        protocol=PROTOCOL,
        base_sha256=job.base_sha256,
        data_sha256=job.data_sha256,
        environment_json=job.environment_json,
        overlap_json=job.overlap_json,
        learning_rate=training.learning_rate if training else None,
        optimizer=training.optimizer if training else None,
        batch_size=training.batch_size if training else None,
        micro_batch_size=training.micro_batch_size if training else None,
        sequence_length=training.sequence_length if training else None,
        status=outcome.status,
        phase=outcome.phase,
        message=outcome.message,
    )
