"""The figures of a page: one panel per task or per method, each with its legend."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from peftbench.records import units as fmt
from peftbench.records.memory import Category
from peftbench.records.phase import PARTS, UNTRACKED, UNTRACKED_BAR, Phase
from peftbench.report.collect import Cell, Results, method_title, precision_order
from peftbench.report.figures.axis import Axis
from peftbench.report.figures.draw import DASHES, Bar, Curve, Point, bars, color_of, curves, fill_of, marker_of, scatter
from peftbench.report.figures.svg import PRECISION_FILLS, css_color, line_svg, marker_svg


@dataclass(frozen=True)
class Key:
    """One entry of a legend."""

    symbol: Markup
    text: str


@dataclass(frozen=True)
class Panel:
    """One figure with its title and legend."""

    title: str
    svg: Markup
    keys: tuple[Key, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Breakdown:
    """Stacked bars and the numbers behind them."""

    panel: Panel
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


MEMORY = {category.column: category.heading for category in Category}
"""Column to heading, in the order of the bar."""
MANY = 30
"""With more cells than this, figures show a selection; tables have all cells."""
PHASES = {
    **{
        column: heading
        for phase in Phase
        for column, heading in (
            (phase.column, phase.heading),
            *((part.column, part.heading) for part in PARTS if part.phase is phase and part.heading),
        )
    },
    UNTRACKED: UNTRACKED_BAR[0],
}
"""Column to heading, in the order in which phases happen."""
_NOT_ALWAYS = (
    *(part.column for part in PARTS if part.heading),
    Phase.RETENTION.column,
    Phase.INFERENCE.column,
)
"""Columns that not every suite has, and older rows have not."""
_MEMORY_GROUPS = {category.heading: ((category.column,), category.color) for category in Category}
_TIME_GROUPS = {
    **{phase.bar: (tuple(other.column for other in Phase if other.bar == phase.bar), phase.color) for phase in Phase},
    UNTRACKED_BAR[0]: ((UNTRACKED,), UNTRACKED_BAR[1]),
}
"""Segments of the bars: heading to columns and colour."""


def marker_keys(results: Results) -> tuple[Key, ...]:
    """Return the legend of the scatter figures: methods by marker and colour, bits per weight by filling."""
    kinds = dict.fromkeys(cell.kind for cell in results.tuned)
    keys = [Key(Markup(marker_svg(marker_of(kind), color_of(kind))), method_title(kind)) for kind in kinds]
    fills = {fill_of(cell.mean("base_bits_per_weight")) for cell in results.tuned}
    if len(fills) > 1:
        shown = [(fill, text) for fill, text in PRECISION_FILLS.items() if fill in fills]
        what = "bits per weight of the base model"
        keys += [Key(Markup(marker_svg("o", "#010203", fill)), f"{text} {what}") for fill, text in shown]
    return tuple(keys)


def score_panels(results: Results, column: str) -> tuple[Panel, ...]:
    """Return a panel per task of its score against ``trainable_parameters`` or ``peak_train_bytes``."""
    makers = {"trainable_parameters": _parameters_axis, "peak_train_bytes": _memory_axis}
    panels = []
    for number, task in enumerate(results.tasks):
        known = [c for c in results.tuned if c.mean(column) and c.mean(f"score_{task}") is not None]
        if not known:
            continue
        axis, size = makers[column](known)
        points = [_point(cell, f"score_{task}", (cell.mean(column) or 0.0) / size) for cell in known]
        points = _faded(points) if is_thinned(results) else points
        label = f"score on {task} against {axis.title}"
        svg = scatter(points, _lines(results, task), axis, f"{column.split('_')[0]}{number}", label)
        panels.append(Panel(task, Markup(svg)))
    return tuple(panels)


def _parameters_axis(cells: Sequence[Cell]) -> tuple[Axis, float]:
    values = [cell.mean("trainable_parameters") or 0.0 for cell in cells]
    return Axis.over("trainable parameters", values, True, _short_count), 1.0


def _memory_axis(cells: Sequence[Cell]) -> tuple[Axis, float]:
    values = [cell.mean("peak_train_bytes") or 0.0 for cell in cells]
    unit = fmt.byte_unit(values)
    return Axis.over(f"peak train memory [{unit.name}]", [v / unit.size for v in values], None, _plain), unit.size


def _short_count(value: float) -> str:
    return fmt.count(value).replace(".0 ", " ")


def _plain(value: float) -> str:
    return f"{value:,g}"


def _point(cell: Cell, column: str, x: float) -> Point:
    mean, sd = cell.mean(column) or 0.0, cell.sd(column)
    family = f"{cell.summary.base} {cell.method} {cell.variant} {cell.precision}"
    bits = cell.mean("base_bits_per_weight")
    variant = cell.kind.partition(" ")[2]
    label = " ".join(filter(None, (variant, "" if cell.rank is None else str(cell.rank))))
    return Point(cell.name, cell.kind, bits, x, 100 * mean, sd and 100 * sd, family, label)


def _faded(points: Sequence[Point]) -> list[Point]:
    """Return the points; all but the Pareto front and each method's best are faint."""
    front, highest = set(), -math.inf
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if point.y > highest:
            front.add(point.name)
            highest = point.y
    ordered = sorted(points, key=lambda p: (p.y, -p.x))
    shown = front | {point.name for point in {point.kind: point for point in ordered}.values()}
    return [dataclasses.replace(point, faint=point.name not in shown) for point in points]


