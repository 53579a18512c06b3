"""The columns of ``trials`` that tell what a trial really computed with, whatever its settings asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class EffectiveColumns:
    """Looked at in the trial. The fairness audit compares each of these fields, also one that is added later."""

    attention_implementation: Annotated[str | None, "as transformers names it: sdpa, eager, ..."] = None
    attention_kernels: Annotated[str | None, "torch's operators of a training step; eager: products and a softmax"] = (
        None
    )
    autocast_dtype: Annotated[str | None, "type that autocast computes in; none where it is off"] = None
    matmul_precision: Annotated[str | None, "torch's setting for products of fp32: highest; high and medium: tf32"] = (
        None
    )
    trainable_dtypes: Annotated[str | None, "types of the tensors that train"] = None
    optimizer_class: Annotated[str | None, "of the optimizer object, after its package"] = None
    optimizer_state_dtypes: Annotated[str | None, "types of its state of a parameter's size, after training"] = None
    checkpointing_active: Annotated[str | None, "how many modules recompute activations in the backward pass"] = None
    process_threads: Annotated[str | None, "CPU threads that torch used"] = None
