"""Memory forecasts as text: a line per cell, then notes on what the numbers are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peftbench.planner import cuda_reserve
from peftbench.planner.records import Forecast, Question
from peftbench.records import Category
from peftbench.records.units import BYTE_UNITS, MISSING, Unit, byte_unit, count, integer, memory, number
from peftbench.report import text_table

_COLUMNS = tuple(dict.fromkeys(category.short for category in Category))
_WIDTH = 120
_FEW = 8
"""Most devices of a cell whose peaks are listed one by one."""
_FEW_LEVERS = 3
"""Most settings of a cell that are shown although they are not enough."""
_MEANINGS = (
    "peak: the most memory that tensors take at one moment of a training step, predicted from the config alone for a "
    "step of {shape}, the longest that the settings allow{loading}.{device} "
    "The texts of the data are not read: where they are shorter a run needs less, several times less if they are much "
    "shorter, and it predicts each trial from its own batches. "
    "Scoring is not part of it: what it needs depends on the examples.",
    "The columns after it are its parts at that moment: base: the base model's weights, with the state of their "
    "quantization; own: the method's weights, and those of a head for whole texts; grads: gradients ({missing}: there "
    "are none at that moment); optim: the optimizer's state; activ: activations saved for the backward pass; logits: "
    "the model's outputs, their copies and their gradients; temp: everything else.",
    "saved: the size of the weights that are saved after training. params: trainable parameters, without a head's. "
    "GFLOP/token: billions of floating-point operations of a training step for each token.",
)
"""What the columns are, a paragraph each."""
_OR_LOADING = ", or of loading the base model where that needs more"
_ON_GPU = " Each tensor is rounded up to 512 bytes, as on a GPU, whose kernels may need other temporary tensors."


def lines(found: Sequence[Forecast], asked: Question, ladder: str | None = None) -> Iterator[str]:
    """Yield the lines of the table and its notes.

    Args:
        found: the forecasts.
        asked: what was asked of them.
        ladder: what each cell stands beside, as in the suite; None for no ladder.
    """
    known = [f for f in found if f.found is not None]
    if known:
        yield from _table(known, asked, ladder)
        device = _ON_GPU if known[0].trial.device == "cuda" else ""
        loading = _OR_LOADING if any(_of_loading(f) for f in known) else ""
        words = {"shape": _shape(known), "device": device, "loading": loading, "missing": MISSING}
        meanings = (each.format(**words) for each in _MEANINGS)
        for note in (
            *meanings,
            *_ladder(ladder),
            *_loading(known),
            *_ranks(known),
            *_attention(known),
            *_logits(known),
            *_offloaded(known),
            *_compiled(known),
            *_beside(known),
            *_budget(known, asked),
        ):
            yield from textwrap.wrap(note, _WIDTH)
        yield from _levers(known)
    cells: dict[str, list[str]] = {}
    for each in found:
        if each.problem:
            cells.setdefault(each.trial.unsupported_reason or each.problem, []).append(each.trial.cell)
    for reason, names in cells.items():
        yield from textwrap.wrap(f"no forecast for {', '.join(names)}: {reason}", _WIDTH, break_on_hyphens=False)


def _of_loading(forecast: Forecast) -> bool:
    """Return whether loading needs more than a training step."""
    return forecast.found is not None and forecast.found.needed_bytes > forecast.found.peak_bytes


def _loading(found: Sequence[Forecast]) -> Iterator[str]:
    """Yield the cells whose peak is that of loading."""
    cells = [f"{f.trial.cell} ({memory(f.found.peak_bytes)})" for f in found if f.found and _of_loading(f)]
    if cells:
        yield f"Loading the base model needs more than a training step, whose peak is in brackets: {', '.join(cells)}."


def _ladder(ladder: str | None) -> Iterator[str]:
    """Yield what the column of the ladder has."""
    if ladder:
        beside = {"previous": "the one above it", "first": "the first one"}[ladder]
        yield f"± %: how much larger a row's peak is than that of {beside}, on the same base model (ladder: {ladder})."


def _ranks(found: Sequence[Forecast]) -> Iterator[str]:
    """Yield what the numbers of cells on several devices are of."""
    several = [f for f in found if f.found and f.found.ranks]
    if several:
        yield "On several devices the peak and its parts are those of the device that needs most. The peak of each:"
    for each in several:
        assert each.found is not None
        yield f"  {each.trial.cell}: {peaks(each.found.ranks)}"


def peaks(ranks: Sequence[int]) -> str:
    """Return the peak of each device; of many devices the least and the most, or what all have alike."""
    if len(ranks) <= _FEW:
        return ", ".join(map(memory, ranks))
    least, most = memory(min(ranks)), memory(max(ranks))
    return f"{len(ranks):,} devices, " + (f"{most} each" if least == most else f"{least} to {most}")


def _attention(found: Sequence[Forecast]) -> Iterator[str]:
    """Yield the cells whose attention matrices are saved because no fused kernel applies."""
    cells = [f.trial.cell for f in found if f.found and f.found.attention == "matrix"]
    if cells:
        which = "every cell" if len(cells) == len(found) else ", ".join(cells)
        yield f"Attention matrices are saved whole in {which}, as the CPU has no fused kernel for this case."


def _logits(found: Sequence[Forecast]) -> Iterator[str]:
    """Yield how many tokens are taken to be in the loss, if logits are made for these alone."""
    kinds = dict.fromkeys(f.trial.training.logits for f in found if f.trial.training)
    if some := [kind for kind in kinds if kind != "all"]:
        yield (
            f"With logits: {' or '.join(some)}, logits are made for the tokens in the loss alone. How many of a row "
            "these are depends on the data; here they are all but its first token, the most there can be."
        )


def _offloaded(found: Sequence[Forecast]) -> Iterator[str]:
    """Yield what steps keep on the host."""
    cells = [
        f"{f.trial.cell} ({memory(f.found.offloaded_bytes)})" for f in found if f.found and f.found.offloaded_bytes
    ]
    if cells:
        yield f"Beside the peak, which is the device's, a step needs memory of the host: {', '.join(cells)}."


def _compiled(found: Sequence[Forecast]) -> Iterator[str]:
    """Yield which peaks are those of another step than the trial's."""
    cells = [f.trial.cell for f in found if f.trial.training and f.trial.training.compile != "none"]
    if cells:
        yield (
            f"Peaks are those of steps that are not compiled: {', '.join(cells)}. What compiled layers need is known "
            "only once they are compiled: less in all rows of docs/ladder.md, but it can be more, as with gradient "
            "checkpointing, and a budget is held against the peaks here."
        )


