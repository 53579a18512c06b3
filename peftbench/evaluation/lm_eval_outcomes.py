"""Outcomes of tasks defined by lm-eval, with its metrics. The headline metric is one with an outcome per example."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftbench.errors import UserError, unknown
from peftbench.evaluation import metrics
from peftbench.evaluation.lm_eval_model import Harness
from peftbench.evaluation.outcomes import Found, finite, predict
from peftbench.evaluation.ranking import WITHOUT_END, form_words
from peftbench.records import Example, ExampleRow, Task
from peftbench.tasks import lm_eval_tasks

_UNREAD = "[invalid]"
"""The output of lm-eval's filters if they find no answer."""
_SIZES = {"acc_norm": len, "acc_bytes": lambda choice: len(choice.encode())}
"""Metric -> the size of a choice by which it divides the log-probability."""


def judge(
    task: Task, examples: Sequence[Example], samples: Sequence[Mapping[str, Any]], model: Harness
) -> tuple[Found, str]:
    """Return a row per example and further metrics, and the headline metric.

    The headline is named as in lm-eval: ``acc`` or, with a filter, ``exact_match,strict-match``.

    Raises:
        UserError: if the requested metric, or every metric, lacks an outcome per example.
    """
    found = lm_eval_tasks.build(task)
    if found.OUTPUT_TYPE == "loglikelihood_rolling":
        return predict(task, examples, samples, model), "probability_per_byte"
    name = _headline(task, found, samples)
    metric, _, filtered = name.partition(",")
    mine = [s for s in samples if s["filter"] == (filtered or "none")]
    rows = []
    for index, (e, sample) in enumerate(zip(examples, mine, strict=True)):
        row = ExampleRow("", task.name, index, e.prompt, e.target, "", float(sample[metric]))
        if found.OUTPUT_TYPE == "generate_until":
            text, read = _first(sample["resps"]), _first(sample["filtered_resps"])
            row = replace(row, prediction=text.strip(), format_ok=bool(read.strip()) and read != _UNREAD)
        else:
            row = _ranked(task, row, e, sample, _SIZES.get(metric))
        rows.append(row)
    shared = found.OUTPUT_TYPE == "multiple_choice" and metrics.share_choices(examples)
    classes = metrics.classes([e.target for e in examples], [row.prediction for row in rows]) if shared else {}
    return (rows, classes), name


def _ranked(task: Task, row: ExampleRow, e: Example, sample: Mapping[str, Any], size: Any) -> ExampleRow:
    """Return a row with the log-probabilities of the choices, and the choice that the headline ranks first."""
    logprobs = finite([float(response[0]) for response in sample["filtered_resps"]][: len(e.choices)], task, row.index)
    ranks = [lp / max(1, size(c) if size else 1) for lp, c in zip(logprobs, e.choices, strict=True)]
    first = e.choices[max(range(len(ranks)), key=ranks.__getitem__)] if len(ranks) > 1 else ""
    return replace(row, prediction=first, choice_logprobs=json.dumps(logprobs))


def _headline(task: Task, found: Any, samples: Sequence[Mapping[str, Any]]) -> str:
    """Return the task's first metric that is between 0 and 1 for every example and better when higher."""
    higher = found.higher_is_better()
    order = list(found.aggregation())
    names = []
    for filtered in dict.fromkeys(s["filter"] for s in samples):
        mine = [s for s in samples if s["filter"] == filtered]
        for metric in sorted(mine[0]["metrics"], key=lambda m: order.index(m) if m in order else len(order)):
            if higher.get(metric, True) and all(_is_fraction(s[metric]) for s in mine):
                names.append(metric if filtered == "none" else f"{metric},{filtered}")
    wanted = task.metric
    if wanted is None and names:
        return names[0]
    matching = [name for name in names if wanted in (name, name.partition(",")[0])]
    if not matching:
        problem = unknown("metric", wanted, names) if wanted else "has no metric"
        raise UserError(f"task {task.name!r}: {problem} with an outcome per example between 0 and 1, more being better")
    return matching[0]


def _is_fraction(value: Any) -> bool:
    try:
        return 0 <= float(value) <= 1
    except (TypeError, ValueError):  # a pair of counts, for a metric over all examples
        return False


def _first(responses: Any) -> str:
    """Return the first text in nested lists of texts; of several samples only the first is used."""
    while isinstance(responses, list | tuple):
        responses = responses[0] if responses else ""
    return str(responses)


def settings(task: Task, model: Harness) -> dict[str, Any]:
    """Return the settings of a task that lm-eval, not the suite, defines."""
    found = lm_eval_tasks.build(task)
    found_settings = {
        "lm_eval": Path(str(task.lm_eval)).name,
        "version": found.VERSION,
        "output_type": found.OUTPUT_TYPE,
        "num_fewshot": found.config.num_fewshot or 0,
        "fewshot_split": found.fewshot_cfg.split if hasattr(found, "fewshot_cfg") else None,
    }
    if found.OUTPUT_TYPE == "generate_until":
        asked = json.loads(json.dumps(found.config.generation_kwargs, default=str))
        found_settings |= {"generation": asked, **model.decoding_settings(asked)}
    if found.OUTPUT_TYPE == "multiple_choice":
        found_settings |= {"ranked": WITHOUT_END} | form_words(model.form)
    return found_settings
