"""What tuned models cost to use: a table of its own, and the sentence that says which methods cost something."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from peftbench.models.precision import PRECISIONS
from peftbench.report import format as fmt
from peftbench.report.collect import Cell, Results, read_json
from peftbench.report.notes import busy
from peftbench.report.tables.table import Column, Row, Table, Value
from peftbench.results import seeds
from peftbench.results.busy_machine import busy_trials


@dataclass(frozen=True)
class Ratio:
    """How many times as long as the bare base: geometric mean over repeats, and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """Return "1.31 (1.27 to 1.36)"."""
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Measured:
    """A cell whose tuned model was measured in use, with the raw values of its trials."""

    cell: Cell
    raw: tuple[dict[str, Any], ...]

    def repeats(self, variant: str, prompts: str) -> list[list[float]]:
        """Return every repeat's seconds until the first token and between tokens.

        Args:
            variant: ``tuned``, ``bare`` (the base in turns with it) or ``merged``.
            prompts: ``1`` or ``batch``: how many prompts were in the forward pass.
        """
        found: list[list[float]] = []
        for raw in self.raw:
            key = "1" if prompts == "1" else str(raw.get("prompts"))
            found += raw.get("seconds", {}).get(variant, {}).get(key, [])
        return found

    @cached_property
    def prefill(self) -> Ratio | None:
        """Of the time until the first tokens of a batch."""
        return self._ratio("batch", lambda repeat: repeat[0])

    @cached_property
    def decode(self) -> Ratio | None:
        """Of the time between two tokens, one prompt."""
        return self._ratio("1", lambda repeat: statistics.fmean(repeat[1:]) if repeat[1:] else math.nan)

    def _ratio(self, prompts: str, seconds: Callable[[list[float]], float]) -> Ratio | None:
        """Return the ratio of the tuned model's seconds to the bare base's, from repeats that ran in turns."""
        pairs = zip(self.repeats("tuned", prompts), self.repeats("bare", prompts), strict=False)
        times = [(seconds(tuned), seconds(bare)) for tuned, bare in pairs]
        found = seeds.paired_interval(math.log(tuned / bare) for tuned, bare in times if tuned > 0 and bare > 0)
        if found is None:
            return None
        mean, half = found
        return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))

    def reason(self, part: str) -> str | None:
        """Return why a part was not measured."""
        return next((raw["reasons"][part] for raw in self.raw if part in raw.get("reasons", {})), None)


def measured(results: Results) -> tuple[Measured, ...]:
    """Return the cells of which something was measured, in the order of the comparison."""
    found = []
    for cell in results.finished:
        texts = cell.ok["inference_json"].dropna() if "inference_json" in cell.ok else ()
        raw = tuple(one for text in texts if (one := read_json(text)))
        if raw:
            found.append(Measured(cell, raw))
    return tuple(found)


def table(results: Results) -> Table | None:
    """Return the table of inference, a row per measured cell; None where nothing was measured."""
    cells = measured(results)
    if not cells:
        return None
    pairs = [
        (Column("cell", "", ("cell",), "cell", numeric=False), _name),
        *(_mean(cells, *described) for described in _RATES),
        _latency("first token", "first_token", "first token\nms", lambda repeat: repeat[:1]),
        _latency("per token", "decoded_token", "per token\nms", lambda repeat: repeat[1:]),
        _times("prefill", lambda one: one.prefill),
        _times("decode", lambda one: one.decode),
        *(_mean(cells, *described) for described in _REST),
    ]
    rows = tuple(Row(tuple(fill(one) for _, fill in pairs), one.cell) for one in cells)
    found = busy_trials(results.trials, "inference")
    trouble = [busy.sentence(found, "inference")] if found else []
    return Table(tuple(column for column, _ in pairs), rows, (*trouble, *_notes(cells)))


def _name(one: Measured) -> Value:
    return Value(one.cell.name, (one.cell.name,), sort=one.cell.name)


_RATES = (
    ("prefill_tokens_per_second", "prefill", "tokens/s", 1.0, "prefill\ntokens/s"),
    ("decode_tokens_per_second", "decode", "tokens/s", 1.0, "decode\ntokens/s"),
)
_REST = (
    ("merged_decoded_token_seconds", "merged, per token", "ms", 1e3, "merged\nms"),
    ("largest_merge_logit_difference", "merged, largest logit difference", "logits", 1.0, "merged\nlogits"),
    ("load_adapter_seconds", "load", "ms", 1e3, "load\nms"),
    ("switch_adapter_seconds", "switch", "ms", 1e3, "switch\nms"),
    ("peak_generate_bytes", "peak generate memory", "", 1.0, None),
)
"""Column, title, unit (empty for bytes), factor to it, and the title in the terminal's table."""

_Pair = tuple[Column, Callable[[Measured], Value]]


def _mean(cells: Sequence[Measured], column: str, title: str, unit: str, factor: float, short: str | None) -> _Pair:
    """Return a stored column, as its mean over the trials that were measured."""
    if not unit:
        chosen = fmt.byte_unit(one.cell.mean(column) for one in cells)
        unit, factor = chosen.name, 1 / chosen.size

    def fill(one: Measured) -> Value:
        mean = one.cell.mean(column)
        return Value(_number(None if mean is None else mean * factor), (mean,), sort=mean)

    return Column(title, unit, (f"{column}_mean",), short), fill


def _number(value: float | None) -> str:
    """Return three significant digits; of what is smaller than a thousandth, two and a power of ten."""
    return f"{value:.1e}" if value is not None and 0 < abs(value) < 1e-3 else fmt.number(value)


