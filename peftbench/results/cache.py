"""Files that are kept on this machine for later commands."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """Return the folder of what is kept: in the user's cache, which ``XDG_CACHE_HOME`` names."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "peftbench"


def keep(path: Path, text: str) -> None:
    """Write a text as a file that replaces an older one; a reader finds either of them whole.

    Raises:
        OSError: if it cannot be written. The older one is then still there.
    """
    from peftbench.results.store import files

    with files.replacing(path) as out:
        out.write(text.encode())
