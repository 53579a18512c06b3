"""Score and memory by precision, a line for each method: the same method and rank from 32 bits down to 4."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from peftbench.records import units
from peftbench.report.collect import Cell, Results
from peftbench.report.figures import canvas, curves
from peftbench.report.figures.canvas import Plan
from peftbench.report.figures.curves import Line
from peftbench.report.order import precision_order

_SAME = {"qlora": "lora"}
"""Methods that are another one at other precisions."""
_MEMORY = "peak_train_bytes"


def plan(results: Results) -> Plan | str:
    """Return the figure, or why there is none."""
    chosen = _ladders(results)
    if not chosen:
        return "no method has a score at two precisions with the same rank and options"
    column = canvas.headline(results)
    precisions = sorted({cell.precision for cells in chosen.values() for cell in cells}, key=precision_order)
    marks = canvas.marks(sorted(chosen, key=lambda kind: -_top(chosen[kind], column)))
    every = [cell for cells in chosen.values() for cell in cells]
    unit = units.byte_unit(cell.mean(_MEMORY) for cell in every)
    lines = {what: _lines(chosen, marks, precisions, what) for what in (column, _MEMORY)}
    known = any(line.points for line in lines[_MEMORY])

    def draw(figure: Any, width: float) -> None:
        narrow = width < 4
        shape = (1, 1) if not known else (2, 1) if narrow else (1, 2)
        panels = list(figure.subplots(*shape, squeeze=False).flat)
        labels = (canvas.score_label(results), f"peak train memory ({unit.name})")
        for axes, each, label, size in zip(panels, lines.values(), labels, (0.01, unit.size), strict=False):
            for line in each:
                curves.draw_line(axes, line, size)
            axes.set_xticks(range(len(precisions)), precisions)
            axes.set_ylabel(label)
            axes.set_xlabel("precision")
        curves.one_legend(figure, panels, width)

    said = "For each method the rank with the most precisions, of these the one with the highest score."
    names = [line.name for line in lines[column]]

    def height(width: float) -> float:
        return 0.1 + canvas.legend_height(names, width) + 1.9 * (2 if known and width < 4 else 1)

    return Plan(draw, height, (said, *canvas.notes(results, every)))


def _ladders(results: Results) -> dict[str, list[Cell]]:
    """Return the cells of each method's ladder."""
    found: dict[tuple[str, int | None, str], list[Cell]] = defaultdict(list)
    for cell in canvas.scored(results):
        found[_SAME.get(cell.kind, cell.kind), cell.rank, cell.variant].append(cell)
    column = canvas.headline(results) if results.tasks else ""
    best: dict[str, list[Cell]] = {}
    for (kind, _, _), every in found.items():
        ordered = sorted(every, key=lambda cell: cell.kind != kind)  # the method itself before its other name
        own = {cell.precision: cell for cell in reversed(ordered)}
        cells = [cell for cell in every if own[cell.precision] is cell]
        if len(cells) < 2:
            continue
        held = best.get(kind, [])
        if (len(cells), _top(cells, column)) > (len(held), _top(held, column)):
            best[kind] = cells
    return best


def _top(cells: list[Cell], column: str) -> float:
    return max((cell.mean(column) or 0.0 for cell in cells), default=0.0)


def _lines(
    chosen: dict[str, list[Cell]], marks: dict[str, canvas.Mark], precisions: list[str], column: str
) -> list[Line]:
    return [
        Line(
            _title(kind, cells, marks),
            marks[kind],
            tuple(
                (float(precisions.index(cell.precision)), value, cell.sd(column))
                for cell in cells
                if (value := cell.mean(column)) is not None
            ),
        )
        for kind, cells in chosen.items()
    ]


def _title(kind: str, cells: list[Cell], marks: dict[str, canvas.Mark]) -> str:
    others = [canvas.title_of(cell.kind) for cell in cells if cell.kind != kind]
    rank = "" if cells[0].rank is None else f"r={cells[0].rank}"
    more = " ".join(filter(None, (*(f"/ {name}" for name in dict.fromkeys(others)), rank, canvas.options_of(cells[0]))))
    return canvas.legend_name(kind, marks, more)
