"""How results folders at a URL are called: without user, password and query, which no output may show."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus

from peftbench.errors import UserError
from peftbench.results import cache

_NAME = ".url"
"""In a copy: the URL without secrets."""


_HIDDEN = "***"
_LONG = 6
"""From how many characters on a secret is hidden inside a longer word too. A short one would garble other words."""


@dataclass(frozen=True)
class Parts:
    """A URL in parts. What may be a secret is never in ``place``."""

    scheme: str
    user_info: str = field(repr=False)
    """What is before the last ``@`` of the authority; empty if there is none."""
    place: str
    """Host, port and path; ``***`` if it cannot be told from the secrets."""
    query: str = field(repr=False)
    """Query and fragment, with the ``?`` or ``#`` before them."""


def split(url: str) -> Parts:
    """Return the parts of a URL, whose password may have characters that should have been escaped.

    If a password with a slash and a path with an ``@`` look the same, all before the last ``@`` counts as secret.
    """
    scheme, _, rest = url.partition("://")
    end = query_start(rest)
    if end is None:
        user_info, _, query = rest.rpartition("@")
        return Parts(scheme, user_info, _HIDDEN, query)
    head = rest[:end]
    authority = head.partition("/")[0]
    user_info, at, _ = (head if ":" in authority else authority).rpartition("@")
    return Parts(scheme, user_info, head[len(user_info) + len(at) :], rest[end:])


def query_start(rest: str) -> int | None:
    """Return where the query or fragment begins in a URL without its scheme, which may be its end.

    None if a ``?`` or ``#`` can be of a password or begin a query that has an ``@``.
    """
    for found in re.finditer("[?#]", rest):
        head, tail = rest[: found.start()], rest[found.start() :]
        authority = head.partition("/")[0]
        if "@" not in tail:
            return found.start()
        if "@" not in head and re.search(r":(?!\d*$)", authority.rpartition("]")[2]):
            continue  # what follows the colon is no port, so a password
        named = re.match(r"\?[\w.~-]+=", tail)
        if (named and ("@" in head or ":" not in authority)) or ("/" in head and not re.search("[:@]", authority)):
            return found.start()
        return None
    return len(rest)


def without_secrets(url: str) -> str:
    """Return a URL without user, password, query and fragment."""
    parts = split(url)
    return f"{parts.scheme}://{parts.place}"


def inside(url: str, name: str, root: str) -> str:
    """Return the URL of a folder in that of a URL, whose query stays behind the path.

    Args:
        url: the URL.
        name: the folder's name.
        root: the path that its filesystem reads. It may take what looks like a query for a part of the path.
    """
    scheme, _, rest = url.rstrip("/").partition("://")
    end = query_start(rest)
    if end is None or ("://" not in root and root.endswith(rest[end:])):
        end = len(rest)
    return f"{scheme}://{rest[:end].rstrip('/')}/{name}{rest[end:]}"


def note(folder: Path, shown: str) -> None:
    """Note in a copy what it is a copy of. A reader finds the whole name or none."""
    try:
        cache.keep(folder / _NAME, shown)
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
    parts, shown = split(url), without_secrets(url)
    if shown != url:
        rest = re.escape(url.partition("://")[2].rstrip("/"))
        hidden = re.compile("|".join(map(_pattern, sorted(_secrets(parts), key=len, reverse=True))) or r"(?!)")
        between = re.split(f"(?i:{re.escape(parts.scheme)})://{rest}", text)
        text = shown.rstrip("/").join(hidden.sub(_HIDDEN, each) for each in between)
    return re.sub(r"[a-zA-Z][a-zA-Z0-9+.-]+://[^\s'\"<>]+", lambda found: without_secrets(found[0]), text)


def _secrets(parts: Parts) -> set[str]:
    """Return what a message must not show of a URL, as it is there, unescaped, and escaped.

    A library may cut a password with a ``/`` or ``@`` in it elsewhere than here, so its pieces are secrets too.
    """
    user, _, password = parts.user_info.partition(":")
    pieces = re.split("[:/@?#]", parts.user_info)
    values = [value.partition("=")[2] or value for value in re.split("[?&#]", parts.query)]
    found = {parts.user_info, user, password, *pieces, parts.query[1:], *(each for each in values if len(each) > 3)}
    forms = {form for each in found for form in (each, unquote(each), unquote_plus(each), quote(each, safe=""))}
    return forms - {""}


def _pattern(secret: str) -> str:
    """Return the regular expression of a secret: as a whole word if it is short."""
    if len(secret) >= _LONG:
        return re.escape(secret)
    before = r"(?<![^\W_])" if secret[0].isalnum() else ""
    after = r"(?![^\W_])" if secret[-1].isalnum() else ""
    return f"{before}{re.escape(secret)}{after}"


def reason(error: Exception, url: str) -> str:
    """Return what a filesystem raised as one line, without the secrets of its URL."""
    text = (_without_parts(str(error), url).strip().splitlines() or [""])[0][:200]
    if isinstance(error, PermissionError):
        return f"no permission ({text})"
    return text if isinstance(error, FileNotFoundError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
