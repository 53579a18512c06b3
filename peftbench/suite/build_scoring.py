"""How tasks are scored: answer parser, stop strings, few-shot examples, headline metric; and tasks of lm-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftbench.errors import unknown
from peftbench.methods import deployed_forms, engines
from peftbench.records import Base, Task
from peftbench.suite.builder import Builder
from peftbench.suite.schema import TaskBlock
from peftbench.suite.yaml_lines import KeyPath
from peftbench.tasks import HEADLINES, answers
from peftbench.tasks.more_metrics import MORE_METRICS
from peftbench.tasks.reach import DECODED
from peftbench.tasks.splits import splits

SEARCH = ("num_beams", "length_penalty", "no_repeat_ngram_size")
"""Keys about the search for a decoded answer."""
_FOR_LM_EVAL = ("lm_eval", "num_fewshot", "max_new_tokens", "stop", "limit", "metric")


def scoring(b: Builder, path: KeyPath, block: TaskBlock, task: Task) -> dict[str, Any]:
    """Return the fields of a ``Task`` about scoring, and record problems with them.

    Args:
        b: the suite.
        path: the path of the task's block.
        block: the block.
        task: the task so far, with its kind and files.
    """
    if block.answer_pattern is not None:
        problem = answers.problem(block.answer_pattern)
        if task.kind != "exact_match":
            problem = f"only an exact_match task parses answers; this one's kind is {task.kind}"
        if problem:
            ready = ", ".join(answers.NAMED)
            b.problem(
                (*path, "answer_pattern"), f"given {block.answer_pattern!r}; {problem} (built-in patterns: {ready})"
            )
    if block.stop is not None and task.kind not in DECODED:
        b.problem((*path, "stop"), f"only {' and '.join(DECODED)} decode text; this one's kind is {task.kind}")
    if block.num_fewshot and not task.builtin and "train" not in splits(task):
        b.problem(
            (*path, "num_fewshot"), "the task has no train split, and few-shot examples never come from the test split"
        )
    if block.num_fewshot and task.kind == "language_modelling":
        b.problem((*path, "num_fewshot"), "a language_modelling task has no prompt for few-shot examples")
    allowed = HEADLINES.get(task.kind, ())
    if block.metric is not None and allowed and block.metric not in allowed:
        b.problem(
            (*path, "metric"), f"{unknown('metric', block.metric, allowed)} (metrics with one outcome per example)"
        )
    return {
        "answer_pattern": block.answer_pattern,
        "stop": _stop(b, path, block) or (None if task.kind in DECODED and not task.builtin else Task.stop),
        "num_fewshot": block.num_fewshot or None,
        "metric": None if block.metric in allowed[:1] else block.metric,
        "more_metrics": _more_metrics(b, path, block, task.kind),
        **_search(b, path, block, task.kind),
    }


def _more_metrics(b: Builder, path: KeyPath, block: TaskBlock, kind: str) -> tuple[str, ...]:
    """Return the metrics of whole splits that the task asks for, and record problems with them."""
    if block.more_metrics and kind and kind != "generation":
        b.problem((*path, "more_metrics"), f"only a generation task has them; this one's kind is {kind}")
    for name in block.more_metrics:
        if name not in MORE_METRICS:
            b.problem((*path, "more_metrics"), unknown("metric", name, MORE_METRICS))
    return tuple(dict.fromkeys(block.more_metrics))


def _search(b: Builder, path: KeyPath, block: TaskBlock, kind: str) -> dict[str, Any]:
    """Return the fields of a ``Task`` about the search for an answer, and record problems with them."""
    given = {key: value for key in SEARCH if (value := getattr(block, key)) is not None}
    from_base = b.document.get(("evaluate", "generation")) == "base"
    for key in given:
        if kind and kind not in DECODED:
            b.problem((*path, key), f"only {' and '.join(DECODED)} decode text; this one's kind is {kind}")
        elif from_base:
            b.problem(
                (*path, key),
                "evaluate.generation: base takes the search from the base model's generation_config; give either, or "
                "evaluate.generation: greedy",
            )
    if "length_penalty" in given and given.get("num_beams", 1) == 1:
        b.problem(
            (*path, "length_penalty"),
            f"given {block.length_penalty!r}; it compares the answers of several beams, and num_beams is "
            f"{given.get('num_beams', '1 if it is not given')}: allowed with num_beams of at least 2",
        )
    return given


def _stop(b: Builder, path: KeyPath, block: TaskBlock) -> tuple[str, ...]:
    if block.stop is not None and not all(block.stop):
        b.problem((*path, "stop"), "an empty stop string would stop at once; allowed: texts of at least one character")
    return tuple(block.stop or ())


def lm_eval_task(b: Builder, name: str, block: TaskBlock) -> Task:
    """Return a task that lm-eval defines, by name or in a YAML file. It is only scored, never trained on."""
    path: KeyPath = ("tasks", name)
    for key in [key for key in b.document.get(path) if key not in _FOR_LM_EVAL]:
        allowed = f"{', '.join(_FOR_LM_EVAL[:-1])} and {_FOR_LM_EVAL[-1]}"
        b.problem((*path, key), f"lm-eval defines this task; only {allowed} may be set")
    source = name if block.lm_eval is True else str(block.lm_eval)
    if block.lm_eval is False:
        b.problem((*path, "lm_eval"), "given false; allowed: true, the name of a task of lm-eval, or a YAML file")
    elif source.endswith((".yaml", ".yml")):
        given = b.document.get((*path, "lm_eval"))
        source = b.resolved(given)
        if not Path(source).is_file():
            b.problem((*path, "lm_eval"), f"given {str(given)!r}; there is no such file")
    return Task(
        name,
        "lm_eval",
        lm_eval=source,
        max_new_tokens=block.max_new_tokens or 0,
        limit=block.limit,
        stop=_stop(b, path, block),
        num_fewshot=block.num_fewshot,
        metric=block.metric,
    )


def deployed(b: Builder, base: Base, given: list[str] | None, engine: str | None = None) -> tuple[str, ...]:
    """Return the forms in which tuned models are scored as they would be deployed, and record problems with them.

    Args:
        b: the suite.
        base: the base model.
        given: ``evaluate.deployed``.
        engine: ``evaluate.engine``, which stands for forms that come after those.
    """
    path: KeyPath = ("evaluate", "deployed")
    forms = tuple(given or ())
    for form in dict.fromkeys(forms):
        problem = deployed_forms.problem(form)
        if problem is None and forms.count(form) > 1:
            problem = f"{form} is given twice"
        if problem is not None:
            b.problem(path, problem)
    if engine is not None:
        forms = tuple(dict.fromkeys((*forms, *engines.DEFAULT[engine])))
        path = ("evaluate", "engine")
    if forms and base.random_weights:
        b.problem(path, "the scores of random weights have no meaning, deployed or not; remove it")
    return forms
