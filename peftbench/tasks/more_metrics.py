"""Metrics of whole splits that a generation task may ask for, as the official E2E scorer has them. No torch.

The scorer of the E2E NLG challenge (tuetschek/e2e-metrics; Dusek et al. 2020, arXiv:1901.07931, section 4.1) computes
BLEU and NIST with NIST's mteval-v13a, and METEOR, ROUGE-L and CIDEr with the caption evaluation of MS COCO.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType


@dataclass(frozen=True)
class MoreMetric:
    """A metric of all answers of a split together. None has an outcome per example, so none can be the headline."""

    name: str
    doc: str
    scale: str
    captions: bool = False
    """Whether it needs the texts split into words by Stanford's tokenizer, which runs in Java."""


MORE_METRICS: Mapping[str, MoreMetric] = MappingProxyType(
    {
        m.name: m
        for m in (
            MoreMetric("bleu_lowercase", "BLEU of mteval-v13a: as `bleu`, without regard to case", "0 to 1"),
            MoreMetric("nist", "NIST of mteval-v13a, over 1- to 5-grams, without regard to case", "from 0"),
            MoreMetric(
                "rouge_l_coco", "ROUGE-L of MS COCO: best precision and best recall, recall weighs more", "0 to 1", True
            ),
            MoreMetric("cider", "CIDEr of MS COCO", "0 to 10", True),
            MoreMetric("meteor", "METEOR 1.5 with its paraphrases", "0 to 1", True),
        )
    }
)
PACKAGE = "pycocoevalcap"
"""Package with the caption evaluation of MS COCO, and the Java programs that it runs."""


def why_not(names: Collection[str]) -> str | None:
    """Return why those of the metrics that need Java cannot be computed on this machine; None if they can."""
    if not any(MORE_METRICS[name].captions for name in names):
        return None
    found = [
        "the package pycocoevalcap (pip install 'peftbench[e2e]')" if find_spec(PACKAGE) is None else "",
        "Java (the command java)" if shutil.which("java") is None else "",
    ]
    return " and ".join(filter(None, found)) or None
