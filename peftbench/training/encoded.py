"""Tokenized training examples. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from peftbench.errors import Unsupported
from peftbench.records import Example, Task, Trial
from peftbench.tasks import joining

Identity = tuple[str, int]
"""(task, index): which training example it is."""


@dataclass(frozen=True)
class Encoded:
    """One tokenized example: prompt, answer, end-of-text."""

    ids: tuple[int, ...]
    loss_from: int
    """Position of the first token that enters the loss."""
    truncated: bool
    """Whether it was cut on the left to fit the sequence length."""
    identity: Identity
    lost: str | None = None
    """What was cut, one of ``LOST``; None if nothing was."""
    earlier: tuple[tuple[int, int], ...] = ()
    """Positions before ``loss_from`` that enter the loss, too: first and end of each earlier answer."""
    label: float | None = None
    """What a head for whole texts should give: the class's index or, for regression, a number; None without a head."""
    types: tuple[int, ...] = ()
    """Which text of a pair each token belongs to, 0 or 1; empty if the tokenizer does not say, or there is no pair."""

    @property
    def loss_spans(self) -> tuple[tuple[int, int], ...]:
        """First position and end of each part that enters the loss."""
        return (*self.earlier, (self.loss_from, len(self.ids)))


LOST: Mapping[str, str] = MappingProxyType(
    {
        "prompt_start": "the start of the prompt",
        "whole_prompt": "the whole prompt",
        "answer_part": "the prompt and a part of the answer",
        "text_start": "the start of the text",
        "text_end": "the end of the text",
    }
)
"""What a truncated example can lose, as results name it and in words; the last two if it has no prompt."""

_AT_ONCE = 1000
"""Number of texts that are tokenized at once."""
_WITH_ANSWERS = ("choice", "exact_match", "generation")
"""Kinds of tasks whose answers end."""
Row = Sequence[Encoded]
"""Examples that share one row of a batch, one after the other."""


def encode(tokenizer: Any, examples: Sequence[tuple[Identity, Example]], length: int, loss_on: str) -> list[Encoded]:
    """Tokenize prompts and answers as lm-eval does, and end each text with an end-of-text token that is learned.

    Special tokens are added as the tokenizer does by default.

    Args:
        tokenizer: the base model's.
        examples: each with its identity.
        length: most tokens of an example; a longer one loses its left: the prompt first, then the answer.
        loss_on: ``completion`` or ``all``: which tokens enter the loss.

    Raises:
        Unsupported: if the tokenizer has no end-of-text token.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise Unsupported("the base model's tokenizer has no end-of-text token, so an answer's end cannot be learned")
    texts = [(e.prompt, e.join + e.target + e.end) for _, e in examples]
    found = []
    for (identity, e), (ids, start) in zip(examples, tokens(tokenizer, texts, ended=True), strict=True):
        loss_from = start if loss_on == "completion" else 1
        cut = max(0, len(ids) - length)
        what = lost(cut, start if e.prompt else 0)
        spans = _earlier(tokenizer, e, start) if e.learned and loss_on == "completion" else []
        kept = tuple((max(1, first - cut), end - cut) for first, end in spans if end - cut > 1)
        found.append(Encoded(tuple(ids[cut:]), max(1, loss_from - cut), cut > 0, identity, what, kept))
    return found


def _earlier(tokenizer: Any, example: Example, before: int) -> list[tuple[int, int]]:
    """Return first position and end of the tokens of each earlier answer that is trained on.

    These are the tokens that end within the answer or with it, as for the last answer: one that begins before the
    answer belongs to it, and one that goes on after it does not.

    Args:
        tokenizer: the base model's.
        example: has characters of its prompt that are learned.
        before: position of the first token of the last answer.

    Raises:
        Unsupported: if the tokenizer cannot tell the characters of a token.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise Unsupported(
            f"{type(tokenizer).__name__} does not tell which characters a token stands for, so the tokens of earlier "
            "answers are not known; give train_on: last_answer"
        )
    special = not example.prompt.startswith(tokenizer.bos_token or tokenizer.eos_token or "\0")
    made = tokenizer(example.prompt, add_special_tokens=special, return_offsets_mapping=True)
    ends = [end for _, end in made["offset_mapping"]]
    found = []
    for first, end in example.learned:
        places = [place for place, reached in enumerate(ends) if first < reached <= end and place < before]
        if places:
            found.append((max(1, places[0]), places[-1] + 1))
    return found


