"""Text for LaTeX: escapes that pdflatex with T1 fonts prints, whatever a model or a method is called."""

from __future__ import annotations

import re
import unicodedata

from peftbench.records.wording import printable

_MARKUP = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "✓": r"$\surd$",
    "†": r"$\dagger$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∈": r"$\in$",
    "∉": r"$\notin$",
    "≠": r"$\neq$",
    "∞": r"$\infty$",
    "µ": r"$\mu$",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    **{char: f"\\{char}" for char in "_%&#$"},
}
_T1 = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿŁłŒœŠšŽžČčĆćŃńŚśŹźŻżĞğİıŞşŐőŰűŘřĚěŮů")
"""Letters beyond ASCII that T1 fonts have."""


def escaped(text: str) -> str:
    """Return a text on one line for the body of a LaTeX document.

    Characters that T1 fonts lack are written without their accents, or by their numbers: ``[U+4E2D]``.
    """
    return "".join(map(_escaped, one_line(text)))


def _escaped(char: str) -> str:
    if char in _MARKUP:
        return _MARKUP[char]
    if char.isascii() or char in _T1:
        return char
    plain = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return "".join(_MARKUP.get(one, one) for one in plain) or f"[U+{ord(char):04X}]"


def one_line(text: str) -> str:
    """Return the text on one line: every run of white space or control characters is one space."""
    return re.sub(r"\s+", " ", printable(text))
