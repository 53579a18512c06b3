"""Score against rank, a line for each method and a panel for each precision."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from typing import Any

from peftbench.report.collect import Cell, Results
from peftbench.report.figures import canvas, curves
from peftbench.report.figures.canvas import Plan
from peftbench.report.figures.curves import Line
from peftbench.report.order import precision_order


def plan(results: Results) -> Plan | str:
    """Return the figure, or why there is none."""
    column = canvas.headline(results) if results.tasks else ""
    found: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for cell in canvas.scored(results):
        if cell.rank is not None and not results.imported:
            found[cell.precision, cell.kind, cell.variant].append(cell)
    lines = {key: cells for key, cells in found.items() if len({cell.rank for cell in cells}) == len(cells) > 1}
    if results.imported:
        return "another benchmark's cells differ in more than the rank, so no line may join them"
    if not lines:
        return "no method has a score at two ranks that differ in nothing else"
    precisions = sorted({key[0] for key in lines}, key=precision_order)
    marks = canvas.marks(sorted({kind for _, kind, _ in lines}, key=lambda k: [c.kind for c in results.cells].index(k)))
    panels = {
        one: [_line(kind, variant, marks, cells, column) for (own, kind, variant), cells in lines.items() if own == one]
        for one in precisions
    }
    ranks = sorted({cell.rank for cells in lines.values() for cell in cells if cell.rank})
    base = canvas.base_line(results)

    def draw(figure: Any, width: float) -> None:
        every = curves.grid_of(figure, len(panels), width)
        for axes, (precision, each) in zip(every, panels.items(), strict=True):
            for line in each:
                curves.draw_line(axes, line)
            if base is not None:
                axes.axhline(100 * base, color=canvas.GREY, linestyle="--", linewidth=0.7, label="untuned base model")
            axes.set_xscale("log", base=2)
            ticks = _ticks(ranks, len(panels))
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
            if len(panels) > 1:
                axes.set_title(precision)
        curves.label(every, "rank", canvas.score_label(results), width)
        curves.one_legend(figure, every, width)

    said = "Rank: r, width of an adapter, or virtual tokens; equal ranks of two methods are not equal sizes."
    shown = [cell for cells in lines.values() for cell in cells]
    rows = partial(curves.rows_of, len(panels))
    names = [line.name for each in panels.values() for line in each] + ["untuned base model"] * (base is not None)
    return Plan(
        draw,
        lambda width: 0.35 + 1.5 * rows(width) + canvas.legend_height(names, width),
        (said, *canvas.notes(results, shown)),
    )


def _ticks(ranks: list[int], panels: int) -> list[int]:
    """Return powers of two over the ranks, few enough for narrow panels."""
    first, last = math.ceil(math.log2(min(ranks))), math.floor(math.log2(max(ranks)))
    most = 9 if panels == 1 else 5
    every = -(-(last - first + 1) // most)
    return [2**power for power in range(first, last + 1, every)] or ranks


def _line(kind: str, variant: str, marks: dict[str, canvas.Mark], cells: list[Cell], column: str) -> Line:
    points = tuple(
        (float(cell.rank or 0), 100 * (cell.mean(column) or 0.0), None if (sd := cell.sd(column)) is None else 100 * sd)
        for cell in cells
    )
    return Line(canvas.legend_name(kind, marks, canvas.options_of(cells[0])), marks[kind], points)
