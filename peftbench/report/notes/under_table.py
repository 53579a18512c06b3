"""Sentences of page and table: what was run, what must be said under a table, what each quantity means."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args, get_type_hints

from peftbench.methods import profiles
from peftbench.models import causality
from peftbench.planner import match
from peftbench.records import Category, Phase, Status, TrialRow
from peftbench.records.phase import UNTRACKED, UNTRACKED_BAR
from peftbench.report import format as fmt
from peftbench.report.collect import Cell, Results, precision_order, read_json
from peftbench.report.notes import busy, data_use, fairness, learning_rate_search, memory
from peftbench.report.tables import speed
from peftbench.results.busy_machine import busy_trials
from peftbench.results.rows import rows_without_progress

DEFINED = {
    "trainable_parameters": "trainable parameters",
    "checkpoint_bytes": "checkpoint",
    "base_weights_bytes": "base weights",
    "peak_train_bytes": "peak train memory",
    "peak_evaluate_bytes": "peak evaluate memory",
    "tokens_per_second": "throughput",
    "train_seconds": "train time",
    "processed_tokens_per_second": "processed tokens/s",
    "loss_tokens_per_second": "loss-bearing tokens/s",
    "train_flops_per_token": "FLOPs per token",
    "device_flops_per_second": "MFU",
    "train_energy_joules": "energy",
    "untimed_seconds": "untimed",
    **{phase.column: phase.heading for phase in (Phase.ACCOUNT, Phase.CHECK, Phase.EVALUATE)},
    UNTRACKED: UNTRACKED_BAR[0],
    **{category.column: category.heading for category in Category},
    Category.BASE_WEIGHTS.column: "base weights at the peak",
}
"""Columns whose meaning the page spells out, in the words of the record that declares them, to the heading shown."""
_LOAD_MARGIN = 1.25
"""How much more than the trials' own the machine's load may be."""


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
    skipped = int(counts.get(Status.SKIPPED.value, 0))
    ended = f"{good} of {_plural(len(trials), 'trial')} ended ok, {unsupported} unsupported"
    ended += f", {skipped} skipped" if skipped else ""
    ended += f", {len(trials) - good - unsupported - skipped} failed"
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
    return f"{where}, memory by {memory.kind_words(str(kind))}" if kind else where


def command(results: Results) -> str:
    """Return the command that makes the results: as recorded, else by the suite's name."""
    if results.grid:
        return results.grid.command
    for text in results.trials["environment_json"].dropna():
        recorded = read_json(text).get("command")
        if recorded:
            return " ".join(map(str, recorded)) if isinstance(recorded, list) else str(recorded)
    return f"peftbench run {results.common('suite') or 'SUITE'}"


def notes(results: Results) -> tuple[str, ...]:
    """Return what must be said under the table: what its numbers are, and whatever makes them compare less well."""
    found = [_seeds_note(results), *_metrics_note(results)]
    kind = results.common("memory_kind")
    if kind:
        found.append(f"Memory by {memory.kind_words(str(kind))}.")
    found += memory.notes(results)
    found += [*fairness.findings(results), *_load_note(results), *data_use.sentences(results.trials)]
    found += [*learning_rate_search.notes(results), *speed.notes(results)]
    found += [*_trouble_notes(results), *_causal_notes(results)]
    found += [*_match_notes(results), *_profile_notes(results)]
    return (*found, *_reach_notes(results), *_learning_note(results), *_missing_notes(results))


def _match_notes(results: Results) -> Iterable[str]:
    """Say how near the cells come to the trainable parameters that their ranks were chosen for."""
    if results.grid and results.grid.parameters:
        cells = [(cell, cell.mean("trainable_parameters")) for cell in results.tuned]
        counts = [(c.name, bool(c.record and c.record.rank_meaning), n) for c, n in cells if n is not None]
        yield from match.told(counts, results.grid.parameters)


