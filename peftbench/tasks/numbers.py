r"""Read numbers in answers: one parser for predictions and targets, which reads a number for certain or not at all.

Conventions, those of GSM8K's answers: a comma separates thousands and a point decimals, so 1,234 is 1234 and 1.234 is
less than 2. What a number may look like:

- minus signs: ``-``, U+2212 and other hyphens and dashes directly before the number and not after a word, digit or
  closing bracket (12-3 is not -3); ``minus`` and ``negative``; U+2212 and ``= -`` also with a space behind them.
- thousands: groups of three digits after a comma, apostrophe, underscore, or plain, thin or no-break space; after
  points if there are several groups or a decimal comma (1.234.567 and 1.234,5); groups as in India (1,00,000).
- exponents: 2e3, 2 x 10^3, 10³.
- fractions: 3/4, 3 / 4, ½, 1 1/2, 1½, LaTeX's ``\frac{3}{4}``.
- currency before or after, a percent sign, units and words around: left out, so 18 % is 18 and not 0.18.

Ambiguous, and so no number: a comma that may be a decimal comma (12,50 and 0,5; but 1,2 is a list of two numbers),
other mixed or malformed separators (1,000,00; 1.2.3), times, ratios and dates (3:30, 2024-07-26, 1/2/2024), powers
other than of ten, a minus sign with a space behind it after a word or at the start (``- 5``, ``x minus 5``), ± and an
em dash directly before a number.

Not read: number words, Roman numerals, negative numbers in brackets, hexadecimals, numbers of more than 300 characters
or with exponents beyond 300. Words and letters for a scale are units like any other: 5 million is 5, as in GSM8K, whose
questions ask for millions. No expression is computed except a fraction.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_LONGEST = 300
"""Most characters of a number, and the largest exponent."""
_SEEN = 24
"""Number of characters before a number that decide on its sign."""
_SPACES = " \u00a0\u2007\u2009\u202f"
_CURRENCY = r"(?:(?:US|AU?|CA?|NZ|HK|R|S)?[$€£¥₹₽₩₺₪₫₴₦฿₿¢＄￡￥]|\b(?:USD|EUR|GBP|JPY|CHF|CAD|AUD|INR|CNY)\b)"
_RUN = (
    rf"(?:(?<![\d.,])[1-9]\d{{0,2}}(?:[{_SPACES}]\d{{3}})+(?![\d/⁄∕])(?:[.,]\d+(?![.,]?\d))?"
    r"|\d+(?:[.,'’_:]\d+)*|\.\d+)"
)
_SLASH = r"\s*[/⁄∕]\s*"
_NUMBER = re.compile(
    rf"""
    (?P<date>\d{{4}}-\d\d?-\d\d?(?!\d))
    | (?P<chain>{_RUN}(?:{_SLASH}{_RUN}){{2,}})
    | (?:(?P<units>\d+)[{_SPACES}]+(?={_RUN}{_SLASH}\d))?
      (?P<top>{_RUN}) (?:{_SLASH}(?P<bottom>{_RUN}))?
      (?: [eE](?P<e>[-+\u2212]?\d+)(?!\w)
        | \s*[x×*·⋅∙]\s*10\s*(?:\^|\*\*)\s*[({{]?(?P<ten>[-+\u2212]?\d+)[)}}]?
        | \s*(?:\^|\*\*)\s*[({{]?(?P<power>[-+\u2212]?\d+)[)}}]? )?
    """,
    re.VERBOSE,
)
_BEFORE = re.compile(
    rf"(?:(?P<sign>[-+±—–\u2212])(?P<gap>\s*)(?:{_CURRENCY}\s?)?|(?P<word>\b(?:minus|negative))\s+(?:{_CURRENCY}\s?)?)$",
    re.IGNORECASE,
)
_SAYS = re.compile(r"\b(?:is|are|was|were|be|equals?|to)\s*$", re.IGNORECASE)
"""Words after which ``minus`` is a sign and no subtraction."""
_AROUND = re.compile(rf"(?:[-+\u2212–]?\s?{_CURRENCY})?\s?[-+\u2212–]?\s?")
_AFTER = re.compile(rf"\s?(?:{_CURRENCY}|%)?\.?")
_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" \1/\2"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,;:]"), "\u2009"),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\(?=[$%])"), ""),
    (re.compile(r"\\(?:times|cdot)\b"), "×"),
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_POWERS = re.compile(r"(?<=10)[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_FRACTIONS = {
    code: f" {top}/{bottom}"
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189)
    for top, bottom in [unicodedata.normalize("NFKC", chr(code)).split("⁄")]
}
"""Characters such as ½ -> " 1/2"."""
_HYPHENS = str.maketrans("\u2010\u2011\ufe63\uff0d", "----")


@dataclass(frozen=True)
class Number:
    """A number in a text."""

    value: Fraction | None
    """None if it is ambiguous."""
    start: int
    """Position of its first digit or point in ``prepared`` text."""
    end: int


def prepared(text: str) -> str:
    """Return a text in which fractions, powers of ten and LaTeX are written with plain characters."""
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    text = _POWERS.sub(lambda found: "^" + found[0].translate(_SUPERSCRIPTS), text).translate(_HYPHENS)
    return text.translate(_FRACTIONS)


def numbers(text: str) -> Iterator[Number]:
    """Yield the numbers of a ``prepared`` text in their order, ambiguous ones included."""
    for found in _NUMBER.finditer(text):
        sign = _sign(text[max(0, found.start() - _SEEN) : found.start()])
        size = _size(found) if sign is not None and len(found[0]) <= _LONGEST else None
        yield Number(None if size is None or sign is None else sign * size, found.start(), found.end())


def only(text: str) -> str | None:
    """Return the number that a text is, in canonical form; None if it is anything else, or more than a number."""
    plain = prepared(text).strip()
    each = list(numbers(plain))
    if len(each) != 1 or each[0].value is None:
        return None
    around = _AROUND.fullmatch(plain[: each[0].start]) and _AFTER.fullmatch(plain[each[0].end :])
    return written(each[0].value) if around else None


def written(value: Fraction) -> str:
    """Return a number in canonical form: a decimal number without trailing zeros, or a reduced fraction."""
    places = rest = 0
    for rest in range(4 * _LONGEST):
        if 10**rest % value.denominator == 0:
            places = rest
            break
    else:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    whole, decimals = (digits[:-places], f".{digits[-places:]}") if places else (digits, "")
    return f"{'-' if value < 0 else ''}{whole}{decimals}"


def _sign(before: str) -> int | None:
    """Return 1 or -1 for a number after a text; None if that is ambiguous."""
    found = _BEFORE.search(before)
    if found is None:
        return 1
    rest = before[: found.start()]
    previous = rest.rstrip()[-1:]
    subtracts = previous.isdigit() or previous in tuple(")]}%")
    opens = not rest.strip() or previous in ("=", "(", ":") or bool(_SAYS.search(rest))
    if found["word"]:
        return -1 if opens or found["word"].lower() == "negative" else 1 if subtracts else None
    sign, touches = found["sign"], not found["gap"]
    if sign in "+±":
        return 1 if sign == "+" else None
    if touches:
        follows = bool(re.search(r"[\w)\]}%]$", rest))
        return 1 if follows else None if sign == "—" else -1
    if subtracts or (sign in "–—" and previous):  # a dash between spaces is punctuation
        return 1
    return -1 if previous in ("=", "(") or (sign == "\u2212" and opens) else None


def _size(found: re.Match[str]) -> Fraction | None:
    """Return the number without its sign; None if it is ambiguous."""
    if found["date"] or found["chain"]:
        return None
    value = _digits(found["top"])
    if value is None:
        return None
    if found["bottom"]:
        bottom = _digits(found["bottom"])
        if not bottom:
            return None
        value /= bottom
        if found["units"]:
            if value >= 1:  # two numbers, not a mixed one
                return None
            value += int(found["units"])
    elif found["units"]:
        return None
    exponent = int((found["e"] or found["ten"] or found["power"] or "0").replace("\u2212", "-"))
    if found["power"]:
        if found["top"] != "10":
            return None
        value = Fraction(1)
    return value * Fraction(10) ** exponent if abs(exponent) <= _LONGEST else None


def _digits(run: str) -> Fraction | None:
    """Return the number that digits with separators are; None if it is ambiguous."""
    marks = re.sub(r"\d", "", run)
    whole, decimals = run, ""
    if marks.count(".") == 1 and marks[-1] == ".":
        whole, _, decimals = run.partition(".")
    elif marks.count(",") == 1 and marks[-1] == "," and len(marks) > 1:
        whole, _, decimals = run.partition(",")
    integer = _grouped(whole, lists=not decimals) if whole else Fraction(0)
    if integer is None:
        return None
    return integer + (Fraction(int(decimals), 10 ** len(decimals)) if decimals else 0)


def _grouped(run: str, lists: bool) -> Fraction | None:
    """Return the whole number that digits with at most separators between groups are; None if it is ambiguous.

    Args:
        run: the digits.
        lists: whether they may be a list of numbers, of which the last one counts.
    """
    marks = set(re.sub(r"\d", "", run))
    if not marks:
        return Fraction(int(run))
    if len(marks) > 1 or ":" in marks:
        return None
    (mark,) = marks
    first, *others = run.split(mark)
    if first[0] != "0" and len(first) <= 3 and {*map(len, others)} == {3}:
        return Fraction(int(run.replace(mark, "")))
    if mark != ",":
        return None
    if first[0] != "0" and len(first) <= 2 and len(others) > 1 and [*map(len, others)] == [2] * (len(others) - 1) + [3]:
        return Fraction(int(run.replace(mark, "")))
    longest = max(map(len, (first, *others)))
    is_list = first[0] != "0" and (longest == 1 or (longest == 2 and len(others) > 1))
    return Fraction(int(others[-1])) if lists and is_list else None
