"""Score against memory: the peak of a training step, or what another benchmark has in its place, never both."""

from __future__ import annotations

from peftbench.records import units
from peftbench.report.collect import Results
from peftbench.report.figures import scatter
from peftbench.report.figures.canvas import Plan

_COLUMNS = {
    "peak_train_bytes": "peak memory of a training step",
    "peak_run_reserved_bytes": "memory reserved over the whole run",
}
"""Column to label. The rows of a folder have one kind of memory (``seeds.SAME_IN_TABLE``)."""


def plan(results: Results) -> Plan | str:
    """Return the figure, or why there is none."""
    for column, label in _COLUMNS.items():
        peaks = [cell.mean(column) for cell in results.tuned]
        if any(peaks):
            unit = units.byte_unit(peaks)
            return scatter.plan(results, column, f"{label} ({unit.name})", unit.size, "")
    return "no cell's memory is known"