def _profile_notes(results: Results) -> Iterable[str]:
    """Say which cells have a profile's settings, and what the published ones leave open or go beyond."""
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in results.cells:
        for text in cell.trials["settings_json"].dropna().unique():
            profile = (read_json(text).get("train") or {}).get("profile")
            if profile:
                cells.setdefault((profile, cell.method if profile == profiles.PAPER else ""), []).append(cell)
                break
    for (profile, method), found in cells.items():
        if profile == profiles.PAPER and method in profiles.PUBLISHED:
            yield f"Profile paper, {found[0].title}, where the suite gives nothing else: {profiles.describe(method)}"
        else:
            titles = _series(tuple(dict.fromkeys(cell.title for cell in found)))
            yield f"Profile {profile}, one setting for all: it took the place of the recipe of {titles}."


def _causal_notes(results: Results) -> Iterable[str]:
    """Say which cells say something else of a token when a later one changes."""
    known = {cell.name: cell.trials["later_token_influence"].max() for cell in results.tuned}
    ahead = {name: share for name, share in known.items() if share > causality.NOISE}
    if ahead:
        yield (
            f"{_series(tuple(ahead))}: later tokens bear on what is said of a token (up to "
            f"{100 * max(ahead.values()):.2g} % of what the token itself does), so losses and likelihoods know"
            " something of the answer."
        )


def _reach_notes(results: Results) -> Iterable[str]:
    """Name what ``all-linear`` did not reach: fused experts are not always linear layers."""
    cells: dict[tuple[float, str], list[str]] = {}
    for cell in results.cells:
        rows = cell.trials[["settings_json", "adapted_share", "unadapted_matrices"]].dropna()
        for text, share, missed in rows.itertuples(index=False):
            if read_json(text).get("options", {}).get("target_modules") == "all-linear":
                cells.setdefault((share, missed), []).append(cell.name)
    for (share, missed), names in cells.items():
        yield (
            f"{_series(tuple(dict.fromkeys(names)))}: all-linear reached {fmt.percent(share)} of the weights in the "
            f"base's matrices, not {missed}."
        )


def _trouble_notes(results: Results) -> Iterable[str]:
    """Say which cells did not end ok and why; unsupported ones of a method together where they share the reason."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in results.cells:
        if cell.trouble == Status.UNSUPPORTED.value:
            why = "; ".join(cell.summary.reasons)
            groups.setdefault((cell.summary.base, cell.kind, why), []).append(cell)
        elif cell.trouble:
            groups[(cell.name,)] = [cell]
    several_bases = len(results.distinct("base")) > 1
    for key, cells in groups.items():
        if len(cells) == 1:
            yield f"{cells[0].name}: {cells[0].trouble}{_why(cells[0])}."
        else:
            precisions = ", ".join(sorted({cell.precision for cell in cells}, key=precision_order))
            on = f" on {key[0]}" if several_bases else ""
            yield f"{key[1]} in {precisions}{on}: {_plural(len(cells), 'cell')} unsupported ({key[2]})."


def _learning_note(results: Results) -> Iterable[str]:
    """Name the cells with a trial whose loss did not fall: they ended ok, and learned nothing."""
    rows = rows_without_progress(results.trials)
    if len(rows):
        columns = rows[["cell", "seed", "first_loss", "last_loss"]].itertuples(index=False)
        each = [f"{cell}, seed {seed} ({first:.3g} to {last:.3g})" for cell, seed, first, last in columns]
        yield f"Training did not lower the loss (first step to the mean of the last tenth): {'; '.join(each)}."


def _seeds_note(results: Results) -> str:
    seeds = sorted({len(cell.ok) for cell in results.tuned})
    if not seeds:
        return "No tuned cell has a finished trial."
    if seeds == [1]:
        return "One seed per cell: no spread can be given."
    return "Scores, train, speed: mean ± standard deviation over the n seeds that ended ok."


def _metrics_note(results: Results) -> Iterable[str]:
    named = [(task, results.score_record(task).get("metric")) for task in results.tasks]
    told = [f"{task}: {metric_words(str(metric))}" for task, metric in named if metric]
    if told:
        yield "; ".join([*told, *(["mean: unweighted"] if len(results.tasks) > 1 else [])]) + "."


def metric_words(metric: str) -> str:
    """Return a metric's name as it is written in texts."""
    known = {"rouge_l": "ROUGE-L", "bleu": "BLEU", "chrf": "chrF", "f1_macro": "macro F1", "matthews": "Matthews' r"}
    return known.get(metric, metric.replace("_", " "))


