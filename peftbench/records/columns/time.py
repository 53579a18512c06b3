"""The columns of ``trials`` that tell where its wall time went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class TimeColumns:
    """Seconds by phase; with ``untracked_seconds`` they add up to ``wall_seconds``, parts of a phase left out."""

    start_seconds: Annotated[float | None, "from asking for the process to its first line of work"] = None
    load_seconds: Annotated[float | None, "loading (and quantizing) the base and tokenizer"] = None
    plan_seconds: Annotated[float | None, "predicting memory for a budget, tokenizing for it included"] = None
    data_seconds: Annotated[float | None, "reading, templating and tokenizing the training data"] = None
    attach_seconds: Annotated[float | None, "attaching the method, making the optimizer"] = None
    train_seconds: Annotated[float | None, "training steps only, untimed ones included"] = None
    untimed_seconds: Annotated[float | None, "the part of train_seconds in untimed (warm-up) steps"] = None
    train_waiting_seconds: Annotated[float | None, "runnable threads' wait for a CPU in training steps, summed"] = None
    validate_seconds: Annotated[float | None, "validation during training"] = None
    account_seconds: Annotated[float | None, "counting memory and work in extra steps"] = None
    check_seconds: Annotated[float | None, "proving that the method is active and the base unchanged"] = None
    evaluate_seconds: Annotated[float | None, "scoring the tasks"] = None
    evaluate_prefill_seconds: Annotated[float | None, "of those, in forward passes over whole texts"] = None
    evaluate_decode_seconds: Annotated[float | None, "of those, in forward passes over one new token each"] = None
    save_seconds: Annotated[float | None, "saving the adapter"] = None
    untracked_seconds: Annotated[float | None, "wall time of the trial that no phase owns"] = None
    wall_seconds: Annotated[float | None, "from asking for the process to its result"] = None
