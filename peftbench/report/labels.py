"""Where to put small texts so that they touch neither points nor each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

_EM = 0.66
"""Width of a digit as a share of the font size; a little more than in most fonts."""
_RADIUS = 6.0
"""Half the width of a marker with its edge, pixels."""

Box = tuple[float, float, float, float]


def push_apart(spots: Mapping[str, float], gap: float, low: float, high: float) -> dict[str, float]:
    """Return the spots moved as little as simply possible so that neighbours are a gap apart, within low and high.

    Args:
        spots: Name to position.
        gap: Least distance of two positions.
        low: Least position.
        high: Largest position; wins over low where there is not enough room.
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


def place_labels(area: Axes, points: Sequence[tuple[float, float, float, str]], size: float) -> None:
    """Write each point's label beside it where there is room; leave it out where there is none.

    Args:
        area: The axes, limits final.
        points: (x, y, half the length of the vertical bar, label) in data units; an empty label is not written.
        size: Font size in pixels.
    """
    frame = area.get_window_extent()
    taken: list[Box] = []
    for x, y, half, _ in points:
        px, py = area.transData.transform((x, y))
        reach = abs(area.transData.transform((x, y + half))[1] - py)
        taken.append((px - _RADIUS, py - _RADIUS, px + _RADIUS, py + _RADIUS))
        taken.append((px - 3, py - reach - 1, px + 3, py + reach + 1))
    for x, y, _, label in points:
        if not label:
            continue
        px, py = area.transData.transform((x, y))
        for box in _candidates(px, py, len(label) * size * _EM, size):
            inside = frame.x0 < box[0] and box[2] < frame.x1 and frame.y0 < box[1] and box[3] < frame.y1
            if inside and not any(_touch(box, other) for other in taken):
                taken.append(box)
                middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                left, low = area.transData.inverted().transform(middle)
                area.text(left, low, label, fontsize=size, ha="center", va="center_baseline")
                break


def _candidates(x: float, y: float, width: float, height: float) -> list[Box]:
    """Return boxes to the right, left, and at the four corners of a point."""
    near, half = _RADIUS + 1.5, height / 2
    right, left = x + near, x - near - width
    starts = [(right, y - half), (left, y - half)]
    starts += [(sx, sy) for sy in (y + 4, y - 4 - height) for sx in (x + 4, x - 4 - width)]
    return [(sx, sy, sx + width, sy + height) for sx, sy in starts]


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
