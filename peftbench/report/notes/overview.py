"""The sentence at the top of the page: what was run, where, and how the trials ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peftbench.records import Status
from peftbench.records.wording import plural, series, span
from peftbench.report.collect import Results
from peftbench.report.notes import memory


def overview(results: Results) -> str:
    """Return how many cells, precisions and seeds were run on which tasks and device, and how the trials ended."""
    methods = {cell.method for cell in results.cells if not cell.is_base}
    precisions = {cell.precision for cell in results.cells}
    base = " and the untuned base model" if any(cell.is_base for cell in results.cells) else ""
    parts = [
        f"{plural(len(methods), 'method')}{base} in {plural(len(results.cells), 'cell')}",
        plural(len(precisions), "precision"),
        plural(len(results.distinct("seed")), "seed"),
        *_work(results),
    ]
    tasks = f"scored on {series(results.tasks)}" if results.tasks else "with no task scored"
    ended = endings(results)
    said = [f"{ended.good} of {plural(ended.asked, 'trial')} ended ok", *ended.others]
    return f"{', '.join(parts)}; {tasks}; {_machine(results)}. {', '.join(said)}."


@dataclass(frozen=True)
class Endings:
    """How the trials of a grid ended, as numbers of trials."""

    asked: int
    """Trials of the grid, with those that have no result yet."""
    good: int
    unsupported: int
    skipped: int
    failed: int
    missing: int
    """Trials that have no result yet."""

    @property
    def others(self) -> list[str]:
        """All but those that ended ok: "none failed", "5 missing"."""
        counts = ((self.unsupported, "unsupported"), (self.skipped, "skipped"))
        said = [f"{count:,} {what}" for count, what in counts if count]
        said += [f"{self.failed:,} failed" if self.failed else "none failed"]
        return said + ([f"{self.missing:,} missing"] if self.missing else [])


def endings(results: Results) -> Endings:
    """Return how the trials ended."""
    counts = results.trials["status"].value_counts()
    good, unsupported, skipped = (
        int(counts.get(status.value, 0)) for status in (Status.OK, Status.UNSUPPORTED, Status.SKIPPED)
    )
    stored = len(results.trials)
    failed = stored - good - unsupported - skipped
    return Endings(stored + results.missing, good, unsupported, skipped, failed, results.missing)


def _work(results: Results) -> Iterable[str]:
    steps, batch = results.distinct("steps_done"), results.distinct("batch_size")
    if steps:
        each = f" of {_span(batch)} examples" if batch else ""
        yield f"{_span(steps)} optimizer steps{each}"


def _span(values: list[float]) -> str:
    return span(values, lambda value: f"{value:,}" if isinstance(value, int) else f"{value:,g}")


def _machine(results: Results) -> str:
    device, threads = results.common("device"), results.common("threads")
    count = f" with {plural(int(threads), 'thread')}" if threads else ""
    where = "on a CUDA GPU" if device == "cuda" else f"on the CPU{count}"
    kind = results.common("memory_kind")
    how = "as" if kind == memory.WHOLE_RUN else "by"
    return f"{where}, memory {how} {memory.kind_words(str(kind))}" if kind else where
