"""Write the general text that a built-in base has not read: ``python -m tools.nano.unread nano``.

A trial's loss on it before and after training tells what the model forgot (``evaluation/retention.py``). Its texts are
the first of those that the recipe holds out (``make.held_out``); what the training read all the same, as the world is
small, is left out, and so is what is too long for the suites of the base. Some 20 seconds.
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
"""How long a text may be."""


def unread(tokenizer: Any, read: Set[str]) -> list[str]:
    """Return the first different held-out documents of fit length that are not among those read."""

    def fit() -> Iterator[str]:
        seen = set(read)
        for text in documents("nano held out"):
            if text not in seen and len(tokenizer(text)["input_ids"]) in TOKENS:
                seen.add(text)
                yield text

    return list(itertools.islice(fit(), TEXTS))


def main() -> None:
    """Renew a base's held-out text from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.nano.unread", description="Renew its held-out text.")
    parser.add_argument("base", choices=BASES)
    name = parser.parse_args().base
    tokenizer = AutoTokenizer.from_pretrained(folder(name))
    texts = unread(tokenizer, set(card.text_read(tokenizer, card.read_log(folder(name))["curve"])))
    held_out(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    print(f"wrote {len(texts)} texts of {name}")


if __name__ == "__main__":
    main()
