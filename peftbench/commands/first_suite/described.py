"""Sentences about the data of a new suite: answers, lengths, repeats, overlap, amounts. Each is one line. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from peftbench.commands.first_suite.draft import Draft
from peftbench.records import Example
from peftbench.records.wording import abridged, agreeing, plural
from peftbench.tasks import overlap
from peftbench.training.token_lengths import Lengths

_SHOWN_CLASSES = 20
_MANY = 0.05
"""Share of test prompts that are training prompts from which something should be done about it."""
KINDS = {
    "choice": "choice, the given answers are ranked by their likelihood",
    "exact_match": "exact_match, an answer is decoded and has to equal the right one",
    "generation": "generation, an answer is decoded and compared with the right one (ROUGE-L)",
    "language_modelling": "language_modelling, the likelihood of text is measured (probability per byte)",
}
"""What each kind of task does."""


def of_lengths(found: Lengths) -> str:
    """Return the lengths of examples, prompt and answer together, in tokens: median, 95th percentile and longest."""
    wholes = sorted(found.wholes)
    middle, most = wholes[(len(wholes) - 1) // 2], wholes[min(len(wholes) - 1, -(-95 * len(wholes) // 100) - 1)]
    drawn = f" ({len(wholes):,} were measured)" if len(wholes) < found.examples else ""
    return f"tokens, prompt and answer: median {middle:,}, 95th percentile {most:,}, longest {wholes[-1]:,}{drawn}"


def of_answers(classes: Mapping[str, int], words: Mapping[str, str]) -> str:
    """Return the answers that a model is scored on, the most frequent first, with their numbers of records.

    Args:
        classes: value in the file -> records.
        words: value -> the word that stands for it, if the file says it.
    """
    shown = [
        f"{name!r}{f' = {words[name]!r}' if words.get(name, name) != name else ''} {number:,}"
        for name, number in sorted(classes.items(), key=lambda item: -item[1])
    ]
    return f"{plural(len(shown), 'answer')}, with records: {abridged(shown, _SHOWN_CLASSES)}"


def of_repeats(train: Sequence[Example]) -> Iterator[str]:
    """Yield sentences about training examples that occur twice, or have different answers to one prompt."""
    whole = Counter((e.prompt, e.target) for e in train)
    answers = Counter(prompt for prompt, _ in whole)
    twice, differ = len(train) - len(whole), sum(number > 1 for number in answers.values())
    if twice:
        yield f"{plural(twice, 'example')} {agreeing(twice, 'repeats', 'repeat')} another one"
    if differ and any(e.prompt for e in train):
        yield f"{plural(differ, 'prompt')} {agreeing(differ, 'has', 'have')} more than one answer"


def repeated_prompts(examples: Sequence[Example]) -> int:
    """Return how many examples repeat the prompt of an earlier one; texts without a prompt are compared whole."""
    return len(examples) - len({e.prompt or e.target for e in examples})


def of_repeated_tests(scored: Sequence[Example]) -> Iterator[str]:
    """Yield a sentence about test examples that repeat a prompt."""
    count = repeated_prompts(scored)
    if count:
        each = agreeing(
            count, "repeats the prompt of another one, and both count", "repeat the prompts of others, and all count"
        )
        yield f"{plural(count, 'example')} {each}"


def of_amounts(draft: Draft, test: Sequence[Example]) -> list[str]:
    """Return the steps, seeds and scored examples of a draft, with their reasons, as sentences."""
    said = [f"{plural(draft.steps or 0, 'step')} of {draft.batch_size} examples: {draft.comments['steps']}"]
    said.append(f"{plural(draft.seed_count, 'seed')}: {draft.comments['seeds']}")
    most = draft.block.get("limit")
    if most and most < len(test):
        said.append(f"{most:,} of {len(test):,} test examples are scored (limit), the same for every method")
    elif draft.given.limit:
        given = draft.given.limit
        said.append(f"--limit {given:,} leaves out nothing: there are {plural(len(test), 'test example')}")
    return said


def of_overlap(train: Sequence[Example], scored: Sequence[Example], own: bool = False) -> Iterator[str]:
    """Yield sentences about scored prompts that are in the training data, counted as a trial does.

    Args:
        train: the training examples.
        scored: the test examples, or those that are drawn from them.
        own: whether they were drawn from the training file.
    """
    both = overlap.measure(train, scored)
    if not both.ngram:
        yield "no test prompt is a training prompt"
        return
    of = f"of {plural(both.examples, 'test prompt')}"
    if both.exact:
        yield f"{both.exact:,} {of} {agreeing(both.exact, 'is a training prompt', 'are training prompts')} too"
    if both.ngram > both.exact:
        more = both.ngram - both.exact
        few = f"{more:,} more" if both.exact else f"{more:,} {of}"
        yield f"{few} {agreeing(more, 'shares', 'share')} {both.words} words in a row with a training prompt"
    if own and both.exact:
        share = both.exact / both.examples
        percent = f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
        advice = "; remove the repeats or give --test" if share > _MANY else "; the effect on the score is small"
        yield f"the file repeats prompts: {percent} of the scored prompts are also trained on{advice}"
