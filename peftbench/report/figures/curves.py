"""Lines with marks and error bars in one or several panels, for figures of a score along an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.report.figures.canvas import Mark
from peftbench.report.figures.scatter import legend


@dataclass(frozen=True)
class Line:
    """One line: points with their error bars."""

    name: str
    mark: Mark
    points: tuple[tuple[float, float, float | None], ...]
    """Place on the axis, value, and standard deviation over seeds if it is known."""


Panels = Mapping[str, Sequence[Line]]
"""Lines by the title of their panel."""


def grid_of(figure: Any, count: int, width: float, share_y: bool = True) -> list[Any]:
    """Return the axes of panels, two or four in a row by the width."""
    columns = min(count, 2 if width < 4 else 4)
    rows = -(-count // columns)
    found = figure.subplots(rows, columns, sharey=share_y, sharex=share_y, squeeze=False)
    for spare in found.flat[count:]:
        spare.set_axis_off()
    return list(found.flat[:count])


def rows_of(count: int, width: float) -> int:
    """Return the number of rows of panels."""
    return -(-count // min(count, 2 if width < 4 else 4))


def label(every: Sequence[Any], below: str, beside: str, width: float) -> None:
    """Label the lowest panel of each column, and the first of each row."""
    columns = min(len(every), 2 if width < 4 else 4)
    for number, axes in enumerate(every):
        if number + columns >= len(every):
            axes.set_xlabel(below)
            axes.tick_params(labelbottom=True)
        if number % columns == 0:
            axes.set_ylabel(beside)


def draw_line(axes: Any, line: Line, size: float = 1.0) -> None:
    """Draw one line."""
    points = sorted(line.points)
    errors = [0.0 if sd is None else sd / size for _, _, sd in points]
    axes.errorbar(
        [x for x, _, _ in points],
        [y / size for _, y, _ in points],
        yerr=errors if any(errors) else None,
        color=line.mark.color,
        marker=line.mark.marker,
        linestyle=line.mark.dash,
        elinewidth=0.6,
        markeredgewidth=0.6,
        label=line.name,
    )


def one_legend(figure: Any, every: Sequence[Any], width: float) -> None:
    """Put one legend for all panels above them."""

    class Together:
        def get_legend_handles_labels(self) -> tuple[list[Any], list[str]]:
            pairs = [axes.get_legend_handles_labels() for axes in every]
            return [h for handles, _ in pairs for h in handles], [n for _, names in pairs for n in names]

    legend(figure, Together(), width)
