"""The generated part of ``docs/nightly.md``, from what ``tools.validation.planted_changes`` recorded."""

from __future__ import annotations

import json
import re
from typing import Any

from tools.docs.crossed_document import markdown
from tools.validation import clock_noise
from tools.validation.planted_changes import OUTPUT


def planted_changes() -> str:
    """Return the table of planted changes, and how many false alarms there were among unchanged nights."""
    found = json.loads(OUTPUT.read_text())
    head = ("planted change", "found", "by", "from", "to", "change", "other regressions", "by `history`")
    lines = [_line(plant) for plant in found["plants"]]
    pairs = found["pairs"]
    alarms = sum(bool(pair["regressed"]) for pair in pairs)
    told = f"{alarms} of {len(pairs)} pairs of unchanged nights were called regressed, "
    told += f"and `history` over all of them found {len(found['history']) or 'no'} change for the worse."
    return f"{markdown(head, lines)}\n\n{told}"


def clock_table() -> str:
    """Return what each clock leaves of the common change, and how often a slowdown of all cells is found."""
    found = json.loads(clock_noise.OUTPUT.read_text())
    names = {"none": "no clock", "matrix product": "matrix product", "reference step": "reference step"}
    rows = [
        (names[clock], *(f"{100 * each[part]:.1f} %" for part in ("total", "error", "night")))
        for clock, each in sorted(found["remaining"].items(), key=lambda item: list(names).index(item[0]))
    ]
    table = markdown(("beside", "left of the common change", "error of its median over trials", "between nights"), rows)
    count, most = found["pairs"], found["remaining"]["reference step"]["pairs"]
    shares = [f"{factor}: {100 * hits / most:.0f} %" for factor, hits in found["found_in_all_cells"].items()]
    nights, changed, together = found["nights"], found["changed"]["1.0"], found["found_in_all_cells"]["1.0"]
    return (
        f"{table}\n\nRoot mean squares over the {most} ordered pairs of {nights} unchanged nights that have speeds. "
        f"Of all {count} pairs, something is called changed in {changed} beside the reference step, and all cells "
        f"together in {together}; beside the matrix product, something in {found['changed_beside_product']}. With all "
        "speeds of the newer night divided by a factor, the slowdown of all cells is found in these shares of the "
        f"{most} pairs: {', '.join(shares[1:])}."
    )


def _line(plant: dict[str, Any]) -> tuple[str, ...]:
    name, found = plant["plant"], "yes" if plant["found"] else "**no**"
    others = [one for one in plant["regressed"] if one not in plant["by"]]
    counted = str(len(others)) if others else "none"
    rules = dict.fromkeys(f"{one['quantity']}, {one['rule']}" for one in plant["history"])
    told = "–" if plant["kind"] == "moved" else "; ".join(rules) or "**no**"
    if plant["kind"] == "moved" or not plant["by"]:
        return (name, found, "; ".join(_brief(str(each)) for each in plant["by"]) or "–", "–", "–", "–", counted, told)
    one = max(plant["by"], key=lambda finding: abs(finding["change"] or 0))
    what = f"{one['quantity']} of {one['cell']}, {one['rule']}"
    change = f"{100 * one['change']:+.1f} {'points' if one['kind'] == 'score' else '%'}"
    return (name, found, what, _number(one["old"]), _number(one["new"]), change, counted, told)


def _brief(text: str) -> str:
    """Return a text with hashes, also one that is cut, by their first 8 characters."""
    return re.sub(r'"?\b([0-9a-f]{8})[0-9a-f]{12,}\b"?', r"\1", text)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"
