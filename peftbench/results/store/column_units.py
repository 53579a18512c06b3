"""The unit of every stored column, by its name: names contain the unit wherever the quantity has one."""

from __future__ import annotations

import re

import pyarrow as pa

NO_UNIT = "no unit"
"""Unit of a plain number: a seed, a version, a factor."""
_NUMBERS = (
    (r".*flops_per_second", "FLOP/s"),
    (r".*flops_per_token", "FLOPs per token"),
    (r".*tokens_per_second", "tokens/s"),
    (r"(.*_)?seconds", "seconds"),
    (r".*_bytes", "bytes"),
    (r".*_joules", "joules"),
    (r".*bits_per_weight", "bits per weight"),
    (r"(.*_)?loss(_before|_after)?", "nats per token"),
    (r".*_parameters", "parameters"),
    (r".*_tensors", "tensors"),
    (r".*_tokens|sequence_length", "tokens"),
    (r".*examples(_seen)?|(micro_)?batch_size", "examples"),
    (r".*_texts", "texts"),
    (r"steps_done|skipped_steps|covered_steps|compiling_steps", "steps"),
    (r"compiled_graphs", "graphs"),
    (r".*_processes|load_average", "processes"),
    (r"threads", "threads"),
    (r"resumes|attempts", "times"),
    (r"workers|trials_beside", "trials"),
    (r"rank", "dimensions or tokens"),
    (r".*logit_(change|difference)", "logits"),
    (
        r"adapted_share|(later_token|padding)_influence|outcome|validation_score|(score|chance|majority)_.*",
        "fraction of 1",
    ),
    (r"seed|step|scored_step|index|protocol|schema_version|learning_rate|gradient_norm", NO_UNIT),
)
_TEXTS = ((r".*_json|choice_logprobs", "JSON"), (r"key|.*_sha256", "hexadecimal"), (r".*_at", "UTC, ISO 8601"))


def unit_of(name: str, type_: pa.DataType) -> str:
    """Return the unit of a column's values; of texts, how they are written.

    Raises:
        LookupError: if a number's unit is not known: a new column needs a line in this file.
    """
    if type_ == pa.bool_():
        return "true or false"
    listed = _TEXTS if type_ == pa.string() else _NUMBERS
    found = next((unit for pattern, unit in listed if re.fullmatch(pattern, name)), None)
    if found is None and type_ != pa.string():
        raise LookupError(f"no unit is known for the column {name!r}: add one to {__name__}")
    return found or "text"
