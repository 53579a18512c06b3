"""What the table says beyond its means: intervals for new seeds and new examples, ties with the best, what it can show.

Everything here needs the stored outcomes of every example; where they are missing nothing is said of new examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from peftbench.report.collect import MEAN, Cell, Results
from peftbench.report.notes import sensitivity
from peftbench.report.tables import speed
from peftbench.results.crossed_effects import front, planning
from peftbench.results.crossed_effects.model import Estimate, Outcomes
from peftbench.results.crossed_effects.ranking import Ranking, rank

TIED = "*"
"""Mark of a cell that cannot be told from the best."""
COSTS: Mapping[str, str] = {
    "peak_train_bytes": "memory",
    "train_seconds": "time",
    "trainable_parameters": "parameters",
    "train_energy_joules": "energy",
}
"""Column to its name where the front of score against it is meant."""


@dataclass(frozen=True)
class Standing:
    """What is known of each task's scores; a task whose outcomes are not stored is absent."""

    rankings: Mapping[str, Ranking]
    fronts: Mapping[str, Mapping[str, float]]
    """Cost to cell to its probability of lying on the front of the headline score against it."""
    notes: tuple[str, ...]

    def estimate(self, task: str, cell: Cell) -> Estimate | None:
        """Return a score with its interval; None where it is not known."""
        found = self.rankings.get(task)
        return found.scores.get(cell.name) if found else None

    def tied(self, task: str, cell: Cell) -> bool:
        """Whether a cell is the best or cannot be told from it, and is not significantly best."""
        found = self.rankings.get(task)
        return found is not None and cell.name in found.ties and found.significantly_best is None

    def best(self, task: str, cell: Cell) -> bool:
        """Whether a cell is significantly best."""
        found = self.rankings.get(task)
        return found is not None and found.significantly_best == cell.name


def standing(results: Results) -> Standing:
    """Return what is known of the order of the cells, per task and for the mean over tasks."""
    headline = MEAN if len(results.tasks) > 1 else next(iter(results.tasks), MEAN)
    wanted = {task: (task,) for task in results.tasks} | ({MEAN: results.tasks} if headline == MEAN else {})
    found = {task: results.outcomes(names) for task, names in wanted.items()}
    rankings = {task: rank(cells, reference(results, cells)) for task, cells in found.items() if len(cells) > 1}
    cells = found.get(headline, {})
    if headline not in rankings:
        return Standing(rankings, {}, ())
    fronts = {name: on_front for column, name in COSTS.items() if (on_front := _front(results, cells, column))}
    notes = (*_reading(rankings), *_against_reference(rankings[headline], headline), *_power(rankings[headline], cells))
    return Standing(rankings, fronts, notes)


def reference(results: Results, cells: Iterable[str]) -> str | None:
    """Return the cell that others are compared with: the first of full fine-tuning; None where there is none."""
    known = set(cells)
    return next((cell.name for cell in results.finished if cell.method == "full" and cell.name in known), None)


def _front(results: Results, cells: Mapping[str, Outcomes], column: str) -> dict[str, float]:
    """Return the probabilities of the tuned cells whose cost is known."""
    costs = {cell.name: cell.mean(column) for cell in results.tuned if cell.name in cells}
    if column == "train_energy_joules" and any(
        speed.samples_per_joule(row) is None for cell in results.tuned for row in cell.ok.to_dict("records")
    ):
        return {}  # not counted, or the counter saw other work too
    known = {name: (cost,) for name, cost in costs.items() if cost is not None}
    return front.on_front({name: cells[name] for name in known}, known) if len(known) > 1 else {}


def _reading(rankings: Mapping[str, Ranking]) -> Iterable[str]:
    scopes = {estimate.scope for found in rankings.values() for estimate in found.scores.values()}
    several = scopes == {"new seeds and new examples"}
    meant = "new seeds and new examples" if several else "new examples, of a single seed for these checkpoints only"
    mark = f"{TIED}: cannot be told from the best of its column (Holm)"
    best = [f"{found.significantly_best} ({task})" for task, found in rankings.items() if found.significantly_best]
    told = f"significantly best: {', '.join(best)}" if best else "none is significantly best"
    yield f"Tests, and intervals in brackets on the page and in Markdown, are at 95 % for {meant}. {mark}; {told}."


def _against_reference(found: Ranking, headline: str) -> Iterable[str]:
    if not found.with_reference:
        return
    other = found.with_reference[0].against
    sides = {"below": False, "above": True}
    told = [
        f"{side}: {', '.join(names)}"
        for side, above in sides.items()
        if (names := [c.cell for c in found.with_reference if c.significant and (c.estimate.value > 0) == above])
    ]
    yield f"Told from {other} by {headline} (Holm): {'; '.join(told) if told else 'none'}."


def _power(found: Ranking, cells: Mapping[str, Outcomes]) -> Iterable[str]:
    """Say what the table can show of its tuned cells: each against the reference, else against the best."""
    comparisons = found.with_reference or found.with_best
    tuned = {name: cell for name, cell in cells.items() if not cell.seedless}
    against = tuned.get(comparisons[0].against)
    if against is None:
        return
    others = {name: cell for name, cell in tuned.items() if cell is not against}
    noise = planning.noise((against, cell) for cell in others.values())
    if noise is not None:
        found_by = planning.sensitivity(noise, [cell.mean for cell in tuned.values()], len(comparisons))
        yield sensitivity.sentence(found_by)
