"""Run jobs, each in a process of its own, and yield what happens to them."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.records import Job, Phase, Result


@dataclass(frozen=True)
class Event:
    """Something that happened to a job. The last event of each job, and only that one, has a result."""

    job: Job
    phase: Phase
    """The phase that the job is in."""
    step: int = 0
    """Training steps done."""
    steps: int = 0
    """Total number of training steps; 0 before training."""
    loss: float | None = None
    result: Result | None = None
    process: int | None = None
    """The id of its process, in the first event of a job that has one."""
