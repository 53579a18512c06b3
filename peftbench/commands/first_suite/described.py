"""Short sentences about a new suite: its data and lengths, repeats and overlap, amounts, what is left out. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from peftbench.commands.first_suite.draft import Draft
from peftbench.records import Example
from peftbench.records.wording import agreeing, plural
from peftbench.tasks import overlap
from peftbench.training.token_lengths import Lengths

_MANY = 0.05
"""Share of test prompts that are training prompts from which something should be done about it."""
KINDS = {
    "choice": "ranked by likelihood",
    "exact_match": "decoded, and right or wrong",
    "generation": "decoded, and scored by ROUGE-L",
    "language_modelling": "scored by probability per byte",
}
"""What each kind of task does with an answer or a text."""


def of_lengths(found: Lengths) -> str:
    """Return the lengths of examples, prompt and answer together, in tokens: median, 95th percentile and longest."""
    wholes = sorted(found.wholes)
    middle, most = wholes[(len(wholes) - 1) // 2], wholes[min(len(wholes) - 1, -(-95 * len(wholes) // 100) - 1)]
    drawn = f" ({len(wholes):,} of {found.examples:,} examples measured)" if len(wholes) < found.examples else ""
    return f"median {middle:,}, 95th percentile {most:,}, longest {wholes[-1]:,}{drawn}"


def of_classes(classes: Mapping[str, int]) -> str:
    """Return how many records the rarest and the most frequent class have.

    Args:
        classes: value in the file -> records.
    """
    fewest, most = min(classes.values()), max(classes.values())
    return f"{plural(fewest, 'record')} each" if fewest == most else f"{fewest:,} to {most:,} records each"


def of_repeats(train: Sequence[Example]) -> Iterator[str]:
    """Yield sentences about training examples that occur twice, or have different answers to one prompt."""
    whole = Counter((e.prompt, e.target) for e in train)
    answers = Counter(prompt for prompt, _ in whole)
    twice, differ = len(train) - len(whole), sum(number > 1 for number in answers.values())
    if twice:
        yield f"{plural(twice, 'training example')} {agreeing(twice, 'repeats', 'repeat')} another one"
    if differ and any(e.prompt for e in train):
        yield f"{plural(differ, 'training prompt')} {agreeing(differ, 'has', 'have')} more than one answer"


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
        yield f"{plural(count, 'test example')} {each}"


def of_amounts(draft: Draft, train: Sequence[Example], test: Sequence[Example], validated: int) -> list[str]:
    """Return the steps, seeds and scored examples of a draft, whose reasons the suite has as comments.

    Args:
        draft: the draft.
        train: the training examples.
        test: the test examples.
        validated: how many of the training examples are for validation.
    """
    steps, most = draft.steps or 0, draft.block.get("limit")
    scored = f"{most:,} of {len(test):,}" if most and most < len(test) else f"{len(test):,}"
    trained = passes(steps * draft.batch_size, len(train) - validated).replace(" training ", " ")
    amounts = f"{plural(draft.seed_count, 'seed')}, {plural(steps, 'step')} of {draft.batch_size} examples ({trained})"
    said = [f"{amounts}, {scored} scored"]
    if draft.given.limit and not most:
        said.append(f"--limit {draft.given.limit:,} leaves out nothing")
    return said


def passes(drawn: int, examples: int) -> str:
    """Return how many times the training examples are seen, as "1.2 passes over 5,452 training examples"."""
    share = f"{drawn / max(1, examples):.2g}"
    return f"{share} {'pass' if share == '1' else 'passes'} over {examples:,} training examples"


def of_left_out(left_out: Sequence[tuple[str, str]]) -> list[str]:
    """Return which methods are not in a suite, those of one reason together.

    Args:
        left_out: (method, reason).
    """
    by: dict[str, list[str]] = {}
    for name, why in left_out:
        by.setdefault(why, []).append(name)
    return [f"{', '.join(names)}: {why.removeprefix('as ')}" for why, names in by.items()]


def of_overlap(train: Sequence[Example], scored: Sequence[Example], own: bool = False) -> Iterator[str]:
    """Yield sentences about scored prompts that are in the training data, counted as a trial does.

    Args:
        train: the training examples.
        scored: the test examples, or those that are drawn from them.
        own: whether they were drawn from the training file.
    """
    both = overlap.measure(train, scored)
    if not both.ngram:
        yield "no scored prompt is a training prompt"
        return
    of = f"of {plural(both.examples, 'scored prompt')}"
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
