"""Overlap of the scored prompts with the training data. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from peftbench.records import Example, Trial
from peftbench.tasks import read

WORDS = 13
"""Length of the compared n-grams, as in Brown et al. 2020, arXiv:2005.14165, appendix C."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """Numbers of scored examples whose prompts overlap with the training data; answers are not compared."""

    examples: int
    exact: int
    """Examples whose prompt equals a training prompt word for word."""
    ngram: int
    """Examples whose prompt equals a training prompt or shares a sequence of ``words`` words with one."""
    words: int


def measure(train: Iterable[Example], scored: Sequence[Example], size: int = WORDS) -> Overlap:
    """Compare scored examples with training examples, in time linear in the number of words.

    Compared are the words that come from the data, without those of the prompt template; for plain text, the text
    itself. Case, punctuation and white space are ignored.
    """
    texts = [_words(e) for e in scored]
    of_each = [ngrams(words, size) for words in texts]
    wanted = set().union(*of_each)
    wholes: set[tuple[str, ...]] = set()
    shared: set[tuple[str, ...]] = set()
    for example in train:
        words = _words(example)
        wholes.add(tuple(words))
        shared |= wanted.intersection(ngrams(words, size))
    exact = [tuple(words) in wholes for words in texts]
    ngram = [same or not shared.isdisjoint(found) for same, found in zip(exact, of_each, strict=True)]
    return Overlap(len(texts), sum(exact), sum(ngram), size)


def ngrams(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    """Return the distinct n-grams of a list of words."""
    return set(zip(*(words[start:] for start in range(size)), strict=False))


def of_trial(trial: Trial, reader: read.Reader = read.examples) -> str | None:
    """Return as JSON the overlap of each scored task with all training data of a trial; None if it does not train.

    Args:
        trial: the trial.
        reader: as in ``read.fingerprint``.

    Raises:
        UserError: as ``read.examples``.
    """
    if trial.training is None:
        return None
    tasks = {task.name: task for task in trial.tasks}
    train = [e for name, _ in trial.training.data for e in reader(tasks[name], "train")]
    scored = {name: reader(tasks[name], trial.evaluation.split) for name in trial.evaluate}
    return json.dumps({name: asdict(measure(train, found)) for name, found in scored.items()})


def _words(example: Example) -> list[str]:
    """Return an example's words in lower case."""
    return _WORD.findall((example.content or example.prompt or example.target).casefold())
