"""Keep what quantizers' libraries log while they are imported off a terminal. No torch."""

from __future__ import annotations

import logging

_LOGGERS = ("bitsandbytes", "torchao", "torch.utils._pytree")
"""They report which kernels are missing on this machine, and torch that it deprecates what torchao calls."""


def quantizers() -> None:
    """Let the loggers of bitsandbytes and torchao, and torch's about torchao, report errors only."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
