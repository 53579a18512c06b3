"""The content of a file: decompressed and decoded. No torch."""

from __future__ import annotations

import codecs
import io
import lzma
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from peftbench.errors import UserError
from peftbench.tasks.formats import encodings

_MAGIC = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\x00"}
"""Suffix of a compressed file -> the bytes that it begins with."""
COMPRESSIONS = tuple(_MAGIC)
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks; that of UTF-32 begins with that of UTF-16."""
_DAMAGE = "\ufffd"
LARGEST = 4 * 2**30
"""Most bytes of a data file, decompressed. In memory its records take several times as much."""
UNSUSPICIOUS, LARGEST_RATIO = 256 * 2**20, 100
"""Bytes that any file may have decompressed, and how often its own size a larger one may have. Text compresses about
tenfold; what compresses a thousandfold was made to fill the memory."""
_LONGEST_LINE = 64 * 2**20
_BLOCK = 16 * 2**20
_OF_LINES = (".csv", ".tsv", ".jsonl", ".ndjson")


def kind(path: Path) -> str:
    """Return a file's suffix in lower case, without that of a compression: ``.csv`` for ``Data.CSV.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def content(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """Return a file's bytes, decompressed if it begins like a compressed file, and notes.

    Raises:
        UserError: if it is a zip archive, such as an Excel workbook, or if it or a line of it is too large.
        OSError, EOFError, ValueError: if it cannot be read or decompressed.
    """
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        named = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else None
        found = next((suffix for suffix, magic in _MAGIC.items() if start.startswith(magic)), None)
        if start.startswith(b"PK\x03\x04"):
            raise UserError(f"{path} is a zip archive (an Excel workbook is one): unpack it, or save its table as CSV")
        try:
            data = _bounded(path, _decompressing(file, found))
        except (zlib.error, lzma.LZMAError) as error:
            raise ValueError(f"its compressed data is damaged: {error}") from None
    if found is None:
        return data, (f"not compressed, although its name ends in {named}",) if named and data else ()
    return data, () if named == found else (f"compressed as {found[1:]}, although its name does not end in {found}",)


def _decompressing(file: BinaryIO, suffix: str | None) -> Any:
    """Return a file whose bytes are those of a compressed one."""
    if suffix is None:
        return file
    if suffix == ".gz":
        import gzip

        return gzip.GzipFile(fileobj=file)
    if suffix == ".bz2":
        import bz2

        return bz2.BZ2File(file)
    if suffix == ".xz":
        return lzma.LZMAFile(file)
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file), "zstd")


def _bounded(path: Path, stream: Any) -> bytes:
    """Return all bytes of a stream; refuse more than a file of that size can sensibly have, before they are read."""
    most, lines = check_size(path, 0), kind(path) in _OF_LINES
    out, size, line = io.BytesIO(), 0, 0
    while block := stream.read(_BLOCK):
        size += len(block)
        if size > most:
            check_size(path, size)
        last = max(block.rfind(b"\n"), block.rfind(b"\r"))
        line = line + len(block) if last < 0 else len(block) - 1 - last
        if lines and line > _LONGEST_LINE:
            raise UserError(f"{path} has a line of more than {_LONGEST_LINE:,} bytes: is it a {kind(path)} file?")
        out.write(block)
    return out.getvalue()


def check_size(path: Path, size: int) -> int:
    """Return the most bytes that a file may have decompressed.

    Raises:
        UserError: if it has more.
    """
    stored = path.stat().st_size
    most = min(LARGEST, max(UNSUSPICIOUS, stored * LARGEST_RATIO))
    if max(size, stored) > most:
        what = "more" if most == LARGEST else f"more, from {stored:,} bytes of the file"
        raise UserError(f"{path}: {most:,} bytes and {what}; allowed: at most {most:,}: give a part of the data")
    return most


def decoded(path: Path, data: bytes, encoding: str | None) -> tuple[str, tuple[str, ...]]:
    """Return bytes as text, and notes on how they were read.

    A byte order mark decides; else the given encoding; else UTF-8 if the bytes are; else it is found out from them.

    Raises:
        UserError: if the bytes are no text in that encoding, with the line.
    """
    mark = next((name for start, name in _MARKS if data.startswith(start)), None)
    known = mark or encoding or "utf-8"
    try:
        text = data.decode(known)
    except UnicodeDecodeError as error:
        found = None if mark or encoding else encodings.guess(data)
        if found is None:
            raise UserError(_refusal(path, data, known, error, bool(encoding and not mark))) from None
        return _guessed(data, found)
    if mark is None and encoding is None and "\0" in text:
        found = encodings.guess(data)
        if found:
            return _guessed(data, found)
    return text, _said(text, data, mark, encoding)


def _refusal(path: Path, data: bytes, known: str, error: UnicodeDecodeError, given: bool) -> str:
    """Return why bytes are no text in an encoding, and what to do about it."""
    line = data.count(b"\n", 0, error.start) + 1
    how = "give the file's own encoding: `encoding: cp1252` (Western European Windows), utf-16, shift_jis, ..."
    if given:
        how = (
            "the key `encoding` is for all files of the task; without it, the encoding of each file is found out from "
            "its bytes"
        )
    elif encodings.is_mixed(data):
        how = f"other lines are UTF-8, so the file is damaged or made of several: mend that line, or {how}"
    return f"{path}, line {line}: byte 0x{data[error.start]:02x} is no text in {known}; {how}"


def _guessed(data: bytes, encoding: str) -> tuple[str, tuple[str, ...]]:
    """Return bytes in an encoding that was found out from them, with a note that shows whether it is the right one."""
    text = data.decode(encoding)
    word = encodings.example(text)
    shown = f", with words like {word!r}" if word else ""
    note = f"not UTF-8; read as {encoding}, by its bytes{shown} (the key `encoding` sets another)"
    return text, (note, *_damage(text))


def _said(text: str, data: bytes, mark: str | None, encoding: str | None) -> tuple[str, ...]:
    """Return notes on the encoding: what differs from what the suite says, and what looks wrong."""
    notes = []
    if mark and (mark != "utf-8-sig" or (encoding and codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"))):
        if not encoding or codecs.lookup(encoding).name != codecs.lookup(mark).name:
            notes.append(f"read as {mark.removesuffix('-sig')}, by its byte order mark")
    elif encoding and not data.isascii() and codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
        try:
            data.decode("utf-8")
            notes.append(
                f"read as {encoding}, but its bytes are also valid UTF-8: is that the right encoding? Without "
                "the key, each file's own is found out"
            )
        except UnicodeDecodeError:
            pass
    return (*notes, *_damage(text))


def _damage(text: str) -> tuple[str, ...]:
    damaged = text.count(_DAMAGE)
    if not damaged:
        return ()
    return (f"{damaged:,} replacement characters (U+FFFD): text was lost when the file was made",)
