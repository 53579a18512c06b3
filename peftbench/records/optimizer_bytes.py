"""Bytes of state that optimizers keep of a tensor, as functions of its shape and of the bytes of a value. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable

Shape = tuple[int, ...]
_SMALL = 4096
"""bitsandbytes keeps the state of tensors with fewer values in 32 bits."""
_BLOCK = 256
"""Values that share one scale in the 8-bit state of bitsandbytes."""
APOLLO_RANK = 128
"""Rank of APOLLO's projections, as in transformers."""
GALORE_RANK = 128
"""Rank of GaLore's projections, as in transformers."""


def values(shape: Shape) -> int:
    """Return the number of values of a tensor."""
    return math.prod(shape)


def of_values(each: float) -> Callable[[Shape, int], int]:
    """Return the state of an optimizer that keeps ``each`` bytes for a value, whatever the type of the weights."""
    return lambda shape, _: round(each * values(shape))


def eight_bits(moments: int) -> Callable[[Shape, int], int]:
    """Return the state of bitsandbytes' 8-bit optimizers: a byte for each value and moment, and a scale per block."""

    def size(shape: Shape, _: int) -> int:
        n = values(shape)
        return moments * (4 * n if n < _SMALL else n + 4 * math.ceil(n / _BLOCK))

    return size


def adamw(shape: Shape, width: int) -> int:
    """Return the state of AdamW: two moments, and the step."""
    return 2 * width * values(shape) + 4  # with the step's number in fp32


def adafactor(shape: Shape, _: int) -> int:
    """Return the state of Adafactor: means of rows and columns, or of a vector all values, and a root mean square."""
    if len(shape) < 2:
        return 4 * values(shape) + 4
    rows, columns = shape[-2:]
    return 4 * math.prod(shape[:-2]) * (rows + columns) + 4


def momentum(shape: Shape, width: int) -> int:
    """Return the state of Muon: a momentum of matrices, and AdamW's of the rest."""
    return width * values(shape) if len(shape) == 2 else adamw(shape, width)


def two_copies(shape: Shape, width: int) -> int:
    """Return the state of an optimizer that keeps two values for each, of the type of the weights."""
    return 2 * width * values(shape)


def low_rank(shape: Shape, width: int) -> int:
    """Return the state of GaLore: two moments of the gradient in the space of its projection, and the projection."""
    if len(shape) != 2:
        return 2 * width * values(shape)
    rank = min(GALORE_RANK, *shape)
    return width * rank * (2 * max(shape) + min(shape))


def projected(most: int) -> Callable[[Shape, int], int]:
    """Return the state of APOLLO: two moments of the projected gradient and a norm."""

    def size(shape: Shape, width: int) -> int:
        if len(shape) != 2:
            return adamw(shape, width)
        return 2 * width * min(most, *shape) * max(shape) + 4

    return size
