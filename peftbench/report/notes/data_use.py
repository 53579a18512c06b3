"""What trials saw of their data, in words: steps, examples, passes, tokens, what was cut, what test and train share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_READ = (
    "cell",
    "steps_done",
    "examples_seen",
    "distinct_examples_seen",
    "nonpadding_tokens",
    "loss_tokens",
    "data_seen_json",
)


def sentences(trials: pd.DataFrame) -> tuple[str, ...]:
    """Return what is to be said of trials' data; nothing of rows that are older than its columns.

    Args:
        trials: rows of ``trials``.
    """
    known = trials[trials["data_seen_json"].notna() & trials["steps_done"].notna()]
    if not len(known):
        return ()
    rows = [{**row, "seen": json.loads(row["data_seen_json"])} for row in known[list(_READ)].to_dict("records")]
    return (*_seen(rows), _cut(rows, trials["scores_json"].dropna().unique()), *_overlap(known))


def _seen(rows: Iterable[dict[str, Any]]) -> Iterable[str]:
    """Yield what the methods saw: one sentence where all saw the same, else one for those that did."""
    groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((int(row["steps_done"]), int(row["examples_seen"])), []).append(row)
    for (steps, examples), alike in groups.items():
        who = "Every trial" if len(groups) == 1 else ", ".join(dict.fromkeys(row["cell"] for row in alike))
        distinct, tokens, loss = (
            _span(row[name] for row in alike) for name in ("distinct_examples_seen", "nonpadding_tokens", "loss_tokens")
        )
        yield (
            f"{who} saw {_plural(steps, 'step')} and {_plural(examples, 'example')}, {distinct} of them distinct: "
            f"{_passes([row['seen'] for row in alike])}; {tokens} tokens without padding, of which {loss} bore loss."
        )


def _passes(seen: Sequence[dict[str, dict[str, int]]]) -> str:
    """Return how often each training set was gone through: ``2.3 passes over the 1,200 examples of trec``."""
    parts = []
    for task, first in seen[0].items():
        size = first["examples"]
        drawn = sorted({each[task]["drawn"] for each in seen})
        ends = list(dict.fromkeys(_brief(n / size) for n in (drawn[0], drawn[-1])))
        noun = "pass" if ends == ["1"] else "passes"
        parts.append(f"{' to '.join(ends)} {noun} over the {_plural(size, 'example')} of {task}")
    return ", ".join(parts)


def _cut(rows: Iterable[dict[str, Any]], scores: Iterable[str]) -> str:
    """Return how many examples were cut to fit, of all seeds together; none is ever dropped."""
    cells: dict[str, Counter[tuple[str, str]]] = {}
    for row in rows:
        for task, each in row["seen"].items():
            for what in ("truncated", "drawn"):
                cells.setdefault(row["cell"], Counter())[task, what] += each[what]
    groups: dict[str, list[str]] = {}
    for cell, counts in cells.items():
        tasks = [task for task, what in counts if what == "truncated" and counts[task, what]]
        told = ", ".join(_share(counts[task, "truncated"], counts[task, "drawn"], task) for task in tasks)
        groups.setdefault(told, []).append(cell)
    train = [told if len(groups) == 1 else f"{told} ({', '.join(who)})" for told, who in groups.items() if told]
    prompts = dict.fromkeys(
        f"{score['truncated_prompts']:,} of {score['examples']:,} of {task}"
        for text in scores
        for task, score in json.loads(text).items()
        if score.get("truncated_prompts")
    )
    parts = [f"of the training examples {'; '.join(train)}, to the sequence length"] if train else []
    parts += [f"of the scored prompts {', '.join(prompts)}, to the longest length of evaluation"] if prompts else []
    if not parts:
        return "No example was dropped and none was cut, neither in training nor in evaluation."
    return f"Cut on the left: {'; '.join(parts)}. No example was dropped."


def _share(cut: int, drawn: int, task: str) -> str:
    return f"{cut:,} of {drawn:,} of {task} ({_brief(100 * cut / drawn)} %)"


def _brief(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def _overlap(trials: pd.DataFrame) -> Iterable[str]:
    """Yield what the scored prompts have in common with the training data."""
    for text in trials["overlap_json"].dropna().unique():
        found = json.loads(text)
        parts = [
            f"{task}: of {_plural(each['examples'], 'scored prompt')} {each['exact']:,} "
            f"{'is a training prompt' if each['exact'] == 1 else 'are training prompts'} word for word, "
            f"{each['ngram'] - each['exact']:,} more have {each['words']} words in a row of one"
            for task, each in found.items()
            if each["ngram"]
        ]
        if parts:
            yield f"Overlap of scored and training data: {'; '.join(parts)}."
        elif found:
            words = max(each["words"] for each in found.values())
            yield f"No scored prompt is a training prompt or has {words} words in a row of one."


def _span(values: Iterable[Any]) -> str:
    found = sorted({int(value) for value in values})
    return " to ".join(f"{value:,}" for value in dict.fromkeys((found[0], found[-1])))


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
