"""Statistics that may fail: a number that cannot be computed is null with a note and never takes a table away."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from peftbench.errors import shows_traceback

T = TypeVar("T")


class Attempts:
    """Computes statistics of one table and collects a sentence for each that failed."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def result(self, what: str, compute: Callable[[], T]) -> T | None:
        """Return what a function computes; None if it fails, mostly since arithmetic or linear algebra does.

        Args:
            what: the statistic as the sentence names it.
            compute: computes it. An error of another kind than arithmetic's is a mistake in the code, and raised
                where ``PEFTBENCH_TRACEBACK`` asks for it.
        """
        try:
            return compute()
        except Exception as error:
            if not isinstance(error, ArithmeticError | ValueError) and shows_traceback():  # LinAlgError is a ValueError
                raise
            self.failures.append(f"Not computed: {what} ({type(error).__name__}: {error}).")
            return None
