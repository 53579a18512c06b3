"""``peftbench list base``: how one base model is built."""

from __future__ import annotations

import dataclasses
import json

from peftbench.commands.terminal import hanging
from peftbench.errors import Unsupported, UserError
from peftbench.models import builtin, find, here
from peftbench.records import Base
from peftbench.report.notes import anatomy as words

_LABEL = 15
"""Width of the titles of facts."""


def command(name: str | None, as_json: bool) -> int:
    """Print how a base model is built and return the exit code, 0.

    Args:
        name: a built-in base model, a folder, a hub id or a shape.
        as_json: whether to print a record for programs; what is not known is null.

    Raises:
        UserError: if there is no such base model, or transformers cannot build it.
    """
    if not name:
        raise UserError(
            "list base: which one? give a folder, a hub id, a built-in base "
            f"({', '.join(builtin.BASES)}) or a shape: peftbench list base {builtin.BASES[0]}"
        )
    asked = base(name)
    folder = here.described(asked) if here.downloadable(asked) else None
    folder = folder or find.config_folder(asked)
    from peftbench.models.anatomy import reading

    try:
        found = reading.read(folder)
    except Unsupported as error:
        raise UserError(f"{name}: {str(error).removeprefix('base: ')}") from error
    record = {"base": find.base_name(asked), **dataclasses.asdict(found), "tokens_per_word": None}
    if as_json:
        print(json.dumps(record, indent=2))
        return 0
    print(f"{record['base']}{': a shape, a config without weights' if asked.random_weights else ''}")
    for title, text in words.facts(record):
        print("\n".join(hanging(f"  {title:{_LABEL}}", text)))
    return 0


def base(name: str) -> Base:
    """Return the base model that a name stands for: a shape if no folder and no built-in base model has the name."""
    plain = Base(name)
    is_shape = name in builtin.SHAPES and name not in builtin.BASES and not find.is_folder(find.local_folder(plain))
    return Base(name, random_weights=True) if is_shape else plain
