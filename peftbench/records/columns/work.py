"""The columns of ``trials`` about training: steps, examples, tokens, rates, operations, energy and losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup


@dataclass(frozen=True, kw_only=True)
class WorkColumns(ColumnGroup):
    """What training did. Steady steps are those after the suite's ``untimed_steps``."""

    steps_done: Annotated[int | None, "optimizer steps, skipped ones included"] = None
    skipped_steps: Annotated[int | None, "of these, fp16 steps that the gradient scaler skipped: no update"] = None
    resumes: Annotated[
        int | None, "how often training continued from a saved state, as its process had ended; null for never"
    ] = None
    state_not_used: Annotated[str | None, "why a saved state was not used and training began anew; null otherwise"] = (
        None
    )
    examples_seen: Annotated[int | None, "training examples, repeats counted"] = None
    distinct_examples_seen: Annotated[int | None, "training examples, repeats not counted"] = None
    truncated_examples: Annotated[int | None, "training examples cut to the sequence length, repeats counted"] = None
    processed_tokens: Annotated[
        int | None, "tokens in training's forward passes, padding and virtual tokens included"
    ] = None
    nonpadding_tokens: Annotated[int | None, "data tokens in training, without padding and virtual tokens"] = None
    loss_tokens: Annotated[
        int | None, "tokens in training that enter the loss; with a head for whole texts the number of texts"
    ] = None
    tokens_per_second: Annotated[
        float | None, "non-padding data tokens per second over the steady steps; null with fewer than three"
    ] = None
    processed_tokens_per_second: Annotated[float | None, "processed tokens per second over the steady steps"] = None
    loss_tokens_per_second: Annotated[float | None, "tokens in the loss per second over the steady steps"] = None
    median_step_seconds: Annotated[float | None, "median duration of the steady steps"] = None
    compiled_graphs: Annotated[
        int | None, "graphs that torch.compile made for training steps, without and with another shape of batches"
    ] = None
    compiling_steps: Annotated[
        int | None,
        "steps that compiled once more, for a shape that none had before; they are untimed",
    ] = None
    train_flops_per_token: Annotated[
        float | None, "FLOPs of the matrix products of a typical step, per processed token"
    ] = None
    device_flops_per_second: Annotated[
        float | None, "FLOPs per second of the device's best square matrix product, measured: MFU is relative to it"
    ] = None
    reference_step_seconds: Annotated[
        float | None,
        "duration of a fixed small training step on this CPU: mean of its medians just before and just after the "
        "training",
    ] = None
    train_energy_joules: Annotated[float | None, "energy of the training loop, without validation"] = None
    energy_source: Annotated[str | None, "nvml: the whole GPU; rapl: all CPU packages of the machine"] = None
    first_loss: Annotated[
        float | None,
        "loss of the first step, nats per token in the loss; with a head for whole texts per text, for regression the "
        "mean squared error",
    ] = None
    last_loss: Annotated[float | None, "mean loss of the last tenth of the steps, nats per token in the loss"] = None
    best_validation_loss: Annotated[float | None, "lowest validation loss, nats per token in the loss"] = None
    scored_step: Annotated[int | None, "step whose weights are scored"] = None