def _beside(found: Sequence[Forecast]) -> Iterator[str]:
    """Yield the non-tensor memory of a device, each different sum once."""
    for parts in dict.fromkeys(tuple(cuda_reserve.parts(f.trial).items()) for f in found):
        if parts:
            each = ", ".join(f"{name} {memory(size)}" for name, size in parts)
            cells = [f.trial for f in found if tuple(cuda_reserve.parts(f.trial).items()) == parts]
            which = "" if len(cells) == len(found) else f" ({', '.join(dict.fromkeys(t.precision for t in cells))})"
            total = memory(sum(size for _, size in parts))
            yield f"A process needs non-tensor memory beside the peak{which}: an estimated {total}, of which {each}."


def _budget(found: Sequence[Forecast], asked: Question) -> Iterator[str]:
    """Yield what fits means."""
    if asked.budget is None:
        return
    limit, less = asked.budget, ""
    if asked.reserve is None and found[0].trial.device == "cuda":
        less = " less its non-tensor memory (--reserve sets another amount)"
    elif asked.reserve:
        limit = max(0, asked.budget - asked.reserve)
        less = f", which is the budget of {memory(asked.budget)} less {memory(asked.reserve)} that --reserve keeps free"
    if asked.axis:
        yield f"most {asked.axis}: the largest {asked.axis} whose peak is at most {memory(limit)}{less}."
    else:
        yield f"fits: whether the peak is at most {memory(limit)}{less}."
    capped = [f.trial.cell for f in found if f.capped]
    if capped:
        which = "every cell" if len(capped) == len(found) else ", ".join(capped)
        yield f"The base model's context is the limit, and not memory, for {which}."


