"""What is neither stored nor shown: passwords, tokens, and the values of environment variables that hold such.

Libraries repeat addresses and headers in their errors, and those become messages of rows, logs, pages and cards.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

HIDDEN = "***"
_NAMES = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIAL|AUTHORIZATION|COOKIE|_KEY$|_DSN$", re.I
)
"""Names of environment variables whose values are secret."""
_SHORTEST = 8
"""Shortest value of such a variable that is looked for: a shorter one is part of many words."""
_KEYS = (
    r"(?:access|auth|refresh|id|api|session|private|security)?[_-]?(?:token|key|sig|signature|secret|password|passwd)"
)
_SHAPES = re.compile(
    "|".join(
        (
            r"(?P<address>\b[a-zA-Z][\w+.-]*://)[^\s/@'\"<>]+(?=@)",  # user:password@ of a URL
            rf"(?P<query>[?&;](?:x-amz-[\w-]+|{_KEYS})=)[^&\s'\"<>#]+",
            r"(?P<header>\bauthorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token|digest)\s+)?)[^\s'\",]+",
            r"(?P<scheme>\bbearer\s+)[\w.~+/-]{16,}=*",
            r"(?P<field>\b(?:password|passwd|passphrase|client_secret|secret|(?:api|access|secret|private)[_-]?key"
            r"|(?:access|auth|refresh|hf|api)[_-]?token)['\"]?\s*[:=]\s*['\"]?)[^\s'\",;&)}\]]+",
            r"(?P<netrc>\blogin\s+\S+\s+password\s+)\S+",
            r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}|\bgh[opsur]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}",
            r"\bsk-[\w-]{16,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bxox[abprs]-[\w-]{10,}|\bAIza[\w-]{30,}",
            r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+",
        )
    ),
    re.I,
)
"""Passwords and tokens by where they stand, or by their shape."""


def values(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the values of environment variables that are secret, the longest first."""
    found = {value for name, value in environ.items() if _NAMES.search(name) and len(value) >= _SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))


def hidden(text: str, known: Sequence[str] | None = None) -> str:
    """Return a text with ``***`` for every secret.

    Args:
        text: any text.
        known: what ``values`` returned; None to look now.
    """
    for value in values() if known is None else known:
        text = text.replace(value, HIDDEN)
    return _SHAPES.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    return f"{next((part for part in found.groups() if part), '')}{HIDDEN}"
