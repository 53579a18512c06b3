"""Placement of small labels so that they overlap neither markers nor each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from peftbench.report.figures.svg import INK

_EM = 0.66
"""Width of a digit as a share of the font size; a little more than in most fonts."""
_RADIUS = 6.0
"""Half the width of a marker with its edge, pixels."""
_CLEAR = 7.0
"""Distance in pixels to other markers on both sides of a label without a line."""

Box = tuple[float, float, float, float]


def push_apart(spots: Mapping[str, float], gap: float, low: float, high: float) -> dict[str, float]:
    """Move positions so that neighbours are at least a gap apart, within low and high.

    Args:
        spots: Name to position.
        gap: Least distance of two positions.
        low: Least position.
        high: Largest position; has priority over low if both cannot hold.
    """
    names = sorted(spots, key=lambda name: spots[name])
    placed: list[float] = []
    for name in names:
        floor = placed[-1] + gap if placed else low
        placed.append(max(spots[name], floor, low))
    ceiling = high
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return dict(zip(names, placed, strict=True))


@dataclass(frozen=True)
class Mark:
    """A marker and its label, in data units."""

    x: float
    y: float
    reach: float
    """Half the length of its vertical bar."""
    label: str
    """Empty for none."""
    radius: float = _RADIUS
    """Half the marker's width with its edge, pixels."""


def place_labels(area: Axes, marks: Sequence[Mark], size: float) -> None:
    """Write each label where it cannot be mistaken for another marker's; leave it out if there is no such place.

    Labels are beside their marker or, if others are in the way, above or below it at the end of a thin line.

    Args:
        area: The axes, with their final limits.
        marks: All markers; labels overlap none of them.
        size: Font size in pixels.
    """
    frame = area.get_window_extent()
    spots = [tuple(map(float, area.transData.transform((mark.x, mark.y)))) for mark in marks]
    markers = [_around(x, y, mark.radius) for (x, y), mark in zip(spots, marks, strict=True)]
    bars = [_bar(area, mark) for mark in marks if mark.reach]
    texts: list[Box] = []
    done: list[tuple[float, float, str]] = []
    for (px, py), mark in zip(spots, marks, strict=True):
        label = mark.label
        if not label or any(text == label and math.hypot(px - x, py - y) < _RADIUS for x, y, text in done):
            continue  # a marker on top of another of the same rank needs no second number
        others = [box for box in markers if not _touch(box, _around(px, py, 1))]
        for box, line in _places(px, py, len(label) * size * _EM, size):
            inside = frame.x0 < box[0] and box[2] < frame.x1 and frame.y0 < box[1] and box[3] < frame.y1
            if inside and not _hits(box, [*markers, *bars, *texts]) and _is_clear(box, line, others, texts):
                _write(area, label, box, line, size)
                texts += [(box[0] - 4, box[1], box[2] + 4, box[3]), *line]
                done.append((px, py, label))
                break


def _bar(area: Axes, mark: Mark) -> Box:
    x, low = area.transData.transform((mark.x, mark.y - mark.reach))
    high = area.transData.transform((mark.x, mark.y + mark.reach))[1]
    return (float(x) - 3, float(low) - 1, float(x) + 3, float(high) + 1)


def _write(area: Axes, label: str, box: Box, line: Sequence[Box], size: float) -> None:
    back = area.transData.inverted().transform
    left, low = back(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    area.text(left, low, label, fontsize=size, ha="center", va="center_baseline")
    if line:
        ends = [back(((one[0] + one[2]) / 2, (one[1] + one[3]) / 2)) for one in (line[0], line[-1])]
        area.plot([x for x, _ in ends], [y for _, y in ends], color=INK, alpha=0.55, linewidth=0.7, zorder=2)


def _places(x: float, y: float, width: float, height: float) -> Iterator[tuple[Box, list[Box]]]:
    """Return boxes beside a point and at its corners, then those at the end of a line, with the line as small boxes."""
    for box in _candidates(x, y, width, height):
        yield box, []
    for far in (17.0, 29.0, 41.0, 53.0):
        for aside in (0.0, 10.0, -10.0, 20.0, -20.0, 32.0, -32.0):
            for way in (1, -1):
                middle_x, middle_y = x + aside, y + way * far
                end_y = middle_y - way * (height / 2 + 1)
                steps = [n / 8 for n in range(2, 9)]  # begins at the marker's edge
                line = [_around(x + aside * t, y + (end_y - y) * t, 0.7) for t in steps]
                box = (middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2)
                yield box, line


def _is_clear(box: Box, line: Sequence[Box], others: Sequence[Box], texts: Sequence[Box]) -> bool:
    """Whether a label is clearly its own marker's: no other marker is as near or lies under its line."""
    if line:
        return not any(_hits(dot, [*others, *texts]) for dot in line)
    return not _hits((box[0] - _CLEAR, box[1] - 1, box[2] + _CLEAR, box[3] + 1), others)


def _hits(box: Box, others: Sequence[Box]) -> bool:
    return any(_touch(box, other) for other in others)


def _around(x: float, y: float, radius: float) -> Box:
    return (x - radius, y - radius, x + radius, y + radius)


def _candidates(x: float, y: float, width: float, height: float) -> list[Box]:
    """Return boxes to the right, left, and at the four corners of a point."""
    near, half = _RADIUS + 1.5, height / 2
    right, left = x + near, x - near - width
    starts = [(right, y - half), (left, y - half)]
    starts += [(sx, sy) for sy in (y + 4, y - 4 - height) for sx in (x + 4, x - 4 - width)]
    return [(sx, sy, sx + width, sy + height) for sx, sy in starts]


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
