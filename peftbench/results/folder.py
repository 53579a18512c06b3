"""Whether a path is a results folder, found out without importing anything: a typing error is answered at once."""

from __future__ import annotations

import os
from pathlib import Path

from peftbench.errors import UserError, nearest
from peftbench.results import remote

_MOST = 5
"""Folders that a message names."""


def located(given: str | os.PathLike[str]) -> Path:
    """Return the results folder that a path or a URL names; of a URL, its copy on this machine, brought up to date.

    Raises:
        UserError: as ``existing``, or if the URL cannot be read.
    """
    return existing(place(given))


def place(given: str | os.PathLike[str]) -> Path:
    """Return a path as it is, and the up-to-date copy of a URL.

    Raises:
        UserError: if the URL cannot be read.
    """
    return remote.fetched(str(given)) if remote.is_url(given) else Path(given)


def existing(folder: Path) -> Path:
    """Return a results folder as it was given.

    Raises:
        UserError: if there is no such folder, or it is no results folder; the message names the nearest one.
    """
    try:
        if (folder / "trials").is_dir():
            return folder
    except OSError as error:  # a name that is too long, or a link to itself
        raise UserError(f"{str(folder)[:200]}: {error.strerror}") from None
    if folder.is_dir():
        above = folder.parent if (folder.parent / "trials").is_dir() else None
        inside = sorted(path.parent for path in folder.glob("*/trials")) if above is None else []
        inside = inside or (sorted(path.parent for path in folder.glob("*/*/trials")) if above is None else [])
        hint = f"; did you mean {str(above)!r}?" if above else " (a results folder has a folder 'trials')"
        if inside:
            hint = f", but these in it do: {', '.join(map(str, inside[:_MOST]))}{', ...' if inside[_MOST:] else ''}"
        raise UserError(f"{folder} holds no results{hint}")
    siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    near = nearest(folder.name, siblings)
    raise UserError(f"no such folder: {folder}" + (f"; did you mean {str(folder.parent / near)!r}?" if near else ""))
