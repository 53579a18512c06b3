"""The columns of ``trials`` about memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup
from peftbench.records.memory import Category


@dataclass(frozen=True, kw_only=True)
class MemoryColumns(ColumnGroup):
    """Bytes. The categories of the training peak (``records.memory``) add up to ``peak_train_bytes``."""

    memory_kind: Annotated[
        str | None,
        "tensor_accounting (cpu), allocator (cuda), or reserved_whole_run (imported results); peaks of different kinds "
        "do not compare",
    ] = None
    peak_train_bytes: Annotated[int | None, "peak of a training step on the run's largest batch"] = None
    predicted_train_bytes: Annotated[
        int | None, "the same peak predicted from the config; only in a cell's first trial, and without train.compile"
    ] = None
    predicted_load_bytes: Annotated[
        int | None,
        "peak of loading the base model, predicted from the config, on one device or with ddp; only in a cell's first "
        "trial",
    ] = None
    peak_evaluate_bytes: Annotated[int | None, "peak of evaluation on its longest prompts"] = None
    peak_base_weights_bytes: Annotated[int | None, Category.BASE_WEIGHTS.doc] = None
    peak_quantization_state_bytes: Annotated[int | None, Category.QUANTIZATION_STATE.doc] = None
    peak_adapter_bytes: Annotated[int | None, Category.ADAPTER.doc] = None
    peak_gradients_bytes: Annotated[int | None, Category.GRADIENTS.doc] = None
    peak_optimizer_bytes: Annotated[int | None, Category.OPTIMIZER.doc] = None
    peak_activations_bytes: Annotated[int | None, Category.ACTIVATIONS.doc] = None
    peak_logits_bytes: Annotated[int | None, Category.LOGITS.doc] = None
    peak_temporaries_bytes: Annotated[int | None, Category.TEMPORARIES.doc] = None
    peak_unexplained_bytes: Annotated[int | None, "the allocator's peak of that step minus its categories"] = None
    peak_offloaded_bytes: Annotated[
        int | None,
        "most bytes that a training step held on the host for its device at one moment; not in peak_train_bytes",
    ] = None
    paged_optimizer_bytes: Annotated[
        int | None,
        "cuda, paged optimizers: state in memory that the driver moves between device and host; all of it is in "
        "peak_train_bytes, as how much was on the device is not known; other optimizers: none",
    ] = None
    ledger_json: Annotated[
        str | None, "bytes by category as JSON: after loading, after attaching, at the evaluation peak"
    ] = None
    peak_train_reserved_bytes: Annotated[
        int | None, "cuda: peak of the memory that the allocator reserved during training steps"
    ] = None
    peak_run_reserved_bytes: Annotated[
        int | None,
        "imported results: peak of the memory that the allocator reserved over the whole run, loading and evaluation "
        "included",
    ] = None
    device_used_bytes: Annotated[
        int | None, "cuda: memory in use on the device at the end of training, by all processes"
    ] = None
    device_process_bytes: Annotated[int | None, "cuda: of this, the trial's process, as counted by the driver"] = None
    other_gpu_processes: Annotated[
        int | None, "cuda: other processes on the GPU, the larger count of the start and the end of training"
    ] = None
    host_peak_train_bytes: Annotated[
        int | None,
        "peak resident memory of the process during training; on a CPU, this and the next two can include some 12 MB "
        "that the reference step freed but the allocator kept",
    ] = None
    host_peak_evaluate_bytes: Annotated[int | None, "peak resident memory of the process during evaluation"] = None
    host_peak_resident_bytes: Annotated[
        int | None, "peak resident memory of the trial's process, loaded libraries included"
    ] = None