def is_thinned(results: Results) -> bool:
    """Whether there are too many cells to draw all of them in full."""
    return len(results.tuned) > MANY


def _largest(cells: Sequence[Cell]) -> list[Cell]:
    """Return each method's cell of the largest rank at each precision."""
    sizes = {(c.summary.base, c.method, c.variant, c.precision): c for c in cells}  # cells are in the order of sizes
    names = {cell.name for cell in sizes.values()}
    return [cell for cell in cells if cell.name in names]


def _sizes(cells: Sequence[Cell]) -> list[Cell]:
    """Return each method's cells at its widest precision, and that of the largest rank at its narrowest."""
    kept = []
    for family in dict.fromkeys((c.summary.base, c.method, c.variant) for c in cells):
        mine = [c for c in cells if (c.summary.base, c.method, c.variant) == family]
        widest = min((c.precision for c in mine), key=precision_order)
        kept += [c for c in mine if c.precision == widest or c is mine[-1]]
    return kept


def _lines(results: Results, task: str) -> dict[str, float]:
    """Return the horizontal lines of a task: chance, majority, each untuned base model (at its widest precision)."""
    bases: dict[str, float | None] = {}
    names = _base_names(results.distinct("base"))
    for cell in results.finished:
        if cell.is_base:
            bases.setdefault(names[cell.summary.base], cell.mean(f"score_{task}"))
    found = {"chance": results.reference("chance", task), "majority": results.reference("majority", task), **bases}
    return {name: 100 * value for name, value in found.items() if value is not None}


def _base_names(bases: Sequence[str]) -> dict[str, str]:
    """Return a distinct name of at most nine characters for each base model's line."""
    if len(bases) == 1:
        return {bases[0]: "base"}
    last = [base.rpartition("/")[2] for base in bases]
    short = [name if len(name) <= 9 else f"{name[:4]}…{name[-4:]}" for name in last]
    if len(set(short)) < len(short):
        short = [f"base {place}" for place in range(1, len(bases) + 1)]
    return dict(zip(bases, short, strict=True))


def memory_bars(results: Results) -> Breakdown | None:
    """Return the memory categories at the training peak; None if no cell has them."""
    cells = [cell for cell in results.tuned if any(cell.mean(column) for column in MEMORY)]
    return _breakdown(cells, _MEMORY_GROUPS, "peak_train_bytes", is_thinned(results)) if cells else None


def time_bars(results: Results) -> Breakdown | None:
    """Return each cell's time by phase; None if no cell has it."""
    cells = [cell for cell in results.finished if any(cell.mean(column) for column in PHASES)]
    return _breakdown(cells, _TIME_GROUPS, "wall_seconds", is_thinned(results)) if cells else None


