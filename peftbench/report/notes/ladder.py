"""Notes under the ladder of memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from peftbench.records.units import memory
from peftbench.report.collect import Results
from peftbench.report.derived.ladder import Rung, inside

_PEAK = "peak_train_bytes"


def notes(results: Results, rungs: Sequence[Rung]) -> Iterator[str]:
    """Yield what the rows are, what they save together, and which of them others are not compared with."""
    previous = results.grid is not None and results.grid.ladder == "previous"
    which = "the row above it" if previous else "the first row"
    yield (
        f"Peak of a training step by category, each row beside {which}: the value, and how much more it is (in the "
        "terminal's table the first row has values, the others changes). Each peak is of its own moment of a step: "
        "when the highest moment becomes lower, another one is the peak, and a category may grow."
    )
    known = [rung for rung in rungs if rung.value(_PEAK) is not None]
    if previous and len({rung.cell.summary.base for rung in known if rung.cell}) == 1 and len(known) > 1:
        first, last = (rung.value(_PEAK) or 0 for rung in (known[0], known[-1]))
        yield (
            f"From the first to the last row: {memory(first)} to {memory(last)}, {100 * (last / first - 1):+.0f} % of "
            "the peak."
        )
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
            f"Row{'s' * (len(held) > 1)} {', '.join(held)}: an operator took memory inside itself and freed it again. "
            "The allocator's peak of the step is higher by what is held inside operators; peak, saving and prediction "
            "do not have it."
        )
    if any(rung.value(_PEAK) is not None and rung.value("tokens_per_second") is None for rung in rungs):
        yield "No speed: fewer than three steady steps, or the machine was busy with something else."
