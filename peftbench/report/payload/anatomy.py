"""The anatomy of the base models for the page: facts with their meaning, and parameters by part."""

from __future__ import annotations

from typing import Any

from peftbench.report.derived.anatomy import BaseAnatomy
from peftbench.report.notes import anatomy as words


def shown(found: list[BaseAnatomy]) -> list[dict[str, Any]]:
    """Return each base model's facts as [title, text, meaning] and parts as [name, number, text]; or a sentence."""
    return [_one(each) for each in found]


def _one(each: BaseAnatomy) -> dict[str, Any]:
    if each.found is None:
        return {"base": each.base, "reason": f"How {each.base} is built is not shown: {each.reason}."}
    facts = [
        (title, text if title != "parameters" else text.partition(";")[0]) for title, text in words.facts(each.found)
    ]
    at = next(place for place, (title, _) in enumerate(facts) if title == "tokenizer") + 1
    facts.insert(at, ("tokens per word", words.tokens_per_word(each.overall, each.by_task)))
    return {
        "base": each.base,
        "facts": [(title, text, words.MEANINGS[title]) for title, text in facts],
        "parts": words.parts(each.found),
    }
