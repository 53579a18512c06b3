"""Selection of a suite's trials: ``--only`` and ``--seeds``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from peftbench.errors import UserError, nearest, unknown
from peftbench.methods import METHODS, peft_fields
from peftbench.records import Trial

FIELDS = ("method", "precision", "rank", "seed", "cell")
_NONE = "none"
"""The value that selects trials without a rank or seed."""


def read_only(only: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return the (field, value) pairs of ``method=lora,full`` and the like.

    Raises:
        UserError: if a text does not have the form FIELD=VALUE, or its field is unknown.
    """
    pairs = []
    for text in only:
        field, equals, values = text.partition("=")
        one = field.strip() == "cell"  # its name may have commas and equals signs
        named = [value.strip() for value in ([values] if one else values.split(","))]
        fields = [value.partition("=")[0].strip() for value in named if "=" in value]
        if equals and not one and any(name in FIELDS for name in fields):
            separate = " ".join(f"--only {part}" for part in _split_fields(text))
            raise UserError(f"--only: given {text!r}; a comma separates values of one field: write {separate}")
        if not equals or not all(named):
            raise UserError(f"--only: given {text!r}; allowed: FIELD=VALUE or FIELD=VALUE,VALUE: method=lora,full")
        if field.strip() not in FIELDS:
            raise UserError(f"--only: {unknown('field', field.strip(), FIELDS)}")
        pairs += [(field.strip(), value) for value in named]
    return tuple(pairs)


def _split_fields(text: str) -> list[str]:
    """Return ``a=b,c,d=e`` as ``a=b,c`` and ``d=e``."""
    parts: list[str] = []
    for part in text.split(","):
        if "=" in part or not parts:
            parts.append(part.strip())
        else:
            parts[-1] += f",{part.strip()}"
    return parts


def read_seeds(text: str) -> int | list[int]:
    """Return ``"3"`` as a count and ``"0,5"`` (or ``"5,"``) as the seeds themselves.

    Raises:
        UserError: if it is neither.
    """
    parts = [part.strip() for part in text.split(",")]
    if "," in text and parts[-1] == "":
        parts.pop()
    if not parts or not all(re.fullmatch("[0-9]{1,12}", part) for part in parts):
        raise UserError(
            f"--seeds: given {text[:60]!r}; allowed: how many (3 for 0, 1, 2) or a list of seeds (0,5 or 100,)"
        )
    return [int(part) for part in parts] if "," in text else int(text)


def select(trials: tuple[Trial, ...], only: Sequence[tuple[str, str]]) -> tuple[Trial, ...]:
    """Return the trials that match: values of one field are alternatives, different fields must all match.

    Raises:
        UserError: if a value, or the combination of values, matches no trial.
    """
    wanted: dict[str, list[str]] = defaultdict(list)
    for field, value in only:
        known = list(dict.fromkeys(_value(trial, field) for trial in trials))
        if value not in known:
            hint = _how_to_add(value, trials) if field == "method" else None
            near = nearest(value, known)
            hint = hint or (f" did you mean {near!r}?" if near else "")
            raise UserError(f"--only {field}={value}: no trial has this value;{hint} allowed: {', '.join(known)}")
        wanted[field].append(value)
    found = tuple(t for t in trials if all(_value(t, field) in values for field, values in wanted.items()))
    if not found and trials:
        asked = " ".join(f"{field}={','.join(values)}" for field, values in wanted.items())
        raise UserError(f"--only {asked}: no trial matches all of these; the cells are: {', '.join(_cells(trials))}")
    return found


def _how_to_add(name: str, trials: Iterable[Trial]) -> str | None:
    """Return how to select, or to have in the suite, a method that exists; None if there is no method of the name."""
    tuner = peft_fields.tuner_like(name)
    if tuner and any(trial.options.get(peft_fields.TYPE) == tuner for trial in trials):
        return f" {tuner} is a tuner of the method peft: --only method=peft;"
    if advice := peft_fields.how_to_write(name):
        return f" the suite does not have it, but {advice};"
    if name not in METHODS:
        return None
    how = f"peft: {{{peft_fields.TYPE}: NAME}} under methods adds a tuner" if METHODS[name].variants else ""
    return f" the suite does not have it: {how or f'--set methods.{name}= adds it'};"


def _value(trial: Trial, field: str) -> str:
    value = getattr(trial, field)
    return _NONE if value is None else str(value)


def _cells(trials: Iterable[Trial]) -> list[str]:
    return list(dict.fromkeys(trial.cell for trial in trials))
