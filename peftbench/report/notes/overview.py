"""The sentence at the top of the page: what was run, where, and how the trials ended."""

from __future__ import annotations

from collections.abc import Iterable

from peftbench.records import Status
from peftbench.records.wording import plural, series, span
from peftbench.report.collect import Results
from peftbench.report.notes import memory


def overview(results: Results) -> str:
    """Return how many cells, precisions and seeds were run on which tasks and device, and how the trials ended."""
    trials = results.trials
    counts = trials["status"].value_counts()
    good, unsupported = int(counts.get(Status.OK.value, 0)), int(counts.get(Status.UNSUPPORTED.value, 0))
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
    skipped = int(counts.get(Status.SKIPPED.value, 0))
    ended = f"{good} of {plural(len(trials), 'trial')} ended ok, {unsupported} unsupported"
    ended += f", {skipped} skipped" if skipped else ""
    ended += f", {len(trials) - good - unsupported - skipped} failed"
    return f"{', '.join(parts)}; {tasks}; {_machine(results)}. {ended}."


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
    return f"{where}, memory by {memory.kind_words(str(kind))}" if kind else where
