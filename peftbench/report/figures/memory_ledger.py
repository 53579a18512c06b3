"""Memory at the training peak by category: a bar for each cell."""

from __future__ import annotations

from typing import Any

from peftbench.records import Category, units
from peftbench.report.collect import Cell, Results
from peftbench.report.figures import canvas
from peftbench.report.figures.canvas import Plan
from peftbench.report.names import display_names

HATCHES = ("", "///", "", "xxx", "...", "\\\\\\", "+++", "")
"""Of the categories, so that neighbours differ in grey."""
_MOST = 24
"""Bars of a figure."""


def plan(results: Results) -> Plan | str:
    """Return the figure, or why there is none."""
    cells = [cell for cell in results.tuned if any(cell.mean(category.column) for category in Category)]
    if not cells:
        return "no cell's memory is known by category"
    shown, names = _chosen(cells), display_names(results.cells)
    unit = units.byte_unit(cell.mean("peak_train_bytes") for cell in shown)
    used = [category for category in Category if any(cell.mean(category.column) for cell in shown)]

    def draw(figure: Any, width: float) -> None:
        axes = figure.add_subplot()
        places = list(range(len(shown)))
        left = [0.0] * len(shown)
        for number, category in enumerate(used):
            values = [(cell.mean(category.column) or 0.0) / unit.size for cell in shown]
            hatch = HATCHES[number % len(HATCHES)]
            axes.barh(
                places,
                values,
                left=left,
                height=0.7,
                color=category.color,
                hatch=hatch,
                edgecolor="black",
                linewidth=0.3,
                label=category.heading,
            )
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes.set_yticks(places, [canvas.shortened(names[cell.name], 26 if width < 4 else 44) for cell in shown])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"memory at the training peak ({unit.name})")
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside upper left",
            ncols=canvas.columns_of([c.heading for c in used], width),
            frameon=False,
            handletextpad=0.4,
            columnspacing=0.9,
            borderaxespad=0.2,
        )

    more = [f"{len(shown)} of {len(cells)} cells, from the smallest to the largest peak of each method."]
    if len({cell.kind for cell in cells}) > len({cell.kind for cell in shown}):
        more = [f"{len(shown)} of {len(cells)} cells, evenly from the smallest to the largest peak."]
    said = [*(more if len(shown) < len(cells) else []), *canvas.notes(results, shown, spread=False)]
    return Plan(
        draw,
        lambda width: 0.5 + 0.16 * len(shown) + canvas.legend_height([c.heading for c in used], width),
        tuple(said),
    )


def _chosen(cells: list[Cell]) -> list[Cell]:
    """Return all cells if they are few; else the ends of each method's, or if they are many too, some of all."""
    if len(cells) <= _MOST:
        return cells
    ordered = sorted(cells, key=lambda cell: cell.mean("peak_train_bytes") or 0.0)
    kinds = {cell.kind for cell in cells}
    if 2 * len(kinds) <= _MOST:
        own = [[cell.name for cell in ordered if cell.kind == kind] for kind in kinds]
        kept = {name for names in own for name in (names[0], names[-1])}
    else:
        kept = {ordered[place * (len(ordered) - 1) // (_MOST - 1)].name for place in range(_MOST)}
        return [cell for cell in ordered if cell.name in kept]
    return [cell for cell in cells if cell.name in kept]
