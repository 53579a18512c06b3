"""Accuracy of a base model on formats of its pretraining text: the last word of new documents, given the rest."""

from __future__ import annotations

import random
import re
from typing import Any

import torch

from peftbench.tasks.builtin.vocabulary import GAINS, LOSSES, NUMBERS
from tools.nano.grammar import FEELINGS, KINDS

DOCUMENTS = 200
"""Number of documents per skill."""
_NUMBER = rf"\b(?:{'|'.join(NUMBERS)})\.?$"
_FEELING = rf"\b(?:{'|'.join(FEELINGS)})\.?$"
_CHANGE = re.compile(rf"\b(?:{'|'.join((*GAINS, *LOSSES))}) \w+")
Skill = tuple[str, str, str, int | None]
"""Name, kind of document, pattern of the documents whose last word is determined by the rest, number of changes."""
SKILLS: tuple[Skill, ...] = (
    ("a repeated list of words", "_copy", r"$", None),
    ("the last item of a list", "_list", r"^last: ", None),
    ("a reversed list", "_list", r"^turn: ", None),
    ("the number of items in a list", "_list", r"^count: ", None),
    ("the answer about a record of a place", "_record", r"\nA: ", None),
    ("a value from a record of a person", "_person", r"$", None),
    ("a sum or difference up to twenty", "_sum", _NUMBER, None),
    ("the number after one change", "_changes", _NUMBER, 1),
    ("the number after two changes", "_changes", _NUMBER, 2),
    ("the number after three changes", "_changes", _NUMBER, 3),
    ("the final feeling in a story", "_story", _FEELING, None),
)


def texts(skill: Skill) -> list[str]:
    """Return documents of one text each, drawn with another seed than the training text; a few may be equal."""
    _, name, pattern, changes = skill
    kind = {kind.__name__: kind for kind, _ in KINDS}[name]
    rng = random.Random(f"nano card {name}")
    found: list[str] = []
    while len(found) < DOCUMENTS:
        text = kind(rng)()
        if re.search(pattern, text) and changes in (None, len(_CHANGE.findall(text))):
            found.append(text)
    return found


def share_read(whole: str, skill: Skill) -> float:
    """Return the share of a skill's documents that occur word for word in the training text."""
    return sum(text in whole for text in texts(skill)) / DOCUMENTS


@torch.no_grad()
def share_right(model: Any, tokenizer: Any, skill: Skill) -> float:
    """Return the share of documents whose last word greedy decoding predicts; a final full stop is ignored."""
    pairs = [text.rstrip(".").rsplit(" ", 1) for text in texts(skill)]
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in pairs]
    answers = [tokenizer(f" {answer}")["input_ids"] for _, answer in pairs]
    rows = [torch.tensor(prompt + answer) for prompt, answer in zip(prompts, answers, strict=True)]
    # padding is on the right, where causal attention does not see it
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    best = model(input_ids=ids, use_cache=False).logits.argmax(-1).tolist()
    right = [
        row[len(prompt) - 1 : len(prompt) - 1 + len(answer)] == answer
        for row, prompt, answer in zip(best, prompts, answers, strict=True)
    ]
    return sum(right) / len(right)
