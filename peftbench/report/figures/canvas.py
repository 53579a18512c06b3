"""What all figures for print have in common: sizes, fonts, marks that are told apart without colour, notes below."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.records.wording import abridged
from peftbench.report import styles
from peftbench.report.collect import MEAN, Cell, Results, method_title
from peftbench.report.derived.significance import significance
from peftbench.report.names import display_names
from peftbench.report.notes import unpaired

WIDTHS = (3.3, 6.8)
"""Inches: one column and two columns of a paper."""
FONT = 7.0
"""Points."""
SETTINGS: dict[str, Any] = {
    "pdf.fonttype": 42,  # whole TrueType fonts: text stays text, and publishers refuse Type 3
    "ps.fonttype": 42,
    "text.parse_math": False,  # a name with two dollar signs is no formula
    "font.family": "DejaVu Sans",  # is part of matplotlib, so every machine has it
    "font.size": FONT,
    "axes.labelsize": FONT,
    "axes.titlesize": FONT,
    "legend.fontsize": FONT - 1,
    "xtick.labelsize": FONT - 1,
    "ytick.labelsize": FONT - 1,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.4,
    "axes.axisbelow": True,
    "lines.linewidth": 1.0,
    "lines.markersize": 4.0,
    "errorbar.capsize": 1.5,
    "hatch.linewidth": 0.5,
    "figure.constrained_layout.use": True,
}
MARKERS = ("o", "s", "D", "^", "P", "v", "*", ">", "X", "<")
"""matplotlib's markers in the order of ``styles.SHAPES``."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
MOST_KINDS = 9
"""Methods with a mark of their own; in a figure of more, the others share one."""
OTHERS = "other methods"
GREY = "#8a8a8a"
_NAMED = 4
"""Cells that a note names before the others are counted."""


@dataclass(frozen=True)
class Mark:
    """How the points and lines of one thing are drawn: each mark differs from the others without its colour."""

    color: str
    marker: str
    dash: Any = "-"


Draw = Callable[[Any, float], None]
"""Draws into an empty matplotlib figure of a width in inches."""


@dataclass(frozen=True)
class Plan:
    """A figure that can be drawn."""

    draw: Draw
    height: Callable[[float], float]
    """Inches without the notes, by the width."""
    notes: tuple[str, ...] = ()
    """Sentences that stand below it."""


def headline(results: Results) -> str:
    """Return the column of the score that figures show, which is the mean if there are several tasks."""
    return f"score_{MEAN if len(results.tasks) > 1 else results.tasks[0]}"


def score_label(results: Results) -> str:
    """Return the label of the score's axis."""
    return f"mean score of {len(results.tasks)} tasks (%)" if len(results.tasks) > 1 else f"{results.tasks[0]} (%)"


def scored(results: Results) -> tuple[Cell, ...]:
    """Return the tuned cells with a score."""
    return tuple(cell for cell in results.tuned if results.tasks and cell.mean(headline(results)) is not None)


def base_line(results: Results) -> float | None:
    """Return the score of the untuned base model; None if it was not measured, or there are several."""
    found = [cell.mean(headline(results)) for cell in results.finished if cell.is_base] if results.tasks else []
    known = [value for value in found if value is not None]
    return known[0] if len(known) == 1 else None


def marks(kinds: Iterable[str]) -> dict[str, Mark]:
    """Return a mark for each method: its own as on the page, or the next free shape; the last ones share one."""
    names, found, taken = list(dict.fromkeys(kinds)), {}, set()
    own = names if len(names) <= MOST_KINDS + 1 else names[:MOST_KINDS]
    for number, name in enumerate(own):
        style = styles.style_of(name)
        wanted = MARKERS[styles.SHAPES.index(style.shape)]
        shape = wanted if wanted not in taken else next(each for each in MARKERS if each not in taken)
        taken.add(shape)
        color = style.light if shape == wanted else styles.LIGHT[number % len(styles.LIGHT)]
        found[name] = Mark(color, shape, DASHES[number % len(DASHES)])
    return found | {name: Mark(GREY, ".", ":") for name in names[len(own) :]}


