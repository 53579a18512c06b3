"""Find the files of a base model: built-in, a local folder, a shape (config without weights) or a hub id. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from peftbench.errors import UserError, nearest, unknown
from peftbench.models import builtin, files, stored, unfit
from peftbench.records import Base

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_WANTED = ("*.safetensors", *(f"*{suffix}" for suffix in files.DESCRIPTION))
"""The files that are downloaded of a model on the hub."""
_LONGEST_HUB_ID = 96
_LONGEST_NAME = 200
"""Characters of a base model's name that are shown in a message."""


def resolve_base(base: Base) -> Path:
    """Return the local folder of a base model; a hub id is downloaded into the hub's cache unless it is there already.

    Raises:
        UserError: if the folder or hub model does not exist, has no config or no safetensors weights, is an adapter or
            has one beside its weights, or is stored quantized in a way that cannot be used.
    """
    if base.random_weights:
        return _shape(base)
    return _checked(base, _from_hub(base) if on_hub(base) else local_folder(base))


def cached(base: Base) -> Path | None:
    """Return the local folder of a base model without fetching anything; None for a hub id that is not cached whole.

    Raises:
        UserError: as ``resolve_base``, but not for a hub id that the cache does not have.
    """
    if not on_hub(base):
        return resolve_base(base)
    try:
        path = _from_hub(base, local=True)
        files.weight_files(path)
    except UserError:
        return None
    return _checked(base, path)


def out_of_reach(bases: Iterable[Base]) -> tuple[str, ...]:
    """Return the hub ids among base models that a run could not fetch: not cached, and HF_HUB_OFFLINE is set."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return tuple(base.source for base in dict.fromkeys(bases) if HF_HUB_OFFLINE and cached(base) is None)


def config_folder(base: Base) -> Path:
    """Return a folder with a base model's config. Weights may be missing; of a hub id, only the config is downloaded.

    Raises:
        UserError: if there is no such config, or its model is stored quantized in a way that cannot be used.
    """
    if base.random_weights:
        return _shape(base)
    if on_hub(base):
        return _with_own_code(base, _from_hub(base, ["config.json"]))
    return _checked(base, local_folder(base), weights=False)


def read_config(base: Base) -> dict[str, Any]:
    """Return the contents of a base model's ``config.json``; empty if it is not on this machine or cannot be read."""
    path = local_folder(base)
    try:
        return files.read_mapping(path / "config.json")
    except UserError:  # reported by the code that needs it
        return {}


def on_hub(base: Base) -> bool:
    """Return whether a base model is named by a hub id: it is neither built-in nor an existing folder.

    Raises:
        UserError: if its name is not a valid hub id either.
    """
    source = base.source
    if base.random_weights or is_folder(local_folder(base)):
        return False
    # a name without a slash that is close to an existing one is a typo, not a hub id
    if len(source) > _LONGEST_HUB_ID or not _HUB_ID.fullmatch(source) or ("/" not in source and _hint(source)):
        raise UserError(_no_base(source))
    return True


def folder_notes(bases: Iterable[Base]) -> tuple[str, ...]:
    """Return a sentence for each base model whose name could be a hub id too, but is a folder, which comes first."""
    return tuple(
        f"base {base.source!r} is read from the folder {local_folder(base).resolve()}, not from the hub"
        for base in dict.fromkeys(bases)
        if not base.random_weights
        and base.source not in builtin.BASES
        and _HUB_ID.fullmatch(base.source)
        and is_folder(local_folder(base))
    )


def storage_notes(bases: Iterable[Base]) -> tuple[str, ...]:
    """Return a sentence for each base model on this machine that is stored quantized: how, and in how many bits.

    Raises:
        UserError: if its files cannot be read.
    """
    found = []
    for base in dict.fromkeys(bases):
        path = None if base.random_weights or base.source in builtin.BASES else cached(base)
        said = stored.note(files.read_mapping(path / "config.json"), path) if path else None
        found += [f"base {base.source!r} is {said}"] if said else []
    return tuple(found)


def local_folder(base: Base) -> Path:
    """Return the folder that a base model's or a shape's name stands for, if it is not a hub id."""
    if base.random_weights:
        return builtin.shape(base.source) if base.source in builtin.SHAPES else _path(base.source)
    return builtin.folder(base.source) if base.source in builtin.BASES else _path(base.source)


