"""How results folders at a URL are called: without user, password and query, which no output may show."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from peftbench.errors import UserError

_NAME = ".url"
"""In a copy: the URL without secrets."""


def without_secrets(url: str) -> str:
    """Return a URL without user, password, query and fragment."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if "@" not in authority and re.search(r":(?!\d*$)", authority):  # a password with a slash in it
        authority, slash, path = rest.rpartition("@")[2].partition("/")
    parts = authority.rpartition("@")[2], slash, path
    return f"{scheme}://{re.split('[?#]', ''.join(parts), maxsplit=1)[0]}"


def note(folder: Path, shown: str) -> None:
    """Note in a copy what it is a copy of."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _NAME).write_text(shown, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error


def name_of(folder: Path | str) -> str:
    """Return how a results folder is called: of the copy of a URL the URL without secrets, else its path."""
    try:
        return (Path(folder) / _NAME).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return str(folder)


def _without_parts(text: str, url: str) -> str:
    """Return a library's message without what is secret in a URL, which it may repeat in whole or in part."""
    shown, rest = without_secrets(url), url.partition("://")[2]
    user, _, _ = rest.rpartition("@") if "@" in rest else ("", "", "")
    query = rest.partition("?")[2]
    values = [value for part in re.split("[&#]", query) if len(value := part.partition("=")[2]) > 3]
    secrets = [user, user.partition(":")[2], query, *values] if shown != url else []
    text = text.replace(url, shown)
    for secret in sorted({each for part in secrets for each in (part, unquote(part)) if each}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"://[^/\s@]*@", "://", text)


def reason(error: Exception, url: str) -> str:
    """Return what a filesystem raised as one line, without the secrets of its URL."""
    text = (_without_parts(str(error), url).strip().splitlines() or [""])[0][:200]
    if isinstance(error, PermissionError):
        return f"no permission ({text})"
    return text if isinstance(error, FileNotFoundError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
