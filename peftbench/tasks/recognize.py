"""Guess from the columns of records what kind of task they are, and with which templates. No torch.

The names of columns decide first, as datasets mostly use the same ones; then what the columns hold. What cannot be
guessed is a question with the options that answer it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.errors import UserError, nearest
from peftbench.records.wording import abridged, plural
from peftbench.tasks.survey import MOST_CLASSES, Column
from peftbench.tasks.values import WHOLE, written

KINDS = ("choice", "exact_match", "generation", "language_modelling")
_LABELS = (
    *("label", "labels", "class", "category", "sentiment", "intent", "gold_label", "label_text", "label_name"),
    *("coarse_label", "label_coarse_original", "topic", "emotion", "stance", "class index", "target", "type", "tag"),
    *("rating", "stars", "y"),
)
_ANSWERS = (
    *("answer", "output", "response", "completion", "target", "summary", "highlights", "translation", "reference"),
    *("human_reference", "solution", "answers", "chosen", "sql", "code", "assistant", "reply"),
)
_INPUTS = (
    *("instruction", "context", "passage", "question", "query", "prompt", "input", "source", "document", "article"),
    *("dialogue", "problem", "meaning_representation", "user", "text", "title", "premise", "hypothesis", "sentence1"),
    *("sentence2", "sentence", "review", "content", "comment", "tweet", "utterance", "message", "headline", "body"),
    *("description",),
)
_SHORT_ANSWER = 3
"""Mean number of words up to which an answer is compared as a whole."""
_SEPARATED = "||"
_SHOWN = 8


@dataclass(frozen=True)
class Asked:
    """What the user has said of the data; empty where it is to be guessed."""

    inputs: tuple[str, ...] = ()
    answer: str | None = None
    kind: str | None = None


NOTHING_SAID = Asked()


@dataclass(frozen=True)
class Recognized:
    """A kind of task with its templates."""

    kind: str
    block: Mapping[str, Any]
    """Keys of the task's block."""
    why: str
    """What it was recognized by, as the end of a sentence."""
    answer: Column | None = None
    """The column with the answers; None for conversations and plain text."""
    unsure: tuple[str, ...] = ()
    """What was left open, as sentences without a full stop."""
    inputs: tuple[str, ...] = ()
    """Columns of the prompt, without those that a template takes as optional; empty for conversations and texts."""


def recognize(found: Sequence[Column], chat: bool, asked: Asked = NOTHING_SAID) -> Recognized:
    """Return what a dataset's columns are.

    Args:
        found: its columns.
        chat: whether the base model has a chat template.
        asked: what the user has said.

    Raises:
        UserError: if a column that was named does not exist, or what cannot be guessed has to be said.
    """
    _check(found, asked)
    if asked.answer or asked.inputs:
        return _as_asked(found, chat, asked)
    for attempt in (_conversation, _instruction, _known):
        made = attempt(found, chat)
        if made:
            return made
    texts = [column for column in found if column.is_text]
    labels = _labelled(found)
    answers = _named(found, _ANSWERS)
    asks = [column for column in _named(found, _INPUTS) if column.is_text]
    free = [c for c in answers if c.is_text and not c.repeats and any(a is not c for a in asks)]
    if free and not (labels and labels[0].name.lower() in _LABELS[:2]):
        inputs = [column for column in asks if column is not free[0] and column.name.lower() not in _ANSWERS]
        return _answered(inputs or [c for c in asks if c is not free[0]], free[0], chat, asked.kind)
    for label in labels:
        inputs = _inputs_beside(label, texts)
        if inputs:
            return _classified(inputs, label, labels, texts, chat)
    if len(texts) == 1 and (len(found) == 1 or texts[0].name.lower() == "text"):
        return _plain(texts[0])
    raise UserError(_question(found))


def _check(found: Sequence[Column], asked: Asked) -> None:
    names = [column.name for column in found]
    for option, given in (*(("--input", name) for name in asked.inputs), ("--answer", asked.answer)):
        if given is not None and given not in names:
            near = nearest(given, names)
            hint = f"; did you mean {near!r}?" if near else ""
            raise UserError(f"{option}: given {given!r}, which is no column of the data{hint}; {_listed(found)}")


def _question(found: Sequence[Column]) -> str:
    texts = [column.name for column in found if column.is_text] or [column.name for column in found]
    one, other = (*texts, *texts)[:2] if len(texts) > 1 else (texts[0], "COLUMN")
    return (
        "which column is the input and which the answer cannot be guessed from their names and values; say it, for "
        f"example --input {one} --answer {other} (several inputs: --input A,B); {_listed(found)}"
    )