def _latency(title: str, name: str, short: str, part: Callable[[list[float]], list[float]]) -> _Pair:
    """Return a latency of one prompt: median and quartiles of the raw values."""

    def fill(one: Measured) -> Value:
        raw = sorted(1e3 * seconds for repeat in one.repeats("tuned", "1") for seconds in part(repeat))
        if not raw:
            return Value(fmt.MISSING, (None, None, None))
        low, middle, high = statistics.quantiles(raw, n=4, method="inclusive") if len(raw) > 1 else raw * 3
        text = f"{fmt.number(middle)} ({fmt.number(low)} to {fmt.number(high)})"
        return Value(text, tuple(value / 1e3 for value in (middle, low, high)), fmt.number(middle), middle)

    raw_names = (f"{name}_seconds_median", f"{name}_seconds_q1", f"{name}_seconds_q3")
    return Column(title, "ms", raw_names, short), fill


def _times(title: str, ratio: Callable[[Measured], Ratio | None]) -> _Pair:
    """Return how many times as long as the bare base a part of generation takes."""

    def fill(one: Measured) -> Value:
        found = ratio(one)
        if found is None:
            return Value(fmt.MISSING, (None, None, None))
        return Value(found.text, (found.mean, found.low, found.high), f"{found.mean:.2f}", found.mean)

    raw = tuple(f"{title}_over_base{end}" for end in ("", "_low", "_high"))
    return Column(title, "× base", raw, f"{title}\n× base"), fill


def _notes(cells: Sequence[Measured]) -> Iterable[str]:
    yield _what(cells)
    if len({one.cell.summary.base for one in cells}) == 1:
        prompts = {
            (raw.get("prompts"), raw.get("prompt_tokens"), raw.get("new_tokens")) for c in cells for raw in c.raw
        }
        hashes = {text for c in cells for text in c.cell.ok["inference_prompts_sha256"].dropna()}
        if len(prompts) > 1 or len(hashes) > 1:
            yield "Not all cells were given the same prompts: their times do not compare."
    yield from _costs(cells)
    yield from _merging(cells)
    yield from _missing(cells)


def _what(cells: Sequence[Measured]) -> str:
    raw = cells[0].raw[0]
    repeats = len(cells[0].repeats("tuned", "1")) // len(cells[0].raw)
    prompts, tokens, new = (raw.get(key) for key in ("prompts", "prompt_tokens", "new_tokens"))
    return (
        f"Inference: rates of a batch of {prompts} prompts of {tokens} tokens, latencies of one prompt, {new} new "
        f"tokens each; medians of {repeats} repeats in a cell's first trial. × base: time against that of the base "
        "without the method, in turns with it in the same process. In brackets, on the page and in Markdown: quartiles "
        "of latencies, 95 % intervals of ratios over the repeats."
    )


def _costs(cells: Sequence[Measured]) -> Iterable[str]:
    """Say which methods take more time than the base beyond the spread of the repeats, and which do not."""
    ratios: dict[str, dict[str, list[Ratio]]] = {}
    for one in cells:
        named = {"prefill": one.prefill, "decode": one.decode}
        known = {part: ratio for part, ratio in named.items() if ratio is not None}
        for part, ratio in known.items():
            ratios.setdefault(one.cell.title, {}).setdefault(part, []).append(ratio)
    if not ratios:
        return
    slower = {
        title: [_told(part, found) for part, found in parts.items() if any(ratio.low > 1 for ratio in found)]
        for title, parts in ratios.items()
    }
    costs = [f"{title} ({', '.join(told)})" for title, told in slower.items() if told]
    free = [title for title, told in slower.items() if not told]
    if costs:
        yield f"These cost time at inference, beyond the spread of the repeats: {'; '.join(costs)}."
    if free:
        start = "Of no other a cost can be told" if costs else "Of no method a cost at inference can be told"
        yield f"{start} from the spread of the repeats: {', '.join(free)}."


def _told(part: str, found: Sequence[Ratio]) -> str:
    """Return "decode 1.21 to 1.35 times the base's time in 3 of 4 cells"."""
    slower = [ratio for ratio in found if ratio.low > 1]
    ends = dict.fromkeys(f"{mean:.2f}" for mean in (min(r.mean for r in slower), max(r.mean for r in slower)))
    where = f" in {len(slower)} of {len(found)} cells" if len(found) > 1 else ""
    return f"{part} {' to '.join(ends)} times the base's time{where}"


def _merging(cells: Sequence[Measured]) -> Iterable[str]:
    """Say by precision how far merging moves a logit."""
    moved: dict[str, float] = {}
    for one in cells:
        difference = one.cell.mean("largest_merge_logit_difference")
        if difference is not None:
            moved[one.cell.precision] = max(difference, moved.get(one.cell.precision, 0.0))
    if not moved:
        return
    each = ", ".join(f"{_number(value)} in {precision}" for precision, value in moved.items())
    quantized = [name for name in moved if name in PRECISIONS and PRECISIONS[name].quantization]
    anew = f" In {' and '.join(quantized)} peft quantizes the sum anew." if quantized else ""
    yield f"Merged into the weights, it is the base's own computation; logits move by at most {each}.{anew}"


def _missing(cells: Sequence[Measured]) -> Iterable[str]:
    """Say why something was not measured, each reason once."""
    for part, title in (("generate", "measured"), ("merge", "merged"), ("load", "loaded"), ("switch", "switched")):
        reasons: dict[str, list[str]] = {}
        for one in cells:
            reason = one.reason(part)
            if reason and not one.cell.is_base:
                reasons.setdefault(reason, []).append(one.cell.title)
        told = [f"{', '.join(dict.fromkeys(titles))} ({reason})" for reason, titles in reasons.items()]
        if told:
            yield f"Not {title}: {'; '.join(told)}."
