"""Sentences of the page: what was run, what kind of memory was measured, what each quantity means."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args, get_type_hints

from peftbench.records import Status, TrialRow
from peftbench.report import format as fmt
from peftbench.report.collect import Results, read_json
from peftbench.report.tables import memory_kind_words

DEFINED = (
    "trainable_parameters",
    "checkpoint_bytes",
    "base_weights_bytes",
    "peak_train_bytes",
    "peak_evaluate_bytes",
    "tokens_per_second",
    "train_seconds",
    "untimed_seconds",
    "account_seconds",
    "check_seconds",
    "evaluate_seconds",
    "untracked_seconds",
    "peak_base_weights_bytes",
    "peak_quantization_state_bytes",
    "peak_adapter_bytes",
    "peak_gradients_bytes",
    "peak_optimizer_bytes",
    "peak_activations_bytes",
    "peak_temporaries_bytes",
)
"""Columns whose meaning the page spells out, in the words of the record that declares them."""


def reading(results: Results) -> str:
    """Return one sentence about what was run."""
    trials = results.trials
    counts = trials["status"].value_counts()
    good, unsupported = int(counts.get(Status.OK.value, 0)), int(counts.get(Status.UNSUPPORTED.value, 0))
    methods = {cell.method for cell in results.cells if not cell.is_base}
    precisions = {cell.precision for cell in results.cells}
    base = " and the untuned base" if any(cell.is_base for cell in results.cells) else ""
    parts = [
        f"{_plural(len(methods), 'method')}{base} in {_plural(len(results.cells), 'cell')}",
        _plural(len(precisions), "precision"),
        _plural(len(results.distinct("seed")), "seed"),
        *_work(results),
    ]
    tasks = f"scored on {_series(results.tasks)}" if results.tasks else "with no task scored"
    failed = len(trials) - good - unsupported
    ended = f"{good} of {_plural(len(trials), 'trial')} ended ok, {unsupported} unsupported, {failed} failed"
    return f"{', '.join(parts)}; {tasks}; {_where(results)}. {ended}."


def _work(results: Results) -> Iterable[str]:
    steps, batch = results.distinct("steps_done"), results.distinct("batch_size")
    if steps:
        each = f" of {_span(batch)} examples" if batch else ""
        yield f"{_span(steps)} optimizer steps{each}"


def _where(results: Results) -> str:
    device, threads = results.common("device"), results.common("threads")
    count = f" with {_plural(int(threads), 'thread')}" if threads else ""
    where = "on a CUDA GPU" if device == "cuda" else f"on the CPU{count}"
    kind = results.common("memory_kind")
    return f"{where}, memory by {memory_kind_words(str(kind))}" if kind else where


def command(results: Results) -> str:
    """Return the command that made the results: as recorded, else by the suite's name."""
    for text in results.trials["environment_json"].dropna():
        recorded = read_json(text).get("command")
        if recorded:
            return " ".join(map(str, recorded)) if isinstance(recorded, list) else str(recorded)
    return f"peftbench run {results.common('suite') or 'SUITE'}"


def memory_sentences(results: Results) -> tuple[str, ...]:
    """Return what kind of accounting the memory figure shows, and how far its totals tell of larger models."""
    kind = results.common("memory_kind")
    how = {
        "tensor_accounting": "Tensor accounting on the CPU: the storages of all live tensors, counted in extra steps "
        "outside the timed ones, on the run's largest batch. Not comparable with a GPU allocator's peak.",
        "allocator": "Peak of the CUDA allocator (allocated, not reserved), on the run's largest batch. "
        "Not comparable with tensor accounting on a CPU.",
    }.get(str(kind), f"Memory by {memory_kind_words(str(kind))}.")
    return (how, *_what_dominates(results))


def _what_dominates(results: Results) -> Iterable[str]:
    """Say from the data whether activations outweigh the weights."""
    shares = []
    for cell in results.tuned:
        weights = (cell.mean("peak_base_weights_bytes") or 0) + (cell.mean("peak_quantization_state_bytes") or 0)
        moving = (cell.mean("peak_activations_bytes") or 0) + (cell.mean("peak_temporaries_bytes") or 0)
        if weights and moving:
            shares.append((cell, moving / weights))
    if not shares:
        return
    above = [cell for cell, ratio in shares if ratio > 1]
    ratios = [ratio for _, ratio in shares]
    if len(above) * 2 > len(shares):
        factors = " to ".join(sorted({f"{ratio:.1f}" for ratio in (min(ratios), max(ratios))}, key=float))
        yield (
            f"In {len(above)} of {len(shares)} cells activations and temporaries outweigh the base weights (by a "
            f"factor of {factors} over all cells). At this size, then, little of what a "
            "method saves in weights, gradients and optimizer state shows in the total, and the order of the totals "
            "does not carry over to a model with billions of parameters, where the weights come first."
        )
    else:
        yield (
            f"In {len(shares) - len(above)} of {len(shares)} cells the base weights outweigh activations and "
            "temporaries, so storage precision and frozen weights decide the totals."
        )


def definitions(results: Results) -> tuple[tuple[str, str], ...]:
    """Return (quantity, meaning) of everything that the page shows."""
    hints: dict[str, Any] = get_type_hints(TrialRow, include_extras=True)
    scores = [(task, _score_meaning(results, task)) for task in results.tasks]
    means = [("mean over tasks", "unweighted, per seed; then mean and spread over seeds like every score")]
    if len(results.tasks) < 2:
        means = []
    spread = ("±", "standard deviation over the seeds that ended ok (n - 1 in the denominator); none for one seed")
    stored = [(name, get_args(hints[name])[1]) for name in DEFINED]
    return (*scores, *means, spread, *stored)


def _score_meaning(results: Results, task: str) -> str:
    score = results.score_record(task)
    metric, examples = score.get("metric"), score.get("examples")
    chance, majority = results.reference("chance", task), results.reference("majority", task)
    parts = [str(metric or "score"), f"over {examples:,} examples" if isinstance(examples, int) else ""]
    marks = f"chance {fmt.percent(chance)}, majority answer {fmt.percent(majority)}"
    return f"{' '.join(filter(None, parts))}; {marks}"


def _span(values: list[Any]) -> str:
    numbers = [f"{value:,}" if isinstance(value, int) else f"{value:,g}" for value in values]
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _series(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
