"""The generated parts of ``docs/ladder.md``, from the record that ``python -m tools.validation.ladder`` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftbench.methods import METHODS, support
from peftbench.records import Category
from peftbench.report.collect import collect
from peftbench.report.tables import ladder as ladder_table
from peftbench.report.tables import writers
from tests.support import trials
from tools.docs.suite_document import NONE, table
from tools.validation import ladder
from tools.validation.ladder import AXES, Row

_HEAD = (
    *("setting", "method", "peak, MiB", "saved, MiB: predicted", "measured", "of the peak", "mostly of"),
    *("CPU time of a step", "loss"),
)
_EQUAL = 1e-5
"""Largest relative difference of losses that is called rounding in fp32; in 16 bits it is said as a number."""


def run() -> str:
    """Return what was measured, and with which versions."""
    large, mixture = ladder.BASES["32k"], ladder.BASES["experts"]
    return (
        f"Steps of {ladder.EXAMPLES} examples in one forward pass, of {ladder.TOKENS - 16} to "
        f"{ladder.TOKENS} tokens, with the last {ladder.ANSWER} in the loss; AdamW; one thread. `32k` is a Llama "
        f"with random weights, a vocabulary of {large['vocab_size']:,}, a width of {large['hidden_size']} and "
        f"{large['num_hidden_layers']} layers, whose head is tied to its embedding; `experts` is a Mixtral "
        f"with a vocabulary of {mixture['vocab_size']:,}, and as wide and deep, with "
        f"{mixture['num_local_experts']} experts, of which a token passes through "
        f"{mixture['num_experts_per_tok']}. Times are medians of "
        f"{ladder.PAIRS} pairs of steps, in brackets the smallest and largest ratio. {_versions()}"
    )


def _versions() -> str:
    """Return a sentence on the versions for the axes that were measured with the same ones."""
    axes: dict[str, list[str]] = {}
    for axis, found in ladder.versions().items():
        words = ", ".join(f"{name} {version}" for name, version in found.items() if version is not None)
        axes.setdefault(words, []).append(AXES[axis].title)
    if len(axes) == 1:
        return f"With {next(iter(axes))}."
    shown = (("; ".join(titles), words) for words, titles in axes.items())
    return " ".join(f"{titles[0].upper()}{titles[1:]}: with {words}." for titles, words in shown)


def one_after_another(folder: Path) -> str:
    """Return the ladder of a results folder as its report has it."""
    found = ladder_table.table(collect(folder))
    assert found is not None, f"{folder}: its suite asks for no ladder"
    return writers.write_md(found).rstrip()


def tables() -> str:
    """Return a table for each axis and base model."""
    parts = []
    for axis, record in AXES.items():
        parts.append(f"### {record.title[0].upper()}{record.title[1:]}")
        for base in ladder.BASES:
            own = [row for row in ladder.stored() if (row.axis, row.base) == (axis, base)]
            parts += [f"On `{base}`:", _table(own)] if own else []
        parts += [_on_gpus(axis, shown) for shown in record.on_gpus]
        if record.other_loss:
            parts.append(f"Losses: {record.other_loss}.")
        if record.note:
            parts.append(f"Note: {record.note}.")
    return "\n\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    """Return the rows of an axis and base, with what is on the host if anything is."""
    if not any(row.host for row in rows):
        return table([_row(row) for row in rows], _HEAD)
    return table([(*_row(row), f"{row.host / 2**20:.2f}") for row in rows], (*_HEAD, "on the host, MiB"))


def _on_gpus(axis: str, settings: Mapping[str, Any]) -> str:
    """Return that a setting needs a GPU, in the words of what refuses it on a CPU, for each method of its axis."""
    training = replace(trials.TRAINING, **settings)
    methods = [METHODS[name] for name in AXES[axis].methods]
    found = [support.refusal(each, each.default_precision, "cpu", training) for each in methods]
    assert all(found), f"{settings}: a CPU refuses it not for every method, so that it can be measured"
    reasons = dict.fromkeys(each.message for each in found if each)
    return f"`{ladder.shown(settings)}` needs a GPU: not measured ({'; '.join(reasons)})."


def _row(row: Row) -> Sequence[str]:
    predicted = NONE if row.predicted is None else f"{(row.baseline_predicted - row.predicted) / 2**20:.2f}"
    measured = row.baseline_measured - row.measured
    low, high = row.time_ratios
    return (
        f"`{row.setting}`",
        f"{row.method} {row.precision}",
        f"{row.baseline_measured / 2**20:.2f}",
        predicted,
        f"{measured / 2**20:.2f}",
        f"{measured / row.baseline_measured:.0%}",
        _mostly(row),
        f"x {row.time_ratio:.2f} ({low:.2f} to {high:.2f})",
        _loss(row),
    )


def _mostly(row: Row) -> str:
    """Return the category that saves most; a dash if none saves anything."""
    most = max(row.saved, key=lambda name: row.saved[name], default=None)
    return NONE if most is None or row.saved[most] <= 0 else Category(most).heading


def _loss(row: Row) -> str:
    if AXES[row.axis].other_loss:
        return "differs"
    if row.loss_difference <= _EQUAL:
        return "equal" if row.loss_difference == 0 else "equal to rounding"
    return f"differs by up to {row.loss_difference:.0e}"


def exact() -> str:
    """Return how many predictions are equal to the byte."""
    found = [row for row in ladder.stored() if row.predicted is not None]
    both = [row for row in found if (row.predicted, row.baseline_predicted) == (row.measured, row.baseline_measured)]
    worst, error = max(((row, _error(row)) for row in found), key=lambda each: abs(each[1]))
    if len(both) == len(found):
        return f"All {len(found)} predictions are equal to the measured bytes."
    return (
        f"Of {len(found)} predictions {len(both)} are equal to the measured bytes; the largest error is "
        f"{error:+.3%} ({worst.method}, {worst.setting}, on {worst.base})."
    )


def _error(row: Row) -> float:
    """Return how far a prediction is from what was measured, as a share of it."""
    assert row.predicted is not None
    return row.predicted / row.measured - 1
