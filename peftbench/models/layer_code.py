"""Which linear layers a model's code uses other than by calling them, found by searching the code of their parent.

Whether the code does so in a pass may depend on the installed kernels; searching gives the same answer everywhere.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import Any

from torch import nn

_READ = re.compile(r"self\.(\w+)\.weight\b(?!\.(?:dtype|device|shape|data\b))")
_CLAMPED = re.compile(r"self\.(\w+)\.weight(?:\.data)?\.clamp")
_CALLED = re.compile(r"self\.(\w+)\(")


def read_weights(module: nn.Module) -> frozenset[str]:
    """Return the names of the children whose weights a module's code reads instead of calling them.

    A wrapper of such a child, such as LoRA's, has no effect. In Mamba layers a fused kernel reads weights that another
    branch of the code calls; elsewhere, children that are called too are not returned.
    """
    kind: Any = type(module)
    source = _source(kind)
    read = set(_READ.findall(source))
    if isinstance(getattr(module, "conv1d", None), nn.Conv1d) and hasattr(module, "A_log"):
        return frozenset(read if source else {"out_proj"})
    return frozenset(read - set(_CALLED.findall(source)) | (read & set(_CLAMPED.findall(source))))


def unpackable_weights(module: nn.Module) -> frozenset[str]:
    """Return the names of the children with whose weights a module's code computes: they cannot be quantized."""
    kind: Any = type(module)
    source = _source(kind)
    return frozenset(_CLAMPED.findall(source)) | frozenset(_READ.findall(source)) - frozenset(_CALLED.findall(source))


@cache
def _source(kind: Any) -> str:
    """Return the code of a class; empty if it is not known."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""
