"""From what is known of data and base model to a draft: lengths, steps, seeds and methods, each with its reason."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.commands.first_suite.data import Data
from peftbench.commands.first_suite.described import passes
from peftbench.commands.first_suite.draft import ONE_LINE, Draft, MethodLine
from peftbench.commands.first_suite.given import Given
from peftbench.commands.first_suite.model_facts import BaseFacts
from peftbench.methods import METHODS
from peftbench.records import Example
from peftbench.records.units import memory
from peftbench.records.wording import agreeing, span
from peftbench.results.answer import FIRST_SEEDS
from peftbench.training.token_lengths import Lengths

if TYPE_CHECKING:
    from peftbench.commands.first_suite.fitting import Fitted

METHODS_IN_ORDER = ("full", "lora", "qlora", "adapter", "prefix_tuning", "prompt_tuning", "llama_adapter")
BATCH = 16
_PASSES, _STEPS = 3, 400
"""Most passes over the data, and most optimizer steps, if no time is given."""
_TEST_SHARE, _TEST_RECORDS = 0.2, 1000
_VALIDATION_SHARE, _VALIDATION_RECORDS = 0.1, 500
_MOST_SCORED = {"choice": 500, "exact_match": 200, "generation": 200, "language_modelling": 500}
_LONGEST_ANSWER = 512
_NEARLY_ALL = 1.25
"""How many times more test examples than that are still scored all."""
_LONGEST_OF_MOST = 1.5
"""How many times longer than most answers the longest may be for the budget of new tokens to be sized by it."""
_PERCENT = 99
_MULTIPLE = 8
_UNKNOWN_LENGTH = 512
_UNKNOWN_CONTEXT = 10**6
_VIRTUAL = max(METHODS[name].default_rank or 0 for name in METHODS_IN_ORDER if METHODS[name].virtual_tokens)


@dataclass(frozen=True)
class Tokens:
    """The examples in tokens of the base model."""

    train: Lengths
    test: Lengths | None


def path_in(folder: Path, path: Path) -> str:
    """Return a path as a file in a folder names it: relative if that stays short, else absolute.

    It begins with ``./``, ``../`` or ``/``, since a base's name without them is a built-in base's, or a hub id.
    """
    whole = os.path.abspath(path)
    relative = os.path.relpath(whole, os.path.abspath(folder))
    if relative.startswith("../.."):
        return whole
    return relative if relative.startswith("../") else f"./{relative}"


def _file_in(folder: Path, path: Path) -> str:
    """Return the same without ``./``, which a file's name needs only before ``~``."""
    found = path_in(folder, path)
    return found if found.startswith("./~") else found.removeprefix("./")


def started(facts: BaseFacts, data: Data, folder: Path, given: Given) -> Draft:
    """Return a draft with base, task and data, and every method with its defaults.

    Args:
        facts: the base model.
        data: the files.
        folder: the folder of the suite file, which its relative paths start at.
        given: what the user has fixed.
    """
    block: dict[str, Any] = {}
    found = dict(data.found.block)
    for key in ("template", "kind"):
        if key in found:
            block[key] = found.pop(key)
    block["train"] = _file_in(folder, data.train)
    comments = {"base": facts.sentence(whole=True), "kind": data.found.why, "template": data.found.why}
    if data.test is not None:
        block["test"] = _file_in(folder, data.test)
    else:
        block["test_fraction"] = _share(_TEST_SHARE, _TEST_RECORDS, data.records)
        comments["test_fraction"] = "a seeded draw; give test: FILE in its place if there is one"
    if data.columns:
        block["columns"] = list(data.columns)
        comments["columns"] = "the file has no header"
    block |= found
    if found.get("chat"):
        comments["chat"] = "the base's chat template writes the prompt as the user's message"
    block |= _classes(data, comments)
    base = path_in(folder, Path(facts.base.source).expanduser()) if facts.is_folder else facts.base.source
    return Draft(
        description=f"fine-tuning methods on {data.name}",
        base=base,
        task=data.name,
        block=block,
        methods=tuple(MethodLine(name) for name in given.methods or METHODS_IN_ORDER),
        given=given,
        classes=data.classes,
        examples=data.examples,
        comments=comments,
        batch_size=BATCH,
    )


