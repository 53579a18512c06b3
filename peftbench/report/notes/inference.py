"""Notes under the table of inference cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peftbench.models.precision import PRECISIONS
from peftbench.records.units import small
from peftbench.records.wording import series, span
from peftbench.report.collect import Results
from peftbench.report.derived.inference import Measured, Ratio
from peftbench.report.notes import busy
from peftbench.results.busy_machine import busy_trials


def notes(results: Results, cells: Sequence[Measured]) -> Iterable[str]:
    """Yield what was measured and how, which methods are slower than the base model, and what was not measured."""
    found = busy_trials(results.trials, "inference")
    if found:
        yield f"{busy.sentence(found, 'inference')} Means leave them out."
    yield _setting(cells)
    if len({one.cell.summary.base for one in cells}) == 1:
        shapes = {(raw.get("prompts"), raw.get("prompt_tokens"), raw.get("new_tokens")) for c in cells for raw in c.raw}
        hashes = {text for c in cells for text in c.cell.texts("inference_prompts_sha256")}
        if len(shapes) > 1 or len(hashes) > 1:
            yield "Cells were given different prompts, so their times are not comparable."
    yield from _slower(cells)
    yield from _merging(cells)
    yield from _not_measured(cells)


def _setting(cells: Sequence[Measured]) -> str:
    raw = cells[0].raw[0]
    repeats = len(raw.get("seconds", {}).get("tuned", {}).get("1", []))
    prompts, tokens, new = (raw.get(key) for key in ("prompts", "prompt_tokens", "new_tokens"))
    return (
        f"Inference cost of the tuned model: rates for a batch of {prompts} prompts of {tokens} tokens, latencies for "
        f"one prompt, {new} new tokens each; medians over {repeats} repeats in each cell's first trial. × base: time "
        "relative to the base model without the method, measured alternately in the same process. Quartiles of "
        "latencies and 95 % intervals of ratios, over the repeats, are in brackets in Markdown and columns of the page."
    )


def _slower(cells: Sequence[Measured]) -> Iterable[str]:
    """Yield the methods that take more time than the base model beyond the spread of the repeats, and the others."""
    ratios: dict[str, dict[str, list[Ratio]]] = {}
    for one in cells:
        named = {"prefill": one.prefill, "decode": one.decode}
        for part, ratio in named.items():
            if ratio is not None:
                ratios.setdefault(one.cell.title, {}).setdefault(part, []).append(ratio)
    slower = {
        title: [_factor(part, found) for part, found in parts.items() if any(ratio.low > 1 for ratio in found)]
        for title, parts in ratios.items()
    }
    costs = [f"{title} ({', '.join(parts)})" for title, parts in slower.items() if parts]
    free = [title for title, parts in slower.items() if not parts]
    if costs:
        yield f"Slower than the base model (95 % interval above 1): {'; '.join(costs)}."
    if free:
        yield f"Not significantly slower than the base model: {', '.join(free)}."


def _factor(part: str, found: Sequence[Ratio]) -> str:
    """Return "decode 1.21 to 1.35 × in 3 of 4 cells"."""
    slower = [ratio.mean for ratio in found if ratio.low > 1]
    where = f" in {len(slower)} of {len(found)} cells" if len(slower) < len(found) else ""
    return f"{part} {span(slower, '{:.2f}'.format)} ×{where}"


def _merging(cells: Sequence[Measured]) -> Iterable[str]:
    """Yield by precision how far merging moves a logit."""
    moved: dict[str, float] = {}
    for one in cells:
        difference = one.cell.mean("largest_merge_logit_difference")
        if difference is not None:
            moved[one.cell.precision] = max(difference, moved.get(one.cell.precision, 0.0))
    if not moved:
        return
    each = ", ".join(f"{small(value)} in {precision}" for precision, value in moved.items())
    quantized = [name for name in moved if name in PRECISIONS and PRECISIONS[name].quantization]
    again = f" In {series(quantized)}, peft quantizes the merged weights again." if quantized else ""
    yield (
        "Merged into the weights, the model does the same computation as the base model; "
        f"logits change by at most {each}.{again}"
    )


def _not_measured(cells: Sequence[Measured]) -> Iterable[str]:
    """Yield why something was not measured, each reason once."""
    for part, title in (("generate", "measured"), ("merge", "merged"), ("load", "loaded"), ("switch", "switched")):
        reasons: dict[str, list[str]] = {}
        for one in cells:
            reason = one.reason(part)
            if reason and not one.cell.is_base:
                reasons.setdefault(reason, []).append(one.cell.title)
        each = [f"{', '.join(dict.fromkeys(titles))} ({reason})" for reason, titles in reasons.items()]
        if each:
            yield f"Not {title}: {'; '.join(each)}."
