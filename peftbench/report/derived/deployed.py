"""The score after deployment: each form of each cell beside what was scored, paired by seed and by example.

The difference of the score has the interval and the test of the crossed model for the same cell before and after a
change (``paired=True``); the p values of a whole table are corrected for their number by Holm's method.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from peftbench.methods import deployed_forms
from peftbench.records import Status
from peftbench.report.collect import Cell, Results, read_json
from peftbench.results.crossed_effects.model import LARGEST, Array, Estimate, Outcomes, difference
from peftbench.results.crossed_effects.ranking import holm
from peftbench.results.crossed_effects.student import LEVEL
from peftbench.results.rows import is_number

_MEANS = ("stored_bytes", "loaded_bytes", "load_seconds")
_COUNTS = ("logprobs", "equal_texts", "texts")
_LARGEST_DIFFERENCE = "largest_logit_difference"


@dataclass(frozen=True)
class Beside:
    """Another engine's numbers beside those of the trained model, over all seeds."""

    engines: tuple[str, ...]
    """Engine and torch with their versions: ``vllm 0.32.0 (torch 2.13.0)``."""
    logprob_difference: float
    """The largest one of a log-probability, in nats."""
    logprobs: int
    equal_texts: int
    """How many of the decoded texts are the same."""
    texts: int


@dataclass(frozen=True)
class Numbers:
    """What was measured of a form: means over the seeds of which it was scored."""

    scored: float
    """Mean over tasks of the trained model's scores, as fractions of 1."""
    by_task: Mapping[str, float]
    """Scores of this form."""
    change: Estimate | None
    """Score of the form minus that of the trained model; None if a task has a single example."""
    worse: float
    """Share of the examples whose outcome is lower than the trained model's."""
    better: float
    loss_before: float
    """Loss of the trained model on the targets, nats per token."""
    loss: float
    logit_difference: float | None
    """The largest one; None if one is not finite."""
    means: Mapping[str, float | None]
    """``stored_bytes``, ``loaded_bytes``, ``load_seconds``; None where another engine does not tell it."""
    dtype: str
    beside: Beside | None = None
    """How far another engine's numbers are from the trained model's; None if transformers scored the form."""

    @property
    def score(self) -> float:
        """Mean over tasks."""
        return statistics.fmean(self.by_task.values())


@dataclass(frozen=True)
class Deployed:
    """A form of a cell."""

    cell: Cell
    form: str
    counts: Mapping[str, int]
    """How many trials' forms ended as each status."""
    messages: tuple[str, ...] = ()
    """Why the others are not ok, each once."""
    refused: tuple[str, ...] = ()
    """Those of them which say that the method does not have this form."""
    numbers: Numbers | None = None
    """None if it was not scored."""
    remark: str | None = None
    """What the form leaves out by design of the libraries."""
    adjusted_p: float = field(default=1.0)
    """Of the change of the score, over all forms and cells of the table."""

    @property
    def seeds(self) -> int:
        """Number of trials of which this form was scored."""
        return self.counts.get(Status.OK, 0)

    @property
    def unsupported(self) -> bool:
        """Whether the method does not have this form."""
        return set(self.counts) == {Status.UNSUPPORTED}

    @property
    def change(self) -> Estimate | None:
        """The change of the score with its interval."""
        return self.numbers.change if self.numbers else None

    @property
    def falls(self) -> bool:
        """Whether its score is significantly lower than the trained model's."""
        return self.change is not None and self.change.value < 0 and self.adjusted_p < LEVEL


def deployed(results: Results) -> tuple[Deployed, ...]:
    """Return every form of every finished cell, in the order of the comparison table; empty if there are none."""
    found = [one for cell in results.finished for one in _of_cell(cell)]
    p_values = {place: one.change.p for place, one in enumerate(found) if one.change and one.change.p is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True)) if p_values else {}
    return tuple(replace(one, adjusted_p=adjusted.get(place, 1.0)) for place, one in enumerate(found))


def _of_cell(cell: Cell) -> list[Deployed]:
    raw = [one for row in cell.ok_rows if _is_record(one := read_json(row.get("deployed_json")))]
    settings = read_json(next(iter(cell.texts("settings_json")), "{}"))
    asked, options = settings.get("deployed"), settings.get("options")
    names = dict.fromkeys(name for one in raw for name in one["forms"])
    order = [*asked, *names] if isinstance(asked, list) else [*names]
    return [
        replace(
            _of_form(cell, name, raw),
            remark=deployed_forms.remark(options if isinstance(options, dict) else {}, name),
        )
        for name in sorted(names, key=order.index)
    ]


def _is_record(found: Mapping[str, Any]) -> bool:
    forms = found.get("forms")
    return isinstance(forms, dict) and all(isinstance(one, dict) for one in forms.values())


