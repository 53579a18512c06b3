"""The quantities that are compared between nights: name, unit, which way is better, and how to read them from rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from peftbench.records.watch import Kind
from peftbench.results.rows import is_number

if TYPE_CHECKING:
    import pandas as pd

Better = Literal["higher", "lower", "equal"]
"""``equal``: any change is for the worse, because the cell is then another one."""
Unit = Literal["bytes", "parameters", "tokens per second", "fraction", "nats per token", "logits", "ratio"]
Seed = int | None
SCORE = "score_"
_STANDARD_ERROR = "_standard_error"
_SAME_CODE = ("protocol", "device")
_PROMPTS = (*_SAME_CODE, "base_sha256", "inference_prompts_sha256")


@dataclass(frozen=True)
class Quantity:
    """One number of a trial that is compared between nights."""

    name: str
    """The column of ``trials``; what is derived has a name of its own."""
    kind: Kind
    """Which model judges it."""
    title: str
    """As it is written in tables."""
    unit: Unit
    better: Better
    exact_on: frozenset[str]
    """Devices on which a repetition by the same code on the same inputs gives the same number.

    Where it does, any difference is a change. Measured by repeating: ``docs/statistics.md``."""
    same: tuple[str, ...] = ()
    """Columns whose values must be equal on both sides, or the numbers do not compare."""
    relative: bool = True
    """Whether changes are told as a share of what it was; else as a difference."""

    def values(self, rows: pd.DataFrame) -> dict[Seed, float]:
        """Return the quantity of ``ok`` rows by seed, rows that lack it left out; the untuned base's seed is None.

        Args:
            rows: rows of one cell, at most one for each seed.
        """
        if self.name not in rows:
            return {}
        return {
            int(seed) if is_number(seed) else None: float(value)
            for status, seed, value in zip(rows["status"], rows["seed"], rows[self.name], strict=True)
            if status == "ok" and is_number(value)
        }


_CPU, _EVERYWHERE, _NOWHERE = frozenset({"cpu"}), frozenset({"cpu", "cuda"}), frozenset[str]()


def _memory(name: str, title: str, *same: str) -> Quantity:
    return Quantity(name, "memory", title, "bytes", "lower", _CPU, (*_SAME_CODE, "memory_kind", *same))


FIXED: tuple[Quantity, ...] = (
    _memory("peak_train_bytes", "training memory"),
    _memory("peak_train_reserved_bytes", "training memory, reserved"),
    _memory("peak_run_reserved_bytes", "memory reserved, whole run"),
    _memory("peak_evaluate_bytes", "evaluation memory", "data_sha256"),
    _memory("peak_generate_bytes", "generation memory", "inference_prompts_sha256"),
    Quantity("tokens_per_second", "speed", "training speed", "tokens per second", "higher", _NOWHERE, _SAME_CODE),
    Quantity("checkpoint_bytes", "size", "checkpoint", "bytes", "lower", _EVERYWHERE),
    Quantity("base_weights_bytes", "size", "base weights", "bytes", "lower", _EVERYWHERE),
    Quantity("trainable_parameters", "size", "trainable parameters", "parameters", "equal", _EVERYWHERE),
    Quantity("head_parameters", "size", "parameters of the head", "parameters", "equal", _EVERYWHERE),
    Quantity(
        "retention_loss_after",
        "retention",
        "loss on general text",
        "nats per token",
        "lower",
        _CPU,
        (*_SAME_CODE, "base_sha256", "retention_sha256"),
    ),
    Quantity("prefill_times_base", "inference", "prefill, times base", "ratio", "lower", _NOWHERE, _PROMPTS),
    Quantity("decode_times_base", "inference", "decoding, times base", "ratio", "lower", _NOWHERE, _PROMPTS),
    Quantity(
        "largest_merge_logit_difference",
        "merge",
        "merge error",
        "logits",
        "lower",
        _CPU,
        _PROMPTS,
    ),
)
"""All but the scores and ``STATUS``. ``*_times_base`` are no columns: they are computed from ``inference_json``."""
STATUS = Quantity("ok_share", "status", "trials that end ok", "fraction", "higher", _EVERYWHERE, (), False)
"""The share of a cell's trials that end ok, from their statuses; it is no column."""
_NEEDED_BY_SCORES = ("protocol", "base_sha256", "data_sha256")


def score(task: str) -> Quantity:
    """Return the quantity of a task's headline score."""
    return Quantity(f"{SCORE}{task}", "score", f"score of {task}", "fraction", "higher", _CPU, _NEEDED_BY_SCORES, False)


def quantities(columns: Iterable[str]) -> tuple[Quantity, ...]:
    """Return every quantity of rows with these columns: a score for each task, then ``FIXED``."""
    tasks = [name.removeprefix(SCORE) for name in columns if is_score(name)]
    return (*map(score, dict.fromkeys(tasks)), *FIXED)


def is_score(column: str) -> bool:
    """Return whether a column is the headline score of a task."""
    return column.startswith(SCORE) and not column.endswith(_STANDARD_ERROR)


def mean(values: Mapping[Any, float]) -> float | None:
    """Return the mean over seeds; None for none."""
    return sum(values.values()) / len(values) if values else None