def _classes(data: Data, comments: dict[str, str]) -> dict[str, Any]:
    if not data.classes:
        return {}
    answer = data.found.answer
    if answer is None or not answer.numeric:
        few = len(data.classes) <= ONE_LINE  # else each has a line, with its number of records
        counts = f" (records: {', '.join(f'{name} {count:,}' for name, count in data.classes.items())})" if few else ""
        comments["choices"] = f"the answers, which are ranked by likelihood{counts}"
        return {"choices": list(data.classes)}
    if data.words:
        comments["labels"] = "the file's own names of its classes"
    else:
        comments["labels"] = "give each class the word that says what it means: a model knows 'negative', not '0'"
    names = sorted(data.classes, key=float)
    return {"labels": {name: data.words.get(name, name) for name in names}}


def _share(share: float, most: int, records: int) -> float:
    return float(f"{min(share, most / max(1, records)):.2g}")


def merging_prompts(draft: Draft) -> Draft:
    """Return a draft that scores a prompt once, against the answers of all records with that prompt."""
    why = "records with the same prompt are scored once, against all of their answers"
    comments = {**draft.comments, "several_references": why}
    return replace(draft, block={**draft.block, "several_references": True}, comments=comments)


def with_lengths(draft: Draft, tokens: Tokens | None, context: int | None) -> tuple[Draft, list[str]]:
    """Return a draft with lengths in tokens; what was chosen, and what is cut by it more than usually, as sentences."""
    kind = _kind(draft)
    if tokens is None:
        known = replace(draft, sequence_length=_UNKNOWN_LENGTH)
        return known, [f"sequence_length {_UNKNOWN_LENGTH}, as the base's tokenizer is not here"]
    room = (context or _UNKNOWN_CONTEXT) - _VIRTUAL
    whole = f"the context of {context:,}" if context else f"the base names no context, and one of {_UNKNOWN_CONTEXT:,}"
    left = f"{whole} tokens has room for {room:,} beside {_VIRTUAL} virtual ones"
    wholes = sorted(tokens.train.wholes)
    percentile = _percentile(wholes)
    length = max(2, min(_rounded(percentile), room))
    longer = sum(whole > length for whole in wholes)
    why = [f"{_PERCENT} % of the training examples have at most {percentile:,} tokens"]
    why += [left] if room < percentile else []
    measured = " measured ones" if len(wholes) < tokens.train.examples else ""
    cut = agreeing(longer, "is longer and loses its start", "are longer and lose their start")
    why += [f"{longer:,} of {len(wholes):,}{measured} {cut}" if longer else "none is longer"]
    said, cuts = [f"sequence_length {length:,}"], why[1:] if room < percentile else []
    comments = {**draft.comments, "sequence_length": f"tokens; {'; '.join(why)}"}
    block = dict(draft.block)
    scored = tokens.test or tokens.train
    answer = 0
    if kind in ("exact_match", "generation"):
        answer, whys = _new_tokens(scored, room, left)
        block["max_new_tokens"], comments["max_new_tokens"] = answer, "; ".join(whys)
        said, cuts = [*said, f"max_new_tokens {answer}"], [*cuts, *whys[1:]]
    need = max(*scored.wholes, max(scored.prompts) + answer, length)
    longest = min(_rounded(need), room)
    if longest > length:
        comments["max_length"] = "tokens; the longest scored prompt with its answer"
    done = replace(
        draft,
        block=block,
        comments=comments,
        sequence_length=length,
        max_length=longest if longest > length else None,
    )
    return done, [", ".join(said), *cuts]


