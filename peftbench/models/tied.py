"""Refuse a base model whose config ties two weights that its files store with different values.

transformers then leaves them untied, so that the model has more parameters than its config says; earlier versions
left one of the two out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.models.files import Stored

_ROWS = 64
"""Rows that are compared before loading. Heads that were trained apart differ in nearly all of them."""


def check(folder: Path, model: Any, stored: Mapping[str, Stored]) -> None:
    """Check some rows of the tied weights in a model folder.

    Args:
        folder: the model folder.
        model: the model of its config, on ``meta``.
        stored: the tensors in its files.

    Raises:
        UserError: if two tied weights are both stored and differ.
    """
    for one, other in _ties(model).items():
        names = [stored_name(name, model, stored) for name in (one, other)]
        if None not in names and _differ(folder, stored, *map(str, names)):
            raise UserError(_refusal(one, other))


def verify(model: Any) -> None:
    """Check that a loaded model's weights are tied as its config says.

    Raises:
        UserError: if transformers has left some untied, since the files store them with different values.
    """
    expand = getattr(model, "get_expanded_tied_weights_keys", None)
    wanted = expand(all_submodels=True) if expand else {}
    for one, other in wanted.items():
        if one not in _ties(model):
            raise UserError(_refusal(one, other))


def _ties(model: Any) -> Mapping[str, str]:
    """Return the tied weights of a model: the name of one and of the other."""
    return getattr(model, "all_tied_weights_keys", None) or {}


def _refusal(one: str, other: str) -> str:
    return (
        f"its config.json ties {one} to {other} (tie_word_embeddings: true, also by default), but the files store both "
        f"with different values; set tie_word_embeddings: false in config.json to use both, or remove {one} from the "
        "files"
    )


def stored_name(name: str, model: Any, stored: Mapping[str, Stored]) -> str | None:
    """Return the name that a tensor of a model has in the files; None if it is not there, or has another name."""
    names = (name, name.removeprefix(f"{model.base_model_prefix}."))
    return next((each for each in names if each in stored), None)


def _differ(folder: Path, stored: Mapping[str, Stored], one: str, other: str) -> bool:
    """Return whether some rows of two stored tensors differ; not if shapes or dtypes do, which only loading decides."""
    kinds = {(stored[name].shape, stored[name].dtype) for name in (one, other)}
    count = stored[one].shape[0] if stored[one].shape else 0
    if len(kinds) > 1 or not count:
        return False
    rows = range(0, count, max(1, count // _ROWS))
    pairs = zip(*(_read(folder / stored[name].file, name, rows) for name in (one, other)), strict=True)
    return any(not bool((a == b).all()) for a, b in pairs)


def _read(path: Path, name: str, rows: range) -> Iterator[Any]:
    """Yield rows of a stored tensor."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        part = file.get_slice(name)
        yield from (part[row : row + 1] for row in rows)
