"""What a trial really computes with, read from the running process: libraries do not always follow their settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from peftbench.measure.optimizer_state import flat
from peftbench.models.load import autocast
from peftbench.records.columns.effective import EffectiveColumns
from peftbench.training import checkpointing, several_optimizers
from peftbench.training.loop import Learner


def columns(learner: Learner) -> EffectiveColumns:
    """Return what can be read after training: all effective columns except the attention kernels."""
    model, optimizer = learner.model, learner.optimizer
    with autocast(learner.precision, learner.device):
        autocasting = torch.is_autocast_enabled(learner.device)
        dtype = torch.get_autocast_dtype(learner.device)
    return EffectiveColumns(
        attention_implementation=str(getattr(model.config, "_attn_implementation", None)),
        autocast_dtype=_name(dtype) if autocasting else "none",
        matmul_precision=torch.get_float32_matmul_precision(),
        trainable_dtypes=_names(p.dtype for p in learner.parameters),
        optimizer_class=_class(optimizer),
        optimizer_state_dtypes=_names(
            value.dtype for parameter, state in optimizer.state.items() for value in _kept(parameter, state)
        ),
        checkpointing_active=_recomputing(model),
        compiled_modules=f"{len(learner.compiled.layers)} decoder layers" if learner.compiled else "none",
        kernel_modules=learner.kernels.ran if learner.kernels else "none",
        process_threads=str(torch.get_num_threads()),
    )


def _class(optimizer: Any) -> str:
    """Return package and class of an optimizer; of several that are used as one, each of them once."""
    found: dict[str, None] = {}
    for part in getattr(optimizer, "parts", (optimizer,)):
        fused = " fused" if any(group.get("fused") for group in part.param_groups) else ""
        found[f"{type(part).__module__.partition('.')[0]} {type(part).__name__}{fused}"] = None
    return " + ".join(found) + (" in the backward pass" if several_optimizers.in_backward(optimizer) else "")


def _kept(parameter: torch.Tensor, state: Mapping[str, Any]) -> list[torch.Tensor]:
    """Return the state that is as large as its parameter, or else all of it that is no single number.

    Beside the former, what else has a dimension describes it: the scales and codes of 8 bits.
    """
    tensors = [value for value in flat(state).values() if torch.is_tensor(value) and value.ndim]
    found = [value for value in tensors if value.is_floating_point() or value.dtype == torch.uint8]
    return [value for value in found if value.numel() == parameter.numel()] or found


def _recomputing(model: Any) -> str:
    """Return how many modules compute activations again, and whether they keep some."""
    found = [module for module in model.modules() if _recomputes(module)]
    return f"{len(found)}{' selective' if any(map(checkpointing.is_selective, found)) else ''}"


def _recomputes(module: Any) -> bool:
    return bool(getattr(module, "gradient_checkpointing", False)) and module.training


def _names(dtypes: Iterable[torch.dtype]) -> str:
    return ", ".join(sorted({_name(dtype) for dtype in dtypes})) or "none"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
