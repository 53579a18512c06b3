"""What is on this machine of a base model, without its weights: config and tokenizer. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.models import files, find
from peftbench.records import Base

_DESCRIPTION = tuple(f"*{suffix}" for suffix in files.DESCRIPTION)
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def folder(base: Base) -> Path | None:
    """Return the folder of a base model if its config is on this machine, in the hub's cache too; else None."""
    path = _cached(base) if downloadable(base) else find.local_folder(base)
    return path if path and find.is_folder(path) and (path / "config.json").is_file() else None


def described(base: Base) -> Path | None:
    """Return the same folder; of a hub id that is not here, config and tokenizer are downloaded.

    Raises:
        UserError: if the hub id does not exist or the hub cannot be reached.
    """
    found = folder(base)
    return find._from_hub(base, _DESCRIPTION) if found is None and downloadable(base) else found


def downloadable(base: Base) -> bool:
    """Return whether a base model is named by a hub id; False for a name that is nothing at all."""
    try:
        return find.on_hub(base)
    except UserError:
        return False


def complete(base: Base) -> Path | None:
    """Return the folder of a base model with its weights, which are downloaded unless they are here.

    Raises:
        UserError: as ``find.resolve_base``.
    """
    return find.resolve_base(base)


def config(path: Path) -> dict[str, Any]:
    """Return the contents of a folder's ``config.json``; empty if it cannot be read, which loading it reports."""
    try:
        return files.read_mapping(path / "config.json")
    except UserError:
        return {}


def has_tokenizer(path: Path) -> bool:
    """Return whether a folder has a tokenizer; a shape without one gets that of the built-in base model."""
    return any((path / name).is_file() for name in _TOKENIZERS)


def _cached(base: Base) -> Path | None:
    """Return the folder of a hub id in the hub's cache; None if its config is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(base.source, "config.json", revision=base.revision)
    except HFValidationError:  # no hub id; refused where the base model is resolved
        return None
    return Path(found).parent if isinstance(found, str) else None
