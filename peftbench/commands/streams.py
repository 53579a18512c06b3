"""Standard streams that can be written to whatever a shell gives: closed, ASCII only, or text that is not Unicode."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from peftbench.records import secrets
from peftbench.records.wording import printable_lines

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


class _Printable:
    """A stream to which no secrets are written, and no control characters but line feeds and tabs.

    Names, messages and results of others may have them, and some control the terminal.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._secrets = secrets.values()

    def write(self, text: str) -> int:
        """Write a text with spaces for its control characters and ``***`` for secrets."""
        return int(self._stream.write(printable_lines(secrets.hidden(text, self._secrets))) or 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def printable() -> Iterator[None]:
    """Write no secrets and no control characters to the standard streams meanwhile."""
    with contextlib.redirect_stdout(_Printable(sys.stdout)), contextlib.redirect_stderr(_Printable(sys.stderr)):  # type: ignore[type-var]
        yield


def tell(text: str) -> None:
    """Print a message on standard error, without secrets and control characters."""
    print(f"peftbench: {printable_lines(secrets.hidden(text))}", file=sys.stderr)


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
