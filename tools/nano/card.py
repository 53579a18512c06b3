"""Make a built-in base's card from its folder and from measurements: ``python -m tools.nano.card nano``.

Apart from the recipe, because tasks can change while the base does not. A minute on one CPU thread.
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
"""As in the suites of the built-in base."""
SAME_LOSS = 0.001
"""Nats; a log may give its losses to three decimals."""


@dataclass(frozen=True)
class Measured:
    """What the card says beyond the training's log."""

    loss: float
    """On held-out text, in nats per token."""
    held_out_read: tuple[int, int]
    """Held-out documents that the training read too, word for word, and all held-out documents."""
    scores: tuple[Score, ...]
    overlaps: Mapping[str, Overlap]
    skills: Mapping[str, tuple[float, float]]
    """What is asked -> share of fresh documents with the right last word, share that the training read too."""


def task(name: str, test_seed: int = DEFAULT_TEST_SEED) -> Task:
    """Return a built-in task as a suite without settings of its own has it."""
    built_in = TASKS[name]
    return Task(name, built_in.kind, builtin=name, max_new_tokens=built_in.max_new_tokens, test_seed=test_seed)


def read_log(base: Path) -> dict[str, Any]:
    """Return the log of the training that made a base.

    Raises:
        UserError: if the log is of other weights.
    """
    found: dict[str, Any] = yaml.safe_load((base / make.LOG).read_text(encoding="utf-8"))
    if found["weights_sha256"] != make.weights_sha256(base):
        raise UserError(f"{base.name}: {make.LOG} is the log of other weights than those in the folder")
    return found


def load_base(base: Path) -> Loaded:
    """Load a base as a trial of method ``base`` at fp32 does."""
    return load(base, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False)


def zero_shot(loaded: Loaded) -> tuple[Score, ...]:
    """Score the untuned base on each built-in task's validation split, as trials do."""
    tasks = [task(name) for name in TASKS]
    wrapped = scoring.Harness(loaded.model, loaded.tokenizer, EVALUATION, PRECISIONS["fp32"])
    return scoring.evaluate(wrapped, tasks, {t.name: examples(t, EVALUATION.split) for t in tasks})[0]


def scored_examples(name: str) -> list[Example]:
    """Return all of a task's examples that are ever scored: its validation split and all its test sets."""
    tests = [e for seed in range(TEST_SEEDS) for e in examples(task(name, seed), "test")]
    return examples(task(name), "validation") + tests


