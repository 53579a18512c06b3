"""The columns of ``trials`` that tell what memory the trial took, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class MemoryColumns:
    """Bytes. The categories of the training peak add up to ``peak_train_bytes``."""

    memory_kind: Annotated[str | None, "tensor_accounting (cpu) or allocator (cuda): never compare the two"] = None
    peak_train_bytes: Annotated[int | None, "peak of a training step on the run's largest batch"] = None
    predicted_train_bytes: Annotated[int | None, "that peak predicted from the config; a cell's first trial"] = None
    peak_evaluate_bytes: Annotated[int | None, "peak of evaluation on its longest prompts"] = None
    peak_base_weights_bytes: Annotated[int | None, "base weights at the training peak"] = None
    peak_quantization_state_bytes: Annotated[int | None, "quantization state at the training peak"] = None
    peak_adapter_bytes: Annotated[int | None, "the method's own weights at the training peak"] = None
    peak_gradients_bytes: Annotated[int | None, "gradients at the training peak"] = None
    peak_optimizer_bytes: Annotated[int | None, "optimizer state at the training peak"] = None
    peak_activations_bytes: Annotated[int | None, "tensors saved for backward at the training peak"] = None
    peak_logits_bytes: Annotated[int | None, "logits, copies, gradients at that peak; null: in the other two"] = None
    peak_temporaries_bytes: Annotated[int | None, "all other live tensors at the training peak"] = None
    peak_unexplained_bytes: Annotated[int | None, "allocator's peak of that step less its categories"] = None
    ledger_json: Annotated[str | None, "bytes by category: after load, after attach, at the evaluation peak"] = None
    peak_train_reserved_bytes: Annotated[int | None, "cuda: the allocator's reserved peak of the training steps"] = None
    device_used_bytes: Annotated[int | None, "cuda: used on the device, by whomever, at the end of training"] = None
    device_process_bytes: Annotated[int | None, "cuda: of those, this process's by the driver's count"] = None
    other_gpu_processes: Annotated[int | None, "cuda: most other processes on the GPU as training began or ended"] = (
        None
    )
    host_peak_train_bytes: Annotated[int | None, "resident peak of the process in training alone"] = None
    host_peak_evaluate_bytes: Annotated[int | None, "resident peak of the process in evaluation alone"] = None
    host_peak_resident_bytes: Annotated[int | None, "resident peak of the trial's process, libraries included"] = None
