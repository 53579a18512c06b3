"""Write the model card of a built-in base model from its folder and measurements: ``python -m tools.nano.card nano``.

This is separate from training, as tasks can change while the model does not. It takes a minute on one CPU thread.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from peftbench.errors import UserError
from peftbench.evaluation import scoring
from peftbench.models.builtin import BASES, folder
from peftbench.models.load import Loaded, load
from peftbench.models.precision import PRECISIONS
from peftbench.records import Evaluation, Example, Score, Task
from peftbench.tasks import DEFAULT_TEST_SEED, TASKS, TEST_SEEDS
from peftbench.tasks.read import examples, fingerprint
from tools.nano import make, skills
from tools.nano.overlap import SIZES, Overlap, measure

EVALUATION = Evaluation(batch_size=32, max_length=64, split="validation")
"""As in the suites for the built-in base model."""
SAME_LOSS = 0.001
"""Tolerance in nats: logs may give losses to three decimals."""


@dataclass(frozen=True)
class Measured:
    """Measurements for the card, besides the training log."""

    loss: float
    """Loss on held-out text, nats per token."""
    held_out_read: tuple[int, int]
    """Number of held-out documents that also occur in the training text, and of all held-out documents."""
    scores: tuple[Score, ...]
    overlaps: Mapping[str, Overlap]
    skills: Mapping[str, tuple[float, float]]
    """Name of a skill -> share of new documents with a correct last word, share that occur in the training text."""


def task(name: str, test_seed: int = DEFAULT_TEST_SEED) -> Task:
    """Return a built-in task with default settings."""
    built_in = TASKS[name]
    return Task(name, built_in.kind, builtin=name, max_new_tokens=built_in.max_new_tokens, test_seed=test_seed)


def read_log(base: Path) -> dict[str, Any]:
    """Return the training log of a base model.

    Raises:
        UserError: if the log belongs to other weights.
    """
    found: dict[str, Any] = yaml.safe_load((base / make.LOG).read_text(encoding="utf-8"))
    if found["weights_sha256"] != make.weights_sha256(base):
        raise UserError(f"{base.name}: {make.LOG} belongs to other weights than those in the folder")
    return found


def load_base(base: Path) -> Loaded:
    """Load a base model as a trial of the method ``base`` in fp32 does."""
    return load(base, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False)


def zero_shot(loaded: Loaded) -> tuple[Score, ...]:
    """Score the untuned base model on the validation split of each built-in task, as trials do."""
    tasks = [task(name) for name in TASKS]
    wrapped = scoring.Harness(loaded.model, loaded.tokenizer, EVALUATION, PRECISIONS["fp32"])
    return scoring.evaluate(wrapped, tasks, {t.name: examples(t, EVALUATION.split) for t in tasks})[0]


def scored_examples(name: str) -> list[Example]:
    """Return all examples of a task that are ever scored: its validation split and all test sets."""
    tests = [e for seed in range(TEST_SEEDS) for e in examples(task(name, seed), "test")]
    return examples(task(name), "validation") + tests


def text_read(tokenizer: Any, curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield every document of the training text, truncated as in training.

    Raises:
        UserError: if the number of tokens differs from the log, which means that the grammar has changed.
    """
    expected = {row["step"]: row["tokens_read"] for row in curve}
    tokens = 0
    for step, batch in enumerate(itertools.islice(make.reading(tokenizer), max(expected)), 1):
        tokens += int((batch != make.IGNORED).sum())
        if expected.get(step, tokens) != tokens:
            raise UserError(f"by step {step} the log counts {expected[step]:,} tokens; the recipe now gives {tokens:,}")
        yield from decode(tokenizer, batch)


def decode(tokenizer: Any, batch: torch.Tensor) -> list[str]:
    """Return the documents of a batch (documents, longest), without end-of-text and padding."""
    excluded = {*tokenizer.all_special_ids, make.IGNORED}
    found: list[str] = tokenizer.batch_decode([[i for i in ids if i not in excluded] for ids in batch.tolist()])
    return found


def count_read(tokenizer: Any, unread: Sequence[torch.Tensor], read: Set[str]) -> tuple[int, int]:
    """Return how many documents of the batches are in ``read``, and how many documents there are."""
    apart = [text for batch in unread for text in decode(tokenizer, batch)]
    return sum(text in read for text in apart), len(apart)


