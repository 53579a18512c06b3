"""Score against trainable parameters, on a logarithmic axis."""

from __future__ import annotations

from peftbench.report.collect import Results
from peftbench.report.figures import scatter
from peftbench.report.figures.canvas import Plan


def plan(results: Results) -> Plan | str:
    """Return the figure, or why there is none."""
    missing = "no cell's number of trainable parameters is known"
    return scatter.plan(results, "trainable_parameters", "trainable parameters", 1.0, missing)
