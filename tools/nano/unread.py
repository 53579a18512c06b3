"""Write the held-out general text of a built-in base model: ``python -m tools.nano.unread nano``.

Trials measure retention by the loss on it before and after training (``evaluation/retention.py``). Its texts are the
first of the held-out documents (``make.held_out``), without those that also occur in the training text and those too
long for the model's suites. It takes about 20 seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Set
from typing import Any

from transformers import AutoTokenizer

from peftbench.models.builtin import BASES, folder, held_out
from tools.nano import card
from tools.nano.grammar import documents

TEXTS = 128
TOKENS = range(8, card.EVALUATION.max_length + 1)
"""Allowed lengths of a text."""


def unread(tokenizer: Any, read: Set[str]) -> list[str]:
    """Return the first distinct held-out documents of an allowed length that are not in ``read``."""

    def fit() -> Iterator[str]:
        seen = set(read)
        for text in documents("nano held out"):
            if text not in seen and len(tokenizer(text)["input_ids"]) in TOKENS:
                seen.add(text)
                yield text

    return list(itertools.islice(fit(), TEXTS))


def main() -> None:
    """Write a base model's held-out text from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.nano.unread", description="Write the held-out general text of a base model."
    )
    parser.add_argument("base", choices=BASES)
    name = parser.parse_args().base
    tokenizer = AutoTokenizer.from_pretrained(folder(name))
    texts = unread(tokenizer, set(card.text_read(tokenizer, card.read_log(folder(name))["curve"])))
    held_out(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    print(f"wrote {len(texts)} texts of {name}")


if __name__ == "__main__":
    main()