def _levers(found: Sequence[Forecast]) -> Iterator[str]:
    """Yield for each cell that does not fit the nearest settings that would make it fit."""
    none = [f.trial.cell for f in found if f.fits is False and not f.levers]
    some = [f for f in found if f.levers]
    if some:
        yield "What makes a cell fit, with its peak; settings that change no score come first:"
    for each in some:
        *tried, last = each.levers
        if last.fits:
            text = f"{shown_settings(last.settings)} ({memory(last.peak_bytes)})"
        else:
            text = f"none of the settings that were tried; what needs least, {shown_settings(last.settings)}, needs "
            text += memory(last.peak_bytes)
        shown = sorted(tried, key=lambda lever: lever.peak_bytes or 0)[:_FEW_LEVERS]  # those that come nearest
        less = "; ".join(f"{shown_settings(lever.settings)} ({memory(lever.peak_bytes)})" for lever in shown)
        less += f"; and {len(tried) - len(shown)} that need more" if len(tried) > len(shown) else ""
        text += f"; not enough: {less}" if less else ""
        indent = "    "
        yield from textwrap.wrap(
            f"  {each.trial.cell}: {text}", _WIDTH, subsequent_indent=indent, break_on_hyphens=False
        )
    if any("offload" in lever.settings for each in some for lever in each.levers):
        yield "These peaks are the device's: offload needs memory of the host, which plan tells once the suite has it."
    if none:
        yield from textwrap.wrap(f"No setting makes these smaller: {', '.join(none)}.", _WIDTH)


def shown_settings(settings: Mapping[str, Any]) -> str:
    """Return settings as a suite file has them: "micro_batch_size: 2, gradient_checkpointing: true"."""
    return ", ".join(f"{key}: {str(value).lower()}" for key, value in settings.items())


def _shape(found: Sequence[Forecast]) -> str:
    shapes = {
        f"{t.training.micro_batch_size} x {t.training.sequence_length} tokens" for f in found if (t := f.trial).training
    }
    return shapes.pop() if len(shapes) == 1 else "each cell's micro-batch and sequence length"


def _changes(found: Sequence[Forecast], ladder: str) -> list[str]:
    """Return each row's change of the peak to the row that it stands beside; of first rows a dash."""
    held: dict[Any, int] = {}
    changes = []
    for each in found:
        assert each.found is not None
        base, peak = each.trial.base, each.found.needed_bytes
        change = 100 * (peak / held[base] - 1) if base in held else None
        changes.append(MISSING if change is None else f"{change:+.1f}" if change else "0")
        if ladder == "previous" or base not in held:
            held[base] = peak
    return changes


def _table(found: Sequence[Forecast], asked: Question, ladder: str | None) -> Iterator[str]:
    unit = byte_unit([f.found.needed_bytes for f in found if f.found])
    saved = byte_unit([f.found.checkpoint_bytes for f in found if f.found])
    head = ["cell", "peak", *_COLUMNS, "saved", "params", "GFLOP", *(["fits"] if asked.budget is not None else [])]
    units = ["", *[unit.name] * (1 + len(_COLUMNS)), saved.name, "", "/token"]
    if asked.axis:
        head[-1] = f"most {asked.axis}"
    rows = [head, [*units, *[""] * (len(head) - len(units))], *(_row(f, unit, saved, asked) for f in found)]
    if ladder:
        for row, cell in zip(rows, ("peak", "± %", *_changes(found, ladder)), strict=True):
            row.insert(2, cell)
    yield from text_table.lines(rows, text_table.Layout(right=range(1, len(head)), gap=1))


def _row(forecast: Forecast, unit: Unit, saved: Unit, asked: Question) -> list[str]:
    found = forecast.found
    assert found is not None
    parts = [sum(found.needed[c] for c in Category if c.short == short) for short in _COLUMNS]
    row = [forecast.trial.cell, *(_in(value, unit) for value in (found.needed_bytes, *parts))]
    row += [_in(found.checkpoint_bytes, saved), count(found.trainable_parameters), number(found.flops_per_token / 1e9)]
    if asked.axis:
        row.append("none" if forecast.most is None else integer(forecast.most))
    elif asked.budget is not None:
        row.append("yes" if forecast.fits else "no")
    return row


def _in(value: float, unit: Unit) -> str:
    """Return bytes in a unit: zero as a dash, too little for two decimals as "<0.01"."""
    if value == 0:
        return MISSING
    text = f"{value / unit.size:,.2f}" if unit != BYTE_UNITS[0] else f"{value:,.0f}"
    return text if float(text.replace(",", "")) else "<0.01"