def _is_whole(one: Mapping[str, Any], name: str) -> bool:
    """Return whether a record has the numbers of a form that was scored, and the same examples for both."""
    try:
        before, after = one["scored"]["tasks"], one["forms"][name]["tasks"]
        for task, mine in before.items():
            sizes = {len(mine[what]) for what in ("outcomes", "nats", "tokens")}
            sizes |= {len(after[task][what]) for what in ("outcomes", "nats")}
            if len(sizes) > 1 or not all(is_number(each["score"]) for each in (mine, after[task])):
                return False
        form = one["forms"][name]
        told = all(is_number(form[mean]) or (form[mean] is None and form.get("engine")) for mean in _MEANS)
        return bool(before) and told and (not form.get("engine") or _beside([form]) is not None)
    except (KeyError, TypeError, AttributeError):
        return False


def _of_form(cell: Cell, name: str, raw: Sequence[Mapping[str, Any]]) -> Deployed:
    known = [one for one in raw if name in one["forms"]]
    forms = [one["forms"][name] for one in known]
    statuses = [str(form.get("status")) for form in forms]
    messages = dict.fromkeys(str(form["message"]) for form in forms if form.get("message"))
    refused = [form.get("message") for form in forms if form.get("status") == Status.UNSUPPORTED]
    scored = [one for one in known if one["forms"][name].get("status") == Status.OK and _is_whole(one, name)]
    return Deployed(
        cell,
        name,
        {status: statuses.count(status) for status in dict.fromkeys(statuses)},
        tuple(messages),
        tuple(message for message in messages if message in refused),
        _numbers([one["scored"]["tasks"] for one in scored], [one["forms"][name] for one in scored]),
    )


def _numbers(before: Sequence[Mapping[str, Any]], forms: Sequence[Mapping[str, Any]]) -> Numbers | None:
    """Return a form's numbers.

    Args:
        before: of each seed, what was stored of the trained model by task.
        forms: of each seed, what was stored of the form.
    """
    if not forms:
        return None
    after, tasks = [form["tasks"] for form in forms], list(before[0])
    pairs = [(_array(before, task), _array(after, task)) for task in tasks]
    moved = [b - a for a, b in pairs]
    tokens = _total(before, "tokens")
    stored = [form.get(_LARGEST_DIFFERENCE) for form in forms]
    differences: list[float] = [value for value in stored if is_number(value) and value is not None]
    return Numbers(
        scored=statistics.fmean(one[task]["score"] for one in before for task in tasks),
        by_task={task: statistics.fmean(one[task]["score"] for one in after) for task in tasks},
        change=_change(pairs),
        worse=float(np.mean([(each < 0).mean() for each in moved])),
        better=float(np.mean([(each > 0).mean() for each in moved])),
        loss_before=_total(before, "nats") / tokens,
        loss=_total(after, "nats") / tokens,
        logit_difference=max(differences) if len(differences) == len(forms) else None,
        means={name: _mean([form[name] for form in forms]) for name in _MEANS},
        dtype=", ".join(dict.fromkeys(str(form["dtype"]) for form in forms)),
        beside=_beside(forms),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _beside(forms: Sequence[Mapping[str, Any]]) -> Beside | None:
    """Return another engine's numbers beside the trained model's; None if none scored the form, or told them."""
    told = [form.get("beside") for form in forms]
    names = [form.get("engine") for form in forms]
    if not all(isinstance(one, dict) for one in (*told, *names)):
        return None
    sums = {name: [one.get(name) for one in told if one] for name in (*_COUNTS, "largest_logprob_difference")}
    if not all(is_number(value) for values in sums.values() for value in values):
        return None
    words = [f"{one.get('engine')} {one.get(one.get('engine'))} (torch {one.get('torch')})" for one in names if one]
    counts = {name: sum(sums[name]) for name in _COUNTS}
    return Beside(tuple(dict.fromkeys(words)), max(sums["largest_logprob_difference"]), **counts)


def _array(seeds: Sequence[Mapping[str, Any]], task: str) -> Array:
    """Return the outcomes of a task, (seeds, examples)."""
    return np.asarray([one[task]["outcomes"] for one in seeds], dtype=np.float64)


def _total(seeds: Sequence[Mapping[str, Any]], what: str) -> float:
    return float(sum(sum(task[what]) for one in seeds for task in one.values()))


def _change(pairs: Sequence[tuple[Array, Array]]) -> Estimate | None:
    if any(b.shape[1] < 2 or not (np.abs(b) <= LARGEST).all() for pair in pairs for b in pair):
        return None
    one, other = (Outcomes.of(*side) for side in zip(*pairs, strict=True))
    return difference(one, other, paired=True)
