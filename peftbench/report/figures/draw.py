"""The figures of the page: scores against a cost, stacked bars, loss curves. Each is one small SVG without a legend.

Legends are part of the page, outside the plots; tooltips carry the names. A figure is drawn about as wide as a phone,
so that its text stays readable when several stand side by side or one fills a narrow screen.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from colorsys import hls_to_rgb
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator

from peftbench.methods import METHODS
from peftbench.records import units as fmt
from peftbench.report.figures.axis import Axis
from peftbench.report.figures.labels import Mark, place_labels, push_apart
from peftbench.report.figures.svg import FONT_SIZE, INK, MARKERS, PAPER, axes, canvas, styled, to_svg

SCATTER_SIZE = (400, 290)
CURVE_SIZE = (400, 230)
BARS_WIDTH = 400
_LEFT = 50
"""Room for the vertical axis: its label, and tick labels of up to five digits."""


@dataclass(frozen=True)
class Point:
    """One cell in a scatter figure."""

    name: str
    kind: str
    """Of its cell: what it is coloured by."""
    bits: float | None
    """Measured bits per weight of the base as trained on."""
    x: float
    y: float
    """In percent."""
    sd: float | None
    family: str
    """Points of one family are joined by a line, in the order of x."""
    label: str
    """Written beside the marker where there is room; empty for none."""
    faint: bool = False
    """Drawn small and without its spread, so that others can be seen among many."""


@dataclass(frozen=True)
class Bar:
    """One cell in a figure of stacked bars."""

    name: str
    parts: tuple[float, ...]
    """One per category; 0 where there is nothing."""
    total: str
    """The sum as it is written beside the name."""


@dataclass(frozen=True)
class Curve:
    """One cell's loss."""

    name: str
    kind: str
    """Of its cell."""
    steps: Sequence[float]
    raw: Sequence[float]
    smooth: Sequence[float]


def color_of(kind: str) -> str:
    """Return a method's colour; a variant of one ("peft VERA") has a hue of its own, the same in every report."""
    method, _, variant = kind.partition(" ")
    if variant:
        return to_hex(hls_to_rgb(_spread(variant) % 360 / 360, 0.45, 0.6))
    return METHODS[method].color.lower() if method in METHODS else "#888888"


