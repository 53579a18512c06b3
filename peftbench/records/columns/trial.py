"""The columns of ``trials`` that no other group holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

SCHEMA_VERSION = 1
"""History: 1 (2026-11) first schema."""


@dataclass(frozen=True)
class TrialColumns:
    """The columns of ``trials`` but for those of inference."""

    # what
    key: Annotated[str, "hash of everything that decides the numbers; the row's identity"]
    suite: Annotated[str, "the suite's name"]
    base: Annotated[str, "base model as named, a local folder by its last part"]
    method: Annotated[str, "method name"]
    cell: Annotated[str, "readable name of the grid cell: method, rank and its options that are axes, precision"]
    precision: Annotated[str, "precision name"]
    rank: Annotated[int | None, "size knob; null where the method has none"]
    seed: Annotated[int | None, "null for the untuned base"]
    # how it ended
    status: Annotated[str, "ok unsupported oom diverged inert corrupt killed timeout error skipped"]
    phase: Annotated[str | None, "phase in which a trial that is not ok ended"] = None
    message: Annotated[str | None, "why a trial is not ok"] = None
    # settings
    settings_json: Annotated[str, "every resolved setting as JSON; nested keys as in the suite"] = "{}"
    learning_rate: Annotated[float | None, "peak learning rate"] = None
    optimizer: Annotated[str | None, "optimizer name"] = None
    batch_size: Annotated[int | None, "examples per optimizer step"] = None
    micro_batch_size: Annotated[int | None, "examples per forward pass"] = None
    sequence_length: Annotated[int | None, "longest training example, tokens"] = None
    device: Annotated[str | None, "cpu or cuda"] = None
    threads: Annotated[int | None, "CPU threads of the trial"] = None
    workers: Annotated[int | None, "trials that ran at the same time on this machine"] = None
    protocol: Annotated[int | None, "peftbench's measuring protocol; rows of different protocols do not compare"] = None
    schema_version: Annotated[int, "version of this schema"] = SCHEMA_VERSION
    # identity of the inputs
    base_sha256: Annotated[str | None, "of the base's config, weights and tokenizer files"] = None
    data_sha256: Annotated[str | None, "of the tasks' examples"] = None
    batches_sha256: Annotated[str | None, "of the training batches in order; equal for all methods of a seed"] = None
    # size
    base_parameters: Annotated[int | None, "parameters of the base, tied ones once"] = None
    trainable_parameters: Annotated[int | None, "parameters that train"] = None
    adapted_share: Annotated[float | None, "share of the base's matrix weights (no embedding, head) it adapts"] = None
    unadapted_matrices: Annotated[str | None, "names of the other such matrices, * for a layer's number"] = None
    stored_parameters: Annotated[int | None, "parameters in the weight files of what was saved"] = None
    base_weights_bytes: Annotated[int | None, "base weights and quantization state as loaded, tied ones once"] = None
    base_bits_per_weight: Annotated[float | None, "base_weights_bytes x 8 / base_parameters"] = None
    loaded_dtypes: Annotated[str | None, "storage types of the base's weights with their shares of parameters"] = None
    checkpoint_bytes: Annotated[int | None, "weight files of the saved adapter (or of the whole model, if full)"] = None
    # work done
    steps_done: Annotated[int | None, "optimizer steps, skipped ones included"] = None
    skipped_steps: Annotated[int | None, "of those, fp16 steps that the gradient scaler skipped: no update"] = None
    examples_seen: Annotated[int | None, "training examples, repeats counted"] = None
    distinct_examples_seen: Annotated[int | None, "training examples, repeats not counted"] = None
    truncated_examples: Annotated[int | None, "training examples cut to the sequence length, repeats counted"] = None
    processed_tokens: Annotated[int | None, "tokens in training's forward passes, with padding and virtual ones"] = None
    nonpadding_tokens: Annotated[int | None, "data tokens in training, without padding and virtual ones"] = None
    loss_tokens: Annotated[int | None, "tokens in training that bore loss"] = None
    tokens_per_second: Annotated[float | None, "non-padding data tokens per second over three steady steps or more"] = (
        None
    )
    processed_tokens_per_second: Annotated[float | None, "processed tokens per second over steady steps"] = None
    loss_tokens_per_second: Annotated[float | None, "loss-bearing tokens per second over steady steps"] = None
    median_step_seconds: Annotated[float | None, "median of the steady steps"] = None
    train_flops_per_token: Annotated[float | None, "matrix products' FLOPs of a typical step per processed token"] = (
        None
    )
    device_flops_per_second: Annotated[float | None, "best square matrix product, measured: what MFU is a share of"] = (
        None
    )
    train_energy_joules: Annotated[float | None, "energy of the training loop, without validation"] = None
    energy_source: Annotated[str | None, "nvml: the whole GPU; rapl: all CPU packages of the machine"] = None
    first_loss: Annotated[float | None, "loss of the first step, nats per loss-bearing token"] = None
    last_loss: Annotated[float | None, "mean loss of the last tenth of the steps, nats per loss-bearing token"] = None
    best_validation_loss: Annotated[float | None, "lowest validation loss, nats per loss-bearing token"] = None
    scored_step: Annotated[int | None, "step whose weights are scored"] = None
    # proof of life
    trainable_tensors: Annotated[int | None, "tensors that train"] = None
    moved_tensors: Annotated[int | None, "of those, how many training changed"] = None
    stalled_tensors: Annotated[str | None, "names of the others, comma separated"] = None
    largest_logit_change: Annotated[float | None, "largest absolute change of a logit against the base, probe"] = None
    later_token_influence: Annotated[float | None, "on a token's logits, of its own; 0 where a model is causal"] = None
    # results and environment
    scores_json: Annotated[str, "every task's Score record as JSON"] = "{}"
    environment_json: Annotated[str, "packages, Python, CPU, GPU, driver, git state, settings of the machine"] = "{}"
    device_state_json: Annotated[str | None, "cuda: clocks, power, heat, why slowed, as training began, ended"] = None
    load_average: Annotated[float | None, "the machine's one-minute load average as the trial began"] = None
    started_at: Annotated[str | None, "UTC, ISO 8601"] = None
    finished_at: Annotated[str | None, "UTC, ISO 8601"] = None
