"""What happens to an exception that no command expects: one message and an exit code of its own, no traceback."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback

from peftbench.commands import BAD_INPUT, INTERNAL
from peftbench.errors import TRACEBACK
from peftbench.records.secrets import hidden
from peftbench.version import __version__


def message(error: BaseException) -> tuple[str, int]:
    """Return the message about an unexpected exception, and the exit code.

    An error of the operating system (a full disk, a folder that is read-only) is no mistake of the program. Of any
    other, the traceback is stored in a file, which the message names.
    """
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fspath(error.filename)!r}: " if isinstance(error.filename, str | bytes) else ""
        return f"{where}{error.strerror}", BAD_INPUT
    if isinstance(error, MemoryError):
        return "out of memory", BAD_INPUT
    what = "".join(traceback.format_exception_only(error)).strip()
    head = f"unexpected error, a mistake in peftbench {__version__}: {what[:300]}"
    return f"{head}\n{_stored(error)}; {TRACEBACK}=1 shows it here", INTERNAL


def _stored(error: BaseException) -> str:
    """Store the traceback and return where it is."""
    lines = [f"peftbench {__version__}, Python {sys.version}\n", f"arguments: {sys.argv[1:]!r}\n"]
    text = "".join([*lines, *traceback.format_exception(error)])
    try:
        descriptor, path = tempfile.mkstemp(".txt", "peftbench-traceback-")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as out:
            out.write(hidden(text))
    except OSError as problem:
        return f"the traceback could not be stored ({problem.strerror})"
    return f"the traceback is in {path}: please report it"
