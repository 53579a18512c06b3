"""Files that are kept on this machine for later commands."""

from __future__ import annotations

import contextlib
import hashlib
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


def keep_suite(results_folder: Path, suite: str) -> None:
    """Remember where the suite of a results folder lies, if the command that its rows have does not say it.

    Rows name no folder of this machine, so that of an absolute path outside of the working directory is cut.
    """
    path = Path(suite)
    if path.is_absolute() and path.suffix in (".yaml", ".yml") and not path.is_relative_to(Path.cwd()):
        with contextlib.suppress(OSError):
            keep(_suite_record(results_folder), suite)


def suite_of(results_folder: Path) -> Path | None:
    """Return the suite's file from which a results folder was made on this machine; None if that is not known."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = Path(_suite_record(results_folder).read_text(encoding="utf-8"))
        return found if found.is_file() else None
    return None


def _suite_record(results_folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(results_folder.resolve())).hexdigest()[:32]
    return folder() / "suites" / name