def _breakdown(
    cells: Sequence[Cell], groups: Mapping[str, tuple[tuple[str, ...], str]], total: str, many: bool
) -> Breakdown:
    """Return stacked bars of groups of columns, and a table with every column and the total.

    Of many cells, only the largest rank of each method and precision has a bar; the table has all cells.
    """
    is_memory = total.endswith("_bytes")
    text: Callable[[float | None], str] = fmt.memory if is_memory else fmt.seconds
    used = {
        name: (columns, color)
        for name, (columns, color) in groups.items()
        if any(cell.mean(column) for cell in cells for column in columns)
    }
    rows = [
        Bar(
            cell.name,
            tuple(max(0.0, sum(cell.mean(column) or 0.0 for column in columns)) for columns, _ in used.values()),
            text(cell.mean(total)),
        )
        for cell in (_largest(cells) if many else cells)
    ]
    names = "memory at the training peak, by category" if is_memory else "time by phase"
    svg = bars(rows, [(name, color) for name, (_, color) in used.items()], "memory" if is_memory else "time", names)
    keys = tuple(Key(_swatch(color), name) for name, (_, color) in used.items())
    heads = dict(MEMORY if is_memory else PHASES)
    for column in _NOT_ALWAYS:
        if not any(cell.mean(column) for cell in cells):
            heads.pop(column, None)
    numbers = [(cell.name, *(text(cell.mean(c)) for c in heads), text(cell.mean(total))) for cell in cells]
    titles = ["cell", *heads.values(), "total"]
    predicted = [_predicted(cell) for cell in cells] if is_memory else []
    if any(predicted):
        titles.append("predicted, first trial")
        numbers = [(*row, forecast or fmt.MISSING) for row, forecast in zip(numbers, predicted, strict=True)]
    return Breakdown(Panel(names, Markup(svg), keys), tuple(titles), tuple(numbers))


def _predicted(cell: Cell) -> str:
    """Return the predicted peak and its error relative to the measured peak of the same trials."""
    known = cell.trials[["predicted_train_bytes", "peak_train_bytes"]].dropna().astype(float)
    if known.empty:
        return ""
    predicted, measured = known.mean()
    off = "exact" if predicted == measured else f"{100 * (predicted / measured - 1):+.1f} %"
    return f"{fmt.memory(predicted)} ({off})"


def _swatch(color: str) -> Markup:
    return Markup('<svg class="key" viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">') + Markup(
        f'<rect x="1" y="1" width="12" height="12" fill="{css_color(color)}"/></svg>'
    )


def loss_panels(results: Results) -> tuple[tuple[Panel, ...], int]:
    """Return a panel of loss curves per method, and the number of steps of the moving mean that smooths them."""
    found, window = _loss_curves(results)
    if not found:
        return (), 1
    smooth = [value for curve in found for value in curve.smooth]
    starts = [curve.smooth[0] for curve in found]
    margin = 0.05 * (max(starts) - min(smooth)) or 0.1
    limits = (max(0.0, min(smooth) - margin), max(starts) + margin)
    panels = []
    for number, own in enumerate(_panels_of(found)):
        kind = own[0].kind
        others = [curve for curve in found if curve.kind != kind]
        title = method_title(kind)
        svg = curves(own, others, limits, f"loss{number}", f"training loss of {title}")
        names = [curve.name.removeprefix(kind).strip() or curve.name for curve in own]
        keys = [Key(Markup(line_svg(color_of(kind), DASHES[i % len(DASHES)])), n) for i, n in enumerate(names)]
        panels.append(Panel(title, Markup(svg), tuple(keys)))
    return tuple(panels), window


def _panels_of(found: Sequence[Curve]) -> list[list[Curve]]:
    """Return the curves of each panel: one method's, in several panels if there are more curves than dash patterns."""
    most = len(DASHES)
    kinds = [[c for c in found if c.kind == kind] for kind in dict.fromkeys(c.kind for c in found)]
    return [own[start : start + most] for own in kinds for start in range(0, len(own), most)]


def _loss_curves(results: Results) -> tuple[list[Curve], int]:
    """Return each tuned cell's mean loss over its finished seeds, raw and smoothed."""
    steps = results.steps
    if not len(steps):
        return [], 1
    window = max(1, math.ceil(steps["step"].max() / 25))
    found = []
    for cell in _sizes(results.tuned) if is_thinned(results) else results.tuned:
        mine = steps[steps["key"].isin(cell.ok["key"])]
        mean = mine.groupby("step")["loss"].mean().astype(float)
        mean = mean[mean.map(math.isfinite)]
        if not len(mean):
            continue
        smooth = mean.rolling(window, center=True, min_periods=1).mean()
        found.append(Curve(cell.name, cell.kind, _floats(mean.index.to_series()), _floats(mean), _floats(smooth)))
    return found, window


def _floats(values: pd.Series) -> list[float]:
    return [float(value) for value in values]
