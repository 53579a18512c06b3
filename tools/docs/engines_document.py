"""The generated parts of ``docs/engines.md``: the forms, and the record of ``tools.validation.engines``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from peftbench.methods import engines
from peftbench.records.wording import plural, series
from tools.validation.engines import RESULT

_WHOLE = ("vllm_adapter", "vllm_merged")
"""Forms that compute what the trained model does, but for rounding."""


@cache
def record() -> dict[str, Any]:
    """Return the committed record."""
    found: dict[str, Any] = json.loads(RESULT.read_text())
    return found


def forms() -> str:
    """Return the forms that another engine scores and their meanings as a list."""
    return "\n".join(f"- `{name}`: {meaning}." for found in engines.FORMS.values() for name, meaning in found.items())


def scored() -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Yield cell, name and numbers of every form that the engine scored."""
    for cell in record()["cells"]:
        for name, form in cell["forms"].items():
            if form["status"] == "ok":
                yield cell, name, form


def run() -> str:
    """Return which versions were compared."""
    theirs, ours = record()["engine"], record()["here"]
    names = ("torch", "transformers", "lm_eval")
    return (
        f"{theirs['engine']} {theirs[theirs['engine']]} ({', '.join(f'{n} {theirs[n]}' for n in names)}) beside "
        f"{', '.join(f'{name} {version}' for name, version in ours.items())}."
    )


def findings() -> str:
    """Return how far the engines are apart in fp32, and in fewer bits."""
    lines = []
    for exact, words in ((True, "In fp32"), (False, "In bf16, and merged of a 4-bit base")):
        mine = [(name, form) for cell, name, form in scored() if (cell["precision"] == "fp32") == exact]
        nats = max(form["transformers"]["largest_target_difference"] for _, form in mine)
        other = sum(form["transformers"]["other_outcomes"] for _, form in mine)
        examples = sum(form["examples"] for _, form in mine)
        lines.append(
            f"- {words}, {plural(len(mine), 'form')}: the loss on a target differs by at most {nats:.1e} nats from "
            f"that of the same form by transformers, and {other or 'none'} of {examples:,} outcomes differ."
        )
    whole = [form["beside"] for cell, name, form in scored() if cell["precision"] == "fp32" and name in _WHOLE]
    texts, equal = (sum(each[what] for each in whole) for what in ("texts", "equal_texts"))
    nats = max(each["largest_logprob_difference"] for each in whole)
    lines.append(
        f"- As adapter or merged in fp32 ({plural(len(whole), 'form')}): log-probabilities of choices and targets "
        f"differ by at most {nats:.1e} nats from the trained model's, and {equal:,} of {texts:,} decoded texts "
        "are the same."
    )
    return "\n".join(lines)


def table() -> str:
    """Return a row per cell and form that the engine scored."""
    lines = [
        "| cell | form | score of the trained model, % | of the form by transformers, % | by vllm, % "
        "| log-probabilities differ from the trained model's by, nats | losses of targets from transformers' by, nats "
        "| equal texts |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for cell, name, form in scored():
        beside, plain = form["beside"], form["transformers"]
        lines.append(
            f"| {cell['cell']} | `{name}` | {100 * form['score_of_trained']:.2f} | {100 * plain['score']:.2f} "
            f"| {100 * form['score']:.2f} | {beside['largest_logprob_difference']:.1e} "
            f"| {plain['largest_target_difference']:.1e} | {beside['equal_texts']} of {beside['texts']} |"
        )
    return "\n".join(lines)


def refused() -> str:
    """Return the cells that do not have one of the main forms, each with the reason."""
    reasons: dict[str, list[str]] = {}
    for cell in record()["cells"]:
        for name, form in cell["forms"].items():
            if form["status"] != "ok" and name in _WHOLE:
                reasons.setdefault(form["message"], []).append(f"{cell['cell']} as `{name}`")
    return "\n".join(f"- {series(cells)}: {reason}." for reason, cells in reasons.items())
