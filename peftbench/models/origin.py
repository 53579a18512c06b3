"""What a loaded base model carries with it: where it came from, and a check of the token ids that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peftbench.errors import UserError
from peftbench.models import dry_load
from peftbench.models.tokenizer import beyond, without_embedding


@dataclass(frozen=True)
class Origin:
    """Where a base model came from (``model.peftbench_origin``), for initializations that read more than weights."""

    folder: Path
    tokenizer: Any
    trust_remote_code: bool
    step_examples: Sequence[Sequence[Any]] = ()
    """The encoded training examples of each optimizer step, in order; empty until the trial has planned them."""
    draws_on: str | None = None
    """Where a method draws what it would draw on the base model's device, if the base waits on the host until it is
    divided: a GPU draws other numbers from the same seed. None for the base model's device."""


def drawing_device(model: Any, device: torch.device) -> Any:
    """Return where a method draws initial values that belong on a device of the base model."""
    return getattr(getattr(model, "peftbench_origin", None), "draws_on", None) or device


def guard_embeddings(model: Any, tokenizer: Any) -> None:
    """Refuse token ids without an embedding when they occur; without such ids in the tokenizer, nothing is checked.

    The data of a suite are checked before a run; prompts of lm-eval's own tasks are seen only here.
    """
    size = dry_load.rows(model)
    tokens = beyond(tokenizer, size)
    if size is None or not tokens:
        return

    def check(_: nn.Module, given: tuple[Any, ...]) -> None:
        ids = given[0] if given and isinstance(given[0], torch.Tensor) else None
        if ids is not None and ids.numel() and int(ids.max()) >= size:
            raise UserError(f"a text contains the {without_embedding(ids.flatten().tolist(), tokens, size)}")

    model.get_input_embeddings().register_forward_pre_hook(check)