def _load_note(results: Results) -> Iterable[str]:
    """Say where the machine had clearly more to do than these trials, so that times tell of the others too.

    The load average serves only where the system does not tell how long threads waited: it misses many.
    """
    found = busy_trials(results.trials)
    if found:
        yield busy.sentence(found)
    unknown = results.trials["train_waiting_seconds"].isna() & results.trials["train_seconds"].notna()
    ok = results.trials[(results.trials["status"] == Status.OK.value) & unknown]
    loaded: list[float] = []
    cpus: set[Any] = set()
    known = ok[["load_average", "workers", "threads", "environment_json"]].dropna()
    for load, workers, threads, text in known.itertuples(index=False):
        available = read_json(text).get("cpus_available")
        own = workers * threads
        if load > _LOAD_MARGIN * (min(own, available) if available else own) + 0.5:
            loaded.append(load)
            cpus.add(available)
    if loaded:
        on = f" on {_plural(cpus.pop(), 'CPU')}" if len(cpus) == 1 and None not in cpus else ""
        span = " to ".join(dict.fromkeys(f"{load:.1f}" for load in (min(loaded), max(loaded))))
        which = "" if len(loaded) == len(ok) else f" of {len(loaded)} of {len(ok)} trials"
        yield f"Times{which} were measured on a loaded machine (load {span}{on}): do not trust them."


def _missing_notes(results: Results) -> Iterable[str]:
    asked = len(results.grid.keys) if results.grid else 0
    lacking = asked - len(results.trials)
    if lacking > 0:
        yield f"{lacking:,} of the grid's {_plural(asked, 'trial')} {'has' if lacking == 1 else 'have'} no result yet."
    if results.left_out:
        why = "of other settings or suites" if results.grid else "older, of the same cells and seeds,"
        be = "is" if results.left_out == 1 else "are"
        yield f"{_plural(results.left_out, 'stored row')} {why} {be} left out."


def _why(cell: Cell) -> str:
    return f" ({'; '.join(cell.summary.messages)})" if cell.summary.messages else ""


def definitions(results: Results) -> tuple[tuple[str, str], ...]:
    """Return (quantity, meaning) of everything that the page shows."""
    hints: dict[str, Any] = get_type_hints(TrialRow, include_extras=True)
    scores = [(task, _score_meaning(results, task)) for task in results.tasks]
    means = [("mean over tasks", "unweighted, per seed; then mean, spread and interval over seeds like every score")]
    if len(results.tasks) < 2:
        means = []
    spread = (
        "±",
        "in the comparison and the figures the standard deviation over the seeds that ended ok (n - 1 in the "
        "denominator); in the tables of rank × precision the half width of the 95 % t-interval of the mean over those "
        "seeds; none for one seed",
    )
    bounds = ("[ ]", "95 % interval of the score for new seeds and new examples, from one crossed model of both")
    stored = [(f"{heading} ({name})", get_args(hints[name])[1]) for name, heading in DEFINED.items()]
    return (*scores, *means, spread, bounds, *stored)


def _score_meaning(results: Results, task: str) -> str:
    score = results.score_record(task)
    metric, examples = score.get("metric"), score.get("examples")
    chance, majority = results.reference("chance", task), results.reference("majority", task)
    parts = [metric_words(str(metric or "score")), f"over {examples:,} examples" if isinstance(examples, int) else ""]
    marks = f"chance {fmt.percent(chance)}, majority answer {fmt.percent(majority)}"
    return f"{' '.join(filter(None, parts))}; {marks}"


def _span(values: list[Any]) -> str:
    numbers = [f"{value:,}" if isinstance(value, int) else f"{value:,g}" for value in values]
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _series(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
