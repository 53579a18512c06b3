"""The metrics of the official E2E scorer, over all answers of a split; see ``tasks.more_metrics``."""

from __future__ import annotations

import math
import os
import string
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from peftbench.records import failures
from peftbench.tasks import more_metrics

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
"""Lower case as in mteval-v13a, which changes ASCII letters only."""
_LONGEST = 5
"""Tokens of the longest n-gram of NIST."""
_BETA = math.log(2) / math.log(1.5) ** 2
"""NIST's penalty for brevity is a half where an answer has two thirds of the references' length."""
_SENTINEL = "peftbenchsentinel"
_UTF_8 = "-Dfile.encoding=UTF-8"
Captions = Mapping[int, list[str]]
"""Place of an example -> its texts, in words that are joined by spaces."""


def compute(
    names: Collection[str], answers: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the metrics that were asked for, and for those that could not be computed the reason.

    Args:
        names: of ``tasks.more_metrics.MORE_METRICS``.
        answers: one per example. White space in texts, such as line feeds, counts as a space.
        references: each example's, at least one.
    """
    texts = [" ".join(answer.split()) for answer in answers]
    known = [[" ".join(reference.split()) for reference in each] for each in references]
    found: dict[str, float] = {}
    if "bleu_lowercase" in names:
        found["bleu_lowercase"] = bleu_lowercase(texts, known)
    if "nist" in names:
        found["nist"] = nist(texts, known)
    wanted = [name for name in names if more_metrics.MORE_METRICS[name].captions]
    if not wanted:
        return found, {}
    lacking = more_metrics.why_not(wanted)
    if lacking:
        return found, dict.fromkeys(wanted, f"not found on this machine: {lacking}")
    try:
        return found | _captions(wanted, texts, known), {}
    except Exception as error:  # Java, its memory, or a folder that cannot be written
        return found, dict.fromkeys(wanted, failures.words(error))


def bleu_lowercase(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return corpus BLEU as mteval-v13a has it by default, without regard to case, as a fraction of 1."""
    import sacrebleu

    most = max(map(len, references))
    lower = [[text.translate(_LOWER) for text in each] for each in references]
    streams = [[each[k] if k < len(each) else each[0] for each in lower] for k in range(most)]
    return float(sacrebleu.corpus_bleu([text.translate(_LOWER) for text in answers], streams).score) / 100


def nist(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the NIST score as mteval-v13a computes it, without regard to case; at least 0, larger is better.

    The mean information of an answer's n-grams that a reference has, summed over n = 1 to 5, times the penalty for
    brevity. An n-gram's information is log2 of how often its first n - 1 words occur in all references, divided by how
    often it occurs itself. ``nltk`` has another score by this name: it takes the best single reference for each n,
    where NIST takes the most occurrences in any reference, and compares with the length of that reference.

    References:
        Doddington 2002, "Automatic evaluation of machine translation quality using n-gram co-occurrence statistics",
        section 3; mteval-v13a.pl, which weighs each reference's length alike and not each example's.
    """
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    split = Tokenizer13a()
    mine = [split(text.translate(_LOWER)).split() for text in answers]
    theirs = [[split(text.translate(_LOWER)).split() for text in each if text] for each in references]
    every = list(chain.from_iterable(theirs))
    seen, words = sum((_ngrams(text) for text in every), Counter()), sum(map(len, every))
    if not words:
        return math.nan

    def information(ngram: tuple[str, ...]) -> float:
        before = ngram[:-1]
        # a word "0" alone is false in Perl, so mteval counts the n-grams behind it as if nothing stood before them
        return math.log2((seen[before] if before and before != ("0",) else words) / seen[ngram])

    matched = [0.0] * (_LONGEST + 1)
    for text, known in zip(mine, theirs, strict=True):
        most: Counter[tuple[str, ...]] = Counter()
        for each in known:
            most |= _ngrams(each)
        for ngram, count in (_ngrams(text) & most).items():
            matched[len(ngram)] += count * information(ngram)
    totals = [sum(max(0, len(text) - n + 1) for text in mine) for n in range(1, _LONGEST + 1)]
    ratio = totals[0] * len(every) / len(answers) / words
    if ratio <= 0:
        return 0.0
    penalty = math.exp(-_BETA * math.log(min(ratio, 1.0)) ** 2)
    return penalty * sum(found / max(total, 1) for found, total in zip(matched[1:], totals, strict=True))


def _ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Return how often each sequence of one to ``_LONGEST`` words occurs."""
    return Counter(
        tuple(words[start : start + n]) for n in range(1, _LONGEST + 1) for start in range(len(words) - n + 1)
    )


def _captions(names: Collection[str], answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return metrics of MS COCO's caption evaluation, as the E2E scorer calls it."""
    with _java_reads_utf_8():
        theirs = _words(references)
        mine = _words([[answer] for answer in answers])
        return {name: _SCORERS[name](theirs, mine) for name in names}


def _words(texts: Sequence[Sequence[str]]) -> Captions:
    """Return texts in lower-case words without punctuation, by Stanford's tokenizer.

    Raises:
        RuntimeError: if its lines are not those of the texts.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    numbered = dict(enumerate([*texts, [_SENTINEL]]))
    given = {place: [{"caption": text} for text in each] for place, each in numbered.items()}
    found: dict[int, list[str]] = PTBTokenizer().tokenize(given)
    last = found.pop(len(texts), None)
    if last != [_SENTINEL] or [len(found.get(place, ())) for place in range(len(texts))] != list(map(len, texts)):
        raise RuntimeError(
            "Stanford's tokenizer did not give a line for each text (java -version tells whether it runs)"
        )
    return found


def _cider(references: Captions, answers: Captions) -> float:
    from pycocoevalcap.cider.cider import Cider

    return float(Cider().compute_score(references, answers)[0])


def _rouge_l(references: Captions, answers: Captions) -> float:
    from pycocoevalcap.rouge.rouge import Rouge

    return float(Rouge().compute_score(references, answers)[0])


def _meteor(references: Captions, answers: Captions) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    return float(Meteor().compute_score(references, answers)[0])


_SCORERS: Mapping[str, Any] = {"cider": _cider, "rouge_l_coco": _rouge_l, "meteor": _meteor}


@contextmanager
def _java_reads_utf_8() -> Iterator[None]:
    """Let Java programs that are started within the context read and write UTF-8, whatever the machine's locale."""
    before = os.environ.get("JAVA_TOOL_OPTIONS")
    os.environ["JAVA_TOOL_OPTIONS"] = f"{before} {_UTF_8}" if before else _UTF_8
    try:
        yield
    finally:
        if before is None:
            del os.environ["JAVA_TOOL_OPTIONS"]
        else:
            os.environ["JAVA_TOOL_OPTIONS"] = before
