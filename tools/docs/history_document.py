"""The generated parts of ``docs/history.md``, from what ``history_simulation`` recorded."""

from __future__ import annotations

import json
from typing import Any

from tools.docs.crossed_document import markdown
from tools.validation.history_simulation import PATH


def recorded() -> dict[str, Any]:
    """Return what the simulation found."""
    found: dict[str, Any] = json.loads(PATH.read_text())
    return found


def false_alarms() -> str:
    """Return the table of false alarms where nothing changed, one row per design."""
    found = recorded()
    head = ("quantity", "cells", "nights", "noise", "in common", "reference step", "least change")
    head = (*head, "false alarm of a cell", "false common shift")
    lines = [
        (
            row["design"]["quantity"],
            row["design"].get("cells", found["cells"]),
            row["design"]["nights"],
            row["design"]["noise"],
            f"{100 * row['design']['machine']:g} %",
            _reference(row["design"]),
            f"{row['design']['least_percent']:g} %",
            *(f"{100 * row['found'][name]:.1f} %" for name in ("false", "false_common")),
        )
        for row in found["rows"]
        if not row["design"]["falling"]
    ]
    return f"{markdown(head, lines)}\n\nShares of {found['draws']:,} grids."


def _reference(design: dict[str, Any]) -> str:
    known = design.get("reference")
    return "–" if known is None else f"{100 * known:g} %"


def planted() -> str:
    """Return the table of planted falls that are found, one row per design."""
    head = (
        "quantity",
        "nights",
        "fall",
        "cells that fall",
        "of cells",
        "reference step",
        "nights since",
        "found in the cell",
        "found as common",
        "other cell or night",
    )
    lines = []
    for row in recorded()["rows"]:
        design, found = row["design"], row["found"]
        if design["falling"]:
            fall = f"{100 * design['fall']:g} " + ("%" if design["quantity"] == "speed" else "points")
            shares = (found["cell_found"], found["common_found"], max(found["false"], found["false_common"]))
            shown = ("–" if share is None else f"{100 * share:.1f} %" for share in shares)
            cells = design["falling"], design.get("cells", recorded()["cells"]), _reference(design)
            lines.append((design["quantity"], design["nights"], fall, *cells, design["ago"], *shown))
    return markdown(head, lines)


def peer() -> str:
    """Return what the command says about the peer's results."""
    return f"```\n{str(recorded()['peer']).rstrip()}\n```"
