"""The columns of ``trials`` about inference cost: what it costs to generate with the tuned model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup


@dataclass(frozen=True, kw_only=True)
class InferenceColumns(ColumnGroup):
    """Measured at the end of a cell's first trial; null elsewhere. Rates and latencies are medians of repeats."""

    inference_seconds: Annotated[float | None, "measuring the inference cost"] = None
    inference_waiting_seconds: Annotated[
        float | None,
        "during this, time that runnable threads waited for a CPU, summed over threads; null if the system does not "
        "report it",
    ] = None
    inference_prompts_sha256: Annotated[str | None, "SHA-256 of the prompts and the number of new tokens"] = None
    prefill_tokens_per_second: Annotated[
        float | None, "tokens of a batch of prompts, divided by the time until their first new tokens"
    ] = None
    decode_tokens_per_second: Annotated[
        float | None, "new tokens per second after the first, for a batch of prompts"
    ] = None
    first_token_seconds: Annotated[float | None, "from a single prompt to its first new token"] = None
    decoded_token_seconds: Annotated[float | None, "from one new token to the next, for a single prompt"] = None
    merged_prefill_tokens_per_second: Annotated[
        float | None, "prefill_tokens_per_second with the method merged into the base weights"
    ] = None
    merged_decode_tokens_per_second: Annotated[
        float | None, "decode_tokens_per_second with the method merged into the base weights"
    ] = None
    merged_first_token_seconds: Annotated[
        float | None, "first_token_seconds with the method merged into the base weights"
    ] = None
    merged_decoded_token_seconds: Annotated[
        float | None, "decoded_token_seconds with the method merged into the base weights"
    ] = None
    largest_merge_logit_difference: Annotated[
        float | None, "largest absolute difference of a logit between the merged and the unmerged model"
    ] = None
    load_adapter_seconds: Annotated[float | None, "loading the saved adapter onto the base model in memory"] = None
    switch_adapter_seconds: Annotated[float | None, "switching between two adapters in memory"] = None
    peak_generate_bytes: Annotated[int | None, "peak memory of generation for a batch of prompts"] = None
    peak_generate_categories_json: Annotated[str | None, "cpu: bytes by category at that peak as JSON"] = None
    inference_json: Annotated[
        str | None,
        "as JSON: number of prompts, their tokens, new tokens, the parameters of decoding; for each repeat the raw "
        "seconds until the first token "
        "and between tokens, by prompts in the batch, of the tuned model, of the bare base model generating in turns "
        "with it (bare) and of the merged model; raw seconds of loading and switching; why a part was not measured",
    ] = None
