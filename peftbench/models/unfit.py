"""Folders that are no plain base model: adapters, weights with an adapter beside them. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.models import files

ADAPTER = "adapter_config.json"
"""The file that makes transformers put an adapter onto the weights of the same folder."""
_OWN = "partial_config.json"
"""The file that peftbench writes beside tuned parts of a base model."""


def why_no_base(folder: Path) -> str | None:
    """Return why a folder is an adapter, or a base model with an adapter beside it; None if it is neither.

    transformers puts an adapter onto the weights of the same folder. Whether these are the original's or already
    contain the adapter, no file says, so neither is assumed.
    """
    if not (folder / ADAPTER).is_file():
        if (folder / _OWN).is_file() and not (folder / "config.json").is_file():
            return "the folder has tuned parts of a base model, saved by peftbench, not a whole model; give the base"
        return None
    kind, base = _adapter(folder / ADAPTER)
    if any((folder / name).is_file() for name in (files.WEIGHTS, files.INDEX)):
        return (
            f"the folder has a model's weights and an adapter beside them ({ADAPTER}: {kind}, made for {base}), and "
            "transformers would put the adapter onto the weights, once more if they were merged already; move "
            f"{ADAPTER} and adapter_model.* to another folder if the weights are to be used as they are, or merge them "
            "first (peft: merge_and_unload(), then save_pretrained into a new folder)"
        )
    return (
        f"the folder is an adapter ({ADAPTER}: {kind}, made for the base {base}), not a base model; give that base, "
        "or, if its method can be merged, as LoRA can, the merged model (peft: merge_and_unload(), then "
        "save_pretrained, and the tokenizer's save_pretrained)"
    )


def _adapter(path: Path) -> tuple[str, str]:
    """Return an adapter's type and the base model it was made for, in words."""
    try:
        found = files.read_mapping(path)
    except UserError as error:
        return str(error), "a base that is not known"
    kind = next((found[key] for key in ("peft_type", "kind", "method") if isinstance(found.get(key), str)), "no type")
    base = found.get("base_model_name_or_path")
    return kind, repr(base) if isinstance(base, str) and base else "that is not named there"


def check_code(folder: Path, trust_remote_code: bool) -> None:
    """Check that a model folder whose code may run names no code of another repository.

    transformers would fetch that code from the hub, in whatever version it is there, and a trial's key would not
    contain it.

    Args:
        folder: a folder with configs.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        UserError: if a config names such code.
    """
    for path in sorted(folder.glob("*config.json")) if trust_remote_code else ():
        try:
            config = files.read_mapping(path)
        except UserError:  # reported by the code that needs the file
            continue
        for key, value in _foreign(config, ()):
            repository, _, module = value.partition("--")
            raise UserError(
                f"{path.name}: {'.'.join(key)} is {value!r}, code of the repository {repository!r}, which transformers "
                "would fetch and run in whatever version it has then, and which is in no trial's key; allowed: code in "
                f"the folder (copy {module.partition('.')[0]}.py and what it imports into it, and name it {module!r}), "
                "or trust_remote_code: false if transformers has this model itself"
            )


def _foreign(value: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the names of classes in other repositories under ``auto_map``, at any depth, with their keys."""
    if isinstance(value, str):
        if "auto_map" in key and "--" in value:
            yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _foreign(item, (*key, str(name)))
    elif isinstance(value, list) and "auto_map" in key:
        for item in value:
            yield from _foreign(item, key)
