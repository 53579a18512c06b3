"""Notes on training data: steps, examples, epochs, tokens, truncation, overlap of scored and training data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from peftbench.records.wording import plural, span
from peftbench.results.rows import is_number
from peftbench.training.encoded import LOST

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
    """Return the notes on the data of trials; none for rows that are older than the columns.

    Args:
        trials: rows of ``trials``.
    """
    known = trials[trials[list(_READ)].notna().all(axis=1)]
    if not len(known):
        return ()
    columns = known.reindex(columns=[*_READ, "head_parameters"]).to_dict("records")
    rows = [{**row, "seen": json.loads(row["data_seen_json"])} for row in columns]
    head = all(is_number(row["head_parameters"]) for row in rows)
    return (*_seen(rows, head), _truncated(rows, trials["scores_json"].dropna().unique(), head), *_overlap(known))


def _seen(rows: Iterable[dict[str, Any]], head: bool) -> Iterable[str]:
    """Yield the amount of training data: one sentence if it is the same for all cells, else one for each amount."""
    groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((int(row["steps_done"]), int(row["examples_seen"])), []).append(row)
    for (steps, examples), alike in groups.items():
        who = "every trial" if len(groups) == 1 else ", ".join(dict.fromkeys(row["cell"] for row in alike))
        distinct, tokens, loss = (
            span(int(row[name]) for row in alike)
            for name in ("distinct_examples_seen", "nonpadding_tokens", "loss_tokens")
        )
        yield (
            f"Training data of {who}: {plural(steps, 'step')}, {plural(examples, 'example')} ({distinct} distinct): "
            f"{_epochs([row['seen'] for row in alike])}; {tokens} non-padding tokens, {_in_loss(loss, head)}."
        )


def _in_loss(loss: str, head: bool) -> str:
    """Return what of the tokens is in the loss: with a head none, but one prediction for each text."""
    return "with the loss on what the head gives for each text" if head else f"of which {loss} contribute to the loss"


def _epochs(seen: Sequence[dict[str, dict[str, int]]]) -> str:
    """Return how often each training set was used: "2.3 epochs of trec (1,200 examples), 1 of sst2 (600)"."""
    parts: list[str] = []
    for task, first in seen[0].items():
        size = first["examples"]
        epochs = span((each[task]["drawn"] / size for each in seen), _brief)
        if parts:
            parts.append(f"{epochs} of {task} ({size:,})")
        else:
            parts.append(f"{epochs} {'epoch' if epochs == '1' else 'epochs'} of {task} ({plural(size, 'example')})")
    return ", ".join(parts)


def _truncated(rows: Iterable[dict[str, Any]], scores: Iterable[str], head: bool) -> str:
    """Return how many examples were truncated and what they lost, over all seeds; none is ever dropped.

    A prompt loses its start, as the answer follows its end; a text that a head reads loses its end.
    """
    cells: dict[str, dict[str, Counter[str]]] = {}
    for row in rows:
        for task, each in row["seen"].items():
            counts = cells.setdefault(row["cell"], {}).setdefault(task, Counter())
            counts.update(truncated=each["truncated"], drawn=each["drawn"], **each.get("lost", {}))
    groups: dict[str, list[str]] = {}
    for cell, tasks in cells.items():
        shares = ", ".join(_share(task, counts) for task, counts in tasks.items() if counts["truncated"])
        groups.setdefault(shares, []).append(cell)
    train = [text if len(groups) == 1 else f"{text} ({', '.join(who)})" for text, who in groups.items() if text]
    prompts = dict.fromkeys(
        _cut_prompts(task, score, head)
        for text in scores
        for task, score in json.loads(text).items()
        if score.get("truncated_prompts")
    )
    parts = [f"training examples, to the sequence length: {'; '.join(train)}"] if train else []
    parts += (
        [f"scored {'texts' if head else 'prompts'}, to evaluation's maximum length: {', '.join(prompts)}"]
        if prompts
        else []
    )
    if not parts:
        return "No example was dropped or truncated, in training or in evaluation."
    return f"Truncated on the {'right' if head else 'left'}: {'; '.join(parts)}. No example was dropped."


def _share(task: str, counts: Counter[str]) -> str:
    """Return how many training examples of a task were truncated: "3 of 60 of trec (5 %: 3 lost the whole prompt)"."""
    each = [f"{counts[what]:,} lost {words}" for what, words in LOST.items() if counts[what]]
    what = f": {', '.join(each)}" if each else ""
    share = _brief(100 * counts["truncated"] / counts["drawn"])
    return f"{counts['truncated']:,} of {counts['drawn']:,} of {task} ({share} %{what})"


def _cut_prompts(task: str, score: dict[str, Any], head: bool) -> str:
    """Return how many prompts of a task were cut: "4 of 500 of trec (4 lost the start, 0 the whole prompt)"."""
    cut, gone = score["truncated_prompts"], score.get("lost_prompts")
    if head:
        return f"{cut:,} of {score['examples']:,} of {task} ({cut:,} lost the end of the text)"
    what = "" if gone is None else f" ({cut - gone:,} lost the start of the prompt, {gone:,} the whole prompt)"
    return f"{cut:,} of {score['examples']:,} of {task}{what}"


def _brief(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def _overlap(trials: pd.DataFrame) -> Iterable[str]:
    """Yield what the scored prompts have in common with the training data."""
    for text in trials["overlap_json"].dropna().unique():
        found = json.loads(text)
        parts = [
            f"{each['exact']:,} of {plural(each['examples'], 'scored prompt')} of {task} "
            f"{'is a training prompt' if each['exact'] == 1 else 'are training prompts'} word for word, "
            f"{each['ngram'] - each['exact']:,} more share {each['words']} consecutive words with one"
            for task, each in found.items()
            if each["ngram"]
        ]
        if parts:
            yield f"Overlap of scored and training data: {'; '.join(parts)}."
        elif found:
            words = max(each["words"] for each in found.values())
            scored = sum(each["examples"] for each in found.values())
            who = "The only scored prompt is neither" if scored == 1 else f"None of {scored:,} scored prompts is"
            with_one = f"shares {words} consecutive words with one"
            yield f"{who} a training prompt {'nor' if scored == 1 else 'or'} {with_one}."
