"""Intervals, differences from the best and minimum detectable difference of a table's scores.

Everything here needs the stored outcomes of every example. Without them there is no ranking and no interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from peftbench.records.wording import abridged
from peftbench.report.collect import MEAN, Cell, Results
from peftbench.report.derived import rates
from peftbench.report.derived.attempts import Attempts
from peftbench.report.guarded import guarded
from peftbench.results.crossed_effects import front, planning
from peftbench.results.crossed_effects.model import Estimate, Outcomes
from peftbench.results.crossed_effects.planning import Sensitivity
from peftbench.results.crossed_effects.ranking import Ranking, rank

COSTS: Mapping[str, str] = {
    "peak_train_bytes": "memory",
    "train_seconds": "time",
    "trainable_parameters": "parameters",
    "train_energy_joules": "energy",
}
"""Column of a cost, and its name in the Pareto front of scores against it."""


@dataclass(frozen=True)
class Significance:
    """Rankings of all tasks whose outcomes are stored."""

    headline: str
    """The mean over tasks, or the only task."""
    rankings: Mapping[str, Ranking]
    """By task; a task whose outcomes are not stored is missing."""
    fronts: Mapping[str, Mapping[str, float]]
    """Name of a cost, to each cell's probability of lying on the front of the headline score against it."""
    sensitivity: Sensitivity | None
    """Which differences of the headline score can be found; None for single seeds."""
    tuned: frozenset[str] = frozenset()
    """Names of the tuned cells: the untuned base model has no seed."""
    untested: Mapping[str, str] = field(default_factory=dict)
    """By task, why there is no ranking; only for tasks whose scores more than one cell has."""
    failures: tuple[str, ...] = ()
    """What could not be computed, and why."""

    def estimate(self, task: str, cell: Cell) -> Estimate | None:
        """Return a score with its interval; None if it is not known."""
        found = self.rankings.get(task)
        return found.scores.get(cell.name) if found else None


def significance(results: Results) -> Significance:
    """Rank the cells on each task and on the mean over tasks."""
    if "significance" not in results.memo:
        nothing = Significance(MEAN, {}, {}, None)
        results.memo["significance"] = guarded(
            "significance tests and intervals",
            lambda: _significance(results),
            lambda note: replace(nothing, failures=(note,)),
        )
    found: Significance = results.memo["significance"]
    return found


def _significance(results: Results) -> Significance:
    tuned = frozenset(cell.name for cell in results.tuned)
    headline = MEAN if len(results.tasks) > 1 else next(iter(results.tasks), MEAN)
    wanted = {task: (task,) for task in results.tasks} | ({MEAN: results.tasks} if headline == MEAN else {})
    found = {task: results.outcomes(names) for task, names in wanted.items()}
    tries = Attempts()
    rankings = {
        task: ranking
        for task, cells in found.items()
        if len(cells) > 1
        and (ranking := tries.result(f"tests on {task}", lambda c=cells: rank(c, reference(results, c))))  # type: ignore[misc]
    }
    untested = {
        task: _why_untested(results.without_outcomes(names), len(results.finished))
        for task, names in wanted.items()
        if not found[task]
    }
    untested = untested if len(results.finished) > 1 and results.tasks else {}
    cells = found.get(headline, {})
    if headline not in rankings:
        return Significance(headline, rankings, {}, None, tuned, untested, tuple(tries.failures))
    fronts = {
        name: on_front
        for column, name in COSTS.items()
        if (on_front := tries.result(f"front by {name}", lambda c=column: _front(results, cells, c)))  # type: ignore[misc]
    }
    sensitivity = tries.result("smallest detectable difference", lambda: _sensitivity(rankings[headline], cells))
    return Significance(headline, rankings, fronts, sensitivity, tuned, untested, tuple(tries.failures))


def _why_untested(reasons: Mapping[str, str], finished: int) -> str:
    """Return the reasons for which cells have no outcomes, each with the cells it is true of."""
    cells: dict[str, list[str]] = {}
    for cell, reason in reasons.items():
        cells.setdefault(reason, []).append(cell)
    every = len(cells) == 1 and len(reasons) == finished > 3
    return "; ".join(f"{'every cell' if every else abridged(names, 3)}: {reason}" for reason, names in cells.items())


def reference(results: Results, cells: Iterable[str]) -> str | None:
    """Return the cell that others are compared with: the first of full fine-tuning; None if there is none."""
    known = set(cells)
    return next((cell.name for cell in results.finished if cell.method == "full" and cell.name in known), None)


def _front(results: Results, cells: Mapping[str, Outcomes], column: str) -> dict[str, float]:
    """Return the front probabilities of the tuned cells whose cost is known."""
    costs = {cell.name: cell.mean(column) for cell in results.tuned if cell.name in cells}
    if column == "train_energy_joules" and any(
        rates.samples_per_joule(row) is None for cell in results.tuned for row in cell.ok_rows
    ):
        return {}  # not measured, or the counter covered other work too
    known = {name: cost for name, cost in costs.items() if cost is not None}
    return front.on_front({name: cells[name] for name in known}, known) if len(known) > 1 else {}


def _sensitivity(found: Ranking, cells: Mapping[str, Outcomes]) -> Sensitivity | None:
    """Return the sensitivity of comparing each tuned cell with the reference, else with the best."""
    comparisons = found.with_reference or found.with_best
    tuned = {name: cell for name, cell in cells.items() if not cell.seedless}
    against = tuned.get(comparisons[0].against)
    if against is None:
        return None
    noise = planning.noise((against, cell) for cell in tuned.values() if cell is not against)
    scores = [cell.mean for cell in tuned.values()]
    return None if noise is None else planning.sensitivity(noise, scores, len(comparisons))