def text_read(tokenizer: Any, curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield every document that the training read, as far as it was read.

    Raises:
        UserError: if there are not as many tokens as the training counted: then the grammar writes another text now.
    """
    expected = {row["step"]: row["tokens_read"] for row in curve}
    tokens = 0
    for step, batch in enumerate(itertools.islice(make.reading(tokenizer), max(expected)), 1):
        tokens += int((batch != make.IGNORED).sum())
        if expected.get(step, tokens) != tokens:
            raise UserError(f"by step {step} the base had read {expected[step]:,} tokens; the recipe gives {tokens:,}")
        yield from decode(tokenizer, batch)


def decode(tokenizer: Any, batch: torch.Tensor) -> list[str]:
    """Return the documents of a batch (documents, longest), without end-of-text and padding."""
    left_out = {*tokenizer.all_special_ids, make.IGNORED}
    found: list[str] = tokenizer.batch_decode([[i for i in ids if i not in left_out] for ids in batch.tolist()])
    return found


def count_read(tokenizer: Any, unread: Sequence[torch.Tensor], read: Set[str]) -> tuple[int, int]:
    """Return how many documents of the batches were read too, and how many documents they are."""
    apart = [text for batch in unread for text in decode(tokenizer, batch)]
    return sum(text in read for text in apart), len(apart)


def measured(loaded: Loaded, log: Mapping[str, Any]) -> Measured:
    """Measure what the card says."""
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
    """Return a markdown table, all columns but the first aligned to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def curve_table(log: Mapping[str, Any]) -> str:
    """Return the loss curve."""
    rows = [(f"{r['step']:,}", f"{r['tokens_read']:,}", f"{r['held_out_loss']:.3f}") for r in log["curve"]]
    return table(("step", "tokens read", "held-out loss, nats per token"), rows)


def recipe_facts(log: Mapping[str, Any]) -> str:
    """Return what the training was, from its log."""
    tokens = log["curve"][-1]["tokens_read"]
    return f"""\
- recipe: `{log["recipe"]}`; it writes the weights and their log, `{make.LOG}`
- read: {tokens:,} tokens in {log["steps"]:,} steps of {make.DOCUMENTS} documents; in the first {make.COPYING_STEPS} \
steps, lists of words told over and over,
  from which it learns to copy; the tokenizer was trained on {make.TOKENIZER_DOCUMENTS:,} further documents of \
the grammar
- optimizer: AdamW at {make.LEARNING_RATE:g} with warm-up and cosine, seed {log["seed"]}
- time: {log["seconds"]:.0f} s, CPU threads: {log["threads"]} (torch {log["torch"]}, transformers \
{log["transformers"]}; CPU: {log["cpu"] or "not recorded"})"""


def skills_table(found: Mapping[str, tuple[float, float]]) -> str:
    """Return what the base can do in formats that it has read."""
    rows = [(name, f"{100 * right:.0f}", f"{100 * read:.0f}") for name, (right, read) in found.items()]
    return table(("last word", "right, %", "documents read before, %"), rows)


def zero_shot_table(scores: Sequence[Score]) -> str:
    """Return the scores of the untuned base."""
    rows = []
    for s in scores:
        own = f"{s.value:.3f}" + ("" if s.standard_error is None else f" ± {s.standard_error:.3f}")
        others = ", ".join(f"`{name}` {value:.3f}" for name, value in s.metrics.items() if name != s.metric)
        rows.append((s.task, f"`{s.metric}`", own, _share(s.chance), _share(s.majority), others or "-"))
    header = ("task", "metric", "score ± standard error", "by chance", "always the commonest answer", "other metrics")
    return table(header, rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def overlap_table(overlaps: Mapping[str, Overlap]) -> str:
    """Return how much of the tasks' text the base has read."""
    header = ("task", *(f"{n}-grams, %" for n in SIZES), "prompts", "longest fields", "distinct answers")
    rows = []
    for name, o in overlaps.items():
        shares = [f"{100 * o.shares[n]:.1f}" if n in o.shares else "-" for n in SIZES]
        whole = f"{o.prompts} of {o.examples}", f"{o.longest_fields} of {o.examples}"
        rows.append((name, *shares, *whole, f"{o.targets} of {o.distinct_targets}"))
    return table(header, rows)


def held_out_fact(loss: float, logged: float) -> str:
    """Return the loss measured now, and whether the training's log agrees."""
    same = "as the training's last value" if abs(loss - logged) < SAME_LOSS else f"but its log says {logged:.3f}"
    return f"{loss:.3f} nats per token, {same}: a perplexity of {math.exp(loss):.2f}"


def held_out_read_fact(found: tuple[int, int]) -> str:
    """Return how much of the held-out text was read all the same."""
    return f"of its {found[1]:,} documents, {found[0]} were also read"


CARD = """---
license: apache-2.0
library_name: transformers
tags: [peftbench]
---

# {name}

The base model that ships inside peftbench: a Llama of {parameters:,} parameters ({layers} layers, width {width},
{pieces} byte-level BPE pieces) in fp32. With it, fine-tuning methods can be compared on a laptop, in minutes, offline.

It has read nothing but text that peftbench's own grammar generated (`tools/nano/grammar.py`): records and
sentences about places to eat, small stories and the feelings they leave, sums in words, lists, a few animals: formats
and skills near the built-in tasks, in the same words, but no task's prompt. It knows nothing of the world and is of no
other use. It has learned to end a text with `</s>`; the tokenizer adds no `<s>` itself. Licence: Apache-2.0, as
peftbench; made from generated text only.

## Training

{recipe}
- loss on held-out text of the same grammar: {held_out}
- held-out text is drawn apart from the training's, but the world is small: {held_out_read}

{curve}

## What it can do in formats that it has read

Share of {documents} fresh documents of the grammar, for each kind, whose last word it writes when it has read the rest
(greedy decoding; formats change from document to document). Fresh means drawn apart; the second column says how many
of them the training had read too, word for word.

{skills}

## What it scores on the built-in tasks before any fine-tuning

Validation split, no examples in the prompt, fp32, the code that scores trials of the method `base`. All metrics are
fractions of one, higher is better.

{zero_shot}

## How much of the tasks it has read

Compared are the {examples} examples of each task that are ever scored (validation split and all {test_sets} test sets),
prompt and answer together, with all {steps:,} x {per_step} documents read. An n-gram is n neighbouring words; a
punctuation mark is a word; case counts; white space does not; none spans two documents. The shares are of the distinct
n-grams of a task's texts that occur anywhere in the text read. The other columns count what occurs in it whole, letter
by letter: the prompts; the longest field of each prompt (fields stand between `:`, `|` and `/`); the answers.

{overlap}

To be read from it: the words and short phrases of the tasks are known to the base, their prompts are not. An answer of
`compute` is a number and a thing, one of `judge` a colour: such phrases occur in any text of this world, and are the
answer's form, not the task. The same goes for the fields of `describe` and `compute`, each a fact or a number of
things. The field of `judge` is a whole story, and long n-grams of stories are shared: the grammar tells of the same
people and events, also with "but then" and "after". So the base has read some of its stories word for word, always
with the name of a feeling, never with the colour that the task asks for.

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
    """Renew a base's card from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.nano.card", description="Renew a base's card.")
    parser.add_argument("base", choices=BASES)
    parser.add_argument("--folder", type=Path, help="the base's folder (default: where the package keeps it)")
    arguments = parser.parse_args()
    place = arguments.folder or folder(arguments.base)
    torch.set_num_threads(make.THREADS)
    log, loaded = read_log(place), load_base(place)
    text = card(arguments.base, loaded, log, measured(loaded, log))
    (place / "README.md").write_text(text, encoding="utf-8")
    print(f"wrote the card of {arguments.base}")


if __name__ == "__main__":
    main()