def legend_name(kind: str, found: Mapping[str, Mark], more: str = "") -> str:
    """Return a method's name in a legend, with more about it; those without a mark of their own have one together."""
    if found[kind].marker == ".":
        return f"{OTHERS} ({sum(mark.marker == '.' for mark in found.values())})"
    return shortened(" ".join(filter(None, (title_of(kind), more))))


def title_of(kind: str) -> str:
    """Return a method's title; a tuner of peft by its name alone."""
    return method_title(kind).removeprefix("peft tuner ")


def options_of(cell: Cell) -> str:
    """Return the options in a cell's name, without the tuner, which is part of the method's title."""
    return " ".join(word for word in cell.variant.split() if word not in cell.kind.split())


def shortened(text: str, most: int = 28) -> str:
    """Return a text with its middle left out if it is too long for a figure."""
    return text if len(text) <= most else f"{text[: most - 8]}…{text[-7:]}"


def best_first(results: Results, cells: Sequence[Cell]) -> list[str]:
    """Return the methods of cells, those with the highest score first, so that they get marks of their own."""
    column = headline(results)
    top: dict[str, float] = {}
    for cell in cells:
        top[cell.kind] = max(top.get(cell.kind, 0.0), cell.mean(column) or 0.0)
    return sorted(top, key=lambda kind: -top[kind])


def tied(results: Results) -> tuple[set[str] | None, str]:
    """Return the cells that cannot be told from the best, itself included, and what that says of filled points.

    They are None if there are no tests.
    """
    hollow = "(Holm-adjusted p ≥ 0.05); hollow: significantly below it."
    known = significance(results)
    ranking = known.rankings.get(known.headline)
    if ranking is not None:
        return {ranking.best, *ranking.ties}, f"Filled: not distinguishable from the best {hollow}"
    by_errors = unpaired.found(results, results.tasks[0]) if len(results.tasks) == 1 else None
    if by_errors is not None:
        how = "by the standard errors over examples alone, unpaired"
        return {by_errors.best, *by_errors.like_best}, f"Filled: not distinguishable from the best {how} {hollow}"
    return None, "All points are filled: there are no tests, as not every cell has the outcomes of its examples."


def legend_height(names: Iterable[str], width: float) -> float:
    """Return the inches that a legend above the axes takes."""
    every = list(dict.fromkeys(names))
    return 0.1 + 0.135 * -(-len(every) // columns_of(every, width)) if every else 0.0


def columns_of(names: Iterable[str], width: float) -> int:
    """Return the number of columns of a legend in which its longest name fits, at a width in inches."""
    every = list(names)
    one = 0.42 + max(map(len, every), default=1) * (FONT - 1) * 0.56 / 72
    return max(1, min(len(every), int(width / one)))


def notes(results: Results, shown: Sequence[Cell], spread: bool = True) -> list[str]:
    """Return what stands below each figure: what error bars are, and which cells are missing."""
    said = []
    counts = sorted({len(cell.ok) for cell in shown})
    if spread and counts == [1]:
        said.append("One seed per cell: no spread is known.")
    elif spread and counts:
        over = counts[0] if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        said.append(f"Bars: standard deviation over {over} seeds.")
    names = display_names(results.cells)
    lost = [cell for cell in results.cells if not len(cell.ok)]
    for trouble in dict.fromkeys(cell.trouble for cell in lost):
        those = [names[cell.name] for cell in lost if cell.trouble == trouble]
        said.append(f"Not shown ({trouble}): {abridged(those, _NAMED)}.")
    some = [f"{names[cell.name]} ({cell.trouble})" for cell in shown if cell.trouble]
    if some:
        said.append(f"Some trials failed: {abridged(some, _NAMED)}.")
    return said


def wrapped(texts: Iterable[str], width: float) -> list[str]:
    """Return sentences as lines that fit below a figure of a width in inches."""
    columns = int(width * 72 / ((FONT - 1) * 0.56))
    return textwrap.wrap(" ".join(texts), columns)


def powers_of_ten(axis: Any, values: Sequence[float]) -> None:
    """Label a logarithmic axis so that it has at least two labels, however few powers of ten it covers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = max(values) / min(values)
    subs = (1.0,) if decades >= 100 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(base=10, subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.set_minor_formatter(NullFormatter())


def short_number(value: float) -> str:
    """Return a number as an axis shows it: 200, 2 k, 20 M, 0.5, 1e-5."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
