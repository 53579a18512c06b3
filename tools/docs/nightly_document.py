"""The generated part of ``docs/nightly.md``, from what ``tools.validation.planted_changes`` recorded."""

from __future__ import annotations

import json
from typing import Any

from tools.docs.crossed_document import markdown
from tools.validation.planted_changes import OUTPUT


def planted_changes() -> str:
    """Return the table of planted changes, and how many false alarms there were among unchanged nights."""
    found = json.loads(OUTPUT.read_text())
    head = ("planted change", "found", "by", "from", "to", "change", "other regressions")
    lines = [_line(plant) for plant in found["plants"]]
    pairs = found["pairs"]
    alarms = sum(bool(pair["regressed"]) for pair in pairs)
    told = f"{alarms} of {len(pairs)} pairs of unchanged nights were called regressed."
    return f"{markdown(head, lines)}\n\n{told}"


def _line(plant: dict[str, Any]) -> tuple[str, ...]:
    name, found = plant["plant"], "yes" if plant["found"] else "**no**"
    others = [one for one in plant["regressed"] if one not in plant["by"]]
    counted = str(len(others)) if others else "none"
    if plant["kind"] == "moved" or not plant["by"]:
        return (name, found, "; ".join(map(str, plant["by"])) or "–", "–", "–", "–", counted)
    one = max(plant["by"], key=lambda finding: abs(finding["change"] or 0))
    what = f"{one['quantity']} of {one['cell']}, {one['rule']}"
    change = f"{100 * one['change']:+.1f} {'points' if one['kind'] == 'score' else '%'}"
    return (name, found, what, f"{one['old']:,.4g}", f"{one['new']:,.4g}", change, counted)
