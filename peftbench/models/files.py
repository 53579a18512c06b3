"""What the files of a model folder are: config, weights, tensors, and the hash over them. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from peftbench.errors import UserError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DESCRIPTION = (".json", ".model", ".txt", ".jinja", ".tiktoken", ".spm", ".bpe", ".vocab")
"""Suffixes of the files that are config, tokenizer or chat template."""
_HASHED = (".safetensors", ".py", *DESCRIPTION)
"""Suffixes of the files in a model folder that determine what the model computes."""
_LOADED_INSTEAD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
"""Names of a distributed checkpoint's files, which transformers loads in place of ``model.safetensors``."""


@dataclass(frozen=True)
class Stored:
    """A tensor as the header of its file describes it."""

    shape: tuple[int, ...]
    dtype: str
    """Its name in the safetensors format, like ``BF16``."""
    file: str


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file of a model folder.

    Raises:
        UserError: if the file cannot be read, or is not a JSON mapping.
    """
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} cannot be read: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except RecursionError:
        raise UserError(f"{path.name} cannot be read: its values are nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path.name} cannot be read: not JSON ({error})") from None
    if not isinstance(found, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(found), "a number")
        raise UserError(f"{path.name} cannot be read: it holds {kind}; allowed: a mapping, as in {{...}}")
    return found


def weight_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the files with a model folder's weights, relative to it, in the order of loading.

    As in transformers, ``model.safetensors`` comes before an index, and the config's ``transformers_weights`` before
    both.

    Raises:
        UserError: if a file is missing, or the index names a file outside the folder or cannot be read.
    """
    given = read_mapping(folder / "config.json").get("transformers_weights")
    if given is not None:
        if not (isinstance(given, str) and given.endswith((".safetensors", ".safetensors.index.json"))):
            raise UserError(f"config.json: transformers_weights is {given!r}; allowed: the name of a safetensors file")
        _check_inside([given], "config.json")
    chosen = given or (WEIGHTS if (folder / WEIGHTS).is_file() else INDEX)
    if not (folder / chosen).is_file():
        if given:
            raise UserError(f"weights are missing: {given} (named in config.json, transformers_weights)")
        raise UserError(_no_weights(folder))
    if not chosen.endswith(".index.json"):
        return (chosen,)
    place = PurePosixPath(chosen)
    names = sorted(set(index(folder, chosen).values()))
    _check_inside(names, place.name)
    missing = [name for name in names if not (folder / place.parent / name).is_file()]
    if missing or not names:
        raise UserError(f"weights are missing: {', '.join(missing) or 'all of them'} (named in {place.name})")
    return tuple(str(place.parent / name) for name in names)


def index(folder: Path, name: str = INDEX) -> dict[str, str]:
    """Return the name of the file that each tensor is in, as an index of weights says.

    Raises:
        UserError: if the index is not one.
    """
    found = read_mapping(folder / name).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) and file for file in found.values()):
        raise UserError(f"{name} cannot be read: its weight_map is not a mapping of tensors to names of files")
    return found


def _no_weights(folder: Path) -> str:
    kinds = ", ".join(sorted({p.suffix for p in folder.iterdir() if p.suffix})) or "nothing"
    return f"the folder has no weights {WEIGHTS}, nor {INDEX} (found: {kinds})"


def _check_inside(names: Sequence[str], where: str) -> None:
    """Check that names of files stay in the folder. Links may point anywhere, as the hub's cache is made of them."""
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
            raise UserError(
                f"{where} names weights outside the folder: {name!r}; allowed: names of files in the folder"
            )


def why_unusable(folder: Path) -> str | None:
    """Return what is wrong with the names and links in a model folder; None if weights can be read from it."""
    gone = sorted(p.name for p in folder.iterdir() if not p.exists())
    if gone:
        return f"links to nothing, as after a broken download: {', '.join(gone)}"
    instead = next((p.name for p in folder.iterdir() if _LOADED_INSTEAD.fullmatch(p.name)), None)
    if instead:
        return (
            f"{instead} belongs to a distributed checkpoint, which transformers loads in place of {WEIGHTS}; "
            "move these files to another folder, or save the model with save_pretrained"
        )
    try:
        weight_files(folder)
    except UserError as error:
        return str(error)
    return None


def tensors(folder: Path) -> dict[str, Stored]:
    """Return the tensors in a model folder's weight files, from their headers; no weights are read.

    Raises:
        UserError: if a file is no safetensors file or is incomplete, or files contradict each other or the index.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, Stored] = {}
    again: dict[str, str] = {}
    for name in weight_files(folder):
        try:
            with safe_open(folder / name, framework="np") as file:
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    if key in found:
                        again[key] = found[key].file
                    part = file.get_slice(key)
                    found[key] = Stored(tuple(part.get_shape()), part.get_dtype(), name)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{name} cannot be read: {error or 'no safetensors file'}; as after a broken download: fetch it again"
            ) from None
    if not found:
        raise UserError(f"{', '.join(weight_files(folder))} contains no tensor")
    for key, first in again.items():  # the last file's is loaded, whatever the index says
        if index(folder).get(key) != found[key].file:
            raise UserError(f"tensor {key} is in {first} and in {found[key].file}; remove the wrong one")
    return found


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 over names and contents of a model folder's config, weights, tokenizer and code files.

    Files in subfolders count if they are loaded: weights that an index names, Python code of a folder that names code
    in a config, and further chat templates.
    """
    digest = hashlib.sha256()
    for name, path in sorted(determining(folder).items()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def determining(folder: Path) -> dict[str, Path]:
    """Return the files of a model folder that enter its hash, by their name relative to it."""
    top = {p.name: p for p in folder.iterdir() if p.suffix in _HASHED and p.is_file()}
    return top | dict(_nested(folder))


def _nested(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files in subfolders that determine what the model computes, by their name relative to the folder."""
    try:
        weights = weight_files(folder)
    except UserError:  # a shape, or a folder that is refused where it is resolved
        weights = ()
    yield from ((name, folder / name) for name in weights if "/" in name)
    also = [*folder.glob("additional_chat_templates/*.jinja"), *folder.glob("custom_generate/**/*.py")]
    if any('"auto_map"' in p.read_text(encoding="utf-8", errors="replace") for p in folder.glob("*config.json")):
        also += folder.rglob("*.py")
    for path in dict.fromkeys(also):
        name = path.relative_to(folder)
        if len(name.parts) > 1 and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix(), path


def sections(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a config and the configs inside it, as of a text model and a vision tower, each with its key."""
    yield "", config
    yield from ((key, part) for key, part in config.items() if key.endswith("_config") and isinstance(part, dict))
