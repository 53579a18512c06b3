"""What it means for a trial when Ray loses its task: whether it is tried again, and as what it ends if not.

Only what happened to a machine or a process of Ray is tried again. A trial that ended by itself, in whatever way, has a
result and never comes here.
"""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.errors import UserError
from peftbench.records import Status

ATTEMPTS = 4
"""How often a trial is started if its node or its worker is lost each time; then it ends as ``killed``."""


@dataclass(frozen=True)
class Loss:
    """How a task was lost."""

    reason: str
    """In words, without addresses, which Ray's own messages have."""
    status: Status = Status.KILLED
    """As what the trial ends if it is not tried again."""
    final: bool = False
    """Whether it is not tried again, since it would end in the same way."""
    alone: bool = False
    """Whether the next attempt has a node for itself."""


_WORDS = (
    ("NodeDiedError", "its node was lost"),
    ("WorkerCrashedError", "the process of Ray that ran it ended"),
    ("OwnerDiedError", "the process that had its result was lost"),
    ("ObjectLostError", "its result was lost with a node"),
    ("ObjectFetchTimedOutError", "its result could not be fetched"),
    ("OutOfDiskError", "the disk of a node is full"),
    ("ObjectStoreFullError", "the object store of a node is full"),
    ("TaskUnschedulableError", "Ray could not schedule it"),
)


def loss(error: Exception | None, beside: int) -> Loss:
    """Return how a task was lost.

    Args:
        error: what Ray raised; None if the task ended without a result.
        beside: most trials that ran at the same time on its node.

    Raises:
        UserError: if the command itself can no longer reach the cluster.
    """
    from ray import exceptions

    if error is None:
        return Loss("its task of Ray ended without a result")
    if isinstance(error, exceptions.LocalRayletDiedError):
        raise UserError(
            "the node of Ray that this command runs on was lost; finished trials are kept, the same command continues"
        ) from None
    if isinstance(error, exceptions.OutOfMemoryError):
        return _out_of_memory(beside)
    if isinstance(error, exceptions.RayTaskError):
        return Loss(f"its worker of Ray failed: {_last_line(error)}", Status.ERROR)
    for name, words in _WORDS:
        known = getattr(exceptions, name, None)
        if known is not None and isinstance(error, known):
            return Loss(words)
    return Loss(f"Ray lost it ({type(error).__name__})")


def _out_of_memory(beside: int) -> Loss:
    """Return what Ray's memory monitor means: it kills a process of a full node, not the one that filled it.

    So with others beside it the trial may need less than there is, and ends as ``killed``, which is not final.
    """
    if not beside:
        return Loss("its node ran out of memory, and Ray's memory monitor ended it", Status.OOM, final=True)
    return Loss(
        f"its node ran out of memory while up to {beside} other trials ran on it, and Ray's memory monitor ended it",
        alone=True,
    )


def _last_line(error: Exception) -> str:
    """Return what a worker raised, in one line."""
    cause = getattr(error, "cause", None)
    text = f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[-1][:200]
