"""Score against a cost: a point for each cell, filled if it cannot be told from the best."""

from __future__ import annotations

from typing import Any

from peftbench.report.collect import Results
from peftbench.report.figures import canvas
from peftbench.report.figures.canvas import Plan

_LOG_FROM = 8.0
"""Ratio of the largest and the smallest cost from which the axis is logarithmic."""


def plan(results: Results, column: str, label: str, size: float, missing: str) -> Plan | str:
    """Return a figure of the score against a stored column.

    Args:
        results: what is shown.
        column: the cost, of ``trials``.
        label: of its axis, with the unit.
        size: how many of its base units one of the axis is.
        missing: why there is no figure if no cell has it.
    """
    cells = [cell for cell in canvas.scored(results) if cell.mean(column)]
    if not cells:
        return "no tuned cell has a score" if not canvas.scored(results) else missing
    score, (alike, said) = canvas.headline(results), canvas.tied(results)
    found = canvas.marks(canvas.best_first(results, cells))
    costs = [(cell.mean(column) or 0.0) / size for cell in cells]
    base = canvas.base_line(results)

    def draw(figure: Any, width: float) -> None:
        axes = figure.add_subplot()
        for cell, cost in zip(cells, costs, strict=True):
            mark, filled = found[cell.kind], alike is None or cell.name in alike
            axes.errorbar(
                cost,
                100 * (cell.mean(score) or 0.0),
                yerr=None if (sd := cell.sd(score)) is None else 100 * sd,
                color=mark.color,
                marker=mark.marker,
                markerfacecolor=mark.color if filled else "white",
                markeredgewidth=0.8,
                elinewidth=0.6,
                linestyle="none",
            )
        for kind, mark in found.items():  # filled, whatever the method's first point is
            axes.plot(
                [], [], color=mark.color, marker=mark.marker, linestyle="none", label=canvas.legend_name(kind, found)
            )
        if base is not None:
            axes.axhline(100 * base, color=canvas.GREY, linestyle="--", linewidth=0.7, label="untuned base model")
        if max(costs) / min(costs) >= _LOG_FROM:
            axes.set_xscale("log")
            canvas.powers_of_ten(axes.xaxis, costs)
        axes.set_xlabel(label)
        axes.set_ylabel(canvas.score_label(results))
        legend(figure, axes, width)

    hidden = [cell.name for cell in canvas.scored(results) if not cell.mean(column)]
    more = [f"{len(hidden)} cells lack this cost."] if hidden else []
    names = [canvas.legend_name(kind, found) for kind in found] + ["untuned base model"] * (base is not None)
    sentences = (said, *more, *canvas.notes(results, cells))
    return Plan(draw, lambda width: 0.5 * min(width, 5.0) + 0.45 + canvas.legend_height(names, width), sentences)


def legend(figure: Any, axes: Any, width: float) -> None:
    """Put a legend above the axes, each name once, in as many columns as fit."""
    handles, names = axes.get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))
    if not once:
        return
    figure.legend(
        list(once.values()),
        list(once),
        loc="outside upper left",
        ncols=canvas.columns_of(once, width),
        frameon=False,
        handletextpad=0.3,
        columnspacing=0.9,
        borderaxespad=0.2,
    )
