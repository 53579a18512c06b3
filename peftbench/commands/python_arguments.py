"""The arguments of the Python functions, as the command line takes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any

from peftbench.errors import UserError

Only = Mapping[str, Any] | Iterable[str]
"""``{"method": ["lora", "full"], "rank": 8}``, or the texts that ``--only`` takes."""
Overrides = Mapping[str, Any] | Iterable[str]
"""``{"train.steps": 20}``, or the texts that ``--set`` takes."""


def overrides(given: Overrides) -> tuple[str, ...]:
    """Return overrides as ``--set`` takes them."""
    if isinstance(given, Mapping):
        return tuple(f"{key}={_yaml(value)}" for key, value in given.items())
    return _texts("overrides", given)


def _yaml(value: Any) -> str:
    """Return a value as YAML in one line; text is quoted only if it would be read as something else."""
    from peftbench.suite.yaml_lines import parse

    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        try:
            if parse(value, "")[0] == value:
                return value
        except UserError:
            pass
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """Return a value that JSON does not know as one that it does: paths as text, sequences as lists."""
    return os.fspath(value) if isinstance(value, os.PathLike) else list(value)


def only(given: Only) -> tuple[str, ...]:
    """Return a selection in the format that ``--only`` accepts."""
    if not isinstance(given, Mapping):
        return _texts("only", given)
    found = []
    for field, values in given.items():
        each = [values] if isinstance(values, str) or not isinstance(values, Iterable) else values
        found.append(f"{field}={','.join('none' if value is None else str(value) for value in each)}")
    return tuple(found)


def _texts(name: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise UserError(f"{name}: given the text {given!r}; allowed: a mapping, or a list of such texts")
    return tuple(given)


def seeds(given: int | Sequence[int]) -> str:
    """Return seeds as ``--seeds`` takes them: a number of seeds, or a list with a comma at its end."""
    try:
        if isinstance(given, bool | str):
            raise TypeError
        return "".join(f"{index(seed)}," for seed in given) if isinstance(given, Iterable) else str(index(given))
    except TypeError:
        raise UserError(f"seeds: given {given!r}; allowed: a number of seeds, or a list of the seeds") from None


def path(name: str, given: Any) -> str | os.PathLike[str]:
    """Return a file, folder or URL as it is given.

    Args:
        name: the argument, for the message.
        given: its value.

    Raises:
        UserError: if it is neither text nor a path.
    """
    if not isinstance(given, str | os.PathLike):
        raise UserError(f"{name}: given {given!r:.60}; allowed: a path, as text or pathlib.Path, or a URL")
    return given


def watch(given: Any) -> Mapping[str, Any]:
    """Return keys of ``watch:``; none for None.

    Raises:
        UserError: if it is no mapping.
    """
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f'watch: given {given!r:.60}; allowed: a mapping, like {{"judge": ["score"]}}')
    return given or {}


def size(given: int | str | None) -> str | None:
    """Return a size as ``--budget`` takes it; a number is of bytes."""
    return f"{given}B" if isinstance(given, int) else given
