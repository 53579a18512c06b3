"""A trial's row before the trial has run, and how it ended, in the form in which it is stored."""

from __future__ import annotations

import json
from pathlib import Path

from peftbench.models.find import base_name
from peftbench.records import Job, Phase, Status, TrialRow
from peftbench.records.columns.reasons import ReasonColumns
from peftbench.records.columns.trial import OutcomeColumns
from peftbench.records.failures import without_paths
from peftbench.suite.trial_key import settings
from peftbench.version import PROTOCOL


def outcome(job: Job, status: Status, phase: Phase | None, message: str | None) -> tuple[OutcomeColumns, ReasonColumns]:
    """Return how a trial ended: messages without paths of this machine, and with the name of the log after an error.

    Args:
        job: the trial that ended.
        status: how it ended.
        phase: the phase in which it ended; None if it is ok.
        message: why it is not ok; None if it is ok.
    """
    if message is None:
        return OutcomeColumns(status=status, phase=phase), ReasonColumns()
    log = f"logs/{Path(job.log).name}" if job.log and status is Status.ERROR else None
    stored = without_paths(message)
    return (
        OutcomeColumns(status=status, phase=phase, message=f"{stored}; log: {log}" if log else stored),
        ReasonColumns(reason=job.trial.unsupported_reason or stored, log_file=log),
    )


def row(job: Job, status: Status) -> TrialRow:
    """Return a trial's row with all that is known without running it."""
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
        status=status,
        settings_json=json.dumps(settings(trial), sort_keys=True, default=list),
        device=trial.device,
        threads=trial.threads,
        workers=job.workers,
        protocol=PROTOCOL,
        base_sha256=job.base_sha256,
        data_sha256=job.data_sha256,
        environment_json=job.environment_json,
        overlap_json=job.overlap_json,
        reading_json=job.reading_json,
        classes_json=job.classes_json,
        learning_rate=training.learning_rate if training else None,
        learning_rate_source=trial.learning_rate_source,
        defaults_json=json.dumps(trial.defaults, sort_keys=True) if trial.defaults else None,
        optimizer=training.optimizer if training else None,
        batch_size=training.batch_size if training else None,
        micro_batch_size=training.micro_batch_size if training else None,
        sequence_length=training.sequence_length if training else None,
        named_settings=trial.named_settings,
        candidate_of=trial.candidate_of,
    )
