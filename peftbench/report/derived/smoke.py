"""Whether results are of smoke mode, whose numbers mean nothing."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from peftbench.report.collect import Results, read_json
from peftbench.suite.smoke import BASE, STEPS

MEANING = f"{STEPS} steps per cell on {BASE}, not on the suite's base model and data, so no number means anything"
"""What a smoke run is."""


def is_smoke(results: Results) -> bool:
    """Return whether any trial that is shown ran in smoke mode (``run --smoke``), as its recorded command says."""
    if "smoke" not in results.memo:
        results.memo["smoke"] = any("--smoke" in words for words in _commands(results))
    found: bool = results.memo["smoke"]
    return found


def _commands(results: Results) -> Iterator[list[str]]:
    recorded = [results.grid.command] if results.grid else []
    texts = results.trials["environment_json"].dropna().unique() if "environment_json" in results.trials else ()
    for command in (*recorded, *(read_json(text).get("command") or "" for text in texts)):
        try:
            yield list(map(str, command)) if isinstance(command, list) else shlex.split(str(command))
        except ValueError:
            yield str(command).split()


def notes(results: Results) -> Iterator[str]:
    """Yield that the results are of a smoke run if they are."""
    if is_smoke(results):
        yield f"This is a smoke run: {MEANING}."
