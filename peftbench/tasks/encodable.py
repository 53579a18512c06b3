"""Characters that no tokenizer and no file can take. No torch."""

from __future__ import annotations


def problem(text: str) -> str | None:
    """Return what in a text cannot be encoded, and where; None if nothing.

    Half a surrogate pair, which JSON may contain as an escape, has no encoding in UTF-8. NUL ends a text in much of the
    software that reads it, and is a sign of a file in another encoding.
    """
    at = text.find("\0")
    if at >= 0:
        return f"character {at + 1:,} is NUL (U+0000); is the file in another encoding?"
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        return f"character {error.start + 1:,} is half a surrogate pair (U+{code:04X}), which cannot be encoded"
    return None
