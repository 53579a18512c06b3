"""Which character encoding a file without a byte order mark has, by its bytes. No torch.

Only what reads as text is accepted: a guess that would put symbols or capitals inside words is none. The encodings of
DOS and of old Macintosh computers are found out in this way to be others, and are not recognized.
"""

from __future__ import annotations

import codecs
import re
from itertools import pairwise

USUAL = "cp1252"
"""The encoding of a text in Latin letters that is too short to tell, as browsers assume."""
_SAMPLE = 20_000
"""Bytes of lines with other characters than ASCII's from which the encoding is found out."""
_ENOUGH = 8
"""Characters other than ASCII's from which an encoding can be told."""
_SURE = 0.3
"""Confidence of ``chardet`` below which it is mostly wrong."""
_RARE = 20
"""A text is in another encoding if more than one word in so many has a symbol or a capital inside."""
_MIXED = 4
"""Bytes of a single-byte encoding that happen to be UTF-8 are fewer than one character in so many."""
_CONTROL = re.compile("[\x80-\x9f]")
_WORD = re.compile(r"\w*[^\x00-\x7f]\w*")
_PART = re.compile(r"[^\s,;|]*[^\x00-\x7f][^\s,;|]*")
_WITHIN = "’‘ʼ·–—…"
"""Symbols that may stand between letters."""
_LONGEST = 30


def guess(data: bytes) -> str | None:
    """Return the encoding of bytes that are no UTF-8, or that are UTF-16 by their NULs; None if it is not clear."""
    wide = _wide(data)
    if wide or b"\0" in data:
        return wide
    if is_mixed(data):
        return None
    sample = _sample(data)
    for name in _candidates(sample):
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        several = len(text) < len(data)  # bytes for a character
        if not _CONTROL.search(text) and (several or _reads_well(sample.decode(name))):
            return name
    return None


def is_mixed(data: bytes) -> bool:
    """Return whether some lines are UTF-8 and others are not, or a text in UTF-8 is damaged."""
    valid = [_is_utf8(line) for line in data.split(b"\n") if not line.isascii()]
    good, bad = _characters(data)
    return sum(valid) * _MIXED > len(valid) or (good * _MIXED > bad and not _is_double(data))


def example(text: str) -> str | None:
    """Return a word with a character that is not ASCII, which shows whether a text was read rightly; None if none."""
    found = _WORD.search(text)
    return found[0][:_LONGEST] if found else None


def _candidates(sample: bytes) -> list[str]:
    """Return the encodings to try, the likeliest first."""
    high = sum(byte > 127 for byte in sample)
    found = []
    if high >= _ENOUGH:
        import chardet

        told = chardet.detect(sample)
        if told["encoding"] and told["confidence"] >= _SURE:
            found.append(codecs.lookup(told["encoding"]).name)
    letters = sum(chr(byte).isalpha() for byte in sample if byte < 128)
    if high < _ENOUGH or (not found and high * 2 < letters):
        found.append(USUAL)
    return [name for name in found if not name.startswith("utf")]  # a line may begin like a byte order mark


def _reads_well(text: str) -> bool:
    words = _PART.findall(text)
    return sum(map(_is_odd, words)) * _RARE <= len(words)


def _is_odd(word: str) -> bool:
    """Return whether a symbol or a capital stands inside a word, at a character that is not ASCII."""
    for one, other in pairwise(word):
        if max(one, other) > "\x7f" and one.islower() and other.isupper():
            return True
    for one, middle, other in zip(word, word[1:], word[2:], strict=False):
        if middle > "\x7f" and one.isalpha() and other.isalpha():
            symbol = not middle.isalpha() and middle not in _WITHIN
            if symbol or (middle.isupper() and other.islower()):
                return True
    return False


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_double(data: bytes) -> bool:
    """Return whether bytes are a text of an encoding with several bytes for a character, of which some may be UTF-8."""
    import chardet

    told = chardet.detect(_sample(data))
    try:
        return told["confidence"] > 0.9 and len(data.decode(told["encoding"] or "ascii")) < len(data)
    except UnicodeDecodeError:
        return False


def _characters(data: bytes) -> tuple[int, int]:
    """Return how many characters other than ASCII's a text has as UTF-8, and how many places that are no UTF-8."""
    read = data.decode("utf-8", "replace")
    bad = read.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    return sum(character > "\x7f" for character in read) - bad, bad


def _wide(data: bytes) -> str | None:
    """Return the form of UTF-16 in which every other byte of ASCII's characters is NUL; None if it is none."""
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if data[start::2].count(0) * 5 > len(data):
            try:
                data.decode(name)
            except UnicodeDecodeError:
                continue
            return name
    return None


def _sample(data: bytes) -> bytes:
    lines, size = [], 0
    for line in data.split(b"\n"):
        if not line.isascii():
            lines.append(line)
            size += len(line)
            if size > _SAMPLE:
                break
    return b"\n".join(lines)
