"""What a trial really computes with, read from the running process: libraries do not always follow their settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from peftbench.models.load import autocast
from peftbench.records.columns.effective import EffectiveColumns
from peftbench.training.loop import Learner


def columns(learner: Learner) -> EffectiveColumns:
    """Return what can be read after training: all effective columns except the attention kernels."""
    model, optimizer = learner.model, learner.optimizer
    kind = type(optimizer)
    fused = " fused" if any(group.get("fused") for group in optimizer.param_groups) else ""
    with autocast(learner.precision, learner.device):
        autocasting = torch.is_autocast_enabled(learner.device)
        dtype = torch.get_autocast_dtype(learner.device)
    return EffectiveColumns(
        attention_implementation=str(getattr(model.config, "_attn_implementation", None)),
        autocast_dtype=_name(dtype) if autocasting else "none",
        matmul_precision=torch.get_float32_matmul_precision(),
        trainable_dtypes=_names(p.dtype for p in learner.parameters),
        optimizer_class=f"{kind.__module__.partition('.')[0]} {kind.__name__}{fused}",
        optimizer_state_dtypes=_names(
            value.dtype
            for parameter, state in optimizer.state.items()
            for value in state.values()
            if torch.is_tensor(value) and value.numel() == parameter.numel() > 1
        ),
        checkpointing_active=str(sum(_recomputes(module) for module in model.modules())),
        process_threads=str(torch.get_num_threads()),
    )


def _recomputes(module: Any) -> bool:
    return bool(getattr(module, "gradient_checkpointing", False)) and module.training


def _names(dtypes: Iterable[torch.dtype]) -> str:
    return ", ".join(sorted({_name(dtype) for dtype in dtypes})) or "none"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
