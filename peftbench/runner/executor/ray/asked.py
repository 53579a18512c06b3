"""A trial that Ray is asked for, until it has a result: what is sent to its node, and where it is and was lost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peftbench.measure import environment
from peftbench.records import Job, Phase
from peftbench.runner.executor import lifeline
from peftbench.runner.executor.ray import worker
from peftbench.runner.executor.ray.cluster import Node
from peftbench.runner.executor.ray.inputs import Named
from peftbench.runner.executor.ray.spans import Span
from peftbench.tasks import hub

_EQUAL = (
    *environment.OPENMP,
    "OMP_NUM_THREADS",  # Ray sets it in its workers
    "TOKENIZERS_PARALLELISM",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
)
"""Environment variables that are on each node as for the command, set or not."""


@dataclass
class Asked:
    """A trial that has no result yet."""

    job: Job
    inputs: Named
    attempts: int = 0
    """How often a node has started it."""
    lost_on: set[str] = field(default_factory=set)
    """Nodes on which it was lost, which are avoided as long as there are others."""
    sent: set[str] = field(default_factory=set)
    """Inputs that are sent with it, by their content."""
    alone: bool = False
    """Whether it has a node for itself."""
    # of the current attempt:
    reserved: Mapping[str, float] = field(default_factory=dict)
    """What Ray was asked to reserve for it."""
    avoided: frozenset[str] = frozenset()
    """Nodes on which Ray may not place it."""
    files: Mapping[str, int] | None = None
    """Sizes in bytes of the files of its adapter, which its node sends."""
    node: str | None = None
    phase: Phase = Phase.START
    capacity: int | None = None
    span: Span | None = None

    def end(self, moment: float | None) -> None:
        """Note when its attempt ended, by its node's clock; None if that is not known and it counts as never run."""
        if self.span is not None:
            self.span.ended = self.span.began if moment is None else moment

    @property
    def reads(self) -> set[str]:
        """What can be missing on a node: the empty text stands for the right version of peftbench."""
        return {
            "",
            self.job.data_sha256,
            self.inputs.base.sha256,
            *(source.sha256 for source in self.inputs.data.values()),
        }

    def begin(self) -> None:
        """Forget the last attempt."""
        self.node, self.phase, self.span, self.files = None, Phase.START, None, None

    def fits(self, node: Node) -> bool:
        """Return whether Ray can place it on a node, as it was asked to."""
        return node.name not in self.avoided and node.trials(self.reserved) > 0

    def order(self, mark: str) -> worker.Order:
        """Return what is sent to a node.

        Args:
            mark: content of the results folder's mark.
        """
        return worker.Order(self.job, self.inputs, mark, _variables(), _reads_hub(self.job))


def _variables() -> Mapping[str, str | None]:
    """Return the environment variables that nodes take over."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("PEFTBENCH_")}
    ours.pop(lifeline.RUNNER, None)
    offline = os.environ.get("HF_HUB_OFFLINE")
    return {**ours, **({"HF_HUB_OFFLINE": offline} if offline else {}), **{n: os.environ.get(n) for n in _EQUAL}}


def _reads_hub(job: Job) -> bool:
    general = job.trial.retention
    text = general is not None and general.dataset is not None and not Path(general.dataset).is_dir()
    return text or any(task.lm_eval or hub.is_remote(task) for task in job.trial.tasks)
