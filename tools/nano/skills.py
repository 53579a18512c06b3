"""What a base can do in formats that it has read: the last word of fresh documents, where the rest decides it."""

from __future__ import annotations

import random
import re
from typing import Any

import torch

from peftbench.tasks.builtin.vocabulary import GAINS, LOSSES, NUMBERS
from tools.nano.grammar import FEELINGS, KINDS

DOCUMENTS = 200
"""For each skill."""
_NUMBER = rf"\b(?:{'|'.join(NUMBERS)})\.?$"
_FEELING = rf"\b(?:{'|'.join(FEELINGS)})\.?$"
_CHANGE = re.compile(rf"\b(?:{'|'.join((*GAINS, *LOSSES))}) \w+")
Skill = tuple[str, str, str, int | None]
"""What is asked, the kind of document, the texts of it whose last word the rest decides, and changes told in them."""
SKILLS: tuple[Skill, ...] = (
    ("a list of words told again", "_copy", r"$", None),
    ("last item of a list", "_list", r"^last: ", None),
    ("a list turned round", "_list", r"^turn: ", None),
    ("how many items a list has", "_list", r"^count: ", None),
    ("question about a record of a place", "_record", r"\nA: ", None),
    ("value from a record of a person", "_person", r"$", None),
    ("sum or difference up to twenty", "_sum", _NUMBER, None),
    ("how many after one change", "_changes", _NUMBER, 1),
    ("how many after two changes", "_changes", _NUMBER, 2),
    ("how many after three changes", "_changes", _NUMBER, 3),
    ("feeling that a story ends with", "_story", _FEELING, None),
)


def texts(skill: Skill) -> list[str]:
    """Return documents of one text each, drawn apart from the training's; in so small a world some are alike."""
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
    """Return the share of a skill's documents that occur word for word in the text read."""
    return sum(text in whole for text in texts(skill)) / DOCUMENTS


@torch.no_grad()
def share_right(model: Any, tokenizer: Any, skill: Skill) -> float:
    """Return the share of documents whose last word greedy decoding would write; a full stop is left out."""
    pairs = [text.rstrip(".").rsplit(" ", 1) for text in texts(skill)]
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in pairs]
    answers = [tokenizer(f" {answer}")["input_ids"] for _, answer in pairs]
    rows = [torch.tensor(prompt + answer) for prompt, answer in zip(prompts, answers, strict=True)]
    # padding lies on the right, where causal attention does not see it
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    best = model(input_ids=ids, use_cache=False).logits.argmax(-1).tolist()
    right = [
        row[len(prompt) - 1 : len(prompt) - 1 + len(answer)] == answer
        for row, prompt, answer in zip(best, prompts, answers, strict=True)
    ]
    return sum(right) / len(right)
