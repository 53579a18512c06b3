"""A suite's cells as benchmarks of pytest-benchmark, for teams whose numbers all come from pytest."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from peftbench.suite import Suite

NUMBERS = (
    "peak_train_bytes",
    "tokens_per_second",
    "trainable_parameters",
    "checkpoint_bytes",
    "train_waiting_seconds",
)
"""Columns whose mean over the seeds goes into ``extra_info``, beside every task's score."""


@dataclass(frozen=True)
class SuiteBenchmark:
    """A suite whose grid runs once per pytest session, when the first of its cells is asked for.

    A round of a benchmark is one seed, and its time is the row's ``train_seconds``: the time of the training steps that
    peftbench measured, without starting processes, loading and scoring.
    """

    suite: Suite
    results: Path | str | None
    _clock: list[float] = field(default_factory=lambda: [0.0])

    @cached_property
    def cells(self) -> tuple[str, ...]:
        """The names of the grid's cells that train, in the suite's order. Reads the suite, runs nothing."""
        from peftbench.measure import device
        from peftbench.suite import expand

        trials = expand(self.suite, device.resolve(self.suite.device))
        return tuple(dict.fromkeys(trial.cell for trial in trials if trial.method != "base"))

    @property
    def each_cell(self) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Decorator of a test with the arguments ``cell`` and ``benchmark``: one benchmark for each cell."""
        import pytest

        parametrized = pytest.mark.parametrize("cell", self.cells)
        timed = pytest.mark.benchmark(timer=self.clock, group=self.suite.name)
        return lambda test: parametrized(timed(test))

    def clock(self) -> float:
        """Return the training seconds of all rounds so far; the timer of the benchmarks."""
        return self._clock[0]

    def record(self, cell: str, benchmark: Any) -> None:
        """Record a cell's rows: a round for each seed, and means of memory, speed, sizes and scores as ``extra_info``.

        Args:
            cell: one of ``cells``.
            benchmark: the fixture of pytest-benchmark.

        Raises:
            AssertionError: if a trial of the cell did not end ok, with its status and message.
        """
        rows = self._rows[self._rows["cell"] == cell]
        failed = rows[rows["status"] != "ok"]
        if len(failed) or not len(rows):
            told = [f"seed {row.seed}: {row.status}, {row.message}" for row in failed.itertuples()]
            raise AssertionError(f"{cell} did not end ok: {'; '.join(told) or 'it has no trial'}")
        seconds = iter(rows["train_seconds"])

        def advance() -> None:
            self._clock[0] += float(next(seconds))

        scores = [name for name in rows if name.startswith("score_") and not name.endswith("_standard_error")]
        for name in (*NUMBERS, *scores):
            if name in rows and rows[name].notna().any():
                benchmark.extra_info[name] = float(rows[name].mean())
        benchmark.pedantic(advance, rounds=len(rows))

    @cached_property
    def _rows(self) -> pd.DataFrame:
        from peftbench.commands import python_api

        ran = python_api.run_suite(self.suite, self.results, verbose=True)
        return python_api.read_results(ran.folder).trials


def benchmark_suite(
    name: str | os.PathLike[str],
    results: str | os.PathLike[str] | None = "nights/{date}",
    **options: Any,
) -> SuiteBenchmark:
    """Return a suite whose cells run as benchmarks of pytest-benchmark.

    Args:
        name: a YAML file, or the name of a suite that comes with peftbench.
        results: the results folder; ``{date}`` in it is today's date. Finished trials are not run again.
        options: ``overrides``, ``only``, ``seeds`` and ``smoke`` as for ``load_suite``.

    Raises:
        UserError: if the suite or an argument is wrong, or it searches learning rates: a cell's rate would not be known
            when the benchmarks are collected.
    """
    from peftbench.commands import dated_folder, python_api
    from peftbench.suite.expand import candidate_rates

    suite = python_api.load_suite(name, **options)
    if candidate_rates(suite):
        raise UserError(f"{suite.display_path}: a suite with a search of learning rates cannot run as benchmarks")
    return SuiteBenchmark(suite, dated_folder.results_folder(results))
