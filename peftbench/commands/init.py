"""``peftbench init``: look at data and base model, and write a suite that fits them, with the reason of each value."""

from __future__ import annotations

import io
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.commands import terminal
from peftbench.errors import Unsupported, UserError
from peftbench.tasks.recognize import NOTHING_SAID, Asked
from peftbench.version import __version__

if TYPE_CHECKING:
    from peftbench.commands.first_suite.choose import Tokens
    from peftbench.commands.first_suite.data import Data
    from peftbench.commands.first_suite.draft import Draft
    from peftbench.commands.first_suite.fitting import Fitted
    from peftbench.commands.first_suite.model_facts import BaseFacts
    from peftbench.commands.first_suite.timing import Timed
    from peftbench.records import Example, Task, Trial
    from peftbench.suite import Suite

_LEAST_OF_A_GPU = 4 * 2**30
"""A budget of at least this much may be a GPU's, where there is none here."""
_BYTES = 4
"""Bytes of a parameter of the untuned base while it is loaded."""
_OF_DEVICE = 0.8
"""Share of this machine's memory that is planned for if no budget is given."""


@dataclass(frozen=True)
class InitOptions:
    """What the user has given."""

    base: str
    train: Path
    test: Path | None = None
    budget: str | None = None
    time: str | None = None
    output: Path = Path("suite.yaml")
    force: bool = False
    asked: Asked = NOTHING_SAID
    methods: str | None = None
    """Names with commas between them."""
    seeds: str | None = None
    """How many, or a list."""
    limit: str | None = None
    """Most scored examples."""


@dataclass(frozen=True)
class _Inputs:
    """Base model and data, read."""

    facts: BaseFacts
    data: Data
    task: Task
    train: Sequence[Example]
    test: Sequence[Example]
    notes: tuple[str, ...]
    """What reading found."""


def init(how: InitOptions) -> int:
    """Write a suite, print what was chosen and why, and return the exit code.

    Raises:
        UserError: if a file is missing or unreadable, the base is no base model, a question has to be answered, or
            nothing fits the budget. Nothing is written then.
    """
    from peftbench.commands.first_suite import choose, data, described, given, model_facts
    from peftbench.records import durations

    began = time.monotonic()
    _check_output(how)
    fixed = given.read(how.methods, how.seeds, how.limit)
    seconds = None if how.time is None else durations.read(how.time, "--time")
    budget, limit = _budget(how)
    facts = model_facts.facts(how.base)
    found = data.look(how.train, how.test, facts.chat, how.asked)
    first = choose.started(facts, found, how.output.parent, fixed)
    _say("base", facts.sentence(), *facts.notes())
    inputs, first = _read(first, facts, found, how)
    tokens = _tokens(inputs)
    made, lengths = choose.with_lengths(first, tokens, facts.context)
    made = choose.with_amounts(made, inputs.train, inputs.test)
    _say_of_data(inputs, tokens, lengths)
    fitted = _fitted(made, inputs, how, budget)
    made, (peaks, *more) = choose.with_methods(made, fitted, facts, budget)
    _say("memory", f"{peaks}{limit if fitted and fitted.peaks else ''}", *more)
    timed = _timed(made, inputs, how, seconds, began)
    made = timed.draft
    _say("overlap", *_of_overlap(made, inputs))
    _say("methods", ", ".join(line.name for line in made.methods))
    _say("left out", *described.of_left_out(made.left_out))
    validated = choose.validated(made, found.records)
    _say("amount", *described.of_amounts(made, inputs.train, inputs.test, validated))
    _say("time", *timed.said)
    for line in (*facts.unknown, *timed.unknown, *found.found.unsure):  # last what only the user knows
        _say("not known", line)
    _loaded(replace(made, head=_head(how)), how, keep=True)
    print(f"{'wrote:':11}{how.output}, with the reason of each value")
    print(f"{'next:':11}peftbench plan {shlex.quote(str(how.output))}")  # to be copied
    return 0


def _say(head: str, *lines: str) -> None:
    """Print lines of at most 100 columns, the head before the first of them; nothing without a line."""
    for number, line in enumerate(lines):
        before = "" if number else f"{head}:"
        print("\n".join(terminal.hanging(before.ljust(11), line, terminal.SENTENCES)))
    sys.stdout.flush()  # what follows may take a while


