"""The answer of a folder of results to a question: which cell to take, and what it costs beside the score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from peftbench.errors import UserError, unknown
from peftbench.report.collect import MEAN, Cell, Results, random_weights, read_json
from peftbench.report.derived import commands, inference
from peftbench.report.derived.attempts import Attempts
from peftbench.report.derived.inference import Measured, Ratio
from peftbench.report.derived.retention import retained
from peftbench.report.derived.smoke import is_smoke
from peftbench.report.guarded import guarded
from peftbench.report.names import display_names
from peftbench.report.not_run import not_run
from peftbench.results.answer import FIRST_SEEDS, LEAST_SEEDS
from peftbench.results.answer.decision import ONE_SEED, WITHIN, Candidate, Decision, Question, decide
from peftbench.results.answer.losses import SURE, losses
from peftbench.results.busy_machine import BusyTrials, busy_trials
from peftbench.results.crossed_effects.model import Estimate, Outcomes
from peftbench.results.rows import is_number

Merge = Literal["yes", "no", "whole model"]


@dataclass(frozen=True)
class Costs:
    """What a tuned cell costs; None for what was not measured."""

    score: float | None
    """Fraction of 1."""
    peak_train_bytes: float | None
    train_seconds: float | None
    """Of the trials that were not measured on a busy machine."""
    forgetting: Estimate | None
    """Nats per token of general text."""
    decode: Ratio | None
    """Time between tokens relative to the base model's; never from a busy machine."""
    merge: Merge | None
    """Whether it can be merged into the base model's weights."""
    checkpoint_bytes: float | None
    needs_bytes: float | None = None
    """What a memory budget has to hold: the largest peak of any seed with ``reserve_bytes``; None if either is not
    known."""
    reserve_bytes: int | None = 0
    """What its process held on a GPU beside tensors, as ``run --budget`` estimates it; 0 on the CPU; None if the
    device or the precision is not known."""


@dataclass(frozen=True)
class Answer:
    """A decision with what people want to know beside it."""

    decision: Decision
    task: str
    costs: Mapping[str, Costs]
    """By the name of the tuned cell."""
    base_score: float | None
    """Score of the untuned base model; None if there is none, or several bases."""
    levels: Mapping[Literal["majority", "chance"], float | None]
    """Score of the majority answer and of chance, fractions of 1."""
    busy: BusyTrials | None
    """Trials whose training was measured on a busy machine."""
    seeds: int
    """The most finished seeds of any tuned cell."""
    command: str | None
    """Command that runs the trials of the grid that have no result yet, else the seeds that are missing; None if
    nothing is missing, or the command of the run is not known."""
    unfinished: Mapping[str, str]
    """Tuned cells of which no trial ended ``ok``, with how they ended, as "2 oom"; empty if none has a result yet."""
    missing: int = 0
    """Trials of the grid that have no result yet."""
    asked: int = 0
    """All trials of the grid; 0 if the results do not say."""
    finish_first: bool = False
    """Whether the run is to be finished before anything else. No trial of a smoke run would change its answer."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Display names of cells by their own."""
    imported: bool = False
    """Whether the rows are another benchmark's, so that no advice on settings of peftbench applies."""
    random_weights: bool = False
    """Whether every trial's base model has random weights, so that nothing is scored."""


