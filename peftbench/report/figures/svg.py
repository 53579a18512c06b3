"""matplotlib figures as SVG inside the page: with the page's font and colours, unique ids and no dates.

Figures are drawn with placeholder colours: ``INK`` becomes ``currentColor``, every other colour a CSS variable of its
name, which the page sets for light and dark separately.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as Outline

INK = "#010203"
"""Stands for the page's text colour."""
PAPER = "#fdfeff"
"""Stands for the page's background."""
PRECISION_FILLS = {"full": "24 or more", "none": "12 to 24", "bottom": "fewer than 12"}
"""How a marker is filled, by measured bits per weight: embeddings of a quantized base model are not quantized."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "*")
FONT_SIZE = 11
AREA_COLORS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#cc79a7", "#009e73", "#f0e442", "#999999")
"""Palette of Okabe and Ito, distinguishable with colour blindness; neighbours in a bar also differ in lightness."""
_LIGHT, _DARK = (255, 255, 255), (22, 24, 29)
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "peftbench",
    "font.size": FONT_SIZE,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "path.simplify": True,
    "axes.unicode_minus": True,
    "text.usetex": False,
    "text.parse_math": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """Set matplotlib's options for drawing and writing a figure; also a decorator. Global options are restored."""
    with matplotlib.rc_context(_RC):
        yield


def canvas(width: float, height: float) -> Figure:
    """Return an empty transparent figure of this many CSS pixels."""
    return Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")


def axes(figure: Figure, margins: tuple[float, float, float, float]) -> Axes:
    """Return plain axes with margins left, right, bottom, top in pixels, a faint grid and no box."""
    width, height = figure.get_size_inches() * 72
    left, right, bottom, top = margins
    made = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )
    made.patch.set_visible(False)
    for side in ("top", "right"):
        made.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        made.spines[side].set(alpha=0.5, linewidth=0.8)
    made.grid(True, color=INK, alpha=0.12, linewidth=0.6)
    made.set_axisbelow(True)
    made.tick_params(which="both", length=3, width=0.6, labelsize=FONT_SIZE - 1)
    return made


def to_svg(figure: Figure, prefix: str, label: str, titles: Mapping[str, str] | None = None) -> str:
    """Return a figure as an ``svg`` element for a page.

    Args:
        figure: What to draw.
        prefix: Put before every id, so that ids are unique in the page.
        label: Description for screen readers.
        titles: Tooltip per gid that was set on an artist.

    Returns:
        The same text for the same figure.
    """
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"<defs>\s*</defs>", "", text)
    for gid, title in (titles or {}).items():
        text = text.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(title)}</title>', 1)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = text.replace('xlink:href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"#[0-9a-f]{6}(?=[;\"])", lambda found: css_color(found.group()), text)
    view = re.search(r'viewBox="[^"]*"', text)
    head = f'<svg {view.group() if view else ""} role="img" aria-label="{escape(label)}">'
    return head + re.sub(r"\n\s*", "\n", text[text.index(">") + 1 :]).strip()


def css_color(color: str) -> str:
    """Return the page's CSS value of a colour."""
    if color == INK:
        return "currentColor"
    return "var(--paper)" if color == PAPER else f"var(--c{color[1:]})"


def css_colors(colors: set[str]) -> list[tuple[str, str, str]]:
    """Return (variable, colour on white, colour on the dark page) of some colours.

    Colours of markers and lines have a contrast of at least 3. Colours of areas, which are separated by gaps, have at
    least 2, so that they remain as distinct as in the palette.
    """
    least = {color: 2.0 if color in AREA_COLORS else 3.0 for color in sorted(colors)}
    return [(f"--c{c[1:]}", _legible(c, _LIGHT, ratio), _legible(c, _DARK, ratio)) for c, ratio in least.items()]


def marker_svg(marker: str, color: str, fill: str = "full") -> str:
    """Return one marker as a small ``svg`` element for a legend outside the plot."""
    style = MarkerStyle(marker, fillstyle="full")
    outline = _outline(style.get_path().transformed(style.get_transform()))
    shown = css_color(color)
    inside = shown if fill == "full" else "none"
    half = ""
    if fill == "bottom":  # the lower half of the marker: the marker drawn in a box that ends at its middle
        half = f'<svg x="-7" y="0" width="14" height="7" viewBox="-7 0 14 7"><path d="{outline}" fill="{shown}"/></svg>'
    return (
        '<svg class="key" viewBox="-7 -7 14 14" width="14" height="14" aria-hidden="true">'
        f'{half}<path d="{outline}" fill="{inside}" stroke="{shown}" stroke-width="1.4"/></svg>'
    )


def line_svg(color: str, dash: str) -> str:
    """Return a short line as an ``svg`` element for a legend; ``dash`` as in SVG, empty for a solid line."""
    return (
        '<svg class="key" viewBox="0 0 26 10" width="26" height="10" aria-hidden="true">'
        f'<path d="M1,5H25" fill="none" stroke="{css_color(color)}" stroke-width="2" stroke-dasharray="{dash}"/></svg>'
    )


def _outline(path: Outline, size: float = 8.5) -> str:
    """Return a marker's path as the ``d`` of an SVG path, y downwards."""
    parts = []
    for points, code in path.iter_segments(curves=True, simplify=False):
        if code == Outline.CLOSEPOLY:
            parts.append("Z")
            continue
        letter = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C"}[code]
        parts.append(letter + " ".join(f"{v * size * (-1) ** i:.2f}" for i, v in enumerate(points)))
    return "".join(parts)


def _legible(color: str, paper: tuple[int, int, int], contrast: float) -> str:
    """Mix a colour with black (on white paper) or white (on dark) until its contrast is enough."""
    ink = 0 if _luminance(paper) > 0.5 else 255
    rgb = tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
    mixed = rgb
    for tenth in range(11):
        mixed = tuple(round(v + (ink - v) * tenth / 10) for v in rgb)
        bright, dim = sorted((_luminance(mixed), _luminance(paper)), reverse=True)
        if (bright + 0.05) / (dim + 0.05) >= contrast:
            break
    return "#" + "".join(f"{v:02x}" for v in mixed)


def _luminance(rgb: tuple[int, ...]) -> float:
    """Return the relative luminance of WCAG 2.1."""
    linear = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
