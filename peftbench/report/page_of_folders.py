"""The page of several results folders: what all of them say, the cells of all, and below one of them at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from peftbench.records import Status
from peftbench.report import page
from peftbench.report.folders import Part, audit, comparability
from peftbench.report.payload.assemble import payload
from peftbench.report.payload.packing import packed
from peftbench.report.together import together

_NO_ANSWER = "the answer could not be computed; the warnings of this folder say why"


def make(parts: Sequence[Part], folder: str) -> page.Page:
    """Return the page of several results folders.

    Args:
        parts: the folders.
        folder: name of the folder beside the page for what would make it too large.
    """
    made = [payload(part.results) for part in parts]
    later: dict[str, str] = {}
    for place, one in enumerate(made):
        later |= {f"of-{place}-{name}" if place else name: text for name, text in one.parts.items()}
    shared = {
        "parts": [_row(part, json.loads(one.core)) for part, one in zip(parts, made, strict=True)],
        "notes": comparability(parts),
        "audit": audit(parts),
        "together": together(parts),
    }
    each, cores = [part.results for part in parts], [one.core for one in made]
    texts = [*cores, *later.values()]
    if sum(len(text.encode()) for text in texts) + page.own_size() <= page.LARGEST:
        return page.Page(page.render(each, cores, later, "", packed(shared)), {})
    files = {f"{name}.js": f"{page.PART}{json.dumps(name)},{text});\n" for name, text in later.items()}
    return page.Page(page.render(each, cores, {}, folder, packed(shared)), files)


def _row(part: Part, core: dict[str, Any]) -> dict[str, str]:
    """Return what is said about a folder in the table of folders."""
    trials = part.results.trials
    scores = core["scores"]
    words = (scores[0].get("answer") or {}).get("words") if scores else None
    return {
        "name": part.name,
        "suite": core["suite"],
        "base": core["base"],
        "trials": f"{int((trials['status'] == Status.OK.value).sum()):,} of {len(trials):,}",
        "answer": words[0] if words else _NO_ANSWER if part.results.tasks else "no task is scored",
    }
