"""The ladder of memory: a bar for each row by category, and how much less it is than the row it stands beside."""

from __future__ import annotations

from typing import Any

from peftbench.records import Category, units
from peftbench.report.collect import Results
from peftbench.report.derived.ladder import ladder
from peftbench.report.figures import canvas
from peftbench.report.figures.canvas import Plan
from peftbench.report.figures.memory_ledger import HATCHES

_PEAK = "peak_train_bytes"
_SAVED = "saved"


def plan(results: Results) -> Plan | str:
    """Return the figure, or why there is none."""
    rungs = [rung for rung in ladder(results) if rung.value(_PEAK) is not None]
    if not rungs:
        return "no ladder was asked for (ladder: previous, or first, in the suite), or no row of it finished"
    unit = units.byte_unit(rung.value(_PEAK) for rung in rungs)
    used = [category for category in Category if any(rung.value(category.column) for rung in rungs)]
    heads = [*(category.heading for category in used), _SAVED]
    numbers = {id(rung): number for number, rung in enumerate(ladder(results), 1)}

    def draw(figure: Any, width: float) -> None:
        axes = figure.add_subplot()
        places = list(range(len(rungs)))
        left = [0.0] * len(rungs)
        looks = {"height": 0.7, "edgecolor": "black", "linewidth": 0.3}
        for number, category in enumerate(used):
            values = [(rung.value(category.column) or 0.0) / unit.size for rung in rungs]
            hatch = HATCHES[number % len(HATCHES)]
            axes.barh(places, values, left=left, color=category.color, hatch=hatch, label=category.heading, **looks)
            left = [a + b for a, b in zip(left, values, strict=True)]
        saved = [max(0.0, -(rung.change(_PEAK) or 0.0)) / unit.size for rung in rungs]
        axes.barh(places, saved, left=left, label=_SAVED, **looks | {"color": "white", "linestyle": ":"})
        longest = 28 if width < 4 else 50
        axes.set_yticks(places, [canvas.shortened(f"{numbers[id(rung)]}  {rung.label}", longest) for rung in rungs])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.02 * max(a + b for a, b in zip(left, saved, strict=True)))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"memory at the training peak ({unit.name})")
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside upper left",
            ncols=canvas.columns_of(heads, width),
            frameon=False,
            handletextpad=0.4,
            columnspacing=0.9,
            borderaxespad=0.2,
        )

    cells = [rung.cell for rung in rungs if rung.cell]
    which = "the one above it" if results.grid and results.grid.ladder == "previous" else "the first one"
    said = f"Each row differs from {which} in what is written at its left, and has saved what is dotted."
    return Plan(
        draw,
        lambda width: 0.5 + 0.16 * len(rungs) + canvas.legend_height(heads, width),
        (said, *canvas.notes(results, cells, spread=False)),
    )
