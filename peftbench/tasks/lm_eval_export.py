"""peftbench's tasks as lm-eval tasks, in memory or as a YAML file for the ``lm_eval`` command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftbench.records import Example, Task
from peftbench.tasks import chat, reach

TURN_ENDS = "peftbench_turn_ends"
"""Argument of generation with the texts that end a chat turn: they are removed from the end of an answer."""
NGRAMS = "peftbench_no_repeat_ngram_size"
"""Argument of generation with the number of tokens that an answer does not repeat in a row. The ``transformers``
argument of that name without the prefix counts the prompt's, too, so no file for lm-eval can ask for this."""

_METRICS = {
    "choice": ("acc", "acc_bytes"),
    "exact_match": ("exact_match",),
    "generation": ("bleu", "chrf"),
    "language_modelling": ("bits_per_byte",),
}


def config(task: Task, examples: Sequence[Example], eos: str | None = None) -> dict[str, Any]:
    """Return the lm-eval configuration of a task, without its data.

    Args:
        task: the task.
        examples: its examples; what ends the answers of a chat template is a stop text, unless an answer contains it.
            If one has several answers, an exact match with any of them counts.
        eos: the text of the end-of-text token.
    """
    several = task.kind == "exact_match" and any(len(e.references) > 1 for e in examples)
    shared: dict[str, Any] = {
        "task": task.name,
        "test_split": "test",
        "doc_to_text": "prompt",
        "target_delimiter": _delimiter(task, examples),
        "num_fewshot": 0,
        "metric_list": [{"metric": name} for name in _METRICS[task.kind]],
        "metadata": {"version": 1.0},
    }
    if task.kind == "choice":
        return {
            **shared,
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
        }
    if task.kind == "language_modelling":
        return {**shared, "output_type": "loglikelihood_rolling", "doc_to_target": "target"}
    return {
        **shared,
        "output_type": "generate_until",
        "doc_to_target": "references" if several else "target",
        "generation_kwargs": {
            "until": stops(task, examples, eos),
            "max_gen_toks": task.max_new_tokens,
            "do_sample": False,
            **_search(task),
        },
        "filter_list": [
            {"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]},
        ],
    }


def _search(task: Task) -> dict[str, Any]:
    """Return the arguments of generation about the search, those that are not at their default."""
    beams = {"num_beams": task.num_beams, "length_penalty": task.length_penalty} if task.num_beams > 1 else {}
    return beams | ({NGRAMS: task.no_repeat_ngram_size} if task.no_repeat_ngram_size else {})


def _delimiter(task: Task, examples: Sequence[Example]) -> str:
    """Return the text between prompt and answer, which ``documents`` writes before choices if examples differ in it."""
    if task.kind == "language_modelling" or not examples:
        return "" if task.chat else " "
    return "" if _joins_differ(examples) else examples[0].join


def _joins_differ(examples: Sequence[Example]) -> bool:
    return len({e.join for e in examples}) > 1


def stops(task: Task, examples: Sequence[Example], eos: str | None) -> list[str]:
    """Return the texts that end a decoded answer: the task's, and the end of a chat turn."""
    given = task.stop
    if given is None:
        given = reach.default_stops(task, (text for e in examples for text in (e.target, *e.references)))
    ends = [end for end in chat.endings(examples, eos) if end not in given]
    return [*given, *(end for end in ends if not any(end in e.target for e in examples))]


def documents(examples: Sequence[Example], ends: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return examples as lm-eval documents. ``config`` names their fields, so their texts are not read as templates.

    Args:
        examples: the examples.
        ends: for each example, the text that follows each of its choices; by default nothing.
    """
    differ = _joins_differ(examples)
    return [
        {
            "prompt": e.prompt,
            "target": e.target,
            "choices": [(e.join if differ else "") + choice + end for choice in e.choices],
            "answer": e.choices.index(e.target) if e.choices else -1,
            "references": list(e.references),
        }
        for e, end in zip(examples, ends or [""] * len(examples), strict=True)
    ]


def build(task: Task, examples: Sequence[Example], eos: str | None = None) -> Any:
    """Return the lm-eval task for examples in memory; for decoding, with the ends of chat turns as ``TURN_ENDS``."""
    import datasets
    from lm_eval.api.task import ConfigurableTask

    held = datasets.Dataset.from_list(documents(examples))
    made = config(task, examples, eos)
    if "generation_kwargs" in made:
        made["generation_kwargs"][TURN_ENDS] = list(chat.endings(examples, eos))
    return ConfigurableTask(config={**made, "custom_dataset": lambda **_: {"test": held}})


def export(
    task: Task, examples: Sequence[Example], folder: Path, eos: str | None = None, ends: Sequence[str] = ()
) -> Path:
    """Write the task as ``NAME.yaml`` and ``NAME.jsonl`` for ``lm_eval --include_path``; run it from the folder.

    With ``ends`` (see ``documents``) only the accuracy is computed, since lm-eval would count the bytes of an end, too.
    """
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(d, ensure_ascii=False) for d in documents(examples, ends)]
    (folder / f"{task.name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    stock = {
        **config(task, examples, eos),
        **({"metric_list": [{"metric": "acc"}]} if ends else {}),
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{task.name}.jsonl"}},
    }
    path = folder / f"{task.name}.yaml"
    path.write_text(yaml.safe_dump(stock, sort_keys=False), encoding="utf-8")
    return path