def answer(results: Results, question: Question | None = None) -> Answer:
    """Return the answer to a question.

    Args:
        results: what is asked.
        question: by default a loss of 2 points of the mean over tasks.

    Raises:
        UserError: if the task is not one of the results', or a number of the question makes no sense.
    """
    asked = question or Question()
    task = _task(results, asked)
    asked_for = results.tasks if task == MEAN else (task,)
    stored = results.stored_outcomes(asked_for) if asked_for else {}
    costs = costs_of(results, task)
    levels: dict[Literal["majority", "chance"], float | None] = {
        "majority": results.reference("majority", task),
        "chance": results.reference("chance", task),
    }
    if is_smoke(results):
        decision = Decision("refused", asked, "smoke run")
    else:
        decision = decide(tuple(_candidates(results, stored, costs)), asked, levels)
    bases = [cell.mean(f"score_{task}") for cell in results.finished if cell.is_base]
    seeds = max((len(cell.ok) for cell in results.tuned), default=0)
    lacking = not_run(results)
    finish_first = results.missing > 0 and decision.refusal != "smoke run"
    return Answer(
        decision,
        task,
        costs,
        bases[0] if len(bases) == 1 else None,
        levels,
        busy_trials(results.trials[[not _is_base(method) for method in results.trials["method"]]]),
        seeds,
        (commands.whole(results) or None) if finish_first else _command(results, decision),
        {
            **{cell.name: cell.trouble for cell in results.cells if not cell.is_base and not len(cell.ok)},
            **{name: "" for name, cell in lacking.items() if not cell.is_base},
        },
        results.missing,
        results.asked,
        finish_first,
        {**display_names(results.cells), **{name: cell.title for name, cell in lacking.items()}},
        results.imported,
        all(random_weights(read_json(text)) for text in results.trials["settings_json"].dropna().unique()),
    )


@dataclass(frozen=True)
class Nearness:
    """How near the tuned cells are to the best of them, for the comparison table."""

    within: float
    """The tolerated loss, points."""
    level: float
    """Probability from which on a cell is good enough."""
    probabilities: Mapping[str, float]
    """Of lying within the loss, by the cell's name; cells that cannot be judged are missing."""
    good: frozenset[str]
    """Names of the good enough cells."""
    failure: str = ""
    """Why nothing could be computed; else empty."""


def nearness(results: Results, within: float = WITHIN) -> Nearness | None:
    """Return how near the cells are to the best on the headline score.

    None if fewer than two can be judged, or all score 0: equal because none learned anything, not because each is good.
    """
    name = f"nearness {within}"
    if name not in results.memo:

        def failed(note: str) -> Nearness:
            return Nearness(within, SURE, {}, frozenset(), note)

        tries, what = Attempts(), f"the probability of lying within {within:g} points of the best"
        made = guarded(what, lambda: tries.result(what, lambda: _nearness(results, within)), failed)
        results.memo[name] = failed(tries.failures[0]) if tries.failures else made
    found: Nearness | None = results.memo[name]
    return found


def _nearness(results: Results, within: float) -> Nearness | None:
    stored = results.stored_outcomes(results.tasks) if results.tasks else {}
    tuned = {cell.name: stored.get(cell.name) for cell in results.tuned}
    judged = {name: one for name, one in tuned.items() if isinstance(one, Outcomes) and one.seeds >= LEAST_SEEDS}
    headline = MEAN if len(results.tasks) > 1 else next(iter(results.tasks), MEAN)
    if len(judged) < 2 or not any(cell.mean(f"score_{headline}") for cell in results.tuned):
        return None
    found = losses(judged)
    shares, good = found.probability(within / 100), found.good_enough(within / 100)
    return Nearness(
        within,
        found.level(within / 100) if good.any() else SURE,
        dict(zip(found.names, map(float, shares), strict=True)),
        frozenset(name for name, one in zip(found.names, good, strict=True) if one),
    )


def _task(results: Results, asked: Question) -> str:
    if not 0 < asked.within <= 100:
        raise UserError(f"within: given {asked.within:g}; allowed: a loss above 0 and up to 100 points")
    headline = MEAN if len(results.tasks) > 1 else next(iter(results.tasks), MEAN)
    if asked.task is None or asked.task == headline:
        return headline
    if asked.task not in results.tasks:
        raise UserError(unknown("task", asked.task, results.tasks))
    return asked.task


