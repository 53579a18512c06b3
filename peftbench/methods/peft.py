"""Any tuner that the installed peft has, by its own config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from peft import get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from peftbench.errors import Unsupported, UserError
from peftbench.methods import method_of

_REFUSALS = (ValueError, TypeError, NotImplementedError)
"""What peft raises where a tuner cannot be attached to a base; any other exception is a fault, and told as one."""


def attach(model: nn.Module, rank: int | None, options: Mapping[str, Any]) -> nn.Module:
    """Attach the tuner that the options name, as ``peft.get_peft_model`` does.

    Nothing is changed about the tuner but its task type, CAUSAL_LM. What departs from it is the loss: every method
    here trains on the same cross-entropy, so what a tuner adds to a model's own loss (AdaLoRA's orthogonality,
    Shadow's auxiliary loss) is left out.

    Args:
        model: the frozen base.
        rank: the config's size: ``r``, ``init_r``, ``num_virtual_tokens`` or ``adapter_len``; None for peft's default.
        options: ``peft_type`` and fields of that tuner's config; a mapping where a field is a config itself.

    Returns:
        The base wrapped by peft.

    Raises:
        UserError: if the config does not accept its fields.
        Unsupported: if peft cannot attach this tuner to this base, with its reason.
    """
    record = method_of("peft", options)
    fields = {name: value for name, value in options.items() if name != "peft_type"}
    if rank is not None:
        fields[record.rank_key] = rank
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[record.variant]
    try:
        config = config_class(task_type="CAUSAL_LM", **_with_configs(config_class, fields))
    except (*_REFUSALS, ImportError) as error:
        raise UserError(f"peft {record.variant}: its config refuses these settings: {error}") from error
    try:
        tuned = get_peft_model(model, config)
    except _REFUSALS as error:
        raise Unsupported(f"peft {record.variant} on {type(model).__name__}: {error}") from error
    return tuned


def _with_configs(config_class: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with mappings made configs where peft takes a config only (``eva_config``)."""
    hints = get_type_hints(config_class)
    made = {}
    for name, value in fields.items():
        kinds = (hints[name], *get_args(hints[name]))
        config = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        wanted = isinstance(value, dict) and config is not None and dict not in kinds
        made[name] = config(**value) if wanted and isinstance(config, type) else value
    return made


def after_step(model: Any, step: int) -> None:
    """Let a tuner that changes itself while it trains (AdaLoRA's ranks) do so; gradients are still there.

    Args:
        model: the tuned model.
        step: steps done before this one.
    """
    update = getattr(getattr(model, "base_model", None), "update_and_allocate", None)
    if update is not None:
        update(step)