def measured(loaded: Loaded, log: Mapping[str, Any]) -> Measured:
    """Measure what the card reports."""
    model, tokenizer = loaded.model.eval(), loaded.tokenizer
    unread = make.held_out(tokenizer)
    read = set(text_read(tokenizer, log["curve"]))
    whole = "\0".join(read)
    return Measured(
        loss=make.held_out_loss(model, unread),
        held_out_read=count_read(tokenizer, unread, read),
        scores=zero_shot(loaded),
        overlaps=measure({name: scored_examples(name) for name in TASKS}, read),
        skills={
            skill[0]: (skills.share_right(model, tokenizer, skill), skills.share_read(whole, skill))
            for skill in skills.SKILLS
        },
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with all columns but the first aligned to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def curve_table(log: Mapping[str, Any]) -> str:
    """Return the loss curve."""
    rows = [(f"{r['step']:,}", f"{r['tokens_read']:,}", f"{r['held_out_loss']:.3f}") for r in log["curve"]]
    return table(("step", "tokens", "held-out loss, nats per token"), rows)


def recipe_facts(log: Mapping[str, Any]) -> str:
    """Return a list of facts on the training from its log."""
    tokens = log["curve"][-1]["tokens_read"]
    return f"""\
- recipe: `{log["recipe"]}`; it writes the weights and their log, `{make.LOG}`
- data: {tokens:,} tokens in {log["steps"]:,} steps of {make.DOCUMENTS} documents; in the first {make.COPYING_STEPS} \
steps, lists of words repeated many times,
  from which the model learns to copy; the tokenizer was trained on {make.TOKENIZER_DOCUMENTS:,} further documents \
of the grammar
- optimizer: AdamW at {make.LEARNING_RATE:g} with warm-up and cosine, seed {log["seed"]}
- time: {log["seconds"]:.0f} s, CPU threads: {log["threads"]} (torch {log["torch"]}, transformers \
{log["transformers"]}; CPU: {log["cpu"] or "not recorded"})"""


def skills_table(found: Mapping[str, tuple[float, float]]) -> str:
    """Return the table of skills."""
    rows = [(name, f"{100 * right:.0f}", f"{100 * read:.0f}") for name, (right, read) in found.items()]
    return table(("last word of", "correct, %", "also in the training text, %"), rows)


def zero_shot_table(scores: Sequence[Score]) -> str:
    """Return the table of the untuned model's scores."""
    rows = []
    for s in scores:
        own = f"{s.value:.3f}" + ("" if s.standard_error is None else f" ± {s.standard_error:.3f}")
        others = ", ".join(f"`{name}` {value:.3f}" for name, value in s.metrics.items() if name != s.metric)
        rows.append((s.task, f"`{s.metric}`", own, _share(s.chance), _share(s.majority), others or "-"))
    header = ("task", "metric", "score ± standard error", "chance", "most common answer", "other metrics")
    return table(header, rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def overlap_table(overlaps: Mapping[str, Overlap]) -> str:
    """Return the table of overlaps between tasks and training text."""
    header = ("task", *(f"{n}-grams, %" for n in SIZES), "prompts", "longest fields", "distinct answers")
    rows = []
    for name, o in overlaps.items():
        shares = [f"{100 * o.shares[n]:.1f}" if n in o.shares else "-" for n in SIZES]
        whole = f"{o.prompts} of {o.examples}", f"{o.longest_fields} of {o.examples}"
        rows.append((name, *shares, *whole, f"{o.targets} of {o.distinct_targets}"))
    return table(header, rows)


def held_out_fact(loss: float, logged: float) -> str:
    """Return the measured loss, and whether it agrees with the training log."""
    same = abs(loss - logged) < SAME_LOSS
    note = "equal to the last value of the training log" if same else f"but the training log has {logged:.3f}"
    return f"{loss:.3f} nats per token, {note}; perplexity {math.exp(loss):.2f}"


def held_out_read_fact(found: tuple[int, int]) -> str:
    """Return how many held-out documents also occur in the training text."""
    return f"of its {found[1]:,} documents, {found[0]} also occur in the training text"


CARD = """---
license: apache-2.0
library_name: transformers
tags: [peftbench]
---

# {name}

The base model that ships with peftbench: a Llama of {parameters:,} parameters ({layers} layers, width {width},
{pieces} byte-level BPE tokens) in fp32. With it, fine-tuning methods can be compared on a laptop in minutes, offline.

It was pretrained only on text generated by peftbench's own grammar (`tools/nano/grammar.py`): records and sentences
about places to eat, short stories with a feeling, word problems, lists, a few animals. Formats, skills and words are
close to those of the built-in tasks, but the text contains no prompt of a task. The model knows nothing about the world
and has no other use. It has learned to end a text with `</s>`; the tokenizer does not add `<s>`. License: Apache-2.0,
like peftbench; made from generated text only.

## Training

{recipe}
- loss on held-out text of the same grammar: {held_out}
- held-out text is drawn with another seed, but the grammar is small: {held_out_read}

{curve}

## Accuracy on formats of the pretraining text

For each kind of document, the share of {documents} new documents of the grammar whose last word is predicted correctly
from the rest (greedy decoding; formats vary from document to document). New documents are drawn with another seed; the
last column is the share of them that also occur word for word in the pretraining text.

{skills}

## Scores on the built-in tasks before fine-tuning

Validation split, zero-shot, fp32, scored by the same code as trials of the method `base`. All metrics are fractions of
1; higher is better.

{zero_shot}

## Overlap of the tasks with the pretraining text

The {examples} examples of each task that are ever scored (validation split and all {test_sets} test sets), prompt and
answer together, are compared with all {steps:,} x {per_step} pretraining documents. An n-gram is a sequence of n words
within a document; punctuation marks are words, case matters, white space does not. The shares are those of a task's
distinct n-grams that occur in the pretraining text. The other columns count exact occurrences of whole strings: the
prompts, the longest field of each prompt (fields are separated by `:`, `|` and `/`), and the distinct answers.

{overlap}

The model has therefore seen the words and short phrases of the tasks, but none of their prompts. An answer of `compute`
is a number and a thing, an answer of `judge` a colour; such phrases occur throughout the text, and are only the form of
the answer. The same holds for the fields of `describe` and `compute`, each a fact or a number of things. The field of
`judge` is a whole story, and stories share long n-grams, since the grammar writes about the same people and events,
also with "but then" and "after". So the model has seen some of the stories word for word, always with the name of a
feeling, never with the colour that is the answer of the task.

Measured with tasks `{tasks}` and weights `{weights}` (first digits of SHA-256) by
`python -m tools.nano.card {name}`.
"""


def tasks_fingerprint() -> str:
    """Return the first digits of the hash of all examples of all built-in tasks."""
    return fingerprint([task(name, seed) for name in TASKS for seed in range(TEST_SEEDS)])[:16]


def card(name: str, loaded: Loaded, log: Mapping[str, Any], found: Measured) -> str:
    """Return the card's text."""
    return CARD.format(
        name=name,
        parameters=loaded.parameters,
        layers=loaded.model.config.num_hidden_layers,
        width=loaded.model.config.hidden_size,
        pieces=len(loaded.tokenizer),
        recipe=recipe_facts(log),
        held_out=held_out_fact(found.loss, log["curve"][-1]["held_out_loss"]),
        curve=curve_table(log),
        held_out_read=held_out_read_fact(found.held_out_read),
        documents=skills.DOCUMENTS,
        skills=skills_table(found.skills),
        zero_shot=zero_shot_table(found.scores),
        examples=next(iter(found.overlaps.values())).examples,
        test_sets=TEST_SEEDS,
        steps=log["steps"],
        per_step=make.DOCUMENTS,
        overlap=overlap_table(found.overlaps),
        tasks=tasks_fingerprint(),
        weights=log["weights_sha256"][:16],
    )


def main() -> None:
    """Write a base model's card from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.nano.card", description="Write a base model's card.")
    parser.add_argument("base", choices=BASES)
    parser.add_argument("--folder", type=Path, help="the model's folder (default: its place in the package)")
    arguments = parser.parse_args()
    place = arguments.folder or folder(arguments.base)
    torch.set_num_threads(make.THREADS)
    log, loaded = read_log(place), load_base(place)
    text = card(arguments.base, loaded, log, measured(loaded, log))
    (place / "README.md").write_text(text, encoding="utf-8")
    print(f"wrote the card of {arguments.base}")


if __name__ == "__main__":
    main()
