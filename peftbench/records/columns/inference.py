"""The columns of ``trials`` that tell what the tuned model costs to use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class InferenceColumns:
    """Measured at the end of a cell's first trial; null elsewhere. Rates and latencies are medians of repeats."""

    inference_seconds: Annotated[float | None, "measuring the tuned model in use"] = None
    inference_waiting_seconds: Annotated[
        float | None, "of these, waited for a CPU, over all threads; null where the system does not tell"
    ] = None
    inference_prompts_sha256: Annotated[str | None, "of the prompts and the number of new tokens"] = None
    prefill_tokens_per_second: Annotated[
        float | None, "prompt tokens of a batch of prompts per second until their first new tokens"
    ] = None
    decode_tokens_per_second: Annotated[float | None, "new tokens per second after the first, a batch of prompts"] = (
        None
    )
    first_token_seconds: Annotated[float | None, "from one prompt to its first new token"] = None
    decoded_token_seconds: Annotated[float | None, "from one new token to the next, one prompt"] = None
    merged_prefill_tokens_per_second: Annotated[float | None, "the same, merged into the base's weights"] = None
    merged_decode_tokens_per_second: Annotated[float | None, "the same, merged into the base's weights"] = None
    merged_first_token_seconds: Annotated[float | None, "the same, merged into the base's weights"] = None
    merged_decoded_token_seconds: Annotated[float | None, "the same, merged into the base's weights"] = None
    largest_merge_logit_difference: Annotated[
        float | None, "largest absolute difference of a logit between merged and not, the same prompts"
    ] = None
    load_adapter_seconds: Annotated[float | None, "loading the saved adapter onto the base in memory"] = None
    switch_adapter_seconds: Annotated[float | None, "switching between two adapters in memory"] = None
    peak_generate_bytes: Annotated[int | None, "peak of generation, a batch of prompts"] = None
    peak_generate_categories_json: Annotated[str | None, "bytes by category at that peak as JSON; cpu"] = None
    inference_json: Annotated[
        str | None,
        "as JSON: prompts, their tokens, new tokens; raw seconds of each repeat until the first token and between "
        "tokens, by prompts in the batch: tuned, the bare base in turns with it (bare), merged; of loading and of "
        "switching; reasons of what was not measured",
    ] = None
