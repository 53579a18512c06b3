"""The parameters that a model's own class keeps in float32, whatever dtype a precision asks for.

transformers loads in float32 what two lists of the class name; other classes make a parameter in float32 themselves
(the decay rates of recurrent layers). Both are the family's own choice and part of what its users get, so such a base
model is loaded as it is, and the row's ``loaded_dtypes`` says it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_MARK = "peftbench_float32"
"""Attribute of a parameter that stays in float32 if it trains."""


def names(model: Any, dtype: torch.dtype) -> frozenset[str]:
    """Return the names of the parameters that a model's class keeps in float32 if it is loaded in ``dtype``.

    Args:
        model: a base model before a method is attached.
        dtype: the dtype of the precision, a 16-bit one.
    """
    return _listed(model, dtype) | frozenset(n for n, p in _bare(model, dtype) if p.dtype == torch.float32)


def _listed(model: Any, dtype: torch.dtype) -> frozenset[str]:
    """Return the names of the parameters in the lists of a model's class."""
    from transformers.core_model_loading import build_glob_alternation

    plan = model._get_dtype_plan(dtype) if hasattr(model, "_get_dtype_plan") else {}
    if not plan:
        return frozenset()
    listed = build_glob_alternation(list(plan))[0]
    return frozenset(n for n, p in model.named_parameters() if p.is_floating_point() and listed.search(n))


def _bare(model: Any, dtype: torch.dtype) -> Iterable[tuple[str, nn.Parameter]]:
    """Return the parameters of a new model of the same class and config on ``meta``, made in ``dtype``."""
    if not hasattr(model, "_from_config"):
        return ()
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        made = type(model)._from_config(config, dtype=dtype)
    return tuple(made.named_parameters())


def cast(model: Any, dtype: torch.dtype) -> None:
    """Give a model on ``meta`` that was made in ``dtype`` the dtypes with which its weights would be loaded."""
    own = dict(model.named_parameters())
    for name in _listed(model, dtype):
        own[name].data = own[name].data.to(torch.float32)


def mark(model: Any, kept: Iterable[str]) -> None:
    """Let parameters keep their dtype if they train."""
    own = dict(model.named_parameters())
    for name in kept:
        if name in own:
            setattr(own[name], _MARK, True)


def stays(parameter: nn.Parameter) -> bool:
    """Return whether a parameter keeps float32 if it trains."""
    return getattr(parameter, _MARK, False)
