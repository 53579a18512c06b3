"""Notes under the ladder of memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from peftbench.records.units import memory
from peftbench.report.collect import Results
from peftbench.report.derived.ladder import Rung, inside

_PEAK = "peak_train_bytes"


def saved(results: Results, rungs: Sequence[Rung]) -> str:
    """Return what all savings together do to the peak; empty where rows are not one chain on one base model."""
    known = [rung for rung in rungs if rung.value(_PEAK) is not None]
    chain = results.grid is not None and results.grid.ladder == "previous"
    if not chain or len({rung.cell.summary.base for rung in known if rung.cell}) != 1 or len(known) < 2:
        return ""
    first, last = (rung.value(_PEAK) or 0 for rung in (known[0], known[-1]))
    return (
        f"All savings together, from the first to the last row: the peak goes from {memory(first)} to {memory(last)} "
        f"({100 * (last / first - 1):+.0f} %)."
    )


def notes(results: Results, rungs: Sequence[Rung], unit: str = "") -> Iterator[str]:
    """Yield what the rows are, what they save together, and which of them others are not compared with.

    Args:
        results: what is reported.
        rungs: the rows.
        unit: " in MiB" where the heads of the table have no unit.
    """
    previous = results.grid is not None and results.grid.ladder == "previous"
    which = "the row above it" if previous else "the first row"
    at = f"Memory{unit} at the peak of a training step, by category."
    yield (
        f"{at} A number with a sign is the change from {which}. The peak is the highest moment of a step: once that is "
        "lowered, another moment is the peak, at which some categories may be larger."
    )
    if whole := saved(results, rungs):
        yield whole
    for number, (above, rung) in enumerate(itertools.pairwise(rungs), 2):
        begins = rung.beside is None and rung.value(_PEAK) is not None
        if begins and above.beside is None and above.value(_PEAK) is None:
            yield f"Row {number} is the first one that finished: rows below are compared with it."
    passed = [str(number) for number, rung in enumerate(rungs, 1) if rung.passed]
    if passed:
        yield (
            f"Row{'s' * (len(passed) > 1)} {', '.join(passed)}: the row above did not finish; compared with the last "
            "one that did."
        )
    held = [str(number) for number, rung in enumerate(rungs, 1) if inside(rung)]
    if held:
        yield (
            f"Row{'s' * (len(held) > 1)} {', '.join(held)}: an operator allocated a workspace and freed it before it "
            "returned. The allocator's peak is higher by these operator workspaces, which the other columns do not "
            "include."
        )
    if any(rung.value(_PEAK) is not None and rung.value("tokens_per_second") is None for rung in rungs):
        yield "No speed: fewer than three steady steps, or the machine was busy with something else."
