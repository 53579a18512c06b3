"""Find the files of a base model: built-in, a local folder, a shape (config without weights) or a hub id. No torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftbench.errors import UserError, nearest, unknown
from peftbench.models import builtin
from peftbench.records import Base

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_CONTENT = (".safetensors", ".json", ".model", ".txt", ".jinja", ".py")
"""Suffixes of the files in a model folder that determine what the model computes."""


def resolve_base(base: Base) -> Path:
    """Return the local folder of a base model; a hub id is downloaded into the hub's cache unless it is there already.

    Raises:
        UserError: if the folder or hub model does not exist, or has no config or no safetensors weights.
    """
    if base.random_weights:
        return _shape(base.source)
    path = builtin.folder(base.source) if base.source in builtin.BASES else Path(base.source).expanduser()
    if on_hub(base):
        path = _from_hub(base)
    problem = _why_no_model(path)
    if problem:
        raise UserError(f"base {base.source!r}: {problem}")
    return path


def config_folder(base: Base) -> Path:
    """Return a folder with a base model's config. Weights may be missing; of a hub id, only the config is downloaded.

    Raises:
        UserError: if there is no such config.
    """
    if base.random_weights:
        return _shape(base.source)
    if on_hub(base):
        return _from_hub(base, ["config.json"])
    path = builtin.folder(base.source) if base.source in builtin.BASES else Path(base.source).expanduser()
    if not (path / "config.json").is_file():
        raise UserError(f"base {base.source!r}: {_why_no_model(path)}")
    return path


def read_config(base: Base) -> dict[str, Any]:
    """Return the contents of a base model's ``config.json``; empty if it is not on this machine or cannot be read."""
    path = builtin.folder(base.source) if base.source in builtin.BASES else Path(base.source).expanduser()
    path = builtin.shape(base.source) if base.random_weights else path
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # reported by the code that needs it
        return {}
    return found if isinstance(found, dict) else {}


def on_hub(base: Base) -> bool:
    """Return whether a base model is named by a hub id: it is neither built-in nor an existing folder.

    Raises:
        UserError: if its name is not a valid hub id either.
    """
    source = base.source
    if base.random_weights or source in builtin.BASES or Path(source).expanduser().is_dir():
        return False
    # a name without a slash that is close to an existing one is a typo, not a hub id
    if not _HUB_ID.fullmatch(source) or ("/" not in source and _hint(source)):
        raise UserError(_no_base(source))
    return True


def _shape(name: str) -> Path:
    """Return the folder with the config of a shape.

    Raises:
        UserError: if there is none.
    """
    path = builtin.shape(name)
    if not (path / "config.json").is_file():
        raise UserError(f"base.shape: no folder with a config.json, and {unknown('shape', name, builtin.SHAPES)}")
    return path


def _why_no_model(path: Path) -> str | None:
    """Return what is wrong with the files of a model folder; None if they are complete."""
    if not (path / "config.json").is_file():
        return "the folder has no config.json, so it is not a Hugging Face model folder"
    gone = sorted(p.name for p in path.iterdir() if not p.exists())
    if gone:
        return f"links to nothing, as after a broken download: {', '.join(gone)}"
    whole, index = path / "model.safetensors", path / "model.safetensors.index.json"
    try:
        json.loads((path / "config.json").read_text(encoding="utf-8"))
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"config.json or {index.name} cannot be read: {error}"
    missing = sorted(name for name in shards if not (path / name).is_file())
    if whole.is_file() or (shards and not missing):
        return None
    if missing:
        return f"weights are missing: {', '.join(missing)} (named in {index.name})"
    kinds = ", ".join(sorted({p.suffix for p in path.iterdir() if p.suffix})) or "nothing"
    return f"the folder has no weights {whole.name}, nor {index.name} (found: {kinds})"


def _no_base(source: str) -> str:
    return (
        f"base {source!r}: neither a built-in base ({', '.join(builtin.BASES)}) nor an existing folder nor a hub id "
        f"like 'organisation/model' or 'gpt2'{_hint(source)}"
    )


def _hint(source: str) -> str:
    """Return "; did you mean ...?" with the nearest existing folder or built-in base model, or nothing."""
    parent = Path(source).expanduser().parent
    siblings = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
    near = nearest(Path(source).name, [*siblings, *builtin.BASES])
    return f"; did you mean {near!r}?" if near else ""


def hint_of_shape(source: str) -> str:
    """Return how to write the shape whose name is nearest to a missing base model's, as the end of a message."""
    near = nearest(source, builtin.SHAPES)
    return f"; a shape is written base: {{shape: {near}}}" if near else ""


def _from_hub(base: Base, files: Sequence[str] = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*files]
    if base.trust_remote_code:
        patterns.append("*.py")
    asked = f"base {base.source!r}" + (f" at revision {base.revision!r}" if base.revision else "")
    try:
        return Path(snapshot_download(base.source, revision=base.revision, allow_patterns=patterns))
    except HFValidationError:
        raise UserError(_no_base(base.source)) from None
    except LocalEntryNotFoundError:
        state = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        raise UserError(
            f"{asked}: no such folder, and not in the hub's cache ({state}); give a local folder, or "
            f"download it first on a machine with a network{_hint(base.source)}{hint_of_shape(base.source)}"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(
            f"{asked}: no such folder, and the hub refused it: {reason}{_hint(base.source)}{hint_of_shape(base.source)}"
        ) from None


def base_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over names and contents of a model folder's config, weights, tokenizer and code files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in _CONTENT and p.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def base_name(base: Base) -> str:
    """Return a base model's name without machine-specific paths: the last part of a folder's path, or the hub id."""
    return _without_folders(base.source)


def _without_folders(source: str) -> str:
    path = Path(source).expanduser()
    return path.resolve().name if path.is_dir() else source