def marker_of(kind: str) -> str:
    """Return a method's marker, by its place in the table of methods; a variant's, by its name."""
    method, _, variant = kind.partition(" ")
    names = list(METHODS)
    if variant:
        return MARKERS[_spread(variant) // 360 % len(MARKERS)]
    return MARKERS[names.index(method) % len(MARKERS)] if method in names else MARKERS[-1]


def _spread(name: str) -> int:
    """Return a number that is the same for a name everywhere and seldom the same for two."""
    return zlib.crc32(name.encode())


def fill_of(bits: float | None) -> str:
    """Return how a marker is filled: a key of ``PRECISION_FILLS``, by the measured bits per weight of the base."""
    if bits is None or bits >= 24:
        return "full"
    return "none" if bits >= 12 else "bottom"


@styled()
def scatter(points: Sequence[Point], lines: Mapping[str, float], x: Axis, prefix: str, label: str) -> str:
    """Return scores against a cost as SVG, with sd bars, and with labelled horizontal lines.

    Args:
        points: The tuned cells.
        lines: Name to percent: chance, majority, untuned base.
        x: The horizontal axis.
        prefix: For the ids in the SVG.
        label: What the figure shows, in words.
    """
    figure = canvas(*SCATTER_SIZE)
    area = axes(figure, (_LEFT, 62, 38, 10))
    low, high = _limits([p.y + s * (p.sd or 0) for p in points for s in (-1, 1)] + list(lines.values()))
    area.set_ylim(max(low, -4), min(high, 104))
    x.apply(area)
    area.yaxis.set_major_locator(MaxNLocator(5))
    _label_y(area, "score [%]")
    for value in lines.values():
        area.axhline(value, color=INK, alpha=0.55, linewidth=0.9, dashes=(4, 3))
    titles = _draw_points(area, points)
    bottom, top = area.get_window_extent().y0, area.get_window_extent().y1
    spots = {name: float(area.transData.transform((x.low, value))[1]) for name, value in lines.items()}
    for name, y in push_apart(spots, FONT_SIZE + 3, bottom + 5, top - 5).items():
        figure.text(1 - 58 / SCATTER_SIZE[0], y / SCATTER_SIZE[1], name, fontsize=FONT_SIZE - 1, va="center")
    bold = [Mark(p.x, p.y, p.sd or 0.0, p.label) for p in points if not p.faint]
    place_labels(area, [*bold, *(Mark(p.x, p.y, 0.0, "", 3.5) for p in points if p.faint)], FONT_SIZE - 2)
    return to_svg(figure, prefix, label, titles)


def _draw_points(area: Axes, points: Sequence[Point]) -> dict[str, str]:
    """Draw lines, spreads and markers; return a tooltip per gid."""
    for family in dict.fromkeys(p.family for p in points):
        members = sorted((p for p in points if p.family == family), key=lambda p: p.x)
        color = color_of(members[0].kind)
        alpha = 0.2 if any(p.faint for p in members) else 0.45
        area.plot([p.x for p in members], [p.y for p in members], color=color, alpha=alpha, linewidth=1)
    titles = {}
    for i, point in enumerate(points):
        color, gid = color_of(point.kind), f"point{i}"
        if point.sd and not point.faint:
            area.errorbar(point.x, point.y, point.sd, color=color, alpha=0.7, elinewidth=1, capsize=2.5)
        area.plot(
            [point.x],
            [point.y],
            marker=marker_of(point.kind),
            markersize=3.5 if point.faint else 7,
            fillstyle=fill_of(point.bits),
            color=color,
            markerfacecoloralt=PAPER,
            markeredgewidth=0.8 if point.faint else 1.3,
            linestyle="",
            gid=gid,
            zorder=2.5 if point.faint else 3,
        )
        titles[gid] = f"{point.name}: {fmt.spread(point.y, point.sd)} %"
    return titles


@styled()
def bars(rows: Sequence[Bar], categories: Sequence[tuple[str, str]], prefix: str, label: str) -> str:
    """Return horizontal stacked bars as SVG: the cell's name above its bar, the total above the bar's far end.

    Args:
        rows: From top to bottom.
        categories: Name and colour of each part, from left to right.
        prefix: For the ids in the SVG.
        label: What the figure shows, in words.
    """
    step, thick = 31, 11
    height = step * len(rows) + 2
    figure = canvas(BARS_WIDTH, height)
    area = figure.add_axes((0, 0, 1, 1))
    area.set_axis_off()
    area.set_xlim(0, BARS_WIDTH)
    area.set_ylim(height, 0)
    most = max((sum(row.parts) for row in rows), default=1.0) or 1.0
    titles = {}
    for i, row in enumerate(rows):
        y, left = i * step, 0.0
        name = row.name if len(row.name) <= 44 else row.name[:43] + "…"
        area.text(0, y + 11, name, fontsize=FONT_SIZE, color=INK, va="baseline")
        area.text(BARS_WIDTH, y + 11, row.total, fontsize=FONT_SIZE, color=INK, va="baseline", ha="right")
        for j, part in enumerate(row.parts):
            width = part / most * BARS_WIDTH
            if width <= 0:
                continue
            gid = f"part{i}-{j}"
            category, color = categories[j]
            titles[gid] = f"{row.name}, {category}: {100 * part / sum(row.parts):.1f} %"
            area.barh(y + 16 + thick / 2, width, thick, left, color=color, edgecolor=PAPER, linewidth=0.5)[0].set_gid(
                gid
            )
            left += width
    return to_svg(figure, prefix, label, titles)


DASHES = ("", "6 3", "2 2.5", "8 3 2 3", "12 3", "1 4")
"""Told apart by dash within one method's panel."""


@styled()
def curves(own: Sequence[Curve], others: Sequence[Curve], limits: tuple[float, float], prefix: str, label: str) -> str:
    """Return one method's loss curves as SVG over those of all others in faint ink."""
    figure = canvas(*CURVE_SIZE)
    area = axes(figure, (_LEFT, 10, 38, 10))
    for curve in others:
        area.plot(*_thin(curve.steps, curve.smooth, 60), color=INK, alpha=0.22, linewidth=0.9)
    for i, curve in enumerate(own):
        color, dash = color_of(curve.kind), DASHES[i % len(DASHES)]
        area.plot(*_thin(curve.steps, curve.raw, 300), color=color, alpha=0.22, linewidth=0.7)
        style = (0, tuple(float(v) / 1.6 for v in dash.split())) if dash else "-"
        area.plot(*_thin(curve.steps, curve.smooth, 150), color=color, linewidth=1.6, linestyle=style)
    area.set_ylim(*limits)
    longest = max((curve.steps[-1] for curve in (*own, *others)), default=1)
    area.set_xlim(0, longest * 1.02)
    area.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    area.yaxis.set_major_locator(MaxNLocator(5))
    area.set_xlabel("optimizer step", labelpad=4)
    _label_y(area, "loss [nats/token]")
    return to_svg(figure, prefix, label)


def _label_y(area: Axes, text: str) -> None:
    """Write the vertical axis' label at the figure's edge, however long the tick labels are."""
    area.set_ylabel(text, labelpad=0, va="top")
    area.yaxis.set_label_coords(-(_LEFT - 1) / area.get_window_extent().width, 0.5)


def _thin(x: Sequence[float], y: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """Return at most about this many points, the last one among them."""
    stride = max(1, math.ceil(len(x) / most))
    kept = sorted({*range(0, len(x), stride), len(x) - 1})
    return [x[i] for i in kept], [y[i] for i in kept]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=100.0)
    room = max(0.07 * (high - low), 2.0)
    return low - room, high + room
