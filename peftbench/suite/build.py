"""Build a ``Suite`` from a document: validate it, look up every name, and check that each task has what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from peftbench.errors import unknown
from peftbench.methods import METHODS, Method, peft_fields
from peftbench.models import builtin
from peftbench.records import Base, Retention, Task
from peftbench.records.resolve import resolve
from peftbench.suite import build_heads
from peftbench.suite.build_devices import devices
from peftbench.suite.build_scoring import deployed
from peftbench.suite.build_tasks import build_tasks
from peftbench.suite.build_texts import check_encoding
from peftbench.suite.builder import Builder
from peftbench.suite.document import AMOUNTS, Document, raise_problems
from peftbench.suite.records import Block, ParameterBudget, Search, Suite
from peftbench.suite.schema import (
    TRAIN,
    BaseBlock,
    EvaluateBlock,
    MatchBlock,
    MeasureBlock,
    RetentionBlock,
    SearchBlock,
    SuiteFile,
    TimeoutBlock,
    axes_model,
    method_settings,
    train_model,
)
from peftbench.suite.watch import watch
from peftbench.suite.wording import describe_field, describe_value
from peftbench.suite.yaml_lines import KeyPath, dotted
from peftbench.tasks.splits import splits


def build(document: Document, path: Path, only: tuple[tuple[str, str], ...]) -> Suite:
    """Return the suite that a document describes.

    Raises:
        UserError: if anything in it is wrong; every problem is a line.
    """
    b = Builder(document)
    top = b.check(SuiteFile, ())
    base = _base(b)
    tasks = build_tasks(b)
    data, train = _train(b, tasks)
    blocks = _blocks(b)
    evaluate = b.check(EvaluateBlock, ("evaluate",), _or_empty(document.get(("evaluate",))))
    seeds = _seeds(b, top.seeds) if top else ()
    match = _match(b, top)
    search = _search(b)
    watched = watch(b)
    used = devices(b)
    total, phases = _timeouts(b, top)
    raise_problems(b.problems)
    if b.document.get(("evaluate", "test_seed")) is not None and not any(task.builtin for task in tasks):
        b.problem(
            ("evaluate", "test_seed"), "only built-in tasks have several test sets; this suite has no built-in task"
        )
    tasks = tuple(replace(task, test_seed=evaluate.test_seed) if task.builtin else task for task in tasks)
    suite = Suite(
        name=top.name or path.stem,
        description=top.description,
        path=path,
        base=base,
        device=top.device,
        threads=top.threads,
        workers=top.workers,
        seeds=seeds,
        axes={key: tuple(getattr(top, key)) for key in ("rank", "precision") if getattr(top, key) is not None},
        tasks=tasks,
        data=data,
        train=train,
        blocks=blocks,
        evaluate_batch_size=None if evaluate.batch_size == "auto" else evaluate.batch_size,
        max_length=evaluate.max_length,
        generation=evaluate.generation,
        split=evaluate.split,
        timeout_seconds=total,
        phase_timeouts=phases,
        checkpoint_every_seconds=top.checkpoint_every_seconds,
        display_path=document.display_path,
        only=only,
        inference=evaluate.inference,
        profile=top.profile,
        match=match,
        retention=_retention(b, base, evaluate.retention),
        deployed=deployed(b, base, evaluate.deployed, evaluate.engine),
        search=search,
        strict=top.audit == "strict",
        most_trials=top.most_trials,
        watch=watched,
        devices=used,
        ladder=top.ladder,
    )
    _check_combination(b, suite)
    raise_problems(b.problems)
    return suite


def _match(b: Builder, top: Any) -> ParameterBudget | None:
    """Return the budget of trainable parameters in ``match:``."""
    if not top or top.match is None:
        return None
    path: KeyPath = ("match", "trainable_parameters")
    block = b.check(MatchBlock, ("match",))
    given = block.trainable_parameters if block else None
    if top.rank is not None:
        b.problem(("match",), "match chooses the ranks, but the suite also gives rank; allowed: one of the two")
    if isinstance(given, dict):
        measure = b.check(MeasureBlock, path)
        if measure and measure.method not in METHODS:
            b.problem((*path, "method"), unknown("method", measure.method, METHODS))
        elif measure and METHODS[measure.method].rank_meaning is None:
            b.problem((*path, "method"), f"{measure.method} has no rank")
        return ParameterBudget(None, measure.method, measure.rank) if measure else None
    if block and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
        b.problem(
            path, f"given {describe_value(given)}; allowed: a whole number, at least 1, or a mapping of method and rank"
        )
    return ParameterBudget(given)


def _or_empty(block: Any) -> Any:
    return {} if block is None else block


def _base(b: Builder) -> Base:
    block = b.check(BaseBlock, ("base",)) if isinstance(b.document.get(("base",)), dict) else None
    if block is None:
        return Base("")  # its problem is recorded
    if (block.source is None) == (block.shape is None):
        b.problem(("base",), "allowed: exactly one of source (a model) and shape (a known model's config)")
        return Base("")
    if block.shape is None and block.weights:
        b.problem(
            ("base", "weights"), f"given {describe_value(block.weights)}; random weights need a shape, not a source"
        )
    if block.shape is not None and block.revision is not None:
        b.problem(("base", "revision"), "a shape has random weights and no revision")
    source = b.document.get(("base", "source" if block.shape is None else "shape"))
    if source.startswith(("./", "../", "~/")):
        source = b.resolved(source)
    return Base(str(source), block.revision, block.trust_remote_code, block.shape is not None)


def _retention(b: Builder, base: Base, given: dict[str, Any] | Literal[False] | None) -> Retention | None:
    """Return the general text that the suite names, else the text held out for a built-in base model, or None."""
    if given is None and base.source in builtin.BASES and not base.random_weights:
        return Retention(str(builtin.held_out(base.source)))
    if not isinstance(given, dict):
        return None
    if base.random_weights:
        b.problem(("evaluate", "retention"), "the loss of random weights has no meaning; allowed: false")
    path: KeyPath = ("evaluate", "retention")
    block = b.check(RetentionBlock, path, given)
    if block is None:
        return None
    check_encoding(b, path, block.encoding)
    if (block.file is None) == (block.dataset is None):
        b.problem(path, "allowed: exactly one of file (a text, or records) and dataset (a hub id or a folder)")
        return None
    for other, keys in (("dataset", ("config", "revision", "split")), ("file", ("encoding", "delimiter", "quoting"))):
        for key in keys:
            if getattr(block, other) is None and key in given:
                b.problem((*path, key), f"allowed only with the key {other!r}, which is missing")
    return Retention(
        file=None if block.file is None else b.resolved(given["file"]),
        dataset=b.dataset((*path, "dataset")),
        **block.model_dump(exclude={"file", "dataset"}),
    )


def _timeouts(b: Builder, top: SuiteFile | None) -> tuple[float | None, tuple[tuple[str, float], ...]]:
    """Return the limit of a whole trial, and those of single phases."""
    given = top.timeout_seconds if top else None
    if not isinstance(given, dict):
        return given, ()
    block = b.check(TimeoutBlock, ("timeout_seconds",), given)
    limits: dict[str, float] = block.model_dump(exclude_none=True) if block else {}
    return limits.pop("total", None), tuple(limits.items())


def _search(b: Builder) -> Search | None:
    given = b.document.get(("search",))
    block = None if given is False else b.check(SearchBlock, ("search",), _or_empty(given))
    return Search(block.seeds, block.share) if block else None


def _seeds(b: Builder, seeds: int | list[int]) -> tuple[int, ...]:
    found = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not found:
        b.problem(("seeds",), "an empty list; allowed: at least one seed")
    if len(set(found)) < len(found):
        b.problem(("seeds",), f"given {describe_value(seeds)}; allowed: different seeds")
    return found


def _train(b: Builder, tasks: tuple[Task, ...]) -> tuple[tuple[tuple[str, float], ...], dict[str, tuple[Any, ...]]]:
    raw = _or_empty(b.document.get(("train",)))
    block = b.check(train_model(raw), ("train",), raw)
    if block is None:
        return (), {}
    train = {key: tuple(getattr(block, key)) for key in raw if key in TRAIN}
    _check_amounts(b, ("train",), train)
    return _data(b, tasks, block.data), train


def _data(b: Builder, tasks: tuple[Task, ...], given: dict[str, float] | None) -> tuple[tuple[str, float], ...]:
    """Return the training sets with their weights: those of ``train.data``, else every task with a train split."""
    trainable = [task.name for task in tasks if "train" in splits(task)]
    if given is None:
        return tuple((name, 1.0) for name in trainable)
    built = [task.name for task in tasks]
    suites_own = b.document.get(("tasks",))
    for name in given:
        path: KeyPath = ("train", "data", name)
        if name in built and name not in trainable:
            b.problem(path, f"the task has no train file; tasks with one: {', '.join(trainable) or 'none'}")
        elif name not in built and not (isinstance(suites_own, dict) and name in suites_own):
            b.problem(path, unknown("task", name, built))
    return tuple(given.items())


def _check_amounts(b: Builder, path: KeyPath, axes: Mapping[str, tuple[Any, ...]]) -> None:
    given = [key for key in AMOUNTS if any(value is not None for value in axes.get(key, ()))]
    if len(given) > 1:
        b.problem((*path, given[1]), f"allowed: exactly one of {', '.join(AMOUNTS)}; given: {', '.join(given)}")


def _blocks(b: Builder) -> tuple[Block, ...]:
    methods = b.document.get(("methods",))
    if not isinstance(methods, dict):
        return ()  # the top level has recorded the problem
    if not methods:
        b.problem(("methods",), f"no method is given; allowed: {', '.join(METHODS)}")
    found: list[Block] = []
    for name, given in methods.items():
        path: KeyPath = ("methods", name)
        if name not in METHODS:
            advice = peft_fields.how_to_write(name)
            problem = f"unknown method {name!r}, but {advice}" if advice else unknown("method", name, METHODS)
            b.problem(path, "; ".join([problem, *METHODS.problems]))
            continue
        if isinstance(given, list) and not given:
            b.problem(path, "an empty list; allowed: a mapping of settings, a list of mappings, or null")
        places = [((*path, i), raw) for i, raw in enumerate(given)] if isinstance(given, list) else [(path, given)]
        for here, raw in places:
            found += _variants(b, METHODS[name], here, raw)
    return tuple(found)


def _variants(b: Builder, record: Method, here: KeyPath, given: Any) -> Iterator[Block]:
    """Yield a block's variants: one, or if the method's settings depend on the block, one per variant."""
    variants = resolve(record.variants)(given) if record.variants else ((record, given),)
    for method, raw in variants:
        model = axes_model(f"{record.name} {method.variant}".rstrip(), method_settings(method), raw)
        model.rank_key = method.rank_key if method.rank_meaning else ""
        block = b.check(model, here, _or_empty(raw))
        if block is not None:
            axes = {key: tuple(getattr(block, key)) for key in raw or ()}
            _check_amounts(b, here, axes)
            if record.variants and not method.variant:
                wanted = ", ".join(method.options)
                b.problem(
                    here, f"the key {wanted!r} is missing; allowed: {describe_field(method.options[wanted].type, ())}"
                )
            yield Block(record.name, f"{b.document.origin(here)}: {dotted(here)}", axes)


def _check_combination(b: Builder, suite: Suite) -> None:
    """Record problems that depend on several blocks."""
    build_heads.check_suite(b, suite)
    if not suite.scored:
        key = f"{suite.split}_fraction"
        way = f"give a {suite.split} file or split, or {key}, the share of the training examples that becomes it"
        b.problem(("tasks",), f"no task has a {suite.split} split, so nothing would be scored; {way}")
    if not suite.data and any(METHODS[block.method].trains for block in suite.blocks):
        b.problem(("train",), "no task has a train file, so nothing can be trained on")
    for task in suite.tasks:
        if task.name not in suite.scored and task.name not in dict(suite.data):
            text = f"the task has no {suite.split} split and is not in train.data, so nothing would use it"
            b.problem(("tasks", task.name), text)
