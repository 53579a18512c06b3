"""Metrics of single answers and of whole splits, from the standard libraries; between 0 and 1 unless stated."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from peftbench.records import Example


class _Words:
    """Splits text into lower-case words of any script; rouge_score's own tokenizer knows only a to z."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return re.findall(r"\w+", text.lower())


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """Return the best ROUGE-L F1 over the references (Lin 2004, with the package ``rouge_score``)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return max(scorer.score(reference, answer)["rougeL"].fmeasure for reference in references)


def corpus(answers: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
    """Return corpus BLEU and chrF over all references, and the share of answers that contain every slot."""
    import sacrebleu

    most = max(len(e.references) or 1 for e in examples)
    padded = [list(e.references or (e.target,)) for e in examples]
    streams = [[refs[k] if k < len(refs) else refs[0] for refs in padded] for k in range(most)]
    found = {
        "bleu": sacrebleu.corpus_bleu(list(answers), streams).score / 100,
        "chrf": sacrebleu.corpus_chrf(list(answers), streams).score / 100,
    }
    if any(e.slots for e in examples):
        found["slots_right"] = mean(
            [float(all(s in a for s in e.slots)) for a, e in zip(answers, examples, strict=True)]
        )
    return found


def classes(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return macro F1 over the classes that occur, and Matthews' correlation coefficient (-1 to 1), by scikit-learn.

    Neither has an outcome per example, so neither can be a headline metric.
    """
    from sklearn.metrics import f1_score, matthews_corrcoef

    return {
        "f1_macro": float(f1_score(targets, predictions, average="macro", zero_division=0.0)),
        "matthews": float(matthews_corrcoef(targets, predictions)),
    }


def share_choices(examples: Sequence[Example]) -> bool:
    """Return whether all examples have the same choices, which are then classes."""
    return len({frozenset(e.choices) for e in examples}) == 1 and len(examples[0].choices) > 1


def likelihood(logprobs: Sequence[float], texts: Sequence[str], tokens: int) -> dict[str, float]:
    """Return bits per byte and perplexity per token over all texts; lower is better.

    Args:
        logprobs: log-probability of each text in nats.
        texts: the texts, whose bytes are counted in UTF-8.
        tokens: number of tokens in all texts.
    """
    size = sum(len(text.encode()) for text in texts)
    return {
        "bits_per_byte": -sum(logprobs) / size / math.log(2),
        "perplexity": math.exp(-sum(logprobs) / tokens),
    }


def probability_per_byte(logprob: float, text: str) -> float:
    """Return the geometric mean probability of a text's bytes: 2 to the power of minus its bits per byte.

    Args:
        logprob: log-probability of the whole text in nats.
        text: a non-empty text.
    """
    return math.exp(logprob / len(text.encode()))


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)