def _candidates(
    results: Results, stored: Mapping[str, Outcomes | str], costs: Mapping[str, Costs]
) -> Iterator[Candidate]:
    bases = [cell for cell in results.finished if cell.is_base]
    for cell in results.tuned:
        own, paid = stored.get(cell.name), costs[cell.name]
        yield Candidate(
            cell.name,
            own if isinstance(own, Outcomes) else None,
            paid.peak_train_bytes,
            paid.train_seconds,
            _untuned(bases, stored, cell),
            own if isinstance(own, str) else None,
            paid.score,
            paid.needs_bytes,
        )


def _untuned(bases: Sequence[Cell], stored: Mapping[str, Outcomes | str], tuned: Cell) -> Outcomes | None:
    """Return the outcomes of a cell's untuned base model: at the cell's precision, else the best at any."""
    known = [
        (cell.precision == tuned.precision, found)
        for cell in bases
        if cell.summary.base == tuned.summary.base and isinstance(found := stored.get(cell.name), Outcomes)
    ]
    return max(known, key=lambda one: (one[0], one[1].mean))[1] if known else None


def costs_of(results: Results, task: str) -> dict[str, Costs]:
    """Return what each tuned cell costs, by its name; only the score depends on the task."""
    if "costs" not in results.memo:
        results.memo["costs"] = {cell.name: _costs(results, cell) for cell in results.tuned}
    known: dict[str, Costs] = results.memo["costs"]
    return {cell.name: replace(known[cell.name], score=cell.mean(f"score_{task}")) for cell in results.tuned}


def _costs(results: Results, cell: Cell) -> Costs:
    rows = cell.ok_rows
    measured = inference.of_cell(cell)
    peaks = [float(row["peak_train_bytes"]) for row in rows if is_number(row.get("peak_train_bytes"))]
    reserve = _reserve(rows)
    return Costs(
        None,
        cell.mean("peak_train_bytes"),
        cell.mean("train_seconds"),
        _forgetting(results).get(cell.name),
        measured.decode,
        _merge(cell, measured),
        cell.mean("checkpoint_bytes"),
        max(peaks) + reserve if peaks and reserve is not None and cell.mean("peak_train_bytes") is not None else None,
        reserve,
    )


def _reserve(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the most that trials are taken to have held on their device beside tensors, in bytes; None if unknown."""
    from peftbench.models.precision import PRECISIONS
    from peftbench.planner import cuda_reserve

    on_gpu = [row for row in rows if row.get("device") != "cpu"]
    if any(row.get("device") != "cuda" or row.get("precision") not in PRECISIONS for row in on_gpu):
        return None
    options = [read_json(row.get("settings_json")).get("options") or {} for row in on_gpu]
    pairs = zip(on_gpu, options, strict=True)
    return max((sum(cuda_reserve.parts_of("cuda", row["precision"], each).values()) for row, each in pairs), default=0)


def _forgetting(results: Results) -> Any:
    if "forgetting" not in results.memo:
        results.memo["forgetting"] = {one.cell.name: one.change for one in retained(results)}
    return results.memo["forgetting"]


def _merge(cell: Cell, measured: Measured) -> Merge | None:
    if cell.record is not None and cell.record.trains_base:
        return "whole model"
    if measured.merges:
        return "yes"
    return "no" if measured.cannot_merge else None


def _is_base(method: str) -> bool:
    from peftbench.methods import METHODS

    return method in METHODS and not METHODS[method].trains


def _command(results: Results, decision: Decision) -> str | None:
    """Return the command that runs the seeds that a decision needs; None if it needs none."""
    if decision.refusal == "single seed":
        return commands.more_seeds(results, FIRST_SEEDS)
    needed = decision.needed
    if needed and needed.seeds and not needed.examples:
        return commands.more_seeds(results, needed.seeds)
    if decision.status == "cannot tell" and any(decision.left_out[name] == ONE_SEED for name in decision.may_be_best):
        return commands.more_seeds(results, max(LEAST_SEEDS, *(len(cell.ok) for cell in results.tuned)))
    return None
