"""Score against learning rate: of a search on validation, or of cells that differ in the rate alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from peftbench.report.collect import Results
from peftbench.report.figures import canvas, curves
from peftbench.report.figures.canvas import Mark, Plan
from peftbench.report.figures.curves import Line
from peftbench.report.names import display_names

_RATE = re.compile(r"\blr=\S+\s*")
_MOST_LINES = 7
"""Lines of one panel; more are spread over panels by method."""


def plan(results: Results) -> Plan | str:
    """Return the figure, or why there is none."""
    searched = _searched(results)
    found = searched or _swept(results)
    if not found:
        return "no learning rates were searched, and no cells differ in the rate alone"
    panels = _panels(found)
    axis = "mean validation score (%)" if searched else canvas.score_label(results)

    def draw(figure: Any, width: float) -> None:
        every = curves.grid_of(figure, len(panels), width)
        for axes, (title, lines) in zip(every, panels.items(), strict=True):
            for line in lines:
                curves.draw_line(axes, line)
            axes.set_xscale("log")
            if len(panels) > 1:
                _above(axes, title)
        curves.label(every, "learning rate", axis, width)
        if len(panels) == 1:
            curves.one_legend(figure, every, width)

    said = ["Selected on the validation split."] if searched else []
    if not searched:
        said += canvas.notes(results, [cell for cell in canvas.scored(results) if _RATE.search(cell.variant)])
    if len(panels) == 1:
        names = [line.name for lines in panels.values() for line in lines]
        return Plan(draw, lambda width: 2.1 + canvas.legend_height(names, width), tuple(said))
    return Plan(draw, lambda width: 0.5 + 1.9 * curves.rows_of(len(panels), width), tuple(said))


def _searched(results: Results) -> dict[tuple[str, str], list[tuple[float, float, float | None]]]:
    """Return the candidates with a score of each searched cell, by method and the cell's name."""
    names = display_names(results.cells)
    found = {}
    for cell, choice in results.searched:
        points = [(c.rate, 100 * c.score, None) for c in choice.candidates if c.score is not None]
        if len(points) > 1:
            found[cell.title, names[cell.name]] = points
    return found  # type: ignore[return-value]


def _swept(results: Results) -> dict[tuple[str, str], list[tuple[float, float, float | None]]]:
    """Return the scores of cells that differ in their learning rate alone, by method and the name that they share."""
    found: dict[tuple[str, str], list[tuple[float, float, float | None]]] = defaultdict(list)
    for cell in canvas.scored(results):
        rates = {row["learning_rate"] for row in cell.ok_rows}
        if not _RATE.search(cell.variant) or len(rates) != 1:
            continue
        rank = "" if cell.rank is None else f"r={cell.rank}"
        rest = " ".join(filter(None, (rank, _RATE.sub("", cell.variant).strip(), cell.precision)))
        column = canvas.headline(results)
        sd = cell.sd(column)
        point = float(rates.pop()), 100 * (cell.mean(column) or 0.0), None if sd is None else 100 * sd
        found[cell.title, rest].append(point)
    return {name: points for name, points in found.items() if len(points) > 1}


def _panels(found: dict[tuple[str, str], list[tuple[float, float, float | None]]]) -> dict[str, list[Line]]:
    """Return the lines in one panel if they are few, else in a panel for each method."""
    together = len(found) <= _MOST_LINES
    by_title: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for (title, rest), points in found.items():
        one = rest if rest.startswith(title) else f"{title} {rest}"
        by_title["" if together else title].append((one if together else rest, points))
    return {_titled(title, each): list(_lines(each)) for title, each in by_title.items()}


def _lines(each: list[tuple[str, Any]]) -> Iterator[Line]:
    for number, (name, points) in enumerate(each):
        yield Line(canvas.shortened(_shorter(name, each)), _mark(number), tuple(points))


def _shared(each: list[tuple[str, Any]]) -> str:
    """Return the last word of the lines' names if it is the same in all and not all that they say: the precision."""
    last = {name.rpartition(" ")[2] for name, _ in each}
    return last.pop() if len(last) == 1 and all(" " in name for name, _ in each) else ""


def _titled(title: str, each: list[tuple[str, Any]]) -> str:
    return ", ".join(filter(None, (title, _shared(each)))) if title else ""


def _shorter(name: str, each: list[tuple[str, Any]]) -> str:
    return name.removesuffix(f" {_shared(each)}") if _shared(each) else name


def _above(axes: Any, title: str) -> None:
    """Put a panel's legend above it, under its title, where no line runs."""
    axes.legend(
        title=title,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=2,
        frameon=False,
        fontsize=canvas.FONT - 2,
        title_fontsize=canvas.FONT - 1,
        alignment="left",
        handlelength=2.2,
        columnspacing=0.8,
        handletextpad=0.3,
        borderaxespad=0.1,
    )


def _mark(number: int) -> Mark:
    from peftbench.report.styles import LIGHT

    return Mark(LIGHT[number % len(LIGHT)], canvas.MARKERS[number % 10], canvas.DASHES[number % len(canvas.DASHES)])