def _path(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # ~ and the name of nobody
        return Path(source)


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False for what no file system takes as a name."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file system takes, or a folder that may not be read
        return False


def _shape(base: Base) -> Path:
    """Return the folder with the config of a shape.

    Raises:
        UserError: if there is none, or the config cannot be read or asks for quantized weights.
    """
    path, name = local_folder(base), base.source
    if not is_folder(path) or not (path / "config.json").is_file():
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
        raise UserError(f"base.shape: no folder with a config.json, and {unknown('shape', shown, builtin.SHAPES)}")
    problem = _why_no_shape(path)
    if problem:
        raise UserError(f"base.shape {_shown(name)}: {problem}")
    return _with_own_code(base, path)


def _checked(base: Base, path: Path, weights: bool = True) -> Path:
    """Return a base model's folder.

    Raises:
        UserError: if something is wrong with its files.
    """
    problem = _why_no_model(path, weights)
    if problem:
        raise UserError(f"base {_shown(base.source)}: {problem}")
    return _with_own_code(base, path)


def _with_own_code(base: Base, path: Path) -> Path:
    """Return a folder of which no code of another repository would run.

    Raises:
        UserError: as ``unfit.check_code``.
    """
    try:
        unfit.check_code(path, base.trust_remote_code)
    except UserError as error:
        raise UserError(f"base {_shown(base.source)}: {error}") from None
    return path


def _why_no_model(path: Path, weights: bool) -> str | None:
    """Return what is wrong with the files of a model folder; None if they are complete.

    Args:
        path: the folder.
        weights: whether it must have weights.
    """
    try:
        problem = unfit.why_no_base(path) if is_folder(path) else None
        if problem:
            return problem
        if not (path / "config.json").is_file():
            return "the folder has no config.json, so it is not a Hugging Face model folder"
        return _why_no_config(path) or (files.why_unusable(path) if weights else None)
    except OSError as error:
        return f"the folder cannot be read: {error.strerror}"


def _why_no_config(path: Path) -> str | None:
    try:
        return stored.why_refused(files.read_mapping(path / "config.json"))
    except UserError as error:
        return str(error)


def _why_no_shape(path: Path) -> str | None:
    try:
        found = stored.scheme(files.read_mapping(path / "config.json"))
    except UserError as error:
        return str(error)
    if found is None:
        return None
    return (
        f"its config asks for weights that are stored quantized ({found.where}: {found.words}), and a shape has no "
        f"stored weights; remove {found.where}, and quantize by precision nf4, fp4 or int8"
    )


def _shown(source: str) -> str:
    """Return a name in quotes, shortened if it is very long."""
    if len(source) <= _LONGEST_NAME:
        return repr(source)
    return f"{source[:_LONGEST_NAME]!r}... ({len(source):,} characters)"


def _no_base(source: str) -> str:
    return (
        f"base {_shown(source)}: neither a built-in base ({', '.join(builtin.BASES)}) nor an existing folder nor a "
        f"hub id like 'organisation/model' or 'gpt2'{_hint(source)}"
    )


def _hint(source: str) -> str:
    """Return "; did you mean ...?" with the nearest existing folder or built-in base model, or nothing."""
    siblings = []
    with suppress(OSError, ValueError):
        siblings = [p.name for p in _path(source).parent.iterdir() if is_folder(p)]
    near = nearest(Path(source).name[:_LONGEST_NAME], [*siblings, *builtin.BASES])
    return f"; did you mean {near!r}?" if near else ""


def hint_of_shape(source: str) -> str:
    """Return how to write the shape whose name is nearest to a missing base model's, as the end of a message."""
    near = nearest(source[:_LONGEST_NAME], builtin.SHAPES)
    written = f"base: {{shape: {near}}}, on the command line --set 'base={{shape: {near}}}'"
    return f"; a shape is written {written}" if near else ""


def _from_hub(
    base: Base,
    wanted: Sequence[str] = _WANTED,
    local: bool = False,
) -> Path:
    """Return the folder of a hub id's files, from the hub or, if ``local``, from its cache alone."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*wanted]
    if base.trust_remote_code:
        patterns.append("*.py")
    asked = f"base {_shown(base.source)}" + (f" at revision {base.revision!r}" if base.revision else "")
    try:
        return Path(
            snapshot_download(base.source, revision=base.revision, allow_patterns=patterns, local_files_only=local)
        )
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
    return files.fingerprint(folder)


def base_name(base: Base) -> str:
    """Return a base model's name without machine-specific paths: the last part of a folder's path, or the hub id."""
    return _without_folders(base.source)


def _without_folders(source: str) -> str:
    path = _path(source)
    return path.resolve().name if is_folder(path) else source
