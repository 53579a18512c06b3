"""The columns of ``trials`` with what a trial really computed with, which may differ from its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup


@dataclass(frozen=True, kw_only=True)
class EffectiveColumns(ColumnGroup):
    """Read from the running trial. The fairness audit compares every field, so a new one is compared without code."""

    attention_implementation: Annotated[str | None, "as transformers names it: sdpa, eager, ..."] = None
    attention_kernels: Annotated[
        str | None, "torch's attention operators in a training step; eager: matrix products and a softmax"
    ] = None
    autocast_dtype: Annotated[str | None, "type that autocast computes in; none if autocast is off"] = None
    matmul_precision: Annotated[
        str | None, "torch's setting for fp32 matrix products: highest; high and medium mean tf32"
    ] = None
    trainable_dtypes: Annotated[str | None, "types of the trainable tensors"] = None
    optimizer_class: Annotated[str | None, "package and class of the optimizer"] = None
    optimizer_state_dtypes: Annotated[
        str | None,
        "types of the optimizer's state after training: of the tensors as large as their parameter, or else of all "
        "floats and bytes that have a dimension",
    ] = None
    checkpointing_active: Annotated[str | None, "modules that recompute activations in the backward pass"] = None
    compiled_modules: Annotated[str | None, "modules that torch.compile compiled for training; none if none"] = None
    kernel_modules: Annotated[
        str | None, "liger's classes with the modules that they replace in training steps, and functions; none if none"
    ] = None
    process_threads: Annotated[str | None, "CPU threads that torch used"] = None