def _listed(found: Sequence[Column]) -> str:
    shown = [f"{column.name!r} ({plural(column.distinct, 'value')}, as {column.example})" for column in found]
    return f"the columns are {abridged(shown, _SHOWN)}"


def _named(found: Sequence[Column], names: Sequence[str]) -> list[Column]:
    """Return the columns with one of these names, in the order of the names."""
    by_name = {column.name.strip().lower(): column for column in reversed(found)}
    return [by_name[name] for name in names if name in by_name]


def _labelled(found: Sequence[Column]) -> list[Column]:
    """Return the columns that seem to hold labels, the likeliest first."""
    named = [
        column
        for column in _named(found, _LABELS)
        if column.nested is None and 2 <= column.distinct <= min(MOST_CLASSES, max(2, column.rows // 2))
    ]
    others = [column for column in found if column.repeats and column not in named and not column.is_id]
    if not named and len(others) > 1:
        return []  # which of them is for the user to say
    return [*named, *sorted(others, key=lambda column: (not column.numeric, column.missing > 0, column.distinct))]


def _inputs_beside(label: Column, texts: Sequence[Column]) -> list[Column]:
    """Return the texts that a label is of: those with known names, else the longest."""
    others = [column for column in texts if column is not label and not column.repeats]
    known = [column for column in others if column.name.strip().lower() in _INPUTS]
    return known or sorted(others, key=lambda column: -column.characters)[:1]


def _conversation(found: Sequence[Column], chat: bool) -> Recognized | None:
    for column in found:
        first = column.nested[0] if isinstance(column.nested, list) and column.nested else None
        if isinstance(first, dict) and (first.keys() >= {"role", "content"} or first.keys() >= {"from", "value"}):
            form = "OpenAI's form (role, content)" if "role" in first else "ShareGPT's form (from, value)"
            own = {"messages": "messages", "sharegpt": "conversations"}
            name = next((key for key, value in own.items() if value == column.name), None)
            block: dict[str, Any] = {"template": name} if name else {"kind": "generation", "messages": column.name}
            if bool(name) != chat:
                block["chat"] = chat
            return Recognized("generation", block, f"conversations in {form}; the last answer is the target")
    return None


def _instruction(found: Sequence[Column], chat: bool) -> Recognized | None:
    ask = _named(found, ("instruction",))
    answer = _named(found, ("output", "response", "completion", "answer"))
    if not ask or not answer:
        return None
    more = _named(found, ("input", "context"))
    template = {("output", "input"): "alpaca", ("response", "context"): "dolly"}.get(
        (answer[0].name, more[0].name if more else {"output": "input", "response": "context"}.get(answer[0].name, ""))
    )
    why = f"instructions: {_series([*ask, *more])} to {answer[0].name!r}"
    inputs = (ask[0].name,)
    if template and not chat:
        return Recognized("generation", {"template": template}, why, answer[0], inputs=inputs)
    prompt = _field(ask[0])
    if more:
        prompt += f"{{% if {_value(more[0])} %}}\n\n{{{{ {_value(more[0])} }}}}{{% endif %}}"
    block: dict[str, Any] = {"kind": "generation", "prompt": prompt if chat else f"{prompt}\n\nResponse:"}
    return Recognized("generation", {**block, **_target(answer[0]), **_chat(chat)}, why, answer[0], inputs=inputs)


def _known(found: Sequence[Column], chat: bool) -> Recognized | None:
    """Return a task of a well-known dataset."""
    names = {column.name: column for column in found}
    if {"question", "answer"} <= names.keys() and names["answer"].counts:
        marked = sum(count for text, count in names["answer"].counts.items() if "####" in text)
        if marked > names["answer"].rows / 2:
            why = "questions whose answers end with #### and a number, as in GSM8K; the number is compared"
            block = {"template": "gsm8k", **_chat(chat)}
            return Recognized("exact_match", block, why, names["answer"], inputs=("question",))
    if {"meaning_representation", "human_reference"} <= names.keys():
        why, answer = "facts and sentences, as in E2E", names["human_reference"]
        return Recognized("generation", {"template": "e2e"}, why, answer, inputs=("meaning_representation",))
    if len(found) == 1 and found[0].name == "text" and found[0].counts:
        parted = sum(count for text, count in found[0].counts.items() if text.count(_SEPARATED) == 1)
        if parted > 0.9 * found[0].rows:
            why = f"lines of INPUT{_SEPARATED}TEXT, as in E2E; the texts of one input are its references"
            return Recognized("generation", {"template": "e2e"}, why)
    return None


def _as_asked(found: Sequence[Column], chat: bool, asked: Asked) -> Recognized:
    by_name = {column.name: column for column in found}
    if asked.kind == "language_modelling":
        return _plain(by_name[asked.inputs[0] if asked.inputs else str(asked.answer)])
    if asked.answer is None:
        others = [c for c in found if c.name not in asked.inputs and not c.is_id and c.nested is None and c.counts]
        if len(others) != 1:
            raise UserError(f"--input is given; give also the answer's column, as --answer NAME; {_listed(others)}")
        answer = others[0]
    else:
        answer = by_name[asked.answer]
    inputs = [by_name[name] for name in asked.inputs]
    if not inputs:
        texts = [column for column in found if column.is_text and column is not answer]
        inputs = _inputs_beside(answer, texts) or texts[:1]
        if not inputs:
            raise UserError(f"no column is a text that {answer.name!r} could be the answer to; {_listed(found)}")
    named = answer.name.strip().lower() in _LABELS and answer.distinct <= MOST_CLASSES
    if asked.kind == "choice" or (asked.kind is None and (answer.repeats or named) and answer.distinct > 1):
        if not 2 <= answer.distinct <= MOST_CLASSES:
            values = plural(answer.distinct, "value")
            raise UserError(f"--kind choice: {answer.name!r} has {values}; allowed: a column of 2 to {MOST_CLASSES}")
        return _classified(inputs, answer, [answer], inputs, chat)
    return _answered(inputs, answer, chat, asked.kind)


def _classified(
    inputs: Sequence[Column], label: Column, labels: Sequence[Column], texts: Sequence[Column], chat: bool
) -> Recognized:
    block = {"kind": "choice", "prompt": _prompt(inputs, _title(label)), **_target(label), **_chat(chat)}
    unsure = []
    if len(labels) > 1:
        unsure.append(f"{_series(labels[1:])} could be labels too (--answer NAME)")
    left = [column for column in texts if column not in inputs and column not in labels]
    if left:
        unsure.append(f"{_series(left)} not used in the prompt (--input A,B)")
    if label.numeric:
        unsure.append("what the classes mean: models do not know numbers; give each its word under labels")
    why = f"{label.distinct} classes in {label.name!r}, of {_series(inputs)}"
    return Recognized("choice", block, why, label, tuple(unsure), tuple(column.name for column in inputs))


def _answered(inputs: Sequence[Column], answer: Column, chat: bool, kind: str | None) -> Recognized:
    short = answer.words <= _SHORT_ANSWER
    chosen = kind or ("exact_match" if short else "generation")
    block = {"kind": chosen, "prompt": _prompt(inputs, "Answer"), **_target(answer), **_chat(chat)}
    what = "short answers, compared as a whole" if short else "free text"
    why = f"{_series(inputs)} to {answer.name!r}, {what}"
    return Recognized(chosen, block, why, answer, inputs=tuple(column.name for column in inputs))


def _plain(column: Column) -> Recognized:
    template: dict[str, Any] = {"template": "text"}
    if column.name != "text":
        template = {"kind": "language_modelling", **_target(column)}
    return Recognized("language_modelling", template, "plain text without answers: language modelling")


def _prompt(inputs: Sequence[Column], asks: str) -> str:
    return "\n".join([*(f"{_title(column)}: {_field(column)}" for column in inputs), f"{asks}:"])


def _target(column: Column) -> dict[str, str]:
    return {"target": f"{{{{ {written(column.name)} }}}}"}


def _title(column: Column) -> str:
    """Return a column's name as a word of a prompt; what Jinja would read as a tag is written as a string of it."""
    words = " ".join(column.name.replace("_", " ").split())
    title = words[:1].upper() + words[1:]
    return f"{{{{ {title!r} }}}}" if "{" in title else title


def _field(column: Column) -> str:
    """Return what writes a column into a prompt; nothing where a record has no value."""
    value = _value(column)
    if column.missing and column.numeric:  # 0 is a value
        return f"{{{{ '' if {value} is none else {value} }}}}"
    return f"{{{{ {value} or '' }}}}" if column.missing else f"{{{{ {value} }}}}"


def _value(column: Column) -> str:
    """Return a column's value in an expression; one that records may lack is no error then."""
    return f"{WHOLE}.get({column.name!r})" if column.missing else written(column.name)


def _chat(chat: bool) -> dict[str, bool]:
    return {"chat": True} if chat else {}


def _series(found: Sequence[Column]) -> str:
    names = [repr(column.name) for column in found]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