def _check_output(how: InitOptions) -> None:
    out = how.output
    if out.is_dir():
        raise UserError(f"--output: {out} is a folder; give a file, like {out / 'suite.yaml'}")
    if out.exists() and not how.force:
        raise UserError(f"--output: {out} exists and is not overwritten; give another name, or --force")
    if not out.parent.is_dir():
        raise UserError(f"--output: there is no folder {out.parent}")
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output: given {out.name!r}; allowed: a name that ends in .yaml")


def _budget(how: InitOptions) -> tuple[int | None, str]:
    """Return the memory to plan for in bytes, and what to say behind it of how it was found."""
    from peftbench.measure import device
    from peftbench.planner import memory_sizes

    kind = device.resolve("auto")
    if how.budget is not None and how.budget != memory_sizes.DEVICE:
        return memory_sizes.read(how.budget, "--budget"), ""
    try:
        whole = memory_sizes.budget(memory_sizes.DEVICE, kind)
    except UserError:
        return None, "; the GPU's memory is not known, so no limit was planned for; --budget 16GiB sets one"
    what = "GPU" if kind == "cuda" else "machine"
    return int(whole * _OF_DEVICE), f": {100 * _OF_DEVICE:.0f} % of this {what}'s (--budget)"


def _read(first: Draft, facts: BaseFacts, found: Data, how: InitOptions) -> tuple[_Inputs, Draft]:
    """Return the examples of the drafted task, through its templates, and the draft.

    Decoded answers are scored once for each prompt, if prompts repeat.
    """
    from peftbench.commands.first_suite import choose, described
    from peftbench.tasks import read

    (task,) = _loaded(first, how).tasks
    train, test = read.reading(task, "train"), read.reading(task, "test")
    all_read = test.examples if found.test else [*train.examples, *test.examples]
    if task.kind == "generation" and not task.several_references and described.repeated_prompts(all_read):
        first = choose.merging_prompts(first)
        (task,) = _loaded(first, how).tasks
        train, test = read.reading(task, "train"), read.reading(task, "test")
    if not train.examples or not test.examples:
        raise UserError(f"{how.train}: too few records to train on some and score others")
    more = (n for n in train.notes if not any(known in n for known in found.notes))
    notes = (note.partition(": ")[2] if note.startswith("task ") else note for note in (*found.notes, *more))
    return _Inputs(facts, found, task, train.examples, test.examples, tuple(notes)), first


def _loaded(draft: Draft, how: InitOptions, keep: bool = False) -> Suite:
    """Return the suite that a draft's text is in its place, and keep it there if asked to and it can be loaded."""
    from peftbench import suite
    from peftbench.commands.first_suite.draft import text

    made = how.output.with_name(f".{how.output.name}.{os.getpid()}.yaml")
    try:
        made.write_text(text(draft), encoding="utf-8")
        loaded = suite.load(made)
        if keep:
            made.replace(how.output)
    except OSError as error:
        raise UserError(f"--output: {how.output} cannot be written: {error.strerror}") from None
    except UserError as error:
        raise UserError(str(error).replace(made.name, how.output.name)) from None
    finally:
        made.unlink(missing_ok=True)
    return loaded


def _tokens(inputs: _Inputs) -> Tokens | None:
    from peftbench.commands.first_suite.choose import Tokens
    from peftbench.training.token_lengths import lengths

    folder = inputs.facts.folder
    if folder is None:
        return None
    try:
        return Tokens(
            lengths(inputs.task, inputs.train, folder, False), lengths(inputs.task, inputs.test, folder, False)
        )
    except Unsupported as error:
        raise UserError(f"base {inputs.facts.base.source!r}: {error}") from None


def _say_of_data(inputs: _Inputs, tokens: Tokens | None, chosen: Sequence[str]) -> None:
    """Print what was found in the data.

    Args:
        inputs: base model and data.
        tokens: the examples in tokens.
        chosen: the lengths of the suite, and what is cut by them.
    """
    from peftbench.commands.first_suite import described
    from peftbench.records.wording import plural

    data, train, test = inputs.data, inputs.train, inputs.test
    merged = inputs.task.several_references and "several_references" not in data.found.block
    tested = plural(len(test), "test prompt" if merged else "test example")
    each = ", each with all its answers" if merged else ""
    where = f"{data.test.name}: {tested}" if data.test else f"{tested} drawn"
    _say("data", f"{data.train.name}: {plural(data.records, 'record')}; {where}{each}", *inputs.notes)
    kind, classes = inputs.task.kind, f", {described.of_classes(data.classes)}" if data.classes else ""
    _say("task", f"{kind}: {data.found.why}{classes}; {described.KINDS[kind]}")
    lengths, *cut = chosen
    _say("tokens", f"{described.of_lengths(tokens.train)}; {lengths}" if tokens else lengths, *cut)
    repeats = "; ".join((*described.of_repeats(train), *described.of_repeated_tests(test)))
    _say("repeats", *([repeats] if repeats else []))


