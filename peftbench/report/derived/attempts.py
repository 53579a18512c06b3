"""Statistics that may fail: a number that cannot be computed is null with a note and never takes a table away."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Attempts:
    """Computes statistics of one table and collects a sentence for each that failed."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def result(self, what: str, compute: Callable[[], T]) -> T | None:
        """Return what a function computes; None if arithmetic or linear algebra fails on these numbers.

        Args:
            what: the statistic as the sentence names it.
            compute: computes it. An error of any other kind is a mistake in the code and is raised.
        """
        try:
            return compute()
        except (ArithmeticError, ValueError) as error:  # numpy's LinAlgError is a ValueError
            self.failures.append(f"Not computed: {what} ({type(error).__name__}: {error}).")
            return None
