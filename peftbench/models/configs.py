"""Load a base model's config, with what would only stop its model from being built put right. No torch until used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftbench.models import unfit


def load_config(folder: Path, trust_remote_code: bool) -> Any:
    """Return the transformers config in a folder.

    A ``pad_token_id`` outside the vocabulary becomes None. It only says which embedding gets no gradient; padding is
    masked, so no such embedding is needed, and without a row for it the embeddings cannot be made.

    Raises:
        UserError: if code of another repository would run.
    """
    from transformers import AutoConfig

    unfit.check_code(folder, trust_remote_code)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    mend(config)
    return config


def mend(config: Any) -> bool:
    """Remove a ``pad_token_id`` outside the vocabulary from a config; return whether there was one."""
    found = False
    for part in {id(each): each for each in (config, config.get_text_config())}.values():
        pad, size = getattr(part, "pad_token_id", None), getattr(part, "vocab_size", None)
        if isinstance(pad, int) and isinstance(size, int) and not 0 <= pad < size:
            part.pad_token_id, found = None, True
    return found