def _new_tokens(scored: Lengths, room: int, left: str) -> tuple[int, list[str]]:
    """Return how many tokens an answer may have, and why, as sentences.

    Prompts are cut so that an answer has its room; the number is the one with which the most examples keep their whole
    prompt and can have their whole answer.
    """
    sizes = [(prompt, whole - prompt) for prompt, whole in zip(scored.prompts, scored.wholes, strict=True)]
    answers = sorted(answer for _, answer in sizes)
    most, longest = _percentile(answers), answers[-1]
    wanted = min(_rounded(longest if longest <= _LONGEST_OF_MOST * most else most), _LONGEST_ANSWER, max(1, room - 1))

    def kept(new: int) -> int:
        return sum(answer <= new and prompt + new <= room for prompt, answer in sizes)

    smaller = range(wanted - wanted % _MULTIPLE, 0, -_MULTIPLE)
    new = max((wanted, *smaller), key=kept)  # of equals the first, which is the largest
    longer, cut = sum(answer > new for answer in answers), sum(prompt + new > room for prompt, _ in sizes)
    why = [f"the longest answer of the test data has {longest:,} tokens"]
    why[0] += f", {_PERCENT} % have at most {most:,}" if new < longest else ""
    if new < wanted:
        why += [f"with {wanted:,}, more prompts would be cut than answers gained"]
    if longer:
        cannot = agreeing(longer, "is longer and cannot", "are longer and cannot")
        why += [f"{longer:,} of {len(sizes):,} test answers {cannot} be given in full"]
    if cut:
        why += [
            f"{cut:,} of {len(sizes):,} test prompts {agreeing(cut, 'loses its start', 'lose their start')}: {left}"
        ]
    return new, why


