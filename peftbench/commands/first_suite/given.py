"""What the user of ``peftbench init`` has fixed: methods, seeds, scored examples. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.commands import counts
from peftbench.errors import UserError, nearest, unknown
from peftbench.methods import METHODS, peft_fields
from peftbench.suite.select import read_seeds

_BASE = "base"
"""The untuned base model, which is in every suite that is written."""


@dataclass(frozen=True)
class Given:
    """What is not chosen, as it was given; empty or None where it is to be chosen."""

    methods: tuple[str, ...] = ()
    seeds: int | tuple[int, ...] | None = None
    """How many, or which."""
    limit: int | None = None
    """Most scored examples."""


_LARGEST_SEED = 2**32 - 1
NOTHING_GIVEN = Given()


def read(methods: str | None, seeds: str | None, limit: str | None) -> Given:
    """Return the values of ``--methods``, ``--seeds`` and ``--limit``.

    Raises:
        UserError: if a method does not exist, is given twice or takes more than a name, or if a number is none.
    """
    return Given(() if methods is None else _methods(methods), _seeds(seeds), _limit(limit))


def _methods(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    allowed = [name for name in METHODS if not METHODS[name].variants]
    if not all(names):
        raise UserError(f"--methods: given {text!r}; allowed: names with commas between them: lora,full")
    for name in names:
        if name not in allowed:
            tuner = peft_fields.how_to_write(name) if name in METHODS or nearest(name, allowed) is None else None
            if tuner or name in METHODS:
                how = tuner or f"{name} needs the name of a tuner; write {name}: {{type: NAME}} under methods"
                raise UserError(f"--methods: {name!r} is added to the written suite by hand: {how}")
            raise UserError(f"--methods: {unknown('method', name, allowed)}")
        if names.count(name) > 1:
            raise UserError(f"--methods: {name!r} is given twice")
    found = tuple(name for name in names if name != _BASE)
    if not found:
        raise UserError(f"--methods: given {text!r}; at least one method that trains is needed, like lora")
    return found


def _seeds(text: str | None) -> int | tuple[int, ...] | None:
    found = None if text is None else read_seeds(text)
    if isinstance(found, list):
        if len(set(found)) < len(found) or max(found) > _LARGEST_SEED:
            raise UserError(f"--seeds: given {text!r}; allowed: different seeds, each from 0 to 2^32 - 1")
        return tuple(found)
    if found is not None and not 1 <= found <= 10_000:
        raise UserError(f"--seeds: given {text!r}; allowed: 1 to 10000 seeds, or a list of seeds (0,5 or 100,)")
    return found


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    found = counts.read(text)
    if found is None:
        raise UserError(f"--limit: given {text[:60]!r}; allowed: a number of scored examples, at least 1, like 200")
    return found