def _of_overlap(draft: Draft, inputs: _Inputs) -> Iterator[str]:
    """Yield what the scored examples have in common with the training data."""
    from peftbench.commands.first_suite import described
    from peftbench.tasks.splits import drawn

    kept = drawn(inputs.test, draft.block.get("limit"))
    yield from described.of_overlap(inputs.train, kept, inputs.data.test is None)


def _fitted(draft: Draft, inputs: _Inputs, how: InitOptions, budget: int | None) -> Fitted | None:
    """Return what fits the budget; None if the base model's shape is not known.

    Raises:
        UserError: if nothing fits.
    """
    from peftbench.models import quiet_imports

    quiet_imports.quantizers()
    from peftbench.commands.first_suite import fitting
    from peftbench.measure import device
    from peftbench.records.units import memory
    from peftbench.records.wording import plural

    folder = inputs.facts.folder
    if folder is None:
        return None
    kind = device.resolve("auto")
    cells = {trial.method: trial for trial in _trials(draft, how, kind) if trial.training}
    reserves = kind == "cuda" or (how.budget is not None and (budget or 0) >= _LEAST_OF_A_GPU)
    if sys.stderr.isatty():
        print(f"predicting the memory of {plural(len(cells), 'method')}; this takes some seconds", file=sys.stderr)
    found = fitting.fit(list(cells.values()), folder, budget or 2**60, reserves)
    if not found.settings and not found.unknown:
        least = "; ".join(f"{name} {why}" for name, why in found.left_out.items())
        raise UserError(f"--budget: no method fits in {memory(budget)}: {least}")
    return found


def _trials(draft: Draft, how: InitOptions, kind: str) -> Sequence[Trial]:
    """Return the trials of a draft, with the defaults that follow from base model and data."""
    from peftbench.commands import selection
    from peftbench.models import here
    from peftbench.suite import expand

    loaded = _loaded(draft, how)
    return expand(selection.complete(loaded, io.StringIO(), here.folder, False).suite, kind)


def _timed(draft: Draft, inputs: _Inputs, how: InitOptions, seconds: float | None, began: float) -> Timed:
    """Return a draft that fits the time, what was chosen, and what could not be known; unchanged without a time."""
    from peftbench.commands.first_suite import timing
    from peftbench.measure import device, environment
    from peftbench.runner.preflight.texts import Texts

    facts = inputs.facts
    if seconds is None:
        return timing.Timed(draft)  # `plan` says what measures it
    if not facts.has_weights:
        why = "the base's weights are not here, so nothing can be measured"
        return timing.Timed(draft, (), [f"whether it fits {how.time}: {why}"])
    if _BYTES * (facts.parameters or 0) > _OF_DEVICE * int(environment.describe()["memory_bytes"]):
        return timing.Timed(
            draft, (), [f"whether it fits {how.time}: the base is too large for a trial on this machine"]
        )
    each = {trial.cell: trial for trial in reversed(_trials(draft, how, device.resolve("auto")))}
    trials = [trial for trial in reversed(each.values()) if trial.unsupported is None]
    return timing.fit(draft, trials, seconds, Texts().examples, inputs.data.records, began)


def _head(how: InitOptions) -> tuple[str, ...]:
    words = ["peftbench", "init", "--base", how.base, "--train", str(how.train)]
    words += ["--test", str(how.test)] if how.test else []
    words += ["-o", str(how.output)]
    words += ["--budget", how.budget] if how.budget else []
    words += ["--time", how.time] if how.time else []
    for option, value in (("--methods", how.methods), ("--seeds", how.seeds), ("--limit", how.limit)):
        words += [option, value] if value else []
    words += ["--input", ",".join(how.asked.inputs)] if how.asked.inputs else []
    words += ["--answer", how.asked.answer] if how.asked.answer else []
    words += ["--kind", how.asked.kind] if how.asked.kind else []
    name = shlex.quote(str(how.output))
    return (
        f"Written by peftbench {__version__}: {shlex.join(words)}",
        f"peftbench plan {name} checks it, peftbench run {name} runs it. Every key: docs/suite.md",
    )