def _percentile(ordered: Sequence[int]) -> int:
    return ordered[min(len(ordered) - 1, -(-_PERCENT * len(ordered) // 100) - 1)]


def _rounded(tokens: int) -> int:
    return -(-tokens // _MULTIPLE) * _MULTIPLE


def _kind(draft: Draft) -> str:
    from peftbench.tasks.templates import TEMPLATES

    return str(draft.block.get("kind") or TEMPLATES[str(draft.block["template"])].kind)


def with_amounts(draft: Draft, train: Sequence[Example], test: Sequence[Example]) -> Draft:
    """Return a draft with steps, seeds and scored examples for when no time is given."""
    one = -(-len(train) // BATCH)
    times = max(1, min(_PASSES, _STEPS // max(1, one)))
    steps = max(1, min(_STEPS, one * times))
    why = passes(steps * BATCH, len(train))
    made = with_seeds(
        replace(draft, steps=steps, comments={**draft.comments, "steps": why}), draft.given.seeds or FIRST_SEEDS
    )
    most = draft.given.limit or _MOST_SCORED[_kind(draft)]
    if len(test) > (most if draft.given.limit else _NEARLY_ALL * most):
        return limited(made, most)
    return made


def with_seeds(draft: Draft, seeds: int | tuple[int, ...], why: str | None = None) -> Draft:
    """Return a draft with so many seeds, or these.

    Args:
        draft: the draft.
        seeds: how many, or which.
        why: the reason; None for the ordinary one.
    """
    usual = "as given" if draft.given.seeds else "the fewest that give a usable estimate of the spread between seeds"
    return replace(draft, seeds=seeds, comments={**draft.comments, "seeds": why or usual})


def limited(draft: Draft, most: int) -> Draft:
    """Return a draft that scores at most this many examples."""
    comments = {**draft.comments, "limit": "a seeded draw of the test examples; null for all"}
    return replace(draft, block={**draft.block, "limit": most}, comments=comments)


def with_search(draft: Draft, records: int) -> Draft:
    """Return a draft that searches each method's learning rate, on a part of the training data.

    Args:
        draft: the draft.
        records: number of records of the training file.
    """
    share = _share(_VALIDATION_SHARE, _VALIDATION_RECORDS, records)
    parts = [share, float(draft.block.get("test_fraction", 0.0))]
    left = records - sum(_part(part, records) for part in parts)
    comments = {
        **draft.comments,
        "steps": passes((draft.steps or 0) * BATCH, left),
        "validation_fraction": "of the training data, for the search of learning rates",
        "learning_rate": "five around each method's default, half the steps each, selected on the validation split",
    }
    return replace(draft, block={**draft.block, "validation_fraction": share}, comments=comments, search=True)


def validated(draft: Draft, records: int) -> int:
    """Return how many of a training file's records a draft has for validation."""
    return _part(float(draft.block.get("validation_fraction", 0.0)), records)


def _part(share: float, records: int) -> int:
    return max(1, round(share * records)) if share else 0


def with_methods(draft: Draft, fitted: Fitted | None, facts: BaseFacts, budget: int | None) -> tuple[Draft, list[str]]:
    """Return a draft with the methods that fit, and what is known of their memory, as sentences."""
    base = MethodLine("base", _base_settings(facts, budget), "the untuned model")
    if fitted is None:
        small = replace(draft, micro_batch_size=1, gradient_checkpointing=False)
        asked = draft.given.methods or tuple(name for name in METHODS_IN_ORDER if name != "full")
        methods = [base, *(MethodLine(name) for name in asked)]
        why = "until the base is here and `peftbench plan --memory` can say whether it fits"
        left = () if "full" in asked or draft.given.methods else (("full", why),)
        comments = {**draft.comments, "micro_batch_size": "the least memory; gradients are accumulated"}
        return replace(small, methods=tuple(methods), left_out=left, comments=comments), ["peaks are not known"]
    lines = [base]
    for name in draft.given.methods or METHODS_IN_ORDER:
        if name in fitted.settings:
            peak = f"predicted peak {memory(fitted.peaks[name])}"
            lines.append(MethodLine(name, fitted.settings[name], peak))
        elif name in fitted.unknown:
            lines.append(MethodLine(name, {}, f"no prediction: {fitted.unknown[name][:60]}"))
    micro = fitted.micro_batch_size if fitted.micro_batch_size < BATCH else None
    comments = dict(draft.comments)
    if micro:
        comments["micro_batch_size"] = "examples per forward pass, so that it fits; changes no score"
    if fitted.gradient_checkpointing:
        comments["gradient_checkpointing"] = "activations are computed twice, so that it fits; changes no score"
    done = replace(
        draft,
        methods=tuple(lines),
        left_out=tuple(fitted.left_out.items()),
        micro_batch_size=micro,
        gradient_checkpointing=fitted.gradient_checkpointing,
        comments=comments,
        finds_batch=fitted.reserves,
    )
    return done, _of_memory(fitted, micro, budget)


def _of_memory(fitted: Fitted, micro: int | None, budget: int | None) -> list[str]:
    """Return what is predicted of the memory of the methods, and what was changed so that they fit, as sentences."""
    within = f", within {memory(budget)}" if budget else ""
    said = [f"predicted peaks {span(fitted.peaks.values(), memory)}{within}" if fitted.peaks else "peaks are not known"]
    if fitted.peaks and fitted.unknown:
        said.append(f"no prediction: {', '.join(fitted.unknown)}")
    if fitted.reserves:
        said.append("the peaks include non-tensor GPU memory (CUDA context, workspaces)")
    if micro or fitted.gradient_checkpointing:
        checkpoints = " and gradient checkpointing" * fitted.gradient_checkpointing
        which = "all with a prediction" if fitted.unknown else "all"
        said.append(f"micro-batches of {fitted.micro_batch_size}{checkpoints}, so that {which} fit")
    changed = {name: dict(settings) for name, settings in fitted.settings.items() if settings}
    if changed:
        each = "; ".join(f"{n}: {', '.join(f'{k} {v}' for k, v in s.items())}" for n, s in changed.items())
        said.append(f"smaller than by default, so that they fit: {each}")
    return said


def _base_settings(facts: BaseFacts, budget: int | None) -> dict[str, Any]:
    """Return the precision of the untuned base, if its weights in 16 bits would not fit."""
    large = budget is not None and facts.parameters is not None and 2.2 * facts.parameters > budget
    return {"precision": "nf4"} if large else {}
