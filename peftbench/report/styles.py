"""Colours and shapes of methods in the page's figures: told apart by shape alone, and by colour with colour blindness.

A method has the same colour and shape in every report; a variant ("peft VERA") and a method that peftbench does not
have (of imported results) have those of their name.
"""

from __future__ import annotations

import zlib
from colorsys import hls_to_rgb
from dataclasses import dataclass

from peftbench.methods import METHODS

LIGHT = ("#0072b2", "#c44e00", "#007f5f", "#b0417f", "#8a6d00", "#2a7fa5", "#6b4c9a", "#5c5c5c")
"""On white, after Okabe and Ito: darker, so that each has a contrast of at least 4.5."""
DARK = ("#56b4e9", "#ff9447", "#2fc89b", "#e79ac4", "#f0d048", "#9fd8f0", "#c4a8ef", "#bdbdbd")
"""The same on a dark background."""
AREAS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#cc79a7", "#009e73", "#f0e442", "#999999")
"""Of the segments of bars, after Okabe and Ito: distinguishable with colour blindness, neighbours also in lightness."""
_STAR = "M0,-1L.23,-.31L.95,-.31L.36,.12L.59,.81L0,.38L-.59,.81L-.36,.12L-.95,-.31L-.23,-.31Z"
_CROSS = "M-.9,-.6L-.6,-.9L0,-.3L.6,-.9L.9,-.6L.3,0L.9,.6L.6,.9L0,.3L-.6,.9L-.9,.6L-.3,0Z"
SHAPES = (
    *("circle", "square", "diamond", "triangle-up", "cross", "triangle-down"),
    *(_STAR, "triangle-right", _CROSS, "triangle-left"),
)
"""Names of Vega, or paths in a square from -1 to 1."""


@dataclass(frozen=True)
class Style:
    """How a method's points and lines are drawn."""

    light: str
    dark: str
    shape: str


def style_of(kind: str) -> Style:
    """Return the style of a method with its variant, like ``lora`` or ``peft VERA``, or of another benchmark's."""
    method, _, variant = kind.partition(" ")
    names = list(METHODS)
    if variant or method not in names:
        drawn = zlib.crc32((variant or f"of {method}").encode())
        return Style(_hue(drawn, 0.34), _hue(drawn, 0.72), SHAPES[drawn // 360 % len(SHAPES)])
    return style_at(names.index(method))


def style_at(place: int) -> Style:
    """Return the style of one of several things that are told apart by their place in a list, like folders."""
    return Style(LIGHT[place % len(LIGHT)], DARK[place % len(DARK)], SHAPES[place % len(SHAPES)])


def _hue(drawn: int, lightness: float) -> str:
    rgb = hls_to_rgb(drawn % 360 / 360, lightness, 0.6)
    return "#" + "".join(f"{round(255 * value):02x}" for value in rgb)
