"""What all processes that call one divided model must decide alike.

Each pass of such a model gathers tensors from all of them. If one ran texts in another form than the others, all would
wait for exchanges that never come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peftbench.records import failures


@dataclass(frozen=True)
class Agreement:
    """How this process and others come to one decision."""

    gathered: Callable[[Any], list[Any]] | None = None
    """Returns each process's value on every process; None if this process calls its model alone."""

    def reason(self, own: str | None) -> str | None:
        """Return why something cannot be done: the first process's reason that has one; None if no process has one.

        Args:
            own: the reason that this process has found.
        """
        if self.gathered is None:
            return own
        return next((found for found in self.gathered(own) if found is not None), None)

    def ran_out(self, error: BaseException) -> bool:
        """Return whether memory ran out in a pass, which is a finding of a process that calls its model alone.

        Raises:
            BaseException: the error, if memory ran out and other processes are still in their pass.
        """
        found = failures.out_of_memory(error)
        if found and self.gathered is not None:
            raise error
        return found


ALONE = Agreement()
