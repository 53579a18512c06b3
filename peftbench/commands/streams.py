"""Standard streams that can be written to whatever a shell gives: closed, ASCII only, or text that is not Unicode."""

from __future__ import annotations

import codecs
import os
import sys

_PLAIN = {
    **{"─": "-", "–": "-", "—": "-", "−": "-", "±": "+-", "×": "x", "…": "...", "·": ".", "≥": ">=", "≤": "<="},
    **{"∞": "inf", "²": "^2", "→": "->", "━": "-", "╸": "-", "╺": "-", "’": "'", "“": '"', "”": '"'},
}
"""What stands for characters of tables and notes on a terminal that has only ASCII."""
_HANDLER = "peftbench.plain"


def prepare() -> None:
    """Open standard streams that are closed, and let no character fail to be written.

    A closed descriptor would be taken by the next file that is opened, and libraries would write their output there.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, which is this one
    codecs.register_error(_HANDLER, _plain)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the process ends)
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:  # a stream that a caller has put in its place may be of any kind
            reconfigure(errors=_HANDLER)


def silence() -> None:
    """Send what is still to be written nowhere, because nobody reads it or it cannot be written."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        try:
            getattr(sys, name).flush()
        except (OSError, ValueError):
            target = os.open(os.devnull, os.O_WRONLY)
            os.dup2(target, descriptor)
            os.close(target)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return what is written for a character that the stream's encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    char = error.object[error.start]
    known = _PLAIN.get(char)
    return known or char.encode("ascii", "backslashreplace").decode(), error.start + 1