def encode_texts(
    tokenizer: Any, examples: Sequence[tuple[Identity, Example]], length: int, task: Task
) -> list[Encoded]:
    """Tokenize whole texts, or pairs of them, for a head, with the special tokens that the tokenizer adds by default.

    Args:
        tokenizer: the base model's.
        examples: each with its identity.
        length: most tokens; a longer text is cut on the right, of a pair the longer one first, so that the special
            tokens stay.
        task: says what the head should give.
    """
    found: list[Encoded] = []
    tokenizer.truncation_side = "right"
    for start in range(0, len(examples), _AT_ONCE):
        some = examples[start : start + _AT_ONCE]
        texts = [[e.prompt for _, e in some], *([[e.second for _, e in some]] if task.prompt_pair else [])]
        kept = tokenizer(*texts, truncation=True, max_length=length)
        whole = tokenizer(*texts)["input_ids"]
        types = kept.get("token_type_ids") if task.prompt_pair else None
        for index, (identity, e) in enumerate(some):
            ids = tuple(kept["input_ids"][index]) or (tokenizer.pad_token_id,)
            cut = len(whole[index]) > len(ids)
            kinds = tuple(types[index]) if types else ()
            what = "text_end" if cut else None
            found.append(Encoded(ids, len(ids), cut, identity, what, label=label(task, e), types=kinds))
    return found


def label(task: Task, example: Example) -> float:
    """Return what a head should give for an example: the index of its class, or a number."""
    place = task.choices.index(example.target) if task.choices else None
    if task.kind == "classification":
        assert place is not None
        return place
    return float(example.target if place is None else place)  # the built-in stand-in of smoke mode has classes


def lost(cut: int, prompt: int) -> str | None:
    """Return what an example loses, one of ``LOST``; None if nothing.

    Args:
        cut: tokens that are cut on its left.
        prompt: tokens of its prompt; 0 if it has none.
    """
    if cut <= 0:
        return None
    if not prompt:
        return "text_start"
    return "prompt_start" if cut < prompt else "whole_prompt" if cut == prompt else "answer_part"


def tokens(tokenizer: Any, texts: Sequence[tuple[str, str]], ended: bool) -> list[tuple[list[int], int]]:
    """Return the token ids of prompts with their answers, and the position of the first token of each answer.

    The prompt and the whole text are tokenized separately; ``joining`` says where the answer begins. It has at
    least the last token.

    Args:
        tokenizer: the base model's.
        texts: each prompt, and the text after it: what joins them, the answer, and the end of a chat turn.
        ended: whether the end-of-text token follows.
    """
    eos = tokenizer.eos_token_id
    distinct = list(dict.fromkeys(prompt for prompt, _ in texts))
    prompts = dict(zip(distinct, _ids(tokenizer, distinct), strict=True))
    wholes = _ids(tokenizer, [prompt + rest for prompt, rest in texts])
    found = []

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    for (prompt, _), whole in zip(texts, wholes, strict=True):
        ids = prompts[prompt]
        # some tokenizers append end-of-text to every text themselves
        appended = ids[-1:] == [eos] and not prompt.endswith(tokenizer.eos_token)
        open_ids = whole[:-1] if whole[-1:] == [eos] else whole
        both, start = joining.joined(ids[:-1] if appended else ids, open_ids, decode)
        closed = [*both, eos] if ended else both
        found.append((closed, max(0, min(start, len(closed) - 1))))
    return found


def end(tokenizer: Any, example: Example) -> str:
    """Return the text that training puts after an answer: a chat template's end and end-of-text."""
    return example.end.removesuffix(tokenizer.eos_token) + tokenizer.eos_token


def learned_ends(trial: Trial) -> frozenset[str]:
    """Return the choice tasks whose answers end in a way that the trial trains.

    Training ends every answer with the chat template's end, if the task has one, and end-of-text. The untuned base
    model has not learned to end an answer so, and neither has a model that is only trained on plain text or on tasks
    with the other use of the chat template.
    """
    if trial.training is None:
        return frozenset()
    tasks = {task.name: task for task in trial.tasks}
    trained = [tasks[name] for name, _ in trial.training.data]
    ends = {task.chat for task in trained if task.kind in _WITH_ANSWERS}
    return frozenset(task.name for task in trial.tasks if task.kind == "choice" and task.chat in ends)


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return texts' token ids with the tokenizer's special tokens, but without them if a text begins with one already.

    lm-eval does the same. A chat template writes the beginning-of-text token as text.
    """
    first = tokenizer.bos_token or tokenizer.eos_token
    known: dict[int, int] = {}
    found: list[list[int]] = []
    for start in range(0, len(texts), _AT_ONCE):  # a tokenizer's answer takes twenty times the memory of the ids
        some = list(texts[start : start + _AT_ONCE])
        if first and any(text.startswith(first) for text in some):
            made = [tokenizer(text, add_special_tokens=not text.startswith(first))["input_ids"] for text in some]
        else:
            made = tokenizer(some)["input_ids"]
        found += [[known.setdefault(token, token) for token in ids] for ids in made]  # one object per token id
    return found
