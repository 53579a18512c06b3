"""Notes on decoded answers: how they were decoded if not greedily, targets that cannot be given, answers cut short."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from peftbench.records.wording import abridged
from peftbench.report.collect import Results, read_json
from peftbench.report.notes.scores import metric_words
from peftbench.tasks import reach

_MOST = 4
"""Most cells that one note names."""


def notes(results: Results) -> Iterator[str]:
    """Yield the notes on decoded answers; none for rows that are older than what they state."""
    targets: dict[str, None] = {}
    asked: dict[str, None] = {}
    searched: dict[str, None] = {}
    lacking: dict[str, None] = {}
    cut: dict[str, dict[str, Counter[str]]] = {}
    for cell in results.cells:
        for row in cell.ok_rows:
            for task, score in read_json(row["scores_json"]).items():
                settings = score.get("settings", {})
                stops, longest = settings.get("stop", ()), settings.get("max_new_tokens", 0)
                said = score.get("targets") and reach.sentence(task, score["targets"], stops, longest)
                targets |= {said: None} if said else {}
                asked |= {task: None} if settings.get("decoding_from") == "base" else {}
                searched |= {f"{task} ({said})": None for said in _search(settings)}
                lacking |= {
                    f"{metric_words(name)} of {task} ({why})": None
                    for name, why in settings.get("not_computed", {}).items()
                }
                if score.get("cut_answers"):
                    counted = cut.setdefault(task, {}).setdefault(cell.name, Counter())
                    counted.update(cut=score["cut_answers"], of=score["examples"])
    if asked:
        yield (
            f"Decoded with the settings of the base model's own generation_config, not greedily: {', '.join(asked)}; "
            "they are stored with each score."
        )
    if searched:
        yield f"Answers are not decoded greedily: {', '.join(searched)}."
    if lacking:
        yield f"Not computed: {', '.join(lacking)}."
    yield from (f"Targets that decoding cannot give, whatever a model learns: {said}." for said in targets)
    for task, cells in cut.items():
        ordered = sorted(cells.items(), key=lambda item: -item[1]["cut"] / item[1]["of"])
        each = [f"{name} ({counted['cut']:,} of {counted['of']:,})" for name, counted in ordered]
        yield f"Decoded answers of {task} that reached max_new_tokens before their end: {abridged(each, _MOST)}."


def _search(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield with which search of the suite the answers were decoded; nothing if greedily or as the base's file says."""
    how = settings.get("decoding") or {}
    if settings.get("decoding_from") == "base":
        return
    beams, size = how.get("num_beams") or 1, how.get("no_repeat_ngram_size") or 0
    said = [f"{beams} beams, length penalty {how.get('length_penalty')}"] if beams > 1 else []
    said += [f"no repeated {size}-grams"] if size else []
    if said:
        yield ", ".join(said)
